"""A model on disk in the Hugging Face layout, and the shipped ones.

A directory holds `config.json`, `generation_config.json`, `model.safetensors` in half precision, the tokeniser and its chat
template. `transformers.AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` read it as it is.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from stopping.reasoner.llama import Layer, Llama, LlamaConfig, initialise
from stopping.reasoner.names import Name, folder_of
from stopping.reasoner.vocabulary import BOS, CLOSE_THINK, CONTROLS, EOS, ID, OPEN_THINK, PAD, TOKENS, UNKNOWN, WORDS

# A user's message is a problem such as `2 3 4>24`; an earlier answer follows its thought.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "<think>{{ message['reasoning_content'] or '' }}</think>{{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<think>"
    "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}{% endif %}"
)

_IN_LAYER = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def load_model(which: Name | str | Path) -> Llama:
    """Load a shipped model by its name, or one from a directory; weights in float32.

    Raises:
        FileNotFoundError: there is no such directory, or a file is missing in it.
        ValueError: `config.json` lacks a key, or the model has another layout: more or fewer tensors, or other shapes,
            than it says.
    """
    folder = folder_of(which)
    said = json.loads((folder / "config.json").read_text())
    try:
        config = LlamaConfig(
            **{name: said[name] for name in LlamaConfig._fields if name != "rope_theta"},
            rope_theta=float(said["rope_parameters"]["rope_theta"]),
        )
    except KeyError as missing:
        raise ValueError(f"{folder.name}/config.json: expected the key {missing}, got {', '.join(said)}") from None
    tensors = load_file(folder / "model.safetensors")
    blank = jax.eval_shape(lambda: named_tensors(initialise(jax.random.key(0), config)))
    expected = {name: tensor.shape for name, tensor in blank.items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        odd = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise ValueError(
            f"{folder.name}/model.safetensors: other tensors than config.json describes: "
            + ", ".join(f"{name} (expected {expected.get(name)}, got {found.get(name)})" for name in odd[:5])
        )

    def tensor(name: str) -> jax.Array:
        value = jnp.asarray(tensors[f"model.{name}.weight"], jnp.float32)
        return value.T if value.ndim == 2 and "embed" not in name else value

    layers = tuple(
        Layer(**{ours: tensor(f"layers.{index}.{theirs}") for ours, theirs in _IN_LAYER.items()})
        for index in range(config.num_hidden_layers)
    )
    return Llama(tensor("embed_tokens"), layers, tensor("norm"), config)


def save_model(model: Llama, folder: Path, card: str) -> None:
    """Write the model, its tokeniser and a card (`README.md`) to a directory, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: np.ascontiguousarray(tensor, np.float16) for name, tensor in named_tensors(model).items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    _write(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **{name: value for name, value in config._asdict().items() if name != "rope_theta"},
            "num_key_value_heads": config.num_attention_heads,
            "head_dim": config.head_size,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "dtype": "float16",
            **_ids(),
        },
    )
    _write(folder / "generation_config.json", {"do_sample": True, "temperature": 1.0, **_ids()})
    _write(folder / "tokenizer.json", _tokenizer())
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": TOKENS[BOS],
            "eos_token": TOKENS[EOS],
            "pad_token": TOKENS[PAD],
            "unk_token": TOKENS[UNKNOWN],
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def named_tensors(model: Llama) -> dict[str, jax.Array]:
    """Weights by their Hugging Face names; matrices are [outputs, inputs] there."""
    tensors = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm}
    for index, layer in enumerate(model.layers):
        for ours, theirs in _IN_LAYER.items():
            tensors[f"model.layers.{index}.{theirs}.weight"] = getattr(layer, ours).T
    return tensors


def _ids() -> dict[str, int]:
    return {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def _tokenizer() -> dict[str, Any]:
    """Return the tokeniser as `tokenizers` reads it: the longest token that matches, `<bos>` in front of a plain text.

    All 32 ids are taken, so a character that is in no token becomes `<pad>`, which the model never reads otherwise.
    """

    def added(index: int) -> dict[str, Any]:
        fixed = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        # Think tags are shown when special tokens are skipped: clients look for them.
        return {"id": index, "content": TOKENS[index], **fixed, "special": index not in (OPEN_THINK, CLOSE_THINK)}

    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(index) for index in range(len(CONTROLS))],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "|".join([*WORDS, r"[\s\S]"])},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": TOKENS[BOS], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {TOKENS[BOS]: {"id": TOKENS[BOS], "ids": [BOS], "tokens": [TOKENS[BOS]]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ID, "unk_token": TOKENS[UNKNOWN]},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
