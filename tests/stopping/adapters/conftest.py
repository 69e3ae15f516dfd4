"""A server that all tests of adapters share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stopping.adapters.llama import needs_llama, running, write_reasoner


@pytest.fixture(scope="session")
def reasoner_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped reasoner as a GGUF file."""
    needs_llama()
    return write_reasoner(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="session")
def llama_server(reasoner_gguf: Path) -> Iterator[str]:
    """The base URL of a llama.cpp server with the shipped reasoner: 4 slots of 512 tokens, `/slots` and `/metrics` on."""
    with running(reasoner_gguf) as server:
        yield server.url
