"""`PosteriorVote`: its probabilities against Bayes' rule by brute force, against what comes true, and its laws."""

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import roots_jacobi
from scipy.stats import norm

import sims
from stopping.models import Answers, LengthCorrectness
from stopping.policies import NO_ANSWER, Kind, PosteriorVote, SamplingObservation, bind, parameters
from stopping.policies.namespace import namespace
from stopping.problems import Sampling, SamplingWorld, as_pytree
from stopping.problems.sampling_events import SamplingDynamics
from stopping.solvers import posterior_vote, sampling_families

FREE = LengthCorrectness(
    2.0, 1.0, 8.0, 0.5, shift=0.3, scale_right=0.3, scale_wrong=0.5, no_answer_prob=0.1, answers=Answers(0.3, 0.5)
)
CUT = LengthCorrectness(
    1.5, 1.5, 8.0, 0.4, shift=0.4, scale_right=0.35, scale_wrong=0.5, loop_prob=0.15, no_answer_prob=0.2,
    cap_tokens=6000.0, answers=Answers(0.2, 0.6),
)  # fmt: skip
FOUR_KINDS = LengthCorrectness(
    0.4, 0.3, 8.0, 0.0, shift=-0.2, scale_right=0.4, scale_wrong=0.3, no_answer_prob=0.1, answers=Answers(-1.0, 3.0)
)


def many_problems(num_problems=200):
    """Problems each known from some traces; the long ones are the hard ones."""
    random = np.random.default_rng(0)
    chance = random.beta(1.5, 1.0, num_problems)
    effect = 8.5 - 0.8 * chance + 0.3 * random.normal(size=num_problems)
    return LengthCorrectness(
        1 + 8 * chance, 9 - 8 * chance, effect, 0.1, shift=0.2, scale_right=0.3, scale_wrong=0.4, loop_prob=0.05,
        cap_tokens=8000.0, answers=Answers(0.2, 1.0),
    )  # fmt: skip


MANY = many_problems()

# (length, answer) of each trace in the order of their ends, and how many have ended; the rest still run
HISTORIES = [
    ([(2000, 0), (2500, 1), (2600, 0), (3000, 2), (5000, 2)], 1),
    ([(2000, 0), (2500, 1), (2600, 0), (3000, 2), (5000, 2)], 3),
    ([(1500, NO_ANSWER), (2500, 1), (2600, 3), (3000, 3), (5000, 3)], 4),
    ([(1500, 4), (2500, 1), (2600, 1), (6000, NO_ANSWER), (6000, NO_ANSWER)], 5),
    ([(800, 0), (900, 0), (1000, 0), (1100, 0), (5999, 0)], 4),
]


def beliefs(policy, stream):
    """P(the leader is right) and the hope after a stream of observations, by the two ends of `score`."""
    xp, state = namespace("numpy"), bind(policy, "numpy").init()
    for observation in stream[:-1]:
        state, _ = bind(policy, "numpy").step(state, observation)
    sure, hopeless = replace(policy, threshold=0.0, least_hope=0.0), replace(policy, threshold=1.0, least_hope=1.0)
    return sure.score(xp, state, stream[-1]), 1 - hopeless.score(xp, state, stream[-1])


def observations(traces, num_ended):
    """What a policy sees of traces started together, until `num_ended` have ended."""
    seen = [SamplingObservation(0, 0, 0, NO_ANSWER, 0, 0, 0, 0)]
    for ended, (length, answer) in enumerate(traces[:num_ended], start=1):
        seen.append(SamplingObservation(len(traces), len(traces) - ended, 0, answer, 0, 0, length, 0))
    return [SamplingObservation(*(np.int32(field) for field in each)) for each in seen]


def brute_force(model, traces, num_ended):
    """The same by Bayes' rule: every hypothesis, trace by trace, on a dense grid of effects and Gauss-Jacobi chances."""
    shared = {name: float(np.asarray(getattr(model, name)).reshape(-1)[0]) for name in SHARED}
    (length, answer), num_running = np.array(traces[:num_ended]).T, len(traces) - num_ended
    labels = [label for label in dict.fromkeys(answer.tolist()) if label >= 0]
    total = {label: np.zeros(2) for label in [*labels, None]}
    log_cap, log_age = np.log(shared["cap_tokens"]), np.log(length[-1])
    alpha, beta, centre, scale = (
        float(values[0]) for values in (model.alpha, model.beta, model.effect, model.effect_scale)
    )
    z = np.linspace(-7, 7, 1501)[:, None]
    effect, mean = centre + scale * z, centre + scale * z + shared["shift"]
    node, weight = roots_jacobi(40, beta - 1, alpha - 1)
    chance, weight = (1 + node) / 2, weight / weight.sum() * norm.pdf(z)
    within = norm.cdf(log_cap, effect, shared["scale_right"])
    right_runs = 1 - norm.cdf(log_age, effect, shared["scale_right"]) / within
    loop = shared["loop_prob"]
    wrong_runs = loop + (1 - loop) * norm.sf(log_age, mean, shared["scale_wrong"])
    runs = chance * right_runs + (1 - chance) * wrong_runs
    next_right = chance * right_runs / runs if num_running else chance + 0 * runs
    for h in total:
        likelihood = weight * runs**num_running
        for tokens, label in zip(length, answer, strict=True):
            if label == h:
                likelihood = likelihood * chance * norm.pdf(np.log(tokens), effect, shared["scale_right"]) / within
            elif label < 0 and tokens >= shared["cap_tokens"]:
                at_cap = loop + (1 - loop) * norm.sf(log_cap, mean, shared["scale_wrong"])
                likelihood = likelihood * (1 - chance) * at_cap
            else:
                silent = shared["no_answer_prob"] if label < 0 else 1 - shared["no_answer_prob"]
                density = norm.pdf(np.log(tokens), mean, shared["scale_wrong"]) * (1 - loop)
                likelihood = likelihood * (1 - chance) * density * silent
        seats = seating(model, [label for label in answer if label >= 0 and label != h])
        total[h] += seats * np.array([likelihood.sum(), (likelihood * next_right).sum()])
    evidence = sum(weight[0] for weight in total.values())
    leader = max(labels, key=lambda label: (answer == label).sum())  # of equals the first seen
    return total[leader][0] / evidence, sum(total[h][1] for h in total if h != leader) / evidence


SHARED = ("shift", "scale_right", "scale_wrong", "loop_prob", "no_answer_prob", "cap_tokens")


def seating(model, labels):
    """Pitman's sequential rule."""
    discount, concentration, prob = float(model.answers.discount), float(model.answers.concentration), 1.0
    for seated, label in enumerate(labels):
        before = labels[:seated]
        copies = before.count(label)
        weight = copies - discount if copies else concentration + discount * len(set(before))
        prob *= weight / (seated + concentration) if seated else 1.0
    return prob


@pytest.mark.parametrize("history", range(len(HISTORIES)))
@pytest.mark.parametrize("model", [FREE, CUT, FOUR_KINDS], ids=["free", "cut", "four-kinds"])
def test_beliefs_against_brute_force(model, history):
    policy = posterior_vote(model, Sampling(6, model=model), 0.5)
    traces, num_ended = HISTORIES[history]
    ours, exact = beliefs(policy, observations(traces, num_ended)), brute_force(model, traces, num_ended)
    np.testing.assert_allclose(ours, exact, atol=1e-5)


def test_nothing_is_believed_before_an_answer():
    policy = posterior_vote(CUT, Sampling(3, model=CUT), 0.5)
    for num_ended in (0, 2):
        stream = observations([(900, NO_ANSWER), (6000, NO_ANSWER), (6000, 0)], num_ended)
        assert beliefs(policy, stream) == (0, 1)


def test_the_order_of_ends_is_forgotten_when_all_have_ended():
    """Two votes to one to one: the leader's probability depends on which lengths go with which answer alone."""
    policy = posterior_vote(FREE, Sampling(4, model=FREE), 0.5)
    traces = [(2000, 0), (2500, 1), (2600, 1), (4000, 2)]
    stream = observations(traces, 4)
    expected = beliefs(policy, stream)
    for order in permutations(range(4)):
        start, seen = 0, [stream[0]]
        for count, index in enumerate(order, start=1):  # one by one
            start += traces[index][0]
            fields = (count, 0, 0, traces[index][1], 0, 0, start, 0)
            seen.append(SamplingObservation(*(np.int32(field) for field in fields)))
        np.testing.assert_allclose(beliefs(policy, seen), expected, atol=1e-5)


def paths(policy, problem, worlds):
    """At each decision point of worlds that nobody stops: P(the leader is right), the hope, the leader and its votes."""
    xp, bound = namespace("jax"), bind(policy, "jax")
    sure, hopeless = (as_pytree(replace(policy, threshold=x, least_hope=x)) for x in (0.0, 1.0))

    def path(world):
        dynamics = SamplingDynamics(world, problem.wave_size, None, policy.kinds)

        def event(carry, _):
            run, state = carry
            seen = dynamics.observe(run)
            row = (sure.score(xp, state, seen), 1 - hopeless.score(xp, state, seen), run.leader.label, run.leader.votes)
            state, action = bound.step(state, seen)
            return (dynamics.advance(dynamics.decide(run, action._replace(kind=jnp.int8(0))).run), state), row

        return jax.lax.scan(event, (dynamics.start(), bound.init()), length=problem.num_traces + 1)[1]

    return [np.asarray(rows) for rows in jax.jit(jax.vmap(path))(jax.tree.map(jnp.asarray, worlds))]


@pytest.mark.parametrize(
    ("model", "wave_size", "error"), [(FREE, None, 0), (CUT, 1, 0), (CUT, 2, 0), (MANY, None, 0.02)],
    ids=["free", "cut-in-sequence", "cut-waves", "many"],
)  # fmt: skip
def test_what_is_believed_comes_true(model, wave_size, error):
    """In worlds drawn from the model, at every decision point, in bins of what is believed: 4.5 standard errors.

    Of many problems only mean, variance and covariance are kept: within .02 more.
    """
    problem = Sampling(6, model=model, wave_size=wave_size)
    worlds = sims.draw(jax.random.key(0), problem, 8192)
    prob, hope, leader, votes = paths(posterior_vote(model, problem, 0.9), problem, worlds)
    right = np.take_along_axis(np.asarray(worlds.right), leader, axis=1)
    for step in range(1, 7):
        believed, true = (values[:, step][votes[:, step] > 0] for values in (prob, right))
        edges = np.quantile(believed, [0.2, 0.4, 0.6, 0.8])
        for part in range(5):
            here = np.digitize(believed, edges) == part
            spread = np.sqrt((believed * (1 - believed))[here].sum())
            assert abs((true - believed)[here].sum()) < 4.5 * spread + error * here.sum()
        if step < 6 and wave_size == 1:  # hope: the next trace is right, and the leader is not
            better = (np.asarray(worlds.right) & ~right[:, step, None])[:, step]
            gap = (better - hope[:, step])[votes[:, step] > 0]
            assert abs(gap.mean()) < 4.5 * gap.std() / np.sqrt(gap.size)
    assert believed.std() > 0.15  # it says something


def test_when_all_have_ended_it_is_the_model_s_own_posterior():
    problem = Sampling(6, model=CUT)
    worlds = sims.draw(jax.random.key(0), problem, 300)
    prob, _, leader, votes = paths(posterior_vote(CUT, problem, 0.9), problem, worlds)
    exact = np.asarray(jax.jit(jax.vmap(CUT.right_probs))(worlds.problem, worlds.length_tokens, worlds.answer))
    exact = np.take_along_axis(exact, leader[:, -1:], axis=1)[:, 0]
    answered = votes[:, -1] > 0
    assert np.abs(prob[:, -1] - exact)[answered].max() < 2e-4  # two quadratures, in single precision


def test_a_fit_s_problems_are_summed_up_exactly():
    """The table's chances and effects have the means, variances and covariance of a problem drawn at random."""
    policy = posterior_vote(MANY, Sampling(16, model=MANY), 0.5)
    weight = np.exp(policy.log_prior.astype(float))
    effect, chance = policy.effects[:, None].astype(float), policy.chances.astype(float)
    alpha, beta, centre = (np.asarray(values, float) for values in (MANY.alpha, MANY.beta, MANY.effect))
    mean = alpha / (alpha + beta)
    second = mean * (alpha + 1) / (alpha + beta + 1)
    ours = [1, chance, effect, chance**2, effect * chance, effect**2]
    exact = [1, mean, centre, second, centre * mean, centre**2 + 0.01]
    for one, other in zip(ours, exact, strict=True):
        np.testing.assert_allclose((weight * one).sum(), np.mean(other), rtol=2e-6)


def test_a_score_beyond_the_bounds_counts_as_at_the_bound():
    """A freak length is not taken for proof."""
    policy = posterior_vote(FREE, Sampling(2, model=FREE), 0.5)
    believed = [beliefs(policy, observations([(length, 0), (9000, 1)], 1))[0] for length in (2, 1)]
    assert believed[0] == pytest.approx(believed[1], abs=1e-6)
    assert 0 < believed[0] < 1


def test_a_new_wave_starts_in_doubt():
    """Two at once: when both have ended in doubt the next two start, and when they agree, none."""
    problem = Sampling(6, model=CUT, wave_size=2)
    policy = posterior_vote(CUT, problem, 0.8)
    lengths = np.array([900, 1000, 1100, 1200, 900, 900], np.int32)

    def launched(answer):
        label = np.array(answer, np.int32)
        world = SamplingWorld(lengths, label == 0, label, np.ones(6, bool), np.int32(0))
        stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None, None], world)
        return sims.replay_worlds(problem, policy, stacked).values["num_launched"][0]

    assert launched([0, 0, 0, 0, 0, 0]) == 2
    assert launched([0, 1, 0, 0, 0, 0]) == 4
    assert launched([0, 1, 2, 3, 4, 5]) == 6
    assert Kind.LAUNCH not in policy.kinds


def test_the_family_shares_its_tables():
    problem = Sampling(4, model=CUT)
    members = sampling_families(problem, SimpleNamespace(length_tokens=np.arange(1, 9), logged=np.full(8, True)))[
        "PosteriorVote"
    ]
    assert len({(member.threshold, member.least_hope) for member in members}) == len(members) > 10
    assert members[0] == posterior_vote(CUT, problem, members[0].threshold, members[0].least_hope)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold": 1.5}, "threshold: expected a number in"),
        ({"least_hope": -0.1}, "least_hope: expected a number in"),
        ({"cap_tokens": 0}, "cap_tokens: expected a whole number >= 1"),
        ({"effects": [8.0]}, "expected one size of effects"),
        ({"log_prior": [1.0, 2.0]}, "log_prior: expected a non-empty list of float32"),
        ({"chances": [0.0, 0.5, 1.0]}, "expected chances between 0 and 1"),
        ({"scale_right": 0.0}, "scales above 0"),
        ({"loop_prob": 2.0}, "a probability loop_prob"),
    ],
)
def test_parameters_are_checked(changes, says):
    policy = posterior_vote(CUT, Sampling(5, model=CUT), 0.9)
    with pytest.raises(ValueError, match=says):
        PosteriorVote(**(parameters(policy) | changes))
