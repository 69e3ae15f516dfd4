"""A tiny reasoner of the project's own: its task, its texts, its training, its traces.

It plays Countdown by searching aloud, and makes the mistakes that stopping rules live on: long searches, answers that change,
checks that fail, votes that help. Its weights and a log of its traces come with the package.
"""

from stopping.reasoner.countdown import Difficulty, Problem, draw_problem, is_right, vote_key
from stopping.reasoner.gguf import save_gguf
from stopping.reasoner.live import LiveRun, run_live
from stopping.reasoner.llama import Llama, LlamaConfig, initialise
from stopping.reasoner.recording import Plan, load_log, record
from stopping.reasoner.sampling import Samples, sample
from stopping.reasoner.training import RECIPES, Recipe, train
from stopping.reasoner.vocabulary import TOKENS, decode, encode
from stopping.reasoner.weights import NAMES, load_model, save_model

__all__ = [
    "NAMES",
    "RECIPES",
    "TOKENS",
    "Difficulty",
    "LiveRun",
    "Llama",
    "LlamaConfig",
    "Plan",
    "Problem",
    "Recipe",
    "Samples",
    "decode",
    "draw_problem",
    "encode",
    "initialise",
    "is_right",
    "load_log",
    "load_model",
    "record",
    "run_live",
    "sample",
    "save_gguf",
    "save_model",
    "train",
    "vote_key",
]
