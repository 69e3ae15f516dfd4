"""Saving a policy in a directory."""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from stopping.artifacts import golden
from stopping.artifacts.card import card
from stopping.artifacts.error import ArtifactError
from stopping.artifacts.files import (
    CARD,
    CHECKSUMS,
    GOLDEN,
    MAX_BYTES,
    POLICY,
    REQUIRED,
    WEIGHTS,
    check_size,
    checksums,
    digest,
)
from stopping.artifacts.loading import load_policy
from stopping.artifacts.parameters import encode
from stopping.artifacts.schema import SCHEMA_VERSION, Document, GoldenLine, Record, parse
from stopping.policies import Decision, decision_of
from stopping.traces import Reference


def save_policy(
    policy: Any,
    directory: str | Path,
    *,
    decision: Decision | None = None,
    golden_observations: Iterable[Iterable[Any]] | None = None,
    problem: Any = None,
    evidence: Iterable[Any] = (),
    decision_points: Mapping[str, Any] | Record | None = None,
    reference_rule: Reference | str | None = None,
    calibrated_on: Mapping[str, Any] | Record | None = None,
    traffic: Mapping[str, Any] | None = None,
    promised: Mapping[str, Any] | None = None,
    certificate: Mapping[str, Any] | Record | None = None,
    lag_tokens: int | None = None,
    fallback: Mapping[str, Any] | Record | None = None,
    license: str | None = None,
    created: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a policy into a directory that `load_policy` and any server can read, and load it once to be sure.

    The directory appears whole or not at all. With `created` given, it is the same bytes each time.

    Args:
        policy: a policy; its parameters are numbers and arrays.
        directory: where; it must not exist, or be empty, or (with `overwrite`) be an artifact.
        decision: what the policy sees; by default the problem's, or the first registered that has its signals.
        golden_observations: streams of observations (objects or mappings with the policy's signals) for the golden
            lines; by default the decision's examples.
        problem: what it was derived for: its `lag_tokens` and `decision_interval_tokens` are written down, unless given.
        evidence: results with `summary() -> {"title": ..., "figures": {name: {"mean": ..., "standard_error": ...}}}`,
            or such mappings.
        decision_points: when the policy is asked: `{"on": "trace_end", "interval_tokens": 256}`; as the decision says if not
            given.
        reference_rule: the rule that losses are measured against, or its text: `single`, `majority@n`, `budget=B`, `logged`.
        calibrated_on: `{"digest", "num_problems", "num_traces", "description"}`, each optional.
        traffic: by quantity (`length_tokens`, ...), an array of at most 2,000 values of the log, one per problem: the reference
            sample with which a server compares its traffic.
        promised: by name (`accuracy_change`, `net_saving_tokens`, ...), a mean with a standard error or an interval.
        certificate: `{"grade": "proof" | "data" | "none", ...}`; see `schema.Certificate`.
        lag_tokens: tokens assumed to be generated between a decision and its effect; 0 if not given.
        fallback: `{"on_missing_signal": "refuse" | "continue" | "stop"}`; `refuse` if not given.
        license: of the artifact.
        created: UTC time as `2026-01-31T12:00:00Z`; now if not given.
        overwrite: replace an artifact that is there.

    Returns:
        The directory.

    Raises:
        ArtifactError: naming the file and field that cannot be written, or that `load_policy` would refuse.
        OSError: if the file system refuses; what was there is kept.
    """
    target = Path(directory)
    _check_target(target, overwrite)
    decision = decision or getattr(problem, "decision", None) or _decision_of(policy)
    contents = _contents(
        policy,
        decision,
        golden_observations,
        {
            "decision_points": decision_points
            or {"on": decision.asked, "interval_tokens": getattr(problem, "decision_interval_tokens", None)},
            "lag_tokens": int(getattr(problem, "lag_tokens", 0) if lag_tokens is None else lag_tokens),
            "fallback": fallback or {},
            "reference_rule": None if reference_rule is None else str(reference_rule),
            "calibrated_on": calibrated_on,
            "traffic": None if traffic is None else {name: _inline(values) for name, values in traffic.items()},
            "promised": promised or {},
            "certificate": certificate,
            "evidence": list(evidence),
            "license": license,
            "created": created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    )
    _write(policy, contents, target)
    return target


def _contents(policy: Any, decision: Decision, golden_observations: Any, given: dict[str, Any]) -> dict[str, bytes]:
    streams = _streams(policy, decision, golden_observations)
    values, tensors = encode(policy)
    try:
        lines = golden.lines(policy, streams)
    except ArtifactError as error:
        if golden_observations is not None or decision.streams is not None:
            raise
        name = decision.observation.__name__
        raise ArtifactError(GOLDEN, "", f"random numbers make no {name} ({error}): give golden_observations") from error
    contents = {GOLDEN: golden.write(lines)}
    if tensors:
        contents[WEIGHTS] = safetensors.numpy.save(tensors)
    content = {
        "schema_version": SCHEMA_VERSION,
        "library_version": _library_version(),
        "kind": type(policy).__name__,
        "module": type(policy).__module__,
        "parameters": values,
        "plain_python": _runs_plainly(policy, lines),
        "observation": decision.observation.__name__,
        "signals": list(policy.signals),
        "actions": [kind.name for kind in policy.kinds],
        "files": {name: digest(content) for name, content in contents.items()},
        **given,
    }
    try:
        document = parse(Document, json.dumps(content, default=_plain), POLICY)
        text = json.dumps(document.model_dump(exclude_none=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        contents |= {POLICY: text.encode(), CARD: card(document, policy).encode()}
    except (TypeError, UnicodeEncodeError) as error:
        raise ArtifactError(POLICY, "", f"cannot be written: {error}") from error
    return contents


def _streams(policy: Any, decision: Decision, golden_observations: Any) -> Any:
    name = decision.observation.__name__
    if missing := [signal for signal in policy.signals if signal not in decision.signals]:
        raise ArtifactError(POLICY, "signals", f"{name} has no field {', '.join(missing)}")
    return decision.examples(policy) if golden_observations is None else golden_observations


def _decision_of(policy: Any) -> Decision:
    try:
        return decision_of(policy)
    except TypeError as error:
        raise ArtifactError(POLICY, "signals", str(error)) from None


def _runs_plainly(policy: Any, lines: list[GoldenLine]) -> bool:
    try:  # whether it gives the same decisions is checked by loading
        golden.decide_plainly(policy, [line.observations for line in lines])
    except ArtifactError:
        return False
    return True


def _inline(values: Any) -> dict[str, Any]:
    array = np.asarray(values)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.ravel().tolist()}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.model_dump(exclude_none=True)
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "summary"):
        return value.summary()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected numbers, text, lists and mappings, got {type(value).__name__}")


def _library_version() -> str:
    try:
        return metadata.version("stopping")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ArtifactError(str(target), "", "expected a directory or nothing there")
    names = set(os.listdir(target)) if target.is_dir() else set()
    if names and not overwrite:
        raise ArtifactError(str(target), "", "the directory is not empty (overwrite=True replaces an artifact)")
    if names and not REQUIRED <= names <= MAX_BYTES.keys():
        raise ArtifactError(str(target), "", "the directory is not an artifact: it is not overwritten")


def _write(policy: Any, contents: dict[str, bytes], target: Path) -> None:
    for name, content in contents.items():
        check_size(name, len(content))
    contents = {**contents, CHECKSUMS: checksums(contents)}
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(8)
    new, old = (target.with_name(f".{target.name}.{mark}.{word}") for word in ("new", "old"))
    try:
        new.mkdir()
        for name, content in contents.items():
            (new / name).write_bytes(content)
        if load_policy(new).policy != policy:
            raise ArtifactError(POLICY, "parameters", "the policy loaded is not equal to the one saved")
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
