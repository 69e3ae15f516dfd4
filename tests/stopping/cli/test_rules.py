import shutil
from pathlib import Path

import numpy as np
import pytest

from stopping.artifacts import save_policy
from stopping.cli.rules import parse
from stopping.policies import (
    ExitValue,
    FirstFinish,
    Margin,
    PosteriorVote,
    ProbedExitValue,
    VoteTable,
    parameters,
)
from stopping.policies.examples import EXAMPLES
from tests import helpers
from tests.helpers import OWN_POLICIES

OWN = Path(__file__).with_name("own_rules.py")
LONG = (PosteriorVote, ExitValue, ProbedExitValue)  # their tables are too long for a name


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("FirstFinish(1)", FirstFinish(1)),
        ("FirstFinish", FirstFinish()),
        (" Margin(votes=3) ", Margin(3)),
        ("VoteTable.adaptive_consistency(0.95,8)", VoteTable.adaptive_consistency(0.95, 8)),
        ("VoteTable.adaptive_consistency(0.8, max_samples=8)", VoteTable.adaptive_consistency(0.8, 8)),
        ("VoteTable([2, 3, 5])", VoteTable(np.array([2, 3, 5]))),
    ],
)
def test_rules_by_name(text, policy):
    assert parse(text) == policy


@pytest.mark.parametrize(
    "policy", (*EXAMPLES, *OWN_POLICIES, VoteTable.adaptive_consistency(0.8, 5)), ids=helpers.name_of
)
def test_a_name_gives_the_policy_back(policy, tmp_path):
    if not isinstance(policy, LONG):
        assert parse(str(policy)) == policy
        return
    name, numbers = type(policy).__name__, [key for key, value in parameters(policy).items() if np.ndim(value) == 0]
    shown = ", ".join(f"{key}={getattr(policy, key)}" for key in numbers[:2])
    assert str(policy) == f"{name}({shown}, ...)"
    assert parse(str(save_policy(policy, tmp_path / "policy"))) == policy


def test_published_tables_go_by_their_names():
    assert str(VoteTable.adaptive_consistency(0.95, 8)) == "VoteTable.adaptive_consistency(0.95, 8)"
    assert parse("VoteTable.cannot_be_caught(9)") == parse(str(VoteTable.cannot_be_caught(9)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Nonsense(1)", "known: AnswerAgreement"),
        ("Margin(", "expected Margin(3)"),
        ("Margin(0)", "expected a whole number >= 1"),
        ("Margin(1, 2, 3)", "positional arguments"),
        ("Margin(__import__('os').getpid())", "plain numbers or lists"),
        ("Margin(*[1])", "plain numbers or lists"),
        ("Margin(**{'votes': 1})", "plain numbers or lists"),
        ("VoteTable.__init__(1)", "known: "),
        ("(lambda: 1)()", "expected Margin(3)"),
        ("no_such_module:Rule(1)", "cannot import 'no_such_module'"),
        ("json:Rule(1)", "json has no Rule"),
        ("collections:OrderedDict()", "expected a policy, got OrderedDict"),
        ("", "expected Margin(3)"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(text, says):
    with pytest.raises(ValueError, match="rule ") as raised:
        parse(text)
    assert says in str(raised.value) and repr(text) in str(raised.value)


def test_a_custom_rule_from_the_working_directory(tmp_path, monkeypatch):
    shutil.copy(OWN, tmp_path / "my_cli_rules.py")
    monkeypatch.chdir(tmp_path)
    policy = parse("my_cli_rules:CliShare(3, share=0.75)")
    assert (policy.least, policy.share) == (3, 0.75)
    assert parse("my_cli_rules:CliShare.strict(2)").share == 0.9
    assert parse(str(policy)) == policy
    with pytest.raises(ValueError, match="expected a policy, got dict"):
        parse("my_cli_rules:NOT_A_RULE()")
    (tmp_path / "broken_cli_rules.py").write_text("1 / 0")
    with pytest.raises(ValueError, match="cannot import 'broken_cli_rules': division by zero"):
        parse("broken_cli_rules:Rule()")


def test_a_directory_is_a_rule(tmp_path):
    save_policy(Margin(2), tmp_path / "policy")
    assert parse(str(tmp_path / "policy")) == Margin(2)
    with pytest.raises(ValueError, match=r"expected only README\.md"):
        parse(str(tmp_path))
