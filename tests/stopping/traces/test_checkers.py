"""Which answers are right."""

from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, checker
from stopping.traces.answers import answer_keys
from stopping.traces.checkers import CHECKERS, choice_key
from tests.stopping.traces.examples import STEADY


@pytest.mark.parametrize(
    ("name", "answer", "target", "right"),
    [
        ("exact", " 18 ", "18", True),
        ("exact", "18.0", "18", False),
        ("exact", "b", "B", False),
        ("numeric", "1,000", "1000", True),
        ("numeric", "1/2", "0.50", True),
        ("numeric", "$5e2$", "500", True),
        ("numeric", "-0", "0", True),
        ("numeric", "1/3", "0.3333333333", False),
        ("numeric", "18 apples", "18", False),
        ("numeric", "", "18", False),
        ("choice", "(b)", "B", True),
        ("choice", "**B**", "(B)", True),
        ("choice", "B) Paris", "B", True),
        ("choice", "C", "B", False),
        ("choice", "K", "B", False),
        ("choice", "Because", "B", False),
        ("choice", "B or C", "B", False),
    ],
)
def test_our_checkers(name: str, answer: str, target: str, right: bool) -> None:
    checks = checker(name)
    assert checks is not None and checks.name == name
    assert checks.correct(answer, target) is right
    assert checks.correct(None, target) is False


@pytest.mark.parametrize("text", ["A dog", "AB", "", "(", "K", "the answer is B", "B-", "1"])
def test_what_names_no_choice(text: str) -> None:
    assert choice_key(text) is None


@STEADY
@given(texts=st.lists(st.sampled_from(["1/2", ".5", "0.50", " x", "x ", "X", "(C)", "c", "C. x", ""]), max_size=8))
def test_answers_that_are_equal_are_right_together(texts: list[str]) -> None:
    """A checker judges by the equality that it hands to the log, so no vote joins right and wrong answers."""
    for name, target in (("exact", "x"), ("numeric", "1/2"), ("choice", "(C)")):
        checks = CHECKERS[name]
        right_of_key: dict[Hashable, bool] = {}
        for text, key in zip(texts, answer_keys(texts, checks.answers, ()), strict=True):
            right = checks.correct(text, target)
            assert right_of_key.setdefault(key, right) == right and not (right and key is None)


@pytest.mark.parametrize(
    ("name", "target"), [("numeric", "#### 18"), ("numeric", ""), ("choice", "Paris"), ("choice", "1")]
)
def test_a_target_that_nothing_would_equal_is_refused(name: str, target: str) -> None:
    with pytest.raises(LogError, match=rf"check '{name}': expected .* as target, got"):
        CHECKERS[name].correct("1", target)


def test_a_function_of_the_users_own() -> None:
    checks = checker(lambda answer, target: np.bool_(answer in target))
    assert checks is not None and checks.name == "custom" and checks.answers == "exact"
    assert checks.correct("1", "12") is True and checks.correct("3", "12") is False
    assert checks.correct(None, "12") is False
    with pytest.raises(LogError, match=r"check: the function failed on 'x', '1': ValueError"):
        checker(lambda answer, target: int(answer) == int(target)).correct("x", "1")  # type: ignore[union-attr]
    with pytest.raises(LogError, match="expected the function to return true or false, got 1"):
        checker(lambda answer, target: 1).correct("x", "1")  # type: ignore[union-attr,arg-type,return-value]


def test_none_and_unknown_names() -> None:
    assert checker("none") is None
    with pytest.raises(
        LogError, match=r"check: expected 'exact', 'numeric', 'choice', 'none' or a function.* got 'sympy'"
    ):
        checker("sympy")
