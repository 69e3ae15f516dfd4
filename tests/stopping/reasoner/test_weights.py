"""A model on disk: to the last bit with us, and as other libraries read it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stopping.reasoner import weights
from stopping.reasoner.names import NAMES, SHIPPED
from stopping.reasoner.vocabulary import BOS, EOS, ID, OPEN_THINK, PAD, UNKNOWN, decode, encode
from stopping.reasoner.weights import load_model, named_tensors, save_model
from tests.stopping.reasoner.examples import TEXT, TINY, TOKEN_IDS, shipped, texts, untrained

TEXTS = [decode(example.tokens.tolist()).removeprefix("<bos>") for example in texts(100)]
QUESTION = {"role": "user", "content": "2 3 4>24"}


@pytest.fixture
def folder(tmp_path):
    save_model(untrained(), tmp_path / "model", "what it is")
    return tmp_path / "model"


def test_what_a_directory_holds(folder):
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert (folder / "README.md").read_text() == "what it is"


def test_saved_loaded_and_saved_again_is_the_same(folder, tmp_path):
    loaded = load_model(folder)
    assert loaded.config == TINY
    save_model(loaded, tmp_path / "again", "what it is")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    rounded = jax.tree.map(lambda weight: weight.astype(jnp.float16).astype(jnp.float32), untrained())
    assert all(weight.dtype == jnp.float32 for weight in jax.tree.leaves(loaded))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, loaded, rounded))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_models_load(name):
    counts = {"target": 2_220_096, "draft": 102_720, "weak_draft": 29_328}
    assert load_model(name).num_parameters == counts[name]
    assert load_model(str(SHIPPED / name)).config == load_model(name).config


def test_a_missing_file_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("key", ["hidden_size", "rope_parameters"])
def test_a_key_that_the_config_lacks_is_named(folder, key):
    said = json.loads((folder / "config.json").read_text())
    del said[key]
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=rf"model/config\.json: expected the key '{key}', got architectures, "):
        load_model(folder)


@pytest.mark.parametrize("change", ["missing", "more", "shape", "config"])
def test_other_tensors_are_refused_by_name(folder, change):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    if change == "missing":
        del tensors[name]
    elif change == "more":
        name = "model.layers.1.mlp.bias"
        tensors[name] = np.zeros(3, np.float16)
    elif change == "shape":
        tensors[name] = np.ascontiguousarray(tensors[name].T)
    else:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(said | {"intermediate_size": 50}))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"model/model\.safetensors: other tensors than config\.json describes: .*{name}"
    ):
        load_model(folder)


def test_matrices_are_outputs_by_inputs():
    tensors = named_tensors(untrained())
    assert len(tensors) == 2 + 9 * TINY.num_hidden_layers
    assert tensors["model.layers.0.mlp.gate_proj.weight"].shape == (48, 32)
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (32, 48)
    assert tensors["model.embed_tokens.weight"].shape == (32, 32)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_file(str(SHIPPED / "weak_draft" / "tokenizer.json"))


def test_the_tokeniser_encodes_as_ours_and_back(tokenizer):
    for text in [*TEXTS, "", " no yes", "check wait", "  \n\n "]:
        ids = tokenizer.encode(text).ids
        assert ids == [BOS, *encode(text)]
        assert tokenizer.encode(text, add_special_tokens=False).ids == encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == "<bos>" + text
        assert tokenizer.decode(ids) == text.removesuffix("<eos>")  # think tags stay
    assert tokenizer.get_vocab_size() == 32
    assert [tokenizer.token_to_id(name) for name in ("<pad>", "<eos>", "<think>")] == [PAD, EOS, OPEN_THINK]


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_tokeniser_is_what_is_written(name):
    """And the unknown token that it names is one that it has."""
    folder = SHIPPED / name
    said = json.loads((folder / "tokenizer.json").read_text())
    assert said == weights._tokenizer()
    assert said["model"]["vocab"] == ID and said["model"]["vocab"][said["model"]["unk_token"]] == UNKNOWN
    assert json.loads((folder / "tokenizer_config.json").read_text())["unk_token"] == said["model"]["unk_token"]


@pytest.mark.parametrize(("text", "wanted"), [
    ("3x", "3<pad>"), ("caf\u00e9", "<pad>" * 4), ("no", "<pad>" * 2), ("check", "<pad>" * 5), ("3 4\U0001f600>7", "3 4<pad>>7"),
    ("The quick brown fox", "<pad><pad><pad> <pad><pad><pad><pad><pad> <pad><pad><pad><pad><pad> <pad><pad><pad>"),
    ("<unk>", "<pad>" * 4 + ">"),
])  # fmt: skip
def test_an_unknown_character_is_a_pad(tokenizer, auto_tokenizer, text, wanted):
    """No id is free for it; it is dropped where special tokens are."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == encode(wanted) == auto_tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == wanted.replace("<pad>", "")
    assert auto_tokenizer.unk_token_id == UNKNOWN and len(auto_tokenizer) == 32


@pytest.mark.parametrize("model", [untrained, shipped], ids=["tiny", "weak_draft"])
def test_transformers_computes_the_same(transformers, model, tmp_path):
    import torch

    model = model()
    save_model(model, tmp_path, "")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        logits = theirs(torch.tensor(TOKEN_IDS, dtype=torch.int64)).logits.numpy()
    ours = jax.jit(lambda model, tokens: model(tokens))(load_model(tmp_path), TOKEN_IDS)
    assert logits.std() > 0.5
    np.testing.assert_allclose(logits, ours, rtol=0, atol=1e-3)  # logits of about 5, summed in another order
    assert sum(weight.numel() for weight in theirs.parameters()) == model.num_parameters


@pytest.fixture(scope="module")
def auto_tokenizer(transformers):
    return transformers.AutoTokenizer.from_pretrained(SHIPPED / "weak_draft")


def test_auto_tokenizer_reads_as_ours(auto_tokenizer):
    for text in TEXTS[:20]:
        assert auto_tokenizer(text).input_ids == [BOS, *encode(text)]
        assert auto_tokenizer.decode(encode(text)) == text
    assert auto_tokenizer.decode(TOKEN_IDS[0], skip_special_tokens=True) == TEXT[len("<bos>") : -len("<eos>")]
    assert (auto_tokenizer.bos_token_id, auto_tokenizer.eos_token_id, auto_tokenizer.pad_token_id) == (BOS, EOS, PAD)
    assert auto_tokenizer.model_max_length == 512


def test_the_chat_template(auto_tokenizer):
    def rendered(messages, **options):
        return auto_tokenizer.apply_chat_template(messages, tokenize=False, **options)

    assert rendered([QUESTION], add_generation_prompt=True) == "<bos>2 3 4>24<think>"
    assert rendered([QUESTION], add_generation_prompt=True, enable_thinking=True) == "<bos>2 3 4>24<think>"
    assert rendered([QUESTION], add_generation_prompt=True, enable_thinking=False) == "<bos>2 3 4>24<think></think>"
    assert rendered([QUESTION]) == "<bos>2 3 4>24"
    answer = {"role": "assistant", "reasoning_content": "4*3=12,12*2=24 yes\n", "content": "(4*3)*2"}
    whole = "<bos>2 3 4>24<think>4*3=12,12*2=24 yes\n</think>(4*3)*2<eos>"
    assert rendered([QUESTION, answer]) == whole
    ids = auto_tokenizer.apply_chat_template([QUESTION, answer], return_dict=False)
    assert ids == encode(whole)
    del answer["reasoning_content"]
    assert rendered([QUESTION, answer]) == "<bos>2 3 4>24<think></think>(4*3)*2<eos>"
