"""What importing does, and what it does not need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCK_JAX = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('jax', 'jaxlib', 'equinox', 'scipy'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_stopping_imports_nothing_else():
    code = (
        "import sys; import stopping; print(sorted({'numpy', 'jax', 'pyarrow', 'pydantic', 'sims'} & set(sys.modules)))"
    )
    assert run(code).strip() == "[]"


def test_what_a_server_runs_needs_no_jax():
    code = BLOCK_JAX + (
        "import stopping, stopping.policies, stopping.artifacts.native, stopping.traces, stopping.adapters.vllm\n"
        "print(stopping.policies.bind(stopping.policies.Margin(2), 'python').init())"
    )
    assert run(code).strip() == "()"


def test_a_missing_extra_is_named():
    code = BLOCK_JAX + "import stopping\ntry:\n    stopping.fit\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert run(code).strip() == "stopping.fit needs jax; install it with: pip install 'stopping[tune]'"


def run_beside(tmp_path: Path, name: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder that has a file of this name."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("results = []\n")
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, tmp_path / "script.py"]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["sims.py", "sims/__init__.py"])
@pytest.mark.parametrize("code", ["import stopping", "import sims, stopping"])
def test_another_sims_beside_a_script_is_named(name, code, tmp_path):
    shown = run_beside(tmp_path, name, code)
    assert shown.returncode == 1
    expected = (
        f"ImportError: stopping needs its own package sims, but `import sims` finds {tmp_path / name}; rename that"
    )
    assert expected in shown.stderr


def test_a_folder_that_hides_nothing_is_no_other_sims(tmp_path):
    shown = run_beside(tmp_path, "sims/notes.txt", "import stopping")
    assert not shown.returncode, shown.stderr


def test_importing_a_jax_stage_makes_no_array():
    code = "import jax, stopping\nfor name in stopping.__all__: getattr(stopping, name)\nprint(len(jax.live_arrays()))"
    assert run(code).strip() == "0"


def test_public_names_resolve():
    import stopping

    assert all(getattr(stopping, name) is not None for name in stopping.__all__)
    assert set(dir(stopping)) == set(stopping.__all__)
