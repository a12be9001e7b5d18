"""Records carry their meaning: titles, units, kinds, promises and what theory expects."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from sharpbench.invariance import transformations
from sharpbench.metrics import metrics
from sharpbench.problems import problems
from sharpbench.results.record import Record
from sharpbench.results.store import load_records
from tests.conftest import shipped
from tests.suite.test_run import run

SUITE = """
name = "meaning"
title = "What records say"
seeds = [0]

[[subjects]]
dataset = { name = "two_moons", n = 120 }
model   = { name = "mlp", widths = [6], activation = "relu" }
recipe  = { name = "adam", epochs = 2 }

[[metrics]]
name = "curvature_rate"
orders = [1, 2]
samples = 16

[[metrics]]
name = "input_jacobian_norm"
output = "logits"

[[metrics]]
name = "fisher_rao_norm"

[[transformations]]
name = "input_rescaling"
factor = 4.0
[[transformations]]
name = "logit_temperature"
[[transformations]]
name = "composition"
[[transformations]]
name = "head_permutation"

[trajectory]
metrics = [{ name = "fisher_rao_norm", labels = "observed" }]

[[problems]]
problem = [
    { name = "quadratic", features = 12, spectrum = "indefinite" },
    { name = "least_squares", features = 4, samples = 8 },
]
metrics = [{ name = "hessian_top_eigenvalue" }]
"""


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> pd.DataFrame:
    folder: Path = tmp_path_factory.mktemp("meaning")
    (folder / "meaning.toml").write_text(SUITE)
    run(folder / "meaning.toml", folder / "results")
    found = load_records(folder / "results", suite="meaning")
    found.attrs["results"] = folder / "results"
    return found


def test_metrics_and_evaluated_figures_say_what_they_are_and_in_which_unit(frame):
    told = {
        (row.kind, row.name): (row.title, row.unit, row.space)
        for row in frame[frame.kind.isin(["measurement", "trajectory"])].itertuples()
    }
    assert told == {
        ("measurement", "curvature_rate"): ("curvature rate λ", "log 1/[input]", "input"),
        ("measurement", "input_jacobian_norm"): (
            "input Jacobian norm",
            "logits/[input]",
            "input",
        ),
        ("measurement", "fisher_rao_norm"): ("Fisher–Rao norm", "√nats", "parameter"),
        ("trajectory", "fisher_rao_norm"): ("Fisher–Rao norm", "nats", "parameter"),
    }
    evaluated = frame[frame.kind == "evaluation"].set_index("name")
    assert evaluated.loc["test_loss", ["title", "unit"]].tolist() == ["test loss", "nats"]
    assert evaluated.loc["ece", ["title", "unit"]].tolist() == ["ECE", ""]
    assert (evaluated.title != "").all()


def test_transformations_say_their_kind_and_what_they_keep(frame):
    rows = frame[frame.transformation.notna()]
    told = {r.transformation_name: (r.transformation_kind, r.preserves) for r in rows.itertuples()}
    assert told == {
        "input_rescaling": ("units", "function"),
        "logit_temperature": ("decision", "nothing"),
        "composition": ("linear_gauge", "function"),  # the wider of its parts' kinds
        "head_permutation": ("permutation", "function"),  # refused, and says so all the same
    }
    assert set(rows[rows.transformation_name == "head_permutation"].status) == {"unsupported"}
    plain = frame[(frame.kind == "measurement") & frame.transformation.isna()]
    assert plain[["transformation_kind", "preserves", "promised", "expected"]].isna().all(axis=None)


def test_promises_and_expected_values_stand_beside_what_came(frame):
    rows = frame[(frame.kind == "measurement") & (frame.status == "ok")]
    before = rows[rows.transformation.isna()].set_index("name").value
    after = rows[rows.transformation.notna()].set_index(["name", "transformation_name"])
    promised = {key for key, yes in after.promised.items() if yes}
    assert promised == {
        ("curvature_rate", "composition"),
        ("input_jacobian_norm", "composition"),
        ("fisher_rao_norm", "composition"),
        ("fisher_rao_norm", "input_rescaling"),
    }
    expected = {
        ("curvature_rate", "input_rescaling"): before["curvature_rate"] - math.log(4),
        ("input_jacobian_norm", "input_rescaling"): before["input_jacobian_norm"] / 4,
        ("input_jacobian_norm", "logit_temperature"): before["input_jacobian_norm"] * 2,
    }
    told = after.expected.dropna()
    assert told.to_dict() == pytest.approx(expected)
    assert after.value[told.index].to_dict() == pytest.approx(expected, rel=1e-9)
    assert set(after.expected_from.dropna()) == {"theory"}
    assert after.expected_from.notna().sum() == 3


def test_a_problem_says_its_trap(frame):
    rows = frame[frame.kind == "problem"].set_index("problem")
    bowl, plain = rows.loc["quadratic"], rows.loc["least_squares"]
    assert (bowl.problem_title, bowl.trap_kind) == ("quadratic", "sign")
    assert "largest magnitude" in bowl.trap
    assert plain.problem_title == "least squares"
    assert plain[["trap", "trap_kind"]].isna().all()
    assert bowl.unit == "[loss]/[weight]²"  # a loss of its own: in no named unit


def test_records_of_an_older_version_are_told_their_meaning_by_the_next_run(frame, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(frame.attrs["results"], results)
    suite = frame.attrs["results"].parent / "meaning.toml"
    kept = {"key", "plan_key", "kind", "name", "label", "status", "reason", "parameters", "version"}
    kept |= {"transformation", "transformation_name", "transformation_parameters", "draw", "epoch"}
    kept |= {"value", "standard_error", "errors", "error_bound", "converged", "samples", "run"}
    kept |= {"gradient_equivalents", "work", "cost", "details", "limit", "diverges"}
    kept |= {"function_change", "left_alone"}
    older = 0
    for path in results.glob("*/subject.json"):
        told = json.loads(path.read_text())
        del told["checksum"]
        path.write_text(json.dumps({**told, "schema": 1}))
    for path in results.glob("*/measurements.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            told = kept | ({"expected", "expected_from"} if line["kind"] == "problem" else set())
            if line["kind"] in {"measurement", "trajectory", "problem"}:
                older += 1
                for key in line.keys() - told:
                    del line[key]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "title" not in json.loads(next(results.glob("*/measurements.jsonl")).open().readline())
    outcomes, _ = run(suite, results)
    assert sum(o.measured for o in outcomes) == older
    assert not any(o.trained or o.problems for o in outcomes)
    completed = load_records(results, suite="meaning")
    pd.testing.assert_frame_equal(completed, frame)
    again, _ = run(suite, results)
    assert sum(o.measured for o in again) == 0


def test_every_builtin_declares_its_meaning():
    kinds = {name: transformations.create(name).kinds for name in shipped(transformations)}
    assert all(kinds.values())
    assert kinds["composition"] == {"linear_gauge", "permutation"}
    assert all(isinstance(metrics.get(name).unit, str) for name in shipped(metrics))
    for name in shipped(problems):
        problem = problems.create(name)
        assert (problem.trap == "") == (problem.trap_kind is None)


def test_a_line_from_before_these_fields_is_read():
    line = (
        '{"key": "a", "plan_key": "b", "kind": "measurement", "name": "m", "label": "m", "value": 1.5,'
        ' "transformation": "sign_flip", "transformation_name": "sign_flip"}'
    )
    record, proven = Record.from_line(line.encode())
    assert not proven
    assert record.value == 1.5
    assert (record.title, record.unit, record.space) == ("", "", "")
    assert record.transformation_kind is record.preserves is record.promised is None
    assert record.problem_title is record.trap is record.trap_kind is None
