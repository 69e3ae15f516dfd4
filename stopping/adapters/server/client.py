"""A server that speaks the OpenAI protocol, as an adapter needs it: streams of tokens, prompts of token ids, cancelling."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import httpx
import msgspec

from stopping.adapters.server.connections import Connections
from stopping.adapters.server.protocol import Chunk, Token, chunk_of, document_of, tokens_of, usage_of

JSON = {"content-type": "application/json"}
COMMON_EVENTS = (b"", b"message", b"error")  # whose data is a chunk, or what went wrong
REFUSALS = (400, 422)  # statuses by which a request is refused for what it asks, as for too many tokens
REFUSAL_TYPES = ("invalid_request_error", "BadRequestError", "exceed_context_size_error")
KEEP_SECONDS = 0.5  # an unused connection: the pieces of a thought follow on each other at once


class UpstreamError(RuntimeError):
    """The server refused, broke off, or sent what cannot be read.

    Attributes:
        status: the HTTP status, None where there was none.
        body: what the server said.
    """

    def __init__(self, message: str, status: int | None = None, body: str = "") -> None:
        super().__init__(message)
        self.status, self.body = status, body

    @property
    def timed_out(self) -> bool:
        """Whether it said nothing for too long."""
        return isinstance(self.__cause__, httpx.TimeoutException)


class End(NamedTuple):
    """The end of a stream.

    Attributes:
        reason: `stop`, `length`, ... as the server says; `traces.endings` tells what that means.
        num_tokens: generated, by the server's own count, which may be wrong; None where it does not say.
        num_prompt_tokens, num_cached_tokens: of the prompt, and of these read before; None where it does not say.
        id: of the completion.
    """

    reason: str
    num_tokens: int | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    id: str = ""

    def counted(self, came: int, most: int | None = None) -> int:
        """Return how many tokens were generated.

        The server's count is believed where it can be right: not below what came over the wire (it may be above, as some tokens
        have no text), nor above what was asked for.

        Args:
            came: tokens that came.
            most: that were asked for; None where that is not known.
        """
        said = self.num_tokens
        return came if said is None or said < came or (most is not None and said > most) else said


class Completion(NamedTuple):
    """A whole stream."""

    tokens: list[Token]
    end: End

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(token.text for token in self.tokens)

    @property
    def ids(self) -> list[int]:
        """The ids of its tokens.

        Raises:
            UpstreamError: if the server did not send them.
        """
        ids = [token.id for token in self.tokens if token.id is not None]
        if len(ids) != len(self.tokens):
            raise UpstreamError(f"token ids: expected one for each of {len(self.tokens)} tokens, got {len(ids)}")
        return ids


@dataclass
class Upstream:
    """A client of one server.

    Attributes:
        base_url: with or without `/v1`.
        model: as the server names it; the first it lists where empty.
        api_key: sent as a bearer token where not empty.
        headers: sent with every request besides.
        timeout_seconds: for connecting and between two pieces of a stream.
    """

    base_url: str
    model: str = ""
    api_key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Open no connection yet."""
        self.base_url = self.base_url.rstrip("/").removesuffix("/v1")
        self._context: tuple[int | None] | None = None
        headers = {**self.headers, **({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})}
        self.client = httpx.AsyncClient(
            base_url=self.base_url, headers=headers, transport=Connections(KEEP_SECONDS), timeout=self.timeout_seconds
        )

    async def __aenter__(self) -> Self:
        """Find the model's name if none was given.

        Raises:
            UpstreamError: if the server does not answer.
        """
        if not self.model:
            listed = await self.get("/v1/models")
            try:
                self.model = listed["data"][0]["id"]
            except (KeyError, IndexError, TypeError):
                raise UpstreamError(f"/v1/models: expected a list of models, got {str(listed)[:200]}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.client.aclose()

    async def context_tokens(self) -> int | None:
        """Return how many tokens the server says that prompt and answer may have together; None where it does not."""
        if self._context is None:
            self._context = (await self._said_context(),)
        return self._context[0]

    async def _said_context(self) -> int | None:
        tried: tuple[tuple[str, Mapping[str, Any] | None], ...] = (
            ("/v1/models", None),  # vLLM
            ("/props", None),  # llama.cpp
            ("/tokenize", {"model": self.model, "prompt": "a"}),  # older ones of vLLM
        )
        for path, body in tried:
            try:
                found = await (self.get(path) if body is None else self.post(path, body))
            except UpstreamError:
                continue
            parts = (
                [found, *(found.get(name) for name in ("default_generation_settings",))] if _is_object(found) else []
            )
            listed = found.get("data") if _is_object(found) else None
            models = [each for each in listed if _is_object(each)] if isinstance(listed, list) else []
            parts += [each for each in models if each.get("id") == self.model] or models[:1]
            for part in filter(_is_object, parts):
                for name in ("max_model_len", "n_ctx", "context_length", "max_context_length"):
                    if isinstance(said := part.get(name), int) and said > 0:
                        return said
        return None

    async def get(self, path: str) -> Any:
        """Return a document of the server.

        Raises:
            UpstreamError: if there is none.
        """
        return await self._document("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a document and return the answer.

        Raises:
            UpstreamError: if the server refuses, or does not answer with JSON.
        """
        return await self._document("POST", path, body)

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Send a request, once more if the connection was closed before an answer began: it had been kept too long.

        Raises:
            httpx.HTTPError: of the second try, or of whatever else goes wrong.
        """
        try:
            return await self.client.send(request, stream=stream)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return await self.client.send(request, stream=stream)

    async def _document(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            response = await self.send(self.client.build_request(method, path, json=body))
        except httpx.HTTPError as error:
            raise UpstreamError(f"{self.base_url}{path}: {type(error).__name__}: {error}") from error
        if response.status_code >= 400:
            raise _refused(path, response.status_code, response.text)
        try:
            return response.json()
        except ValueError as error:
            raise UpstreamError(f"{path}: expected JSON, got {response.text[:200]!r}") from error

    async def complete(self, prompt: Sequence[int] | str, max_tokens: int, **settings: Any) -> Completion:
        """Return a whole completion; arguments as of `stream`."""
        tokens: list[Token] = []
        async with aclosing(self.stream(prompt, max_tokens, **settings)) as pieces:
            async for piece in pieces:
                if isinstance(piece, End):
                    return Completion(tokens, piece)
                tokens.append(piece)
        raise UpstreamError("/v1/completions: the stream ended without saying why")

    def stream(
        self, prompt: Sequence[int] | str, max_tokens: int, *, num_top: int | None = None, **settings: Any
    ) -> AsyncGenerator[Token | End, None]:
        """Continue a prompt; yields tokens, then the end. Leaving the iterator (`aclosing`) cancels the request.

        Args:
            prompt: token ids, or a text.
            max_tokens: the most to generate.
            num_top: log-probabilities wanted: None for none, 0 for the drawn token's, k for those of the k likeliest too.
            settings: of the sampling, sent as they are: `temperature`, `seed`, ...

        Raises:
            UpstreamError: if the server refuses, breaks off before its end, or sends what cannot be read.
        """
        body: dict[str, Any] = {"model": self.model, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        body |= {"max_tokens": max_tokens, "return_token_ids": True, **settings}
        if num_top is not None:
            body["logprobs"] = max(num_top, 1)
        return _pieces(self.events("/v1/completions", body), "/v1/completions")

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, num_top: int | None = None, **settings: Any
    ) -> AsyncGenerator[Token | End, None]:
        """Answer a conversation; as `stream`."""
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), **settings}
        if num_top is not None:
            body |= {"logprobs": True, "top_logprobs": max(num_top, 1)}
        return _pieces(self.events("/v1/chat/completions", body), "/v1/chat/completions")

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Send a request for a stream; yields its chunks as they come, until `[DONE]`.

        Raises:
            UpstreamError: if the server refuses, breaks off, or sends what is no chunk.
        """
        sent = msgspec.json.encode({**body, "stream": True, "stream_options": {"include_usage": True}})
        try:
            request = self.client.build_request("POST", path, content=sent, headers=JSON)
            response = await self.send(request, stream=True)
            async with aclosing(response):
                if response.status_code >= 400:
                    raise _refused(path, response.status_code, (await response.aread()).decode(errors="replace"))
                event = b""
                async for line in lines_of(response.aiter_bytes()):
                    name, _, data = line.partition(b":")
                    data = data.strip()
                    if not line.strip():
                        event = b""
                    elif name == b"event":
                        event = data
                    if name != b"data" or not data:  # comments, ids, and what only keeps the connection open
                        continue
                    if data == b"[DONE]":
                        return
                    try:
                        chunk = _chunk(path, data)
                    except UpstreamError as error:
                        if error.body or event in COMMON_EVENTS:
                            raise
                        continue  # an event that is not of the protocol
                    yield chunk
        except httpx.HTTPError as error:
            raise UpstreamError(f"{path}: the stream broke off: {type(error).__name__}: {error}") from error


def _is_object(found: Any) -> bool:
    return isinstance(found, dict)


async def lines_of(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream, without their ends, as soon as each is there."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


_NO_ERROR = (b"null", b"{}", b'""', b"false")


def _chunk(path: str, data: bytes) -> Chunk:
    try:
        chunk = chunk_of(data)
    except ValueError as error:
        shown = data[:200].decode(errors="replace")
        raise UpstreamError(f"{path}: expected a chunk of the protocol: {error}; got {shown!r}") from None
    if (said := bytes(chunk.error)) not in _NO_ERROR:
        failure = document_of(said)
        failure = failure if isinstance(failure, dict) else {}
        # one that came too late for the status of the answer
        is_refusal = failure.get("code") in REFUSALS or failure.get("type") in REFUSAL_TYPES
        status = REFUSALS[0] if is_refusal else None
        raise UpstreamError(f"{path}: {said.decode(errors='replace')}", status, data.decode(errors="replace"))
    return chunk


def _refused(path: str, status: int, body: str) -> UpstreamError:
    return UpstreamError(f"{path}: status {status}: {body[:500]}", status, body)


async def _pieces(chunks: AsyncGenerator[Chunk, None], path: str) -> AsyncGenerator[Token | End, None]:
    """Tokens of a stream with one choice, then its end."""
    reason, number, usage = "", "", usage_of(None)
    async with aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk.choices or ():
                if choice is None:
                    continue
                try:
                    tokens = tokens_of(choice)
                except ValueError as error:
                    raise UpstreamError(f"{path}: {error}") from None
                for token in tokens:
                    yield token
                reason = choice.finish_reason or reason
            usage = usage_of(chunk.usage) if chunk.usage else usage
            number = str(chunk.id or number)
    if not reason:
        raise UpstreamError(f"{path}: the stream ended without saying why")
    yield End(reason, *usage, number)
