"""Answers in the protocol's format: chunks of a stream, or one document."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from stopping.adapters.server.protocol import Token
from stopping.adapters.server.thought import ANSWER, THOUGHT
from stopping.adapters.server.thought_result import ThoughtResult


def account_of(policy: str, result: ThoughtResult, saved: float | None) -> dict[str, Any]:
    """Return what the policy did, as reported in `usage`."""
    return {
        "policy": policy,
        "stopped": result.stopped,
        "would_stop_at": result.would_stop_at,
        "lag_tokens": result.lag_tokens,
        "probe_tokens": result.probe_tokens,
        "discarded_tokens": result.discarded_tokens,
        "expected_tokens_saved": saved,
    }


class Answer(ABC):
    """The format of one answer.

    Args:
        model: the model's name in the request.
        reasoning_field: `reasoning_content` or `reasoning`, as on the server.
        policy: the policy's identity, reported in `usage`.
    """

    kind = chunk_kind = prefix = ""

    def __init__(self, model: str, reasoning_field: str, policy: str) -> None:
        self.id, self.created, self.model = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time()), model
        self.reasoning_field, self.policy = reasoning_field, policy

    def _document(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def first(self) -> list[dict[str, Any]]:
        """Return the chunks before the first token."""
        return []

    @abstractmethod
    def piece(self, part: str, token: Token) -> list[dict[str, Any]]:
        """Return the chunks of a token."""

    @abstractmethod
    def last(self, result: ThoughtResult) -> dict[str, Any]:
        """Return the chunk with the finish reason."""

    @abstractmethod
    def whole(self, result: ThoughtResult, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer as one document."""

    def usage(self, result: ThoughtResult, num_prompt_tokens: int, saved: float | None) -> dict[str, Any]:
        """Return the usage: all tokens generated for the answer, those of the thought, and what the policy did."""
        paid = result.total_tokens
        return {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": paid,
            "total_tokens": num_prompt_tokens + paid,
            "completion_tokens_details": {"reasoning_tokens": result.thought_tokens},
            "stopping": account_of(self.policy, result, saved),
        }

    def usage_chunk(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the chunk with the usage, which has no choices."""
        return self._document(self.chunk_kind, [], usage=dict(usage))


class ChatAnswer(Answer):
    """An answer to a chat: the thought is separate, without tags."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        return self._document(self.chunk_kind, [{"index": 0, "delta": dict(delta), "finish_reason": reason}])

    def first(self) -> list[dict[str, Any]]:
        """Return a chunk with the role."""
        return [self._chunk({"role": "assistant", "content": None})]

    def piece(self, part: str, token: Token) -> list[dict[str, Any]]:
        """Return a chunk of reasoning or content."""
        name = {THOUGHT: self.reasoning_field, ANSWER: "content"}.get(part)
        return [self._chunk({name: token.text})] if name and token.text else []

    def last(self, result: ThoughtResult) -> dict[str, Any]:
        """Return an empty delta with the finish reason."""
        return self._chunk({}, result.reason)

    def whole(self, result: ThoughtResult, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return one message."""
        message = {"role": "assistant", "content": result.answer, self.reasoning_field: result.thought}
        choice = {"index": 0, "message": message, "finish_reason": result.reason}
        return self._document(self.kind, [choice], usage=dict(usage))


class TextAnswer(Answer):
    """A completion of a text: all of it, including tags."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}

    def piece(self, part: str, token: Token) -> list[dict[str, Any]]:
        """Return a chunk with the token's text, whatever its part."""
        return [self._document(self.chunk_kind, [self._choice(token.text, None)])] if token.text else []

    def last(self, result: ThoughtResult) -> dict[str, Any]:
        """Return an empty text with the finish reason."""
        return self._document(self.chunk_kind, [self._choice("", result.reason)])

    def whole(self, result: ThoughtResult, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Return one text."""
        return self._document(self.kind, [self._choice(result.text, result.reason)], usage=dict(usage))
