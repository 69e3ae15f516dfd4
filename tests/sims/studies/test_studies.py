"""What holds for every study."""

import importlib
import inspect
from pathlib import Path

import pytest

import sims.studies
from stopping.cli.study import OF_A_LOG, STUDIES


def test_every_study_has_its_line_of_help():
    modules = {path.stem for path in Path(sims.studies.__path__[0]).glob("*.py")} - {"__init__"}
    assert modules == set(STUDIES)
    assert set(OF_A_LOG) < modules


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_takes_a_log_unless_it_draws_its_problems(name):
    parameters = inspect.signature(importlib.import_module(f"sims.studies.{name}").run).parameters.values()
    needed = [each.name for each in parameters if each.default is inspect.Parameter.empty]
    assert needed == (["log"] if name in OF_A_LOG else [])
