"""What are the shipped reasoner's traces like, and where can stopping help?

Five questions are answered from the log (and, for drafting, the models). Are shorter traces right more often, within a problem
and between problems? What do more samples gain? How accurate are answers forced before the end? How often does further thinking
make or break an answer? How often are the drafts' tokens accepted by the target?

Standard errors are by problem, because a problem's traces are not independent.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sims
from sims.estimates import Estimate
from sims.studies import Part
from stopping.plots import COLOURS, MARKERS
from stopping.policies import FirstFinish, FixedSamples, Policy
from stopping.problems import Sampling
from stopping.reasoner import NAMES, Llama, load_model
from stopping.reasoner.vocabulary import CLOSE_THINK, PAD, TOKENS, encode
from stopping.traces import TraceLog

NUM_SAMPLES = (1, 2, 4, 8, 16)
NUM_ORDERS = 16  # random orders of a problem's traces, to average over which samples are used
NUM_BINS = 10  # of the position as a share of the thought
BIN_TOKENS = 32  # of a trace
FEWEST_SHOWN = 20  # problems for a point of a curve
DRAFTED_TRACES = 4  # traces of each problem with tokens
BATCH_TRACES, WIDTH_TOKENS = 16, 128  # read at once; widths are multiples, so that few programs are compiled
CLASSES = ("operand", "operator", "result", "verdict", "punctuation", "line end", "word", "answer")


def run(log: TraceLog) -> dict[str, Part]:
    """Run the study on a log of the reasoner; rows without any trace are left out.

    Raises:
        ValueError: if the log has no checkpoints or no token ids.
    """
    if log.checkpoints is None or log.token_signals is None or "detail" not in log.groups:
        raise ValueError(
            "log: expected checkpoints and tokens of some problems, as `stopping reasoner record` keeps them"
        )
    parts = {}
    for part in (lengths, samples, forced_answers, drafting):
        rows, figure = part(log)
        rows = {name: estimate for name, estimate in rows.items() if np.isfinite(estimate.mean)}
        parts[part.__name__] = Part(str(part.__doc__), rows, figure)
    return parts


def lengths(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """Lengths of right and wrong traces, and how often the shorter of a right and a wrong trace is the right one."""
    length, right, wrong = log.length_tokens, log.correct & log.present, ~log.correct & log.present
    one, other = length[:, :, None], length[:, None, :]
    pairs = right[:, :, None] & wrong[:, None, :]
    shorter = np.sum((one < other) + 0.5 * (one == other), axis=(1, 2), where=pairs)
    mean_length, accuracy = (np.mean(values, axis=1, where=log.present) for values in (length, log.correct))
    correlation = float(np.corrcoef(mean_length, accuracy)[0, 1])
    rows = {
        **{
            f"tokens of {name} traces": Estimate.ratio(np.sum(length, axis=1, where=chosen), chosen.sum(axis=1))
            for name, chosen in (("right", right), ("wrong", wrong))
        },
        "P(shorter is right), two traces of a problem": Estimate.ratio(shorter, pairs.sum(axis=(1, 2))),
        "P(shorter is right), any two traces": Estimate.auc(length, wrong, right),
        "correlation of a problem's mean length and accuracy": Estimate(
            correlation, (1 - correlation**2) / log.num_problems**0.5, log.num_problems
        ),
    }

    figure, (left, middle) = _figure()
    edges = np.linspace(0, length.max(), 41).tolist()
    for index, (name, chosen) in enumerate((("right", right), ("wrong", wrong))):
        left.hist(
            length[chosen], edges, histtype="step", color=COLOURS[index], linewidth=1.5,
            linestyle=("-", "--")[index], label=name,
        )  # fmt: skip
    left.set(xlabel="tokens of a trace", ylabel="traces")
    left.legend(frameon=False, loc="upper center")
    middle.plot(mean_length, accuracy, ".", color=COLOURS[0], markersize=2, alpha=0.3, rasterized=True)
    middle.set(xlabel="mean tokens of a problem's traces", ylabel="share of them right")
    return rows, figure


def samples(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """First to finish, majority, and an oracle that picks a right answer if there is one, by number of samples."""
    rows, curves = {}, defaultdict(list)
    sizes = [size for size in NUM_SAMPLES if size <= log.num_samples]
    for num_samples in sizes:
        problem = Sampling(num_samples)
        worlds = problem.worlds(log, num_orders=NUM_ORDERS)
        rules: dict[str, Policy] = {"first to finish": FirstFinish(1), "majority": FixedSamples(num_samples)}
        for name, policy in rules.items():
            result = sims.replay_worlds(problem, policy, worlds)
            curves[name].append((result.correct, result.total_tokens))
        oracle = Estimate.of(np.mean(np.any(worlds.right, axis=-1), axis=-1))
        curves["oracle"].append((oracle, curves["majority"][-1][1]))
        for name, points in curves.items():
            rows[f"accuracy, {name}, n = {num_samples}"] = points[-1][0]
            rows[f"tokens, {name}, n = {num_samples}"] = points[-1][1]

    figure, (left, right) = _figure()
    for index, (name, points) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "label": name}
        accuracy, tokens = zip(*points, strict=True)
        _curve(left, sizes, accuracy, 100, **style)
        _curve(right, [estimate.mean for estimate in tokens], accuracy, 100, **style)
    left.set(xlabel="samples", ylabel="accuracy, %", xscale="log", xticks=sizes, xticklabels=sizes)
    left.minorticks_off()
    right.set(xlabel="total tokens a problem", xscale="log")
    ticks = [size for size in (250, 500, 1000, 2000, 4000) if right.get_xlim()[0] < size < right.get_xlim()[1]]
    right.set_xticks(ticks, [f"{size:,}" for size in ticks])
    right.minorticks_off()
    left.legend(frameon=False)
    return rows, figure


def forced_answers(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """Answers forced before the end: accuracy, an oracle's best stop, and how often further thinking makes or breaks them."""
    log = log.where(detail=["checkpoints", "tokens"])
    probes = log.checkpoints
    assert probes is not None and log.thought_tokens is not None
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

    best_tokens = np.where(ever, probes.position_tokens[starts + first], length)
    rows = {
        "accuracy of the final answer, probed problems": _by(owner, final),
        "accuracy of an oracle stop": _by(owner, ever | final),
        "tokens of an oracle stop, share": _by(owner, best_tokens, length),
        "wrong, then right": _by(owner, up | (~last_right & final)),
        "right, then wrong": _by(owner, down | (last_right & ~final)),
        "right on the way, wrong at the end": _by(owner, ever & ~final),
        "tokens of a probe": _by(owner, np.add.reduceat(probes.probe_cost_tokens, starts), ends - starts),
    }

    figure, (left, middle) = _figure()
    whole = log.thought_tokens[problem, sample]
    share = probes.position_tokens / np.maximum(whole, 1)
    tenths = np.where(whole > 0, np.minimum(share * NUM_BINS, NUM_BINS - 1).astype(int), -1)
    along = [_by(problem[tenths == index], right[tenths == index]) for index in range(NUM_BINS)]
    grid = np.unique(probes.position_tokens)
    so_far = [_by(problem[chosen], right[chosen]) for chosen in probes.position_tokens == grid[:, None]]
    rows |= {f"forced accuracy, {index / NUM_BINS:.1f} of the thought": mean for index, mean in enumerate(along)}
    rows |= {f"forced accuracy, {place} tokens so far": mean for place, mean in zip(grid, so_far, strict=True)}
    _curve(left, (np.arange(NUM_BINS) + 0.5) / NUM_BINS, along, 100, color=COLOURS[0], marker=MARKERS[0])
    _curve(middle, grid, so_far, 100, color=COLOURS[0], marker=MARKERS[0])
    left.set(xlabel="share of the final thought (looks ahead)", ylabel="forced answers right, %")
    middle.set(xlabel="tokens so far, of traces still thinking", ylabel="forced answers right, %")
    final_accuracy = 100 * rows["accuracy of the final answer, probed problems"].mean
    left.axhline(final_accuracy, color="0.5", linewidth=0.8, linestyle="--")
    left.annotate("final answers", (0.02, final_accuracy), va="bottom", fontsize=8)
    return rows, figure


def drafting(log: TraceLog) -> tuple[dict[str, Estimate], Figure]:
    """Probability that the target accepts a draft's token, the sum over tokens of min(p, q), by role and position."""
    target = load_model("target")
    drafts: dict[str, Llama] = {name: load_model(name) for name in NAMES if name != "target"}
    log = log.where(detail="tokens")
    chosen = sorted(np.argwhere(log.present[:, :DRAFTED_TRACES]).tolist(), key=lambda which: log.length_tokens[*which])
    accepted: dict[str, list[np.ndarray]] = defaultdict(list)
    roles, places, owners = [], [], []
    for start in range(0, len(chosen), BATCH_TRACES):
        batch = chosen[start : start + BATCH_TRACES]
        prompts = [encode(f"<bos>{log.problem_ids[index]}<think>") for index, _ in batch]
        traces = [log.token_signal("token_id", *which).astype(int) for which in batch]
        longest = max(len(prompt) + len(trace) for prompt, trace in zip(prompts, traces, strict=True))
        tokens = np.full((BATCH_TRACES, math.ceil(longest / WIDTH_TOKENS) * WIDTH_TOKENS), PAD, np.int32)
        for row, (prompt, trace) in enumerate(zip(prompts, traces, strict=True)):
            tokens[row, : len(prompt) + len(trace)] = [*prompt, *trace]
        for name, overlap in _overlaps(target, drafts, jnp.asarray(tokens)).items():
            for row, (prompt, trace) in enumerate(zip(prompts, traces, strict=True)):
                accepted[name].append(np.asarray(overlap)[row, len(prompt) - 1 : len(prompt) + len(trace) - 1])
        for (index, _), trace in zip(batch, traces, strict=True):
            roles.append(token_roles(trace))
            places.append(np.arange(len(trace)))
            owners.append(np.full(len(trace), index))
    role, place, owner = (np.concatenate(parts) for parts in (roles, places, owners))

    figure, (left, right) = _figure()
    rows = {}
    for number, (name, parts) in enumerate(accepted.items()):
        values = np.concatenate(parts)
        rows[f"acceptance, {name}"] = _by(owner, values)
        means = [_by(owner[role == index], values[role == index]) for index in range(len(CLASSES))]
        rows |= {f"acceptance, {name}, {kind}": mean for kind, mean in zip(CLASSES, means, strict=True)}
        style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "label": name.replace("_", " ")}
        _curve(left, np.arange(len(CLASSES)) + 0.15 * (number - 0.5), means, linestyle="none", **style)
        bins = np.arange(place.max() // BIN_TOKENS + 1)
        along = [_by(owner[chosen], values[chosen]) for chosen in place // BIN_TOKENS == bins[:, None]]
        _curve(right, (bins + 0.5) * BIN_TOKENS, along, **style)
    left.set_xticks(range(len(CLASSES)), CLASSES, rotation=40, ha="right")
    left.set(ylabel="probability of acceptance")
    right.set(xlabel="tokens of the trace so far")
    right.legend(frameon=False)
    return rows, figure


def token_roles(trace: np.ndarray) -> np.ndarray:
    """Return the role of each token of a trace: indices of `CLASSES`."""
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
def _overlaps(target: Llama, drafts: dict[str, Llama], tokens: jax.Array) -> dict[str, jax.Array]:
    probs = jax.nn.softmax(target(tokens))
    return {name: jnp.sum(jnp.minimum(probs, jax.nn.softmax(draft(tokens))), axis=-1) for name, draft in drafts.items()}


def _by(owner: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """Estimate the mean of values, with errors by problem; `owner` is the problem of each value."""
    return Estimate.ratio(np.bincount(owner, values), np.bincount(owner, weights))


def _figure() -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(7.2, 3.0), dpi=150, layout="constrained")
    panels = list(figure.subplots(1, 2))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels


def _curve(axes: Axes, places: Iterable[float], means: Iterable[Estimate], unit: float = 1, **style: Any) -> None:
    """Return means with their errors where there are enough problems."""
    shown = [(place, mean) for place, mean in zip(places, means, strict=True) if mean.num_independent >= FEWEST_SHOWN]
    heights, errors = ([unit * getattr(mean, name) for _, mean in shown] for name in ("mean", "standard_error"))
    axes.errorbar([place for place, _ in shown], heights, errors, capsize=2, **{"linewidth": 1} | style)
