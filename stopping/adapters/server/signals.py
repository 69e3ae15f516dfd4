"""Which signals of a thought a server can give, and what its tokens say of them."""

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
LEAST_MASS = 1e-6  # beyond a distribution's likeliest tokens: less is the rounding of their log-probabilities


def require(policy: Any, capabilities: Capabilities, markup: Markup) -> None:
    """Refuse, before the first token, a policy whose signals this server does not give.

    Raises:
        MissingSignal: naming the signals that cannot be had.
        Unsupported: naming what the server lacks, and what would give it.
        ValueError: if the policy is not for a thought, or may ask for an action that none has.
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
    """Return the fields of `ThinkingObservation` that can be had from a server that continues thoughts."""
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
    """Say what would give signals that are not there."""
    gives = {
        "log_close_prob": f"a closing tag of one token, and {WHAT_GIVES['num_top']}",
        "mean_entropy": WHAT_GIVES["full_distribution"],
        "num_candidates": "--candidate TEXT, a token that puts forward a result",
    }
    return "; ".join(f"{name} needs {gives.get(name, WHAT_GIVES['log_probs'])}" for name in sorted(signals))


def log_close_prob_of(token: Token, markup: Markup) -> float | None:
    """Return the log-probability of closing the thought in the place of a token; where it is not told, its upper bound.

    A tag that is not among the k likeliest tokens is at most as likely as the least of them, and as all that is left beside
    them: at most 1 / k, so that no bound passes a threshold above -log k. It is too high, never too low: a rule that stops at
    or above a lower threshold may do so early, one that gives up at or below a threshold does so late. Logs and live runs have
    the same bound for the same k: a policy is to be run with the k that its log was recorded with. (vLLM's `logprob_token_ids`
    would tell the tag's own log-probability; it is not asked for here.)

    Args:
        token: with its likeliest tokens; those without ids (vLLM) are known by their text.
        markup: of the model.

    Returns:
        None if no likeliest tokens came, or the tag has several tokens; or if one of these log-probabilities is not known, and
        the tag is that token or is not among them.
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
    # vLLM adds the drawn token to the likeliest, of which it need not be one
    return min([math.log(left), *(log_prob for log_prob in log_probs if log_prob != token.log_prob)])


def says_bound(signals: Collection[str], capabilities: Capabilities) -> str:
    """Say, of signals that are there, that one of them may be a bound; empty if none may."""
    if "log_close_prob" not in signals or capabilities.full_distribution:
        return ""
    return (
        f"log_close_prob: where the closing tag is not among the {capabilities.num_top} likeliest tokens, the most that it can "
        "be stands in its place; record and serve with the same --top-log-probs."
    )


def entropy_of(token: Token) -> float | None:
    """Return the entropy of the distribution a token was drawn from, nats; None where its likeliest tokens are not all of it."""
    log_probs = [log_prob for _, _, log_prob in token.top if log_prob is not None]
    masses = [math.exp(log_prob) for log_prob in log_probs]
    if 1 - sum(masses) > MISSING_MASS:
        return None
    return -sum(mass * log_prob for mass, log_prob in zip(masses, log_probs, strict=True))


def log_probs_of(forced: Completion) -> tuple[float | None, float | None]:
    """Return mean and least log-probability of a forced answer's tokens; None where not all are known."""
    known = [token.log_prob for token in forced.tokens if token.log_prob is not None]
    if not known or len(known) != len(forced.tokens):
        return None, None
    return sum(known) / len(known), min(known)
