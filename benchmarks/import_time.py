"""How long importing takes, each in a fresh interpreter."""

import subprocess
import sys

from benchmarks.harness import Report, Row, time_together

STATEMENTS = {
    "python alone": "pass",
    "import stopping": "import stopping",
    "import numpy": "import numpy",
    "import stopping.policies": "import stopping.policies",
    "import stopping.artifacts": "import stopping.artifacts",
    "import stopping.traces": "import stopping.traces",
    "import jax": "import jax",
    "import sims": "import sims",
    "stopping.fit (all that a fit needs)": "import stopping; stopping.fit",
}
HEAVY = ("jax", "numpy", "scipy", "pyarrow", "pydantic", "torch")


def run() -> Report:
    """Time each statement as a whole process; what python alone takes is in the first row."""
    timings = time_together({name: lambda code=code: _python(code) for name, code in STATEMENTS.items()}, repeats=7)
    alone = timings["python alone"]
    rows = [
        Row(name, (t.minimum - alone.minimum) * 1e3, (t.median - alone.median) * 1e3, first_seconds=t.first)
        for name, t in timings.items()
        if name != "python alone"
    ]
    pulled = _python(f"import sys, stopping; print(*[name for name in {HEAVY} if name in sys.modules])").split()
    server = _python("import sys, stopping.policies, stopping.artifacts, stopping.traces; print('jax' in sys.modules)")
    no_jax = server.strip() == "False"
    return Report(
        title="Importing",
        goal="recorded; `import stopping` pulls nothing heavy, what a server runs pulls no JAX",
        unit="milliseconds beyond python alone",
        rows=rows,
        reached=[
            ("`import stopping` pulls none of " + ", ".join(HEAVY), " ".join(pulled) or "none", not pulled),
            ("policies, artifacts and traces pull no JAX", "none" if no_jax else "JAX", no_jax),
        ],
        checks={"python alone, milliseconds": alone.minimum * 1e3},
        notes=["Whole processes, files in the system's cache; the first call was whatever the disk gave."],
    )


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
