"""new and rank: the student's way, from a file that is written to a row beside all others."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sharpbench.cli import new as new_module
from sharpbench.metrics import metrics
from sharpbench.report.site import write_index
from sharpbench.results.store import ResultsStore
from sharpbench.suite import conformance, reference
from tests.cli.command import in_process
from tests.waiting import PATIENCE

POPULATION = """
name = "population"
title = "A small population"
seeds = [0, 1, 2]

[[subjects]]
dataset = { name = "two_moons", n = 120 }
model = { name = "mlp", widths = [6] }
recipe = { name = "adam", epochs = [1, 3] }

[[problems]]
problem = { name = "least_squares" }

[[metrics]]
name = "hessian_trace"
samples = 64

[[metrics]]
name = "parameter_norm"

[[transformations]]
name = "neuron_permutation"

[cost]
repeats = 0
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What `new` writes of every kind."""
    folder = tmp_path_factory.mktemp("written")
    for kind in new_module._NEXT:
        new_module.new(kind, f"own_{kind}", folder=folder)
    return folder


@pytest.mark.slow
def test_what_is_written_works_as_it_is(written):
    tests = sorted(path.name for path in written.glob("test_*.py"))
    assert len(tests) == 5
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=written, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("metric", "own_metric", "own_metric.py is there already, and is not overwritten"),
        ("metrik", "x", "Did you mean 'metric'?"),
        ("metric", "Own", "can't be a name: small letters"),
        ("model", "class", "can't be a name"),
        ("metric", "hessian_trace", "there is a metric 'hessian_trace'"),
        ("suite", "quick", "the suite 'quick' comes with sharpbench"),
        ("dataset", "torch", "'torch' is a module that is installed"),
    ],
)
def test_nothing_is_overwritten_and_no_name_taken(written, capsys, monkeypatch, kind, name, told):
    monkeypatch.chdir(written)
    before = {path: path.read_bytes() for path in written.iterdir() if path.is_file()}
    done = in_process(capsys, monkeypatch, "new", kind, name)
    assert done.code == 2
    assert told in done.err
    assert {path: path.read_bytes() for path in written.iterdir() if path.is_file()} == before


@pytest.fixture
def population(tmp_path, monkeypatch, tiny):
    """A small population in place of the shipped one, and a small network for the contract."""
    (tmp_path / "population.toml").write_text(POPULATION)
    monkeypatch.setattr(reference, "REFERENCE", str(tmp_path / "population.toml"))
    monkeypatch.setattr(conformance, "_subjects", lambda: {"a network": tiny})
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    metrics.forget("own_metric")


def _rank(capsys, monkeypatch, *arguments):
    return in_process(capsys, monkeypatch, "rank", *arguments, "--cache", "cache", "--workers", "1")


@pytest.mark.slow
def test_a_metric_is_ranked_beside_all_others_and_alone_measured(
    written, population, capsys, monkeypatch
):
    made = _rank(capsys, monkeypatch, "--prepare")
    assert made.code == 0, made.err
    assert "the reference population is made, once" in made.err
    (folder,) = (population / "cache").iterdir()
    before = {r.key for s in ResultsStore(folder).subjects() for r in s.records()}
    file = f"{written / 'own_metric.py'}:OwnMetric"
    done = _rank(capsys, monkeypatch, file, "--param", "probes=8")
    assert done.code == 0, done.out + done.err
    assert "own_metric keeps its contract" in done.out
    assert "own metric, a row of 3" in done.out
    after = {r.key: r for s in ResultsStore(folder).subjects() for r in s.records()}
    assert before < after.keys()
    assert {after[key].name for key in after.keys() - before} == {"own_metric"}
    assert {after[key].parameters["probes"] for key in after.keys() - before} == {8}
    report = population / "reports" / "rank_own_metric"
    card = json.loads((report / "scorecard.json").read_text())
    rows = {row["name"]: row for row in card["metrics"]}
    assert list(rows) == ["own_metric", "hessian_trace", "parameter_norm"]
    assert [row["highlight"] for row in rows.values()] == [True, False, False]
    own = rows["own_metric"]["cells"]
    assert (own["right"]["word"], own["right"]["n"]) == ("right", 1)
    assert own["costly"]["value"] == pytest.approx(1 + 2 * 8)
    assert own["invariant"]["n"] == 1
    table = (report / "scorecard.md").read_text().splitlines()
    assert len(table) == 5
    assert table[2].startswith("| **own metric** | ✓ right =<br>1 of 1 checks hold")
    page = (report / "index.html").read_text()
    assert page.index('class="highlight"') < page.index("Hessian trace")
    assert "its class says of no problem what to expect" in page  # of the parameters' norm
    # The suite that was made is one like any other, and nothing of it is left to do.
    again = ("run", str(report / "suite.toml"), "--results", str(folder), "--dry-run")
    told = in_process(capsys, monkeypatch, *again)
    assert "0 measurements to make" in told.out, told.err
    index = (population / "reports" / "index.html").read_text()
    assert 'href="rank_own_metric/index.html"' in index
    lines = index[index.index('id="metrics-table"') :]
    assert "own metric" in lines
    assert "Hessian trace" not in lines  # of which its own report tells


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name a metric"),
        (("hessian_trce",), "unknown metric 'hessian_trce'. Did you mean 'hessian_trace'"),
        (("none.py:X",), "there is no file"),
        (("hessian_trace", "--param", "probs=3"), "has no parameter 'probs'"),
    ],
)
def test_what_cant_be_ranked_is_refused(population, capsys, monkeypatch, arguments, told):
    done = _rank(capsys, monkeypatch, *arguments)
    assert done.code == 2
    assert told in done.err
    assert not (population / "cache").exists()


def test_a_metric_that_answers_nowhere_is_told_how_to_be_mended(population, capsys, monkeypatch):
    (population / "odd.py").write_text(
        "from dataclasses import dataclass\n"
        "from sharpbench.metrics import Metric\n\n"
        "@dataclass(frozen=True)\n"
        "class Odd(Metric):\n"
        '    """Of another precision than its inputs."""\n'
        '    name, title, unit, space = "odd_one", "odd", "", "parameter"\n'
        "    def measure(self, subject, *, seed):\n"
        "        return subject.model(subject.inputs.bfloat16())\n"
    )
    try:
        done = _rank(capsys, monkeypatch, "odd.py:Odd")
    finally:
        metrics.forget("odd_one")
    assert done.code == 1
    assert "RuntimeError" in done.out
    assert "(linear.py:" in done.out
    assert "→ it has to answer on one of the networks at least" in done.out
    assert not (population / "cache").exists()


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [v or "" for k, v in attrs if k in {"href", "src"}]


def test_the_index_lists_every_report_and_asks_nothing_of_any_host(tmp_path):
    cell = {"word": "right", "evidence": "right", "figure": "3 of 3"}
    empty = {"word": "", "evidence": "", "figure": ""}
    row = {
        "name": "m", "title": "m<b>", "implementation": "native", "highlight": False,
        "cells": {"right": cell, "invariant": empty, "predictive": empty, "costly": empty},
    }  # fmt: skip
    card = {"suite": "one", "title": "One & all", "written": "2026-01-01 10:00 UTC", "planned": 4,
            "present": 4, "outcomes": {"measured": 1000}, "metrics": [row]}  # fmt: skip
    other = {**card, "suite": "two", "title": "Two"}
    for name, told in (("one", card), ("two #1", other), ("old", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("<p>a page</p>")
        if told:
            (tmp_path / name / "scorecard.json").write_text(json.dumps(told))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "index.html").write_text("")
    (tmp_path / "torn" / "scorecard.json").write_text('{"metrics": [{"na')
    text = write_index(tmp_path).read_text()
    links = [link for link in _Links(text).links if not link.startswith(("#", "data:"))]
    assert sorted(set(links)) == [
        "old/index.html", "one/index.html", "one/index.html#right", "torn/index.html",
        "two%20%231/index.html", "two%20%231/index.html#right",
    ]  # fmt: skip
    assert "One &amp; all" in text
    assert "m&lt;b&gt;" in text
    assert text.count("written by an older version") == 2
    assert Path(tmp_path / "index.html").stat().st_size < 100_000
