"""What all tests share: kept compilations, a limit on memory maps, and the marker of tests that need torch."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

# Compiled programs are kept between runs. Read by JAX when it is imported, here and in processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# A cold run is mostly compilation. These options make it four times faster; `make nightly` compiles as users do.
if os.environ.get("STOPPING_NIGHTLY") != "1":
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )

TORCH_LIBRARIES = ("torch", "transformers")

MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000  # Linux allows 65,530; a compiler that gets no more crashes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that get torch or transformers from a fixture of that name, and start with the files of slow tests.

    A worker runs whole files. A long one that starts last would leave the other worker idle.
    """
    for item in items:
        if not set(TORCH_LIBRARIES).isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("torch")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests marked `torch`, visibly, where torch or transformers is not installed."""
    if item.get_closest_marker("torch"):
        missing = [name for name in TORCH_LIBRARIES if importlib.util.find_spec(name) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    return importlib.import_module("transformers")


@pytest.fixture(autouse=True, scope="module")
def _rules_of_examples() -> Iterator[None]:
    """Forget the rules that the README and the notebooks define: they share names, as they would in different processes."""
    yield
    if "stopping.policies.protocol" in sys.modules:
        registry = sys.modules["stopping.policies.protocol"]._registry
        for name in [
            name for name, rule in registry.items() if not rule.__module__.startswith(("stopping.", "tests."))
        ]:
            del registry[name]


@pytest.fixture(autouse=True, scope="module")
def _few_memory_maps() -> Iterator[None]:
    yield
    if "jax" in sys.modules and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()
