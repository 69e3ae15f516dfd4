"""The real server of llama.cpp, in a child process, with the shipped reasoner."""

import contextlib
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SLOT_TOKENS = 512
# Its own laws: the server's defaults cut them (top_k 40, top_p .95, min_p .05).
WHOLE_LAW = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}

# Lives until its stdin is closed, so it never outlives the test that started it.
_CHILD = """
import sys
import xllamacpp
path, port, slots, slot_tokens = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames = path, port, ["127.0.0.1"]
params.n_ctx, params.n_parallel = slots * slot_tokens, slots
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.warmup, params.use_jinja, params.endpoint_slots, params.endpoint_metrics = False, True, True, True
server = xllamacpp.Server(params)
print("READY", server.listening_address, flush=True)
sys.stdin.read()
"""


class LlamaServer(NamedTuple):
    """A running server: its base URL, and the process that a test may kill."""

    url: str
    process: subprocess.Popen


def needs_llama() -> None:
    """Skip the test, visibly, where the server or the writer of its file is not installed."""
    for library in ("xllamacpp", "gguf", "jax"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


def write_reasoner(folder: Path) -> Path:
    """Write the shipped reasoner as a GGUF file."""
    from stopping.reasoner import load_model
    from stopping.reasoner.gguf import save_gguf

    path = folder / "reasoner.gguf"
    save_gguf(load_model("target"), path)
    return path


@contextlib.contextmanager
def running(path: Path, *, slots: int = 4, slot_tokens: int = SLOT_TOKENS, port: int = 0) -> Iterator[LlamaServer]:
    """Run a server on 127.0.0.1, on a free port unless one is given, until the block is left."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path), str(port), str(slots), str(slot_tokens)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        ready = next((line for line in process.stdout if line.startswith("READY ")), None)
        assert ready is not None, f"the server did not start: exit code {process.wait()}"
        yield LlamaServer(ready.split()[1], process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
