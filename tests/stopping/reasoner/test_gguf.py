"""The GGUF file as llama.cpp's own server reads it, over HTTP."""

import json
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest

from stopping.adapters.llamacpp import LlamaServer
from stopping.reasoner.gguf import save_gguf
from stopping.reasoner.vocabulary import UNKNOWN, decode, encode
from stopping.reasoner.weights import save_model
from tests.stopping.reasoner.examples import TEXT, TOKEN_IDS, shipped, texts, untrained

QUESTION = [{"role": "user", "content": "2 3 4>24"}]
MODELS = {"tiny": untrained, "weak_draft": shipped}


@pytest.fixture(scope="module", params=MODELS)
def served(request, tmp_path_factory):
    """A model, and what posts to its server; the server stops when the tests end."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    model = MODELS[request.param]()
    folder = tmp_path_factory.mktemp("gguf")
    save_model(model, folder / "model", "")
    path = folder / "model.gguf"
    save_gguf(folder / "model", path)
    with LlamaServer(path, num_slots=1, context_tokens=1024, num_threads=1) as server:

        def post(path, **body):
            content, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
            request = urllib.request.Request(server.url + path, content, kind)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)

        yield model, post
    with pytest.raises(urllib.error.URLError):
        post("/tokenize", content="1")


def test_probabilities_are_ours(served):
    model, post = served
    ours = jax.nn.log_softmax(jax.jit(lambda tokens: model(tokens))(TOKEN_IDS))[0]
    ids = TOKEN_IDS[0].tolist()
    differences = []
    for position in range(1, len(ids), 7):
        said = post("/completion", prompt=ids[:position], n_predict=1, n_probs=32, temperature=1.0, cache_prompt=False)[
            "completion_probabilities"
        ][0]["top_logprobs"]
        assert sorted(each["id"] for each in said) == list(range(32))
        differences += [abs(each["logprob"] - ours[position - 1, each["id"]]) for each in said]
    # Weights and sums in half precision there, float32 here.
    assert np.mean(differences) <= 0.02


def test_the_tokeniser_is_ours(served):
    _, post = served
    for example in texts(20):
        ids = example.tokens.tolist()
        text = decode(ids)
        assert post("/tokenize", content=text, parse_special=True)["tokens"] == ids
        plain = text.removeprefix("<bos>").removesuffix("<eos>")  # think tags are text, as clients send them back
        assert post("/tokenize", content=plain, add_special=True, parse_special=False)["tokens"] == ids[:-1]
        assert post("/detokenize", tokens=ids[1:-1])["content"] == plain


def test_an_unknown_character_costs_no_answer(served):
    """That tokeniser leaves it out, where others write `<pad>`; the ids that both give are the same."""
    _, post = served
    assert post("/tokenize", content="3 4x\u00e9>7")["tokens"] == encode("3 4>7")
    assert post("/completion", prompt="The quick brown fox", n_predict=4)["tokens_predicted"] == 4


def test_the_file_names_the_unknown_token(served, tmp_path):
    import gguf

    save_gguf("weak_draft", tmp_path / "model.gguf")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.unknown_token_id"].contents() == UNKNOWN
    assert fields["tokenizer.ggml.tokens"].contents(UNKNOWN) == "<pad>"


def test_the_chat_template_is_applied(served):
    _, post = served
    assert post("/apply-template", messages=QUESTION)["prompt"].removeprefix("<bos>") == "2 3 4>24<think>"
    assert encode(TEXT) == TOKEN_IDS[0].tolist()


def test_thought_and_answer_come_apart(served):
    model, post = served
    if model is not shipped():
        pytest.skip("an untrained model closes no thought")
    both = 0
    for seed in range(5):
        options = {"max_tokens": 400, "temperature": 1.0, "seed": seed, "cache_prompt": False}
        message = post("/v1/chat/completions", messages=QUESTION, **options)["choices"][0]["message"]
        plain = post("/completion", prompt=encode("<bos>2 3 4>24<think>"), **options)["content"]
        thought, closed, answer = plain.partition("</think>")
        assert (message["reasoning_content"], message["content"]) == (thought, answer)
        both += bool(thought and closed and answer)
    assert both
