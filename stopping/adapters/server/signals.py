"""The signals of a thought that a server provides, and their values from its tokens."""

import math
from collections.abc import Collection
from typing import Any

from stopping.adapters.server.capabilities import (
    MISSING_MASS,
    WHAT_GIVES,
    Capabilities,
    require_continuation,
)
from stopping.adapters.server.client import Completion
from stopping.adapters.server.markup import Markup
from stopping.adapters.server.protocol import Token
from stopping.policies import THINKING, Kind
from stopping.policies.decisions import MissingSignal, require_signals

LEGAL = (Kind.CONTINUE, Kind.STOP, Kind.PROBE)
LEAST_MASS = 1e-6  # probability outside the top tokens; less is rounding of their log-probabilities


def require(policy: Any, capabilities: Capabilities, markup: Markup) -> None:
    """Check, before the first token, that the server provides what a policy needs.

    Raises:
        MissingSignal: naming the signals that are missing.
        Unsupported: naming what the server lacks, and what would provide it.
        ValueError: if the policy is not for thinking, or may request an action that thinking does not have.
    """
    if votes := sorted(set(policy.signals) - set(THINKING.signals)):
        raise ValueError(
            f"{type(policy).__name__} reads {', '.join(votes)}: it stops a vote among several samples, which is not served here; "
            "stopping.adapters.server.sampling.Sampler and stopping.adapters.huggingface.sample run it"
        )
    require_continuation(capabilities, "a thought cannot be continued")
    there = signals_there(capabilities, markup)
    try:
        require_signals(THINKING, policy, there, LEGAL)
    except MissingSignal as error:
        raise MissingSignal(f"{error}; {what_gives(set(policy.signals) - there)}") from None


def signals_there(capabilities: Capabilities, markup: Markup) -> set[str]:
    """Return the fields of `ThinkingObservation` that a server which continues thoughts provides."""
    there = {"elapsed_tokens", "probed", "probed_answer"}
    if capabilities.log_probs:
        there |= {"mean_log_prob", "answer_mean_log_prob", "answer_least_log_prob"}
    if capabilities.full_distribution:
        there.add("mean_entropy")
    if capabilities.num_top > 1 and len(markup.close_ids) == 1:
        there.add("log_close_prob")
    if markup.candidate_ids is not None:
        there.add("num_candidates")
    return there


def what_gives(signals: Collection[str]) -> str:
    """Return a sentence on what would provide missing signals."""
    gives = {
        "log_close_prob": f"a closing tag of one token, and {WHAT_GIVES['num_top']}",
        "mean_entropy": WHAT_GIVES["full_distribution"],
        "num_candidates": "--candidate TEXT, a token that proposes a result",
    }
    return "; ".join(f"{name} needs {gives.get(name, WHAT_GIVES['log_probs'])}" for name in sorted(signals))


def log_close_prob_of(token: Token, markup: Markup) -> float | None:
    """Return the log-probability of closing the thought in the place of a token, or an upper bound on it.

    If the tag is not among the top k tokens, its probability is at most that of the least likely one, and at most the remaining
    probability. This bound is at most 1 / k, so it never exceeds a threshold above -log k. With a lower threshold, a rule that
    stops at or above it may stop early, and one that gives up at or below it gives up late. Logs and live runs have the same
    bound for the same k, so a policy should run with the k of its log. (vLLM's `logprob_token_ids` would give the tag's own
    log-probability; it is not requested here.)

    Args:
        token: a token with its top log-probabilities; tokens without ids (vLLM) are identified by their text.
        markup: the model's markup.

    Returns:
        None if there are no top log-probabilities or the tag has several tokens; also if a log-probability is unknown and the
        tag either is that token or is not among the top ones.
    """
    close_id, *more = markup.close_ids
    if more or not token.top:
        return None
    for number, text, log_prob in token.top:
        if number == close_id or (number is None and text == markup.close):
            return log_prob
    log_probs = [log_prob for _, _, log_prob in token.top if log_prob is not None]
    mass = sum(map(math.exp, log_probs))
    if len(log_probs) < len(token.top) and 1 - mass > MISSING_MASS:
        return None
    left = max(1 - mass, LEAST_MASS)
    # vLLM adds the sampled token to the top ones, even if it is not one of them
    return min([math.log(left), *(log_prob for log_prob in log_probs if log_prob != token.log_prob)])


def says_bound(signals: Collection[str], capabilities: Capabilities) -> str:
    """Return a note if one of the signals may be a bound; empty otherwise."""
    if "log_close_prob" not in signals or capabilities.full_distribution:
        return ""
    return (
        f"log_close_prob: where the closing tag is not among the {capabilities.num_top} likeliest tokens, it is an upper bound; "
        "record and serve with the same --top-log-probs."
    )


def entropy_of(token: Token) -> float | None:
    """Return the entropy, in nats, of a token's distribution; None if its top tokens do not cover the distribution."""
    log_probs = [log_prob for _, _, log_prob in token.top if log_prob is not None]
    masses = [math.exp(log_prob) for log_prob in log_probs]
    if 1 - sum(masses) > MISSING_MASS:
        return None
    return -sum(mass * log_prob for mass, log_prob in zip(masses, log_probs, strict=True))


def log_probs_of(forced: Completion) -> tuple[float | None, float | None]:
    """Return the mean and the minimum log-probability of a forced answer's tokens; None unless all are known."""
    known = [token.log_prob for token in forced.tokens if token.log_prob is not None]
    if not known or len(known) != len(forced.tokens):
        return None, None
    return sum(known) / len(known), min(known)
