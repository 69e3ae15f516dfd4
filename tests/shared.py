"""Logs from the data folder beside the project. It is no part of it: tests that need it are skipped where it is absent.

The log is 6 models x (60 AIME, 198 GPQA problems) x 8 samples, with an answer and its correctness each, from the release
accompanying The Art of Scaling Test-Time Compute (arXiv 2512.02008).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from stopping.traces import TraceLog, from_columns

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ART_OF_TTS = SHARED_DATA / "reasoning_traces_art_of_tts" / "traces.csv.gz"

needs_art_of_tts = pytest.mark.skipif(not ART_OF_TTS.exists(), reason="no shared data: reasoning_traces_art_of_tts")

CAPS = {"R1": 32_000, "QwQ": 32_000, "R1DistilQwen": 32_000, "Qwen3": 32_000, "Qwen3/gpqa": 16_000}
CAPS |= {"Qwen3-235B": 5_000, "Dapo-Qwen-32B": 20_480, "Dapo-Qwen-32B/gpqa": 10_120}


@lru_cache
def art_of_tts() -> dict[tuple[str, str], TraceLog]:
    """Load the 12 logs, by model and set: `logs["R1", "AIME"]`; `log.where(dataset="aime2024")` narrows one down.

    The source does not say which traces were cut: those without an answer and within 1 % of the cap are taken to be. A few
    completions overshoot the cap; their length is set to it.
    """
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(ART_OF_TTS, keep_default_na=False)
    cap = (frame.model + "/" + frame.dataset).map(CAPS).fillna(frame.model.map(CAPS)).astype(int)
    censored = (frame.pred == "NO_ANSWER") & (frame.n_tokens >= 0.99 * cap)
    length = np.where(censored, cap, np.minimum(frame.n_tokens, cap))
    kind = np.where(frame.dataset == "gpqa", "GPQA", "AIME")
    frame = frame.assign(length=length, censored=censored, cap=cap, kind=kind)
    columns = {"problem": ["dataset", "problem"], "length_tokens": "length", "answer": "pred"}
    columns |= {name: name for name in ("sample", "correct", "censored")}
    return {
        key: from_columns(
            part, columns, groups=("dataset",), no_answer_values=("NO_ANSWER",), cap_tokens=int(part.cap.iloc[0])
        )
        for key, part in frame.groupby(["model", "kind"])
    }
