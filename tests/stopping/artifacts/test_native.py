"""Native settings: what they say, that a budget is where the policy stops, and that llama.cpp's own server heeds it."""

import json
import shlex
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stopping.artifacts import load_policy, native, save_policy
from stopping.artifacts.loading import Artifact
from stopping.policies import (
    SAMPLING,
    THINKING,
    CandidateStop,
    FixedSamples,
    Kind,
    Margin,
    ThinkingObservation,
    TokenBudget,
    bind,
)

BUDGET = TokenBudget(160)


def saved(tmp_path, policy, decision=THINKING, **options):
    return load_policy(save_policy(policy, tmp_path / "policy", decision=decision, **options))


@pytest.mark.parametrize(
    ("target", "arguments", "fields"),
    [
        ("llamacpp", ["--reasoning-budget", "160"], {"thinking_budget_tokens": 160}),
        (
            "vllm",
            ["--reasoning-config", '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'],
            {"thinking_token_budget": 160},
        ),
        ("sglang", ["--enable-strict-thinking"], {"custom_params": {"thinking_budget": 160}}),
    ],
)
def test_a_budget_in_each_engine_s_words(target, arguments, fields):
    written = native.settings(BUDGET, target)
    assert (list(written.arguments()), written.fields()) == (arguments, fields)
    texts = native.files(written)
    assert shlex.split(texts["arguments.txt"]) == arguments and json.loads(texts["request.json"]) == fields
    assert any("does not think on" in note for note in written.notes())


@pytest.mark.parametrize(
    ("target", "arguments", "fields", "file"),
    [
        ("llamacpp", ("--parallel", "4"), {"n": 4}, "request.json"),
        ("vllm", (), {"n": 4}, "request.json"),
        ("sglang", (), {"n": 4}, "request.json"),
        ("transformers", (), {"do_sample": True, "num_return_sequences": 4}, "generation_config.json"),
    ],
)
def test_a_number_of_samples_in_each_engine_s_words(target, arguments, fields, file):
    written = native.settings(FixedSamples(4), target)
    assert (written.arguments(), written.fields()) == (arguments, fields)
    assert set(native.files(written)) == ({"arguments.txt", file} if arguments else {file})
    assert any("takes the most frequent" in note for note in written.notes())


def test_a_message_is_before_the_closing_tag():
    written = native.settings(BUDGET, "llamacpp", message="Time's up.\n")
    assert written.fields() == {"thinking_budget_tokens": 160, "reasoning_budget_message": "Time's up.\n"}
    assert shlex.split(native.files(written)["arguments.txt"])[2:] == ["--reasoning-budget-message", "Time's up.\n"]
    vllm = native.settings(BUDGET, "vllm", message="Time's up.", open_tag="[THINK]", close_tag="[/THINK]")
    assert json.loads(vllm.arguments()[1]) == {
        "reasoning_start_str": "[THINK]",
        "reasoning_end_str": "Time's up.[/THINK]",
    }
    assert "53572" in " ".join(vllm.notes()) and "53572" not in " ".join(native.settings(BUDGET, "vllm").notes())


@pytest.mark.parametrize(
    ("rule", "target", "options", "problem"),
    [
        (BUDGET, "transformers", {}, "transformers: has no thinking budget .* running the policy itself"),
        (BUDGET, "sglang", {"message": "Stop."}, "message: SGLang closes a thought by its tag alone"),
        (FixedSamples(2), "vllm", {"message": "Stop."}, "message: .* a number of samples closes none"),
        (BUDGET, "tgi", {}, "target: expected one of llamacpp, vllm, sglang, transformers, got 'tgi'"),
    ],
)
def test_what_an_engine_does_not_have_is_refused(rule, target, options, problem):
    with pytest.raises(ValueError, match=problem):
        native.settings(rule, target, **options)


def test_the_rule_an_engine_can_follow(tmp_path):
    assert native.native_rule(saved(tmp_path, BUDGET)) == BUDGET
    assert native.native_rule(saved(tmp_path / "samples", FixedSamples(3), SAMPLING)) == FixedSamples(3)
    assert native.native_rule(saved(tmp_path / "other", CandidateStop(1))) is None
    for name, policy in (("margin", Margin(2)), ("clock", BUDGET)):  # a clock over several traces is no thinking budget
        artifact = saved(tmp_path / name, policy, SAMPLING)
        with pytest.raises(ValueError, match=f"{type(policy).__name__}: no engine stops samples by a rule"):
            native.native_rule(artifact)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 500), st.none() | st.integers(1, 90), st.integers(0, 100))
def test_a_budget_stops_where_the_policy_would_take_effect(max_tokens, interval, lag):
    """Asked at every decision point; the stop takes effect at the first one a lag later, as in `problems.Thinking`."""
    artifact = artifact_of(TokenBudget(max_tokens), interval, lag)
    bound, every = bind(artifact.policy, "python"), interval or 1
    decided = next(
        tokens
        for tokens in range(every, 10_000, every)
        if bound.step(bound.init(), ThinkingObservation(tokens, 0.0, 0.0, 0.0, 0, False, -1, 0.0, 0.0))[1].kind
        == Kind.STOP
    )
    effect = next(tokens for tokens in range(every, 10_000, every) if tokens >= decided + lag)
    assert native.native_rule(artifact) == TokenBudget(effect)


def artifact_of(policy, interval, lag):
    points = SimpleNamespace(interval_tokens=interval)
    document = SimpleNamespace(observation="ThinkingObservation", decision_points=points, lag_tokens=lag, kind="-")
    return Artifact(policy, document, "")


def test_it_needs_no_jax():
    code = (
        "import sys; sys.modules.update(jax=None, jaxlib=None, equinox=None)\n"
        "from stopping.artifacts import native; from stopping.policies import TokenBudget\n"
        "print(native.settings(TokenBudget(8), 'llamacpp').fields())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "{'thinking_budget_tokens': 8}"


PROBLEMS = ("2 3 4>24", "5 7 9>38", "3 5 8>19", "2 6 9>21")
TOKENS = 40  # most thoughts of the shipped model are longer, and some shorter


SERVE = """
import os, sys, xllamacpp
path, port, num_slots, budget = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel, params.n_ctx = path, port, num_slots, 1024 * num_slots
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.warmup, params.use_jinja = False, True
params.sampling.reasoning_budget_tokens = budget  # what --reasoning-budget sets; -1: none
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads what it logs
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """What starts llama.cpp's server on the shipped reasoner and gives what asks it; servers are killed when the tests end.

    Each in a separate process: freed in this one, a server may wait for its threads for ever.
    """
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from stopping.reasoner import save_gguf

    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    save_gguf("target", path)
    servers = []

    def started(num_slots=1, budget=-1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-c", SERVE, *map(str, (path, port, num_slots, budget))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        servers.append(subprocess.Popen(command, text=True, **pipes))
        address = f"http://127.0.0.1:{port}"
        for line in servers[-1].stdout:  # the server logs there too
            if line.strip() == address:
                break

        def ask(problem, seed, **fields):
            body = {"messages": [{"role": "user", "content": problem}], "seed": seed, "temperature": 1.0}
            body |= {"max_tokens": 480, "cache_prompt": False, **fields}
            content = json.dumps(body).encode()
            request = urllib.request.Request(
                f"{address}/v1/chat/completions", content, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                return [choice["message"] for choice in json.load(answer)["choices"]]

        return ask

    yield started
    for server in servers:
        server.kill()
        server.communicate()


def num_tokens(message):
    from stopping.reasoner.vocabulary import encode

    return len(encode(message["reasoning_content"]))


@pytest.mark.parametrize("by", ["request", "command line"])
def test_llama_cpp_closes_every_thought_at_the_budget_and_leaves_shorter_ones_alone(start, by):
    written = native.settings(TokenBudget(TOKENS), "llamacpp")
    if by == "request":
        ask, fields = start(), written.fields()
        free = ask
    else:
        (flag, budget), fields = written.arguments(), {}
        assert flag == "--reasoning-budget"
        free, ask = start(), start(budget=int(budget))
    lengths = []
    for problem in PROBLEMS:
        for seed in range(5):
            (alone,), (kept,) = free(problem, seed), ask(problem, seed, **fields)
            lengths.append(num_tokens(alone))
            if num_tokens(alone) <= TOKENS:
                assert kept == alone
            else:
                assert num_tokens(kept) == TOKENS and alone["reasoning_content"].startswith(kept["reasoning_content"])
                assert kept["content"]  # it goes on to answer
    assert min(lengths) < TOKENS < np.median(lengths)


def test_llama_cpp_says_the_message_first(start):
    ask = start()
    fields = native.settings(TokenBudget(TOKENS), "llamacpp", message="stop\n").fields()
    cut = 0
    for seed in range(5):
        (alone,), (kept,) = ask(PROBLEMS[1], seed), ask(PROBLEMS[1], seed, **fields)
        if num_tokens(alone) > TOKENS:
            assert kept["reasoning_content"].endswith("stop\n") and num_tokens(kept) == TOKENS + 2
            cut += 1
    assert cut >= 3


def test_llama_cpp_gives_n_answers_in_as_many_slots(start):
    written = native.settings(FixedSamples(3), "llamacpp")
    flag, slots = written.arguments()
    assert flag == "--parallel" and len(start(int(slots))(PROBLEMS[0], 0, **written.fields())) == 3
    with pytest.raises(urllib.error.HTTPError, match="400"):
        start(int(slots) - 1)(PROBLEMS[0], 0, **written.fields())
