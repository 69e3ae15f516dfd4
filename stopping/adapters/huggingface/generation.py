"""Options and inputs of `model.generate`, and its token ids."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

_REFUSED = ("assistant_model", "custom_generate", "logits_processor", "stop_strings", "stopping_criteria", "streamer")


def configured(model: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the generation configuration with these options, and the options that do not belong to it.

    Raises:
        ValueError: naming an option that is not supported.
    """
    options = dict(options)
    config = copy.deepcopy(options.pop("generation_config", None) or model.generation_config)
    for name in _REFUSED:
        if options.get(name) is not None or getattr(config, name, None) is not None:
            raise ValueError(f"{name}: not supported together with a policy; expected none")
    rest = config.update(**options)
    for name in ("num_beams", "num_return_sequences"):
        if (getattr(config, name) or 1) != 1:
            raise ValueError(f"{name}: expected 1, got {getattr(config, name)!r}")
    config.return_dict_in_generate = False
    return config, rest


def prompts_of(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `input_ids` and `attention_mask`, int64 `[rows, tokens]`, on the model's device.

    Raises:
        ValueError: if there are other inputs, or they are not padded on the left.
    """
    if odd := sorted(set(inputs) - {"input_ids", "attention_mask", "token_type_ids"}):
        raise ValueError(f"inputs: expected input_ids and attention_mask, got also {', '.join(odd)}")
    ids = torch.as_tensor(inputs["input_ids"], device=model.device)
    mask = torch.as_tensor(inputs.get("attention_mask", torch.ones_like(ids)), device=model.device)
    if ids.ndim != 2 or mask.shape != ids.shape:
        raise ValueError(f"inputs: expected [rows, tokens], got input_ids {list(ids.shape)}, mask {list(mask.shape)}")
    if not mask[:, -1].all():
        raise ValueError("inputs: expected prompts padded on the left, got padding on the right; padding_side='left'")
    return {"input_ids": ids, "attention_mask": mask}


def token_ids(name: str, given: str | Sequence[int], tokenizer: Any) -> list[int]:
    """Return the token ids given, or those of a text.

    Raises:
        ValueError: naming the argument, if there are none.
    """
    ids = tokenizer.encode(given, add_special_tokens=False) if isinstance(given, str) else given
    if not len(ids):
        raise ValueError(f"{name}: expected at least one token, got {given!r}")
    return [int(token) for token in ids]


def end_ids(model: Any, config: Any) -> list[int]:
    """Return the ids of the tokens that end a row."""
    given = model.generation_config.eos_token_id if config.eos_token_id is None else config.eos_token_id
    return [] if given is None else [int(token) for token in np.atleast_1d(given)]


def length_of(ids: np.ndarray, ends: Sequence[int]) -> int:
    """Return the length of a row, up to and including its first end token; the whole row if there is none."""
    ended = np.flatnonzero(np.isin(ids, ends))
    return int(ended[0]) + 1 if len(ended) else len(ids)


def find(ids: np.ndarray, tag: Sequence[int]) -> np.ndarray:
    """Return where the tag's ids first occur in each row of ids `[rows, tokens]`; -1 where they do not."""
    if ids.shape[1] < len(tag):
        return np.full(len(ids), -1)
    here = (np.lib.stride_tricks.sliding_window_view(ids, len(tag), axis=1) == np.asarray(tag)).all(axis=-1)
    return np.where(here.any(axis=1), here.argmax(axis=1), -1)
