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
# # 7. Live, in our sampler
#
# The savings of a replay should be observed when the rule stops the model itself. The shipped model samples every token with
# noise that depends on its problem and position alone, so a stopped run is a prefix of the full one: the two can be compared
# pair by pair.
#
# The log may be your own; the live part then needs your engine in the place of our sampler.

# %%
# %matplotlib inline
import jax
import numpy as np

import sims
import stopping
from stopping.policies import TokenBudget, WindowedConfidence
from stopping.reasoner import Plan, load_model, load_shipped_log, run_live
from stopping.reasoner.recording import draw_distinct

log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame, and stopping.traces.with_checkpoints for the forced answers
prompt_length = np.array([len(name) for name in log.problem_ids])
alike = prompt_length == np.bincount(prompt_length).argmax()  # one length of prompt: our sampler compiles for each
probed, fresh = log.take(log.probed & alike), log.take(~log.probed & alike)
problem = stopping.Thinking()

# %% [markdown]
# **The promise**, from problems with checkpoints: what two rules cost and save. A thought is stopped by closing it; the
# answer that is then forced is paid for.

# %%
rule = WindowedConfidence(-0.32, 64)  # the last tokens were unlikely: the search is lost, so answer
comparison = stopping.compare(problem, [rule, TokenBudget(192)], probed)
comparison

# %%
comparison.plot()

# %% [markdown]
# **Live**, on problems that were not used for anything else.

# %%
NUM_LIVE = 96
plan = Plan()
drawn = {asked.prompt: (number, asked) for number, asked in enumerate(draw_distinct(plan))}
live_log = fresh.take(range(NUM_LIVE))
numbers, asked = zip(*(drawn[name] for name in live_log.problem_ids), strict=True)
run = run_live(
    jax.random.key(plan.seed), load_model("target"), asked, rule, problem_index=numbers,
    every_tokens=plan.probe_every_tokens, cap_tokens=plan.cap_tokens, temperature=plan.temperature,
)  # fmt: skip
print(f"stopped {run.stopped.mean():.0%} of {NUM_LIVE} thoughts")

# %% [markdown]
# Promised and observed, each against the same traces without a rule:

# %%
promised = comparison.rows[1].against_reference
own, right = live_log.length_tokens[:, 0], live_log.correct[:, 0]
observed = {
    "correct": sims.Estimate.of(run.correct.astype(float) - right),
    "total_tokens": sims.Estimate.of(run.total_tokens.astype(float) - own),
}
for name, figure in observed.items():
    error = np.hypot(figure.standard_error, promised[name].standard_error)
    print(
        f"{name}: promised {promised[name]}, observed {figure}; {(figure.mean - promised[name].mean) / error:+.1f} errors apart"
    )
