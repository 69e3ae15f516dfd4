"""The page about a tuning: what it says, that it is sound HTML by itself, and that nothing from a log gets out of its text."""

import dataclasses
import html
import json
import re
import shlex
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import jax
import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

import sims
from stopping.calibration.forced_answers import by_confidence, by_position, overconfidence
from stopping.cli import app
from stopping.models import AnswerChain
from stopping.policies import ConfidenceExit, FixedSamples, TokenBudget
from stopping.problems import Thinking
from stopping.report import page
from stopping.tuning import Grade, tune
from tests.stopping.cli.drawn import drawn_log

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = '<script>alert("1")</script>&amp;\'`$title`${advice}'
COMMAND = f"stopping report {shlex.quote(HOSTILE)} --out page.html"
VOID = {"meta", "br", "hr", "img", "link", "input"}
TELLING = AnswerChain(
    0.2, 0.35, 0.01, 0.05, right_log_prob=-0.2, wrong_log_prob=-1.2, log_prob_scale=0.3, num_points=12
)
FAMILIES = {"TokenBudget": [TokenBudget(32 * k) for k in (6, 10)], "ConfidenceExit": [ConfidenceExit(-0.7, 1)]}


class Reader(HTMLParser):
    """Elements in order, each with its attributes, text and parent; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute twice"
        element = {"tag": tag, "text": "", "within": [one["tag"] for one in self.open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag, tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    def one(self, tag):
        (element,) = self.all(tag)
        return element


@pytest.fixture(scope="module")
def log():
    problem = Thinking(model=TELLING)
    drawn = problem.log(sims.draw(jax.random.key(0), problem, 600))
    probes = dataclasses.replace(drawn.checkpoints, protocol=HOSTILE)
    return dataclasses.replace(drawn, checkpoints=probes, set_aside={HOSTILE: 3})


@pytest.fixture(scope="module")
def found(log):
    return tune(Thinking(), log, max_loss=0.05, families=FAMILIES)


@pytest.fixture(scope="module")
def text(found, log):
    return page(found, log, name=HOSTILE, command=COMMAND)


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def test_the_page_says_what_was_found(found, read):
    assert found.chosen is not None and found.chosen.certificate.grade is Grade.DATA
    said = " ".join(read.one("body")["text"].split())
    certificate = found.chosen.certificate
    for sentence in (found.advice, certificate.statement, *certificate.assumptions, COMMAND):
        assert sentence in said
    for policy in (found.reference, *(rule.policy for rule in found.tested)):
        assert str(policy) in read.one("tbody")["text"]
    assert (
        "180 problems; 3 rules were tried" in said
        and "300 problems" in said
        and "120 problems, used for nothing else" in said
    )


def test_it_is_sound_html_by_itself(text, read):
    assert text.startswith("<!DOCTYPE html>") and read.one("html")["lang"] == "en" and read.one("title")["text"]
    assert not read.all("script", "link", "img", "iframe", "object") and not re.search(r"https?:|//[a-z]", text)
    assert "url(" not in re.sub(r"url\(#", "", text) and "@import" not in text
    ids = [element["id"] for element in read.elements if "id" in element]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', text)
    labelled = [element["aria-labelledby"] for element in read.elements if "aria-labelledby" in element]
    assert targets and labelled and {*targets, *labelled} == set(ids)  # nothing dangles, and no id is idle


def test_a_screen_reader_finds_its_way(read):
    assert all(len(read.all(landmark)) == 1 for landmark in ("header", "main", "footer", "h1"))
    levels = [int(element["tag"][1]) for element in read.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    pictures = read.all("svg")
    assert len(pictures) == len(read.all("figure")) == len(read.all("figcaption")) == 4
    for picture in pictures:
        assert picture["role"] == "img" and len(picture["aria-label"]) > 40 and "figure" in picture["within"]
    assert all(caption["text"].strip() for caption in read.all("figcaption"))
    for region in (element for element in read.elements if element.get("class") == "scroll"):
        assert region["tabindex"] == "0" and region["role"] == "region" and region["aria-label"]


def test_the_table_of_rules(found, read):
    assert read.one("caption")["text"].startswith("Rules in the order of testing")
    columns = [cell for cell in read.all("th") if "thead" in cell["within"]]
    rules = [cell for cell in read.all("th") if "tbody" in cell["within"]]
    assert all(cell["scope"] == "col" for cell in columns) and all(cell["scope"] == "row" for cell in rules)
    assert len(rules) == len(found.tested) + 1 and len(read.all("td")) == len(rules) * (len(columns) - 1)
    (chosen,) = [cell["text"] for cell in rules if "chosen" in cell["text"]]  # by a word, not by colour
    assert chosen.startswith(str(found.chosen.policy))
    assert rules[0]["text"] == f"{found.reference} (in use now)"


def test_hostile_names_stay_text(text, read, found, log):
    assert text.count(html.escape(HOSTILE)) >= 5  # title, heading, name, protocol, reason
    assert HOSTILE in read.one("title")["text"] and HOSTILE in read.one("h1")["text"]
    assert len(read.elements) == len(Reader(page(found, log, name="plain", command="plain")).elements)
    assert page(found, log, name=HOSTILE, command=COMMAND) == text  # the same to the last byte


def test_advice_not_to_bother_has_its_page(found, log):
    none = dataclasses.replace(found, chosen=None, best_fixed=None, advice="Do not bother.")
    read = Reader(page(none, log, name="log", command="command"))
    said = " ".join(read.one("main")["text"].split())
    assert "Do not bother." in read.one("header")["text"] and "Keep the rule in use now, TokenBudget" in said
    assert "(chosen)" not in said


def test_forced_answers_are_grouped_as_by_hand(log):
    probes = log.checkpoints
    groups = by_position(log)
    assert sum(group.share for group in groups) == pytest.approx(1)
    for group in groups:
        here = probes.position_tokens == group.centre  # one sample a problem: shares are plain means
        assert group.right.mean == pytest.approx(probes.correct[here].mean())
        assert group.final.mean == pytest.approx(log.correct[probes.problem_index[here], 0].mean())
        assert group.right.num_independent == here.sum()
    said = np.exp(np.minimum(probes.signals["answer_mean_log_prob"], 0))
    for group in by_confidence(log):
        here = np.floor(np.minimum(said * 10, 9.5)) == np.floor(min(group.centre * 10, 9.5))
        assert group.right.mean == pytest.approx(probes.correct[here].mean())
        assert (group.centre, group.share) == pytest.approx((said[here].mean(), here.mean()))
    by_problem = np.bincount(probes.problem_index), np.bincount(probes.problem_index, said - probes.correct)
    gap = overconfidence(log)
    assert gap.mean == pytest.approx((said - probes.correct).mean())
    residuals = by_problem[1] - gap.mean * by_problem[0]
    expected = residuals.std(ddof=1) / by_problem[0].mean() / np.sqrt(len(residuals))
    assert gap.standard_error == pytest.approx(expected)


def test_a_log_without_probes_or_confidence_has_no_groups(log):
    assert by_position(dataclasses.replace(log, checkpoints=None)) == ()
    assert by_confidence(dataclasses.replace(log, checkpoints=None)) == ()
    silent = dataclasses.replace(log, checkpoints=dataclasses.replace(log.checkpoints, signals={}))
    assert by_confidence(silent) == () and np.isnan(overconfidence(silent).mean) and by_position(silent)


def test_the_command(tmp_path, monkeypatch):
    """On a log of votes, with no forced answers to show; the command that is named is the one that was given."""
    few = {"FixedSamples": [FixedSamples(2), FixedSamples(3)]}
    monkeypatch.setattr("stopping.tuning.tuning.families_of", lambda problem, worlds: few)
    log = drawn_log(tmp_path / "a <b> & c.parquet")
    out, record = tmp_path / "page.html", tmp_path / "out.json"
    words = [
        "report", log, "--out", out, "--max-accuracy-drop", 0.1, "--rule", "Margin(2)", "--rule", "Margin(3)", "--json",
        record,
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    read = Reader(out.read_text(encoding="utf-8"))
    assert len(read.all("svg")) == 2 and log.name in read.one("h1")["text"]
    command = shlex.split(read.one("pre")["text"])
    assert command[0] == "stopping" and sorted(command[1:]) == sorted(map(str, words))
    content = json.loads(record.read_text())
    jsonschema.validate(content, json.loads(CliRunner().invoke(app, ["report", "--json-schema"]).stdout))
    assert content["page"] == str(out) and content["tuned"]["advice"] in read.one("header")["text"]


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
    log = drawn_log(tmp_path / "log.parquet", 20)
    for out, message in (
        (tmp_path / "page.pdf", "ending in .html"),
        (tmp_path / "no" / "page.html", "no such directory"),
    ):
        result = CliRunner().invoke(app, ["report", str(log), "--out", str(out)])
        assert result.exit_code == 2 and message in result.stderr


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")
def test_a_browser_fits_it_into_a_narrow_window(text, tmp_path):
    """Nothing but the regions that scroll is wider than 320 pixels."""
    measured = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'").replace(
        "</body>", "<script>document.title = document.documentElement.scrollWidth</script></body>"
    )
    frame = f'<iframe style="width: 320px; border: 0" srcdoc="{html.escape(measured)}"></iframe>'
    (tmp_path / "frame.html").write_text(
        f"<!DOCTYPE html>{frame}<script>onload = () => {{ document.title = frames[0].document.title }}</script>"
    )
    command = (
        f"{CHROMIUM} --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --hide-scrollbars --user-data-dir={tmp_path / 'profile'} --dump-dom "
        f"{(tmp_path / 'frame.html').as_uri()}"
    )
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=300)
    assert re.search(r"<title>(\d+)</title>", done.stdout)[1] == "320"
