r"""The text the reasoner learns from: a visible search with dead ends, doubt after success, and checks that can fail.

    <bos>2 3 4>24<think>4*3=12,12+2=14 no
    4*3=12,12*2=24 yes
    wait
    4+2=6,6*3=18 no
    check (4*3)*2=24 ok
    </think>(4*3)*2<eos>

A line is one complete attempt with its verdict. After ` yes` the text answers at once, checks the solution, or waits: a few more
attempts, then the check. Attempts come in a random order guided by how near their result is, without repetition; a search that
finds nothing in time writes `stop` and guesses.

Nothing false is ever *learned*. To let a check fail, some texts carry a slip: a ` yes` line with false arithmetic, with numbers
that were not given, or with a false verdict. Slips weigh nothing in the loss; the check after one tells the truth (` no`), and
the search goes on.
"""

from typing import NamedTuple

import numpy as np

from stopping.reasoner.countdown import Difficulty, Problem, chains, draw_problem, expression, steps_text
from stopping.reasoner.vocabulary import CLOSE_THINK, encode

DIRECT_PROB, CHECK_PROB = 0.30, 0.32  # after the first ` yes`; otherwise `wait`
SLIP_PROB = 0.20
LATEST_SLIP = 6  # attempts; most searches have ended when a later one would come
FORCED_PROB = 0.35
LINE_END_PROB = 0.5  # of a forced end; the others fall anywhere, as a server's token budget does
FEWEST_ATTEMPTS, MOST_ATTEMPTS = 9, 24
THOUGHT_TOKENS = 440
CONTEXT_TOKENS = 512
TEMPERATURES = (3.0, 8.0, 25.0)


class Example(NamedTuple):
    """One training text.

    Attributes:
        tokens: Token ids from `<bos>` to `<eos>`, int32 [tokens].
        weights: 1 where the token is learned, 0 for the prompt, slips and a forced `</think>`, float32 [tokens].
        answer_start: Index of the first token of the answer.
    """

    tokens: np.ndarray
    weights: np.ndarray
    answer_start: int


def draw_example(random: np.random.Generator, difficulty: Difficulty) -> Example:
    """Draw a problem of the training part with a thought and a true answer, at most `CONTEXT_TOKENS` long."""
    while True:
        problem = draw_problem(random, difficulty, held_out=False)
        lines, solution = _thought(random, problem, difficulty.largest_number)
        tokens = encode(f"<bos>{problem.prompt}<think>")
        weights = [0.0] * len(tokens)
        start = len(tokens)
        ends = [start]
        for line in lines:
            ids = encode(line.text + "\n")
            tokens += ids
            weights += [float(line.learned)] * len(ids)
            ends.append(len(tokens))
        forced = random.random() < FORCED_PROB
        if forced:
            cut = random.choice(ends) if random.random() < LINE_END_PROB else random.integers(start, len(tokens) + 1)
            tokens, weights = tokens[:cut], weights[:cut]
        # What the thought has shown by now counts; a thought that has shown nothing ends in a guess, which is a true one here.
        shown = (
            line.solution for line, end in zip(lines, ends[1:], strict=True) if line.solution and end <= len(tokens)
        )
        tokens.append(CLOSE_THINK)
        weights.append(float(not forced))
        answer = encode(next(shown, solution) + "<eos>")
        if len(tokens) + len(answer) <= CONTEXT_TOKENS:
            return Example(
                np.array(tokens + answer, np.int32), np.array(weights + [1.0] * len(answer), np.float32), len(tokens)
            )


class _Line(NamedTuple):
    text: str
    solution: str = ""  # the expression, where this line first shows a true solution
    learned: bool = True


def _thought(random: np.random.Generator, problem: Problem, largest_number: int) -> tuple[list[_Line], str]:
    """Return the lines of one search, and the solution to answer with where none was found in time."""
    known = chains(tuple(sorted(problem.numbers)))
    hits = np.flatnonzero(known[:, -1, 3] == problem.target)
    solution = expression(known[random.choice(hits)])
    # Gumbel noise on a score makes a random order without repetition (Plackett-Luce); near misses tend to come early.
    scores = -np.abs(known[:, -1, 3].astype(float) - problem.target) / random.choice(TEMPERATURES)
    order = iter(np.argsort(-(scores + random.gumbel(size=len(scores)))))
    most = int(random.integers(FEWEST_ATTEMPTS, MOST_ATTEMPTS, endpoint=True))
    slip_at = int(random.integers(LATEST_SLIP)) if random.random() < SLIP_PROB else -1

    lines: list[_Line] = []
    found = ""
    claimed = ""  # the expression of a slip that no check has met yet
    claim_due = 0
    size = 0

    def write(*new: _Line) -> None:
        nonlocal size
        lines.extend(new)
        size += sum(len(line.text) + 1 for line in new)

    for attempt, index in enumerate(order):
        if attempt >= most or size > THOUGHT_TOKENS:
            break
        if attempt == slip_at:
            text, claimed, truth = _slip(random, problem, known, largest_number)
            write(_Line(f"{text} yes", learned=False))
            if random.random() < CHECK_PROB / (1 - DIRECT_PROB):
                claim_due = attempt
            else:
                write(_Line("wait"))
                claim_due = attempt + _num_more(random)
        if claimed and attempt >= claim_due:
            write(_Line(f"check {claimed}={truth} no"))
            claimed = ""
        chain = known[index]
        if chain[-1, 3] != problem.target:
            write(_Line(f"{steps_text(chain)} no"))
            continue
        found = expression(chain)
        write(_Line(f"{steps_text(chain)} yes", found))
        break

    check = _Line(f"check {found}={problem.target} ok")
    if claimed:
        write(_Line(f"check {claimed}={truth} no"))
    if not found:
        write(_Line("stop"))
    elif claimed:
        write(check)
    elif (luck := random.random()) >= DIRECT_PROB:
        if luck >= DIRECT_PROB + CHECK_PROB:
            write(_Line("wait"))
            for index in (index for index, _ in zip(order, range(_num_more(random)), strict=False)):
                verdict = "yes" if known[index][-1, 3] == problem.target else "no"
                write(_Line(f"{steps_text(known[index])} {verdict}"))
        write(check)
    return lines, solution


def _num_more(random: np.random.Generator) -> int:
    """Return the attempts after `wait`."""
    return min(1 + int(random.exponential(3.5)), 10)


def _slip(
    random: np.random.Generator, problem: Problem, known: np.ndarray, largest_number: int
) -> tuple[str, str, int]:
    """Return a false claim: its steps as written, its expression, and the expression's true value."""
    missed = known[known[:, -1, 3] != problem.target]
    if random.random() < 1 / 3:
        swapped = list(problem.numbers)
        swapped[random.integers(len(swapped))] = int(random.integers(1, largest_number, endpoint=True))
        others = chains(tuple(sorted(swapped)))
        reached = others[others[:, -1, 3] == problem.target]
        if len(reached) and sorted(swapped) != sorted(problem.numbers):
            chain = random.choice(reached)
            return steps_text(chain), expression(chain), problem.target
    chain = random.choice(missed)
    text, truth = steps_text(chain), int(chain[-1, 3])
    if random.random() < 1 / 2:
        text = f"{text[: text.rindex('=')]}={problem.target}"
    return text, expression(chain), truth
