"""The reasoner's log: its answers to held-out problems, many samples each.

Every trace has its length, the length of its thought, its answer (by vote key) and whether it is right. On some problems answers
were also forced every few tokens (checkpoints), and on a few of those the tokens and per-token signals were kept.
"""

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from stopping.reasoner.countdown import Difficulty, Problem, draw_problem, is_right, vote_key
from stopping.reasoner.llama import Llama
from stopping.reasoner.names import SHIPPED
from stopping.reasoner.sampling import Samples, sample
from stopping.reasoner.vocabulary import CLOSE_THINK, EOS, YES, decode, encode
from stopping.traces import Reference, TraceLog, from_columns, load_log, save_log, split, with_checkpoints

LOG = SHIPPED / "log" / "traces.parquet"
BATCH_TRACES = 512  # drawn side by side
NUM_THREADS = 2  # batches sampled at once: one alone leaves cores idle in its small operations
SPLIT = {"fit": 0.3, "certify": 0.5, "test": 0.2}
PROTOCOL = "</think> appended, the answer decoded greedily until <eos>; the probe costs the closing tag and the answer"
TOKEN_SIGNALS = ("token_id", "log_prob", "entropy", "log_close_prob")
CHECKPOINT_SIGNALS = (
    *("log_close_prob", "mean_entropy", "mean_log_prob", "num_candidates"),
    *("answer_mean_log_prob", "answer_least_log_prob"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is recorded.

    Attributes:
        num_problems: Distinct problems whose numbers were held out of training.
        num_samples: Traces a problem.
        num_probed: Problems, from the first, with answers forced every `probe_every_tokens`.
        num_with_signals: Problems, from the first, with tokens and per-token signals.
        probe_every_tokens: The token grid of the checkpoints.
        cap_tokens: Most generated tokens.
        temperature: Of the sampling.
        difficulty: Of the problems.
        seed: Of problems and samples.
    """

    num_problems: int = 4000
    num_samples: int = 16
    num_probed: int = 1000
    num_with_signals: int = 200
    probe_every_tokens: int = 32
    cap_tokens: int = 480
    temperature: float = 1.0
    difficulty: Difficulty = dataclasses.field(default_factory=Difficulty)
    seed: int = 0

    def detail(self, index: int) -> str:
        """Return what is kept of a problem's traces: `traces`, also `checkpoints`, or also `tokens`."""
        return "tokens" if index < self.num_with_signals else "checkpoints" if index < self.num_probed else "traces"


def record(model: Llama, plan: Plan, path: Path, report: Callable[[int], None] = lambda num_problems: None) -> TraceLog:
    """Sample, check and write the log to a Parquet file; `report` is called with the number of problems that have just been done.

    Groups of the log: `split` (fit, certify or test: what `stopping.split(log, (.3, .5, .2), seed=0)` gives), `numbers` (3 or 4)
    and `detail` (what was kept: `traces`, also `checkpoints`, or also `tokens`).
    """
    problems = draw_distinct(plan)
    rows: list[dict[str, Any]] = []
    probes: list[dict[str, Any]] = []

    def draw(batch: list[int]) -> Samples:
        return sample(
            jax.random.key(plan.seed),
            model,
            np.array([prompt_tokens(problems[index]) for index in batch], np.int32),
            batch,
            plan.num_samples,
            max_tokens=plan.cap_tokens,
            temperature=plan.temperature,
            probe_every_tokens=plan.probe_every_tokens if batch[0] < plan.num_probed else None,
        )

    batches = _batches(problems, plan)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for batch, samples in zip(batches, pool.map(draw, batches), strict=True):
            for row, index in enumerate(batch):
                rows += _traces(problems[index], samples, row, plan.detail(index))
            probes += _checkpoints([problems[index] for index in batch], samples, plan.probe_every_tokens)
            report(len(batch))

    order = {problem.prompt: index for index, problem in enumerate(problems)}
    rows.sort(key=lambda row: (order[row["problem"]], row["sample"]))
    log = from_columns(
        {name: [row[name] for row in rows] for name in ("problem", "length_tokens")}, cap_tokens=plan.cap_tokens
    )
    parts = zip(SPLIT, split(log, tuple(SPLIT.values()), seed=0), strict=True)
    part_of = {problem: name for name, part in parts for problem in part.problem_ids}
    with tempfile.TemporaryDirectory() as folder:
        # Per-token lists are read from a file, so the log passes through one before it has its checkpoints.
        first = Path(folder) / "traces.parquet"
        table = pa.Table.from_pylist([row | {"split": part_of[row["problem"]]} for row in rows], _SCHEMA)
        pa.parquet.write_table(table, first, row_group_size=1024)
        log = load_log(
            first,
            groups=("split", "numbers", "detail"),
            cap_tokens=plan.cap_tokens,
            reference=Reference("majority", plan.num_samples),
        )
        if probes:
            log = with_checkpoints(
                log, pa.Table.from_pylist(probes), grid="token", protocol=PROTOCOL, signals=CHECKPOINT_SIGNALS
            )
        save_log(log, path)
    return load_log(path)


def load_shipped_log() -> TraceLog:
    """Load the shipped log: 4,000 problems of 16 traces. Its card, `README.md`, describes it."""
    return load_log(LOG)


def card(log: TraceLog, plan: Plan) -> str:
    """Return the card of a log, in Markdown; every figure is computed from the log."""
    mean_accuracy = np.mean(log.correct[log.present])
    per_problem = np.mean(log.correct, axis=1, where=log.present)
    length = log.length_tokens[log.present]
    deciles = ", ".join(f"{value:.2f}" for value in np.quantile(per_problem, (0.1, 0.25, 0.5, 0.75, 0.9)))
    numbers = log.groups["numbers"]
    by_size = ", ".join(
        f"{np.mean(per_problem[numbers == size]):.3f} of those with {size}" for size in sorted(set(numbers))
    )
    wrong = [len(set(row[(row >= 0) & ~right].tolist())) for row, right in zip(log.answer, log.correct, strict=True)]
    num_probes = 0 if log.checkpoints is None else len(log.checkpoints.position_tokens)
    facts = {
        "accuracy of one trace": f"{mean_accuracy:.3f}: {by_size} numbers",
        "accuracy by problem, quantiles .1 .25 .5 .75 .9": deciles,
        "tokens of a trace": f"mean {length.mean():.0f}, standard deviation {length.std():.0f}, "
        f"coefficient of variation {length.std() / length.mean():.2f}",
        "cut at the cap": f"{np.mean(log.censored[log.present]):.2%}",
        "distinct wrong answers of a problem": f"mean {np.mean(wrong):.1f}",
        "checkpoints": f"{num_probes:,}, every {plan.probe_every_tokens} tokens, on {plan.num_probed:,} problems "
        "(`detail` is `checkpoints` or `tokens`)",
        "tokens and per-token signals": f"on {plan.num_with_signals} problems (`detail` is `tokens`): "
        + ", ".join(f"`{name}`" for name in TOKEN_SIGNALS),
    }
    table = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
    return f"""# A log of the shipped reasoner

{log.num_problems:,} Countdown problems x {plan.num_samples} traces, sampled at temperature {plan.temperature:g} with a cap of
{plan.cap_tokens} tokens, seed {plan.seed}. No problem's numbers, in any order, occur in the training texts. Written by
`stopping reasoner record`.

| | |
| --- | --- |
{table}

- `answer` is a vote key: reordered sums and products of one expression share it. An answer that is no expression is none.
- `length_tokens` counts what was generated, `</think>` and `<eos>` included; `thought_tokens` what came before `</think>`.
- `split` (fit .3, certify .5, test .2) is `stopping.split(log, (.3, .5, .2), seed=0)`.
- Checkpoint signals: `log_close_prob` (the model's own log-probability of closing its thought there), `mean_entropy` and
  `mean_log_prob` (of the last {plan.probe_every_tokens} tokens, nats), `num_candidates` (lines so far that the model called a
  success, ` yes`), `answer_mean_log_prob` and `answer_least_log_prob` (of the forced answer's tokens).
- A checker could recognise right answers at once; voting is studied as if there were none.
"""


def draw_distinct(plan: Plan) -> list[Problem]:
    """Draw held-out problems, no two the same but for the order of their numbers."""
    random = np.random.default_rng(plan.seed)
    found: dict[tuple[tuple[int, ...], int], Problem] = {}
    while len(found) < plan.num_problems:
        # The size is drawn once for each problem: drawing it again at every repetition would favour the rarer kind.
        three = random.random() < plan.difficulty.three_number_prob
        difficulty = dataclasses.replace(plan.difficulty, three_number_prob=float(three))
        for _ in range(10_000):
            problem = draw_problem(random, difficulty, held_out=True)
            name = tuple(sorted(problem.numbers)), problem.target
            if name not in found:
                found[name] = problem
                break
        else:
            raise ValueError(
                f"num_problems: {len(found)} distinct problems of this difficulty were found, not {plan.num_problems}"
            )
    return list(found.values())


def prompt_tokens(problem: Problem) -> list[int]:
    """Return what the model reads before it thinks."""
    return encode(f"<bos>{problem.prompt}<think>")


def _batches(problems: list[Problem], plan: Plan) -> list[list[int]]:
    """Return the problems that are sampled together: prompts of one length, all probed or none."""
    kinds = [(index >= plan.num_probed, len(prompt_tokens(problem))) for index, problem in enumerate(problems)]
    return batches_of(kinds, max(BATCH_TRACES // plan.num_samples, 1))


def batches_of(kinds: Sequence[Any], most: int) -> list[list[int]]:
    """Return batches of indices of one kind, at most so many each, in order of kind and index."""
    alike = defaultdict(list)
    for index, kind in enumerate(kinds):
        alike[kind].append(index)
    return [group[start : start + most] for _, group in sorted(alike.items()) for start in range(0, len(group), most)]


_HALVES = pa.list_(pa.float16())
_SCHEMA = pa.schema(
    {
        "problem": pa.string(), "sample": pa.int32(), "length_tokens": pa.int32(), "thought_tokens": pa.int32(),
        "correct": pa.bool_(), "answer": pa.string(), "censored": pa.bool_(), "numbers": pa.string(),
        "detail": pa.string(), "split": pa.string(),
        "token_id": pa.list_(pa.int8()), "log_prob": _HALVES, "entropy": _HALVES, "log_close_prob": _HALVES,
    }
)  # fmt: skip


def _traces(problem: Problem, samples: Samples, row: int, detail: str) -> list[dict[str, Any]]:
    made = []
    for number, length in enumerate(samples.length_tokens[row].tolist()):
        tokens = samples.tokens[row, number, :length]
        thought, answer = own_answer(tokens)
        trace: dict[str, Any] = {
            "problem": problem.prompt,
            "sample": number,
            "length_tokens": length,
            "thought_tokens": thought,
            "correct": answer is not None and is_right(problem, answer),
            "answer": None if answer is None else vote_key(answer),
            "censored": bool(samples.censored[row, number]),
            "numbers": str(len(problem.numbers)),
            "detail": detail,
        }
        if detail == "tokens":
            trace["token_id"] = tokens
            for name in TOKEN_SIGNALS[1:]:
                trace[name] = getattr(samples, name)[row, number, :length].astype(np.float16)
        made.append(trace)
    return made


def own_answer(tokens: np.ndarray) -> tuple[int | None, str | None]:
    """Return where a trace closed its thought, and the answer that it gave by itself; None where it did not."""
    closed = np.flatnonzero(tokens == CLOSE_THINK)
    if not len(closed):
        return None, None
    thought = int(closed[0])
    return thought, decode(tokens[thought + 1 : -1].tolist()) if tokens[-1] == EOS else None


def forced_answer(tokens: np.ndarray) -> tuple[str | None, int]:
    """Return a forced answer, None where it did not end in time, and its cost with the closing tag and the end token."""
    ended = np.flatnonzero(tokens == EOS)
    length = int(ended[0]) if len(ended) else len(tokens)
    return decode(tokens[:length].tolist()) if len(ended) else None, length + 1 + len(ended)


def _checkpoints(problems: list[Problem], samples: Samples, every_tokens: int) -> list[dict[str, Any]]:
    made = []
    for probes in samples.probes:
        position = probes.position_tokens
        window = slice(max(position - every_tokens, 0), position)
        for row, number, tokens, mean, least in zip(*probes[1:], strict=True):
            answer, cost = forced_answer(tokens)
            made.append(
                {
                    "problem": problems[row].prompt,
                    "sample": int(number),
                    "position_tokens": position,
                    "answer": None if answer is None else vote_key(answer),
                    "correct": answer is not None and is_right(problems[row], answer),
                    "probe_cost_tokens": cost,
                    "log_close_prob": _short(samples.log_close_prob[row, number, position]),
                    "mean_entropy": _short(np.mean(samples.entropy[row, number, window])) if position else None,
                    "mean_log_prob": _short(np.mean(samples.log_prob[row, number, window])) if position else None,
                    "num_candidates": float(np.count_nonzero(samples.tokens[row, number, :position] == YES)),
                    "answer_mean_log_prob": _short(mean),
                    "answer_least_log_prob": _short(least),
                }
            )
    return made


def _short(value: float) -> float:
    """Round to three digits, the precision of such a signal, which takes half the space on disk."""
    return float(np.float16(value))
