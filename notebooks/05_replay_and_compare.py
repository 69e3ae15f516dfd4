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
# # 5. Replay and compare
#
# A log holds worlds too. To replay is to play a rule through them: the very code that simulates, on real traces. The
# independent unit is the problem, never the sample.

# %%
# %matplotlib inline
import sims
import stopping
from stopping.policies import FirstFinish, FixedSamples, Margin, VoteTable
from stopping.reasoner import load_shipped_log

log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame
part = log.take(range(1000))
problem = stopping.Sampling(8)  # no model: nothing is drawn

# %%
result = sims.replay(problem, Margin(2), part)
result

# %%
result.plot()

# %% [markdown]
# Any rules on one log, paired. The first is the reference: what the log says is in use, here the vote of all.

# %%
rules = [*(FixedSamples(n) for n in (1, 2, 4)), FirstFinish(1), Margin(2), VoteTable.cannot_be_caught(8)]
comparison = stopping.compare(problem, rules, part)
comparison

# %%
comparison.plot()

# %% [markdown]
# The same rules look otherwise against latency: a vote that stops early saves the slowest trace.

# %%
comparison.plot(against="latency_tokens")

# %% [markdown]
# **At equal cost.** More tokens and more right answers are not yet a better rule. Between two fixed rules any cost can
# be had by tossing a coin for each problem: with probability $w$ the larger one. So beside a rule that takes $t$ tokens
# in mean stands
#
# $$(1 - w)\, a_1 + w\, a_2, \qquad (1 - w)\, t_1 + w\, t_2 = t,$$
#
# of the two neighbours on the concave hull of the fixed rules. The difference is paired by problem, and its error
# includes that of $w$, which is found on the same problems. No figure: no fixed rule is as cheap.

# %%
for row in comparison.rows:
    gains = {
        cost: f"{100 * gain.mean:+.1f} ± {100 * gain.standard_error:.1f} points" for cost, gain in row.at_equal.items()
    }
    print(f"{row.policy!s:32}", *(f"{cost}: {gains.get(cost, '-'):20}" for cost in ("total_tokens", "latency_tokens")))
