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
# # 4. Simulate
#
# A problem is a *world* (all that is random, drawn before anyone decides) and a *play* (what a rule makes of it). To
# simulate is to draw and play, many times; the mean comes with its standard error, $s / \sqrt{N}$.

# %%
# %matplotlib inline
import jax

import sims
import stopping
from stopping.policies import FixedSamples, Margin
from stopping.reasoner import load_shipped_log

log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame
fit = stopping.fit(stopping.models.LengthCorrectness(), log.take(range(300)))
problem = stopping.Sampling(8, model=fit.model, price_per_token=1e-4)

# %% [markdown]
# Ask for a number of worlds, or for a precision: worlds are then drawn until the error of the utility is small enough.

# %%
result = sims.simulate(jax.random.key(0), problem, Margin(2), standard_error=5e-3)
result

# %%
result.plot()

# %% [markdown]
# **The same key means the same worlds**, for any rule. Differences are then taken world by world, and their error is
# much smaller than that of the parts. Results on different worlds are refused.

# %%
fixed = sims.simulate(jax.random.key(0), problem, FixedSamples(8), num_replicas=len(result.values["utility"]))
paired = sims.difference(result, fixed)["utility"]
print("utility, one by one:", result.utility, "and", fixed.utility)
print("paired difference:  ", paired)

# %%
other = sims.simulate(jax.random.key(1), problem, FixedSamples(8), num_replicas=1000)
try:
    sims.difference(result, other)
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# A model can be asked what no log shows. With a stop that takes effect 50 tokens late:

# %%
late = stopping.Sampling(8, model=fit.model, price_per_token=1e-4, lag_tokens=50)
slow = sims.simulate(jax.random.key(0), late, Margin(2), num_replicas=len(result.values["utility"]))
print("tokens paid for the lag:", sims.difference(slow, result)["total_tokens"])
