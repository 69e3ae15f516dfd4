"""Who may import whom: the table of CONTRIBUTING.md, read against the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "policies": set(),
    "traces": set(),
    "artifacts": {"policies"},
    "adapters": {"artifacts", "policies", "traces"},
    "models": {"policies"},
    "makespan": {"models"},
    "problems": {"models", "policies", "traces"},
    "sims": {"problems", "models", "policies", "traces"},
    "solvers": {"problems", "policies", "sims", "makespan"},
    "reasoner": {"policies", "traces"},
    "calibration": {"traces", "models", "sims", "solvers"},
    "tuning": {"calibration", "policies", "problems", "sims", "solvers", "traces"},
}
ANYTHING = {"cli", "plots", "report"}  # and sims/studies, and stopping/__init__.py, the lazy table of contents


def rooms() -> list[str]:
    inside = [path.stem for path in (ROOT / "stopping").iterdir() if path.is_dir() or path.suffix == ".py"]
    return sorted({name for name in inside if name.isidentifier() and not name.startswith("_")} | {"sims"})


def files_of(room: str) -> list[Path]:
    folder = ROOT / ("sims" if room == "sims" else f"stopping/{room}")
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    return [path for path in files if path.parent != ROOT / "sims" / "studies"]


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, anywhere in it."""
    found, tree = set(), ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; import by the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "sims":
                found.add("sims")
            elif parts[0] == "stopping":
                assert len(parts) > 1, f"{path}: imports the table of contents; import the room"
                found.add(parts[1])
    return found


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_what_the_table_allows(room):
    assert room in MAY_IMPORT or room in ANYTHING, f"{room}: a room the table does not know"
    if room in ANYTHING:
        return
    for path in files_of(room):
        beyond = imported_rooms(path) - MAY_IMPORT[room] - {room}
        assert not beyond, f"{path.relative_to(ROOT)} imports {sorted(beyond)}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules that a file imports, in function bodies and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules if submodules <= modules else {str(node.module)} | submodules
    return found & modules


def cycle_in(imports: dict[str, set[str]]) -> list[str]:
    """A cycle of imports, its first module repeated at the end; empty if there is none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(imports[name]):
                if cycle := search(other, [*path, name]):
                    return cycle
            done.add(name)
        return []

    return next(filter(None, (search(name, []) for name in sorted(imports))), [])


def test_no_two_modules_of_the_adapters_import_each_other():
    files = {module_name(path): path for path in files_of("adapters")}
    cycle = cycle_in({name: imported_modules(path, set(files)) for name, path in files.items()})
    assert not cycle, " -> ".join(cycle)


def test_a_cycle_of_imports_is_found():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert not cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_the_table_stands_in_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for room, allowed in MAY_IMPORT.items():
        row = f"| `{room}` | {', '.join(f'`{name}`' for name in sorted(allowed)) or 'nothing of ours'} |"
        assert row in text, row


def test_only_the_marker_skips_where_torch_is_missing():
    """`make torch` runs the tests with this marker: a test that skips in another way would never be run."""
    wrong = re.compile(r"(importorskip|find_spec)\(\W*(torch|transformers)")
    assert not [path for path in (ROOT / "tests").rglob("*.py") if wrong.search(path.read_text(encoding="utf-8"))]
