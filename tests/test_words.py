"""The prose of the project is plain English: words that read as translated are listed here, each with what to write instead."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = (".py", ".md", ".toml", ".yml")

# The history; a saved policy, whose checksums cover its card; this table.
NEVER = ("CHANGELOG.md", "stopping/reasoner/shipped/policy", "tests/test_words.py")

INSTEAD = {
    r"h[au]ngs? on": "depends on",
    r"(?:stands?|stood) (?:in|at|beside|behind|before|between|around|there|open)|as it stands": "is",
    r"of ours": "our",
    r"of (?:one's|its|their|your|his) own|one's own": "custom, user-defined; separate",
    r"t(?:ell(?:s|ing)?|old) (?:(?:[\w`]+ ){1,4}?apart|(?:[\w`]+ ){0,4}?from)": "distinguish; significant",
    r"realised": "observed",
    r"no other beats": "Pareto-optimal",
    r"(?:had|has|have) no say|without a say": "is not used for",
    r"mend(?:s|ed|ing)?": "fixes, corrected",
    r"for certain": "with confidence",
    r"in mean|a mean of": "on average",
    r"the most that it can be": "an upper bound",
    r"hears?|heard": "is called with; notices",
    r"whoever": "a user who, a caller that",
}
# In tests a law is a property that is checked: it holds, and it is nothing that is drawn from or computed with.
LAW = r"laws?"
LAW_IN_TESTS = r"laws? of|laws?(?= = | in |[.\[(]\w)"


def pattern(words: str) -> re.Pattern[str]:
    """Return the pattern of whole words, between which a line and its comment sign may end."""
    spaced = words.replace(" ", r"(?:\s+|\s*\n\s*#\s*)")
    return re.compile(rf"\b(?:{spaced})\b", re.IGNORECASE | re.MULTILINE)


PATTERNS = {pattern(words): instead for words, instead in INSTEAD.items()}
LAWS = {False: pattern(LAW), True: pattern(LAW_IN_TESTS)}


def files() -> list[str]:
    """Return the tracked text files that this test reads."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    left_out = [Path(name) for name in NEVER]
    kept = [name for name in names if name.endswith(SUFFIXES) and not any(map(Path(name).is_relative_to, left_out))]
    return [name for name in kept if (ROOT / name).exists()]


def replaced_words(text: str, *, of_a_test: bool = False) -> list[tuple[int, str, str]]:
    """Return the replaced words of a text, each with its line and what to write instead."""
    patterns = PATTERNS | {LAWS[of_a_test]: "distribution"}
    found = [(match, instead) for known, instead in patterns.items() for match in known.finditer(text)]
    return [(text.count("\n", 0, match.start()) + 1, match[0], instead) for match, instead in found]


def test_no_file_has_a_replaced_word():
    assert len(files()) > 150
    wrong = [
        f"{name}:{number}: {word!r}: write {instead}"
        for name in files()
        for number, word, instead in replaced_words(
            (ROOT / name).read_text("utf-8"), of_a_test=name.startswith("tests/")
        )
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("what it hangs on", "hangs on"), ("It hung on this", "hung on"), ("beside it stands a bound", None),
        ("which stands in the file", "stands in"), ("a process of its own", "of its own"), ("its own process", None),
        ("to tell right from wrong", "tell right from"), ("told from chance", "told from"), ("in mean", "in mean"),
        ("the law of lengths", "law"), ("a lawful flaw", None), ("a stand-in for it", None), ("a fix\nit mended", "mended"),
        ("# it hangs\n# on this", "hangs\n# on"),
    ],
)  # fmt: skip
def test_words_are_found(text, word):
    found = replaced_words(text)
    assert [each for _, each, _ in found] == ([word] if word else [])


def test_the_line_of_a_word_is_found():
    assert [number for number, _, _ in replaced_words("one\nit hangs\non this, for\ncertain")] == [2, 3]


def test_a_law_of_a_test_is_a_property():
    assert not replaced_words("Their laws hold for every policy.", of_a_test=True)
    assert replaced_words("the law of lengths", of_a_test=True) and replaced_words("law = Beta(1, 2)", of_a_test=True)
