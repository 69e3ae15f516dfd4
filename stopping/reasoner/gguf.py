"""The reasoner as one GGUF file, the format of llama.cpp and its servers.

llama.cpp rotates neighbouring pairs where Hugging Face rotates halves, so the rows of queries and keys are put in its order.
The vocabulary is written as byte-level BPE without any merge that could apply; words and think tags are user-defined tokens,
which that tokeniser matches first and renders.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from stopping.reasoner.names import Name, folder_of
from stopping.reasoner.vocabulary import BOS, EOS, PAD, TOKENS, UNKNOWN

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf(model: Name | str | Path, path: Path) -> None:
    """Write a model, its vocabulary and its chat template to a `.gguf` file: matrices in float16, norms in float32.

    Args:
        model: a shipped one by its name, or a directory that `save_model` wrote.
        path: the file.

    Raises:
        ImportError: the package `gguf` is missing; it comes with the extra `llamacpp`.
        FileNotFoundError: there is no such directory, or a file is missing in it.
    """
    import gguf

    folder = folder_of(model)
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("stopping reasoner")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    kinds = {"<pad>": gguf.TokenType.CONTROL, "<bos>": gguf.TokenType.CONTROL, "<eos>": gguf.TokenType.CONTROL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([_byte_level(token) if len(token) == 1 else token for token in TOKENS])
    writer.add_token_types(
        [kinds.get(t, gguf.TokenType.NORMAL if len(t) == 1 else gguf.TokenType.USER_DEFINED) for t in TOKENS]
    )
    writer.add_token_merges(["Ġ Ġ"])  # the format requires one; our texts never have two blanks in a row
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    writer.add_chat_template(said["chat_template"])

    for full, tensor in load_file(folder / "model.safetensors").items():
        theirs = full.removesuffix(".weight")
        if theirs.endswith(("q_proj", "k_proj")):
            heads = (config["num_attention_heads"], 2, config["head_dim"] // 2, config["hidden_size"])
            tensor = tensor.reshape(heads).swapaxes(1, 2).reshape(tensor.shape)
        if theirs.startswith("model.layers."):
            index, theirs = theirs.removeprefix("model.layers.").split(".", 1)
            ours = f"blk.{index}.{_NAMES[theirs]}"
        else:
            ours = _NAMES[theirs]
        writer.add_tensor(
            f"{ours}.weight", np.ascontiguousarray(tensor, np.float16 if tensor.ndim == 2 else np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_level(character: str) -> str:
    """Return the text with a printable character in place of blanks, as in byte-level BPE."""
    return {" ": "Ġ", "\n": "Ċ"}.get(character, character)
