"""Reading a log of a million completions, beside pandas reading the same columns and checking nothing."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from benchmarks.harness import Report, Row, time_together

NUM_PROBLEMS, NUM_SAMPLES = 62_500, 16
NUM_ROWS = NUM_PROBLEMS * NUM_SAMPLES
MOST_SECONDS, MOST_GIB = 10, 2  # "seconds, in bounded memory"
OURS = "import stopping; log = stopping.load_log({path!r}); assert log.num_traces == {rows}"
PEERS = {
    ".parquet": "import pandas; frame = pandas.read_parquet({path!r}); assert len(frame) == {rows}",
    ".csv": "import pandas; frame = pandas.read_csv({path!r}); assert len(frame) == {rows}",
    ".jsonl": "import pandas; frame = pandas.read_json({path!r}, lines=True); assert len(frame) == {rows}",
}
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def run() -> Report:
    """Time whole processes, so that memory is counted too; what python and its imports take is in them."""
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder))
        peaks: dict[str, int] = {}

        def reader(name: str, code: str) -> None:
            done = subprocess.run([sys.executable, "-c", f"{code}\n{PEAK}"], check=True, capture_output=True, text=True)
            peaks[name] = max(peaks.get(name, 0), int(done.stdout))

        contenders = {}
        for ending, path in files.items():
            for who, code in (("stopping", OURS), ("pandas", PEERS[ending])):
                text = code.format(path=str(path), rows=NUM_ROWS)
                contenders[f"{who}, {ending}"] = lambda name=f"{who}, {ending}", text=text: reader(name, text)
        timings = time_together(contenders, repeats=3)
    rows = [Row(name, timing.minimum, timing.median) for name, timing in timings.items()]
    slowest = max(timing.minimum for name, timing in timings.items() if name.startswith("stopping"))
    largest = max(peak for name, peak in peaks.items() if name.startswith("stopping")) / 2**20
    return Report(
        title=f"Loading {NUM_ROWS:,} completions",
        goal=f"seconds (at most {MOST_SECONDS}), in bounded memory (at most {MOST_GIB} GiB)",
        unit="seconds, the whole process",
        rows=rows,
        reached=[
            (f"at most {MOST_SECONDS} s", f"{slowest:.1f} s, the slowest format", slowest <= MOST_SECONDS),
            (f"at most {MOST_GIB} GiB", f"{largest:.2f} GiB, the largest peak", largest <= MOST_GIB),
        ],
        checks={f"peak memory, MiB: {name}": peak / 1024 for name, peak in peaks.items()},
        notes=["pandas reads the columns; stopping also checks each cell and pads to problems x samples."],
    )


def _write(folder: Path) -> dict[str, Path]:
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "problem": np.repeat(np.arange(NUM_PROBLEMS), NUM_SAMPLES).astype(str),
            "sample": np.tile(np.arange(NUM_SAMPLES), NUM_PROBLEMS),
            "length_tokens": np.exp(random.normal(8, 0.6, NUM_ROWS)).astype(int) + 1,
            "correct": random.random(NUM_ROWS) < 0.6,
            "answer": random.integers(0, 50, NUM_ROWS).astype(str),
        }
    )
    files = {ending: folder / f"log{ending}" for ending in PEERS}
    pa.parquet.write_table(table, files[".parquet"])
    pa.csv.write_csv(table, files[".csv"])
    table.to_pandas().to_json(files[".jsonl"], orient="records", lines=True)
    return files
