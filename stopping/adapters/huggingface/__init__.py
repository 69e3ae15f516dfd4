"""A policy inside `transformers`: thoughts that are closed in time, and samples that are cancelled in time.

    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    run = think(model, tokenizer, inputs, "policy/", max_new_tokens=4096)
    run.answers, run.total_tokens

`think` lets each row of a batch think until the policy closes that row's thought; `sample` draws several traces of one prompt
until the policy has seen enough of them. Both call `model.generate` and take its options, but for beams, assistants, own
processors, and ends of a row other than the end token.
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
