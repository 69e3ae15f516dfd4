"""Countdown: combine all given numbers, each once, with + - * / to reach a target; problems, a checker and a vote key.

Problems are drawn by the rules of the training text (whole intermediate results in 1..99, the larger operand first); the
checker is the plain rule of the game, with exact fractions, so an answer found in another way counts too.
"""

import ast
import dataclasses
import functools
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

LARGEST_RESULT = 99
SMALLEST_TARGET = 10
OPERATORS = "+-*/"
_MOST_DRAWS = 10_000
_MOST = np.iinfo(np.int8).max  # a number of a problem: steps are kept in bytes
_TEXT = re.compile(r"[0-9+\-*/()]{1,512}")  # fits the model's context, and is shallow enough to recurse into


@dataclasses.dataclass(frozen=True)
class Problem:
    """Numbers to combine and the target to reach."""

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        """Return the problem as the model reads it: `2 3 4>24`."""
        return f"{' '.join(map(str, self.numbers))}>{self.target}"


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """Which problems are drawn.

    Attributes:
        three_number_prob: Share of problems with three numbers; the others have four and are much harder.
        largest_number: Numbers are drawn from 1 to this; at most 127.
        solvable: False draws targets that no expression reaches, to study when to give up.
    """

    three_number_prob: float = 0.6
    largest_number: int = 15
    solvable: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.three_number_prob <= 1:
            raise ValueError(f"three_number_prob: expected 0 to 1, got {self.three_number_prob}")
        if not 1 <= self.largest_number <= _MOST:
            raise ValueError(f"largest_number: expected 1 to {_MOST}, got {self.largest_number}")


def draw_problem(random: np.random.Generator, difficulty: Difficulty, held_out: bool) -> Problem:
    """Draw a problem whose numbers are held out of training, or are not; its target is uniform over the distinct possible ones.

    Raises:
        ValueError: many draws found none; with small numbers there may be none.
    """
    for _ in range(_MOST_DRAWS):
        size = 3 if random.random() < difficulty.three_number_prob else 4
        numbers = tuple(int(number) for number in random.integers(1, difficulty.largest_number, size, endpoint=True))
        if is_held_out(numbers) != held_out:
            continue
        targets = _targets(tuple(sorted(numbers))) if difficulty.solvable else _unreachable(tuple(sorted(numbers)))
        if len(targets):
            return Problem(numbers, int(random.choice(targets)))
    part = "held out" if held_out else "for training"
    raise ValueError(f"difficulty: {_MOST_DRAWS} draws gave no problem {part} of {difficulty}")


def is_held_out(numbers: tuple[int, ...]) -> bool:
    """Return whether problems with these numbers, in any order, are kept from training: seven sets of numbers in sixteen."""
    return zlib.crc32(" ".join(map(str, sorted(numbers))).encode()) % 16 < 7


@functools.cache
def chains(numbers: tuple[int, ...]) -> np.ndarray:
    """Return every way to combine sorted `numbers`: int8, [chains, steps, 4] with rows left, operator, right, result."""

    def extend(pool: tuple[int, ...]) -> Iterator[tuple[tuple[int, int, int, int], ...]]:
        if len(pool) == 1:
            yield ()
            return
        for i, j in itertools.combinations(range(len(pool)), 2):
            rest = tuple(number for k, number in enumerate(pool) if k not in (i, j))
            left, right = max(pool[i], pool[j]), min(pool[i], pool[j])
            for operator, result in _results(left, right):
                for later in extend((*rest, result)):
                    yield (left, operator, right, result), *later

    found = sorted(set(extend(numbers)))
    return np.array(found, np.int8).reshape(len(found), len(numbers) - 1, 4)


def _results(left: int, right: int) -> Iterator[tuple[int, int]]:
    """Return operator and result of each step that the training text may write; left >= right."""
    if left + right <= LARGEST_RESULT:
        yield 0, left + right
    if left > right:
        yield 1, left - right
    if left * right <= LARGEST_RESULT:
        yield 2, left * right
    if right > 1 and left % right == 0:
        yield 3, left // right


def steps_text(chain: np.ndarray) -> str:
    """Return a chain as the training text writes it: `4*3=12,12+2=14`."""
    return ",".join(f"{left}{OPERATORS[operator]}{right}={result}" for left, operator, right, result in chain.tolist())


def expression(chain: np.ndarray) -> str:
    """Return a chain as one expression, every inner part in parentheses: `(4*3)+2`."""
    made: dict[int, list[str]] = {}
    text = ""
    for left, operator, right, result in chain.tolist():
        parts = [made[number].pop() if made.get(number) else str(number) for number in (left, right)]
        text = OPERATORS[operator].join(part if part.isdigit() else f"({part})" for part in parts)
        made.setdefault(result, []).append(text)
    return text


def is_right(problem: Problem, answer: str) -> bool:
    """Return whether `answer` reaches the target with every number used once."""
    tree = _parse(answer)
    if tree is None or Counter(_leaves(tree)) != Counter(problem.numbers):
        return False
    try:
        return _value(tree) == problem.target
    except ZeroDivisionError:
        return False


def vote_key(answer: str) -> str | None:
    """Return a name that reordered forms of one expression share; None where `answer` is no expression."""
    tree = _parse(answer)
    return None if tree is None else _flat(tree)


_Tree = int | tuple["_Tree", str, "_Tree"]  # a number, or left, operator, right
_SYMBOL: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def _parse(answer: str) -> _Tree | None:
    """Parse an expression with Python's own parser; None for anything that the game does not have."""
    if not _TEXT.fullmatch(answer):
        return None
    try:
        return _tree(ast.parse(answer, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        return None


def _tree(node: ast.expr) -> _Tree:
    match node:
        case ast.Constant(int(number)):
            return number
        case ast.BinOp(left, operator, right) if type(operator) in _SYMBOL:
            return _tree(left), _SYMBOL[type(operator)], _tree(right)
    raise SyntaxError("no move of this game")


def _leaves(tree: _Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else _leaves(tree[0]) + _leaves(tree[2])


def _value(tree: _Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = _value(tree[0]), _value(tree[2])
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[tree[1]](right)


def _flat(tree: _Tree) -> str:
    """Return nested sums, and nested products, as one sorted list of signed terms."""
    if isinstance(tree, int):
        return str(tree)
    plus, minus = "+-" if tree[1] in "+-" else "*/"

    def terms(node: _Tree, inverted: bool) -> list[str]:
        if isinstance(node, int) or node[1] not in (plus, minus):
            return [(minus if inverted else plus) + _flat(node)]
        return terms(node[0], inverted) + terms(node[2], inverted != (node[1] == minus))

    return f"({''.join(sorted(terms(tree, False)))})"


@functools.cache
def _targets(numbers: tuple[int, ...]) -> np.ndarray:
    """Return the distinct targets that the training text's rules reach with all of the sorted `numbers`."""
    results = chains(numbers)[:, -1, 3]
    return np.unique(results[results >= SMALLEST_TARGET])


@functools.cache
def _unreachable(numbers: tuple[int, ...]) -> np.ndarray:
    """Return the targets that no expression reaches, fractions and negative parts included."""

    def reach(pool: tuple[Fraction, ...]) -> set[Fraction]:
        if len(pool) == 1:
            return {pool[0]}
        found: set[Fraction] = set()
        for i, j in itertools.permutations(range(len(pool)), 2):
            rest = tuple(number for k, number in enumerate(pool) if k not in (i, j))
            left, right = pool[i], pool[j]
            for result in (left + right, left - right, left * right, *([left / right] if right else [])):
                found |= reach(tuple(sorted((*rest, result))))
        return found

    reached = reach(tuple(Fraction(number) for number in numbers))
    return np.array(
        [target for target in range(SMALLEST_TARGET, LARGEST_RESULT + 1) if Fraction(target) not in reached]
    )
