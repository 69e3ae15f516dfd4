"""Hostile directories: an artifact is corrupted at random, and loading must refuse it or give the original decisions.

    python -m tests.stopping.artifacts.hostile --count 100000 --seed 1      # what `make fuzz` runs

Each case is made from (seed, number) alone. A checksum guards against accident, so half of the corruptions are signed
again: then the schema, the digests in `policy.json` and the golden lines have to notice. The golden lines pin integer
parameters down to the last vote; a float parameter only as far as the decisions they show, so a change of one that
stays valid is left to the checksums.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from stopping import artifacts
from stopping.policies import SamplingObservation, ThinkingObservation, bind, decision_of
from stopping.policies.decisions import THINKING
from stopping.policies.decisions.sampling import episode
from stopping.policies.examples import EXAMPLES
from tests.helpers import BIG, OWN_POLICIES

POLICY, GOLDEN, WEIGHTS, CARD, CHECKSUMS = NAMES = (
    "policy.json",
    "golden.jsonl",
    "weights.safetensors",
    "README.md",
    "SHA256SUMS",
)
POLICIES = (*EXAMPLES, *OWN_POLICIES, BIG)
Contents = dict[str, bytes | str]  # a file's bytes, or "link", "directory", "pipe"


class Original(NamedTuple):
    """An artifact before corruption."""

    policy: Any
    contents: dict[str, bytes]
    decisions: list[tuple[int, int]]


def original(policy: Any, directory: Path) -> Original:
    """Save a policy and note its files and decisions."""
    artifacts.save_policy(
        policy, directory, created="2026-01-01T00:00:00Z", license="MIT", certificate={"grade": "none"}
    )
    contents = {path.name: path.read_bytes() for path in directory.iterdir()}
    return Original(policy, contents, decisions(policy))


def _probes() -> list[SamplingObservation]:
    rng = np.random.default_rng(12345)
    leader, runner_up = (axis.ravel() for axis in np.mgrid[0:70, 0:70])
    grid = np.zeros((8, leader.size), np.int32)
    grid[3], grid[4], grid[5] = -1, np.maximum(leader, runner_up), np.minimum(leader, runner_up)
    clocks = np.zeros((8, 400), np.int32)
    clocks[[0, 2, 3, 4]], clocks[6], clocks[7] = np.arange(400) // 4, np.arange(400) + 3900, np.arange(400)
    episodes = [np.array(episode(rng, 48, probs)) for probs in ([0.9, 0.1], [0.5, 0.3, 0.2], [1.0])]
    return [SamplingObservation(*grid), SamplingObservation(*clocks)] + [
        SamplingObservation(*(field[:, None].astype(np.int32) for field in np.stack(episodes)[:, step].T[:, :]))
        for step in range(48)
    ]


def _thoughts(num_rows: int = 200, num_points: int = 24) -> list[ThinkingObservation]:
    """Thoughts side by side, each point seen without a probe and then with one."""
    rng, seen = np.random.default_rng(12345), []
    for point in range(2 * num_points):
        values = {name: -rng.exponential(3.0, (num_rows, 1)) for name in ThinkingObservation._fields}
        values["elapsed_tokens"] = np.full((num_rows, 1), 64 * (point // 2 + 1))
        values["num_candidates"] = np.minimum(point // 6, rng.integers(0, 5, (num_rows, 1)))
        values["probed"] = np.full((num_rows, 1), point % 2 == 1)
        values["probed_answer"] = rng.integers(-1, 2, (num_rows, 1))
        seen.append(
            ThinkingObservation(**{name: value.astype(THINKING.dtype_of(name)) for name, value in values.items()})
        )
    return seen


PROBES = {SamplingObservation: _probes(), ThinkingObservation: _thoughts()}


def decisions(policy: Any) -> list[tuple[int, int]]:
    """Return the policy's decisions on fixed observations: small votes, clocks and three episodes, or thoughts."""
    bound, taken, probes = bind(policy, "numpy"), [], PROBES[decision_of(policy).observation]
    episodes = bound.init(probes[-1].elapsed_tokens.shape)
    for observation in probes:
        shape = observation.elapsed_tokens.shape
        state = episodes if len(shape) > 1 else bound.init(shape)
        state, action = bound.step(state, observation)
        episodes = state if len(shape) > 1 else episodes
        taken += zip(action.kind.ravel().tolist(), action.amount.ravel().tolist(), strict=True)
    return taken


# ---- corruptions: each takes (rng, contents) and changes contents


def _pick(rng: np.random.Generator, options: Any) -> Any:
    options = list(options)
    return options[rng.integers(len(options))]


def _some_file(rng, contents):
    return _pick(rng, sorted(name for name, content in contents.items() if isinstance(content, bytes)))


def flip_bytes(rng, contents):
    name = _some_file(rng, contents)
    content = bytearray(contents[name])
    for _ in range(rng.integers(1, 4)):
        if content:
            content[rng.integers(len(content))] = rng.integers(256)
    contents[name] = bytes(content)


def flip_digit(rng, contents):
    name = _pick(rng, [POLICY, GOLDEN])
    content = bytearray(contents[name])
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    if digits:
        content[_pick(rng, digits)] = ord("0") + rng.integers(10)
    contents[name] = bytes(content)


def truncate(rng, contents):
    name = _some_file(rng, contents)
    contents[name] = contents[name][: rng.integers(len(contents[name]) + 1)]


def insert_bytes(rng, contents):
    name = _some_file(rng, contents)
    at = rng.integers(len(contents[name]) + 1)
    junk = _pick(
        rng, [b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"{", b"}", b"\n", b"\r\n", b"[" * 5000, b"9" * 5000, b" ", b"NaN"]
    )
    contents[name] = contents[name][:at] + junk + contents[name][at:]


def delete_file(rng, contents):
    del contents[_pick(rng, sorted(contents))]


def extra_file(rng, contents):
    names = [
        ".hidden",
        "policy.json.bak",
        "model.pkl",
        "__init__.py",
        "POLICY.JSON",
        WEIGHTS,
        "a" * 200,
        "\u202e.md",
        "x\n",
    ]
    contents[_pick(rng, names)] = rng.bytes(rng.integers(100))


def irregular_file(rng, contents):
    contents[_pick(rng, NAMES)] = _pick(rng, ["link", "directory", "pipe"])


def swap_files(rng, contents):
    one, other = _some_file(rng, contents), _some_file(rng, contents)
    contents[one], contents[other] = contents[other], contents[one]


def too_large(rng, contents):
    name = _pick(rng, [POLICY, CARD, CHECKSUMS])
    contents[name] = contents[name] + b" " * 2**20


def edit_policy(rng, contents):
    contents[POLICY] = _edit(rng, contents[POLICY])


def edit_parameter(rng, contents):
    content = _json(contents[POLICY])
    if content is not None and isinstance(content.get("parameters"), dict):
        content["parameters"] = json.loads(_edit(rng, _dump(content["parameters"]).encode()) or b"null", strict=False)
        contents[POLICY] = _dump(content).encode()


def edit_golden(rng, contents):
    lines = contents[GOLDEN].split(b"\n")
    at = rng.integers(max(len(lines) - 1, 1))
    lines[at] = _edit(rng, lines[at])
    contents[GOLDEN] = b"\n".join(lines)


def rearrange_golden(rng, contents):
    *lines, last = contents[GOLDEN].split(b"\n")
    action = rng.integers(5)
    if action == 0:
        rng.shuffle(lines)
    elif action == 1:
        lines = lines[: rng.integers(len(lines) + 1)]
    elif action == 2:
        lines.insert(rng.integers(len(lines) + 1), b"")
    elif action == 3 and lines:
        lines = [lines[-1]] * 10_001
    else:
        lines = []
    contents[GOLDEN] = b"\n".join([*lines, last])


def edit_checksums(rng, contents):
    line = contents[CHECKSUMS].split(b"\n")[0]
    more = [
        b"0" * 64 + b"  ../../etc/passwd\n",
        b"0" * 64 + b"  /etc/passwd\n",
        line + b"\n",
        b"\n",
        b"# comment\n",
        b"\xff\n",
    ]
    change = rng.integers(4)
    if change == 0:
        contents[CHECKSUMS] += _pick(rng, more)
    elif change == 1:
        contents[CHECKSUMS] = contents[CHECKSUMS].upper()
    elif change == 2:
        contents[CHECKSUMS] = contents[CHECKSUMS].replace(b"\n", b"\r\n")
    else:
        contents[CHECKSUMS] = contents[CHECKSUMS].replace(b"policy.json", b"../policy.json")


def edit_weights(rng, contents):
    weights = contents.get(WEIGHTS)
    if not isinstance(weights, bytes) or len(weights) < 8:
        contents[WEIGHTS] = safetensors.numpy.save({"extra": np.ones(3, np.float32)})
        return
    size = int.from_bytes(weights[:8], "little")
    header, data = weights[8 : 8 + size], weights[8 + size :]
    change = rng.integers(6)
    if change == 0:
        header_size = int(_pick(rng, [0, 1, size + 1, 2**31, 2**63, 2**64 - 1]))
        contents[WEIGHTS] = header_size.to_bytes(8, "little") + weights[8:]
        return
    if change == 1:
        header = header.replace(b"I32", _pick(rng, [b"F32", b"I64", b"BF16", b"F8_E4M3", b"BOOL", b"XYZ"]))
    elif change == 2:
        header = _edit(rng, header)
    elif change == 3:
        header = header.replace(b"[0,", _pick(rng, [b"[1,", b"[-1,", b"[99999999999999999999,"]))
    elif change == 4:
        header = b'{"__metadata__":{"a":"b"},' + header[1:]
    else:
        tensors = {"required_by_runner_up": np.full(4501, 4501, np.int32), "other": np.array([np.nan], np.float32)}
        contents[WEIGHTS] = safetensors.numpy.save(tensors)
        return
    contents[WEIGHTS] = len(header).to_bytes(8, "little") + header + data


CORRUPTIONS = (
    flip_bytes, flip_digit, truncate, insert_bytes, delete_file, extra_file, irregular_file, swap_files, too_large,
    edit_policy, edit_policy, edit_policy, edit_parameter, edit_parameter, edit_golden, edit_golden, rearrange_golden,
    edit_checksums, edit_weights,
)  # fmt: skip


# ---- edits of JSON


class _Raw:
    """Text put into JSON unchanged."""

    def __init__(self, text: str) -> None:
        self.text = text


STRANGE = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 1.0, -0.0, 1e308, 5e-324, "", "x", "1", "\x00",
    "../x", "\u2028", "a" * 70_000, [], {}, [[]], [0], {"a": 1}, {"tensor": "x", "dtype": "int32", "shape": [1]},
    {"dtype": "int32", "shape": [1], "values": [5]}, {"dtype": "object", "shape": [], "values": []},
    {"dtype": "float64", "shape": [2**30, 2**30, 0], "values": []},
    _Raw("NaN"), _Raw("Infinity"), _Raw("-Infinity"), _Raw("1e999"), _Raw("9" * 5000), _Raw("[" * 3000 + "]" * 3000),
    _Raw('{"a":' * 1500 + "1" + "}" * 1500), _Raw("[" * 200_000), _Raw('"\\ud800"'), _Raw("0x10"),
    _Raw("1_000"), _Raw("'a'"),
)  # fmt: skip


def _json(content: bytes) -> Any:
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


def _edit(rng: np.random.Generator, text: bytes) -> bytes:
    """Return JSON text with one node changed."""
    content = _json(text)
    if not content:
        return text
    parent, key = _pick(rng, _places(content))
    change = rng.integers(8)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[_pick(rng, ["unknown", "", "__class__", "kind", "tensor", "values"])] = _pick(rng, STRANGE)
    elif change == 2 and isinstance(parent, dict):
        parent[f"{key}\x00again"] = _pick(rng, [parent[key], *STRANGE])  # becomes the same key twice
    elif change == 3 and isinstance(parent, dict):
        parent[_pick(rng, ["renamed", str(key).upper()])] = parent.pop(key)
    elif change == 4 and isinstance(parent, list):
        parent.insert(key, _pick(rng, [parent[key], *STRANGE]))
    elif change <= 6 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        value = parent[key]
        parent[key] = _pick(rng, [value + 1, value - 1, value * 2, -value, value // 2, _Raw(f"{value}.0"), f"{value}"])
    elif change == 5 and isinstance(parent[key], str):
        parent[key] = _pick(
            rng, [parent[key][::-1], parent[key] + " ", "Margin", "TokenBudget", "2.0", "1.7", "os.system"]
        )
    else:
        parent[key] = _pick(rng, STRANGE)
    return _dump(content).encode("utf-8", "surrogatepass")


def _places(content: Any) -> list[tuple[Any, Any]]:
    places, waiting = [], [content]
    while waiting:
        node = waiting.pop()
        items = list(node.items() if isinstance(node, dict) else enumerate(node))
        places += [(node, key) for key, _ in items]
        waiting += [value for _, value in items if isinstance(value, dict | list)]
    return places


def _dump(value: Any) -> str:
    if isinstance(value, _Raw):
        return value.text
    if isinstance(value, dict):
        pairs = ((json.dumps(key.removesuffix("\x00again")), _dump(item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value) if not (isinstance(value, int) and abs(value) > 10**300) else "1" + "0" * 400


# ---- a case


def corrupt(rng: np.random.Generator, case: Original) -> tuple[Contents, str]:
    """Return a corrupted copy of an artifact, and in words what was done."""
    contents: Contents = dict(case.contents)
    done = []
    for _ in range(_pick(rng, [1, 1, 1, 2, 3])):
        corruption = _pick(rng, CORRUPTIONS)
        try:
            corruption(rng, contents)
        except (KeyError, AttributeError, TypeError, ValueError, RecursionError):  # an earlier one took the file away
            continue
        done.append(corruption.__name__)
    if rng.random() < 0.6 and not _changes_a_float(case, contents):
        done.append(_sign(rng, case, contents))
    return contents, ", ".join(done)


def _sign(rng: np.random.Generator, case: Original, contents: Contents) -> str:
    others = {name for name in case.contents if contents.get(name) != case.contents[name]}
    content = _json(contents[POLICY]) if isinstance(contents.get(POLICY), bytes) else None
    if others == {GOLDEN} and isinstance(contents.get(GOLDEN), bytes) and rng.random() < 0.5:
        content["files"][GOLDEN] = hashlib.sha256(contents[GOLDEN]).hexdigest()
        contents[POLICY] = json.dumps(content).encode()
    regular = {name: content for name, content in contents.items() if isinstance(content, bytes) and name != CHECKSUMS}
    lines = (f"{hashlib.sha256(regular[name]).hexdigest()}  {name}\n" for name in sorted(regular))
    contents[CHECKSUMS] = "".join(lines).encode()
    return "signed"


def _changes_a_float(case: Original, contents: Contents) -> bool:
    if not hasattr(case.policy, "score"):
        return False
    found = contents.get(POLICY)
    content = _json(found) if isinstance(found, bytes) else None
    return content is None or content.get("parameters") != _json(case.contents[POLICY])["parameters"]


def write(contents: Contents, directory: Path) -> None:
    """Write the files into a new directory."""
    directory.mkdir()
    elsewhere = directory.with_suffix(".elsewhere")
    for name, content in contents.items():
        path = directory / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "link":
            elsewhere.write_bytes(b"{}")
            path.symlink_to(elsewhere)
        elif content == "directory":
            path.mkdir()
        elif hasattr(os, "mkfifo"):
            os.mkfifo(path)


class Outcome(NamedTuple):
    """What became of a case: `refused`, `original`, or a sentence that says how the law was broken."""

    verdict: str
    done: str
    seconds: float


def run(originals: list[Original], seed: int, number: int, directory: Path) -> Outcome:
    """Make case `number` and load it."""
    rng = np.random.default_rng([seed, number])
    case = originals[number % len(originals)]
    contents, done = corrupt(rng, case)
    target = directory / "case"
    write(contents, target)
    start = time.perf_counter()
    try:
        loaded = artifacts.load_policy(target)
        verdict = "original" if decisions(loaded.policy) == case.decisions else "other decisions"
        if not isinstance(loaded.policy, type(case.policy)):
            verdict = f"another policy: {loaded.policy!r}"
    except artifacts.ArtifactError as error:
        verdict = "refused" if error.file and str(error) else "an error that names no file"
    except Exception as error:  # what must never happen
        verdict = f"raised {error!r}"
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return Outcome(verdict, done, seconds)


def main() -> int:
    """Run many cases, print progress, and stop at the first that breaks the law."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first case's number")
    chosen = parser.parse_args()
    counts = {"refused": 0, "original": 0}
    slowest, begin = Outcome("", "", 0.0), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        originals = [original(policy, directory / f"original-{i}") for i, policy in enumerate(POLICIES)]
        for number in range(chosen.start, chosen.start + chosen.count):
            outcome = run(originals, chosen.seed, number, directory)
            if outcome.verdict not in counts:
                print(f"case {number} of seed {chosen.seed} ({outcome.done}): {outcome.verdict}")
                print(
                    f"again: python -m tests.stopping.artifacts.hostile --seed {chosen.seed} --start {number} --count 1"
                )
                return 1
            counts[outcome.verdict] += 1
            slowest = max(slowest, outcome, key=lambda outcome: outcome.seconds)
            done = number + 1 - chosen.start
            if done % 1000 == 0 or done == chosen.count:
                speed = done / (time.perf_counter() - begin)
                worst = f"slowest load {slowest.seconds:.3f} s ({slowest.done})"
                print(f"seed {chosen.seed}: {done:,} cases, {counts}, {speed:.0f} a second, {worst}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
