"""Both samplers against the quadrature of `stopping.makespan`."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from sims.sampling import Race, first_finish_totals, least_of_all_traces, least_of_two_groups
from sims.sampling.first_finish import LANES
from stopping.makespan.parallel import Points, evaluate, first_finish

NUM_ROUNDS = 200


@pytest.mark.parametrize("least", [least_of_two_groups, least_of_all_traces], ids=["groups", "traces"])
@pytest.mark.parametrize(("num_traces", "chance", "shift"), [(16, 0.4, 0.3), (5, 0.8, -0.2), (1, 0.3, 0.5), (4, 1, 0)])
def test_agrees_with_the_quadrature(least, num_traces, chance, shift):
    parameters = (chance, 8.0, 8.0 + shift, 0.4, 0.5)
    race = Race(*(jnp.float32(value) for value in parameters))
    totals = first_finish_totals(jr.key(5), race, jnp.int32(NUM_ROUNDS), least=least, num_traces=num_traces)
    points = Points(*(jnp.full(1, value, jnp.float32) for value in (*parameters, 0.0, 0.0, np.inf)))
    exact = evaluate(first_finish, points, (num_traces,), False)
    number = NUM_ROUNDS * LANES
    correct, tokens, squared = (np.asarray(part, np.float64).sum() / number for part in totals)
    accuracy = float(exact.accuracy[0, 0])
    assert abs(correct - accuracy) <= 5 * np.sqrt(max(accuracy * (1 - accuracy), 0) / number) + 2e-6
    assert abs(tokens - float(exact.latency_tokens[0, 0])) < 5 * np.sqrt((squared - tokens**2) / number)


def test_double_precision_draws_the_same():
    def totals():
        race = Race(*(jnp.asarray(value, float) for value in (0.4, 8.0, 8.3, 0.4, 0.5)))
        return first_finish_totals(jr.key(0), race, jnp.int32(3), least=least_of_two_groups, num_traces=6)

    narrow = totals()
    with jax.enable_x64(True):
        wide = totals()
    assert wide.tokens.dtype == jnp.float32
    np.testing.assert_allclose(wide.tokens, narrow.tokens, rtol=1e-5)
