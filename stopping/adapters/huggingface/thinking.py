"""Thoughts of a batch, each closed when the policy stops it.

Observations are computed from all logits at temperature 1, before top-k and top-p. Between decision points nothing is copied to
the host.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessor

from stopping.adapters.huggingface.generation import configured, end_ids, find, length_of, prompts_of, token_ids
from stopping.artifacts.loading import policy_and_interval
from stopping.policies import THINKING, Kind, ThinkingObservation
from stopping.policies.checks import whole_number
from stopping.policies.decisions import require_signals
from stopping.policies.rows import PolicyRows, TakenDecision, tuple_of
from stopping.policies.windows import ThoughtWindows


class ThinkingResult(NamedTuple):
    """The thoughts of a batch, and their answers; one entry per row.

    Attributes:
        answers: the values of the answers, as `answer_of` gives them; None without an answer.
        texts: the texts of the answers, without special tokens; empty if the thought was never closed.
        tokens: the token ids generated, up to the row's end.
        stopped: whether the policy closed the thought; bool.
        thought_tokens: tokens before the stop or the closing tag, or the whole row if the thought was never closed; int32.
        probe_tokens: tokens forced and generated for answers that were discarded; int32.
        prefill_tokens: tokens read again for those, including the prompt; int32.
        total_tokens: tokens generated, including probes; int32.
        decisions: the policy's decisions, in order.
    """

    answers: list[str | None]
    texts: list[str]
    tokens: list[np.ndarray]
    stopped: np.ndarray
    thought_tokens: np.ndarray
    probe_tokens: np.ndarray
    prefill_tokens: np.ndarray
    total_tokens: np.ndarray
    decisions: list[list[TakenDecision]]


def stripped(text: str) -> str | None:
    """Return an answer without surrounding blanks; None if nothing is left."""
    return text.strip() or None


def think(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    policy: Any,
    *,
    every_tokens: int | None = None,
    close: str | Sequence[int] = "</think>",
    forced: str | Sequence[int] | None = None,
    answer_of: Callable[[str], str | None] = stripped,
    candidate_ids: Collection[int] | None = None,
    max_answer_tokens: int = 32,
    **options: Any,
) -> ThinkingResult:
    """Generate a batch, and close the thought of each row when the policy stops it.

    Rows think from their first generated token. On a stop, an answer is first forced from the row's prefix and decoded greedily.
    If this fails, the row continues to think. Otherwise the closing tag is forced, token by token, and the row continues
    greedily, like the answers in a log. If it then reaches the cap without an answer, the forced answer is returned. Rows that
    are not stopped generate the tokens that they would have generated without a policy.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokeniser.
        inputs: `input_ids` and `attention_mask`, padded on the left.
        policy: a policy that reads `ThinkingObservation`, its artifact, or its directory.
        every_tokens: the number of tokens between decision points; by default the artifact's.
        close: the tag that closes a thought, as text or ids; policies read the log-probability of its first token.
        forced: what is forced to close a thought, if more than the tag: words before it, or the first words of the answer.
        answer_of: returns the value of an answer's text; None for no answer.
        candidate_ids: tokens that each propose a result, for policies that count them.
        max_answer_tokens: the maximum length of a forced answer.
        **options: options of `model.generate`.

    Raises:
        MissingSignal: if the policy reads a signal that is not available here; raised before the first token.
        ValueError: naming the argument that does not fit.
    """
    policy, every_tokens = policy_and_interval(policy, every_tokens)
    every_tokens = whole_number("every_tokens", every_tokens, 1)
    signals = [name for name in ThinkingObservation._fields if name != "num_candidates" or candidate_ids is not None]
    require_signals(THINKING, policy, signals, (Kind.CONTINUE, Kind.STOP, Kind.PROBE))
    tag = token_ids("close", close, tokenizer)
    whole = tag if forced is None else token_ids("forced", forced, tokenizer)
    if find(np.array([whole]), tag)[0] < 0:
        raise ValueError(f"forced: expected tokens that hold the closing tag {tag}, got {whole}")
    config, options = configured(model, options)
    prompts = prompts_of(model, inputs)
    tried = copy.deepcopy(config)
    tried.update(
        do_sample=False, max_new_tokens=whole_number("max_answer_tokens", max_answer_tokens, 1), max_length=None
    )
    thoughts = _Thoughts(model, tokenizer, prompts, policy, every_tokens, tag, whole, answer_of, candidate_ids, tried)
    generated = model.generate(**prompts, generation_config=config, logits_processor=[thoughts], **options)
    return thoughts.result(generated)


class _Tried(NamedTuple):
    """An answer forced from a row's prefix."""

    text: str
    answer: str | None
    mean_log_prob: float
    least_log_prob: float


class _Thoughts(LogitsProcessor):
    """Forms observations from the logits of each step, asks the policy, and forces the tokens that close a thought."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: dict[str, Any],
        policy: Any,
        every_tokens: int,
        tag: list[int],
        forced: list[int],
        answer_of: Callable[[str], str | None],
        candidate_ids: Collection[int] | None,
        config: Any,
    ) -> None:
        self.model, self.tokenizer, self.mask, self.config = model, tokenizer, prompts["attention_mask"], config
        self.every_tokens, self.tag, self.forced, self.answer_of = every_tokens, tag, forced, answer_of
        num_rows, self.prompt_width = prompts["input_ids"].shape
        self.prompt_tokens = self.mask.sum(dim=1).cpu().numpy()
        self.ends = end_ids(model, config)
        self.policy = PolicyRows(policy, num_rows)
        self.windows = ThoughtWindows(policy.signals, num_rows, candidate_ids=candidate_ids)
        self.thinks = np.ones(num_rows, bool)
        self.stops: dict[int, tuple[int, list[int], _Tried]] = {}  # position, forced tokens, and the forced answer
        self.probe_tokens, self.prefill_tokens = np.zeros(num_rows, np.int32), np.zeros(num_rows, np.int32)
        self.log_probs: list[torch.Tensor] = []  # of the tokens since the last decision point, each `[rows]`
        self.entropies: list[torch.Tensor] = []
        # the log-probabilities that the last token was sampled from, `[rows, vocabulary]`
        self.log_distribution: torch.Tensor | None = None
        # the stops on the device: rows, positions, and forced ids `[rows, steps]`
        self.steer: tuple[torch.Tensor, ...] | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        position = input_ids.shape[1] - self.prompt_width
        if self.thinks.any():
            log_distribution = scores.log_softmax(dim=-1)
            if self.log_distribution is not None:
                self.log_probs.append(self.log_distribution.gather(1, input_ids[:, -1:])[:, 0])
                self.entropies.append(torch.special.entr(self.log_distribution.exp()).sum(dim=-1))
            self.log_distribution = log_distribution
            if position and position % self.every_tokens == 0:
                self._decide(input_ids, log_distribution, position)
        return scores if self.steer is None else _steered(scores, position, *self.steer)

    def _decide(self, input_ids: Any, log_distribution: Any, position: int) -> None:
        """Ask the policy about the rows that think, force the answers that it asks for, and note its stops."""
        shown = torch.stack([*self.log_probs, *self.entropies, log_distribution[:, self.tag[0]]], dim=1).cpu().numpy()
        ids = input_ids[:, self.prompt_width :].cpu().numpy()
        self.log_probs, self.entropies = [], []
        self.thinks &= (find(ids, self.tag) < 0) & ~np.isin(ids, self.ends).any(axis=1)
        rows, window = np.flatnonzero(self.thinks), self.every_tokens
        if not len(rows):
            return
        shown = shown[rows]
        self.windows.add(ids[rows, -window:], shown[:, :window], shown[:, window : 2 * window], rows=rows)
        seen = self.windows.observe(shown[:, -1], rows=rows)
        kinds, _ = self.policy.ask(seen, rows)
        tried: dict[int, _Tried] = {}
        if len(places := np.flatnonzero(kinds == Kind.PROBE)):
            tried = self._try(input_ids, ids, rows[places].tolist())
            _, answers, means, leasts = zip(*(tried[row] for row in rows[places].tolist()), strict=True)
            seen = self.windows.probed(tuple_of(seen, places), answers, means, leasts, rows=rows[places])
            kinds[places], _ = self.policy.ask(seen, rows[places])
        stops = rows[kinds == Kind.STOP].tolist()
        tried |= self._try(input_ids, ids, [row for row in stops if row not in tried])
        for row in stops:
            if tried[row].answer is None:
                self.policy.put_off(row)
            else:
                self.stops[row] = position, self._rest(ids[row]), tried[row]
                self.thinks[row] = False
        if self.stops:
            at = [where for where, *_ in self.stops.values()]
            steps = [[*rest, *[-1] * (len(self.forced) - len(rest) + 1)] for _, rest, _ in self.stops.values()]
            self.steer = tuple(torch.tensor(part, device=input_ids.device) for part in (list(self.stops), at, steps))

    def _rest(self, ids: np.ndarray) -> list[int]:
        """The tokens still to be forced: a row may have begun the closing tag itself."""
        longest = range(min(len(self.forced) - 1, len(ids)), 0, -1)
        begun = next((size for size in longest if ids[-size:].tolist() == self.forced[:size]), 0)
        return self.forced[begun:]

    def _try(self, input_ids: Any, ids: np.ndarray, rows: list[int]) -> dict[int, _Tried]:
        """Force answers from the prefixes of these rows, separately from the main generation, and count their cost."""
        found: dict[int, _Tried] = {}
        rests = {row: tuple(self._rest(ids[row])) for row in rows}
        for rest in sorted(set(rests.values())):
            group = [row for row in rows if rests[row] == rest]
            index = torch.tensor(group, device=input_ids.device)
            closed = torch.tensor(rest, device=input_ids.device).expand(len(group), -1)
            prefix = torch.cat([input_ids[index], closed], dim=1)
            mask = torch.ones_like(prefix)
            mask[:, : self.prompt_width] = self.mask[index]
            likeliest = _Likeliest()
            drawn = self.model.generate(
                input_ids=prefix, attention_mask=mask, generation_config=self.config, logits_processor=[likeliest]
            )
            answers = drawn[:, prefix.shape[1] :].cpu().numpy()
            log_probs = torch.stack(likeliest.log_probs, dim=1).cpu().numpy()
            for row, answer, values in zip(group, answers, log_probs, strict=True):
                length = length_of(answer, self.ends)
                text = self.tokenizer.decode(answer[:length], skip_special_tokens=True)
                values = values[:length]
                found[row] = _Tried(text, self.answer_of(text), float(values.mean()), float(values.min()))
                self.probe_tokens[row] += len(rest) + length
                self.prefill_tokens[row] += self.prompt_tokens[row] + ids.shape[1]
        return found

    def result(self, sequences: Any) -> ThinkingResult:
        """Return the result, once generation is over."""
        ids = sequences[:, self.prompt_width :].cpu().numpy()
        tokens = [row[: length_of(row, self.ends)] for row in ids]
        thought = np.array([len(row) for row in tokens], np.int32)
        texts = [""] * len(tokens)
        answers: list[str | None] = [None] * len(tokens)
        for row, (own, closed) in enumerate(zip(tokens, find(ids, self.tag), strict=True)):
            if row in self.stops:
                thought[row], rest, tried = self.stops[row]
                start = thought[row] + len(rest)
            elif 0 <= closed < len(own):
                thought[row], start, tried = closed, closed + len(self.tag), None
            else:
                continue
            texts[row] = self.tokenizer.decode(own[start:], skip_special_tokens=True)
            answers[row] = self.answer_of(texts[row])
            if answers[row] is None and tried is not None:
                texts[row], answers[row] = tried.text, tried.answer
        generated = np.array([len(row) for row in tokens], np.int32)
        return ThinkingResult(
            answers=answers,
            texts=texts,
            tokens=tokens,
            stopped=np.isin(np.arange(len(tokens)), list(self.stops)),
            thought_tokens=thought,
            probe_tokens=self.probe_tokens,
            prefill_tokens=self.prefill_tokens,
            total_tokens=generated + self.probe_tokens,
            decisions=self.policy.decisions,
        )


class _Likeliest(LogitsProcessor):
    """Keeps the log-probability of each token that is decoded greedily."""

    def __init__(self) -> None:
        self.log_probs: list[torch.Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.log_probs.append(scores.log_softmax(dim=-1).amax(dim=-1))
        return scores


def _steered(scores: Any, position: int, rows: Any, at: Any, ids: Any) -> Any:
    """Return scores that leave one token to each stopped row: first those that close the thought, then the most likely ones.

    Args:
        scores: scores of the next tokens, `[batch, vocabulary]`.
        position: the number of tokens generated.
        rows: the stopped rows.
        at: the positions of their stops.
        ids: the forced token ids, then -1; `[rows, steps]`.
    """
    step = (position - at).clamp(max=ids.shape[1] - 1)
    forced = ids.gather(1, step[:, None])[:, 0]
    chosen = torch.where(forced < 0, scores[rows].argmax(dim=-1), forced)
    scores = scores.clone()
    scores[rows] = -torch.inf
    scores[rows, chosen] = 0.0
    return scores
