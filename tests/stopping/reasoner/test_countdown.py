"""The game against enumerations made another way: expressions over subsets, not chains over pools."""

import itertools
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from stopping.reasoner.countdown import (
    OPERATORS,
    Difficulty,
    Problem,
    chains,
    draw_problem,
    expression,
    is_held_out,
    is_right,
    steps_text,
    vote_key,
)
from tests.stopping.reasoner.examples import STEADY

SETS = [
    (2, 3, 4),
    (1, 1, 5),
    (2, 2, 4),
    (3, 8, 8),
    (7, 11, 15),
    (2, 2, 2, 2),
    (1, 2, 4, 4),
    (3, 3, 8, 8),
    (5, 9, 14, 15),
]


def halves(numbers):
    """Every way to part a tuple in two."""
    for size in range(1, len(numbers)):
        for chosen in itertools.combinations(range(len(numbers)), size):
            rest = [index for index in range(len(numbers)) if index not in chosen]
            yield tuple(numbers[index] for index in chosen), tuple(numbers[index] for index in rest)


def reachable(numbers):
    """Every value of an expression in all the numbers, fractions and negative parts included."""
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    found = set()
    for one, other in halves(numbers):
        for left, right in itertools.product(reachable(one), reachable(other)):
            found |= {left + right, left - right, left * right} | ({left / right} if right else set())
    return found


def reachable_by_the_rules(numbers):
    """As above, by the rules of the training text: whole parts from 1 to 99, no division by 1."""
    if len(numbers) == 1:
        return set(numbers)
    found = set()
    for one, other in halves(numbers):
        for left, right in itertools.product(reachable_by_the_rules(one), reachable_by_the_rules(other)):
            found |= {left + right, left - right, left * right}
            found |= {left // right} if right > 1 and left % right == 0 else set()
    return {value for value in found if 1 <= value <= 99}


def step_lists(numbers):
    """Every chain as a set of written steps, found by trying all steps with all operands blindly."""
    if len(numbers) == 1:
        return {()}
    found = set()
    for left, right in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[left], numbers[right]
        rest = [number for index, number in enumerate(numbers) if index not in (left, right)]
        for operator in OPERATORS:
            result = eval(f"Fraction({a}){operator}{b}")
            if a >= b and result.denominator == 1 and 1 <= result <= 99 and (operator, b) != ("/", 1):
                found |= {(f"{a}{operator}{b}={result}", *later) for later in step_lists([*rest, int(result)])}
    return found


@pytest.mark.parametrize("numbers", SETS)
def test_chains_are_all_there_are(numbers):
    found = chains(numbers)
    assert found.dtype == np.int8 and found.shape[1:] == (len(numbers) - 1, 4)
    texts = [steps_text(chain) for chain in found]
    assert len(set(texts)) == len(texts)
    assert set(texts) == {",".join(steps) for steps in step_lists(list(numbers))}
    assert set(found[:, -1, 3].tolist()) == reachable_by_the_rules(numbers)


@pytest.mark.parametrize("numbers", SETS)
def test_a_chain_s_expression_is_right_for_its_result_alone(numbers):
    for chain in chains(numbers):
        text, result = expression(chain), int(chain[-1, 3])
        assert is_right(Problem(numbers, result), text)
        assert not is_right(Problem(numbers, result + 1), text)
        assert is_right(Problem(numbers[::-1], result), text)


def test_by_hand():
    chain = np.array([[4, 2, 3, 12], [12, 0, 2, 14]], np.int8)
    assert (steps_text(chain), expression(chain)) == ("4*3=12,12+2=14", "(4*3)+2")
    # The first 4 of the second step was made, the 4 of the third was given.
    again = np.array([[2, 0, 2, 4], [4, 0, 1, 5], [5, 0, 4, 9]], np.int8)
    assert expression(again) == "((2+2)+1)+4"
    assert Problem((12, 2, 7), 98).prompt == "12 2 7>98"


PROBLEM = Problem((3, 3, 8, 8), 24)


@pytest.mark.parametrize("answer", ["8/(3-8/3)", "8/(3-(8/3))", "((8)/(3-(8/3)))"])
def test_fractions_on_the_way_are_right(answer):
    assert is_right(PROBLEM, answer)


@pytest.mark.parametrize(
    "answer",
    ["8*3", "8*(3+8-8)", "8+8+3+3", "8/(3-8/3)+0", "8/(3-8/3)*1", "8/(8-8)", "3/(3-3)+24", "24", "83-38", "88-(33+31)"],
)
def test_other_numbers_or_values_are_wrong(answer):
    assert not is_right(PROBLEM, answer)
    assert vote_key(answer) is not None


def test_division_by_zero_is_wrong():
    assert not is_right(Problem((8, 3, 3), 8), "8/(3-3)")


JUNK = [
    "",
    " ",
    "yes",
    " yes",
    "3+",
    "+",
    "()",
    "(3",
    "3)",
    "3//2",
    "2**3",
    "--3",
    "-3",
    "3-+2",
    "3 + 2",
    "3+2=5",
    "3(2)",
]
JUNK += ["(3)(2)", "3,2", "03", "3.0", "3e1", "3\n", "\u0663", "3<eos>", "(" * 300 + "3" + ")" * 300, "9" * 5000]


@pytest.mark.parametrize("answer", JUNK, ids=lambda answer: repr(answer[:12]))
def test_junk_is_wrong_and_has_no_key(answer):
    assert not is_right(Problem((3, 2), 5), answer)
    assert not is_right(Problem((3,), 3), answer)
    assert vote_key(answer) is None


@pytest.mark.parametrize("count", [260, 950, 985, 990, 995, 2000])
@pytest.mark.parametrize("form", ["{}", "({})*2"])
def test_what_no_context_holds_is_no_answer(count, form):
    answer = form.format("+".join("1" * count))
    assert vote_key(answer) is None and not is_right(Problem((1,) * count, count), answer)


def test_what_fills_the_context_has_a_key():
    assert vote_key("+".join("1" * 256)) == f"({'+1' * 256})"
    assert not is_right(PROBLEM, "+".join("1" * 256))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("length", [10**3, 10**4, 10**5])
def test_very_long_answers_do_no_harm(operator, length):
    assert not is_right(PROBLEM, operator.join("1" * length))


def trees(largest, most):
    def joined(parts):
        return st.tuples(st.sampled_from(OPERATORS), parts, parts)

    return st.recursive(st.integers(1, largest), joined, max_leaves=most)


def written(tree):
    """Every inner part in parentheses."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    return f"({written(left)}){operator}({written(right)})"


def commuted(tree, flips):
    """The same expression with the operands of some sums and products exchanged."""
    if isinstance(tree, int):
        return tree
    operator, left, right = tree[0], commuted(tree[1], flips), commuted(tree[2], flips)
    return (operator, right, left) if operator in "+*" and flips.draw(st.booleans()) else (operator, left, right)


def leaned(tree):
    """a+(b+c) as (a+b)+c, a-(b-c) as (a-b)+c, and so on: the same expression in other parentheses."""
    if isinstance(tree, int):
        return tree
    operator, left, right = tree[0], leaned(tree[1]), leaned(tree[2])
    for same, inverse in ("+-", "*/"):
        if operator in same + inverse and not isinstance(right, int) and right[0] in same + inverse:
            second = same if operator == right[0] else inverse
            return (second, (operator, left, right[1]), right[2])
    return (operator, left, right)


def value(tree):
    """None where something is divided by zero."""
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = value(tree[1]), value(tree[2])
    if None in (left, right) or (tree[0] == "/" and not right):
        return None
    return {"+": left + right, "-": left - right, "*": left * right, "/": right and left / right}[tree[0]]


@STEADY
@given(tree=trees(15, 6), flips=st.data())
def test_reordered_forms_vote_together(tree, flips):
    swapped = commuted(tree, flips)
    assert vote_key(written(swapped)) == vote_key(written(tree))
    assert value(swapped) == value(tree)
    other = leaned(swapped)
    assert vote_key(written(other)) == vote_key(written(tree))
    assert value(other) == value(tree) or value(tree) is None
    assert Counter(re.findall(r"\d+", written(other))) == Counter(re.findall(r"\d+", written(tree)))


@STEADY
@given(one=trees(2, 3), other=trees(2, 3))
def test_equal_keys_mean_equal_values(one, other):
    assert (
        vote_key(written(one)) != vote_key(written(other))
        or value(one) == value(other)
        or None in map(value, (one, other))
    )


def test_keys_tell_all_values_of_some_numbers_apart():
    values = {}
    for chain in chains((2, 3, 7, 12)):
        values.setdefault(vote_key(expression(chain)), set()).add(int(chain[-1, 3]))
    assert all(len(results) == 1 for results in values.values())
    assert len(values) < len(chains((2, 3, 7, 12)))


@pytest.mark.parametrize(
    ("one", "other"), [("1-2", "2-1"), ("1/2", "2/1"), ("(1+2)*3", "1+(2*3)"), ("1+11", "11+11"), ("1+2", "12")]
)
def test_different_expressions_vote_apart(one, other):
    assert vote_key(one) != vote_key(other)


def test_keys_by_hand():
    assert vote_key("2+3*4") == vote_key("(4*3)+2") == "(+(*3*4)+2)"
    assert vote_key("7-(3-2)") == vote_key("(2+7)-3") == "(+2+7-3)"
    assert vote_key("((7))") == "7"


def test_held_out_goes_by_the_numbers_in_any_order():
    for numbers in itertools.combinations_with_replacement(range(1, 10), 3):
        assert len({is_held_out(order) for order in itertools.permutations(numbers)}) == 1
    every = [is_held_out(numbers) for numbers in itertools.combinations_with_replacement(range(1, 16), 4)]
    assert np.mean(every) == pytest.approx(7 / 16, abs=5 * (7 * 9 / 16**2 / len(every)) ** 0.5)


@pytest.mark.parametrize("held_out", [True, False])
def test_drawn_problems_keep_to_their_part_and_their_difficulty(held_out):
    random = np.random.default_rng(0)
    difficulty = Difficulty(three_number_prob=0.3, largest_number=7)
    problems = [draw_problem(random, difficulty, held_out) for _ in range(600)]
    assert all(is_held_out(problem.numbers) == held_out for problem in problems)
    assert {number for problem in problems for number in problem.numbers} == set(range(1, 8))
    assert all(10 <= problem.target <= 99 for problem in problems)
    assert all(problem.target in reachable_by_the_rules(problem.numbers) for problem in problems[:100])


@pytest.mark.parametrize(("prob", "sizes"), [(0.0, {4}), (1.0, {3}), (0.5, {3, 4})])
def test_sizes_are_drawn_as_asked(prob, sizes):
    random = np.random.default_rng(1)
    drawn = [draw_problem(random, Difficulty(three_number_prob=prob, largest_number=6), False) for _ in range(60)]
    assert {len(problem.numbers) for problem in drawn} == sizes


def test_the_share_of_three_numbers_is_the_one_asked_for():
    random = np.random.default_rng(4)
    three = [len(draw_problem(random, Difficulty(), True).numbers) == 3 for _ in range(1000)]
    assert np.mean(three) == pytest.approx(0.6, abs=5 * (0.24 / 1000) ** 0.5)


def test_targets_are_even_over_the_distinct_ones():
    # Of numbers up to 4 there are few sets, each with few targets.
    random = np.random.default_rng(2)
    difficulty = Difficulty(three_number_prob=1.0, largest_number=4)
    drawn = Counter()
    for _ in range(6000):
        problem = draw_problem(random, difficulty, False)
        drawn[tuple(sorted(problem.numbers)), problem.target] += 1
    p_values = []
    for numbers in {numbers for numbers, _ in drawn}:
        targets = sorted(target for target in reachable_by_the_rules(numbers) if target >= 10)
        counts = [drawn[numbers, target] for target in targets]
        assert sum(counts) == sum(count for (name, _), count in drawn.items() if name == numbers)
        if len(targets) > 1:
            p_values.append(chisquare(counts).pvalue)
    assert len(p_values) > 3 and min(p_values) > 1e-3 / len(p_values)


def test_unsolvable_problems_have_no_solution_at_all():
    random = np.random.default_rng(3)
    for prob, count in ((1.0, 20), (0.0, 3)):
        for _ in range(count):
            problem = draw_problem(random, Difficulty(prob, solvable=False), True)
            assert problem.target not in reachable(problem.numbers) and 10 <= problem.target <= 99


def test_where_there_is_no_problem_none_is_sought_for_ever():
    # The held-out sets of three numbers up to 4 are 1 1 n, which reach nothing from 10 on.
    with pytest.raises(ValueError, match=r"10000 draws gave no problem held out of Difficulty\(.*largest_number=4"):
        draw_problem(np.random.default_rng(0), Difficulty(1.0, 4), True)


def test_the_same_seed_draws_the_same_problems():
    def drawn(seed):
        random = np.random.default_rng(seed)
        return [draw_problem(random, Difficulty(1.0), True) for _ in range(20)]

    assert drawn(5) == drawn(5) != drawn(6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"largest_number": 128}, "largest_number: expected 1 to 127, got 128"),
        ({"largest_number": 0}, "largest_number: expected 1 to 127, got 0"),
        ({"three_number_prob": 1.5}, "three_number_prob: expected 0 to 1, got 1.5"),
        ({"three_number_prob": float("nan")}, "three_number_prob: expected 0 to 1, got nan"),
    ],
)
def test_a_difficulty_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Difficulty(**wrong)


def test_the_largest_numbers_there_are_can_be_drawn():
    random = np.random.default_rng(0)
    drawn = [draw_problem(random, Difficulty(1.0, 127), True) for _ in range(50)]
    assert max(max(problem.numbers) for problem in drawn) > 110
