"""What the shipped reasoner's traces are like: where there is something to gain by stopping, and where there is not.

Five questions, each a function of the log (and, for drafting, of the models): are shorter traces right more often, within a
problem and between problems; what do more samples buy; what would an answer forced on the way be worth; how often does thinking
make or break an answer; how well do the drafts guess the target's next token.

Standard errors are by problem: a problem's traces are not independent of each other.
"""

from collections import defaultdict
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import sims
from sims.estimates import Estimate
from stopping.plots import COLOURS, MARKERS
from stopping.policies import FirstFinish, FixedSamples
from stopping.problems import Sampling
from stopping.reasoner import Llama, load_model
from stopping.reasoner.vocabulary import CLOSE_THINK, TOKENS, encode
from stopping.traces import TraceLog

NUM_SAMPLES = (1, 2, 4, 8, 16)
NUM_BINS = 10
FEWEST_SHOWN = 20  # problems behind a point of a curve
DRAFTED_TRACES = 4  # of each problem with tokens
CLASSES = ("operand", "operator", "result", "verdict", "punctuation", "line end", "word", "answer")


class Study(NamedTuple):
    """A table, `rows[name] = Estimate`, and pictures by name."""

    rows: dict[str, Estimate]
    figures: dict[str, Figure]


def run(log: TraceLog) -> Study:
    """All parts on a log of the reasoner's with checkpoints and token ids; what no trace speaks of is left out."""
    rows: dict[str, Estimate] = {}
    figures: dict[str, Figure] = {}
    for part in (lengths, samples, forced_answers, drafting):
        more, figure = part(log)
        rows |= {name: estimate for name, estimate in more.items() if np.isfinite(estimate.mean)}
        figures[part.__name__] = figure
    return Study(rows, figures)


def lengths(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """Length by correctness, and whether the shorter of two traces is the right one: of one problem, or of any two."""
    rows = {}
    for name, correct in (("right", True), ("wrong", False)):
        chosen = log.present & (log.correct == correct)
        rows[f"tokens of {name} traces"] = _ratio(
            np.sum(log.length_tokens, axis=1, where=chosen), np.sum(chosen, axis=1)
        )
    right, wrong = log.correct & log.present, ~log.correct & log.present
    shorter = np.zeros(log.num_problems)
    for i in range(log.num_samples):
        less = log.length_tokens[:, i, None] < log.length_tokens
        equal = log.length_tokens[:, i, None] == log.length_tokens
        shorter += right[:, i] * np.sum(less + 0.5 * equal, axis=1, where=wrong)
    rows["P(shorter is right), two traces of a problem"] = _ratio(shorter, right.sum(axis=1) * wrong.sum(axis=1))
    accuracy = np.mean(log.correct, axis=1, where=log.present)
    mean_length = np.mean(log.length_tokens, axis=1, where=log.present)
    rows["P(shorter is right), any two traces"] = _pooled_auc(log, right, wrong)
    between = np.corrcoef(mean_length, accuracy)[0, 1]
    rows["correlation of a problem's mean length and accuracy"] = Estimate(
        float(between), float((1 - between**2) / np.sqrt(log.num_problems)), log.num_problems
    )

    figure, (left, middle) = _figure(2)
    edges = np.linspace(0, log.length_tokens.max(), 41)
    for index, (name, chosen) in enumerate((("right", right), ("wrong", wrong))):
        left.hist(
            log.length_tokens[chosen], edges, histtype="step", color=COLOURS[index], linewidth=1.5,
            linestyle=("-", "--")[index], label=name,
        )  # fmt: skip
    left.set(xlabel="tokens of a trace", ylabel="traces")
    left.legend(frameon=False)
    middle.plot(mean_length, accuracy, ".", color=COLOURS[0], markersize=2, alpha=0.3, rasterized=True)
    middle.set(xlabel="mean tokens of a problem's traces", ylabel="share of them right")
    return rows, figure


def samples(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """First to finish, majority, and an oracle that picks a right answer if there is one, over the number of samples."""
    rows, curves = {}, defaultdict(list)
    sizes = [size for size in NUM_SAMPLES if size <= log.num_samples]
    for num_samples in sizes:
        problem = Sampling(None, num_samples)
        rules = {"first to finish": FirstFinish(1), "majority": FixedSamples(num_samples)}
        for name, policy in rules.items():
            result = sims.replay(problem, policy, log)
            curves[name].append((result.correct, result.total_tokens))
        any_right = np.any(log.correct[:, :num_samples], axis=1)
        curves["oracle"].append((_mean(any_right), curves["majority"][-1][1]))
        for name, points in curves.items():
            rows[f"accuracy, {name}, {num_samples} samples"] = points[-1][0]
            rows[f"tokens, {name}, {num_samples} samples"] = points[-1][1]

    figure, (left, right) = _figure(2)
    for index, (name, points) in enumerate(curves.items()):
        style = {"color": COLOURS[index], "marker": MARKERS[index], "label": name, "capsize": 2, "linewidth": 1}
        accuracy, tokens = zip(*points, strict=True)
        height = [100 * estimate.mean for estimate in accuracy]
        error = [100 * estimate.standard_error for estimate in accuracy]
        left.errorbar(sizes, height, error, **style)
        right.errorbar([estimate.mean for estimate in tokens], height, error, **style)
    left.set(xlabel="samples", ylabel="accuracy, %", xscale="log", xticks=sizes, xticklabels=sizes)
    left.minorticks_off()
    right.set(xlabel="total tokens a problem", xscale="log")
    ticks = [size for size in (250, 500, 1000, 2000, 4000) if right.get_xlim()[0] < size < right.get_xlim()[1]]
    right.set_xticks(ticks, [f"{size:,}" for size in ticks])
    right.minorticks_off()
    left.legend(frameon=False)
    return rows, figure


def forced_answers(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """Answers forced on the way: their accuracy, the best stop there was, and how often thinking makes or breaks them."""
    log = log.where(detail=["checkpoints", "tokens"])
    probes = log.checkpoints
    assert probes is not None
    problem, sample = probes.problem_index, probes.sample_index
    starts = np.flatnonzero(np.r_[True, (problem[1:] != problem[:-1]) | (sample[1:] != sample[:-1])])
    ends = np.r_[starts[1:], len(problem)]
    owner = problem[starts]
    final = log.correct[owner, sample[starts]]
    length = log.length_tokens[owner, sample[starts]]
    right = probes.correct
    ever = np.logical_or.reduceat(right, starts)
    first = np.array([np.argmax(right[a:b]) for a, b in zip(starts, ends, strict=True)])
    changes = right[1:] != right[:-1]
    inside = np.ones(len(problem), bool)
    inside[starts] = False
    up = np.add.reduceat(np.r_[False, changes & right[1:]] & inside, starts) > 0
    down = np.add.reduceat(np.r_[False, changes & ~right[1:]] & inside, starts) > 0
    last_right = right[ends - 1]

    def by_problem(values: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
        weights = np.ones(len(values)) if weights is None else weights
        size = log.num_problems
        ours = np.bincount(owner, weights, size) > 0
        return _ratio(np.bincount(owner, values, size)[ours], np.bincount(owner, weights, size)[ours])

    best_tokens = np.where(ever, probes.position_tokens[starts + first], length)
    rows = {
        "accuracy of the final answer, probed problems": by_problem(final),
        "accuracy of an oracle stop": by_problem(ever | final),
        "tokens of an oracle stop, share": by_problem(best_tokens, length),
        "wrong, then right": by_problem(up | (~last_right & final)),
        "right, then wrong": by_problem(down | (last_right & ~final)),
        "right on the way, wrong at the end": by_problem(ever & ~final),
        "tokens of a probe": by_problem(np.add.reduceat(probes.probe_cost_tokens, starts), ends - starts),
    }
    thought = log.thought_tokens
    assert thought is not None
    whole = thought[problem, sample]
    closed = whole > 0
    fraction = np.where(closed, probes.position_tokens / np.maximum(whole, 1), 0)
    bins = np.minimum((fraction * NUM_BINS).astype(int), NUM_BINS - 1)
    figure, (left, middle) = _figure(2)
    for axes, group, centres, label in (
        (
            left,
            np.where(closed, bins, -1),
            (np.arange(NUM_BINS) + 0.5) / NUM_BINS,
            "share of the final thought (looks ahead)",
        ),
        (middle, probes.position_tokens // 32, 32 * np.arange(15), "tokens so far, of traces still thinking"),
    ):
        means = []
        for index in range(len(centres)):
            chosen = group == index
            counts = np.bincount(problem[chosen], minlength=log.num_problems)
            hits = np.bincount(problem[chosen], right[chosen], log.num_problems)
            means.append(_ratio(hits[counts > 0], counts[counts > 0]))
        shown = [index for index, mean in enumerate(means) if mean.num_independent >= FEWEST_SHOWN]
        axes.errorbar(
            np.asarray(centres)[shown], [100 * means[index].mean for index in shown],
            [100 * means[index].standard_error for index in shown], color=COLOURS[0], marker="o", capsize=2, linewidth=1,
        )  # fmt: skip
        axes.set(xlabel=label, ylabel="forced answers right, %")
        if axes is left:
            rows |= {
                f"forced accuracy, {index / NUM_BINS:.1f} of the thought": mean for index, mean in enumerate(means)
            }
    final_accuracy = 100 * rows["accuracy of the final answer, probed problems"].mean
    left.axhline(final_accuracy, color="0.5", linewidth=0.8, linestyle="--")
    left.annotate("final answers", (0.02, final_accuracy), va="bottom", fontsize=8)
    return rows, figure


def drafting(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """P(the target accepts a draft's token), by the token's role and by its place: sum over tokens of min(p, q)."""
    target = load_model("target")
    drafts = {name: load_model(name) for name in ("draft", "weak_draft")}
    log = log.where(detail="tokens")
    chosen = [(index, number) for index in range(log.num_problems) for number in range(DRAFTED_TRACES)]
    accepted: dict[str, list[np.ndarray]] = defaultdict(list)
    roles, places, owners = [], [], []
    width = 512
    for start in range(0, len(chosen), 16):
        batch = chosen[start : start + 16]
        prompts = [encode(f"<bos>{log.problem_ids[index]}<think>") for index, _ in batch]
        traces = [log.token_signal("token_id", *which).astype(int) for which in batch]
        tokens = np.zeros((16, width), np.int32)
        for row, (prompt, trace) in enumerate(zip(prompts, traces, strict=True)):
            tokens[row, : len(prompt) + len(trace)] = [*prompt, *trace]
        for name, draft in drafts.items():
            overlap = np.asarray(_overlap(target, draft, jnp.asarray(tokens)))
            for row, (prompt, trace) in enumerate(zip(prompts, traces, strict=True)):
                accepted[name].append(overlap[row, len(prompt) - 1 : len(prompt) + len(trace) - 1])
        for (index, _), trace in zip(batch, traces, strict=True):
            roles.append(token_roles(trace))
            places.append(np.arange(len(trace)))
            owners.append(np.full(len(trace), index))
    role, place, owner = (np.concatenate(parts) for parts in (roles, places, owners))

    figure, (left, right) = _figure(2)
    rows = {}
    for number, (name, parts) in enumerate(accepted.items()):
        values = np.concatenate(parts)
        rows[f"acceptance, {name}"] = _by(owner, values)
        means = [_by(owner[role == index], values[role == index]) for index in range(len(CLASSES))]
        rows |= {f"acceptance, {name}, {kind}": mean for kind, mean in zip(CLASSES, means, strict=True)}
        style = {"color": COLOURS[number], "marker": MARKERS[number], "capsize": 2, "label": name.replace("_", " ")}
        left.errorbar(
            np.arange(len(CLASSES)) + 0.15 * (number - 0.5), [mean.mean for mean in means],
            [mean.standard_error for mean in means], linestyle="none", **style,
        )  # fmt: skip
        bins = np.arange(0, 480, 32)
        along = [_by(owner[place // 32 == index], values[place // 32 == index]) for index in range(len(bins))]
        right.errorbar(
            bins + 16, [mean.mean for mean in along], [mean.standard_error for mean in along], linewidth=1, **style
        )
    left.set_xticks(range(len(CLASSES)), CLASSES, rotation=40, ha="right")
    left.set(ylabel="probability of acceptance")
    right.set(xlabel="tokens of the trace so far")
    right.legend(frameon=False)
    return rows, figure


def token_roles(trace: np.ndarray) -> np.ndarray:
    """What each token of a trace is there for: indices of `CLASSES`."""
    role = np.empty(len(trace), int)
    after_equals = closed = False
    for index, token in enumerate(trace.tolist()):
        text = TOKENS[token]
        if closed:
            kind = "answer"
        elif text == "\n":
            kind, after_equals = "line end", False
        elif text in (" no", " yes", " ok"):
            kind = "verdict"
        elif text in "=,()":
            kind, after_equals = "punctuation", text == "=" or (after_equals and text != ",")
        elif text.isdigit():
            kind = "result" if after_equals else "operand"
        elif text in "+-*/":
            kind = "operator"
        else:
            kind, closed = "word", token == CLOSE_THINK
        role[index] = CLASSES.index(kind)
    return role


@eqx.filter_jit
def _overlap(target: Llama, draft: Llama, tokens: jax.Array) -> jax.Array:
    return jnp.sum(jnp.minimum(jax.nn.softmax(target(tokens)), jax.nn.softmax(draft(tokens))), axis=-1)


def _mean(values: np.ndarray) -> Estimate:
    """Of one value a problem."""
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))), len(values))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
    """Ratio of sums over problems, with the error of its linearisation."""
    if not np.sum(denominator):
        return Estimate(float("nan"), float("nan"), 0)
    ratio = np.sum(numerator) / np.sum(denominator)
    residual = (numerator - ratio * denominator) / np.mean(denominator)
    count = len(residual)
    error = float(np.std(residual, ddof=1)) / count**0.5 if count > 1 else float("nan")  # one unit tells none
    return Estimate(float(ratio), error, count)


def _by(owner: np.ndarray, values: np.ndarray) -> Estimate:
    """Mean of values that belong to problems."""
    _, unit = np.unique(owner, return_inverse=True)
    return _ratio(np.bincount(unit, values), np.bincount(unit)) if len(values) else _ratio(np.zeros(1), np.zeros(1))


def _pooled_auc(log: TraceLog, right: np.ndarray, wrong: np.ndarray) -> Estimate:
    """P(a right trace is shorter than a wrong one), over all pairs, with DeLong's error summed by problem."""
    a, b = np.sort(log.length_tokens[right]), np.sort(log.length_tokens[wrong])
    if not len(a) or not len(b):
        return Estimate(float("nan"), float("nan"), 0)

    def share_below(values: np.ndarray, of: np.ndarray) -> np.ndarray:
        return (np.searchsorted(of, values, "left") + np.searchsorted(of, values, "right")) / 2 / len(of)

    longer_wrong = np.where(right, 1 - share_below(log.length_tokens, b), 0)
    shorter_right = np.where(wrong, share_below(log.length_tokens, a), 0)
    mean = longer_wrong.sum() / right.sum()
    pull = (longer_wrong - mean * right).sum(axis=1) / right.sum() + (shorter_right - mean * wrong).sum(
        axis=1
    ) / wrong.sum()
    return Estimate(float(mean), float(np.sqrt(np.sum(pull**2))), log.num_problems)


def _figure(num_panels: int) -> tuple[Figure, list]:
    figure = Figure(figsize=(3.6 * num_panels, 3.0), dpi=150, layout="constrained")
    panels = list(figure.subplots(1, num_panels))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels
