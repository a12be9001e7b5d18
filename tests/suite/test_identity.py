"""What a figure depends on is in its key, or in the description of its subject."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset
from sharpbench.errors import InputError, LeftOutWarning
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.subject import Splits
from sharpbench.suite.engines import InlineEngine
from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import run_plan
from sharpbench.suite.spec import load_suite
from tests.suite.test_run import figures, run

SUITE = """
name = "own"
title = "A table of one's own"
seeds = [0]

[[subjects]]
dataset = { name = "own_table" }
model   = { name = "mlp", widths = [3] }
recipe  = { name = "adam", epochs = 1 }

[[metrics]]
name = "margin"

[cost]
repeats = 1
"""


@pytest.fixture(params=[False, True], ids=["without a fingerprint", "with one"])
def table(request, tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class OwnTable(Dataset):
        """A table of numbers."""

        name = "own_table"

        def clean(self, root: Path, *, seed: int) -> Splits:
            rows = np.loadtxt(root / "table.csv", delimiter=",")
            x, y = torch.tensor(rows[:, :2]).float(), torch.tensor(rows[:, 2]).long()
            return Splits(x[::2], y[::2], x[1::2], y[1::2], outputs=2)

        if request.param:

            def fingerprint(self, root: Path) -> str:
                return (root / "table.csv").read_text()

    datasets.register(OwnTable)
    rows = [[np.sin(i), np.cos(3 * i), i % 3 == 0] for i in range(40)]
    path = tmp_path / "data" / "table.csv"
    path.parent.mkdir()
    np.savetxt(path, np.array(rows, float), delimiter=",")
    yield path
    datasets.forget("own_table")


def brought_up(suite, results, table):
    plan = make_plan(load_suite(suite), data=table.parent)
    return run_plan(
        plan, plan, ResultsStore(results), table.parent, suite_text=suite.read_text(), command="test",
        engine=InlineEngine(), notify=lambda *_: None, finished=lambda _: None,
    )  # fmt: skip


@pytest.mark.parametrize("row", [0, 1], ids=["to train on", "to judge by"])
def test_an_edited_table_is_trained_on_anew(table, tmp_path, row):
    suite, results = tmp_path / "own.toml", tmp_path / "results"
    suite.write_text(SUITE)
    assert [o.trained for o in brought_up(suite, results, table)] == [True]
    assert [(o.trained, o.measured) for o in brought_up(suite, results, table)] == [(False, 0)]
    before = figures(results)
    rows = np.loadtxt(table, delimiter=",")
    rows[row, 0] += 2
    np.savetxt(table, rows, delimiter=",")
    assert [o.trained for o in brought_up(suite, results, table)] == [True]
    after = figures(results)
    moved = [key for key in after if after[key] != before.get(key)]
    assert moved
    assert [(o.trained, o.measured) for o in brought_up(suite, results, table)] == [(False, 0)]


def test_threads_are_in_the_key_unless_there_is_one(mini_suite):
    text = mini_suite.read_text()
    one = {s.key for s in make_plan(load_suite(mini_suite)).subjects}
    mini_suite.write_text(text.replace("seeds =", "threads = 1\nseeds =", 1))
    assert {s.key for s in make_plan(load_suite(mini_suite)).subjects} == one
    mini_suite.write_text(text.replace("seeds =", "threads = 2\nseeds =", 1))
    assert not {s.key for s in make_plan(load_suite(mini_suite)).subjects} & one


def test_the_kind_of_device_is_in_the_key_and_its_number_is_not(mini_suite):
    plans = [
        make_plan(load_suite(mini_suite), device=d) for d in ("cuda", "cuda:0", "cuda:1", "cpu")
    ]
    keys = [{s.key for s in plan.subjects} for plan in plans]
    assert keys[0] == keys[1] == keys[2]
    assert not keys[0] & keys[3]
    assert {s.device for s in plans[2].subjects} == {"cuda:1"}


def test_figures_of_other_threads_under_one_key_are_outdated(tmp_path):
    """Versions that wrote no checksums left the thread count out of the key."""
    suite, results = tmp_path / "small.toml", tmp_path / "results"
    suite.write_text(
        'name = "known"\nseeds = [0]\n[[problems]]\n'
        'problem = { name = "hyperbolic_tangent", dimension = 2 }\n'
        'metrics = { name = "input_jacobian_norm", samples = 8 }\n'
    )
    run(suite, results)
    (folder,) = ResultsStore(results).subjects()
    (record,) = folder.records()
    store = ResultsStore(results)
    runs = store.documents("runs")
    for path, edit in (
        (folder.path / "subject.json", {"schema": 1}),
        (folder.path / "measurements.jsonl", {}),
    ):
        content = json.loads(path.read_text())
        del content["checksum"]
        path.write_text(json.dumps({**content, **edit}) + "\n")
    assert ResultsStore(results).subjects()[0].load().unproven == 2
    with pytest.warns(LeftOutWarning, match="2 records or descriptions .* without checksums"):
        assert load_records(results)["key"].tolist() == [record.key]
    runs[record.run]["settings"]["threads"] = 4
    store.write_document("runs", record.run, runs[record.run])
    # The columnar copy holds the figure, and the files that the figure stands in are as they were.
    with pytest.raises(InputError, match="computed with 4 threads"), pytest.warns(LeftOutWarning):
        load_records(results)
    (left_out,) = ResultsStore(results).subjects()[0].load().left_out
    assert left_out.reason == "it was computed with 4 threads, and 1 are asked for"
    (outcome,) = run(suite, results)[0]
    assert outcome.mended
    (again,) = ResultsStore(results).subjects()[0].records()
    assert dataclasses.replace(again, run="", cost=None) == dataclasses.replace(
        record, run="", cost=None
    )
