"""The tables of metrics that fit the growth of derivatives with their order: values by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from sharpbench.analysis.names import with_short_names
from sharpbench.analysis.problems import (
    accuracy,
    answers,
    by_dimension,
    by_orders,
    definitions,
    estimation_error,
    solved,
)
from sharpbench.analysis.rate_fit import fitted_orders
from sharpbench.analysis.results import Results
from sharpbench.report.sections.right_figures import fit_figure

DEFINITION = {
    "orders": [1, 2, 3, 4], "normalization": "none", "norm": "geometric_mean",
    "fit": "least_squares", "weight_decay": 0.0, "directions": 1, "direction_law": "sphere",
    "samples": "all",
}  # fmt: skip


def answer(value, expected=1.0, *, name="rate", problem="ridge", seed=0, **given):
    """A row as `load_records` gives it; names with ``problem_`` are parameters of the problem."""
    of_problem = {k: v for k, v in given.items() if k.startswith("problem_")}
    parameters = DEFINITION | {k: v for k, v in given.items() if k not in of_problem}
    told = ", ".join(f"{k}={v}" for k, v in of_problem.items())
    return {
        "kind": "problem", "status": "ok", "subject": f"{problem}({told})", "name": name,
        "label": f"{name}({parameters})", "title": f"{name} ρ", "parameters": parameters, "seed": seed,
        "problem": problem, "problem_title": "g(w·x)", "problem_label": f"{problem}({told})",
        **{k.replace("_", ".", 1): v for k, v in of_problem.items()},
        "value": value, "standard_error": 0.5, "expected": expected, "limit": math.nan,
        "diverges": None, "converged": True, "gradient_equivalents": 1.0,
        **dict.fromkeys(f"{part}_label" for part in ("dataset", "model", "recipe")),
    }  # fmt: skip


def results(*rows):
    return Results(with_short_names(pd.DataFrame(rows)))


def test_a_metric_of_any_name_with_this_definition_is_told_by_its_orders():
    rows = [
        answer(v, e, name="mine", orders=list(range(1, last + 1)), normalization=n)
        for n in ("none", "factorial")
        for last, v, e in ((3, 1.0, 1.0), (4, 1.5, 1.25), (6, 2.0, 2.0))
    ]
    rows = [row | {"limit": 3.0} for row in rows[:3]] + [
        row | {"diverges": "−∞"} for row in rows[3:]
    ]
    view = results(*rows)
    assert accuracy(view).empty
    assert by_orders(view)["last_order"].tolist() == [3, 4, 6] * 2
    (row,) = definitions(view)
    raw = {
        "at_four": 1.5,
        "at_most": 2.0,
        "most": 6,
        "limit": 3.0,
        "diverges": False,
        "error": 0.25,
    }
    assert row["none"] == raw
    assert row["factorial"] == raw | {"limit": "−∞", "diverges": True}
    assert answers(view)[0]["definition"] == (
        "raw, 3 orders 1–3, geometric mean, 1 sphere direction, all points"
    )


def test_another_metric_stands_among_the_accuracies():
    other = answer(1.5, 1.0, name="trace") | {"parameters": {"tolerance": 0.1}}
    view = results(other, answer(1.0))
    assert solved(view)["value"].tolist() == [1.0]
    (row,) = accuracy(view).to_dict("records")
    assert (row["name"], row["error"], row["n"]) == ("trace", 0.5, 1)


def test_probes_that_agree_but_for_rounding_are_not_beyond_their_error():
    def of(seed, value):
        own = answer(value, 1.0, name="trace") | {"parameters": {"probes": 4}, "seed": seed}
        return own | {"standard_error": 1e-17}

    view = results(of(0, 1 + 3e-15), of(1, 1.0), of(2, 1.01), of(3, 1 - 1e-12))
    (row,) = accuracy(view).to_dict("records")
    assert (row["n"], row["beyond"]) == (4, 0.25)


def test_a_problem_of_which_nothing_is_known_is_not_solved():
    assert solved(results(answer(1.0, math.nan))).empty


def test_one_function_in_several_dimensions_has_one_name():
    rows = [
        answer(1.0, problem_dimension=d, problem_scale=s) for d in (1, 4, 16) for s in (0.5, 2.0)
    ]
    found = by_dimension(results(*rows))
    assert found.groupby("function")["dimension"].apply(list).to_dict() == {
        "g(w·x) (scale 0.5)": [1, 4, 16],
        "g(w·x) (scale 2)": [1, 4, 16],
    }
    assert by_dimension(results(*rows[:4])).empty


def test_the_error_of_the_estimator_is_the_root_of_the_mean_square():
    rows = [
        answer(1.0 + size * sign, seed=seed, directions=k)
        for k, size in ((1, 0.3), (4, 0.2), (16, 0.1))
        for seed, sign in enumerate((1, -1, 1, -1, 1))
    ]
    rows[0]["value"] = 1.0 + 0.5
    found = estimation_error(results(*rows))
    assert found["axis"].tolist() == ["directions a point"] * 3
    assert found["rms"].tolist() == pytest.approx(
        [math.sqrt((0.25 + 4 * 0.09) / 5), 0.2, 0.1], rel=1e-12
    )
    assert found["told"].tolist() == pytest.approx([0.5] * 3)
    assert found["seeds"].tolist() == [5, 5, 5]
    few = [row for row in rows if row["seed"] < 4]
    assert estimation_error(results(*few)).empty


def fitted(*logs):
    """Of networks with these logarithms, a tuple of orders 1, 2, … each."""
    rows = [
        {
            "kind": "measurement", "status": "ok", "subject": f"s{seed}", "seed": seed,
            "transformation": None, "name": "rate", "metric_short": "rate", "label": "rate",
            "dataset_short": "d", "model_short": "m", "recipe_short": "r", "value": 2.5,
            "standard_error": None,
            "details": {"orders": [*range(1, len(own) + 1)], "log_derivative": list(own)},
        }
        for seed, own in enumerate(logs)
    ]  # fmt: skip
    return fitted_orders(Results(pd.DataFrame(rows)))


def test_the_line_goes_through_every_order_of_the_mean_over_seeds():
    """Means (0, 1, 5): slope 2.5 and intercept 2 at the middle, where two orders alone give 1 and 0.5."""
    found = fitted((1.0, 1.0, 4.0), (-1.0, 1.0, 6.0))
    assert found["order"].tolist() == [1, 2, 3]
    assert found["log_derivative"].tolist() == [0.0, 1.0, 5.0]
    assert found["fit"].tolist() == pytest.approx([-0.5, 2.0, 4.5])
    assert np.array(found[["low", "high"]]).tolist() == [[-1.0, 1.0], [1.0, 1.0], [4.0, 6.0]]


def test_networks_that_are_equal_are_drawn_without_a_spread():
    """The mean of equal numbers is off by its rounding: 0.1 of three of them."""
    assert np.mean([0.1] * 3) > 0.1
    found = fitted(*[(0.1, 0.7)] * 3)
    assert found["low"].tolist() == found["log_derivative"].tolist() == found["high"].tolist()
    plt.close(fit_figure(found))
