"""A server whose model follows a script, with tokens, finish reasons, counts, frames and refusals that tests set."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TAGS = r"<think>|</think>|<end>"
SPLIT = r"|\w+|\s|."
THOUGHT = " ".join(f"n{number}" for number in range(80))
SCRIPT = f"{THOUGHT}</think>\n\nSo it is 7<end>"
BOT = "\nbot:"


@dataclass
class Manner:
    """How the server speaks; by default as vLLM does.

    Attributes:
        opening: what the template writes after a conversation.
        script: the model's output for any prompt that follows the script.
        forced: the model's output after a closing tag that is not in the script.
        pieces: the pattern of a token.
        context: the maximum length of a prompt and its answer together.
        refusal: the status and text of a refusal, given the prompt's length and the request; None to serve it.
        words: its finish reasons for `stop` and `length`.
        usage: its usage, given the lengths of the prompt and the answer.
        log_prob: the log-probability of a token, given its place and text.
        likeliest: log-probabilities of other tokens by text, given the same.
        frame: the frame of an event, given its data.
        edit: changes a document before it is sent.
        num_at_once: the number of tokens in a chunk.
    """

    opening: str = "<think>"
    script: str = SCRIPT
    forced: str = " 7<end>"
    pieces: str = TAGS + SPLIT
    context: int = 10**6
    refusal: Callable[[int, dict[str, Any]], tuple[int, Any] | None] = lambda num_prompt, body: None
    words: dict[str, str] = field(default_factory=dict)
    usage: Callable[[int, int], Any] = lambda prompt, came: {"prompt_tokens": prompt, "completion_tokens": came}
    log_prob: Callable[[int, str], Any] = lambda place, text: -0.5
    likeliest: Callable[[int, str], dict[str, Any]] = lambda place, text: {"a": -3.0, "b": -4.0, "</think>": -5.0}
    frame: Callable[[str], str] = lambda data: f"data: {data}\n\n"
    edit: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document
    num_at_once: int = 1


def _joined(parts: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {name: [each for part in parts for each in part[name]] for name in parts[0]}


class Scripted:
    """The server; `manner` may be set between requests, and `asked` holds the bodies of completions since then."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.set()

    def set(self, **manner: Any) -> Manner:
        self.manner, self.asked = Manner(**manner), []
        return self.manner

    def ids(self, text: str) -> list[int]:
        found = re.findall(self.manner.pieces, text, re.DOTALL)
        self.texts += [piece for piece in dict.fromkeys(found) if piece not in self.texts]
        return [self.texts.index(piece) for piece in found]

    def text(self, ids: list[int]) -> str:
        return "".join(self.texts[number] for number in ids)

    def templated(self, messages: list[dict[str, Any]]) -> str:
        return "".join(f"{each['role']}: {each['content']}" for each in messages) + BOT + self.manner.opening

    def next_ids(self, prompt: list[int]) -> list[int]:
        """Return the tokens after a prompt."""
        said, script = self.text(prompt).rpartition(BOT)[2].removeprefix(self.manner.opening), self.manner.script
        if script.startswith(said):
            return self.ids(script)[len(self.ids(said)) :]
        return self.ids(self.manner.forced)

    async def tokenize(self, request: Request) -> Response:
        body = await request.json()
        if "content" in body:
            return JSONResponse({"error": {"message": "prompt or messages, please"}}, 400)
        ids = self.ids(self.templated(body["messages"]) if "messages" in body else body["prompt"])
        return JSONResponse({"tokens": ids, "count": len(ids)})

    async def complete(self, request: Request) -> Response:
        body, manner = await request.json(), self.manner
        self.asked.append(body)
        is_chat, asks_ids = "messages" in body, body.get("return_token_ids")
        given = self.templated(body["messages"]) if is_chat else body["prompt"]
        prompt = self.ids(given) if isinstance(given, str) else given
        most = body.get("max_tokens") or manner.context - len(prompt)
        if (refused := manner.refusal(len(prompt), body)) is not None:
            return JSONResponse({"error": refused[1]}, refused[0])
        if len(prompt) + most > manner.context or most < 1:
            said = f"This model's maximum context length is {manner.context} tokens, you asked for {len(prompt) + most}"
            return JSONResponse({"error": {"message": said, "code": 400}}, 400)
        ids = self.next_ids(prompt)[:most]
        is_over = self.text(ids[-1:]) == "<end>"
        reason = "stop" if is_over else "length"
        word, usage = manner.words.get(reason, reason), manner.usage(len(prompt), len(ids))
        parts = [ids[at : at + manner.num_at_once] for at in range(0, len(ids), manner.num_at_once)]
        shown = [self._choice(part, at * manner.num_at_once, body, is_chat) for at, part in enumerate(parts)]
        if not body.get("stream"):
            document = self._whole(shown, word, usage, is_chat)
            return JSONResponse(manner.edit(document | {"prompt_token_ids": prompt if asks_ids else None}))
        events: list[dict[str, Any]] = [{"id": "x", "choices": [choice]} for choice in shown]
        events[0]["prompt_token_ids"] = prompt if asks_ids else None
        events.append({"id": "x", "choices": [{"index": 0, **self._end(is_chat), "finish_reason": word}]})
        events.append({"id": "x", "choices": [], "usage": usage})
        sent = [manner.frame(json.dumps(manner.edit(event))) for event in events]
        return StreamingResponse(iter([*sent, manner.frame("[DONE]")]), media_type="text/event-stream")

    def _end(self, is_chat: bool) -> dict[str, Any]:
        return {"delta": {}} if is_chat else {"text": ""}

    def _choice(self, ids: list[int], place: int, body: dict[str, Any], is_chat: bool) -> dict[str, Any]:
        texts = [self.texts[number].replace("<end>", "") for number in ids]
        choice: dict[str, Any] = {"index": 0, "finish_reason": None, "logprobs": None}
        choice["token_ids"] = ids if body.get("return_token_ids") else None
        log_probs = [self.manner.log_prob(place + at, text) for at, text in enumerate(texts)]
        tops = [
            {text: value} | self.manner.likeliest(place + at, text)
            for at, (text, value) in enumerate(zip(texts, log_probs, strict=True))
        ]
        if is_chat and body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": []} for text in texts]}
        if is_chat:
            return {**choice, "delta": {"content": "".join(texts)}}
        if body.get("logprobs") is not None:
            tops = [dict(list(top.items())[: body["logprobs"]]) for top in tops]
            choice["logprobs"] = {"tokens": texts, "token_logprobs": log_probs, "top_logprobs": tops}
        return {**choice, "text": "".join(texts)}

    def _whole(self, shown: list[dict[str, Any]], word: str, usage: Any, is_chat: bool) -> dict[str, Any]:
        text = "".join(choice.pop("delta")["content"] if is_chat else choice["text"] for choice in shown)
        more = {"logprobs": None, "token_ids": None}
        for name in more:
            if shown[0][name] is not None:
                parts = [choice[name] for choice in shown]
                more[name] = [each for part in parts for each in part] if name == "token_ids" else _joined(parts)
        if not is_chat:
            return {"id": "x", "choices": [{"index": 0, "text": text, "finish_reason": word, **more}], "usage": usage}
        thought, _, answer = text.partition("</think>") if self.manner.opening else ("", "", text)
        message = {"role": "assistant", "content": answer, "reasoning_content": thought}
        return {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": word, **more}], "usage": usage}

    @contextmanager
    def running(self) -> Iterator["Scripted"]:
        async def models(_: Request) -> Response:
            return JSONResponse({"data": [{"id": "scripted"}]})

        routes = [Route("/v1/models", models), Route("/tokenize", self.tokenize, methods=["POST"])]
        routes += [
            Route(f"/v1/{name}", self.complete, methods=["POST"]) for name in ("completions", "chat/completions")
        ]
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_config=None, access_log=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(20)
