"""When to probe a chain of thought, at the first decision point so many tokens after the last probe, and which probes agree."""

from typing import Any

from stopping.policies.actions import PROBE, STOP, Action


def probe_or_stop(
    xp: Any, last_probe_tokens: Any, observation: Any, interval_tokens: Any, enough: Any
) -> tuple[Any, Action]:
    """Ask for a probe when one is due, and to stop where the probe's answer is good enough.

    Args:
        xp: the backend's functions.
        last_probe_tokens: where the last probe was, 0 before the first; int32 `[...]`.
        observation: has `elapsed_tokens` and `probed`.
        interval_tokens: least distance of probes.
        enough: whether what the probe shows is; bool `[...]`, meaningful where probed.

    Returns:
        Where the last probe now was, and the action.
    """
    due = xp.logical_and(
        xp.logical_not(observation.probed), observation.elapsed_tokens - last_probe_tokens >= interval_tokens
    )
    stop = xp.logical_and(observation.probed, enough)
    last_probe_tokens = xp.where(due, observation.elapsed_tokens, last_probe_tokens)
    return last_probe_tokens, Action(xp.where(due, PROBE, xp.where(stop, STOP, 0)), 0)


def agreeing(xp: Any, state: Any, observation: Any) -> Any:
    """How many of the last probes gave the same answer, in a row, with one taken here; int32 `[...]`.

    Args:
        xp: the backend's functions.
        state: has `last_answer` and `num_agreeing`.
        observation: has `probed` and `probed_answer`.
    """
    run = xp.where(observation.probed_answer == state.last_answer, state.num_agreeing + 1, 1)
    return xp.where(observation.probed, xp.where(observation.probed_answer >= 0, run, 0), state.num_agreeing)
