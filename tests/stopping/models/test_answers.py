"""The distribution of wrong answers against its definition: every set partition, seated one by one."""

from collections.abc import Iterator
from fractions import Fraction
from math import factorial, prod

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import chisquare

from stopping.makespan import majority_curve
from stopping.models import Answers, LengthCorrectness
from stopping.models.answers import MAX_VOTES
from stopping.policies import NO_ANSWER

# discount, concentration: infinitely many kinds, and 3 or 5 of them
PARAMETERS = [(0.0, 1.0), (0.0, 0.2), (0.5, 0.7), (0.9, -0.5), (-1.0, 3.0), (-0.3, 1.5)]


def set_partitions(size: int) -> Iterator[list[int]]:
    """All ways to label 0 .. size - 1 by the first element of their block."""
    if size == 0:
        yield []
        return
    for labels in set_partitions(size - 1):
        for label in [*sorted(set(labels)), size - 1]:
            yield [*labels, label]


def partitions(total: int, largest: int) -> Iterator[list[int]]:
    """All ways to write `total` as a sum of sizes, from the largest down."""
    if total == 0:
        yield []
    for size in range(min(total, largest), 0, -1):
        for rest in partitions(total - size, size):
            yield [size, *rest]


def seating_prob(labels: list[int], discount: float, concentration: float) -> float:
    """The product of the sequential rule of the module's head."""
    prob = 1.0
    for m, label in enumerate(labels):
        before = labels[:m]
        kinds = len(set(before))
        if m and label in before:
            prob *= (before.count(label) - discount) / (m + concentration)
        elif m:
            prob *= max(concentration + discount * kinds, 0.0) / (m + concentration)
    return prob


def block_sizes(labels: list[int]) -> list[int]:
    return [labels.count(label) for label in sorted(set(labels))]


def log_prob(answers: Answers, blocks: np.ndarray) -> jax.Array:
    """Of each row of block sizes, 0 for no block."""
    num_kinds, num_wrong = jnp.asarray((blocks > 0).sum(axis=-1)), jnp.asarray(blocks.sum(axis=-1))
    copies = answers.log_copies(jnp.asarray(blocks), 8)
    return answers.log_block_weights(num_kinds, num_wrong, 8) + copies.sum(axis=-1)


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("num_wrong", range(1, 8))
def test_partitions_have_the_sequential_rule_s_probability_and_sum_to_one(
    parameters: tuple[float, float], num_wrong: int
) -> None:
    labels = list(set_partitions(num_wrong))
    blocks = np.array([sizes + [0] * (num_wrong - len(sizes)) for sizes in map(block_sizes, labels)])
    with jax.enable_x64(True):
        ours = np.exp(log_prob(Answers(*parameters), blocks))
    expected = [seating_prob(each, *parameters) for each in labels]
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-14)
    assert ours.sum() == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_leads_against_every_set_partition(parameters: tuple[float, float]) -> None:
    most = 7
    with jax.enable_x64(True):
        leads = np.asarray(Answers(*parameters).leads(most))
    expected = np.zeros((most + 1, most + 1))
    expected[1:, 0] = 1
    for num_wrong in range(1, most + 1):
        for labels in set_partitions(num_wrong):
            sizes, prob = np.array(block_sizes(labels)), seating_prob(labels, *parameters)
            for right in range(most + 1):
                share = 1 / (1 + (sizes == right).sum()) if right == sizes.max() else float(right > sizes.max())
                expected[right, num_wrong] += prob * share
    np.testing.assert_allclose(leads, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_leads_against_every_partition_in_fractions(parameters: tuple[float, float]) -> None:
    most = 12
    discount, concentration = map(Fraction, parameters)
    expected = np.zeros((most + 1, most + 1))
    expected[1:, 0] = 1
    for num_wrong in range(1, most + 1):
        column = [Fraction(0)] * (most + 1)
        for sizes in partitions(num_wrong, num_wrong):
            ways = Fraction(factorial(num_wrong), prod(factorial(size) for size in sizes))
            ways /= prod(factorial(sizes.count(size)) for size in set(sizes))
            kinds = prod(max(concentration + i * discount, Fraction(0)) for i in range(1, len(sizes)))
            copies = prod(i - discount for size in sizes for i in range(1, size))
            prob = ways * kinds * copies / prod(concentration + i for i in range(1, num_wrong))
            column[sizes[0]] += prob / (sizes.count(sizes[0]) + 1)
            for right in range(sizes[0] + 1, most + 1):
                column[right] += prob
        expected[:, num_wrong] = [float(each) for each in column]
    single = np.asarray(Answers(*parameters).leads(most))
    with jax.enable_x64(True):
        double = np.asarray(Answers(*parameters).leads(most))
    assert single.dtype == np.float32
    assert np.abs(single - expected).max() < 1e-6
    np.testing.assert_allclose(double, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "parameters", [*PARAMETERS, (0.0, 1e-3), (0.0, 1e3), (0.99, -0.98), (0.29, 44.0), (-1000.0, 3000.0)]
)
def test_leads_in_single_precision_at_the_limit(parameters: tuple[float, float]) -> None:
    """Rounding alone: 4e-6 over 300 random distributions."""
    rounded = tuple(float(np.float32(number)) for number in parameters)
    single = np.asarray(Answers(*rounded).leads(MAX_VOTES))
    with jax.enable_x64(True):
        double = np.asarray(Answers(*rounded).leads(MAX_VOTES))
        few = np.asarray(Answers(*rounded).leads(9))
    assert single.dtype == np.float32 and double.dtype == np.float64
    assert np.abs(single - double).max() < 5e-6
    np.testing.assert_allclose(double[:10, :10], few, rtol=1e-13)  # whatever the table's size
    beyond = np.tril(np.ones(double.shape, bool), -1)
    np.testing.assert_allclose(double[beyond], 1, rtol=1e-7)  # 8e-9 where 0.3 and 1.5 are rounded: no longer five kinds
    assert (double[0] == 0).all() and (np.diff(double, axis=0) > -1e-7).all()


@pytest.mark.parametrize("parameters", PARAMETERS[:4])
def test_leads_have_the_slopes_of_their_differences(parameters: tuple[float, float]) -> None:
    total = lambda parameters: Answers(parameters[0], parameters[1]).leads(6).sum()  # noqa: E731
    single = jax.grad(total)(jnp.asarray(parameters))
    with jax.enable_x64(True):
        at, step = jnp.asarray(parameters), 1e-6
        differences = [(total(at.at[i].add(step)) - total(at.at[i].add(-step))) / (2 * step) for i in range(2)]
        np.testing.assert_allclose(jax.grad(total)(at), differences, rtol=1e-7)
    np.testing.assert_allclose(single, differences, rtol=1e-5)


def test_leads_refuse_more_than_the_limit() -> None:
    with pytest.raises(ValueError, match=f"max_traces: expected at most {MAX_VOTES}, got {MAX_VOTES + 1}"):
        Answers().leads(MAX_VOTES + 1)


def test_majority_curve_holds_at_the_limit() -> None:
    model = LengthCorrectness(2.0, 1.5, 7.5, 0.5, no_answer_prob=0.1, answers=Answers(0.3, 0.8))
    single = majority_curve(model, (MAX_VOTES,)).accuracy
    with jax.enable_x64(True):
        double = majority_curve(model, (MAX_VOTES,)).accuracy
    assert np.abs(single - double).max() < 2e-6


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_the_parts_of_a_partition_s_probability_add_up(parameters: tuple[float, float]) -> None:
    with jax.enable_x64(True):
        answers = Answers(*parameters)
        for labels in set_partitions(6):
            sizes = np.array(block_sizes(labels))
            whole = log_prob(answers, sizes)
            steps = np.arange(1, 9)
            counted = answers.log_likelihood(
                jnp.asarray(sizes.size > steps, float),
                jnp.asarray(steps < 6, float),
                jnp.asarray((sizes[:, None] > steps).sum(axis=0), float),
            )
            np.testing.assert_allclose(counted, whole, rtol=1e-10)
        assert (
            answers.log_block_weights(jnp.asarray(0), jnp.asarray(0), 8) == 0 == answers.log_copies(jnp.asarray(0), 8)
        )


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_draws_follow_the_distribution(parameters: tuple[float, float]) -> None:
    num_draws, everyone = 20_000, jnp.ones(4, bool)
    draw = jax.jit(jax.vmap(lambda key: Answers(*parameters).draw(key, ~everyone, everyone)))
    drawn = np.asarray(draw(jr.split(jr.key(0), num_draws)))
    labels = list(set_partitions(4))
    expected = np.array([seating_prob(each, *parameters) for each in labels])
    observed = np.array([(drawn == each).all(axis=1).sum() for each in labels])
    assert observed.sum() == num_draws  # every draw is one of the set partitions
    possible = expected > 1e-12
    assert observed[~possible].sum() == 0
    assert chisquare(observed[possible], expected[possible] / expected.sum() * num_draws).pvalue > 1e-3


@pytest.mark.parametrize(("weight", "kinds"), [(1.0, 3), (0.1, 3), (0.7, 2), (1 / 3, 5)])
def test_finitely_many_kinds_never_run_out_of_bounds(weight: float, kinds: int) -> None:
    everyone = jnp.ones(30, bool)
    draw = jax.jit(jax.vmap(lambda key: Answers(-weight, kinds * weight).draw(key, ~everyone, everyone)))
    drawn = np.asarray(draw(jr.split(jr.key(1), 5000)))
    num_kinds = [len(set(row)) for row in drawn.tolist()]
    assert max(num_kinds) == kinds


def test_labels_are_the_first_trace_with_the_same_answer() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((2000, 9)) < 0.4
    answered = right | (rng.random((2000, 9)) < 0.7)
    label = np.asarray(
        jax.vmap(Answers(0.2, 0.5).draw)(jr.split(jr.key(2), 2000), jnp.asarray(right), jnp.asarray(answered))
    )
    assert label.dtype == np.int32
    assert ((label == NO_ANSWER) == ~answered).all()
    first = np.where(answered[:, None, :] & (label[:, :, None] == label[:, None, :]), np.arange(9), 9).min(axis=2)
    assert (label[answered] == first[answered]).all()
    same = (label[:, :, None] == label[:, None, :]) & answered[:, :, None] & answered[:, None, :]
    assert not (same & (right[:, :, None] != right[:, None, :])).any()  # no wrong answer equals the right one
    assert same[right[:, :, None] & right[:, None, :]].all()
