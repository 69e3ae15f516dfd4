"""A server that speaks the OpenAI protocol, as an adapter needs it: streams of tokens, prompts of token ids, cancelling."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import httpx
import msgspec

from stopping.adapters.server.connections import Connections
from stopping.adapters.server.protocol import Chunk, Token, tokens_of

JSON = {"content-type": "application/json"}
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
        reason: `stop`, `length`, ... as the server says.
        num_tokens: generated, by the server's own count; None where it does not say.
        num_prompt_tokens, num_cached_tokens: of the prompt, and of these read before; None where it does not say.
        id: of the completion.
    """

    reason: str
    num_tokens: int | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    id: str = ""


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
                async for line in lines_of(response.aiter_bytes()):
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    yield _chunk(path, data)
        except httpx.HTTPError as error:
            raise UpstreamError(f"{path}: the stream broke off: {type(error).__name__}: {error}") from error


async def lines_of(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream, without their ends, as soon as each is there."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


_DECODE, _NULL = msgspec.json.Decoder(Chunk).decode, msgspec.Raw(b"null")


def _chunk(path: str, data: bytes) -> Chunk:
    try:
        chunk = _DECODE(data)
    except ValueError as error:
        shown = data[:200].decode(errors="replace")
        raise UpstreamError(f"{path}: expected a chunk of the protocol: {error}; got {shown!r}") from None
    if chunk.error != _NULL:
        raise UpstreamError(f"{path}: {bytes(chunk.error).decode()}", body=data.decode())
    return chunk


def _refused(path: str, status: int, body: str) -> UpstreamError:
    return UpstreamError(f"{path}: status {status}: {body[:500]}", status, body)


async def _pieces(chunks: AsyncGenerator[Chunk, None], path: str) -> AsyncGenerator[Token | End, None]:
    """Tokens of a stream with one choice, then its end."""
    reason, number, usage = "", "", None
    async with aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk.choices or ():
                try:
                    tokens = tokens_of(choice)
                except ValueError as error:
                    raise UpstreamError(f"{path}: {error}") from None
                for token in tokens:
                    yield token
                reason = choice.finish_reason or reason
            usage, number = chunk.usage or usage, chunk.id or number
    if not reason:
        raise UpstreamError(f"{path}: the stream ended without saying why")
    if usage is None:
        yield End(reason, id=number)
        return
    details = usage.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    yield End(reason, usage.completion_tokens, usage.prompt_tokens, cached, number)
