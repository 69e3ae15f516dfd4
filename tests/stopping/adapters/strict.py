"""A proxy that makes llama.cpp's server as strict as other servers are."""

import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.stopping.adapters.in_front import InFront


@dataclass
class Strict(InFront):
    """What the server refuses, and what it reports.

    Attributes:
        to: the real server.
        context_tokens: the limit on a prompt and the requested tokens together; None for no limit.
        tells: where it reports that limit: `models`, `tokenize`, or nowhere.
        known: characters that its tokeniser knows, and refuses others; None for all.
        status: the status of a refused text.
        refused: the refused requests, by path.
    """

    to: str
    context_tokens: int | None = None
    tells: str = ""
    known: str | None = None
    status: int = 400
    refused: list[str] = field(default_factory=list)

    def _no(self, path: str, status: int, message: str) -> Response:
        self.refused.append(path)
        return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)

    async def _count(self, text: str) -> int:
        return len((await self.client.post("/tokenize", json={"content": text})).json()["tokens"])

    def _knows(self, text: str) -> bool:
        bare = text.replace("<think>", "").replace("</think>", "")
        return self.known is None or set(bare) <= set(self.known)

    async def handle(self, request: Request) -> Response:
        raw, path = await request.body(), request.url.path
        if path == "/props" and self.context_tokens is not None:
            return JSONResponse({"error": "not here"}, 404)
        body: dict[str, Any] = json.loads(raw) if raw else {}
        messages = [message["content"] for message in body.get("messages", ())]
        texts = [body[name] for name in ("prompt", "content") if isinstance(body.get(name), str)] + messages
        for text in texts:
            if not self._knows(text):
                return self._no(path, self.status, f"cannot encode {text!r}")
        if path.endswith("/completions") and self.context_tokens is not None:
            prompt = body.get("prompt", "")
            size = len(prompt) if isinstance(prompt, list) else await self._count("".join(texts)) + 2
            if size + (body.get("max_tokens") or 16) > self.context_tokens:
                return self._no(
                    path, 400, f"the most is {self.context_tokens} tokens; asked: {size} + {body['max_tokens']}"
                )
        response = await self.client.request(request.method, path, content=raw)
        content = response.content
        if self.tells and path in ("/tokenize", "/v1/models"):
            document = json.loads(content)
            if self.tells == "tokenize" and path == "/tokenize":
                document["max_model_len"] = self.context_tokens
            if path == "/v1/models":
                for model in document["data"]:
                    model.pop("meta", None)
                    if self.tells == "models":
                        model["max_model_len"] = self.context_tokens
            content = json.dumps(document).encode()
        return Response(content, response.status_code, {"content-type": response.headers["content-type"]})
