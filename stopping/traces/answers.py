"""Labels of answers: within a problem, equal answers have equal labels.

An answer's label is the index of the first sample of the problem with an equal answer. A vote then counts labels and does
not need the text.
"""

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from stopping.traces.errors import LogError, shown

NONE = -1  # no answer
NOT_LOGGED = -2  # an answer was given, but its text was not logged

Equality = str | Callable[[str], Hashable]

_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?")
_DECIMAL = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
)  # at most three digits: the value of 1e999999999 would fill the memory
_RATIO = re.compile(r"([+-]?[0-9]+) ?/ ?([0-9]+)")
_MAX_NUMBER_CHARACTERS = 200


def numeric_key(text: str) -> Hashable:
    """Return the exact value of a number, or the stripped text of anything else.

    Numbers are decimals ("2", "2.0", ".5", "1e3"), thousands with commas ("1,000") and ratios of whole numbers ("1/2"),
    with or without dollar signs around them. Percent signs, units and other LaTeX stay text.
    """
    text = text.strip()
    plain = text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] == "$" else text
    if len(plain) <= _MAX_NUMBER_CHARACTERS:
        if _THOUSANDS.fullmatch(plain):
            plain = plain.replace(",", "")
        if _DECIMAL.fullmatch(plain):
            return Fraction(plain)
        ratio = _RATIO.fullmatch(plain)
        if ratio and int(ratio[2]):
            return Fraction(int(ratio[1]), int(ratio[2]))
    return text


def equality_name(answers: Equality) -> str:
    """Return the name of a way to compare answers: "exact", "numeric" or "custom". Raises `LogError` for anything else."""
    if callable(answers):
        return "custom"
    if answers not in ("exact", "numeric"):
        raise LogError(f"answers: expected 'exact', 'numeric' or a function from text to key, got {shown(answers)}")
    return answers


def answer_keys(texts: Sequence[str], answers: Equality, no_answer_values: Collection[str]) -> list[Hashable | None]:
    """Return the key of each text: equal keys mean equal answers, `None` means no answer.

    Raises `LogError` if the user's function fails or returns a value that cannot be hashed.
    """
    equality_name(answers)
    key_of: Callable[[str], Hashable] = (
        answers if callable(answers) else numeric_key if answers == "numeric" else str.strip
    )
    keys: list[Hashable | None] = []
    for text in texts:
        if text.strip() in no_answer_values:
            keys.append(None)
            continue
        try:
            key = key_of(text)
            hash(key)
        except Exception as error:
            raise LogError(f"answers: the function failed on the answer {shown(text)}: {error!r}") from error
        keys.append(key)
    return keys


def key_numbers(keys: Sequence[Hashable | None]) -> np.ndarray:
    """Return keys as numbers from 0 in order of first appearance, [keys + 1] int64; -1 for `None` and for the last entry."""
    numbers: dict[Hashable, int] = {}
    return np.array(
        [-1 if key is None else numbers.setdefault(key, len(numbers)) for key in keys] + [-1], dtype=np.int64
    )


def first_equal(problem: np.ndarray, position: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return for each row the position of the first row of its problem with the same key, a whole number >= 0.

    Args: [rows] int64 each; rows are sorted by problem, then position.
    """
    if not len(problem):
        return np.zeros(0, np.int64)
    _, dense = np.unique(key, return_inverse=True)
    pair = problem.astype(np.int64) * (int(dense.max()) + 1) + dense
    _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    return position[first][inverse]


def checkpoint_labels(
    problem: np.ndarray, key: np.ndarray, final: Mapping[tuple[int, int], int], samples_per_problem: np.ndarray
) -> np.ndarray:
    """Return the labels of forced answers, [checkpoints]; negative keys stay as they are.

    An answer equal to a final one of its problem has that one's label; others are numbered from the problem's number of
    samples on, in order of first appearance.

    Args:
        problem: [checkpoints] int.
        key: [checkpoints] int, equal within a problem where answers are equal.
        final: the labels of final answers, by problem and key.
        samples_per_problem: [problems] int.
    """
    labels, following, out = dict(final), samples_per_problem.tolist(), []
    for pair in zip(problem.tolist(), key.tolist(), strict=True):
        if pair[1] >= 0 and pair not in labels:
            labels[pair] = following[pair[0]]
            following[pair[0]] += 1
        out.append(labels[pair] if pair[1] >= 0 else pair[1])
    return np.array(out, np.int32)
