"""The log-probability of the closing tag, from top log-probabilities alone, in recordings and live."""

import asyncio
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from stopping.adapters.server.client import Token
from stopping.adapters.server.markup import Markup, stripped
from stopping.adapters.server.signals import log_close_prob_of
from stopping.adapters.server.thinking import think
from stopping.policies import CloseTokenThreshold
from stopping.traces import load_log
from tests.stopping.adapters.live import CAP_TOKENS, EVERY_TOKENS, prompt_of, questions, with_settings
from tests.stopping.adapters.llama import FULL_DISTRIBUTION
from tests.stopping.cli.test_commands import run

SIZE, CLOSE = 50, 7
WATCHES = CloseTokenThreshold(0.5, -1e4, 0)  # reads the signal, and never stops
MARKUP = Markup("<think>", (3,), "</think>", (CLOSE,), "", (), None, 20, stripped)


def token_of(distribution, drawn, k, *, by_text=False, adds_drawn=False):
    """Return a token as a server sends it: with its top k, which vLLM identifies by text and to which it adds the sampled one."""
    texts = [f"t{number}" for number in range(SIZE)]
    texts[CLOSE] = MARKUP.close
    shown = np.argsort(-distribution)[:k].tolist()
    shown += [drawn] if adds_drawn and drawn not in shown else []
    top = tuple((None if by_text else number, texts[number], math.log(distribution[number])) for number in shown)
    return Token(texts[drawn], drawn, math.log(distribution[drawn]), top)


@pytest.mark.parametrize("by_text", [False, True])
@pytest.mark.parametrize("adds_drawn", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 20, SIZE])
def test_a_tag_that_is_not_told_is_bounded(k, by_text, adds_drawn):
    rng, bounded = np.random.default_rng(k), 0
    for _ in range(200):
        distribution = rng.dirichlet(np.full(SIZE, 0.3)) + 1e-12
        distribution /= distribution.sum()
        found = log_close_prob_of(
            token_of(distribution, rng.choice(SIZE, p=distribution), k, by_text=by_text, adds_drawn=adds_drawn), MARKUP
        )
        true = math.log(distribution[CLOSE])
        if CLOSE in np.argsort(-distribution)[:k]:
            assert found == true
        elif found != true:  # it may be the added one
            assert true <= found + 1e-9 and found <= -math.log(k) + 1e-9
            bounded += 1
    assert bounded or k == SIZE


def test_a_law_without_likeliest_tokens_tells_nothing():
    assert log_close_prob_of(Token("a", 9, -1.0), MARKUP) is None


def test_of_no_more_than_rounding_there_is_a_bound():
    distribution = Token("a", 9, 0.0, ((9, "a", 0.0), (8, "b", -30.0)))
    assert log_close_prob_of(distribution, MARKUP) == -30.0
    assert log_close_prob_of(distribution._replace(top=distribution.top[:1]), MARKUP) == pytest.approx(math.log(1e-6))


@pytest.mark.parametrize("k", [2, 32])
def test_what_is_recorded_is_what_a_live_policy_sees(llama_server, tmp_path, k):
    """Greedily, so that traces are equal; at every decision point, even if the tag is not among the top two."""
    texts = questions(3)
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "runs.parquet"
    prompts.write_text("".join(json.dumps({"problem": text, "prompt": text + "<think>"}) + "\n" for text in texts))
    cuts = [part for name, value in FULL_DISTRIBUTION.items() for part in ("--setting", f"{name}={value}")]
    asked = ["--upstream", llama_server, "--out", out, "--max-tokens", CAP_TOKENS, "--probe-every", EVERY_TOKENS]
    asked += ["--top-log-probs", k, "--temperature", 0, "--yes", *cuts]
    shown = run("record", prompts, *asked).stdout
    assert ("log_close_prob: where the closing tag is not among the 2 likeliest" in shown) == (k == 2)
    assert "log_close_prob: missing" not in shown

    async def ask(settings):
        settings, sampling = replace(settings, num_top=k), {"temperature": 0.0, **FULL_DISTRIBUTION}
        runs = [think(settings, await prompt_of(settings, text), sampling) for text in texts]
        return await asyncio.gather(*runs)

    points, compared = load_log(out).checkpoints, 0
    for index, live in enumerate(with_settings(llama_server, WATCHES, ask)):
        assert not live.failure
        mine = (points.problem_index == index) & (points.position_tokens > 0)
        logged = dict(zip(points.position_tokens[mine], points.signals["log_close_prob"][mine], strict=True))
        for decision in live.decisions:
            seen = decision.observation
            # rounded differently in batches of another size
            assert seen.log_close_prob == pytest.approx(logged[seen.elapsed_tokens], rel=1e-2, abs=1e-2)
            compared += 1
    assert compared >= 6
