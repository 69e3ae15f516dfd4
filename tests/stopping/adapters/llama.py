"""The real server of llama.cpp, in a child process, with the shipped reasoner."""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stopping.adapters.llamacpp import LlamaServer

SLOT_TOKENS = 512
# The model's own distributions, which the server's defaults truncate (top_k 40, top_p .95, min_p .05).
FULL_DISTRIBUTION = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def needs_llama() -> None:
    """Skip the test if the server, or the writer of its model file, is not installed."""
    for library in ("xllamacpp", "gguf"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


def write_reasoner(folder: Path, chat_template: str | None = None, context_tokens: int = SLOT_TOKENS) -> Path:
    """Write the shipped reasoner as a GGUF file, with another chat template or context if one is given."""
    from stopping.reasoner.gguf import save_gguf
    from stopping.reasoner.names import folder_of

    source = folder / "reasoner"
    shutil.copytree(folder_of("target"), source)
    config = source / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": context_tokens}))
    if chat_template is not None:
        config = source / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": chat_template}))
    save_gguf(source, folder / "reasoner.gguf")
    return folder / "reasoner.gguf"


@contextmanager
def running(path: Path, port: int = 0, context_tokens: int = SLOT_TOKENS) -> Iterator[LlamaServer]:
    """Run a server, with one thread, on a free port unless one is given.

    It has a lower priority than this process: the model thinks for a tenth of a second, within which an order must reach it even
    on a busy machine.
    """
    with LlamaServer(path, port=port, num_slots=4, context_tokens=context_tokens, num_threads=1) as server:
        os.setpriority(os.PRIO_PGRP, server.process.pid, 5)
        yield server
