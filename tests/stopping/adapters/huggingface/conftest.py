"""The shipped reasoner in transformers."""

import pytest

from stopping.reasoner import Plan
from stopping.reasoner.names import SHIPPED
from stopping.reasoner.recording import draw_distinct


@pytest.fixture(scope="module")
def huggingface(transformers):
    from stopping.adapters import huggingface

    return huggingface


@pytest.fixture(scope="module")
def torch(huggingface):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads do not help a small model
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reasoner(torch, transformers):
    """Model, tokeniser, and prompts of unequal lengths."""
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED / "target", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED / "target")
    prompts = [problem.prompt + "<think>" for problem in draw_distinct(Plan(num_problems=6))]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    assert not inputs["attention_mask"].all()
    return model, tokenizer, inputs
