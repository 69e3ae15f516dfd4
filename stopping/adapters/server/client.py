"""A client of a server that speaks the OpenAI protocol: streams of tokens, prompts of token ids, and cancelling."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import httpx
import msgspec

from stopping.adapters.server.connections import Connections
from stopping.adapters.server.protocol import Chunk, Token, chunk_of, content_of, document_of, usage_of

JSON = {"content-type": "application/json"}
COMMON_EVENTS = (b"", b"message", b"error")  # events whose data is a chunk or an error
REFUSALS = (400, 422)  # statuses that refuse the content of a request, such as too many tokens
REFUSAL_TYPES = ("invalid_request_error", "BadRequestError", "exceed_context_size_error")
KEEP_SECONDS = 0.5  # how long an unused connection is kept: the pieces of a thought follow each other at once


class UpstreamError(RuntimeError):
    """The server refused, broke off, or sent something that cannot be parsed.

    Attributes:
        status: the HTTP status; None if there was none.
        body: the server's message.
    """

    def __init__(self, message: str, status: int | None = None, body: str = "") -> None:
        super().__init__(message)
        self.status, self.body = status, body

    @property
    def timed_out(self) -> bool:
        """Whether the server was silent for too long."""
        return isinstance(self.__cause__, httpx.TimeoutException)


class End(NamedTuple):
    """The end of a stream.

    Attributes:
        reason: the finish reason, as the server says: `stop`, `length`, ...; `traces.endings` interprets it.
        num_tokens: tokens generated, by the server's own count, which may be wrong; None without a count.
        num_prompt_tokens, num_cached_tokens: tokens of the prompt, and how many of them were cached; None without a count.
        id: the completion's id.
    """

    reason: str
    num_tokens: int | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    id: str = ""

    def counted(self, came: int, most: int | None = None) -> int:
        """Return how many tokens were generated.

        The server's count is used if it is possible: at least the number that arrived (it may be higher, as some tokens have no
        text), and at most the number requested.

        Args:
            came: the number of tokens that arrived.
            most: the number requested; None if unknown.
        """
        said = self.num_tokens
        return came if said is None or said < came or (most is not None and said > most) else said


class Completion(NamedTuple):
    """A whole stream."""

    tokens: list[Token]
    end: End

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(token.text for token in self.tokens)

    @property
    def ids(self) -> list[int]:
        """The token ids.

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
        base_url: the server's address, with or without `/v1`.
        model: the model's name on the server; if empty, the first that it lists.
        api_key: sent as a bearer token if not empty.
        headers: additional headers of every request.
        timeout_seconds: for connecting, and between two parts of a stream.
    """

    base_url: str
    model: str = ""
    api_key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Prepare the client; no connection is opened yet."""
        self.base_url = self.base_url.rstrip("/").removesuffix("/v1")
        self._context: tuple[int | None] | None = None
        headers = {**self.headers, **({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})}
        self.client = httpx.AsyncClient(
            base_url=self.base_url, headers=headers, transport=Connections(KEEP_SECONDS), timeout=self.timeout_seconds
        )

    async def __aenter__(self) -> Self:
        """Find the model's name if it was not given.

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
        """Return the maximum length of a prompt and its answer together; None if the server does not say."""
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
            UpstreamError: if the server does not answer with JSON.
        """
        return await self._document("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a document and return the answer.

        Raises:
            UpstreamError: if the server refuses, or does not answer with JSON.
        """
        return await self._document("POST", path, body)

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Send a request, and repeat it if the connection, kept for too long, closes before an answer begins.

        Raises:
            httpx.HTTPError: if the second try fails, or the first fails in another way.
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
        """Return a whole completion; the arguments are those of `stream`."""
        tokens: list[Token] = []
        async with aclosing(self.stream(prompt, max_tokens, **settings)) as pieces:
            async for piece in pieces:
                if isinstance(piece, End):
                    return Completion(tokens, piece)
                tokens.append(piece)
        raise UpstreamError("/v1/completions: the stream ended without a finish reason")

    def stream(
        self, prompt: Sequence[int] | str, max_tokens: int, *, num_top: int | None = None, **settings: Any
    ) -> AsyncGenerator[Token | End, None]:
        """Continue a prompt; yields tokens, then an `End`. Closing the generator (`aclosing`) cancels the request.

        Args:
            prompt: token ids, or a text.
            max_tokens: the maximum number of tokens to generate.
            num_top: log-probabilities to request: None for none, 0 for the sampled token's, k for the top k as well.
            settings: sampling parameters, sent unchanged: `temperature`, `seed`, ...

        Raises:
            UpstreamError: if the server refuses, breaks off, or sends something that cannot be parsed.
        """
        body: dict[str, Any] = {"model": self.model, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        body |= {"max_tokens": max_tokens, "return_token_ids": True, **settings}
        if num_top is not None:
            body["logprobs"] = max(num_top, 1)
        return _pieces(self.events("/v1/completions", body), "/v1/completions")

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, num_top: int | None = None, **settings: Any
    ) -> AsyncGenerator[Token | End, None]:
        """Answer a conversation; otherwise as `stream`."""
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), **settings}
        if num_top is not None:
            body |= {"logprobs": True, "top_logprobs": max(num_top, 1)}
        return _pieces(self.events("/v1/chat/completions", body), "/v1/chat/completions")

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Request a stream; yields its chunks as they arrive, until `[DONE]`.

        Raises:
            UpstreamError: if the server refuses, breaks off, or sends something that is not a chunk.
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
                    if name != b"data" or not data:  # comments, ids and keep-alives
                        continue
                    if data == b"[DONE]":
                        return
                    try:
                        chunk = _chunk(path, data)
                    except UpstreamError as error:
                        if error.body or event in COMMON_EVENTS:
                            raise
                        continue  # an event outside the protocol
                    yield chunk
        except httpx.HTTPError as error:
            raise UpstreamError(f"{path}: the stream broke off: {type(error).__name__}: {error}") from error


def _is_object(found: Any) -> bool:
    return isinstance(found, dict)


async def lines_of(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream, without line ends, as soon as each is complete."""
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
        # a refusal that came too late for the answer's status
        is_refusal = failure.get("code") in REFUSALS or failure.get("type") in REFUSAL_TYPES
        status = REFUSALS[0] if is_refusal else None
        raise UpstreamError(f"{path}: {said.decode(errors='replace')}", status, data.decode(errors="replace"))
    return chunk


def _refused(path: str, status: int, body: str) -> UpstreamError:
    return UpstreamError(f"{path}: status {status}: {body[:500]}", status, body)


async def _pieces(chunks: AsyncGenerator[Chunk, None], path: str) -> AsyncGenerator[Token | End, None]:
    """Yield the tokens of a stream with one choice, then its `End`."""
    reason, number, usage = "", "", usage_of(None)
    async with aclosing(chunks):
        async for chunk in chunks:
            try:
                content = content_of(chunk.choices)
            except ValueError as error:
                raise UpstreamError(f"{path}: {error}") from None
            for token in content.tokens:
                yield token
            reason = content.reason or reason
            usage = usage_of(chunk.usage) if chunk.usage else usage
            number = str(chunk.id or number)
    if not reason:
        raise UpstreamError(f"{path}: the stream ended without a finish reason")
    yield End(reason, *usage, number)
