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
# # 3. Derive a threshold
#
# What is an answer worth? In units of one right answer, a rule's utility on a problem is
#
# $$u = [\text{right}] - c \cdot \text{tokens of all traces} - d \cdot \text{seconds until the answer}.$$
#
# Given a model and prices, each family of rules has a best member, and nothing in nature does better than two bounds:
# one who sees all lengths and answers beforehand, but not which are right; and a clairvoyant, who sees that too.

# %%
# %matplotlib inline
import stopping
from stopping.reasoner import load_shipped_log

log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame
fit = stopping.fit(stopping.models.LengthCorrectness(), log.take(range(300)))
problem = stopping.Sampling(4, model=fit.model, price_per_token=2e-4)

# %% [markdown]
# Where there is a closed form it comes first. The first of $n$ traces to finish is right with probability
#
# $$\frac1Q \sum_q \int n\, p_q f_q(t)\, S_q(t)^{n-1}\, dt,$$
#
# with $f_q$ the density of a right trace's length and $S_q$ the chance that a trace of the problem is still running; by
# quadrature, in microseconds, and beside it the log itself: they differ by what the model misses (notebook 2) and by the
# log's noise.

# %%
import sims
from stopping.makespan import first_finish_curve
from stopping.policies import FirstFinish, Margin

print(f"closed form {first_finish_curve(fit.model, [4]).accuracy.mean():.4f}")
print(f"the log     {sims.replay(problem, FirstFinish(1), log.take(range(300))).correct}")

# %% [markdown]
# For other families, `solve` plays every member through common drawn worlds, chooses on one set and scores on another,
# so that the score is not flattered by the choice. An adaptive rule is returned only if it beats the best fixed one by
# two standard errors.

# %%
solution = stopping.solve(problem, stopping.solvers.FamilySearch(2048))
solution

# %%
solution.plot()

# %% [markdown]
# The threshold moves with the price. That of a vote's margin, at three prices:

# %%
import jax

from stopping.solvers.family_search import utilities

worlds = sims.draw(jax.random.key(1), problem, 4096)
for price in (1e-5, 1e-4, 1e-3):
    values = utilities(problem.priced(price), [Margin(votes) for votes in range(1, 5)], worlds).mean(axis=1)
    print(f"a token costs {price:g} of a right answer: stop at a margin of {values.argmax() + 1}")
