# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Look at traces
#
# A log has a row a trace: which problem, how many tokens, and what there is of the answer and whether it is right.
# Everything here starts from one. The shipped log holds 4,000 small puzzles, 16 traces each, of a tiny model that comes
# with the package.

# %%
# %matplotlib inline
import numpy as np

import stopping
from stopping.plots import confidence, forced_answers, lengths
from stopping.reasoner import load_shipped_log

log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame: problem, length_tokens, and what there is of correct, answer, ...
log

# %% [markdown]
# Before any work: what is this log enough for, and what is missing?

# %%
print(stopping.check(log))

# %% [markdown]
# **Does length distinguish right from wrong?** Pooled, wrong traces are longer. Part of this is due to the problems: hard
# ones are both longer and answered wrongly more often. A rule sees one problem at a time, so only what happens *within* a
# problem is of use.

# %%
lengths(log)

# %%
known = log.present & log.correct_known
length = np.log(np.maximum(log.length_tokens, 1))
mixed = (known & log.correct).any(axis=1) & (known & ~log.correct).any(axis=1)  # problems with traces of both kinds
means = [
    np.where(mask, length, 0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    for mask in (known & log.correct, known & ~log.correct)
]
pooled = length[known & ~log.correct].mean() - length[known & log.correct].mean()
within = (means[1] - means[0])[mixed]
print(f"log-length of wrong traces less that of right ones: pooled {pooled:.2f}, within a problem {within.mean():.2f}")

# %% [markdown]
# **What would the model have said earlier?** On some problems an answer was forced every few tokens. One line is how
# often that answer was right; the other, how often the same traces are right if they are left alone. Where they meet,
# thinking on is wasted.

# %%
from stopping.calibration.forced_answers import by_confidence, by_position

probed = log.take(log.probed)
forced_answers(by_position(probed))

# %% [markdown]
# **Does it know when it knows?** The probability it gave to the forced answer, against how often that was right. Below
# the diagonal the model is over-confident: a threshold on such a number must be calibrated, not believed.

# %%
confidence(by_confidence(probed))
