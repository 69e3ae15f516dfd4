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
# Against latency the order of the rules changes: a vote that stops early does not wait for the slowest trace.

# %%
comparison.plot(against="latency_tokens")

# %% [markdown]
# **At equal cost.** A rule with more tokens and more right answers is not necessarily better. A mixture of two fixed rules
# can have any cost between theirs: a coin, tossed for each problem, picks the larger one with probability $w$. So a rule
# that takes $t$ tokens on average is compared with
#
# $$(1 - w)\, a_1 + w\, a_2, \qquad (1 - w)\, t_1 + w\, t_2 = t,$$
#
# where the two are neighbours on the concave hull of the fixed rules. The difference is paired by problem. Its error
# includes that of $w$, which is estimated on the same problems. There is no figure where every fixed rule costs more.

# %%
for row in comparison.rows:
    gains = {
        cost: f"{100 * gain.mean:+.1f} ± {100 * gain.standard_error:.1f} points" for cost, gain in row.at_equal.items()
    }
    print(f"{row.policy!s:32}", *(f"{cost}: {gains.get(cost, '-'):20}" for cost in ("total_tokens", "latency_tokens")))
