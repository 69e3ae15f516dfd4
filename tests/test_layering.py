"""Who may import whom: the table of CONTRIBUTING.md, read against the code."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "policies": set(),
    "traces": set(),
    "artifacts": {"policies", "traces"},
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
ANYTHING = {"cli", "plots", "report"}  # and sims/studies, and stopping/__init__.py, but for `cli`


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
                found.add(parts[1] if len(parts) > 1 else "the table of contents")
    return found


def library() -> list[Path]:
    return [path for package in ("stopping", "sims") for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_what_the_table_allows(room):
    assert room in MAY_IMPORT or room in ANYTHING, f"{room}: a room the table does not know"
    if room in ANYTHING:
        return
    for path in files_of(room):
        beyond = imported_rooms(path) - MAY_IMPORT[room] - {room}
        assert not beyond, f"{path.relative_to(ROOT)} imports {sorted(beyond)}"


def test_only_the_command_line_imports_the_command_line():
    outside = [path for path in library() if not path.is_relative_to(ROOT / "stopping" / "cli")]
    assert len(outside) > 100
    for path in outside:
        assert "cli" not in imported_rooms(path), f"{path.relative_to(ROOT)} imports stopping.cli"


def test_the_table_is_in_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for room, allowed in MAY_IMPORT.items():
        row = f"| `{room}` | {', '.join(f'`{name}`' for name in sorted(allowed)) or 'nothing'} |"
        assert row in text, row


PACKAGES = [path.parent for folder in ("sims", "stopping") for path in sorted((ROOT / folder).rglob("__init__.py"))]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_public_name_hides_a_module_of_its_package(package):
    """If it did, `package.name` would be the module or the function, depending on what was imported first."""
    body = ast.parse((package / "__init__.py").read_text()).body
    assigned = {
        ast.unparse(target): node.value for node in body if isinstance(node, ast.Assign) for target in node.targets
    }
    if "__all__" not in assigned:
        return  # such as stopping.cli, whose commands are not an interface for Python
    names = {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    if isinstance(lazy := assigned.get("_PUBLIC"), ast.Dict):
        names |= set(ast.literal_eval(lazy))
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not names & modules


def test_only_the_marker_skips_where_torch_is_missing():
    """`make torch` runs the tests with this marker: a test that skips in another way would never be run."""
    wrong = re.compile(r"(importorskip|find_spec)\(\W*(torch|transformers)")
    assert not [path for path in (ROOT / "tests").rglob("*.py") if wrong.search(path.read_text(encoding="utf-8"))]


def imported_modules(room: str) -> dict[str, set[str]]:
    """The modules of a room, each with those of the same room that it imports anywhere in its text."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files_of(room)
    }
    imports: dict[str, set[str]] = {}
    for module, path in paths.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = (f"{node.module}.{alias.name}" for alias in node.names)
                names |= {name if name in paths else node.module for name in inner}
        imports[module] = (names & paths.keys()) - {module}
    return imports


@pytest.mark.parametrize("room", ["adapters", "calibration", "makespan", "models", "traces", "tuning"])
def test_modules_of_a_room_import_one_another_in_no_circle(room):
    """Imports for types alone and inside functions count too."""
    assert not circle_in(imported_modules(room))


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """A circle of imports, its first module repeated at the end; empty if there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_is_found():
    assert set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}
    assert not circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()})
