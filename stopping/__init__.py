"""When an LLM should stop: derive a rule, simulate it, replay it on logs, and hand it to a server.

    import sims, stopping

    log = stopping.load_log("runs.parquet")
    fit_part, certify_part, test_part = stopping.split(log, (0.3, 0.5, 0.2), seed=0)
    fit = stopping.fit(stopping.models.LengthCorrectness(), fit_part)
    problem = stopping.Sampling(8, model=fit.model, price_per_token=1e-6)
    solution = stopping.solve(problem)
    replayed = sims.replay(problem, solution.policy, test_part)
    stopping.save_policy(solution.policy, "policy/", evidence=[replayed])

Nothing is imported before it is used: `stopping.policies`, `stopping.traces` and `stopping.artifacts` need no JAX.
"""

import importlib
import importlib.util
import os
from typing import Any

_PUBLIC = {
    "certify": "stopping.tuning",
    "compare": "sims.comparison",
    "check": "stopping.traces",
    "fit": "stopping.calibration",
    "from_columns": "stopping.traces",
    "load_log": "stopping.traces",
    "load_policy": "stopping.artifacts",
    "save_log": "stopping.traces",
    "save_policy": "stopping.artifacts",
    "Sampling": "stopping.problems",
    "solve": "stopping.solvers",
    "split": "stopping.traces",
    "Thinking": "stopping.problems",
    "tune": "stopping.tuning",
}
_STAGES = (
    "artifacts",
    "calibration",
    "makespan",
    "models",
    "plots",
    "policies",
    "problems",
    "reasoner",
    "report",
    "solvers",
    "traces",
    "tuning",
)
TUNE_LIBRARIES = {"equinox", "jax", "jaxlib", "jaxtyping", "matplotlib", "optax", "scipy"}

__all__ = [*_PUBLIC, *_STAGES]  # noqa: PLE0604
__version__ = "0.1.0"


def _check_sims() -> None:
    """Raise ImportError if `import sims` finds something other than the package installed beside this one."""
    spec = importlib.util.find_spec("sims")
    if spec is None:
        return
    found = os.path.dirname(spec.origin) if spec.origin else next(iter(spec.submodule_search_locations or ()), "")
    expected = os.path.join(os.path.dirname(os.path.dirname(__file__)), "sims")
    if os.path.realpath(found) != os.path.realpath(expected):
        raise ImportError(
            f"stopping needs its own package sims, but `import sims` finds {spec.origin or found}; rename that, or run from "
            "another folder"
        )


_check_sims()


def __getattr__(name: str) -> Any:
    try:
        if name in _STAGES:
            return importlib.import_module(f"stopping.{name}")
        if name in _PUBLIC:
            module, _, attribute = _PUBLIC[name].partition(":")
            return getattr(importlib.import_module(module), attribute or name)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in TUNE_LIBRARIES:
            message = f"stopping.{name} needs {error.name}; install it with: pip install 'stopping[tune]'"
            raise ModuleNotFoundError(message, name=error.name) from error
        raise
    raise AttributeError(f"module 'stopping' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
