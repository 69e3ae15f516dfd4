"""A server that speaks the OpenAI protocol, as an adapter needs it: streams of tokens, prompts of token ids, cancelling.

What servers add to that protocol is read where it is there: token ids beside the log-probabilities (llama.cpp: `id`; vLLM:
`return_token_ids`), either field for reasoning (`reasoning_content`, `reasoning`), and log-probabilities of completions in the
form of chat or in the older one of parallel lists.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import httpx

IDLE_SECONDS = 2.0  # llama.cpp and uvicorn close a connection after 5 idle ones: a request sent just then would be lost


class UpstreamError(RuntimeError):
    """The server refused, broke off, or sent what cannot be read.

    Attributes:
        status: the HTTP status, None where there was none.
        body: what the server said.
    """

    def __init__(self, message: str, status: int | None = None, body: str = "") -> None:
        super().__init__(message)
        self.status, self.body = status, body


class Token(NamedTuple):
    """A generated token, or a piece of text where the server does not tell tokens.

    Attributes:
        text: what it adds.
        id: in the server's vocabulary, None where the server does not say.
        log_prob: at temperature 1, None where it was not asked for or did not come.
        top: (id, text, log-probability) of the likeliest tokens in its place, as many as were asked for.
        reasoning: whether it came as reasoning (chat alone tells).
    """

    text: str
    id: int | None = None
    log_prob: float | None = None
    top: tuple[tuple[int | None, str, float], ...] = ()
    reasoning: bool = False


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
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=IDLE_SECONDS)
        self.client = httpx.AsyncClient(
            base_url=self.base_url, headers=headers, limits=limits, timeout=httpx.Timeout(self.timeout_seconds)
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

    async def _document(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            response = await self.client.request(method, path, json=body)
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

    async def stream(
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
        async with aclosing(self.events("/v1/completions", body)) as events:
            async for piece in _pieces(events, "/v1/completions"):
                yield piece

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, num_top: int | None = None, **settings: Any
    ) -> AsyncGenerator[Token | End, None]:
        """Answer a conversation; as `stream`."""
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), **settings}
        if num_top is not None:
            body |= {"logprobs": True, "top_logprobs": max(num_top, 1)}
        async with aclosing(self.events("/v1/chat/completions", body)) as events:
            async for piece in _pieces(events, "/v1/chat/completions"):
                yield piece

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Send a request for a stream; yields its chunks as they come, until `[DONE]`.

        Raises:
            UpstreamError: if the server refuses, breaks off, or sends what is no JSON.
        """
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self.client.stream("POST", path, json=sent) as response:
                if response.status_code >= 400:
                    raise _refused(path, response.status_code, (await response.aread()).decode(errors="replace"))
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line[5:].strip()
                    if data == "[DONE]":
                        return
                    yield _chunk(path, data)
        except httpx.HTTPError as error:
            raise UpstreamError(f"{path}: the stream broke off: {type(error).__name__}: {error}") from error


def _chunk(path: str, data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        raise UpstreamError(f"{path}: expected JSON in the stream, got {data[:200]!r}") from None
    if not isinstance(chunk, dict):
        raise UpstreamError(f"{path}: expected an object in the stream, got {data[:200]!r}")
    if "error" in chunk:
        raise UpstreamError(f"{path}: {chunk['error']}", body=data)
    return chunk


def _refused(path: str, status: int, body: str) -> UpstreamError:
    return UpstreamError(f"{path}: status {status}: {body[:500]}", status, body)


async def _pieces(events: AsyncGenerator[dict[str, Any], None], path: str) -> AsyncGenerator[Token | End, None]:
    """Tokens of a stream with one choice, then its end."""
    usage: dict[str, Any] = {}
    reason = name = ""
    async for chunk in events:
        name, usage = chunk.get("id", name), chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            reason = choice.get("finish_reason") or reason
            for token in tokens_of(choice):
                yield token
    if not reason:
        raise UpstreamError(f"{path}: the stream ended without saying why")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    yield End(reason, usage.get("completion_tokens"), usage.get("prompt_tokens"), cached, name)


def tokens_of(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a choice, in a chunk or whole; one piece of text where it has no log-probabilities or ids.

    Reasoning and content in one choice are told apart by order: reasoning comes first.
    """
    message = choice.get("message")
    delta = message or choice.get("delta") or {}
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
    text = choice.get("text") or delta.get("content") or ""
    log_probs, ids = choice.get("logprobs") or {}, choice.get("token_ids")
    if entries := log_probs.get("content"):
        if message:  # tags, which the texts lack, are among its tokens
            return _in_chat_form(entries, ids, len(reasoning))
        return _with_text(_in_chat_form(entries, ids, len(reasoning)), reasoning, text)
    if log_probs.get("tokens"):
        return _with_text(_in_lists(log_probs, ids), reasoning, text)
    if ids and len(ids) > 1:  # several tokens, one text: only their number and ids are known
        pieces = [Token("", number, reasoning=bool(reasoning)) for number in ids[:-1]]
        return [*pieces, Token(reasoning or text, ids[-1], reasoning=bool(reasoning))]
    found = [Token(reasoning, reasoning=True)] if reasoning else []
    found += [Token(text)] if text else []
    if ids and found:
        found[0] = found[0]._replace(id=ids[0])
    return found


def _with_text(tokens: list[Token], reasoning: str, text: str) -> list[Token]:
    """The same tokens with the chunk's own text: a token's may hold a part of a character alone."""
    if "".join(token.text for token in tokens) == reasoning + text:
        return tokens
    last = tokens[-1]._replace(text=reasoning + text, reasoning=bool(reasoning))
    return [*(token._replace(text="") for token in tokens[:-1]), last]


def _in_chat_form(entries: Sequence[Mapping[str, Any]], ids: Sequence[int] | None, reasoning: int) -> list[Token]:
    found, seen = [], 0
    for place, entry in enumerate(entries):
        number = entry.get("id", ids[place] if ids and len(ids) == len(entries) else None)
        top = tuple((each.get("id"), each["token"], each["logprob"]) for each in entry.get("top_logprobs") or ())
        found.append(Token(entry["token"], number, entry.get("logprob"), top, seen < reasoning))
        seen += len(entry["token"])
    return found


def _in_lists(log_probs: Mapping[str, Any], ids: Sequence[int] | None) -> list[Token]:
    texts, tops = log_probs["tokens"], log_probs.get("top_logprobs") or ()
    found = []
    for place, text in enumerate(texts):
        top = tops[place] if place < len(tops) and tops[place] else {}
        likeliest = tuple((None, other, value) for other, value in top.items())
        number = ids[place] if ids and len(ids) == len(texts) else None
        found.append(Token(text, number, log_probs["token_logprobs"][place], likeliest))
    return found
