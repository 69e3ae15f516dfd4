import numpy as np
import pytest

import stopping
from stopping.plots import frontier
from stopping.plots.frontiers import _undominated
from stopping.problems import Sampling
from stopping.solvers import default_rules
from stopping.traces import from_columns


def drawn_log():
    rng = np.random.default_rng(0)
    num_problems, num_samples = 60, 8
    chance = np.repeat(rng.beta(1.2, 0.8, num_problems), num_samples)
    right = rng.random(chance.size) < chance
    return from_columns(
        {
            "problem": np.repeat(np.arange(num_problems), num_samples),
            "sample": np.tile(np.arange(num_samples), num_problems),
            "length_tokens": np.ceil(np.exp(8 + 0.4 * rng.normal(size=right.size) + 0.3 * ~right)).astype(int),
            "correct": right,
            "answer": np.where(right, "right", rng.integers(0, 4, right.size).astype(str)),
        }
    )


@pytest.fixture(scope="module")
def comparison():
    log, problem = drawn_log(), Sampling(8, decision_interval_tokens=500)
    return stopping.compare(problem, default_rules(problem, problem.worlds(log)), log)


def names_of(comparison):
    return [str(row.policy) for row in comparison.rows]


def test_labels_cover_neither_each_other_nor_points_and_stay_inside(comparison):
    figure = frontier(comparison, names_of(comparison))
    (axes,) = figure.axes
    labels = [text for text in axes.texts if text.get_gid() == "label"]
    assert len(labels) == len(comparison.rows) >= 12
    boxes = [label.get_window_extent() for label in labels]
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert not (
                one.overlaps(other) and one.intersection(one, other).width > 0.5 < one.intersection(one, other).height
            )
        assert one.x0 >= 0 and one.x1 <= figure.bbox.width and one.y0 >= 0 and one.y1 <= figure.bbox.height
    assert axes.get_title(loc="right") == "± one standard error over 60 problems"
    points = axes.transData.transform(
        [(row.result.total_tokens.mean / 1000, row.result.correct.mean * 100) for row in comparison.rows]
    )
    assert not any(box.contains(*point) for box in boxes for point in points)
    leaders = [axes.transData.transform(line.get_xydata()) for line in axes.lines if line.get_gid() == "leader"]
    assert leaders
    for start, end in leaders:  # from a point to a name, in the limits the picture ends up with
        assert np.abs(points - start).max(axis=1).min() < 1e-6
        assert any(box.padded(3).contains(*end) for box in boxes)


def test_names_are_those_given_and_the_reference_is_marked(comparison):
    names = [f"rule {i}" for i in range(len(comparison.rows))]
    (axes,) = frontier(comparison, names).axes
    shown = {text.get_text() for text in axes.texts}
    assert shown == {"rule 0 (reference)", *names[1:]}
    assert axes.get_xlabel().endswith("thousands") and axes.get_ylabel() == "accuracy, %"


def test_latency_is_another_axis_and_other_costs_are_refused(comparison):
    (axes,) = comparison.plot(against="latency_tokens").axes
    assert axes.get_xlabel().startswith("latency, tokens")
    shown = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() != "None"}
    unit = 1000 if "thousands" in axes.get_xlabel() else 1
    assert shown >= {(row.result.latency_tokens.mean / unit, row.result.correct.mean / 0.01) for row in comparison.rows}
    with pytest.raises(ValueError, match="against: expected one of total_tokens, latency_tokens, got 'money'"):
        comparison.plot(against="money")


def test_the_frontier_joins_the_rules_that_none_beats():
    x, y = np.array([1.0, 2.0, 3.0, 3.0, 4.0]), np.array([0.5, 0.4, 0.7, 0.6, 0.7])
    assert _undominated(x, y) == [0, 2]
