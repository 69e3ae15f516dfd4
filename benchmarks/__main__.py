"""Run the subjects, and write what they found."""

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import harness

SUBJECTS = (
    *("first_finish", "length_fit", "recalibration", "threshold_replay", "certification_speed"),
    *("samplers", "roofline", "stepwise", "compile_time", "policy_step", "log_loading", "import_time", "proxy"),
)
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Run the subjects named, all without a name, one after another on one core."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("subjects", nargs="*", metavar="subject", help=", ".join(SUBJECTS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.subjects if name not in SUBJECTS]:
        parser.error(f"subject: expected one of {', '.join(SUBJECTS)}, got {', '.join(unknown)}")
    description = harness.machine()
    path = options.results / f"{harness.file_stem(description)}.json"
    known = json.loads(path.read_text())["subjects"] if path.exists() else {}
    core = harness.use_one_core()
    for name in options.subjects or SUBJECTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        report = importlib.import_module(f"benchmarks.{name}").run()
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        known[name] = json.loads(json.dumps({**asdict(report), "when": when, "pinned": core is not None}))
        print(section(known[name]), flush=True)
    subjects = {name: known[name] for name in SUBJECTS if name in known}
    options.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": description, "subjects": subjects}, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(description, subjects))
    print(f"written: {path} and {path.with_suffix('.md').name}", file=sys.stderr)


def page(description: dict[str, Any], subjects: dict[str, Any]) -> str:
    """Write all subjects as one page."""
    libraries = ", ".join(f"{name} {version}" for name, version in description["libraries"].items() if version)
    head = (
        f"# {description['processor']}, {description['cores']} cores, one used\n\n"
        f"Family, model, stepping {', '.join(map(str, description['family_model_stepping']))}; "
        f"cache {description['cache']}; {', '.join(description['vectors']) or 'no wide vectors'}; "
        f"{description['system']}; "
        f"Python {description['python']}; {libraries}.\n\n"
        "Minima of interleaved repeats, medians beside them. How to read this: `benchmarks/README.md`.\n\n"
    )
    return head + "\n".join(section(report) for report in subjects.values())


def section(report: dict[str, Any]) -> str:
    """Write one subject."""
    lines = [f"## {report['title']}", "", f"Goal: {report['goal']}", ""]
    lines += [f"- {'met' if met else 'MISSED'}: {goal}: {measured}" for goal, measured, met in report["reached"]]
    lines += [
        "",
        f"| {report['unit']} | minimum | median | times the first | first call, seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        times = "" if row["times"] is None else f"{row['times']:.3g}"
        first = "" if row["first_seconds"] is None else f"{row['first_seconds']:.2f}"
        lines.append(f"| {row['name']} | {row['minimum']:.3g} | {row['median']:.3g} | {times} | {first} |")
    lines += ["", *(f"- Check: {what}: {value:.3g}" for what, value in report["checks"].items())]
    lines += [f"- {note}" for note in report["notes"]]
    return "\n".join([*lines, "", f"Run {report['when']}{'' if report['pinned'] else ', not pinned to a core'}.", ""])


if __name__ == "__main__":
    main()
