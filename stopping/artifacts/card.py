"""The card of an artifact, in Markdown."""

import inspect
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from stopping.artifacts.schema import Document, InlineArray, Quantity, TensorReference

_LIMITS = """\
The policy is checked on every line of `golden.jsonl` when it is loaded. It assumes that {lag_tokens} tokens are
generated between a decision and its effect, and says nothing about models, tasks, prices and caps other than those it
was calibrated on."""
_PROMISES = {
    "proof": "Proven: holds without data.",
    "data": "From data: holds in finite samples at the stated confidence.",
    "none": "None: the data do not suffice for a guarantee.",
}


def card(document: Document, policy: Any) -> str:
    """Return `README.md`: what the policy does, what it was calibrated on, what it promises, how to load it."""
    parts = [
        f"# {document.kind}",
        inspect.cleandoc(policy.__doc__ or "").split("\n\n")[0],
        "## Parameters",
        _table(("parameter", "value"), [(name, _shown(value)) for name, value in document.parameters.items()]),
        "## Where it is asked",
        _when(document),
        "## Calibrated on",
        _calibrated(document),
        *(["## Traffic", _traffic(document.traffic)] if document.traffic else []),
        "## Promised",
        _quantities(document.promised) or "Nothing is promised.",
        "## Certificate",
        _certificate(document),
    ]
    for evidence in document.evidence:
        parts += [f"## Evidence: {evidence.title}", _quantities(evidence.figures) or "No figures."]
    parts += [
        "## Limits",
        _LIMITS.format(lag_tokens=document.lag_tokens),
        "## Load",
        _load(document),
    ]
    if document.license:
        parts += ["## License", document.license]
    return "\n\n".join(parts) + "\n"


def _when(document: Document) -> str:
    when = f"On `{document.decision_points.on}`"
    if document.decision_points.interval_tokens:
        when += f", and every {document.decision_points.interval_tokens:,} tokens"
    signals = ", ".join(f"`{signal}`" for signal in document.signals) or "nothing"
    actions = ", ".join(document.actions)
    read = f"It reads {signals} of `{document.observation}`; if one is missing: {document.fallback.on_missing_signal}."
    return f"{when}. {read} It may ask for {actions}."


def _calibrated(document: Document) -> str:
    known = document.calibrated_on.model_dump(exclude_none=True) if document.calibrated_on else {}
    rows = [(name, str(value)) for name, value in known.items()]
    if document.reference_rule:
        rows.append(("reference rule", document.reference_rule))
    return _table(("", ""), rows) if rows else "Not stated."


def _traffic(samples: dict[str, InlineArray]) -> str:
    rows = []
    for name, sample in samples.items():
        values = sample.array().astype(float)
        quantiles = (f"{value:.4g}" for value in np.quantile(values, (0.1, 0.5, 0.9)))
        rows.append((name, f"{values.size:,}", f"{values.mean():.4g}", *quantiles))
    about = "A sample of requests, one value per problem. A server compares its requests with these."
    return "\n\n".join([about, _table(("quantity", "values", "mean", "10 %", "median", "90 %"), rows)])


def _certificate(document: Document) -> str:
    certificate = document.certificate
    if certificate is None:
        return "None was asked for."
    known = certificate.model_dump(exclude_none=True, exclude={"grade"})
    rows = [(name, str(value)) for name, value in known.items()]
    return "\n\n".join([_PROMISES[certificate.grade], *([_table(("", ""), rows)] if rows else [])])


def _load(document: Document) -> str:
    own = document.module.startswith("stopping.")
    lines = [] if own else [f"import {document.module}  # defines {document.kind}", ""]
    lines += ["from stopping import artifacts", "", 'policy = artifacts.load_policy("path/to/this/directory").policy']
    return "\n".join(["```python", *lines, "```"])


def _quantities(quantities: dict[str, Quantity]) -> str:
    rows = []
    for name, quantity in quantities.items():
        error = "" if quantity.standard_error is None else f"{quantity.standard_error:.3g}"
        interval = "" if quantity.interval is None else "[{:.6g}, {:.6g}]".format(*quantity.interval)
        num = "" if quantity.num_independent is None else f"{quantity.num_independent:,}"
        rows.append((name, f"{quantity.mean:.6g}", error, interval, num))
    return _table(("figure", "mean", "standard error", "interval", "independent units"), rows) if rows else ""


def _shown(value: Any) -> str:
    if isinstance(value, InlineArray):
        values = json.dumps(value.values[:32])
        return f"{value.dtype} {value.shape}: {values}" + ("" if len(value.values) <= 32 else " and more")
    if isinstance(value, TensorReference):
        return f"{value.dtype} {value.shape}, in `weights.safetensors`"
    return repr(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])
