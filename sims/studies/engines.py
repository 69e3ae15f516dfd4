"""Do the predictions of tuning hold on llama.cpp and in transformers?

Rules for thinking are tuned on the shipped log, which our sampler recorded, and their saving and change of accuracy are predicted
from the part of the log not used for tuning. Then the same model runs on llama.cpp's server, where a policy stops it from
outside, between two pieces of a thought, and inside transformers, where a policy stops rows of a batch. Each of many new problems
is run once without a rule and once under each rule, with independent noise.

Tokens are counted everywhere as in a log: thought, answer, and answers forced but not returned. What an engine generates in
addition is reported separately: on llama.cpp one token beyond the stop, drawn to learn the probability of the closing tag there;
in transformers the returned answer, which is tried once before.
"""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import aclosing
from inspect import getdoc
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from matplotlib.figure import Figure

import sims
import stopping
from sims.estimates import Estimate
from sims.studies import COMPONENTS, Part, exact, predicted_and_observed
from stopping.plots import COLOURS
from stopping.plots.panels import panels
from stopping.policies.recorded_decisions import TIE, compare_decisions
from stopping.reasoner import Llama, load_model
from stopping.reasoner.countdown import Problem, is_right, vote_key
from stopping.reasoner.names import folder_of
from stopping.reasoner.recording import own_answer, prompt_tokens
from stopping.reasoner.vocabulary import CLOSE_THINK, PAD, TOKENS, YES
from stopping.traces import TraceLog, split
from stopping.traces.splits import FRACTIONS
from stopping.tuning import Prediction, Tuning
from stopping.tuning.measurement import misses_by_chance, observed, predicted

NUM_PROBLEMS = 1000  # run on each engine, once without a rule and once under each rule
MAX_ACCURACY_DROP = 0.02
EVERY_TOKENS, CAP_TOKENS, ANSWER_TOKENS = 32, 480, 20  # as the log was recorded
NUM_SLOTS, SLOT_TOKENS = 8, 512  # of llama.cpp: thoughts in progress at once
BATCH_ROWS = 256  # of transformers
NUM_NULLS, LEVEL = 2000, 0.99  # simulations of the number of misses, and the quantile it may not exceed
READ_TRACES, WIDTH_TOKENS = 16, 128  # read by our model at once; widths are multiples
FAMILIES = ("ExitValue", "ProbedExitValue", "CandidateStop", "CloseTokenThreshold", "TokenBudget")
SEED = 0


class Run(NamedTuple):
    """One run of one problem.

    Attributes:
        tokens: ids of the trace, including forced ones; int `[tokens]`.
        log_probs: of these tokens at temperature 1, as reported by the engine; empty under a rule.
        total_tokens: counted as in a log.
        extra_tokens: tokens that the engine generated in addition.
        decisions: of the rule, in order.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    total_tokens: int
    extra_tokens: int
    decisions: list[Any]


class Cell(NamedTuple):
    """One component of one rule on one engine.

    Attributes:
        engine, rule, component: their names.
        predicted: from the test part, as a share.
        observed: on the engine, as a share.
    """

    engine: str
    rule: str
    component: str
    predicted: Prediction
    observed: Estimate


def run(log: TraceLog, num_problems: int = NUM_PROBLEMS) -> dict[str, Part]:
    """Run the study.

    Args:
        log: of the shipped reasoner, with labels, and with checkpoints for some problems; the other problems are run.
        num_problems: number of problems to run.

    Raises:
        ImportError: if an engine, of the extras `serve`, `llamacpp` and `transformers`, is not installed.
        ValueError: for more problems than the log has without checkpoints.
    """
    probed, fresh = log.take(log.probed), log.take(~log.probed)
    if not 0 < num_problems <= fresh.num_problems:
        raise ValueError(f"num_problems: expected 1 to {fresh.num_problems:,}, got {num_problems}")
    fresh = fresh.take(range(num_problems))
    problems = [problem_of(name) for name in fresh.problem_ids]
    found = stopping.tune(stopping.Thinking(), probed, max_loss=MAX_ACCURACY_DROP, seed=SEED)
    rules = rules_of(found)
    worlds = found.problem.worlds(split(probed, FRACTIONS, seed=SEED)[2])
    played = sims.play_rules(found.problem, [found.reference, *rules], worlds, ("correct", "total_tokens"))
    runs = {name: engine(problems, [None, *rules]) for name, engine in ENGINES.items()}
    return {
        "distributions": Part(
            getdoc(distributions) or "", *distributions(problems, {name: each[0] for name, each in runs.items()}, fresh)
        ),
        "predictions": Part(getdoc(predictions) or "", *predictions(problems, rules, played, runs)),
    }


def problem_of(prompt: str) -> Problem:
    """Return the problem of a prompt, `2 3 4>24`."""
    numbers, _, target = prompt.partition(">")
    return Problem(tuple(map(int, numbers.split())), int(target))


def on_llamacpp(problems: Sequence[Problem], rules: Sequence[Any]) -> list[list[Run]]:
    """Run each problem once under each rule (None: no rule) on llama.cpp's server, several at once."""
    from stopping.adapters.llamacpp import LlamaServer
    from stopping.reasoner import save_gguf

    with tempfile.TemporaryDirectory() as folder:
        save_gguf("target", path := Path(folder) / "reasoner.gguf")
        with LlamaServer(
            path, num_slots=NUM_SLOTS, context_tokens=SLOT_TOKENS, num_threads=1, temperature=1.0
        ) as server:
            return asyncio.run(_served(server.url, problems, rules))


async def _served(url: str, problems: Sequence[Problem], rules: Sequence[Any]) -> list[list[Run]]:
    from stopping.adapters.server.client import Upstream
    from stopping.adapters.server.examination import examine
    from stopping.adapters.server.markup import read_markup
    from stopping.adapters.server.retries import retried
    from stopping.adapters.server.signals import require
    from stopping.adapters.server.thinking import stream
    from stopping.adapters.server.thought_result import ThoughtResult
    from stopping.adapters.server.thought_settings import ThoughtSettings

    gate = asyncio.Semaphore(NUM_SLOTS)

    async def think(settings: ThoughtSettings, problem: Problem, seed: int) -> Run:
        came, log_probs = ThoughtResult(), []
        async with aclosing(stream(settings, prompt_tokens(problem), {"seed": seed}, came)) as parts:
            async for _, token in parts:
                log_probs.append(token.log_prob)
        if came.failure:
            raise RuntimeError(f"{settings.policy}: {came.failure}")
        told, besides = np.array([] if settings.policy else log_probs, float), came.discarded_tokens
        return Run(np.array(came.ids), told, came.total_tokens - besides, besides, came.decisions)

    async def in_turn(*asked: Any) -> Run:
        async with gate:
            return await retried(lambda: think(*asked))

    found = []
    async with Upstream(url) as upstream:
        there = await examine(upstream, num_top=len(TOKENS), measure=False)
        forced: dict[str, Any] = {"answer_tokens": ANSWER_TOKENS, "answer_of": vote_key}
        markup = await read_markup(upstream, there, candidates=[TOKENS[YES]], **forced)
        for number, rule in enumerate(rules):
            if rule is not None:
                require(rule, there, markup)
            settings = ThoughtSettings(upstream, markup, rule, EVERY_TOKENS, CAP_TOKENS, there.num_top)
            seeds = np.random.default_rng([SEED, number]).integers(2**31, size=len(problems)).tolist()
            found.append(await asyncio.gather(*map(in_turn, [settings] * len(problems), problems, seeds)))
    return found


def in_transformers(problems: Sequence[Problem], rules: Sequence[Any]) -> list[list[Run]]:
    """Run each problem once under each rule (None: no rule, by `model.generate`) in transformers, in batches."""
    from stopping.adapters import huggingface  # noqa: I001  (first, for it names the extra)
    import torch
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder_of("target"), dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of("target"))
    options: Any = {"max_new_tokens": CAP_TOKENS, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}

    def alone(inputs: Any) -> list[Run]:
        drawn = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
        ids = drawn.sequences[:, inputs["input_ids"].shape[1] :]
        told = torch.stack(drawn.logits, dim=1).log_softmax(dim=-1).gather(2, ids[:, :, None])[:, :, 0]
        lengths = (ids != PAD).sum(dim=1).tolist()
        rows = zip(ids.numpy(), told.numpy(), lengths, strict=True)
        return [Run(row[:length], values[:length], length, 0, []) for row, values, length in rows]

    def under(rule: Any, inputs: Any) -> list[Run]:
        asked: dict[str, Any] = {"every_tokens": EVERY_TOKENS, "max_answer_tokens": ANSWER_TOKENS, **options}
        came = huggingface.think(model, tokenizer, inputs, rule, answer_of=vote_key, candidate_ids=[YES], **asked)
        besides = np.where(came.stopped, [len(row) for row in came.tokens] - came.thought_tokens, 0)
        counts = zip((came.total_tokens - besides).tolist(), besides.tolist(), strict=True)
        rows = zip(came.tokens, counts, came.decisions, strict=True)
        return [Run(tokens, np.array([]), *count, decisions) for tokens, count, decisions in rows]

    def all_under(number: int, rule: Any) -> list[Run]:
        runs = []
        for start in range(0, len(problems), BATCH_ROWS):
            prompts = [problem.prompt + "<think>" for problem in problems[start : start + BATCH_ROWS]]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
            torch.manual_seed(int(np.random.default_rng([SEED, number, start]).integers(2**31)))
            runs += alone(inputs) if rule is None else under(rule, inputs)
        return runs

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is no faster with more
    try:
        with torch.random.fork_rng(devices=[]):
            return [all_under(*each) for each in enumerate(rules)]
    finally:
        torch.set_num_threads(threads)


ENGINES = {"llama.cpp": on_llamacpp, "transformers": in_transformers}


def rules_of(found: Tuning) -> list[Any]:
    """Return the chosen rule, the safest of its family, and the riskiest of each of `FAMILIES`, without using the test part."""
    riskiest = {one.family: one.policy for one in found.tested if one.family in FAMILIES}  # tested in order of risk
    if found.chosen is None:
        return list(riskiest.values())
    safest = next(one.policy for one in found.tested if one.family == found.chosen.family)
    return list(dict.fromkeys([found.chosen.policy, safest, *riskiest.values()]))


def distributions(
    problems: Sequence[Problem], alone: dict[str, list[Run]], log: TraceLog
) -> tuple[dict[str, Estimate], Figure]:
    """Do the engines, without a rule, sample from the distribution that the log was sampled from?

    If so, the shipped log is valid for tuning rules for them. An engine's log-probabilities of its tokens are compared with
    those of our model reading the same tokens. z is a sum over sampled tokens, of log-probabilities or of closing tags, each less
    its mean under our model, over the standard deviation of that sum: 0 ± 1 if tokens follow our model (a martingale).
    Lengths and accuracy are compared with those of the log's traces of the same problems.
    """
    model, rows, differences = load_model("target"), {}, {}
    for engine, runs in alone.items():
        ours = forced_log_probs(model, problems, runs)
        told = [np.abs(one.log_probs - drawn(each, one.tokens)) for each, one in zip(ours, runs, strict=True)]
        differences[engine] = np.concatenate(told)
        sums, sizes = np.array([(each.sum(), len(each)) for each in told]).T
        rows[f"{engine}: mean absolute difference from our log-probabilities"] = Estimate.ratio(sums, sizes)
        rows[f"{engine}: 99 % quantile of that difference over tokens"] = Estimate.quantile(differences[engine], 0.99)
        rows[f"{engine}: z of log-probabilities"] = z_score(ours, runs, lambda log_probs: log_probs)
        rows[f"{engine}: z of closing tags"] = z_score(ours, runs, closes)
        longer = [one.total_tokens for one in runs] - log.length_tokens.mean(axis=1)
        better = 100 * (correct(problems, runs) - log.correct.mean(axis=1))
        rows[f"{engine}: tokens of a trace, less the log's"] = Estimate.of(longer)
        rows[f"{engine}: accuracy, less the log's, points"] = Estimate.of(better)
    return rows, _picture_of_distributions(differences, alone, log)


def forced_log_probs(model: Llama, problems: Sequence[Problem], runs: Sequence[Run]) -> list[np.ndarray]:
    """Return our model's log-probabilities of all tokens at each position of each run, `[tokens, vocabulary]` each."""
    read = eqx.filter_jit(lambda model, tokens: jax.nn.log_softmax(model(tokens)))
    prompts = [prompt_tokens(problem) for problem in problems]
    lengths = [len(prompt) + len(one.tokens) for prompt, one in zip(prompts, runs, strict=True)]
    order = np.argsort(lengths, kind="stable").tolist()
    found = [np.zeros((0, len(TOKENS)))] * len(runs)
    for start in range(0, len(runs), READ_TRACES):
        batch = order[start : start + READ_TRACES]
        width = -(-lengths[batch[-1]] // WIDTH_TOKENS) * WIDTH_TOKENS
        tokens = np.full((READ_TRACES, width), PAD, np.int32)
        for row, index in enumerate(batch):
            tokens[row, : lengths[index]] = [*prompts[index], *runs[index].tokens]
        values = np.asarray(read(model, tokens), np.float64)
        for row, index in enumerate(batch):
            found[index] = values[row, len(prompts[index]) - 1 : lengths[index] - 1]
    return found


def drawn(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the sampled tokens' values, `[tokens]`, out of the values of all tokens, `[tokens, vocabulary]`."""
    return values[np.arange(len(tokens)), tokens]


def z_score(ours: Sequence[np.ndarray], runs: Sequence[Run], values_of: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Return the sum of the sampled tokens' values, less its mean under our model, over its standard deviation."""
    away = variance = 0.0
    for log_probs, one in zip(ours, runs, strict=True):
        values, probs = values_of(log_probs), np.exp(log_probs)
        mean = np.sum(probs * values, axis=1)
        away += float(np.sum(drawn(values, one.tokens) - mean))
        variance += float(np.sum(probs * (values - mean[:, None]) ** 2))
    return Estimate(away / np.sqrt(variance), 1.0, len(runs))


def closes(log_probs: np.ndarray) -> np.ndarray:
    """Return 1 for the closing tag and 0 for all other tokens, in the shape of the log-probabilities."""
    return np.broadcast_to(np.arange(log_probs.shape[1]) == CLOSE_THINK, log_probs.shape).astype(float)


def correct(problems: Sequence[Problem], runs: Sequence[Run]) -> np.ndarray:
    """Whether the answer at the end of each run's tokens is right."""
    asked = zip(problems, runs, strict=True)
    return np.array([is_right(problem, own_answer(one.tokens)[1] or "") for problem, one in asked])


def predictions(
    problems: Sequence[Problem],
    rules: Sequence[Any],
    played: dict[str, np.ndarray],
    runs: dict[str, list[list[Run]]],
    num_nulls: int = NUM_NULLS,
) -> tuple[dict[str, Estimate], Figure]:
    """How many of the 95 % prediction intervals miss the observed figure, and by how much?

    The intervals allow for two runs of a problem with independent noise. The number of misses is not binomial, because all
    predictions share one test part, all runs share their problems, and all rules of an engine share the run without a rule. So
    its distribution is simulated: problems of the test part are resampled, with runs independent given the problem, and misses
    are counted. The runs' decisions are compared with those of the same policy in JAX on the recorded observations.
    """
    cells = cells_of(problems, rules, played, runs)
    missed = [not cell.predicted.holds(cell.observed.mean) for cell in cells]
    chance = misses_by_chance(played["correct"], played["total_tokens"], len(problems), len(runs), num_nulls)
    rows = {
        f"predictions missed, of {len(cells)}": exact(sum(missed)),
        f"missed by chance, {LEVEL:.0%} quantile": exact(np.quantile(chance, LEVEL, method="inverted_cdf")),
        "missed by chance, mean": Estimate.of(chance),
        "probability of as many by chance": Estimate.of(chance >= sum(missed)),
    }
    for engine, (_, *stopped) in runs.items():
        taken = [[one.decisions for one in each] for each in stopped]
        counts = np.sum([compare_decisions(*pair) for pair in zip(rules, taken, strict=True)], axis=0)
        what = ("decisions", f"decisions within {TIE:g} of a tie", "other decisions that differ from JAX")
        rows |= {f"{engine}: {name}": exact(count) for name, count in zip(what, counts, strict=True)}
        extra = np.mean([[one.extra_tokens for one in each] for each in stopped], axis=0)
        rows[f"{engine}: extra tokens of a run under a rule"] = Estimate.of(extra)
    for cell, miss in zip(cells, missed, strict=True):
        span = "{:.1f} predicted, {:.1f} to {:.1f}".format(*(100 * value for value in cell.predicted))
        name = f"{'missed: ' if miss else ''}{cell.engine}: {cell.rule}: {COMPONENTS[cell.component]} ({span})"
        rows[name] = Estimate(
            100 * cell.observed.mean, 100 * cell.observed.standard_error, cell.observed.num_independent
        )
    pairs = {
        title: {
            engine: [
                (cell.predicted, cell.observed) for cell in cells if (cell.engine, cell.component) == (engine, name)
            ]
            for engine in runs
        }
        for name, title in COMPONENTS.items()
    }
    return rows, predicted_and_observed(pairs)


def cells_of(
    problems: Sequence[Problem], rules: Sequence[Any], played: dict[str, np.ndarray], runs: dict[str, list[list[Run]]]
) -> list[Cell]:
    """Return the predicted and the observed figures of each rule on each engine.

    Args:
        problems: that were run.
        rules: that were played and run, without the reference.
        played: by component, on the test part, reference first; `[1 + rules, problems, orders]`.
        runs: by engine, those without a rule first.
    """
    found = []
    for engine, each in runs.items():
        right = [correct(problems, ones) for ones in each]
        tokens = [np.array([one.total_tokens for one in ones]) for ones in each]
        for place, rule in enumerate(rules, 1):
            pair = [0, place]
            promised = predicted(played["correct"][pair], played["total_tokens"][pair], len(problems), coupled=False)
            came = observed(right[place], tokens[place], right[0], tokens[0])
            found += [Cell(engine, str(rule), name, promised[name], came[name]) for name in COMPONENTS]
    return found


def _picture_of_distributions(differences: dict[str, np.ndarray], alone: dict[str, list[Run]], log: TraceLog) -> Figure:
    figure, (left, right) = panels(2, (7.2, 3.2))
    for index, (engine, runs) in enumerate(alone.items()):
        for axes, values in ((left, differences[engine]), (right, np.array([one.total_tokens for one in runs]))):
            axes.plot(*_survival(values), color=COLOURS[index], linewidth=1.2, label=engine)
    right.plot(*_survival(log.length_tokens[log.present]), color="0.5", linewidth=1.2, linestyle="--", label="the log")
    left.set(xscale="log", yscale="log", xlim=(1e-8, None), ylabel="share of tokens beyond")
    left.set_xlabel("absolute difference from our log-probability")
    right.set(xlabel="tokens of a trace without a rule", ylabel="share of traces beyond", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    return figure


def _survival(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sort(values), 1 - np.arange(len(values)) / len(values)
