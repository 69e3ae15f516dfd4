"""The study of scaling at a small size: its figures are positive, its line is fitted, and longer chains take more memory."""

import numpy as np
import pytest

import sims.studies.scaling as study


def test_it_measures_what_it_says():
    parts = study.run(num_blocks=(1, 2), num_points=(2, 8), repeats=1)
    assert list(parts) == ["worlds", "devices", "decision_points"]
    assert all(estimate.mean >= 0 for part in parts.values() for estimate in part.rows.values())
    memory = [estimate.mean for name, estimate in parts["decision_points"].rows.items() if "bytes" in name]
    assert memory[1] > memory[0] > 0


def test_the_line_is_found_and_never_below_nothing():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    assert study._line(x, 3 + 2 * x) == pytest.approx((3, 2))
    assert study._line(x, 2 * x) == pytest.approx((0, 2), abs=1e-9)
