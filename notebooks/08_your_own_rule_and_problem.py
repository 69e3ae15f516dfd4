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
# # 8. Your own rule, your own problem
#
# A rule is a class of twenty lines: what it reads, what it may ask for, a state, and a step in array code. The same
# code runs on plain Python numbers, NumPy, JAX and torch. It must not branch on data: no `if`, no `and`.

# %%
# %matplotlib inline
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sims
import stopping
from stopping.policies import Action, Decision, Kind, SamplingObservation, bind, policy
from stopping.problems.problem import CORRECT, LATENCY_TOKENS, TOTAL_TOKENS, UTILITY
from stopping.reasoner import load_shipped_log

log = load_shipped_log()
# log = stopping.from_columns(frame)  # your own DataFrame
part = log.take(range(600))


@policy(signals=("leader_votes", "num_answers"), kinds=(Kind.CONTINUE, Kind.STOP))
class LeadingShare:
    """Stop when the leader has a given share of at least three votes."""

    share: float

    def init(self, xp, batch_shape):
        return ()

    def score(self, xp, state, observation):  # for rules that compare floats: how far from a tie
        return observation.leader_votes / xp.maximum(observation.num_answers, 1) - self.share

    def step(self, xp, state, observation):
        enough = self.score(xp, state, observation) >= 0
        return state, Action(xp.logical_and(enough, observation.num_answers >= 3), 0)


# %% [markdown]
# It is **saved, loaded and stepped** like ours:

# %%
import tempfile
from pathlib import Path

directory = stopping.save_policy(LeadingShare(0.8), Path(tempfile.mkdtemp()) / "policy")
rule = stopping.load_policy(directory).bind("python")
state = rule.init()
for votes in range(1, 5):  # one answer after another, all the same
    state, action = rule.step(state, SamplingObservation(8, 8 - votes, votes, 0, votes, 0, 100 * votes, 800 * votes))
    print(votes, "votes:", Kind(action.kind).name)

# %% [markdown]
# It is **replayed and tuned** like ours. A family is a list of members, and can be tried together with any others.

# %%
problem = stopping.Sampling(8)
stopping.compare(problem, [LeadingShare(0.6), LeadingShare(0.8)], part).plot()

# %%
families = {
    "LeadingShare": [LeadingShare(share / 10) for share in range(4, 11)],
    "FixedSamples": [stopping.policies.FixedSamples(number) for number in range(1, 9)],
}
stopping.tune(problem, part, max_loss=0.08, families=families)

# %% [markdown]
# ## A custom problem
#
# Giving up: a checker recognises a right answer (a unit test, say), and attempts are made one after another until one is
# right. When is it better to stop paying? A world is the lengths of the attempts and which are right. After each wrong one
# the rule sees how many there were and how many tokens they took, and may go on or stop:
#
# $$u = [\text{one is right}] - c \cdot \text{tokens until then}.$$
#
# `stopping.problems.Problem` says what is needed: the `decision` (what rules see and may ask for), the `components` of an
# outcome, `draw` (a world from a key), `play` (the only place with dynamics and prices), `hindsight` (the best outcome for
# one who knows the world), and what a rule loses and costs: `loss`, `cost`, `lossless`. `Replayable` adds what replay needs:
# `worlds` (those of a log, `[problems, orders]`) and its inverse, `log`; the rules that do not adapt, `fixed_rules`; the rule
# in use now, `reference_rule`; and the same problem at another price, `priced`. A world has the index of its `problem`, which
# no rule sees. An outcome says where a rule went past the log (`unsupported`; here never, as all 16 attempts must be logged).
#
# With these it is simulated, replayed, solved, swept, compared, tuned and certified like ours, in Python and by the commands:
# `stopping tune runs.parquet --problem "my_problems:GivingUp(price_per_token=5e-4)"`.


# %%
class Attempts(NamedTuple):
    length_tokens: jax.Array  # int32 [attempts]
    right: jax.Array  # bool [attempts]
    problem: jax.Array  # int32 []


class Outcome(NamedTuple):
    utility: jax.Array
    correct: jax.Array
    total_tokens: jax.Array
    latency_tokens: jax.Array
    unsupported: jax.Array


class GivingUp(NamedTuple):
    """Up to 16 attempts; the numbers are the prior's, by which worlds are drawn."""

    price_per_token: float = 1e-3
    alpha: float = 0.8  # chances of problems are Beta(alpha, beta)
    beta: float = 1.2
    log_tokens: float = 5.2
    scale: float = 0.5

    decision = Decision("giving_up", SamplingObservation, (Kind.CONTINUE, Kind.STOP), "attempt_end")
    components = (CORRECT, UTILITY, TOTAL_TOKENS, LATENCY_TOKENS)
    has_orders = False

    def draw(self, key):
        key_chance, key_right, key_length = jax.random.split(key, 3)
        chance = jax.random.beta(key_chance, self.alpha, self.beta)
        length = jnp.exp(self.log_tokens + self.scale * jax.random.normal(key_length, (16,)))
        return Attempts(jnp.ceil(length).astype(jnp.int32), jax.random.uniform(key_right, (16,)) < chance, jnp.int32(0))

    def worlds(self, log, *, num_orders=1, seed=0, judged=True):
        values = log.length_tokens, log.correct, np.arange(log.num_problems, dtype=np.int32)
        return Attempts(*(value[:, None] for value in values))  # one order: as logged

    def log(self, worlds):
        length, right = np.asarray(worlds.length_tokens), np.asarray(worlds.right)
        num_problems, num_attempts = length.shape
        columns = {"length_tokens": length.reshape(-1), "correct": right.reshape(-1)}
        columns["problem"] = np.repeat(np.arange(num_problems), num_attempts)
        return stopping.from_columns(columns | {"sample": np.tile(np.arange(num_attempts), num_problems)})

    def ended(self, world, num_attempts):
        spent = jnp.cumsum(world.length_tokens)[num_attempts - 1]
        right = jnp.any(world.right & (jnp.arange(16) < num_attempts))
        return Outcome(right - self.price_per_token * spent, right, spent, spent, jnp.bool_(False))

    def play(self, world, policy):
        rule = bind(policy, "jax")

        def attempt(carry, number):
            state, stopped, made = carry
            spent = jnp.cumsum(world.length_tokens)[number - 1]
            seen = SamplingObservation(number, 0, number, -1, 0, 0, spent, spent)
            state, action = rule.step(state, seen)
            made = jnp.where(stopped, made, number)
            return (state, stopped | world.right[number - 1] | (action.kind == Kind.STOP.value), made), None

        start = rule.init(()), jnp.bool_(False), jnp.int32(0)
        (_, _, made), _ = jax.lax.scan(attempt, start, jnp.arange(1, 17, dtype=jnp.int32))
        return self.ended(world, made)

    def fixed_rules(self, worlds):
        return [GiveUpAfter(attempts) for attempts in range(1, 17)]

    def reference_rule(self, log):
        return GiveUpAfter(16)

    def priced(self, price_per_token):
        return self._replace(price_per_token=price_per_token)

    def interval_tokens(self, log):
        return None

    def loss(self, outcome, reference, judged=True):
        return reference.correct * 1.0 - outcome.correct * 1.0

    def cost(self, outcome):
        return self.price_per_token * outcome.total_tokens

    def lossless(self, policy, reference):
        return False

    def hindsight(self, world):
        outcomes = jax.vmap(lambda number: self.ended(world, number))(jnp.arange(1, 17))
        return jax.tree.map(lambda values: values[jnp.argmax(outcomes.utility)], outcomes)


# %% [markdown]
# It is simulated and replayed like ours. The rule may be from the library, or one of three lines:


# %%
@policy(signals=("num_answers",), kinds=(Kind.CONTINUE, Kind.STOP))
class GiveUpAfter:
    """Stop after so many failures."""

    attempts: int

    def init(self, xp, batch_shape):
        return ()

    def step(self, xp, state, observation):
        return state, Action(observation.num_answers >= self.attempts, 0)


giving_up = GivingUp()
for own in (GiveUpAfter(2), GiveUpAfter(4), stopping.policies.TokenBudget(800)):
    simulated = sims.simulate(jax.random.key(0), giving_up, own, num_replicas=4096)
    replayed = sims.replay(giving_up, own, part)
    print(f"{own!s:26} utility simulated {simulated.utility}, replayed {replayed.utility}")

# %% [markdown]
# And tuned: here with two families, the fixed rules and rules that give up by tokens.

# %%
families = {
    "GiveUpAfter": giving_up.fixed_rules(None),
    "TokenBudget": [stopping.policies.TokenBudget(tokens) for tokens in range(400, 4000, 400)],
}
stopping.tune(giving_up, part, max_loss=0.08, families=families)

# %% [markdown]
# Two properties hold for every problem, and should be tested for yours: no rule beats hindsight in any world, and
# replaying drawn worlds equals simulating them, bit for bit.

# %%
from sims.engine import evaluate

worlds = sims.draw(jax.random.key(0), giving_up, 4096)
best = evaluate(giving_up, "hindsight", worlds).utility
assert np.all(simulated.values["utility"] <= best + 1e-6)
again = sims.replay_worlds(giving_up, own, jax.tree.map(lambda leaf: leaf[:, None], worlds))
assert np.array_equal(again.values["utility"], simulated.values["utility"]) and again.digest == simulated.digest
replayed.plot()
