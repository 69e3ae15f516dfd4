"""Checkpoints: sums and counters of a long run on disk, so that a killed run resumes and ends with the same bits.

A checkpoint is one small JSON file that includes its SHA-256. It is written to a temporary file, flushed to disk and renamed, so
that a reader finds the old one or the new one, never a mixture. The previous checkpoint is kept too: if the newest is corrupt, a
warning names it and the run resumes from the previous one. Numbers are written in hexadecimal, which is exact.
"""

import hashlib
import json
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from sims.moments import Moments
from sims.precision import BLOCK

EVERY_SECONDS = 5.0
NAMES = ("checkpoint.json", "checkpoint.before.json")


class CheckpointRefused(UserWarning):
    """A checkpoint could not be used; the run resumes from the previous one, or starts anew."""


@dataclass(frozen=True, eq=False)
class Standing:
    """The state of a run.

    Attributes:
        num_blocks: number of blocks done.
        centre: near the components' means; subtracted before values are summed, `[components]`.
        moments: of all worlds of these blocks.
        digest: the sums of the worlds' hashes, uint64 `[2]`.
    """

    num_blocks: int
    centre: np.ndarray
    moments: Moments
    digest: np.ndarray


class Checkpoints:
    """The checkpoints of one run in a directory; without a directory, nothing is saved or loaded.

    Raises:
        ValueError: when loading, if they are of another run, or of more worlds than requested.
    """

    def __init__(self, folder: str | Path | None, run: Any) -> None:
        self._folder = None if folder is None else Path(folder)
        self._run = "" if folder is None else fingerprint(run)
        self._saved = -EVERY_SECONDS  # the first is written at once
        self._refused: set[Path] = set()

    def load(self, most: int) -> Standing | None:
        """Return the newest intact checkpoint, None if there is none; it may have at most this many worlds."""
        if self._folder is None:
            return None
        for path in (self._folder / name for name in NAMES):
            if not path.exists():
                continue
            try:
                body, run = _read(path)
            except (ValueError, KeyError, TypeError, OSError) as error:
                self._refused.add(path)
                warnings.warn(f"{path}: {error}; not used", CheckpointRefused, stacklevel=3)
                continue
            if run != self._run:
                raise ValueError(
                    f"{path}: expected the checkpoint of this run ({self._run[:12]}), got another's ({run[:12]}): "
                    "another problem, policy, key, version of JAX or kind of device"
                )
            if body.moments.count > most:
                raise ValueError(f"num_replicas: expected at least the {body.moments.count:,} of {path}, got {most:,}")
            return body
        return None

    def save(self, standing: Standing, now: bool = False) -> None:
        """Write a checkpoint if the last is a few seconds old; after whole blocks only, so that longer runs can resume it."""
        if self._folder is None or jax.process_index() != 0:
            return
        if standing.moments.count < standing.num_blocks * BLOCK:
            return
        if not now and time.monotonic() - self._saved < EVERY_SECONDS:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        newest, before = (self._folder / name for name in NAMES)
        written = self._folder / "checkpoint.partial"
        with open(written, "w", encoding="ascii") as file:
            file.write(_text(standing, self._run))
            file.flush()
            os.fsync(file.fileno())
        if newest.exists() and newest not in self._refused:
            os.replace(newest, before)
        os.replace(written, newest)
        self._refused.discard(newest)
        self._saved = time.monotonic()


def fingerprint(run: Any) -> str:
    """Return a hash of everything that a run's result depends on: its arguments, the version of JAX and the backend."""
    arrays, rest = eqx.partition(run, eqx.is_array)
    leaves = [jr.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(arrays)]
    parts = [f"{leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes() for leaf in leaves]
    parts += [str(jax.tree.structure(run)).encode(), repr(jax.tree.leaves(rest)).encode()]
    parts += [jax.__version__.encode(), jax.default_backend().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _is_key(leaf: Any) -> bool:
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _text(standing: Standing, run: str) -> str:
    moments = standing.moments
    body = json.dumps(
        {
            "run": run,
            "num_blocks": standing.num_blocks,
            "count": moments.count,
            "names": moments.names,
            "centre": _hex(standing.centre),
            "mean": _hex(moments.mean),
            "comoment": _hex(moments.comoment),
            "fourth": _hex(moments.fourth),
            "digest": [int(word) for word in standing.digest],
        }
    )
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})


def _read(path: Path) -> tuple[Standing, str]:
    """Return the state and the fingerprint of its run; raise ValueError, KeyError or TypeError for a corrupt file."""
    whole = json.loads(path.read_text(encoding="ascii"))
    found = hashlib.sha256(whole["body"].encode()).hexdigest()
    if found != whole["sha256"]:
        raise ValueError(f"expected a body with SHA-256 {whole['sha256']}, got {found}")
    body = json.loads(whole["body"])
    names = tuple(body["names"])
    square = np.reshape(_numbers(body["comoment"]), (len(names), len(names)))
    moments = Moments(names, body["count"], _numbers(body["mean"]), square, _numbers(body["fourth"]))
    digest = np.array(body["digest"], np.uint64)
    return Standing(body["num_blocks"], _numbers(body["centre"]).astype(np.float32), moments, digest), body["run"]


def _hex(values: np.ndarray) -> list[str]:
    return [float(value).hex() for value in np.ravel(values)]


def _numbers(values: list[str]) -> np.ndarray:
    return np.array([float.fromhex(value) for value in values])
