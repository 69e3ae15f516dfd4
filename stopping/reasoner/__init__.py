"""The shipped tiny reasoner: its task, its texts, its training, its traces.

It plays Countdown by searching aloud, and shows what stopping rules exploit: long searches, answers that change, checks that
fail, votes that help. Its weights and a log of its traces come with the package.

Nothing is imported before it is used: the game, the vocabulary and the GGUF file need no JAX.
"""

import importlib
from typing import Any

_MODULES = {
    "countdown": (
        "Difficulty",
        "Problem",
        "draw_problem",
        "is_right",
        "vote_key",
    ),
    "gguf": ("save_gguf",),
    "live": (
        "LiveRun",
        "run_live",
    ),
    "llama": (
        "Llama",
        "LlamaConfig",
        "initialise",
    ),
    "names": ("NAMES",),
    "recording": (
        "Plan",
        "load_shipped_log",
        "record",
    ),
    "sampling": (
        "Samples",
        "sample",
    ),
    "training": (
        "RECIPES",
        "Recipe",
        "train",
    ),
    "vocabulary": (
        "TOKENS",
        "decode",
        "encode",
    ),
    "weights": (
        "load_model",
        "save_model",
    ),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
