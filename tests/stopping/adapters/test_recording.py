"""`stopping record` on llama.cpp's own server with the shipped reasoner."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stopping.adapters.server.journal import Journal
from stopping.adapters.server.prompts import read_prompts
from stopping.adapters.server.recording import Recording
from stopping.reasoner import load_model, load_shipped_log
from stopping.reasoner.countdown import vote_key
from stopping.reasoner.vocabulary import CLOSE_THINK, YES, decode, encode
from stopping.traces import LogError, checker, load_log
from tests.stopping.adapters.llama import FULL_DISTRIBUTION, running
from tests.stopping.cli.test_commands import NO_JAX, WIDE, refused, run, written

EVERY, CAP, SAMPLES, NUM_PROBLEMS = 32, 300, 3, 4
MODEL = ["--probe-every", EVERY, "--max-tokens", CAP, "--top-log-probs", 32, "--candidate", " yes"]
MODEL += [
    "--answer-tokens",
    20,
    *(part for name, value in FULL_DISTRIBUTION.items() for part in ("--setting", f"{name}={value}")),
]
MODEL += ["--yes"]
ROOT = Path(__file__).parents[3]
OWN = """
from stopping.reasoner.countdown import Problem, is_right

def right(answer, target):
    numbers, reached = target.split(">")
    return is_right(Problem(tuple(map(int, numbers.split())), int(reached)), answer)
"""
JUDGED = ["--check", "own_record:right", "--answers", "stopping.reasoner.countdown:vote_key"]


def write_prompts(folder, num_problems=NUM_PROBLEMS, name="prompts.jsonl"):
    problems = load_shipped_log().problem_ids[:num_problems]
    lines = [
        {"problem": problem, "messages": [{"role": "user", "content": problem}], "target": problem, "half": index % 2}
        for index, problem in enumerate(problems)
    ]
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    (folder / "own_record.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def recorded(llama_server, folder):
    """The log, its file, and the output of --json."""
    prompts, out = write_prompts(folder), folder / "runs.parquet"
    here = Path.cwd()
    os.chdir(folder)
    try:
        asked = ["--upstream", llama_server, "--samples", SAMPLES, *MODEL, *JUDGED, "--token-signals"]
        run("record", prompts, *asked, "--out", out, "--json", folder / "out.json")
        refusal = refused("record", prompts, *asked, "--out", out)
    finally:
        os.chdir(here)
        sys.modules.pop("own_record", None)
    assert "runs.parquet is there already" in refusal
    return load_log(out), out, written("record", folder / "out.json")


def traces_of(log):
    return [(p, s) for p in range(log.num_problems) for s in range(log.num_samples) if log.present[p, s]]


def teacher_forced():
    """From the ids of a prompt and a trace: log-probability, entropy and close probability of each token, by our model."""
    model = load_model("target")
    whole = jax.jit(lambda ids: jax.nn.log_softmax(model(ids)[0]))

    def of(prompt, ids):
        padded = np.zeros((1, 512), np.int32)
        padded[0, : len(prompt) + len(ids)] = [*prompt, *ids]
        distributions = np.asarray(whole(padded))[len(prompt) - 1 : len(prompt) + len(ids) - 1]
        return (
            distributions[np.arange(len(ids)), ids],
            -np.sum(np.exp(distributions) * distributions, axis=1),
            distributions[:, CLOSE_THINK],
        )

    return of


def test_signals_are_those_of_our_sampler(recorded):
    """The server (weights, cache) and the log's lists have half precision; this computation has float32."""
    log, forced, differences = recorded[0], teacher_forced(), []
    assert len(traces_of(log)) == NUM_PROBLEMS * SAMPLES
    for p, s in traces_of(log):
        ids = log.token_signal("token_id", p, s).astype(int)
        assert len(ids) == log.length_tokens[p, s]
        ours = forced(encode(f"<bos>{log.problem_ids[p]}<think>"), ids)
        for name, values in zip(("log_prob", "entropy", "log_close_prob"), ours, strict=True):
            said = log.token_signal(name, p, s)
            near = values > -8  # below, the rounding of half precision exceeds the tolerance
            differences.append(np.abs(said - values)[near])
    differences = np.concatenate(differences)
    assert len(differences) > 1000 and differences.mean() < 1e-3
    assert np.quantile(differences, 0.99) < 5e-3


def test_checkpoints_are_those_of_our_recorder(recorded):
    log = recorded[0]
    points = log.checkpoints
    assert points.grid == "token" and points.interval_tokens == EVERY
    for p, s in traces_of(log):
        mine = np.flatnonzero((points.problem_index == p) & (points.sample_index == s))
        ids, log_prob, entropy, close = (
            log.token_signal(name, p, s) for name in ("token_id", "log_prob", "entropy", "log_close_prob")
        )
        closed = np.flatnonzero(ids == CLOSE_THINK)
        thought = int(closed[0]) if len(closed) else None
        assert log.thought_tokens[p, s] == (-1 if thought is None else thought)
        last = len(ids) - 1 if thought is None else thought
        assert points.position_tokens[mine].tolist() == list(range(0, last + 1, EVERY))
        for point, at in zip(mine, points.position_tokens[mine].tolist(), strict=True):
            signals = {name: values[point] for name, values in points.signals.items()}
            assert signals["log_close_prob"] == close[at]
            assert signals["num_candidates"] == np.count_nonzero(ids[:at] == YES)
            window = slice(max(at - EVERY, 0), at)
            for name, values in (("mean_log_prob", log_prob), ("mean_entropy", entropy)):
                if at:  # the values themselves are rounded to three digits
                    assert signals[name] == pytest.approx(values[window].mean(), rel=2e-3, abs=1e-4)
                else:
                    assert np.isnan(signals[name])
            assert signals["answer_least_log_prob"] <= signals["answer_mean_log_prob"] <= 0
        if log.answer[p, s] >= 0:
            own = decode(ids[thought + 1 :].astype(int).tolist()).removesuffix("<eos>")
            assert log.answer_text[p, s] == own


def test_forced_answers_are_those_of_a_direct_request(recorded, llama_server):
    log = recorded[0]
    points, same, count = log.checkpoints, 0, 0
    for point in range(0, len(points.position_tokens), 3):
        p, s, at = points.problem_index[point], points.sample_index[point], points.position_tokens[point]
        ids = log.token_signal("token_id", p, s)[:at].astype(int).tolist()
        prompt = [*encode(f"<bos>{log.problem_ids[p]}<think>"), *ids, CLOSE_THINK]
        body = {"prompt": prompt, "n_predict": 20, "temperature": 0, "cache_prompt": False}
        said = httpx.post(f"{llama_server}/completion", json=body, timeout=30).json()
        answer = said["content"] if said["stop_type"] == "eos" else None
        same += points.answer_text[point] == answer
        assert points.probe_cost_tokens[point] == 1 + said["tokens_predicted"] or points.answer_text[point] != answer
        assert points.answer[point] >= 0 or vote_key(answer or "") is None or points.answer_text[point] != answer
        count += 1
    assert count >= 10 and same >= count - 1  # one may be a near tie, rounded differently in batches of another size


def test_other_commands_read_the_log(recorded):
    log, out, content = recorded
    assert str(log.reference) == "single" and log.cap_tokens == CAP and set(log.groups) == {"half"}
    assert log.correct_known.all() and 0 < log.correct.mean() < 1
    assert content["cost"]["tokens"] == log.length_tokens.sum()
    assert content["cost"]["probe_tokens"] == log.checkpoints.probe_cost_tokens.sum()
    assert content["cost"]["num_requests"] == log.num_traces + len(log.checkpoints.position_tokens)
    assert "yes  thinking exit" in run("inspect", out).stdout
    assert not list(out.parent.glob("runs.parquet.*"))


def test_requests_have_seeds_of_their_own():
    plan = Recording(4, 100)
    seeds = {plan.request_seed(problem, sample) for problem in "abc" for sample in range(4)}
    assert len(seeds) == 12 and all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == {Recording(9, 7).request_seed(problem, sample) for problem in "abc" for sample in range(4)}
    assert seeds.isdisjoint({Recording(4, 100, seed=1).request_seed(p, s) for p in "abc" for s in range(4)})


def start(prompts, url, out, *more):
    """Record in another process, without JAX."""
    command = [sys.executable, "-c", NO_JAX, "record", prompts, "--upstream", url, "--out", out, *MODEL, *more]
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], cwd=ROOT, env={"PATH": "", **WIDE}, **kept)


def wait_for_lines(path, number, process):
    for _ in range(1200):
        if path.exists() and path.read_bytes().count(b"\n") > number:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail(f"no {number} lines in a minute")


def test_a_killed_run_goes_on(llama_server, tmp_path):
    prompts, out = write_prompts(tmp_path, 6), tmp_path / "runs.parquet"
    partial = tmp_path / "runs.parquet.partial.jsonl"
    process = start(prompts, llama_server, out, "--samples", 2)
    wait_for_lines(partial, 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    whole = partial.read_bytes()
    kept = [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()[1:]]
    assert 3 <= len(kept) < 12 and not out.exists()
    partial.write_bytes(whole + b'{"problem": "torn')
    for option, value, name in (
        ("--samples", 3, "--samples"),
        ("--seed", 1, "--seed"),
        ("--temperature", 0.5, "--temp"),
    ):
        asked = ["--upstream", llama_server, "--out", out, *MODEL, "--samples", 2, option, value]
        assert f"{name}" in refused("record", prompts, *asked) and partial.exists()
    other = write_prompts(tmp_path, 5, "other.jsonl")
    asked = ["--upstream", llama_server, "--out", out, *MODEL, "--samples", 2]
    assert "PROMPTS: runs.parquet.partial.jsonl was started with" in refused("record", other, *asked)
    partial.write_bytes(whole + b'{"problem": "torn')
    shown = run("record", prompts, *asked).stdout
    assert "not written to its end is dropped" in shown
    assert f"{len(kept)} of 12 traces are there" in shown and "If they are like those there" in shown
    log = load_log(out)
    assert log.present.sum() == 12 and log.present.shape == (6, 2) and not log.set_aside
    assert not log.correct_known.any()  # there is no checker by default
    for trace in kept:
        p = log.problem_ids.index(trace["problem"])
        assert log.length_tokens[p, trace["sample"]] == trace["length_tokens"]
    assert not partial.exists()


def test_a_server_that_dies_loses_nothing(reasoner_gguf, tmp_path):
    prompts, out = write_prompts(tmp_path, 6), tmp_path / "runs.parquet"
    partial = tmp_path / "runs.parquet.partial.jsonl"
    with running(reasoner_gguf) as server:
        process = start(prompts, server.url, out, "--samples", 2)
        wait_for_lines(partial, 3, process)
        server.process.kill()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "no longer answers" in error and "Traceback" not in error
    number = partial.read_bytes().count(b"\n") - 1
    assert 3 <= number < 12 and not out.exists()
    with running(reasoner_gguf, port=int(server.url.rpartition(":")[2])) as server:
        shown = run("record", prompts, "--upstream", server.url, "--out", out, *MODEL, "--samples", 2).stdout
    assert f"{number} of 12 traces are there" in shown
    assert load_log(out).present.sum() == 12 and not partial.exists()


def test_a_trace_that_cannot_be_had_is_counted(llama_server, tmp_path):
    prompts = write_prompts(tmp_path, 2)
    with prompts.open("a") as file:
        file.write(json.dumps({"problem": "long", "prompt": "2 3 4>24" * 100}) + "\n")
    asked = ["record", prompts, "--upstream", llama_server, "--out", tmp_path / "runs.parquet", *MODEL]
    result = run(*asked, code=1)
    assert "1 traces could not be had (1 times: the server refused with status 400)" in result.stderr
    log = load_log(tmp_path / "runs.parquet")
    assert log.num_problems == 2 and log.set_aside == {"the server refused with status 400": 1}
    assert "2 of 3 traces are there" in run(*asked, code=1).stdout  # only the missing one is tried again


def test_nothing_is_paid_for_before_it_is_agreed_to(llama_server, tmp_path):
    prompts = write_prompts(tmp_path, 2)
    asked = ["record", prompts, "--upstream", llama_server, "--out", tmp_path / "runs.parquet", *MODEL[:-1]]
    assert "2 traces, at most 22 requests, 600 tokens and 420 of probes" in run(*asked, "--dry-run").stdout
    assert not list(tmp_path.glob("runs*"))
    assert "--yes" in refused(*asked)
    asked = asked[:-6]  # with the server's own truncation of the distribution
    assert "--setting: expected NAME=VALUE" in refused(*asked, "--setting", "seed=1")
    assert "--api-key" in refused(*asked, "--api-key", "NO_SUCH_VARIABLE")
    assert "--close-tag" in refused(*asked, "--close-tag", "")
    fewer = ["record", prompts, "--upstream", llama_server, "--out", tmp_path / "fewer.parquet", "--dry-run"]
    shown = run(*fewer, "--probe-every", 32, "--max-tokens", 100).stdout
    assert "mean_entropy needs the log-probabilities of all tokens" in shown and "num_candidates needs" in shown


def test_signals_that_cannot_be_had_are_left_out(llama_server, tmp_path):
    prompts, out = write_prompts(tmp_path, 1), tmp_path / "runs.parquet"
    asked = ["--upstream", llama_server, "--out", out, "--max-tokens", 100, "--probe-every", 32, "--yes"]
    shown = run("record", prompts, *asked, "--top-log-probs", 2, "--answer-tokens", 2).stdout
    assert "100.0% of forced answers did not end within 2 tokens, and count as none (--answer-tokens)" in shown
    signals = load_log(out).checkpoints.signals
    assert "mean_log_prob" in signals and not {"mean_entropy", "num_candidates"} & set(signals)
    assert "log_close_prob: missing at" not in shown and not np.isnan(signals["log_close_prob"]).any()


def test_no_server_no_extra(tmp_path):
    prompts = write_prompts(tmp_path, 1)
    asked = ["record", prompts, "--upstream", "http://127.0.0.1:9", "--out", tmp_path / "runs.parquet"]
    assert "ConnectError" in run(*asked, code=1).stderr
    assert "URL: expected http" in refused(*asked[:3], "127.0.0.1", *asked[4:])
    blocked = NO_JAX.replace("'jax',", "'jax', 'httpx',")
    result = subprocess.run(
        [sys.executable, "-c", blocked, *map(str, asked)], capture_output=True, text=True, cwd=ROOT, env={"PATH": "", **WIDE}
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.strip() == "error: stopping record needs httpx; install it with: pip install 'stopping[serve]'"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "messages": []}', "row 2 (line 2), column 'prompt': expected prompt or messages, got both"),
        ('{"target": "a"}', "column 'prompt': expected prompt or messages, got neither"),
        ('{"prompt": 3}', "column 'prompt': expected a text, got 3"),
        ('{"messages": ["a"]}', "column 'messages.0': expected a message with a role and content"),
        ('{"prompt": "b", "problem": "first"}', "column 'problem': expected each problem once, got 'first' again"),
        ('{"prompt": "b", "target": "much"}', "column 'target': check 'numeric': expected a number"),
        ('{"prompt": "b", "level": [1]}', "column 'level': expected one label"),
        ('{"prompt": "b", "correct": true}', "column 'correct': expected another name"),
        ("{", "row 2 (line 2): expected a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "problem": "first", "target": 1}\n' + line + "\n")
    with pytest.raises(LogError) as error:
        read_prompts(path, checker("numeric"))
    assert str(error.value).startswith("prompts.jsonl, row 2") and said in str(error.value)


def test_prompts_are_read(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "level": 3, "none": null}\n\n{"messages": [{"role": "user", "content": "b"}]}\n')
    first, second = read_prompts(path)
    assert (first.problem, first.text, first.groups) == ("1", "a", {"level": "3"})
    assert second.problem == "2" and second.messages[0]["content"] == "b"
    with pytest.raises(LogError, match="expected a target on some line"):
        read_prompts(path, checker("exact"))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_journal_cut_anywhere_goes_on(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    lines = [{"problem": text, "sample": 0} for text in data.draw(st.lists(st.text(max_size=5), max_size=5))]
    with Journal(path, {"--seed": 1}) as journal:
        for line in lines:
            journal.append(line)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with Journal(path, {"--seed": 1}) as journal:
        kept = len(journal.lines)
        assert journal.lines == lines[:kept]
        for line in lines[kept:]:
            journal.append(line)
    assert path.read_bytes() == whole
    with pytest.raises(ValueError, match=r"--seed: a\.jsonl was started with 1, got 2"):
        Journal(path, {"--seed": 2})
