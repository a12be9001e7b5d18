"""Nothing a plug-in does ends a run, and what is left to do is decided the same everywhere."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from sharpbench.datasets import Dataset, datasets
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric
from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.results.checksum import sealed
from sharpbench.results.provenance import new_run_id, run_on_node, same_run
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.subject import Splits, Subject
from sharpbench.suite.plan import make_plan
from sharpbench.suite.remaining import remaining
from sharpbench.suite.session import intents
from sharpbench.suite.spec import load_suite
from tests.suite.test_run import figures, run


@dataclass(frozen=True, kw_only=True)
class Line(Dataset):
    """y = 2x with eight points a split."""

    name = "line"

    def clean(self, root, *, seed):
        x = torch.linspace(-1, 1, 8).unsqueeze(1)
        return Splits(x, 2 * x, x + 0.1, 2 * x + 0.2, 1, "regression")


@dataclass(frozen=True)
class Careless(Metric):
    """The number of weights, from a metric whose declarations raise."""

    name, title, unit, space = "careless", "careless metric", "", "parameter"
    fault: str = ""

    def promises(self, transformation):
        return self._told("promises")

    def expected_after(self, transformation, before):
        return self._told("expected_after")

    def known(self, problem, subject):
        return self._told("known")

    def _told(self, what):
        if what == self.fault:
            raise KeyError(what)

    def measure(self, subject, *, seed):
        self._told("measure")
        if self.fault == "exit":
            sys.exit("enough")
        size = float(sum(p.numel() for p in subject.model.parameters()))
        details = {"tensor": torch.ones(2), "infinite": math.inf}
        return Measurement(size, details={k: v for k, v in details.items() if k == self.fault})


@dataclass(frozen=True)
class Clumsy(Transformation):
    """Raises what no transformation should."""

    name = "clumsy"
    kind = "permutation"
    preserves = "function"

    def change(self, model, *, seed):
        raise ZeroDivisionError("of its own")


@dataclass(frozen=True, kw_only=True)
class NoProblem(Problem):
    """A problem that can't be made."""

    name = title = "no_problem"

    def subject(self, *, seed):
        raise OSError("no such formula")


@dataclass(frozen=True, kw_only=True)
class Lines(Problem):
    """A linear function."""

    name = title = "lines"

    def subject(self, *, seed):
        return Subject(nn.Linear(2, 1), torch.ones(3, 2), torch.zeros(3, 1))


@pytest.fixture(autouse=True)
def plugged_in():
    added = [
        (datasets, Line),
        (metrics, Careless),
        (transformations, Clumsy),
        (problems, NoProblem),
        (problems, Lines),
    ]
    for registry, plugin in added:
        registry.register(plugin)
    yield
    for registry, plugin in added:
        registry.forget(plugin.name)


TRAINED = """
name = "careful"
title = "Careful"
seeds = [0]

[[subjects]]
dataset = { name = "DATASET" }
model   = { name = "mlp", widths = [4], activation = "tanh" }
recipe  = { name = "adam", epochs = 2 }
"""


def suite_of(folder: Path, text: str) -> Path:
    path = folder / "careful.toml"
    path.write_text(text)
    return path


def test_a_regression_is_trained_evaluated_where_that_is_defined_and_measured(tmp_path):
    text = TRAINED.replace("DATASET", "line") + (
        '[[metrics]]\nname = "sam_sharpness"\n[[metrics]]\nname = "margin"\n'
        '[[transformations]]\nname = "logit_shift"\n'
    )
    suite, results = suite_of(tmp_path, text), tmp_path / "results"
    outcomes, _ = run(suite, results)
    assert [o.problems for o in outcomes] == [()]
    frame = load_records(results, suite="careful")
    evaluated = frame[frame.kind == "evaluation"].set_index("name")
    told = evaluated[evaluated.status == "ok"]
    assert set(told.index) == {"train_loss", "test_loss", "loss_gap"}
    assert set(told.unit) == {"[loss]"}
    others = evaluated[evaluated.status != "ok"]
    assert set(others.status) == {"unsupported"}
    assert others.reason.str.contains("needs classes").all()
    assert told.value["loss_gap"] == told.value["test_loss"] - told.value["train_loss"]
    trained = frame[(frame.kind == "training") & (frame.name == "test_loss")]
    assert told.value["test_loss"] == pytest.approx(trained.value.iloc[-1], rel=1e-5)
    measured = frame[(frame.kind == "measurement") & frame.transformation.isna()]
    assert measured.set_index("name").status.to_dict() == {
        "sam_sharpness": "ok",
        "margin": "unsupported",
    }
    assert not set(frame.kind) & {"decision_map", "reliability"}
    before = figures(results)
    again, _ = run(suite, results)
    assert again[0].measured == 0
    assert figures(results) == before


@pytest.mark.parametrize("fault", ["promises", "expected_after"])
def test_a_metric_whose_declarations_raise_is_a_record(tmp_path, fault):
    text = TRAINED.replace("DATASET", "two_moons") + (
        f'[[metrics]]\nname = "careless"\nfault = "{fault}"\n[[metrics]]\nname = "margin"\n'
        '[[transformations]]\nname = "input_rescaling"\n'
    )
    (outcome,), _ = run(suite_of(tmp_path, text), tmp_path / "results")
    frame = load_records(tmp_path / "results", suite="careful")
    rows = frame[frame.kind == "measurement"]
    rows = rows.set_index(["name", rows.transformation.isna()])
    assert rows.status["careless", True] == "ok"
    assert rows.status["careless", False] == "error"
    assert rows.reason["careless", False].startswith(f"KeyError: '{fault}'")
    assert rows.status["margin", False] == "ok"
    assert len(outcome.problems) == 1


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("measure", "error", "KeyError: 'measure'"),
        ("exit", "error", "it called sys.exit('enough')"),
        ("tensor", "failed", "can't be stored as JSON"),
        ("infinite", "failed", "can't be stored as JSON"),
    ],
)
def test_an_answer_that_is_none_leaves_the_others_alone(tmp_path, fault, status, reason):
    text = (
        'name = "careful"\ntitle = "Careful"\nseeds = [0]\n[[problems]]\nproblem = { name = "lines" }\n'
        f'metrics = [{{ name = "careless", fault = "{fault}" }}, {{ name = "careless" }}]\n'
    )
    (outcome,), _ = run(suite_of(tmp_path, text), tmp_path / "results")
    assert len(outcome.problems) == 1
    rows = load_records(tmp_path / "results", suite="careful").set_index("label")
    wrong = rows.loc[f"careless(fault={fault})"]
    assert (wrong.status, wrong.details, math.isnan(wrong.value)) == (status, {}, True)
    assert reason in wrong.reason
    assert (rows.status["careless"], rows.value["careless"]) == ("ok", 3)
    assert math.isnan(rows.gradient_equivalents["careless"])  # of no samples that it told


def test_a_transformation_that_raises_is_a_record_for_every_metric(tmp_path):
    text = TRAINED.replace("DATASET", "two_moons") + (
        '[[metrics]]\nname = "margin"\n[[metrics]]\nname = "mean_confidence"\n'
        '[[transformations]]\nname = "clumsy"\n[[transformations]]\nname = "weight_noise"\n'
    )
    (outcome,), _ = run(suite_of(tmp_path, text), tmp_path / "results")
    frame = load_records(tmp_path / "results", suite="careful")
    rows = frame[frame.transformation_name == "clumsy"]
    assert set(rows.status) == {"error"}
    assert rows.reason.str.contains("ZeroDivisionError: of its own").all()
    assert set(rows.transformation_kind) == {"permutation"}
    assert len(outcome.problems) == 2
    assert set(frame[frame.transformation_name == "weight_noise"].status) == {"ok"}


def test_problems_that_raise_leave_the_others_alone(tmp_path):
    text = (
        'name = "careful"\ntitle = "Careful"\nseeds = [0]\n[[problems]]\n'
        'problem = [{ name = "no_problem" }, { name = "lines" }]\n'
        'metrics = [{ name = "careless", fault = "known" }, { name = "careless" }]\n'
    )
    outcomes, _ = run(suite_of(tmp_path, text), tmp_path / "results")
    assert [len(o.problems) for o in outcomes] == [1, 1]
    assert "OSError: no such formula" in outcomes[0].problems[0]
    rows = load_records(tmp_path / "results", suite="careful").set_index("label")
    assert rows.status.to_dict() == {
        "building": "error",
        "careless(fault=known)": "error",
        "careless": "ok",
    }
    assert rows.problem["building"] == "no_problem"
    assert rows.value["careless"] == 3


def test_what_is_left_is_what_a_run_then_does(tmp_path):
    text = TRAINED.replace("DATASET", "two_moons") + (
        '[[metrics]]\nname = "margin"\n[[metrics]]\nname = "careless"\n'
        '[[transformations]]\nname = "weight_noise"\n'
    )
    suite, results = suite_of(tmp_path, text), tmp_path / "results"
    plan = make_plan(load_suite(suite))
    (fresh,) = intents(plan, results, tmp_path)
    assert (fresh.training, fresh.to_measure, fresh.to_evaluate) == ("new", 4, True)
    run(suite, results)
    (done,) = intents(plan, results, tmp_path)
    assert (done.training, done.to_measure, done.to_evaluate) == ("cached", 0, False)
    folder = ResultsStore(results).subjects()[0]
    path = folder.path / "measurements.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for (
        line
    ) in lines:  # as if two had been ended by the clock, and one evaluated figure by an error
        if line["name"] == "careless":
            line["status"] = "timeout"
        if line["name"] == "ece":
            line["status"] = "error"
        del line["checksum"]
    path.write_text("".join(sealed(json.dumps(line)) + "\n" for line in lines))
    (again,) = intents(plan, results, tmp_path)
    assert (again.training, again.to_measure, again.to_evaluate) == ("cached", 2, True)
    left = remaining(plan, plan.subjects[0], folder)
    assert [q.label for q in left.questions] == ["careless", "careless after weight_noise"]
    assert [r.name for r in left.answered] == ["margin", "margin"]
    # The run in which they failed leaves them to the next one, on whatever node of a cluster it goes on.
    of_run, node = lines[0]["run"], "ab" * 28
    for one in (of_run, run_on_node(of_run, node)):
        left = remaining(plan, plan.subjects[0], folder, run=one)
        assert ([q.label for q in left.questions], left.evaluation) == ([], False)
    assert same_run(run_on_node(of_run, node), run_on_node(of_run, "cd" * 28))
    for other in (None, new_run_id(), run_on_node(new_run_id(), node)):
        assert remaining(plan, plan.subjects[0], folder, run=other).questions
    (outcome,), notes = run(suite, results)
    evaluated = sum(line["kind"] in {"evaluation", "decision_map", "reliability"} for line in lines)
    assert outcome.measured == 2 + evaluated
    assert sum(dealt_with for _, dealt_with in notes) == 4
    (last,) = intents(plan, results, tmp_path)
    assert (last.training, last.to_measure, last.to_evaluate) == ("cached", 0, False)
