"""The part of a text that is wanted."""

import pytest

from stopping.traces import LogError, extractor

BOXED = r"\\boxed\{([^{}]*)\}"


@pytest.mark.parametrize(
    ("pattern", "text", "part"),
    [
        (BOXED, r"so \boxed{3}, no, \boxed{ 4 }", "4"),
        (BOXED, "so 4", None),
        (r"\d+", "first 12 then 7", "7"),
        (r"is (\d+)|(\d+) it is", "is 3; 4 it is", "4"),
        (r"answer:(.*)", "answer:", ""),
        (r"(?s)</think>.*" + BOXED, r"<think>\boxed{3}</think> so \boxed{4}", "4"),
        (r"(?s)</think>.*" + BOXED, r"<think>\boxed{3}", None),
    ],
)
def test_the_last_match_and_its_first_group(pattern: str, text: str, part: str | None) -> None:
    assert extractor(pattern, "extract_answer")(text) == part


def test_a_function_of_the_users_own() -> None:
    assert extractor(lambda text: text[:2], "extract_answer")(" a b") == "a"
    assert extractor(lambda text: None, "extract_answer")("a") is None
    with pytest.raises(LogError, match="extract_answer: the function failed on 'a': IndexError"):
        extractor(lambda text: text[3], "extract_answer")("a")
    with pytest.raises(LogError, match="extract_answer: expected the function to return a text or None for 'a', got 1"):
        extractor(lambda text: 1, "extract_answer")("a")  # type: ignore[arg-type,return-value]


def test_what_is_neither() -> None:
    with pytest.raises(LogError, match=r"extract_target: expected a regular expression, got '\('"):
        extractor("(", "extract_target")
    with pytest.raises(LogError, match="extract_target: expected a regular expression or a function, got 3"):
        extractor(3, "extract_target")  # type: ignore[arg-type]
