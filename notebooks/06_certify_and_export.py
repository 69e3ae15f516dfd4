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
# # 6. Certify and export
#
# A rule that looks good on a log may do so by chance. `tune` splits by problem: on the first part it plays every
# member of every family; on the second it certifies the best ones in a frozen order; on the third it measures what is
# promised.
#
# The test is a bet. With limit $\varepsilon$ and losses $x_i$, a capital $\prod_i \left(1 + \lambda (\varepsilon - x_i)
# / (1 - \varepsilon)\right)$ grows only if losses are below the limit, and by chance exceeds $1 / \alpha$ with
# probability $\alpha$ at most: in finite samples, for any distribution of the losses. So there is a least number
# of problems, known before anything is recorded:

# %%
# %matplotlib inline
import stopping
from stopping.reasoner import load_shipped_log
from stopping.tuning import problems_floor

for limit in (0.05, 0.02, 0.01):
    print(f"to certify a loss below {limit:g} at 95 % takes at least {problems_floor(limit, 0.95)} problems")

# %%
log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame
found = stopping.tune(stopping.Sampling(8), log.take(range(1000)), max_loss=0.05)
found

# %%
found.plot()

# %% [markdown]
# Certified rules are filled. The certificates, in the order of testing: testing ends at the first that fails.

# %%
found.certification

# %%
found.certification.plot()

# %% [markdown]
# **Export**: one small directory. Loading it executes nothing; its golden lines, observations with the decisions they
# must give, are run again, on any server and in any language.

# %%
import tempfile
from pathlib import Path

from stopping.artifacts import load_policy

rule = found.certification.policy if found.chosen is None else found.chosen.policy
directory = stopping.save_policy(
    rule, Path(tempfile.mkdtemp()) / "policy", problem=found.problem, evidence=[found.certification]
)
print(*sorted(path.name for path in directory.iterdir()))
print(load_policy(directory).policy)
