"""The rule in use, and its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stopping.traces import LogError, Reference
from stopping.traces.reference import MAX_AMOUNT
from tests.stopping.traces.examples import STEADY

REFERENCES = st.sampled_from([Reference("single"), Reference("logged")]) | st.builds(
    Reference, st.sampled_from(["majority", "budget"]), st.integers(1, MAX_AMOUNT)
)


@STEADY
@given(REFERENCES)
def test_the_text_gives_the_reference_back(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@STEADY
@given(st.text() | st.from_regex(r"(single|logged|majority|budget)[@=]?-?[0-9]{0,12}", fullmatch=True))
def test_a_text_is_read_as_it_is_or_refused(text: str) -> None:
    try:
        assert str(Reference.parse(text)) == text
    except LogError as error:
        assert "'single', 'majority@n', 'budget=B' or 'logged'" in str(error)


def test_the_four_forms() -> None:
    assert Reference.parse("majority@16") == Reference("majority", 16) == Reference.vote(16)
    assert Reference.parse("budget=480") == Reference("budget", 480)
    assert Reference.parse("single") == Reference("single") == Reference.vote(1)
    assert Reference.parse("logged") == Reference("logged")


@pytest.mark.parametrize(
    "text",
    ["", "vote", "majority", "majority@0", "majority@01", "budget@5", "budget=", "single@1", "budget=1000000000"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(LogError, match="reference: expected 'single', 'majority@n', 'budget=B' or 'logged', with n"):
        Reference.parse(text)


@pytest.mark.parametrize(("kind", "amount"), [("vote", 0), ("majority", 0), ("single", 1), ("budget", -1)])
def test_other_values_are_refused(kind: str, amount: int) -> None:
    with pytest.raises(LogError, match="reference: expected"):
        Reference(kind, amount)  # type: ignore[arg-type]
