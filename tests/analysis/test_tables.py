import json

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.comparison import compare_records
from sharpbench.analysis.correctness import implementation_agreement, implementation_pairs
from sharpbench.analysis.cost import cost_table
from sharpbench.analysis.frames import error_on_same_points, short_names
from sharpbench.analysis.invariance import invariance_matrix
from sharpbench.analysis.summary import problems

BASE = {
    "kind": "measurement", "status": "ok", "reason": None, "transformation": None,
    "transformation_name": None, "function_change": None, "standard_error": None, "draw": 0,
    "epoch": None, "subject_label": "s", "dataset": "d", "model_short": "net",
}  # fmt: skip


def row(subject, value, label="m", **fields):
    name = fields.pop("name", label)
    return {**BASE, "subject": subject, "value": value, "label": label, "name": name,
            "metric_short": label, "parameters": {}, **fields}  # fmt: skip


def invariance_of(changes, error=None):
    """The verdict on a metric that goes from 1 to each of ``changes``."""
    rows = []
    for i, after in enumerate(changes):
        rows.append(row(str(i), 1.0, standard_error=error))
        rows.append(
            row(str(i), after, standard_error=error, transformation="t", transformation_name="t",
                function_change=0.0)
        )  # fmt: skip
    (found,) = invariance_matrix(pd.DataFrame(rows)).to_dict("records")
    return found


@pytest.mark.parametrize(
    ("changes", "error", "verdict"),
    [
        ([1.0, 1.0 + 1e-12, 1.005], None, "invariant"),
        ([1.2, 0.5, 3.0], None, "moves"),
        ([1.0, 1.0, 1.0, 1.5], None, "mixed"),
        ([1.05, 0.95, 1.03], 0.1, "unclear"),  # 3·√2·0.1 = 0.42 of noise
        ([1.6, 1.7, 1.9], 0.1, "moves"),
        ([1.0, 1.0, 1.0], 0.1, "invariant"),  # a noisy estimator that still does not move
    ],
)
def test_invariance_verdicts(changes, error, verdict):
    found = invariance_of(changes, error)
    assert found["verdict"] == verdict
    assert found["n"] == len(changes)


def test_draws_are_not_counted_as_networks():
    rows = [row("a", 1.0)]
    for draw in range(3):
        rows.append(row("a", 2.0, draw=draw, transformation="t", transformation_name="t",
                        function_change=0.0))  # fmt: skip
    (found,) = invariance_matrix(pd.DataFrame(rows)).to_dict("records")
    assert (found["n"], found["verdict"]) == (1, "moves")


def test_a_transformation_that_applies_nowhere():
    rows = [row("a", 1.0), row("a", None, status="unsupported", reason="tanh", transformation="t",
                               transformation_name="t")]  # fmt: skip
    (found,) = invariance_matrix(pd.DataFrame(rows)).to_dict("records")
    assert found["verdict"] == "not applicable"
    assert found["not_applicable"] == 1


def test_implementations_are_compared_on_the_same_subject():
    rows = []
    for i, theirs in enumerate([1.01, 0.98, 1.30]):
        for implementation, value in (("native", 1.0), ("pyhessian", theirs)):
            rows.append(
                row(str(i), value, label=f"m({implementation})", name="m", standard_error=0.05,
                    parameters={"implementation": implementation, "samples": 10})
            )  # fmt: skip
    (found,) = implementation_agreement(implementation_pairs(pd.DataFrame(rows))).to_dict("records")
    assert (found["a"], found["b"], found["n"]) == ("m(native)", "m(pyhessian)", 3)
    assert found["median_difference"] == pytest.approx(0.02)
    assert found["largest_difference"] == pytest.approx(0.30)
    assert found["beyond_3_errors"] == pytest.approx(1 / 3)  # 0.30 > 3·√2·0.05 = 0.21


def test_costs_are_medians_and_mark_a_shared_machine():
    rows = []
    for i, seconds in enumerate([1.0, 3.0, 2.0]):
        rows.append({
            **row(str(i), 1.0), "gradient_equivalents": 10.0 * (i + 1), "cost.median_seconds": seconds,
            "cost.spread_seconds": 0.1, "cost.seconds": [seconds] * 4, "cost.peak_bytes": 2**20,
            "cost.device": "cpu", "cost.threads": 1, "cost.shared_machine": i == 1,
        })  # fmt: skip
    (found,) = cost_table(pd.DataFrame(rows)).to_dict("records")
    assert (found["seconds"], found["gradients"], found["n"], found["repeats"]) == (2.0, 20.0, 3, 4)
    assert found["shared"]


def test_problems_count_equal_reasons_together():
    rows = [row("a", 1.0)] + [
        row(str(i), None, status="failed", reason="zero gradient") for i in range(3)
    ]
    (found,) = problems(pd.DataFrame(rows)).to_dict("records")
    assert (found["n"], found["reason"], found["status"]) == (3, "zero gradient", "failed")


def test_short_names_hold_what_tells_entries_apart():
    entries = {
        "a": ("mlp", {"widths": [64, 64], "activation": "tanh"}),
        "b": ("mlp", {"widths": [64, 64], "activation": "relu"}),
        "c": ("cnn", {"hidden": 8}),
        "d": ("digits", {"label_noise": 0.0}),
        "e": ("digits", {"label_noise": 0.2}),
    }
    assert short_names(entries) == {
        "a": "mlp (tanh)", "b": "mlp (relu)", "c": "cnn",
        "d": "digits (label noise 0)", "e": "digits (label noise 0.2)",
    }  # fmt: skip


def test_comparison_counts_standard_errors():
    first = pd.DataFrame([row("a", 1.0, standard_error=0.3), row("b", 2.0), row("c", 5.0)])
    second = pd.DataFrame([row("a", 1.5, standard_error=0.4), row("b", 2.0), row("d", 5.0)])
    found = compare_records(first, second)
    assert (found.common, found.only_a, found.only_b) == (2, 1, 1)
    (moved,) = found.rows.to_dict("records")
    assert moved["standard_errors"] == pytest.approx(1.0)
    exact = compare_records(pd.DataFrame([row("b", 2.0)]), pd.DataFrame([row("b", 2.1)]))
    assert exact.rows["standard_errors"].tolist() == [np.inf]
    assert json.dumps(moved["subject_label"])


def test_the_points_error_is_left_out_where_the_points_are_the_same():
    def component(source, size):
        return {"source": source, "size": size, "degrees_of_freedom": 7.0}

    errors = [component("points", 12.0), component("probes", 3.0), component("rounding", 4.0)]
    frame = pd.DataFrame(
        [
            row("a", 1.0, standard_error=13.0, errors=errors),
            row("b", 1.0, standard_error=0.5, errors=[]),  # stored before there were components
            row("c", 1.0, errors=[component("points", None)]),
        ]
    )
    assert error_on_same_points(frame).tolist() == [5.0, 0.5, 0.0]
