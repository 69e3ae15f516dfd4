"""A process may hold some 65,000 memory maps, and each compiled program takes several: they are let go before that."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000  # Linux allows 65,530; a compiler that gets no more crashes


@pytest.fixture(autouse=True, scope="module")
def _few_memory_maps() -> Iterator[None]:
    yield
    if "jax" in sys.modules and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()
