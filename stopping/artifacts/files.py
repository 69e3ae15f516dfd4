"""The files of an artifact: their names, their limits, their checksums."""

import hashlib
import os
import stat
from pathlib import Path

from stopping.artifacts.error import ArtifactError

POLICY, GOLDEN, WEIGHTS, CARD, CHECKSUMS = (
    "policy.json",
    "golden.jsonl",
    "weights.safetensors",
    "README.md",
    "SHA256SUMS",
)
REQUIRED = {POLICY, GOLDEN, CARD, CHECKSUMS}
MAX_BYTES = {POLICY: 2**20, GOLDEN: 2**24, WEIGHTS: 2**28, CARD: 2**20, CHECKSUMS: 2**12}
MAX_GOLDEN_LINES = 10_000


def read(directory: Path) -> dict[str, bytes]:
    """Return the content of every file but the checksums, which are checked.

    Raises:
        ArtifactError: for a missing, unknown, oversized or irregular file (a link is one), or a wrong checksum.
    """
    try:
        names = _names(directory)
        contents = {name: _content(directory / name) for name in sorted(names)}
    except (OSError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(str(directory), "", f"cannot be read: {error}") from None
    found = contents.pop(CHECKSUMS)
    expected = checksums(contents)
    if found != expected:
        raise _mismatch(found, expected)
    return contents


def checksums(contents: dict[str, bytes]) -> bytes:
    """Return the content of `SHA256SUMS`, as `sha256sum` writes and checks it."""
    return "".join(f"{digest(contents[name])}  {name}\n" for name in sorted(contents)).encode()


def digest(content: bytes) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def text(contents: dict[str, bytes], name: str) -> str:
    """Return a file's text.

    Raises:
        ArtifactError: if it is not UTF-8.
    """
    try:
        return contents[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(name, f"byte {error.start}", "expected UTF-8 text") from None


def check_size(name: str, num_bytes: int) -> None:
    """Refuse a file beyond its limit.

    Raises:
        ArtifactError: naming the file.
    """
    if num_bytes > MAX_BYTES[name]:
        raise ArtifactError(name, "", f"expected at most {MAX_BYTES[name]:,} bytes, got {num_bytes:,}")


def _names(directory: Path) -> set[str]:
    if not directory.is_dir():
        raise ArtifactError(str(directory), "", "expected a directory")
    names = set()
    with os.scandir(directory) as entries:
        for entry in entries:  # stops at the first file that does not belong, however many there are
            if entry.name not in MAX_BYTES:
                problem = f"expected only {', '.join(sorted(MAX_BYTES))}, found {entry.name!r}"
                raise ArtifactError(str(directory), "", problem)
            if not entry.is_file(follow_symlinks=False):
                raise ArtifactError(entry.name, "", "expected a regular file, not a link or a directory")
            names.add(entry.name)
    if missing := REQUIRED - names:
        raise ArtifactError(min(missing), "", "the file is missing")
    return names


def _content(path: Path) -> bytes:
    # No link is followed and no pipe waited for, even if the file was replaced since the directory was listed.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(path.name, "", "expected a regular file")
        check_size(path.name, status.st_size)
        content = file.read(MAX_BYTES[path.name] + 1)
        check_size(path.name, len(content))
        return content


def _mismatch(found: bytes, expected: bytes) -> ArtifactError:
    found_lines, expected_lines = found.split(b"\n"), expected.split(b"\n")
    for number, line in enumerate(expected_lines, start=1):
        if number > len(found_lines) or found_lines[number - 1] != line:
            name = line.split(b"  ")[-1].decode() or "the end of the file"
            return ArtifactError(CHECKSUMS, f"line {number}", f"the checksum of {name} does not match, or is not there")
    return ArtifactError(CHECKSUMS, "", "names more than the files that are there")
