"""The page of every metric is the one that the registry makes."""

import json
from pathlib import Path

import pytest

from sharpbench.metrics import metrics
from sharpbench.suite.spec import find_suite, load_suite
from tests.catalogue import (
    COSTS,
    NOT_ASKED,
    NOT_BY_PARTS,
    PREDICTIONS,
    builtin,
    known_answers,
    of_this_version,
    prediction,
    promised,
    table,
    variants,
)

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_the_page_of_every_metric_is_up_to_date():
    assert PAGE.read_text("utf-8") == table(), "python -m tests.catalogue docs/metrics.md"


def test_what_every_metric_takes_was_counted():
    counted = json.loads(COSTS.read_text("utf-8"))
    assert list(counted) == builtin(metrics), "python -m tests.catalogue docs/metrics.md --measure"
    assert counted["hessian_top_eigenvalue"] != "–" == counted["parameter_norm"]


@pytest.mark.parametrize("suite", NOT_ASKED)
def test_every_metric_is_asked_in_the_suites_that_ask_all(suite):
    """In `cost` all that take a pass; what has no row says why, and nothing that has one does."""
    spec = load_suite(find_suite(suite)).spec
    blocks = [*spec.metrics, *(m for p in spec.problems for m in p.metrics or [])]
    takes = json.loads(COSTS.read_text("utf-8"))
    wanted = {n for n in builtin(metrics) if suite != "cost" or takes[n] != "–"}
    left_out = NOT_ASKED[suite]
    assert {block["name"] for block in blocks} == wanted - set(left_out)
    assert all(name in wanted and len(why) > 20 for name, why in left_out.items())


def test_what_metrics_predict_has_its_source():
    told = json.loads(PREDICTIONS.read_text("utf-8"))
    assert set(told["metrics"]) <= set(builtin(metrics))
    for of_metric in told["metrics"].values():
        rows = of_metric["rows"]
        assert of_metric["version"] >= 1
        assert all(-1 <= row["low"] <= row["psi"] <= row["high"] <= 1 for row in rows)
        assert len({row["asked"] for row in rows}) == len(rows)
    assert prediction([{"psi": 0.316, "low": -0.02, "high": 0.5}]) == "+0.32 [−0.02, +0.50]"
    assert prediction([]) == "–"


def test_what_an_older_version_predicted_is_not_told():
    metric = metrics.create("curvature_rate")
    rows = [{"asked": "", "psi": 0.3, "low": 0.1, "high": 0.5}]
    for version, told in ((metric.version, rows), (metric.version - 1, [])):
        assert of_this_version(metric, {metric.name: {"version": version, "rows": rows}}) == told
    assert of_this_version(metric, {}) == []


def test_every_metric_of_the_parameters_is_asked_of_parts_or_says_why_not():
    without = {
        name
        for name in builtin(metrics)
        if metrics.get(name).space == "parameter"
        and "parameters_of" not in metrics.parameter_types(name)
    }
    assert without == set(NOT_BY_PARTS)
    assert all(len(why) > 10 for why in NOT_BY_PARTS.values())


def test_known_answers_are_found_by_the_parameters_that_they_take():
    assert known_answers("parameter_norm") == []
    assert known_answers("local_learning_coefficient") == [
        "`deep_rank_regression`, `monomial`, `reduced_rank_regression`"
    ]
    (averages,) = known_answers("sam_sharpness")
    assert averages.endswith("(case = average)")
    assert {"target": 0, "norm": "frobenius"} in list(variants("curvature_rate"))


def test_a_kind_stands_for_all_of_its_changes():
    assert promised(metrics.create("parameter_norm")) == [
        "every permutation", "`sign_flip`", "`input_rotation`"
    ]  # fmt: skip
    assert promised(metrics.create("distance_from_initialization")) == []
