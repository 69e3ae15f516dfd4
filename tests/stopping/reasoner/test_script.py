"""What the texts say is true where it is learned, and things happen as often as the module's constants say."""

import re
from fractions import Fraction

import numpy as np
import pytest

from stopping.reasoner.countdown import OPERATORS, Difficulty, Problem, expression, is_held_out, is_right
from stopping.reasoner.script import (
    CHECK_PROB,
    CONTEXT_TOKENS,
    DIRECT_PROB,
    FORCED_PROB,
    LATEST_SLIP,
    LINE_END_PROB,
    MOST_ATTEMPTS,
    SLIP_PROB,
    draw_example,
)
from stopping.reasoner.vocabulary import BOS, CLOSE_THINK, EOS, OPEN_THINK, decode
from tests.stopping.reasoner.examples import texts

COUNT = 2000
STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


class Reading:
    """A text taken apart again."""

    def __init__(self, example):
        ids = example.tokens.tolist()
        self.example, self.ids = example, ids
        self.start, self.close = ids.index(OPEN_THINK) + 1, ids.index(CLOSE_THINK)
        prompt, self.thought, self.answer = re.fullmatch(
            r"<bos>([0-9 ]+>[0-9]+)<think>(.*)</think>([^<]+)<eos>", decode(ids), re.DOTALL
        ).groups()
        numbers, target = prompt.split(">")
        self.problem = Problem(tuple(map(int, numbers.split())), int(target))
        self.forced = example.weights[self.close] == 0
        self.lines, position = [], self.start
        for line in re.findall(r"[^\n]*\n|[^\n]+\Z", self.thought):
            length = next(n for n in range(len(ids)) if len(decode(ids[position : position + n])) == len(line))
            weights = example.weights[position : position + length]
            assert len(set(weights.tolist())) == 1
            self.lines.append((line, bool(weights[0])))
            position += length
        assert position == self.close
        self.slipped = not all(learned for _, learned in self.lines)


@pytest.fixture(scope="module")
def readings():
    return [Reading(example) for example in texts(COUNT)]


def near(hits, prob):
    """Within 5 standard errors."""
    assert np.mean(hits) == pytest.approx(prob, abs=5 * (prob * (1 - prob) / len(hits)) ** 0.5)


def truth_of_attempt(line, problem):
    """Whether the arithmetic of a line holds, and whether its steps lead from the problem's numbers to the target."""
    pool, holds = list(problem.numbers), True
    for left, operator, right, result in STEP.findall(line):
        exact = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}[
            operator
        ]
        holds &= exact(Fraction(left), Fraction(right)) == int(result)
        for number in (int(left), int(right)):
            if number not in pool:
                return holds, False
            pool.remove(number)
        pool.append(int(result))
    return holds, pool == [problem.target]


def test_every_answer_is_right(readings):
    assert all(is_right(each.problem, each.answer) for each in readings)


def test_no_problem_is_held_out(readings):
    assert not any(is_held_out(each.problem.numbers) for each in readings)


def test_shapes(readings):
    for each in readings:
        tokens, weights, answer_start = each.example
        assert tokens.dtype == np.int32 and weights.dtype == np.float32 and tokens.shape == weights.shape
        assert len(tokens) <= CONTEXT_TOKENS and answer_start == each.close + 1
        assert tokens[0] == BOS and tokens[-1] == EOS
        assert set(weights.tolist()) <= {0.0, 1.0}


def test_prompts_weigh_nothing_and_answers_all(readings):
    for each in readings:
        assert not each.example.weights[: each.start].any()
        assert each.example.weights[each.example.answer_start :].all()


def test_nothing_false_is_learned(readings):
    kinds = set()
    for each in readings:
        for line, learned in each.lines:
            if not line.endswith("\n"):  # a forced end; what is there is checked as far as it goes
                assert each.forced and line == each.lines[-1][0]
                holds, _ = truth_of_attempt(line.rpartition(",")[0], each.problem)
                assert holds
            elif line in ("wait\n", "stop\n"):
                assert learned
                kinds.add(line)
            elif match := re.fullmatch(r"check ([^=]+)=(\d+) (ok|no)\n", line):
                assert learned
                assert eval(re.sub(r"(\d+)", r"Fraction(\1)", match[1])) == int(match[2])
                assert (match[3] == "ok") == is_right(each.problem, match[1])
                kinds.add(match[3])
            else:
                size = len(each.problem.numbers)
                verdict = re.fullmatch(rf"(?:{STEP.pattern},?){{{size - 1}}} (yes|no)\n", line).groups()[-1]
                holds, hits = truth_of_attempt(line, each.problem)
                assert (holds and (verdict == "yes") == hits) == learned
                kinds.add((verdict, learned))
    assert kinds == {"wait\n", "stop\n", "ok", "no", ("yes", True), ("no", True), ("yes", False)}


def test_slips_are_of_three_kinds_and_are_met_by_a_failing_check(readings):
    false_sum = other_numbers = false_verdict = 0
    for each in readings:
        slips = [index for index, (_, learned) in enumerate(each.lines) if not learned]
        assert len(slips) <= 1
        for index in slips:
            if not each.lines[index][0].endswith(" yes\n"):
                continue
            holds, hits = truth_of_attempt(each.lines[index][0], each.problem)
            _, target = each.lines[index][0][:-5].rsplit("=", 1)
            false_sum += not holds
            other_numbers += holds and not hits and int(target) == each.problem.target
            false_verdict += holds and int(target) != each.problem.target
            later = [line for line, _ in each.lines[index + 1 :]]
            assert index <= LATEST_SLIP
            assert each.forced or sum(line.endswith(" no\n") for line in later if line.startswith("check ")) == 1
    assert min(false_sum, other_numbers, false_verdict) > COUNT // 100


def test_attempts_are_not_repeated(readings):
    for each in readings:
        attempts = [line for line, learned in each.lines if learned and line[0].isdigit() and line.endswith("\n")]
        assert len(set(attempts)) == len(attempts)
        first = next((index for index, line in enumerate(attempts) if line.endswith("yes\n")), len(attempts))
        assert first <= MOST_ATTEMPTS


def test_what_is_shown_is_answered(readings):
    for each in readings:
        checked = [line for line, _ in each.lines if line.endswith(" ok\n")]
        assert all(line == f"check {each.answer}={each.problem.target} ok\n" for line in checked)
        yes = [line for line, learned in each.lines if learned and line.endswith(" yes\n")]
        if yes:
            steps = [
                (int(left), OPERATORS.index(operator), int(right), int(result))
                for left, operator, right, result in STEP.findall(yes[0])
            ]
            assert each.answer == expression(np.array(steps))


def test_shares_after_the_first_success(readings):
    after = []
    for each in readings:
        first = next((index for index, (line, _) in enumerate(each.lines) if line.endswith(" yes\n")), None)
        if first is not None and not each.forced and not each.slipped:
            following = each.lines[first + 1][0] if first + 1 < len(each.lines) else "direct"
            after.append(following.split()[0])
    assert len(after) > COUNT / 4 and set(after) == {"direct", "check", "wait"}
    near([kind == "direct" for kind in after], DIRECT_PROB)
    near([kind == "check" for kind in after], CHECK_PROB)
    near([kind == "wait" for kind in after], 1 - DIRECT_PROB - CHECK_PROB)


def test_forced_ends(readings):
    near([each.forced for each in readings], FORCED_PROB)
    ragged = [each.thought != "" and not each.thought.endswith("\n") for each in readings if each.forced]
    near(ragged, (1 - LINE_END_PROB) * (1 - 1 / 20))  # one place in twenty is a line's end
    assert all(each.thought.endswith("\n") for each in readings if not each.forced)


def test_slips_are_as_frequent_as_said(readings):
    """Some searches are over before a late slip would come, so the share is a bound; failing checks do occur."""
    whole = [each for each in readings if not each.forced]
    share = np.mean([each.slipped for each in whole])
    assert SLIP_PROB / 3 < share < SLIP_PROB
    failing = np.mean([bool(re.search(r"check [^\n]* no\n", each.thought)) for each in whole])
    assert failing == share


def test_the_same_seed_gives_the_same_texts_and_another_gives_others():
    def drawn(seed):
        random = np.random.default_rng(seed)
        return [draw_example(random, Difficulty()).tokens.tolist() for _ in range(5)]

    assert drawn(0) == [example.tokens.tolist() for example in texts(COUNT)[:5]] != drawn(1)
