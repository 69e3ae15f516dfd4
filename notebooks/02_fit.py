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
# First Finish depends on `shift`: where it is above 0, the shorter of two traces of one problem is right more often. The
# curves are the fitted distribution. Where they do not match the bars, the model is wrong, and rules derived from it may be
# wrong too.

# %%
fit.plot(fit_part)

# %% [markdown]
# The same in numbers. Under a true model, the rank of a trace in the distribution predicted from the other traces of its
# problem is uniform; this is the Kolmogorov-Smirnov distance from that.

# %%
print(f"right traces {fit.diagnostics.ks_right:.3f}, wrong traces {fit.diagnostics.ks_wrong:.3f}")

# %% [markdown]
# Here the wrong traces have two humps, which no log-normal has. That is worth knowing now: `tune` (notebook 6) needs no
# model.
