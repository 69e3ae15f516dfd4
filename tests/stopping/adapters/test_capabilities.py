"""The capabilities of llama.cpp's server, found by asking it, and `stopping doctor`."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stopping import artifacts
from stopping.adapters.server.client import Upstream
from stopping.adapters.server.examination import examine
from stopping.adapters.server.markup import read_markup
from stopping.adapters.server.signals import require, signals_there
from stopping.cli.upstream import MarkupOptions
from stopping.policies import AnswerAgreement, CandidateStop, Margin, ThinkingObservation, WindowedConfidence
from stopping.policies.examples import EXAMPLES
from tests.stopping.adapters.llama import running, write_reasoner
from tests.stopping.cli.test_commands import NO_JAX, WIDE, run, written

ROOT = Path(__file__).parents[3]
# Opens a thought, but has no place for one in an answer, so that llama.cpp does not treat the model as thinking.
NO_THINKER = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}<think>"


def found_at(url, **options):
    async def ask():
        async with Upstream(url) as upstream:
            return await examine(upstream, **options)

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def capabilities(llama_server):
    return found_at(llama_server, num_top=32)


def test_what_llama_cpp_can_do_is_found(capabilities):
    found = capabilities
    assert found.log_probs and found.num_top == 32 and found.full_distribution
    assert found.continues and found.prefix_cache and found.num_choices and found.usage
    assert found.tokenizer == "llama.cpp"
    assert found.idle_seconds is not None and found.tokens_per_second
    assert found.log_probs_share is not None and found.top_share is not None


def test_fewer_likeliest_tokens_are_not_the_law(llama_server):
    found = found_at(llama_server, num_top=5, measure=False)
    assert found.num_top == 5 and not found.full_distribution and found.continues
    assert found.tokens_per_second is found.idle_seconds is found.top_share is None


def test_an_order_that_closes_a_thought_counts(capabilities):
    assert capabilities.control and capabilities.control_seconds and capabilities.control_lag_tokens is not None


def test_an_order_that_does_nothing_does_not(tmp_path):
    """Although its reply is a success."""
    with running(write_reasoner(tmp_path, NO_THINKER)) as server:
        found = found_at(server.url, num_top=1, measure=False)
    assert found.continues and not found.control and found.control_seconds is None


def test_policies_are_admitted_by_signal(llama_server, capabilities):
    async def marks(**options):
        async with Upstream(llama_server) as upstream:
            return await read_markup(upstream, capabilities, **options)

    markup = asyncio.run(marks(candidates=[" yes"]))
    assert signals_there(capabilities, markup) == set(ThinkingObservation._fields)
    policy = next(policy for policy in EXAMPLES if "mean_entropy" in policy.signals)
    require(policy, capabilities, markup)
    fewer = found_at(llama_server, num_top=5, measure=False)
    with pytest.raises(ValueError, match="mean_entropy needs the log-probabilities of all tokens: --top-log-probs"):
        require(policy, fewer, markup)
    several = asyncio.run(marks(close="wait\n"))
    assert "log_close_prob" not in signals_there(capabilities, several)


def test_tags_are_those_of_the_options(llama_server, capabilities):
    async def marks(**options):
        async with Upstream(llama_server) as upstream:
            return await MarkupOptions(**options).markup(upstream, capabilities)

    assert asyncio.run(marks()).open == "<think>"
    markup = asyncio.run(marks(open_tag="wait", close_tag=" yes"))
    assert (markup.open, markup.close) == ("wait", " yes") and markup.opens([*markup.open_ids, 9])
    assert "expected the tags around a thought, got ''" in doctor(llama_server, "--open-tag", "", code=2).stderr


def doctor(url, *more, code=0):
    return run("doctor", url, *more, code=code)


def test_doctor(llama_server, tmp_path):
    out = tmp_path / "doctor.json"
    shown = doctor(llama_server, "--json", out).stdout
    assert "mean_log_prob" in shown and "can be stopped, by continuing it from its token ids" in shown
    assert "--max-logprobs -1" in shown  # for the whole vocabulary
    assert "is not among the 20 likeliest tokens" in shown
    said = written("doctor", out)
    assert said["capabilities"]["control"] and not said["capabilities"]["full_distribution"]
    assert said["policy"] is said["refusal"] is None and "mean_entropy" not in said["signals"]


@pytest.mark.parametrize("policy", [WindowedConfidence(-0.5, 64), AnswerAgreement(2, 32), Margin(2)], ids=str)
def test_doctor_says_that_a_policy_can_run(llama_server, tmp_path, policy):
    artifacts.save_policy(policy, tmp_path / "policy")
    assert f"{policy} can run here." in doctor(llama_server, "--policy", tmp_path / "policy").stdout


def test_doctor_says_what_a_policy_lacks(llama_server, tmp_path):
    artifacts.save_policy(CandidateStop(2), tmp_path / "policy")
    asked = ["--policy", tmp_path / "policy", "--json", tmp_path / "doctor.json"]
    result = doctor(llama_server, *asked, code=1)
    assert (
        "cannot run here: CandidateStop reads num_candidates" in result.stderr and "--candidate TEXT" in result.stderr
    )
    assert "num_candidates" in written("doctor", tmp_path / "doctor.json")["refusal"]
    assert "can run here" in doctor(llama_server, *asked, "--candidate", " yes").stdout


def test_doctor_needs_no_jax(llama_server):
    command = [sys.executable, "-c", NO_JAX, "doctor", llama_server, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PATH": "", **WIDE}, check=True)
    assert json.loads(done.stdout)["capabilities"]["log_probs"]


def test_no_server():
    assert "ConnectError" in doctor("http://127.0.0.1:9", code=1).stderr
