"""A saved policy where JAX cannot be imported, as on a server: `python -m stopping.cli.without_jax DIRECTORY`.

Loads the policy, steps it through one golden stream on plain Python or NumPy, and prints the decisions as JSON.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stopping import TUNE_LIBRARIES

MOST_STEPS = 10


class Blocked:
    """Finds no library of the [tune] extra, installed or not."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse a library that a server does not have."""
        if name.partition(".")[0] in TUNE_LIBRARIES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(directory: str) -> None:
    """Print the steps of one stream: what the policy saw, what it asked for, what it must ask for."""
    sys.meta_path.insert(0, Blocked())
    import numpy as np

    from stopping.artifacts import golden, load_policy
    from stopping.artifacts.files import GOLDEN, read, text
    from stopping.policies import Kind

    artifact = load_policy(directory)
    plain = artifact.document.plain_python
    line = max(golden.read(text(read(Path(directory)), GOLDEN)), key=_interest)
    bound = artifact.bind("python" if plain else "numpy")
    state: Any = bound.init(() if plain else (1,))
    steps: list[dict[str, Any]] = []
    for signals, (kind, amount) in zip(line.observations, line.decisions, strict=True):
        seen = {name: value if plain else np.array([value]) for name, value in signals.items()}
        state, action = bound.step(state, SimpleNamespace(**seen))
        asked = [int(np.ravel(part)[0]) for part in action]
        steps.append(
            {"saw": signals, "asked": Kind(asked[0]).name, "amount": asked[1], "agrees": asked == [kind, amount]}
        )
        if asked[0] == Kind.STOP or len(steps) == MOST_STEPS:
            break
    print(
        json.dumps(
            {"steps": steps, "loaded": sorted(TUNE_LIBRARIES & {name.partition(".")[0] for name in sys.modules})}
        )
    )


def _interest(line: Any) -> int:
    """Prefer the stream that stops late, but within `MOST_STEPS`."""
    stop = next((step for step, (kind, _) in enumerate(line.decisions, 1) if kind == 1), 0)
    return stop if stop <= MOST_STEPS else 0


if __name__ == "__main__":
    main(sys.argv[1])
