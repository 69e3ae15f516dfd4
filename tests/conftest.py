"""Compiled programs are kept between runs; and let go before a process holds more memory maps, some 65,000, than it may."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read by JAX when it is imported, here and in processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000  # Linux allows 65,530; a compiler that gets no more crashes


@pytest.fixture(autouse=True, scope="module")
def _few_memory_maps() -> Iterator[None]:
    yield
    if "jax" in sys.modules and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()
