"""Finish reasons: what a server's word for the end of an answer means. Servers do not agree on the words.

There are four kinds. *Cut*: the answer reached a limit on tokens. *Broken*: a filter, an error, an abort or a guard against
loops ended it early, so that it is not whole. *Called*: the model ended its turn with a tool call, which is not an answer.
*Natural*: every other word, known or not. Servers keep inventing new words ("stop", "eos", "end_turn"), and an answer must not
be lost because of its name.
"""

CUT = {
    "length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_length", "model_length",
    "context_length", "context_length_exceeded", "model_context_window_exceeded", "token_limit", "limit",
}  # fmt: skip
BROKEN = {
    "content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "sensitive", "refusal",
    "abort", "aborted", "cancel", "cancelled", "canceled", "timeout", "time_limit", "error", "failed", "failure",
    "network_error", "insufficient_system_resource", "malformed_function_call", "repetition",
}  # fmt: skip
NATURAL = {
    "stop",
    "eos",
    "eos_token",
    "end_turn",
    "stop_sequence",
    "end",
    "end_of_text",
    "finished",
    "complete",
    "completed",
}
CALLED = {"tool_calls", "tool_call", "tool_use", "function_call", "pause_turn"}


def is_known(reason: str) -> bool:
    """Return whether servers are known to use this word."""
    return _plain(reason) in NATURAL | CUT | BROKEN | CALLED


def is_cut(reason: str) -> bool:
    """Return whether the answer reached a limit on tokens."""
    return _plain(reason) in CUT


def is_natural(reason: str) -> bool:
    """Return whether the model ended its answer by itself."""
    return is_whole(reason) and _plain(reason) not in CALLED


def is_whole(reason: str) -> bool:
    """Return whether the model ended by itself, with an answer or a tool call, so that its length is not censored."""
    return bool(word := _plain(reason)) and word not in CUT and word not in BROKEN


def _plain(reason: str) -> str:
    return reason.strip().lower().replace("-", "_").replace(" ", "_")
