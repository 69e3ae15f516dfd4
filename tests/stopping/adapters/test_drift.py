"""Drift: ranks are uniform, bets are fair, alarms are as rare as stated, and changed distributions are named."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stopping
from stopping import artifacts
from stopping.adapters import drift
from stopping.adapters.drift import DIRECTIONS, Drift, Traffic, capital, coarse, factors, rank, staked
from stopping.policies import Margin

STEADY = settings(max_examples=60, deadline=None, derandomize=True)
MIDDLES = (np.arange(1600) + 0.5) / 1600  # the edges of the tails are between them
tied = st.lists(st.integers(-2, 2), min_size=1, max_size=7)


@STEADY
@given(values=tied, place=st.floats(0, 1, exclude_max=True))
def test_the_rank_of_an_exchangeable_value_is_uniform(values, place):
    """The ranks of all values, each taken as the last one, have density 1 together."""
    density = 0.0
    for last in range(len(values)):
        others = np.array(values[:last] + values[last + 1 :], float)
        low, high = (float(rank(others, values[last], uniform)) for uniform in (0, 1))
        density += (low <= place < high) / (high - low) / len(values)
    if min(abs(place - k / len(values)) for k in range(len(values) + 1)) > 1e-12:
        assert density == pytest.approx(1)


def test_bets_are_densities():
    assert factors(MIDDLES).shape == (1600, len(DIRECTIONS))
    assert factors(np.linspace(0, 1, 1001)).min() > 0
    np.testing.assert_allclose(
        factors(MIDDLES).mean(axis=0), 1, rtol=1e-6
    )  # parabolas: the middles are off by 1 / 1600^2


@STEADY
@given(
    worth=st.lists(st.floats(0, 100), min_size=len(DIRECTIONS), max_size=len(DIRECTIONS)),
    num_seen=st.integers(1, 10**6),
)
def test_capital_is_a_martingale(worth, num_seen):
    before = capital(np.array(worth), num_seen - 1)
    after = capital(staked(np.array(worth), MIDDLES, num_seen), num_seen).mean()
    assert after == pytest.approx(before, rel=1e-6)


def test_the_capital_is_one_at_first():
    assert capital(np.zeros(len(DIRECTIONS)), 0) == 1
    assert Drift(Traffic({"x": np.arange(3.0)})).p_value(Drift(Traffic({"x": np.arange(3.0)})).init()) == 1


def run(test, values, uniforms, distributions=("x",)):
    state = test.init()
    for value, uniform in zip(values, uniforms, strict=True):
        state = test.step(state, dict.fromkeys(distributions, value), uniform)
    return state


@pytest.mark.parametrize("forget", ["one at random", "the oldest"])
def test_ranks_stay_independent_when_some_are_forgotten(forget, monkeypatch):
    """Three successive ranks are independent; if the oldest value is always dropped they are not, and this test detects it."""
    seen = []
    monkeypatch.setattr(drift, "rank", lambda kept, value, uniform: seen.append(rank(kept, value, uniform)) or seen[-1])
    if forget == "the oldest":
        monkeypatch.setattr(drift.np, "delete", lambda kept, _: kept[1:])
    random = np.random.default_rng(0)
    for _ in range(3000):
        values, uniforms = random.normal(size=12), random.random(10)
        run(Drift(Traffic({"x": values[:2]}), 1e-300, max_kept=2), values[2:], uniforms)
    ranks = np.array(seen, float).reshape(3000, 10) - 0.5
    product = (ranks[:, 1:] * ranks[:, :-1]).mean(axis=1)
    away = abs(product.mean()) / (product.std(ddof=1) / math.sqrt(3000))
    assert (away < 4.5) == (forget == "one at random"), away
    np.testing.assert_allclose(ranks.var(axis=0), 1 / 12, rtol=0.08)  # 5 standard errors


def test_false_alarms_are_as_rare_as_stated():
    """Two dependent distributions with ties, one sometimes missing, for as long as is feasible."""
    random, alpha, num_runs, alarms = np.random.default_rng(1), 0.1, 250, 0
    for _ in range(num_runs):
        lengths = random.geometric(0.1, 30 + 150)
        agreed = random.random(30 + 150) < 0.7 + 0.02 * np.minimum(lengths, 10)
        test = Drift(Traffic({"length": lengths[:30], "agreed": agreed[:30]}), alpha, max_kept=60)
        state = test.init()
        for length, same, uniform in zip(lengths[30:], agreed[30:], random.random(150), strict=True):
            state = test.step(
                state, {"length": length} if uniform < 0.2 else {"length": length, "agreed": same}, uniform
            )
        alarms += test.alarm(state)
    assert alarms / num_runs < alpha + 4 * math.sqrt(alpha * (1 - alpha) / num_runs)
    assert alarms > 0  # false alarms do occur


CHANGES = {
    "higher": lambda z: z + 1, "lower": lambda z: z - 1, "wider": lambda z: 3 * z, "narrower": lambda z: z / 4,
}  # fmt: skip


@pytest.mark.parametrize("direction", CHANGES)
def test_a_change_is_found_and_described(direction):
    random = np.random.default_rng(2)
    values = random.normal(50, 5, 900)
    values[500:] = 50 + 5 * CHANGES[direction]((values[500:] - 50) / 5)
    other = random.normal(size=900)
    test = Drift(Traffic({"other": other[:300], "moved": values[:300]}), 0.01)
    state, alarms = test.init(), []
    for index in range(300, 900):
        state = test.step(state, {"moved": values[index], "other": other[index]}, random.random())
        alarms.append(test.alarm(state))
    first = alarms.index(True)
    assert 200 < first < 350
    moved, still = test.moves(state)
    assert (moved.distribution, moved.direction, still.distribution) == ("moved", direction, "other")
    assert moved.p_value <= 0.01 < still.p_value
    assert abs(moved.num_recent - (first - 199)) < (20 if direction in ("higher", "lower") else 60)
    assert moved.reference_mean == pytest.approx(values[:300].mean(), rel=1e-3)
    if direction in ("higher", "lower"):
        assert (moved.recent_mean > moved.reference_mean + 2) == (direction == "higher")
    assert alarms[first:] == [True] * (600 - first) and state["moved"].num_seen == first + 1  # frozen


def test_answers_that_agree_less_are_found():
    random = np.random.default_rng(3)
    test = Drift(Traffic({"agreement": random.random(400) < 0.95}))
    state = run(test, random.random(300) < 0.75, random.random(300), ["agreement"])
    (move,) = test.moves(state)
    assert test.alarm(state) and move.direction == "lower"
    assert move.recent_mean < 0.85 < 0.9 < move.reference_mean


def test_no_test_gains_more_than_its_reference_sample_allows():
    """E ln capital <= m KL(F, G) for m values of F, however many of G follow (`theory_notes/08_drift.md`, claim 5)."""
    random, size, before, after = np.random.default_rng(4), 200, 0.95, 0.75
    bound = size * (before * math.log(before / after) + (1 - before) * math.log((1 - before) / (1 - after)))
    logs = []
    for _ in range(36):
        test = Drift(Traffic({"x": random.random(size) < before}), 1e-300)
        state = run(test, random.random(400) < after, random.random(400))["x"]
        logs.append(math.log(capital(state.stakes, state.num_seen)))
    assert np.mean(logs) + 5 * np.std(logs) / 6 < bound
    assert np.mean(logs) > bound / 10


@STEADY
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), cut=st.integers(0, 12), seed=st.integers(0, 99))
def test_a_restarted_server_goes_on_to_the_last_bit(values, cut, seed):
    test = Drift(Traffic({"x": np.arange(4.0), "y": np.arange(3)}), 0.01, max_kept=6)
    uniforms = np.random.default_rng(seed).random(len(values))
    whole, parted = test.init(), test.init()
    for index, (value, uniform) in enumerate(zip(values, uniforms, strict=True)):
        if index == cut:
            parted = test.from_json(test.to_json(parted))
        whole, parted = (test.step(state, {"x": value}, uniform) for state in (whole, parted))
    assert test.to_json(whole) == test.to_json(parted)
    assert whole["y"] is test.init()["y"] or whole["y"].num_seen == 0


@STEADY
@given(st.floats(-1e9, 1e9))
def test_values_are_compared_to_three_digits(value):
    short = float(coarse(value))
    assert short == float(coarse(short))
    assert abs(short - value) <= max(0.005 * abs(value), 1e-6)


def test_a_log_may_keep_fewer_digits_than_a_server():
    exact = -(np.random.default_rng(5).exponential(1.0, 5000) ** 4)
    assert np.mean(coarse(exact.astype(np.float16)) == coarse(exact)) > 0.9
    assert np.count_nonzero(coarse(-np.array([1e-9, 1e-7, 0.0]))) == 0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda test: test.step(test.init(), {"y": 1.0}, 0.5), "values: expected distributions of x, got 'y'"),
        (lambda test: test.step(test.init(), {"x": math.nan}, 0.5), "values.x: expected a finite number, got nan"),
        (lambda test: test.step(test.init(), {"x": 1.0}, 1.0), r"uniform: expected a number in \[0, 1\), got 1.0"),
        (lambda test: Traffic({}), "traffic: expected at least one distribution"),
        (lambda test: Traffic({"x": np.array([math.inf])}), "traffic.x: expected finite numbers"),
        (lambda test: Traffic({"x": np.array(["a"])}), "traffic.x: expected finite numbers"),
        (lambda test: Drift(test.traffic, 1.0), "alpha: expected a number between 0 and 1"),
        (lambda test: Drift(test.traffic, 0.1, 2), "max_kept: expected at least the 3 values"),
        (lambda test: test.from_json("[]"), "state: expected traffic and distributions"),
        (lambda test: test.from_json(changed(test, "traffic", "0")), "state.traffic: belongs to another reference sample"),
        (lambda test: test.from_json(changed(test, "distributions", {})), "state.distributions: expected x"),
        (lambda test: test.from_json(edited(test, "num_seen", -1)), "distributions.x.num_seen: expected a whole number"),
        (lambda test: test.from_json(edited(test, "kept", [])), "distributions.x.kept: expected 1 to 10,000 finite"),
        (lambda test: test.from_json(edited(test, "kept", [True])), "distributions.x.kept: expected 1 to 10,000 finite"),
        (lambda test: test.from_json(edited(test, "stakes", [1.0])), "distributions.x.stakes: expected 10 to 10 finite"),
        (lambda test: test.from_json(edited(test, "stakes", [-1.0] * 10)), "distributions.x.stakes: expected none below 0"),
        (lambda test: test.from_json(edited(test, "most_capital", 0.5)), "distributions.x.most_capital: expected a number"),
        (lambda test: Traffic.of(saved(None)), "traffic: policy.json has none"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(step, message, tmp_path_factory):
    with pytest.raises(ValueError, match=message):
        step(Drift(Traffic({"x": np.arange(3.0)})))


def changed(test, name, value):
    return json.dumps(json.loads(test.to_json(test.init())) | {name: value})


def edited(test, name, value):
    content = json.loads(test.to_json(test.init()))
    content["distributions"]["x"][name] = value
    return json.dumps(content)


def saved(traffic):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return artifacts.load_policy(
            artifacts.save_policy(Margin(2), Path(folder) / "policy", traffic=traffic)
        ).document


def test_the_reference_sample_travels_with_the_policy():
    distributions = {"length_tokens": np.arange(5, dtype=np.int32), "agreement": np.array([True, False])}
    traffic = Traffic.of(saved(distributions))
    assert (
        traffic.digest
        == Traffic(distributions).digest
        != Traffic(distributions | {"agreement": np.array([True, True])}).digest
    )
    assert traffic.distributions["agreement"].tolist() == [1.0, 0.0]


WITHOUT_JAX = """
import sys
sys.modules |= dict.fromkeys(("jax", "jaxlib", "torch", "scipy"))
import numpy as np
from stopping.adapters.drift import Drift, Traffic
test = Drift(Traffic({"x": np.arange(9)}))
print(test.alarm(test.step(test.init(), {"x": 1}, 0.5)))
"""


def test_works_where_jax_cannot_be_imported():
    root = Path(stopping.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", WITHOUT_JAX], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
