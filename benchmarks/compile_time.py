"""What compiling costs, solver by solver: each in turn, the compiled programs let go in between."""

from collections.abc import Callable
from typing import Any

from benchmarks.harness import Report, Row

import jax  # isort: skip
import numpy as np

import sims
import stopping
from benchmarks.stepwise import CHAIN, MARGIN, SAMPLING, THINKING, TRACES
from sims.progress import Stopwatch
from stopping.makespan import first_finish_curve
from stopping.solvers import FamilySearch, posterior_vote, solve
from stopping.solvers.chain_induction import induced_point

GOAL_SECONDS = 1.1
REPEATS = 3


def run() -> Report:
    """Time what JAX says it took to trace, lower and compile."""
    log = SAMPLING.log(sims.draw(jax.random.key(1), SAMPLING, 200))
    worlds = sims.draw(jax.random.key(2), THINKING, 500)
    orders = jax.tree.map(lambda leaf: leaf[:, None], worlds)
    programs: dict[str, Callable[[], Any]] = {
        "first finish, quadrature": lambda: first_finish_curve(TRACES, (4, 16)),
        "backward induction on a chain": lambda: induced_point(stopping.Thinking(model=CHAIN, price_per_token=1e-5)),
        "PosteriorVote, its tables": lambda: posterior_vote(TRACES, SAMPLING, 0.9),
        "drawing and playing, sampling": lambda: sims.simulate(jax.random.key(0), SAMPLING, MARGIN, num_replicas=10),
        "drawing and playing, thinking": lambda: sims.replay_worlds(
            THINKING, stopping.policies.TokenBudget(64), orders
        ),
        "fit of a log": lambda: stopping.fit(stopping.models.LengthCorrectness(), log),
        "solve, all families of sampling": lambda: solve(SAMPLING, FamilySearch(1024)),
    }
    rows, seconds = [], {}
    for name, program in programs.items():
        times = []
        for _ in range(REPEATS):
            jax.clear_caches()
            with Stopwatch() as watch:
                program()
            times.append(watch.compile_seconds)
        seconds[name] = min(times)
        rows.append(Row(name, min(times), float(np.median(times))))
    return Report(
        title="Compiling",
        goal=f"at most {GOAL_SECONDS} seconds a solver",
        unit="seconds to trace, lower and compile",
        rows=rows,
        reached=[(f"{name}: {GOAL_SECONDS} s", f"{took:.2f}", took <= GOAL_SECONDS) for name, took in seconds.items()],
        checks={},
        notes=[
            "As JAX reports it; caches are cleared before each. `solve` compiles a program for each class of rules it tries, a "
            "fit its statistics and a search for each part of the model. JAX keeps compiled programs on disk where "
            "`JAX_COMPILATION_CACHE_DIR` says, and the second process then starts at once."
        ],
    )
