"""`stopping serve` as a separate process: it says where it listens, serves, and ends in order."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import openai
import pytest

from stopping import artifacts
from stopping.cli.exits import NotAchievedError
from stopping.cli.serve import ProxyOptions
from stopping.policies import CandidateStop, Margin, TokenBudget
from stopping.reasoner.countdown import Problem, is_held_out, is_right
from tests.stopping.adapters.conftest import llama_server, reasoner_gguf
from tests.stopping.adapters.llama import needs_llama
from tests.stopping.cli.test_commands import NO_JAX, ROOT, WIDE

assert llama_server and reasoner_gguf  # fixtures
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    made = {"budget": TokenBudget(64), "other": TokenBudget(96), "candidate": CandidateStop(1), "margin": Margin(2)}
    for name, policy in made.items():
        artifacts.save_policy(policy, folder / name, decision_points={"on": "token", "interval_tokens": 32})
    return folder


def command(*arguments):
    return [sys.executable, "-c", NO_JAX, "serve", *map(str, arguments)]


@contextmanager
def serving(*arguments, log, **variables):
    """Run it until it says where it listens; yields the process and its URL."""
    environment = {**os.environ, **WIDE, **variables}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command(*arguments, "--port", 0), stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment,
            start_new_session=True,
        )  # fmt: skip
    try:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"Listening on (http://\S+)/v1", said):
                break
        else:
            raise AssertionError(said + log.read_text())
        yield process, found[1], said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def asked(**more):
    return {"model": "any", "messages": [{"role": "user", "content": "10 9 9 15>26"}], "temperature": 0} | more


def test_from_nothing(policies, tmp_path):
    """The shipped reasoner, behind its own server; an interrupt at the terminal, amid a stream, ends both in order."""
    needs_llama()
    log, accounts = tmp_path / "log.jsonl", tmp_path / "accounts.jsonl"
    arguments = [policies / "budget", "--holdout", 0, "--accounts", accounts, "--slots", 2]
    with serving(*arguments, log=log) as (process, url, said):
        assert "TokenBudget(64) (budget@" in said and "stops thoughts" in said and "/metrics" in said
        assert "A stop whose answer takes more than 20 tokens is put off (--answer-tokens)." in said
        with openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
            answer = client.chat.completions.create(**asked())
        assert answer.usage.stopping["stopped"] and answer.choices[0].message.content
        assert 'stopping_stops_total{policy="budget"} 1.0' in httpx.get(f"{url}/metrics").text
        body, headers = asked(stream=True, max_tokens=200), {"x-stopping-policy": "none"}
        with httpx.stream("POST", url + CHAT, json=body, headers=headers, timeout=60) as response:
            parts = response.iter_bytes()
            raw = next(parts)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            raw += b"".join(parts)
        assert raw.endswith(b"data: [DONE]\n\n")
        assert process.wait(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]  # nothing but lines of JSON
    assert {"stopping.accounts"} <= {line["logger"] for line in lines} and all(
        line["time"] and line["level"] for line in lines
    )
    row = json.loads(accounts.read_text())
    assert row["stopped"] and row["treatment"] == "policed" and row["policy_id"].startswith("budget@")


def test_the_first_request_of_the_readme(tmp_path):
    """As it is printed, but for the port: the thought is stopped, the answer is right, and the reply is the one shown there."""
    needs_llama()
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## On a running model")[2]
    commands, shown = re.search(r"```\n(stopping serve.*?)```.*?```json\n(.*?)```", section, re.DOTALL).groups()
    serve, request, metrics = commands.replace("\\\n", "").strip().splitlines()
    shown = json.loads(shown)
    body = json.loads(re.search(r"-d '(.*)'", request)[1])
    numbers, _, target = body["messages"][0]["content"].partition(">")
    problem = Problem(tuple(map(int, numbers.split())), int(target))
    assert is_held_out(problem.numbers) and "localhost:8300/v1/chat/completions" in request
    arguments = shlex.split(serve)[2:-1]
    with serving(*arguments, log=tmp_path / "log") as (_, url, _):
        port = str(httpx.URL(url).port)
        for _ in range(5):
            if shutil.which("curl"):
                asked = shlex.split(request.replace("8300", port))
                reply = json.loads(subprocess.run(asked, capture_output=True, check=True, timeout=60).stdout)
            else:
                reply = httpx.post(url + CHAT, json=body, timeout=60).json()
            message, usage = reply["choices"][0]["message"], reply["usage"]
            assert usage["stopping"]["stopped"] is True and is_right(problem, message["content"])
            thought = shown["choices"][0]["message"].pop("reasoning_content", "...")
            assert message["reasoning_content"].startswith(thought.removesuffix("..."))
            assert_shown(shown, reply)
        assert "/metrics" in metrics and "stopping_stops_total" in httpx.get(f"{url}/metrics").text
        alone = httpx.post(url + CHAT, json=body, headers={"x-stopping-policy": "none"}, timeout=60).json()
        # 444 tokens, as the README says; a thought that long may turn elsewhere on another machine
        assert alone["usage"]["completion_tokens"] > 2 * usage["completion_tokens"]


def assert_shown(shown, there):
    """All that is shown is there; numbers to the digits shown."""
    if isinstance(shown, dict):
        for name in shown:
            assert_shown(shown[name], there[name])
    elif isinstance(shown, list):
        for each, one in zip(shown, there, strict=True):
            assert_shown(each, one)
    else:
        assert there == (pytest.approx(shown, abs=0.005) if isinstance(shown, float) else shown)


def test_a_users_server(llama_server, policies, tmp_path):
    """A policy for a model, a key of the proxy's, and the end by a supervisor's signal while a stream runs."""
    arguments = [
        "--upstream",
        llama_server,
        "--policy-for",
        f"small={policies / 'other'}",
        "--proxy-key",
        "KEY_OF_OURS",
    ]
    arguments += ["--every-tokens", 16, "--holdout", 0]
    log = tmp_path / "log.jsonl"
    with serving(*arguments, log=log, KEY_OF_OURS="secret") as (process, url, _):
        assert httpx.post(url + CHAT, json=asked()).status_code == 401
        with openai.OpenAI(base_url=f"{url}/v1", api_key="secret") as client:
            policed = client.chat.completions.create(**asked(model="small", max_tokens=200)).usage
            assert policed.stopping["policy"].startswith("other@") and policed.stopping["would_stop_at"] == 96
            assert "stopping" not in client.chat.completions.create(**asked(max_tokens=8)).usage.model_extra
            stream = client.chat.completions.create(**asked(model="small", stream=True, max_tokens=200))
            first = next(stream)
            ending = threading.Timer(0.0, process.send_signal, [signal.SIGTERM])
            ending.start()
            chunks = [first, *stream]
        assert chunks[-1].choices[0].finish_reason == "stop"
        ending.join()
        assert process.wait(30) == 0
    assert httpx.get(f"{llama_server}/v1/models").status_code == 200  # not ours to end


def refused(*arguments, code, **variables):
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **WIDE, **variables},
        timeout=60,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_what_cannot_run_is_refused_before_the_first_token(llama_server, policies, tmp_path):
    upstream = ["--upstream", llama_server]
    said = refused(policies / "candidate", *upstream, code=2)
    assert "CandidateStop reads num_candidates" in said and "--candidate TEXT" in said
    assert "Margin reads leader_votes" in (said := refused(policies / "margin", *upstream, code=2))
    assert "stops a vote among several samples" in said
    assert "expected a directory, got none" in refused(*upstream, code=2)
    assert "MODEL=DIR" in refused(policies / "budget", *upstream, "--policy-for", "small", code=2)
    again = tmp_path / "budget"
    artifacts.save_policy(TokenBudget(3), again, decision_points={"on": "token", "interval_tokens": 32})
    assert "'budget' twice" in refused(policies / "budget", *upstream, "--policy-for", f"small={again}", code=2)
    assert "--proxy-key" in refused(policies / "budget", *upstream, "--proxy-key", "NOT_SET", code=2)
    start = time.monotonic()
    assert "127.0.0.1:9" in refused(policies / "budget", "--upstream", "http://127.0.0.1:9", code=1)
    assert time.monotonic() - start < 30


def alone(*arguments, code=1):
    """Its one line on stderr."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env={**os.environ, **WIDE}, timeout=60
    )
    assert done.returncode == code and "Listening" not in done.stdout, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_no_port(llama_server, policies):
    """One that is taken, or a host that is none of this machine's, is one line, and an error."""
    arguments, taken = [policies / "budget", "--upstream", llama_server], httpx.URL(llama_server).port
    said = f"error: --host, --port: cannot listen on 127.0.0.1:{taken}: address already in use"
    assert alone(*arguments, "--port", taken) == said
    assert f"cannot listen on localhost:{taken}: " in alone(*arguments, "--port", taken, "--host", "localhost")
    assert "cannot listen on nowhere.invalid:8300: " in alone(*arguments, "--host", "nowhere.invalid")
    assert "cannot listen on 192.0.2.1:8300: cannot assign" in alone(*arguments, "--host", "192.0.2.1")
    assert "cannot listen on " in alone(*arguments, "--host", "a" * 70)


def test_a_port_that_is_not_allowed(monkeypatch):
    def refuse(self, address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with (
        pytest.raises(NotAchievedError, match=r"cannot listen on 127\.0\.0\.1:80: permission denied"),
        ProxyOptions(port=80).listeners(),
    ):
        pass


def test_all_addresses_of_a_host_are_listened_on():
    with ProxyOptions(host="localhost", port=0).listeners() as listeners:
        assert len({each.getsockname()[1] for each in listeners}) == 1
        with socket.create_connection(("localhost", listeners[0].getsockname()[1]), timeout=5):
            pass


def test_accounts_that_cannot_be_opened(policies, tmp_path):
    arguments = [policies / "budget", "--upstream", "http://127.0.0.1:9", "--accounts"]
    path = tmp_path / "none" / "accounts.jsonl"
    assert alone(*arguments, path, code=2) == f"error: --accounts: cannot write to {path}: No such file or directory"
    assert "Is a directory" in alone(*arguments, tmp_path, code=2)


def test_limits_on_slow_clients(llama_server, policies, tmp_path):
    """Both are options."""
    limits = ["--body-seconds", 0.3, "--stall-seconds", 5]
    with serving(policies / "budget", "--upstream", llama_server, *limits, log=tmp_path / "log") as (_, url, _):
        there = httpx.URL(url)
        with socket.create_connection((there.host, there.port), timeout=10) as client:
            client.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 408")
