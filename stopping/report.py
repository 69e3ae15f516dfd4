"""The results of tuning as one HTML page: no scripts, nothing fetched, every text from a log or a policy escaped."""

import platform
import re
from collections.abc import Iterable
from html import escape
from importlib.metadata import version
from io import BytesIO
from string import Template
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sims import Estimate
from sims.estimates import FEW
from sims.rounding import in_points, plus_minus
from stopping import __version__, plots
from stopping.calibration.forced_answers import Group, by_confidence, by_position, overconfidence
from stopping.policies import parameters
from stopping.traces import TraceLog
from stopping.tuning import Grade, Measured, Tested, Tuning
from stopping.tuning.tuning import REACHABLE, WHAT_CAN_BE

UNITS = {  # of a parameter, by how its name ends
    "price_per_token": "of a right answer",
    "tokens": "tokens",
    "seconds": "seconds",
    "gain": "nats",
    "patience": "probes",
    "votes": "votes",
    "runner_up": "votes, by those of the runner-up",
    "num_answers": "answers",
    "num_agreeing": "answers",
    "window_size": "answers",
    "num_samples": "traces",
    "num_candidates": "results",
}
GRADES = {Grade.PROOF: "proof", Grade.DATA: "data", Grade.NONE: "none"}
LIBRARIES = ("jax", "numpy", "matplotlib")

PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: #000; background: #fff;
       font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.25rem; } h3 { font-size: 1rem; }
p, li, dd, figcaption, caption { max-width: 44rem; }
code { font-size: .92em; overflow-wrap: anywhere; unicode-bidi: isolate; }
pre { margin: 0; padding: .5rem; border: 1px solid #767676; } pre code { white-space: pre-wrap; }
.advice { font-size: 1.2rem; border-left: .3rem solid; padding-left: .8rem; }
.scroll { overflow-x: auto; } .scroll:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { font-weight: bold; text-align: left; padding-bottom: .5rem; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #bbb; text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; border-bottom: 2px solid; white-space: normal; }
th:first-child { text-align: left; } tbody th { font-weight: inherit; white-space: normal; }
tbody code { overflow-wrap: normal; }
tr.chosen > * { font-weight: bold; border-block: 2px solid; }
figure { margin: 1.5rem 0; } figcaption { margin-top: .5rem; }
figure svg { display: block; width: 100%; height: auto; min-width: 22rem; }
.wide svg { min-width: 34rem; max-width: 48rem; }
.pictures { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
dt { font-weight: bold; margin-top: .4rem; } dd { margin-left: 1.5rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8.5pt; }
  .scroll { overflow: visible; } figure svg, .wide svg { min-width: 0; } th, td { padding: .1rem .35rem; }
  figure, tr, pre, dl, .advice { break-inside: avoid; } h2, h3, caption { break-after: avoid; }
  .pictures { grid-template-columns: 1fr 1fr; }
}
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="advice">$advice</p>
</header>
<main>
$sections
</main>
<footer>
$footer
</footer>
</body>
</html>
""")


def page(found: Tuning, log: TraceLog, *, name: str, command: str) -> str:
    """Return the page about a tuning, the same for the same arguments and versions.

    Args:
        found: by `tune`.
        log: that was tuned on.
        name: of the log.
        command: that makes the page again.
    """
    sections = {
        "The rule": _rule(found),
        "The certificate": _certificate(found),
        "The rules tested": _rules(found),
        "The log": _log(found, log, name),
    }
    return PAGE.substitute(
        title=f"When to stop: what tuning found on {_text(name)}",
        advice=_text(found.advice),
        sections="\n".join(_section(heading, content) for heading, content in sections.items()),
        footer=_section("This page", _origin(command)),
    )


def _rule(found: Tuning) -> str:
    """Return which rule to run, in words."""
    policy = found.reference if found.chosen is None else found.chosen.policy
    doing = "Keep the rule in use now," if found.chosen is None else "Use"
    about = re.split(r"(?<=\.)\s", " ".join((type(policy).__doc__ or "").split()), maxsplit=1)[0]
    terms = "".join(
        f"<dt><code>{_text(key)}</code></dt><dd>{_value(key, value)}</dd>" for key, value in parameters(policy).items()
    )
    return f"<p>{doing} <code>{_text(str(policy))}</code>. {_prose(about)}</p>\n<dl>{terms}</dl>"


def _value(name: str, value: Any) -> str:
    """Return a parameter with its unit, and a log-probability as a probability too."""
    numbers = np.ravel(value).tolist()
    shown = ", ".join(f"{number:,.6g}" if isinstance(number, (int, float)) else str(number) for number in numbers)
    unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
    if name.endswith("log_prob"):
        unit = f"(natural logarithm of a probability of {np.exp(float(value)):.3g})"
    return f"{_text(shown)} {unit}".strip()


def _certificate(found: Tuning) -> str:
    """Return the certificate of the rule chosen, or of the first that was tested if there is none."""
    one = (found.chosen or found.tested[0]).certificate
    sentence = (
        f"<code>{_text(str(one.policy))}</code>{'' if one.grade is not Grade.NONE else ' is'} {_text(one.statement)}."
    )
    kind = f"<p>Its grade: {_text(one.grade.value)}.</p>"
    assumed = "".join(f"<li>{_text(assumption)}</li>" for assumption in one.assumptions)
    return f"<p>{sentence}</p>\n{kind}\n<p>It assumes:</p>\n<ul>{assumed}</ul>"


def _rules(found: Tuning) -> str:
    """Return the table of rules, and the picture of their savings and losses."""
    fit_part, certify_part, test_part = found.num_problems
    reachable = any(rule.measured.reachable_share is not None for rule in found.tested)
    bounds = (*(("of reachable, %",) if reachable else ()), "of what can be, %")
    head = (
        "rule", "accuracy, %", "tokens", "change, points", "tokens saved, %", "latency, 50 / 95 %", *bounds, "certified by",
    )  # fmt: skip
    cells = "".join(f'<th scope="col">{column}</th>' for column in head)
    rows = [
        _row(str(found.reference), "in use now", found.reference_measured, ("reference", "", [""] * len(bounds), ""))
    ]
    rows += [_tested_row(found, rule) for rule in found.tested]
    few = f" With fewer than {FEW} problems, errors are by bootstrap." if test_part < FEW else ""
    reference = f"<code>{_text(str(found.reference))}</code>"
    orders = f" and averaged over {found.num_orders} orders of its samples" if found.num_orders > 1 else ""
    about = (
        f"Changes and savings are against {reference}, paired by problem{orders}; ± is one standard error, in brackets are 95 % "
        "intervals. Latency is in tokens, for 50 and 95 % of the runs. Tokens count probes and all that is cancelled. "
        f"{WHAT_CAN_BE}{f' {REACHABLE}' if reachable else ''}{few}"
    )
    table = (
        f"<table>\n<caption>Rules in the order of testing, on the test part</caption>\n<thead><tr>{cells}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody>\n</table>"
    )
    parts = (
        ("to choose on", f"{fit_part:,} problems; {found.num_tried:,} rules were tried"),
        ("to certify on", f"{certify_part:,} problems; the {len(found.tested):,} best rules, in an order fixed before"),
        ("to measure on", f"{test_part:,} problems, used for nothing else"),
    )
    sizes = "".join(f"<dt>{what}</dt><dd>{how}</dd>" for what, how in parts)
    best = found.chosen or found.best_fixed
    label = f"Tokens saved against change of accuracy, of {len(found.tested)} rules; all figures are in the table."
    if best is not None:
        label += (
            f" {best.policy} saves {plus_minus(best.measured.saving_share, 0.01)} % and changes accuracy by "
            f"{in_points(best.measured.accuracy_change.mean, best.measured.accuracy_interval)} points."
        )
    caption = (
        "What the rules save and cost on the test part, against the rule in use now, which is at 0. Filled: certified; hollow: "
        f"not. Dashed: the limit, a loss of {100 * found.tested[0].certificate.max_loss:g} points. The grey line joins the rules "
        "that are Pareto-optimal."
    )
    return (
        f"<p>The log was split by problem:</p>\n<dl>{sizes}</dl>\n<p>{about}</p>\n{_scrolled('Rules tested, a table', table)}\n"
        f"{_figure('Savings and costs', plots.tuning(found), label, caption, wide=True)}"
    )


def _tested_row(found: Tuning, rule: Tested) -> str:
    marks = [name for name, one in (("chosen", found.chosen), ("best fixed", found.best_fixed)) if rule is one]
    one = rule.measured
    against = (
        "0" if rule.certificate.grade is Grade.PROOF else in_points(one.accuracy_change.mean, one.accuracy_interval),
        plus_minus(one.saving_share, 0.01, signed=True),
        [f"{100 * share:.0f}" for share in (one.reachable_share, one.clairvoyant_share) if share is not None],
        GRADES[rule.certificate.grade],
    )
    return _row(str(rule.policy), ", ".join(marks), one, against)


def _row(name: str, mark: str, one: Measured, against: tuple[str, str, list[str], str]) -> str:
    change, saved, shares, grade = against
    latency = f"{one.latency_median_tokens:,.0f} / {one.latency_95th_tokens:,.0f}"
    cells = (plus_minus(one.accuracy, 0.01), plus_minus(one.total_tokens), change, saved, latency, *shares, grade)
    chosen = ' class="chosen"' if mark.startswith("chosen") else ""
    head = f'<th scope="row"><code>{_text(name)}</code>{f" ({mark})" if mark else ""}</th>'
    return f"<tr{chosen}>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _log(found: Tuning, log: TraceLog, name: str) -> str:
    """Describe the log: lengths by class and, for a log with checkpoints, the answers forced on the way."""
    judged = log.present & log.correct_known
    right, wrong = (
        Estimate.ratio(np.sum(log.length_tokens, axis=1, where=chosen), chosen.sum(axis=1))
        for chosen in (judged & log.correct, judged & ~log.correct)
    )
    aside = "".join(f" {count:,} rows were set aside: {_text(reason)}." for reason, count in log.set_aside.items())
    told = f"<p><code>{_text(name)}</code>: {log.num_problems:,} problems, {log.num_traces:,} traces.{aside}</p>"
    means = f"Right traces have {_mean(right)} tokens on average, wrong ones {_mean(wrong)}."
    pictures = [_figure("Lengths", plots.lengths(log), f"Lengths of right and wrong traces. {means}", means)]
    probes = log.checkpoints
    if probes is not None and found.problem.interval_tokens(log) is not None:
        if groups := by_position(log):
            caption = (
                "Answers forced on the way, and what the same traces answer if they are left alone; errors are by problem. "
                f"How they were forced: {_text(probes.protocol)}."
            )
            pictures.append(_figure("Forced answers", plots.forced_answers(groups), _along(groups), caption))
        if groups := by_confidence(log):
            gap = overconfidence(log)
            verdict = f"On average the probability is {plus_minus(gap, 0.01, signed=True)} points above the share that is right."
            caption = (
                f"Can the confidence in a forced answer be believed? {verdict} The probability is the geometric mean over the "
                "answer's tokens; grey bars: how many of the answers have it."
            )
            pictures.append(_figure("Confidence", plots.confidence(groups), _reliability(groups, verdict), caption))
    return f'{told}\n<div class="pictures">\n{"".join(pictures)}</div>'


def _mean(estimate: Estimate) -> str:
    return plus_minus(estimate) if estimate.num_independent else "no"


def _along(groups: tuple[Group, ...]) -> str:
    points = [
        f"at {group.centre:,.0f} tokens {100 * group.right.mean:.0f} % ({100 * group.final.mean:.0f} %)"
        for group in groups
    ]
    return f"Forced answers that are right and, in brackets, the same traces left alone: {', '.join(points)}."


def _reliability(groups: tuple[Group, ...], verdict: str) -> str:
    points = [
        f"of those at {100 * group.centre:.0f} % ({100 * group.share:.0f} % of all) {100 * group.right.mean:.0f} %"
        for group in groups
    ]
    return f"Forced answers that are right, by their probability: {', '.join(points)}. {verdict}"


def _origin(command: str) -> str:
    versions = ", ".join([f"stopping {__version__}", *(f"{library} {version(library)}" for library in LIBRARIES)])
    return (
        f"<p>Made again by:</p>\n<pre><code>{_text(command)}</code></pre>\n"
        f"<p>With {_text(versions)}, Python {platform.python_version()}.</p>"
    )


def _section(heading: str, content: str) -> str:
    identity = heading.lower().replace(" ", "-")
    return f'<section aria-labelledby="{identity}">\n<h2 id="{identity}">{heading}</h2>\n{content}\n</section>'


def _scrolled(label: str, content: str) -> str:
    """Wrap what may be wider than the screen, so that it can be scrolled, by keyboard too."""
    return f'<div class="scroll" role="region" aria-label="{_text(label)}" tabindex="0">\n{content}\n</div>'


def _figure(title: str, figure: Figure, label: str, caption: str, *, wide: bool = False) -> str:
    picture = _scrolled(f"{title}, a picture", _svg(figure, title.lower().replace(" ", "-"), label))
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>\n{picture}\n<figcaption>{caption}</figcaption>\n</figure>\n"


def _svg(figure: Figure, prefix: str, label: str) -> str:
    """Return a figure as inline SVG: without a size, namespaces, metadata or style rules, its ids begin with `prefix`."""
    file = BytesIO()
    with rc_context({"svg.hashsalt": prefix, "svg.fonttype": "path"}):
        figure.savefig(file, format="svg")
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    used = {value.strip("#)").removeprefix("url(#") for element in root.iter() for value in _references(element)}
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            plain = name.rpartition("}")[2]
            if plain == "id" and value in used:
                element.set("id", f"{prefix}-{value}")
            elif plain == "href":
                element.set("href", f"#{prefix}-{value.removeprefix('#')}")
            elif plain != "id":
                element.set(plain, value.replace("url(#", f"url(#{prefix}-"))
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {"role": "img", "aria-label": label, "viewBox": box, "style": "stroke-linejoin: round"}
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: ElementTree.Element) -> Iterable[str]:
    for name, value in element.attrib.items():
        if name.endswith("href"):
            yield value
        yield from re.findall(r"url\(#[^)]*\)", value)


def _prose(text: str) -> str:
    """Escape a text, and make what is in backticks code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    return escape(text)
