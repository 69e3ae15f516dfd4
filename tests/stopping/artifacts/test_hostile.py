"""Loading a corrupted artifact is refused by name, or gives the original decisions."""

from collections import Counter

import pytest

from tests.stopping.artifacts import hostile

NUM_CASES, SEED = 1000, 0


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    directory = tmp_path_factory.mktemp("originals")
    return [hostile.original(policy, directory / str(number)) for number, policy in enumerate(hostile.POLICIES)]


def test_a_thousand_corruptions(originals, tmp_path):
    outcomes = [hostile.run(originals, SEED, number, tmp_path) for number in range(NUM_CASES)]
    broken = {number: o for number, o in enumerate(outcomes) if o.verdict not in ("refused", "original")}
    assert not broken
    assert max(outcome.seconds for outcome in outcomes) < 5
    counts = Counter(outcome.verdict for outcome in outcomes)
    assert min(counts.values()) > 50  # both ends of the law are met
    done = Counter(name for outcome in outcomes for name in outcome.done.split(", "))
    assert {corruption.__name__ for corruption in hostile.CORRUPTIONS} | {"signed"} <= set(done)


def test_cases_are_made_from_their_number(originals):
    import numpy as np

    one, other = (hostile.corrupt(np.random.default_rng([SEED, 5]), originals[0]) for _ in range(2))
    assert one == other
