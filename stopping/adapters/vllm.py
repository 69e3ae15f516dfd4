r"""A thinking policy inside vLLM, as a logits processor of either of its runners, from one policy directory.

    vllm serve MODEL --reasoning-parser NAME \
        --reasoning-config '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}' \
        --additional-config '{"stopping": {"policy": "policy/"}}' \
        --logits-processors stopping.adapters.vllm:V2LogitsProcessor

`V1LogitsProcessor` is for `VLLM_USE_V2_MODEL_RUNNER=0`; vLLM refuses the class of the other runner. The tags are those of the
reasoning configuration, and what it forces as `reasoning_end_str` is what a stop forces. A request opts out by
`"vllm_xargs": {"stopping": 0}`.

At each decision point the policy is asked before the next token is sampled. It sees that token's distribution before temperature,
and a stop takes effect immediately. With speculative decoding (V2) several tokens arrive at once: the policy is asked after they
have arrived, hence at most that many tokens late, and never on drafts that may be rejected. The policy cannot probe, and an
answer that is empty after a stop stays empty. A request that cannot be followed (it was preempted, a signal is missing, or the
policy fails) continues without the policy and is counted.

This module was written from vLLM's sources (`vllm/v1/sample/logits_processor/interface.py` for V1,
`vllm/v1/worker/gpu/sample/logits_processor/interface.py` for Model Runner V2) and tested on stand-ins for its base classes that
make calls in the documented order. **It has not been run on vLLM.** Each step copies a few numbers per request to the host.
"""

import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stopping.artifacts import load_policy
from stopping.policies import THINKING, Kind, bind
from stopping.policies.decisions import require_signals
from stopping.policies.windows import ThoughtWindows

LOG = logging.getLogger(__name__)
BLANKS = 2  # maximum number of blank tokens between the opening tag and the prompt's end or the output's start
FREE_SIGNALS = ("elapsed_tokens", "log_close_prob", "mean_log_prob", "mean_entropy")


@dataclass(frozen=True)
class Setup:
    """Settings that all requests share.

    Attributes:
        policy: the policy.
        every_tokens: the number of tokens between decision points.
        open_ids: token ids of the tag that opens a thought.
        close_ids: token ids of the tag by which the model closes a thought itself.
        forced_ids: token ids that a stop forces: a message, if there is one, and the closing tag.
        candidate_ids: tokens that each propose a result; None if unknown.
        counts: numbers of requests: `policed`, `stopped`, `given_up`.

    Raises:
        MissingSignal: if the policy reads a signal that vLLM does not provide.
        ValueError: for a policy that probes, an interval below 1, or missing tags.
    """

    policy: Any
    every_tokens: int
    open_ids: tuple[int, ...]
    close_ids: tuple[int, ...]
    forced_ids: tuple[int, ...]
    candidate_ids: tuple[int, ...] | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        signals = FREE_SIGNALS if self.candidate_ids is None else (*FREE_SIGNALS, "num_candidates")
        require_signals(THINKING, self.policy, signals, (Kind.CONTINUE, Kind.STOP))
        if self.every_tokens < 1:
            raise ValueError(f"every_tokens: expected at least 1, got {self.every_tokens}")
        if not (self.open_ids and self.close_ids and self.forced_ids):
            raise ValueError("--reasoning-config: expected reasoning_start_str and reasoning_end_str, got none")

    @property
    def reads_tokens(self) -> bool:
        """Whether the policy reads the log-probabilities or entropies of sampled tokens."""
        return bool({"mean_log_prob", "mean_entropy"} & set(self.policy.signals))

    @classmethod
    def of(cls, vllm_config: Any) -> "Setup":
        """Return the settings in vLLM's configuration, with the policy loaded.

        Raises:
            ValueError: naming the option, if it is missing or has an unknown key.
            ArtifactError: if the policy cannot be loaded.
        """
        given = dict((getattr(vllm_config, "additional_config", None) or {}).get("stopping") or {})
        if not isinstance(given.get("policy"), str) or not given.keys() <= {"policy", "every_tokens", "candidate_ids"}:
            expected = '{"stopping": {"policy": DIRECTORY}}, and every_tokens and candidate_ids beside it'
            raise ValueError(f"--additional-config: expected {expected}, got {given}")
        artifact = load_policy(given["policy"])
        tags = getattr(vllm_config, "reasoning_config", None)
        ids = [
            tuple(getattr(tags, name, None) or ())
            for name in ("reasoning_start_token_ids", "natural_reasoning_end_token_ids", "reasoning_end_token_ids")
        ]
        candidates = given.get("candidate_ids")
        return cls(
            policy=artifact.policy,
            every_tokens=given.get("every_tokens") or artifact.document.decision_points.interval_tokens or 1,
            open_ids=ids[0],
            close_ids=ids[1] or ids[2],
            forced_ids=ids[2],
            candidate_ids=None if candidates is None else tuple(candidates),
        )


class Thought:
    """One request: whether it is thinking, the policy's state, and the tokens still to be forced.

    Args:
        setup: the shared settings.
        prompt_ids: its prompt, which may open the thought.
        output_ids: its output, which the V1 runner appends to.

    Attributes:
        num_prompt, num_seen: the number of tokens in the prompt, and of those processed so far, the prompt included.
        forced: token ids that must come next, in order.
        is_over: whether there is nothing left to decide.
        distributions: log-probabilities `[rows, vocabulary]` and entropies `[rows]` of the tokens being sampled; None if no
            signal needs them.
    """

    def __init__(self, setup: Setup, prompt_ids: Sequence[int], output_ids: Sequence[int] = ()) -> None:
        self.setup, self.output_ids = setup, output_ids
        self.num_prompt = self.num_seen = len(prompt_ids)
        self.forced: tuple[int, ...] = ()
        self.distributions: tuple[Any, Any] | None = None
        self._bound = bind(setup.policy, "numpy")
        self._state = self._bound.init((1,))
        self._windows = ThoughtWindows(setup.policy.signals, candidate_ids=setup.candidate_ids)
        self._num_asked, self.is_over = 0, False
        last = _last(prompt_ids, setup.open_ids)
        is_at_end = last >= max(len(prompt_ids) - len(setup.open_ids) - BLANKS, 0)
        self._is_open = is_at_end and last > _last(prompt_ids, setup.close_ids)
        self._opens_before = self.num_seen + BLANKS + len(setup.open_ids)
        self._tail = tuple(prompt_ids[-self._longest :])
        setup.counts["policed"] += 1

    @property
    def _longest(self) -> int:
        return max(len(self.setup.open_ids), len(self.setup.close_ids))

    @property
    def is_due(self) -> bool:
        """Whether a decision point has been reached at which the policy has not been asked."""
        thinks = self._is_open and not self.is_over and not self.forced
        return thinks and int(self._windows.elapsed_tokens[0]) // self.setup.every_tokens > self._num_asked

    def take(self, token_id: int, log_prob: float, entropy: float) -> None:
        """Process a sampled token; unknown values are NaN."""
        self.num_seen += 1
        self._tail = (*self._tail, token_id)[-self._longest :]
        if self.is_over:
            return
        if self.forced:
            if token_id != self.forced[0]:
                return self.give_up("the next token was not the forced one")
            self.forced = self.forced[1:]
            self.is_over = not self.forced
        elif self._is_open and _ends_with(self._tail, self.setup.close_ids):
            self.is_over = True
        elif self._is_open:
            self._windows.add(token_id, log_prob, entropy)
        elif self.num_seen <= self._opens_before:
            self._is_open = _ends_with(self._tail, self.setup.open_ids)
        else:
            self.is_over = True  # there is no thought: a tag from here on is part of the text

    def ask(self, log_close_prob: float) -> None:
        """Ask the policy, at a decision point."""
        self._num_asked = int(self._windows.elapsed_tokens[0]) // self.setup.every_tokens
        try:
            self._state, action = self._bound.step(self._state, self._windows.observe(log_close_prob))
        except Exception as error:  # whatever it is, the request must be served
            return self.give_up(f"{type(error).__name__}: {error}")
        if np.broadcast_to(action.kind, (1,))[0] == Kind.STOP:
            self.forced = self.setup.forced_ids
            self.setup.counts["stopped"] += 1

    def give_up(self, why: str) -> None:
        """Continue without the policy."""
        self.is_over, self.forced = True, ()
        self.setup.counts["given_up"] += 1
        LOG.warning("a request continues without the policy: %s", why)


class Thoughts:
    """The requests of a batch that the policy may stop, by key (a row or a slot)."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.by_key: dict[int, Thought] = {}

    def apply(self, logits: Any, rows: Mapping[int, Sequence[int]], new_ids: Mapping[int, Sequence[int]]) -> None:
        """Process new tokens, ask the policy where it is due, and force tokens, in place.

        Args:
            logits: `[rows, vocabulary]`, before temperature.
            rows: for each key, its rows: that of the next token, then those after drafts, in order.
            new_ids: for each key, the tokens sampled since the last call, in order.
        """
        known = self._known(new_ids)
        for key, ids in new_ids.items():
            thought = self.by_key[key]
            thought.distributions = None
            for place, token_id in enumerate(ids):
                thought.take(token_id, *known.get((key, place), (np.nan, np.nan)))
        live = [key for key in rows if rows[key] and not self.by_key[key].is_over]
        due = [key for key in live if self.by_key[key].is_due]
        if due:
            first = logits[[rows[key][0] for key in due]].float()
            close = first.log_softmax(-1)[:, self.setup.close_ids[0]].tolist()
            for key, log_close_prob in zip(due, close, strict=True):
                self.by_key[key].ask(log_close_prob)
        for key in live:
            thought = self.by_key[key]
            if self.setup.reads_tokens and not (thought.is_over or thought.forced):
                log_probs = logits[list(rows[key])].float().log_softmax(-1)
                thought.distributions = log_probs, _entropy(log_probs)
            for row, token_id in zip(rows[key], thought.forced, strict=False):
                logits[row] = -float("inf")
                logits[row, token_id] = 0.0

    def _known(self, new_ids: Mapping[int, Sequence[int]]) -> dict[tuple[int, int], tuple[float, float]]:
        """Log-probability and entropy of each new token, by key and place, in one copy to the host."""
        import torch

        names, values = [], []
        for key, ids in new_ids.items():
            if (distributions := self.by_key[key].distributions) is not None:
                log_probs, entropy = distributions
                for place, token_id in enumerate(ids[: len(log_probs)]):
                    names.append((key, place))
                    values.append(torch.stack((log_probs[place, token_id], entropy[place])))
        numbers = torch.stack(values).tolist() if values else []
        return {name: (pair[0], pair[1]) for name, pair in zip(names, numbers, strict=True)}


def _entropy(log_probs: Any) -> Any:
    """Entropies, in nats, of log-probabilities `[rows, vocabulary]`."""
    import torch

    return torch.special.entr(log_probs.exp()).sum(-1)


def _last(ids: Sequence[int], part: Sequence[int]) -> int:
    """Index of the last occurrence of the part; -1 if there is none."""
    size, part = len(part), tuple(part)
    return next((at for at in range(len(ids) - size, -1, -1) if tuple(ids[at : at + size]) == part), -1)


def _ends_with(ids: Sequence[int], part: Sequence[int]) -> bool:
    return tuple(ids[-len(part) :]) == tuple(part)


def _is_policed(sampling_params: Any) -> bool:
    """Whether the policy applies to a request: yes, unless the request opts out.

    Raises:
        ValueError: if its option is neither 0 nor 1.
    """
    wanted = (getattr(sampling_params, "extra_args", None) or {}).get("stopping", 1)
    if wanted not in (0, 1):
        raise ValueError(f"vllm_xargs.stopping: expected 0 or 1, got {wanted!r}")
    return bool(wanted)


@functools.cache
def _v1() -> type:
    from vllm.v1.sample.logits_processor import LogitsProcessor

    class V1LogitsProcessor(LogitsProcessor):
        """The policy in the V1 runner, where a row is a request and rows may move."""

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            """Refuse a request with an invalid option."""
            _is_policed(sampling_params)

        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
            if getattr(getattr(vllm_config, "scheduler_config", None), "async_scheduling", False):
                raise ValueError(
                    "--async-scheduling: the V1 runner then hides the last token; --no-async-scheduling, or V2"
                )
            self.thoughts = Thoughts(Setup.of(vllm_config))

        def is_argmax_invariant(self) -> bool:
            """Return False: the most likely token may change."""
            return False

        def update_state(self, batch_update: Any) -> None:
            """Follow requests that were removed, added and moved, in this order."""
            if batch_update is None:
                return
            by_row = self.thoughts.by_key
            for row in batch_update.removed:
                by_row.pop(row, None)
            for row, sampling_params, prompt_ids, output_ids in batch_update.added:
                by_row.pop(row, None)
                if _is_policed(sampling_params) and prompt_ids is not None:
                    thought = by_row[row] = Thought(self.thoughts.setup, prompt_ids, output_ids)
                    if output_ids:
                        thought.give_up("it was preempted")
            for one, other, direction in batch_update.moved:
                moved, met = by_row.pop(one, None), by_row.pop(other, None)
                if moved is not None:
                    by_row[other] = moved
                if met is not None and direction.name == "SWAP":
                    by_row[one] = met

        def apply(self, logits: Any) -> Any:
            """Force the closing tag where the policy stops."""
            live = {row: thought for row, thought in self.thoughts.by_key.items() if not thought.is_over}
            new_ids = {row: each.output_ids[each.num_seen - each.num_prompt :] for row, each in live.items()}
            self.thoughts.apply(logits, {row: [row] for row in live}, new_ids)
            return logits

    return V1LogitsProcessor


@functools.cache
def _v2() -> type:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

    class V2LogitsProcessor(LogitsProcessor):
        """The policy in Model Runner V2, where rows are reordered at every step and a request keeps its slot."""

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            """Refuse a request with an invalid option."""
            _is_policed(sampling_params)

        def __init__(self, vllm_config: Any, req_states: Any) -> None:
            self.req_states = req_states
            self.thoughts = Thoughts(Setup.of(vllm_config))
            self._new_slots: list[int] = []

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            """Forget the slot's previous request; return whether the policy applies to the new one."""
            self.thoughts.by_key.pop(req_idx, None)
            self._new_slots = [slot for slot in self._new_slots if slot != req_idx]
            if policed := _is_policed(sampling_params):
                self._new_slots.append(req_idx)
            return policed

        def apply_staged_writes(self) -> None:
            """Read the prompts of new requests, which have just reached the device."""
            for slot in self._new_slots:
                length = int(self.req_states.prompt_len.np[slot])
                prompt_ids = self.req_states.all_token_ids.gpu[slot, :length].tolist()
                thought = self.thoughts.by_key[slot] = Thought(self.thoughts.setup, prompt_ids)
                if int(self.req_states.prefill_len.np[slot]) > length:
                    thought.give_up("it was preempted")
            self._new_slots = []

        def apply(self, logits: Any, ctx: Any) -> Any:
            """Force the closing tag where the policy stops."""
            known = self.thoughts.by_key
            slots = [slot for slot in ctx.idx_mapping_np.tolist() if slot in known and not known[slot].is_over]
            if not slots:
                return logits
            import torch

            layout = torch.stack((ctx.expanded_idx_mapping, ctx.expanded_local_pos), 1).tolist()
            rows: dict[int, list[tuple[int, int]]] = {slot: [] for slot in slots}
            for row, (slot, local) in enumerate(layout):
                if slot in rows:
                    rows[slot].append((local, row))
            ordered = {slot: [row for _, row in sorted(places)] for slot, places in rows.items()}
            self.thoughts.apply(logits, ordered, self._new_ids(slots))
            return logits

        def _new_ids(self, slots: list[int]) -> dict[int, list[int]]:
            import torch

            states = self.req_states
            at = torch.tensor(slots, device=states.total_len.gpu.device)
            seen = [self.thoughts.by_key[slot].num_seen for slot in slots]
            num_new = [int(end) - start for end, start in zip(states.total_len.gpu[at].tolist(), seen, strict=True)]
            place = torch.tensor(seen, device=at.device)[:, None] + torch.arange(max(num_new), device=at.device)
            place = place.clamp(max=states.all_token_ids.gpu.shape[1] - 1)
            ids = states.all_token_ids.gpu[at[:, None], place].tolist()
            return {slot: row[:count] for slot, row, count in zip(slots, ids, num_new, strict=True)}

    return V2LogitsProcessor


def __getattr__(name: str) -> type:
    """Return one of the two classes, made on demand because making it imports vLLM."""
    makers = {"V1LogitsProcessor": _v1, "V2LogitsProcessor": _v2}
    if name not in makers:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return makers[name]()
