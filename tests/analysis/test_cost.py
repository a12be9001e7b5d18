"""Growth of cost: exponents with intervals, and what is left out of them."""

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.comparison import compare_costs
from sharpbench.analysis.cost import cost_table, scaling, sweeps
from sharpbench.analysis.results import Results
from sharpbench.report.sections import sections


def workloads(shared_at=None, noise=0.0):
    rows = []
    rng = np.random.default_rng(0)
    for samples in (100, 200, 400, 800, 1600):
        rows.append(
            {
                "kind": "problem", "status": "ok", "problem": "workload", "name": "hessian_trace",
                "problem_label": f"workload(samples={samples})",
                "label": "hessian_trace", "metric_short": "trace", "parameters": {},
                "problem.kind": "mlp", "problem.activation": "tanh", "problem.width": 8,
                "problem.inputs": 4, "problem.classes": 3, "problem.samples": samples,
                "network_parameters": 200, "gradient_equivalents": 16.0,
                "cost.median_seconds": 1e-4 * samples**1.5 * np.exp(noise * rng.normal()),
                "cost.spread_seconds": 0.0, "cost.seconds": [1.0] * 3, "cost.peak_bytes": 1e6,
                "cost.device": "cpu", "cost.threads": 1, "cost.shared_machine": samples == shared_at,
                "cost.gradient_seconds": 1e-4 * samples**1.5 / 10,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def test_the_exponent_of_a_power_law():
    (row,) = scaling(Results(workloads())).to_dict("records")
    assert row["axis"] == "samples"
    for cost, exponent in (("time", 1.5), ("memory", 0.0)):
        found = row[cost]
        assert (found.value, found.low, found.high) == pytest.approx((exponent,) * 3, abs=1e-9)
    assert row["gradient_times"] == pytest.approx(10)


def test_its_interval_widens_with_noise_and_shared_times_are_left_out():
    (row,) = scaling(Results(workloads(noise=0.2))).to_dict("records")
    assert row["time"].low < 1.5 < row["time"].high
    assert row["time"].high - row["time"].low > 0.05
    (row,) = scaling(Results(workloads(shared_at=400))).to_dict("records")
    assert row["n"] == 4


def test_the_exponents_interval_is_students_with_two_degrees_of_freedom_less():
    frame = workloads(noise=0.2)
    (row,) = scaling(Results(frame)).to_dict("records")
    x, y = np.log(frame["problem.samples"]), np.log(frame["cost.median_seconds"])
    design = np.column_stack([np.ones(5), x])
    (_, slope), (square,), *_ = np.linalg.lstsq(design, y, rcond=None)
    error = np.sqrt(square / 3 / np.square(x - x.mean()).sum())
    half = 3.182446 * error  # t of 3 degrees of freedom at 97.5%
    found = row["time"]
    assert (found.value, found.low, found.high) == pytest.approx(
        (slope, slope - half, slope + half), rel=1e-6
    )


def test_two_sizes_are_too_few_for_an_exponent():
    frame = workloads()
    alone = frame.assign(**{"cost.shared_machine": frame["problem.samples"] > 200})
    (row,) = scaling(Results(alone)).to_dict("records")
    assert row["n"] == 2
    assert row["time"] is None


def test_a_single_size_is_no_sweep():
    assert sweeps(Results(workloads().iloc[:2])).empty


def varied(**columns):
    """A row for each entry of the columns, the rest as of the first of `workloads`."""
    first = workloads().iloc[[0] * max(len(c) for c in columns.values() if isinstance(c, list))]
    first = first.reset_index(drop=True)
    labels = [f"workload({i})" for i in range(len(first))]
    return first.assign(**columns, problem_label=labels)


def test_a_problem_of_any_name_is_swept_along_what_varies_alone():
    """Width and depth each move the number of parameters; a size that varies with another is no axis."""
    mine = {"problem": "towers", "problem.width": 8, "problem.depth": 2}
    wide = varied(**{**mine, "problem.width": [8, 16, 32], "network_parameters": [200, 600, 2000]})
    deep = varied(**{**mine, "problem.depth": [3, 4, 5], "network_parameters": [270, 340, 410]})
    both = varied(**mine | {"problem.classes": [4, 5, 6], "problem.samples": [10, 20, 30]})
    found = sweeps(Results(pd.concat([wide, deep, both], ignore_index=True)))
    assert set(found["axis"]) == {"parameters"}
    assert found.groupby("group")["size"].apply(list).to_dict() == {
        "kind mlp, activation tanh, depth 2": [200, 600, 2000],
        "kind mlp, activation tanh, width 8": [200, 270, 340, 410],
    }


def test_orders_of_one_metric_are_an_axis_of_their_own_for_each_precision():
    parameters = [{"orders": list(range(1, n)), "dtype": d} for d in ("a", "b") for n in (3, 5, 7)]
    frame = varied(parameters=parameters, label=[str(p) for p in parameters])
    found = sweeps(Results(frame.assign(title="rate λ")))
    assert found.groupby("metric")["size"].apply(list).to_dict() == {
        "rate λ (a)": [2, 4, 6],
        "rate λ (b)": [2, 4, 6],
    }
    assert set(found["axis"]) == {"highest order"}


def test_a_problem_whose_answer_is_known_is_not_there_for_its_cost():
    frame = workloads().assign(problem_label="same")
    assert sweeps(Results(frame.assign(expected=[1.0] + [np.nan] * 4))).empty
    assert not sweeps(Results(frame.assign(expected=np.nan))).empty


def test_costs_of_two_result_sets():
    frame = workloads().assign(
        subject=[f"s{i}" for i in range(5)], transformation=None, draw=0, epoch=None
    )
    slower = frame.assign(**{"cost.median_seconds": 2 * frame["cost.median_seconds"]})
    slower.loc[0, "cost.shared_machine"] = True
    (row,) = compare_costs(frame, slower).to_dict("records")
    assert (row["n"], row["time"], row["memory"], row["work"]) == (4, 2.0, 1.0, 1.0)
    busy = slower.assign(**{"cost.foreign_cores": [0.0, 0.0, 0.0, 3.0, 3.0]})
    busy.loc[3:, "cost.median_seconds"] *= 100
    (row,) = compare_costs(frame, busy).to_dict("records")
    assert (row["n"], row["largest"]) == (2, 2.0)


@pytest.mark.parametrize(("times", "first"), [([0.5], True), ([0.1, 0.2, 0.1], False)])
def test_the_time_of_a_first_call_is_marked_and_no_multiple_of_a_gradients(times, first):
    """A measured network's are not repeated: it took 400 times what a second call does."""
    frame = workloads().iloc[:1].assign(
        kind="measurement", subject="s", dataset="d", model="m", dataset_label="d", model_label="m",
        model_short="m", dataset_short="d",
        value=1.0, standard_error=None, transformation=None, problem=None, problem_label=None, seed=0,
    )  # fmt: skip
    frame["cost.seconds"] = [times]
    frame["cost.median_seconds"], frame["cost.first_seconds"] = float(np.median(times)), 0.5
    found = Results(frame)
    (row,) = cost_table(found).to_dict("records")
    assert (row["first_call"], np.isnan(row["gradient_times"])) == (first, first)
    told = " ".join(sections.create("costly").sentences(found))
    assert ("those of a first call" in told) == first
