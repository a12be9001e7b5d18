"""Suites, results and rank from Python, and how objects show themselves in a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import sharpbench as sb
from sharpbench.api import results as api_results
from sharpbench.api.running import _named
from sharpbench.errors import InputError
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics.norms import ParameterNorm
from sharpbench.results.store import load_records
from tests.waiting import PATIENCE

SUITE = """
name = "small"
title = "Small <b>&</b> plain"
seeds = [0, 1]

[[subjects]]
dataset = { name = "two_moons", n = 120 }
model = { name = "mlp", widths = [4] }
recipe = [{ name = "adam", epochs = [1, 3] }, { name = "sgd", lr = 1e38, epochs = 1 }]

[[problems]]
problem = { name = "least_squares" }

[[metrics]]
name = "hessian_trace"
samples = 64
max_probes = 4

[[transformations]]
name = "neuron_permutation"

[cost]
repeats = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    (folder / "small.toml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return sb.run(
        folder / "small.toml", results=folder / "results", engine="inline", progress=False
    )


@pytest.fixture(scope="module")
def page(folder, results):
    return sb.report(results, reports=folder / "reports")


def test_a_run_gives_its_results_and_says_what_it_did(folder, results):
    assert isinstance(results, sb.Results)
    assert (results.suite, results.present) == ("small", 6)
    done = results.summary
    assert (done.trained, done.cached, done.untrained, done.problems) == (4, 0, 2, 2)
    assert (done.subjects, len(done.failed)) == (8, 2)
    again = sb.run(
        folder / "small.toml", results=folder / "results", engine="inline", progress=False
    )
    assert (again.summary.trained, again.summary.cached, again.summary.records) == (0, 4, 0)
    loaded = sb.Results.load(folder / "results", "small")
    assert loaded.summary is None
    pd.testing.assert_frame_equal(loaded.scorecard(), results.scorecard())
    assert repr(loaded).startswith("Results of 'small': 6 networks, ")


def test_the_scorecard_is_that_of_the_page(folder, results, page, monkeypatch):
    assert page == folder / "reports" / "small" / "index.html"
    assert (folder / "reports" / "index.html").is_file()
    rows = json.loads((page.parent / "scorecard.json").read_text())["metrics"]
    card = results.scorecard()
    assert list(card.index) == [(row["name"], row["implementation"]) for row in rows]
    trace, cell = card.loc[("hessian_trace", "native")], rows[0]["cells"]["right"]
    assert (trace["right"], trace["right.n"]) == (cell["word"], cell["n"])
    assert trace["right.value"] == cell["value"]
    assert trace["measured"] == rows[0]["figures"]["measured"]
    written = []
    monkeypatch.setattr(api_results, "write_page", lambda *given, index: written.append(given))
    sb.report("small", folder=folder / "results", reports=folder / "again", fresh=True)
    ((view, place),) = written
    assert (view.suite, place) == ("small", folder / "again" / "small")
    with pytest.raises(InputError, match="Did you mean 'small'"):
        sb.report("smal", folder=folder / "results")


def test_frames_begin_with_figures(folder, results):
    stored = load_records(folder / "results")
    frame = sb.load_records(folder / "results")
    assert "training" in set(stored["kind"].head(10))
    assert (frame["kind"].iloc[0], frame["kind"].iloc[-1]) == ("measurement", "subject")
    for kind in set(stored["kind"]):
        same = [part[part["kind"] == kind].reset_index(drop=True) for part in (stored, frame)]
        pd.testing.assert_frame_equal(*same)
    values = sb.load_records(folder / "results", columns=["value"])
    assert list(values.columns) == ["value"]
    pd.testing.assert_series_equal(values["value"], frame["value"])
    figures = results.figures()
    assert set(figures["status"]) == {"ok"}
    assert list(dict.fromkeys(figures["kind"])) == ["measurement", "problem", "evaluation"]
    assert figures["transformation"].isna().all()
    failures = results.failures()
    assert list(failures["outcome"]) == ["diverged"]
    assert list(failures["n"]) == [2]


def test_tables_and_pictures_of_the_page_are_there_by_name(results, page):
    tables = results.tables()
    beside = {path.stem: json.loads(path.read_text()) for path in page.parent.glob("tables/*.json")}
    assert tables.keys() == beside.keys() >= {"invariant-matrix", "figures-rows"}
    for name, table in tables.items():
        assert isinstance(table, pd.DataFrame)
        assert len(table) == len(beside[name]["rows"])
        assert set(table.columns) == set(beside[name]["rows"][0])
    name = next(iter(results.pictures()))
    assert isinstance(results.plot(name), Figure)
    with pytest.raises(InputError, match=f"no picture '{name}x' here. Did you mean '{name}'"):
        results.plot(f"{name}x")


class _Checked(HTMLParser):
    """Text, and every tag that is opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.open, self.seen = "", [], set()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_what_a_notebook_shows_is_small_and_escaped(results):
    html = results._repr_html_()
    shown = _Checked(html)
    assert len(html) < 10_000
    assert "Small <b>&</b> plain" in shown.text
    assert "b" not in shown.seen
    assert "Hessian trace" in shown.text

    class Net(nn.Linear):
        pass

    Net.__name__ = "<script>alert()</script>"
    subject = sb.Subject(Net(3, 2), torch.randn(1000, 3), torch.randint(2, (1000,)))
    for told in (_Checked(subject._repr_html_()).text, repr(subject)):
        assert "1,000" in told
        assert "<script>alert()</script>" in told
        assert "tensor" not in told
        assert len(told) < 400
    assert "script" not in _Checked(subject._repr_html_()).seen
    splits = sb.Splits(*(torch.randn(50, 3), torch.zeros(50).long()) * 2, outputs=2)
    assert repr(splits) == ("Splits(train=(50, 3), test=(50, 3), outputs=2, task='classification')")


@pytest.mark.parametrize(
    ("measurement", "told"),
    [
        (Measurement(2.0, samples=10, work=Work(gradient=30)), ["2 (exact)", "3 gradients", "yes"]),
        (
            Measurement(1.5, errors=(ErrorComponent("probes", 0.25),), details={"a<b": 1}),
            ["0.25 (probes)", "1.01001 to 1.98999", "not counted", "a<b"],
        ),
        (
            Measurement(1.5, errors=(ErrorComponent("points", None),), converged=False),
            ["unknown (points)", "no"],
        ),
        (Measurement(3.0, error_bound=0.125), ["0.12"]),
    ],
)
def test_a_measurement_shows_its_error(measurement, told):
    shown = _Checked(measurement._repr_html_())
    assert all(text in shown.text for text in told)
    assert shown.seen == {"div", "strong", "table", "tbody", "tr", "th", "td"}


@pytest.mark.slow
def test_a_script_needs_no_guard(folder):
    (folder / "script.py").write_text(
        "import sharpbench as sb\n"
        "import sharpbench.report.page\n"  # must not hide sb.report
        "results = sb.run('small.toml', results='own', only=['adam(epochs=1)'])\n"
        "print(results.summary.trained, results.summary.records > 0, sb.report.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2 True report"]
    assert done.stderr.count("adam(epochs=1)") == 2  # progress, a line a network


def test_a_metric_is_named_by_its_class_or_an_instance():
    assert _named(ParameterNorm, None) == ("parameter_norm", {})
    assert _named(ParameterNorm(), None) == ("parameter_norm", {})
    assert _named("parameter_norm", {"a": 1}) == ("parameter_norm", {"a": 1})
    with pytest.raises(InputError, match="is no metric"):
        _named(int, None)
    with pytest.raises(TypeError, match="not with an instance"):
        _named(ParameterNorm(), {"a": 1})
    stranger = type("Stranger", (ParameterNorm,), {"__module__": "__main__", "name": "stranger"})
    with pytest.raises(InputError, match="save it in a file"):
        _named(stranger, None)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (ParameterNorm, "the metric is the class ParameterNorm: give an instance"),
        (["hessian_trace", "margin"], "got a list: call measure for each"),
        (3, "got a int: "),
        (None, "got a NoneType"),
    ],
)
def test_what_is_no_metric_is_told(metric, told):
    subject = sb.Subject(nn.Linear(3, 2), torch.randn(6, 3), torch.arange(6) % 2)
    with pytest.raises(InputError, match=told):
        sb.measure(subject, metric)
