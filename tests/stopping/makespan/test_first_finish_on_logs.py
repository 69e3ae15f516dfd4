"""First Finish Search replayed on real logs: the accuracies its authors' follow-up (arXiv 2512.02008) released."""

import pytest

import sims
from stopping.policies import FirstFinish
from stopping.problems import Sampling
from tests.shared import art_of_tts, needs_art_of_tts

ACCURACIES = {
    ("R1", "aime2024"): "0.867",
    ("R1", "aime2025-i"): "0.667",
    ("R1", "aime2025-ii"): "0.733",
    ("R1", "gpqa"): "0.737",
    ("Qwen3", "aime2024"): "0.400",
    ("Qwen3", "gpqa"): "0.631",
    ("QwQ", "aime2024"): "0.800",
    ("QwQ", "gpqa"): "0.662",
}


@needs_art_of_tts
@pytest.mark.parametrize(("model", "dataset"), ACCURACIES)
def test_first_of_eight(model: str, dataset: str) -> None:
    log = art_of_tts()[model, "GPQA" if dataset == "gpqa" else "AIME"].where(dataset=dataset)
    result = sims.replay(Sampling(8), FirstFinish(1), log)
    assert f"{result.correct.mean:.3f}" == ACCURACIES[model, dataset]
    assert result.num_unsupported == 0
