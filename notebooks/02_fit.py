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
# # 2. Fit a model
#
# For trace $i$ of problem $q$, right with chance $p_q \sim \mathrm{Beta}$, and of length
#
# $$\log L = a_q + \mathrm{shift}\,[\text{wrong}] + \sigma_{\text{right/wrong}}\,\varepsilon, \qquad \varepsilon \sim N(0, 1).$$
#
# Each problem has its own chance $p_q$ and its own length $a_q$: differences *between* problems are not taken for a use
# of length. Wrong traces may also loop until they are cut, and traces at the cap are counted as cut, not as that long.

# %%
# %matplotlib inline
import stopping
from stopping.reasoner import load_shipped_log

log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame
fit_part, certify_part, test_part = stopping.split(log.take(range(600)), (0.5, 0.3, 0.2), seed=0)  # by problem

# %%
fit = stopping.fit(stopping.models.LengthCorrectness(), fit_part)
fit

# %% [markdown]
# `shift` is what First Finish lives on: where it is above 0, of two traces of one problem the shorter is more often
# right. The curves are the fitted law; where the bars are not under them, the model is wrong, and what is derived from
# it may be too.

# %%
fit.plot(fit_part)

# %% [markdown]
# The same, as numbers: ranks of the traces in the law that the others of their problem predict would be uniform under a
# true model, and this is their distance from that (Kolmogorov-Smirnov).

# %%
print(f"right traces {fit.diagnostics.ks_right:.3f}, wrong traces {fit.diagnostics.ks_wrong:.3f}")

# %% [markdown]
# Here the wrong traces have two humps, which no log-normal has. That is worth knowing now: `tune` (notebook 6) needs no
# model.
