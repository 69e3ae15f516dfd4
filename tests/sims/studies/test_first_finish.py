"""The map of first finish: its zero line is the theory's, and simulation agrees with it."""

import numpy as np
import pytest

import sims.studies.first_finish as study
from tests.stopping.cli.test_commands import run


def test_first_finish_pays_from_no_shift_where_dispersions_are_equal():
    for count in study.COUNTS:  # claim 2 of the theory note
        assert study.pays_from(1.0, count, 1) == pytest.approx(0, abs=1e-4)


def test_more_dispersed_wrong_traces_need_more_shift_and_more_so_of_many():
    """Claim 3: the early tail decides."""
    needed = np.array([[study.pays_from(r, n, 1) for r in (0.7, 1.5, 2.0)] for n in study.COUNTS])
    assert (np.diff(needed, axis=1) > 0.05).all()
    assert needed[1, 0] < needed[0, 0] < 0 < needed[0, 1] < needed[1, 1]
    first, vote = study.both_of(study.pays_from(2.0, 16, 16), 2.0, 16)
    assert first[0] == pytest.approx(vote[0], abs=1e-4)


def test_the_study_agrees_with_simulation(tmp_path, monkeypatch):
    parts = {}
    whole = study.run
    monkeypatch.setattr(study, "COUNTS", (4,))
    monkeypatch.setattr(study, "CHECKED", study.CHECKED[:3])
    monkeypatch.setattr(study, "TOLD", (1.0, 2.0))
    monkeypatch.setattr(study, "run", lambda: parts.update(whole(num_cells=5, num_replicas=4096)) or parts)
    run("study", "first_finish", "--out", tmp_path / "study")
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert files == {"README.md", *(f"{part}.png" for part in study.QUESTIONS)}

    (away,) = (row.mean for name, row in parts["accuracy"].rows.items() if "discrepancies" in name)
    assert 0 < away < 5
    many = parts["many"].rows
    for ratio in study.TOLD:
        told = many[f"dispersions {ratio:g}: accuracy of the first of 64, %"].mean
        drawn = many[f"dispersions {ratio:g}: the same, simulated, %"]
        assert abs(drawn.mean - told) < 5 * drawn.standard_error
    zero = parts["accuracy"].rows["the first of 4, dispersions 1: right more often than a single trace from a shift of"]
    assert zero.mean == 0  # to three decimals
    saved = [row.mean for name, row in parts["cost"].rows.items() if name.endswith("saved, %")]
    assert len(saved) == 2 * len(study.TOLD) and min(saved) > 0
