"""A policy inside `transformers`, which closes thoughts or cancels samples.

    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    result = think(model, tokenizer, inputs, "policy/", max_new_tokens=4096)
    result.answers, result.total_tokens

`think` generates a batch, and the policy closes the thought of each row; `sample` samples several traces of one prompt until the
policy stops. Both call `model.generate` and take its options, except beams, assistant models, custom logits processors, and
stopping criteria other than the end token.
"""

try:
    from stopping.adapters.huggingface.sampling import SamplingResult, sample
    from stopping.adapters.huggingface.thinking import ThinkingResult, stripped, think
except ModuleNotFoundError as error:
    if error.name and error.name.partition(".")[0] in ("torch", "transformers"):
        message = f"{__name__} needs {error.name}; install it with: pip install 'stopping[transformers]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    raise

__all__ = ["SamplingResult", "ThinkingResult", "sample", "stripped", "think"]
