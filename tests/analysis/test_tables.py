import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sharpbench.analysis.comparison import compare_records
from sharpbench.analysis.correctness import implementation_agreement
from sharpbench.analysis.cost import cost_table
from sharpbench.analysis.failures import failures, outcomes
from sharpbench.analysis.invariance import invariance_matrix
from sharpbench.analysis.names import (
    changes_in_words,
    in_reading_order,
    reading_order,
    short_names,
    with_short_names,
)
from sharpbench.analysis.results import Results, error_on_same_points, random_error

BASE = {
    "kind": "measurement", "status": "ok", "reason": None, "transformation": None,
    "transformation_name": None, "function_change": None, "standard_error": None, "draw": 0,
    "epoch": None, "seed": None, "subject_label": "s", "dataset": "d", "model_short": "net",
}  # fmt: skip


def row(subject, value, label="m", **fields):
    name = fields.pop("name", label)
    return {**BASE, "subject": subject, "value": value, "label": label, "name": name,
            "metric_short": label, "parameters": {}, **{"seed": subject, **fields}}  # fmt: skip


def invariance_of(changes, errors=(), seeds=None, error_bound=None):
    """The verdict on a metric that goes from 1 to each of ``changes``, with components of its error."""
    rows = []
    for i, after in enumerate(changes):
        sizes = [e["size"] for e in errors]
        size = float(np.hypot.reduce(sizes)) if sizes and None not in sizes else None
        common = {"standard_error": size, "errors": list(errors), "error_bound": error_bound}
        common["seed"] = i if seeds is None else seeds[i]
        rows.append(row(str(i), 1.0, **common))
        rows.append(
            row(str(i), after, **common, transformation="t", transformation_name="t",
                function_change=0.0)
        )  # fmt: skip
    (found,) = invariance_matrix(Results(pd.DataFrame(rows))).to_dict("records")
    return found


POINTS = ({"source": "points", "size": 0.1, "degrees_of_freedom": 9},)
PROBES = ({"source": "probes", "size": 0.1, "degrees_of_freedom": 9},)
UNTOLD = ({"source": "other", "size": None, "degrees_of_freedom": None},)


@pytest.mark.parametrize(
    ("changes", "errors", "verdict"),
    [
        ([1.0, 1.0 + 1e-12, 1.0005], (), "invariant"),
        ([1.0, 1.0 + 1e-12, 1.005], (), "can't tell"),  # three networks say little of the next one
        ([1.2, 0.5, 3.0], (), "moves"),
        ([1.0, 1.0, 1.0, 1.5], (), "mixed"),
        ([1.0] * 39 + [1.9], PROBES, "can't tell"),  # one of forty beyond three times its noise
        ([1.0] * 39 + [1.9], POINTS, "mixed"),  # no noise of its own: it is there
        ([1.0] * 99 + [1.021], (), "mixed"),  # 99 that stay bound the others, not this one
        ([1.0] * 99 + [1.019], (), "invariant"),
        ([1.05, 0.95, 1.03], PROBES, "can't tell"),  # 3·√2·0.1 = 0.42 of noise
        ([1.05, 0.95, 1.03], POINTS, "moves"),  # the same points before and after
        ([1.6, 1.7, 1.9], PROBES, "moves"),
        ([1.0, 1.0, 1.0], PROBES, "invariant"),  # a noisy estimator that still does not move
        ([1.3] * 37 + [1.31], PROBES, "moves"),  # below each one's noise, but all alike
        (
            [1.2, 0.5, 3.0],
            UNTOLD,
            "can't tell",
        ),  # noise of unknown size: no network moves by itself
        ([1.0] * 39 + [1.9], UNTOLD, "can't tell"),
        ([1.3] * 37 + [1.31], UNTOLD, "moves"),  # what all of them do is no noise
        ([1.3], UNTOLD, "can't tell"),
        ([1.0, 1.0, 1.0], UNTOLD, "invariant"),
    ],
)
def test_invariance_verdicts(changes, errors, verdict):
    found = invariance_of(changes, errors)
    assert found["verdict"] == verdict
    assert found["n"] == len(changes)


def test_what_an_unfinished_iteration_may_be_off_is_no_move():
    """Of 1 → 1.05 each figure may be 0.02 off: 0.02 of tolerance and 0.04 of bounds allow 0.06."""
    assert invariance_of([1.05, 0.95, 1.03], error_bound=0.02)["verdict"] == "can't tell"
    assert invariance_of([1.07, 0.93, 1.07], error_bound=0.02)["verdict"] == "moves"


def test_the_bound_for_single_networks_by_hand():
    """Of the logarithms mean 0.01, deviation 0.01: 1.96·√(2·(4/3)/χ²₀.₀₅(2)) = 9.991 deviations for three
    networks."""
    found = invariance_of(np.exp([0.0, 0.01, 0.02]))
    assert found["bound"] == pytest.approx(np.expm1(0.01 + 9.991 * 0.01), rel=1e-3)
    half = 4.302653 * 0.01 / np.sqrt(3)
    ends = np.expm1([0.01 - half, 0.01 + half])
    assert (found["low"], found["high"]) == pytest.approx(tuple(ends))


def test_a_change_of_random_sign_is_never_invariant():
    """±5% at random on every network averages to nothing and moves all the same."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        signs = rng.choice([-1, 1], 38)
        assert invariance_of(1 + 0.05 * signs)["verdict"] == "moves"
    # Of N(0, 1.3%) only 88% of networks lie within ±2%: a claim for 95% is false, in 5% of cases at most.
    noisy = [invariance_of(1 + 0.013 * rng.normal(size=38))["verdict"] for _ in range(100)]
    assert noisy.count("invariant") <= 8
    calm = [invariance_of(1 + 0.004 * rng.normal(size=38))["verdict"] for _ in range(40)]
    assert set(calm) == {"invariant"}


def test_recipes_of_one_seed_are_not_so_many_networks():
    """Four recipes of each seed change alike: the spread is that of three seeds, not of twelve networks."""
    seeds = np.repeat([0, 1, 2], 4)
    changes = np.exp(np.array([0.01, 0.03, 0.05])[seeds])
    found = invariance_of(changes, seeds=seeds)
    half = 4.302653 * 0.02 / np.sqrt(3)
    ends = np.expm1([0.03 - half, 0.03 + half])
    assert (found["low"], found["high"]) == pytest.approx(tuple(ends), rel=1e-6)
    apart = invariance_of(changes, seeds=np.arange(12))
    assert apart["high"] - apart["low"] < 0.5 * (found["high"] - found["low"])


def test_draws_are_not_counted_as_networks():
    rows = [row("a", 1.0)]
    for draw in range(3):
        rows.append(row("a", 2.0, draw=draw, transformation="t", transformation_name="t",
                        function_change=0.0))  # fmt: skip
    (found,) = invariance_matrix(Results(pd.DataFrame(rows))).to_dict("records")
    assert (found["n"], found["verdict"]) == (1, "moves")


def test_a_transformation_that_applies_nowhere():
    rows = [row("a", 1.0), row("a", None, status="unsupported", reason="tanh", transformation="t",
                               transformation_name="t")]  # fmt: skip
    (found,) = invariance_matrix(Results(pd.DataFrame(rows))).to_dict("records")
    assert found["verdict"] == "not applicable"
    assert found["not_applicable"] == 1


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("ok", "error", "failed"),
        ("error", "ok", "failed"),
        ("error", "unsupported", "failed"),
        ("timeout", "timeout", "timed out"),
        ("unsupported", "unsupported", "not applicable"),
    ],
)
def test_a_metric_that_failed_is_not_told_to_be_out_of_place(before, after, verdict):
    change = {"transformation": "t", "transformation_name": "t", "function_change": 0.0}
    rows = [
        row("a", 1.0 if status == "ok" else None, status=status, reason=status, **more)
        for status, more in ((before, {}), (after, change))
    ]
    (found,) = invariance_matrix(Results(pd.DataFrame(rows))).to_dict("records")
    assert (found["n"], found["verdict"]) == (0, verdict)


def test_implementations_are_compared_on_the_same_subject():
    rows = []
    for i, theirs in enumerate([1.01, 0.98, 1.30]):
        for implementation, value in (("native", 1.0), ("pyhessian", theirs)):
            rows.append(
                row(str(i), value, label=f"m({implementation})", name="m", standard_error=0.05,
                    parameters={"implementation": implementation, "samples": 10})
            )  # fmt: skip
    (found,) = implementation_agreement(Results(pd.DataFrame(rows))).to_dict("records")
    assert (found["a"], found["b"], found["n"]) == ("m(native)", "m(pyhessian)", 3)
    assert found["median_difference"] == pytest.approx(0.02)
    assert found["largest_difference"] == pytest.approx(0.30)
    assert found["beyond_3_errors"] == pytest.approx(1 / 3)  # 0.30 > 3·√2·0.05 = 0.21
    # From five random numbers each, 8 degrees of freedom together, 4.28 errors are no more than that.
    few = [{"source": "probes", "size": 0.05, "degrees_of_freedom": 4}]
    assert 1.302 < 1 + stats.t.isf(stats.norm.sf(3), 8) * math.sqrt(2) * 0.05 < 1.304
    for theirs, share in ((1.302, 0.0), (1.304, 1 / 3)):
        rows[-1]["value"] = theirs
        (found,) = implementation_agreement(
            Results(pd.DataFrame([r | {"errors": few} for r in rows]))
        ).to_dict("records")
        assert found["beyond_3_errors"] == pytest.approx(share)


def test_costs_are_medians_and_mark_a_shared_machine():
    rows = []
    for i, seconds in enumerate([1.0, 3.0, 2.0]):
        rows.append({
            **row(str(i), 1.0), "gradient_equivalents": 10.0 * (i + 1), "cost.median_seconds": seconds,
            "cost.spread_seconds": 0.1, "cost.seconds": [seconds] * 4, "cost.peak_bytes": 2**20,
            "cost.device": "cpu", "cost.threads": 1, "cost.shared_machine": i == 1,
        })  # fmt: skip
    (found,) = cost_table(Results(pd.DataFrame(rows))).to_dict("records")
    assert (found["seconds"], found["gradients"], found["n"], found["repeats"]) == (2.0, 20.0, 3, 4)
    assert found["shared"]


@pytest.mark.parametrize(("foreign", "shared"), [(None, False), (0.49, False), (0.51, True)])
def test_a_time_is_shared_from_half_a_core_of_others_on(foreign, shared):
    rows = [
        {
            **row(str(i), 1.0), "gradient_equivalents": 1.0, "cost.median_seconds": seconds,
            "cost.spread_seconds": 0.1, "cost.seconds": [seconds] * 3, "cost.peak_bytes": 2**20,
            "cost.device": "cpu", "cost.threads": 1, "cost.shared_machine": False,
            "cost.foreign_cores": cores, "cost.gradient_seconds": 1.0,
        }
        for i, (seconds, cores) in enumerate([(2.0, None), (4.0, foreign)])
    ]  # fmt: skip
    (found,) = cost_table(Results(pd.DataFrame(rows))).to_dict("records")
    assert found["shared"] == shared
    assert found["gradient_times"] == (2.0 if shared else 3.0)


def test_problems_count_equal_reasons_together():
    rows = [row("a", 1.0)] + [
        row(str(i), None, status="failed", reason="zero gradient") for i in range(3)
    ]
    (found,) = failures(Results(pd.DataFrame(rows))).to_dict("records")
    assert (found["n"], found["reason"], found["outcome"]) == (3, "zero gradient", "failed")


def test_problems_whose_reasons_differ_in_their_numbers_alone_are_told_together():
    reasons = [
        "margin is -0.5: wrong",
        "margin is -1e-3: wrong",
        "margin is -0.5: wrong",
        "no layer2",
    ]
    rows = [row(str(i), None, status="failed", reason=told) for i, told in enumerate(reasons)]
    found = failures(Results(pd.DataFrame(rows))).to_dict("records")
    assert [(f["reason"], f["others"], f["n"]) for f in found] == [
        ("margin is -0.5: wrong", 1, 3), ("no layer2", 0, 1),
    ]  # fmt: skip


def test_every_figure_asked_for_has_one_outcome():
    told = {
        "ok": None, "unsupported": "does not apply", "error": "curvlinops is not installed: …",
        "failed": "boom", "timeout": "after 3 s",
    }  # fmt: skip
    rows = [
        row(f"{status}{i}", 1.0 if status == "ok" else None, status=status, reason=reason)
        for n, (status, reason) in enumerate(told.items(), 1)
        for i in range(n)
    ]
    assert outcomes(Results(pd.DataFrame(rows))) == {
        "measured": 1, "not applicable": 2, "not installed": 3, "failed": 4, "timed out": 5,
    }  # fmt: skip


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


def test_a_word_that_says_nothing_by_itself_has_its_parameters_name():
    entries = {"a": ("SAM", {"adaptive": "none"}), "b": ("SAM", {"adaptive": "elementwise"})}
    assert short_names(entries) == {"a": "SAM (adaptive none)", "b": "SAM (elementwise)"}
    entries = {"a": ("λ", {"floor": None}), "b": ("λ", {"floor": 1e-12})}
    assert short_names(entries) == {"a": "λ (no floor)", "b": "λ (floor 1×10⁻¹²)"}


def test_names_are_in_the_order_in_which_they_are_looked_up():
    names = ["SAM", "layer (α 100)", "curvature", "layer (α 0.3)", "Hessian", "layer (α 3)", "SAM"]
    ordered = ["curvature", "Hessian", "layer (α 0.3)", "layer (α 3)", "layer (α 100)", "SAM"]
    assert reading_order(names) == ordered
    frame = in_reading_order(pd.DataFrame({"metric": names, "n": range(7)}), "metric")
    assert frame["metric"].tolist() == [*ordered, "SAM"]
    assert frame["n"].tolist()[-2:] == [0, 6]


def test_of_several_settings_of_a_transformation_the_usual_one_is_told_too():
    entries = {
        "layer_rescaling": ("layer_rescaling", {"alpha": 10.0, "draws": 1}),
        "layer_rescaling(alpha=0.01)": ("layer_rescaling", {"alpha": 0.01, "draws": 1}),
        "weight_noise(scale=0.1)": ("weight_noise", {"scale": 0.1}),
    }
    assert list(changes_in_words(entries).values()) == [
        *("layer rescaling (α 10)", "layer rescaling (α 0.01)", "weight noise (scale 0.1)")
    ]


def test_comparison_counts_standard_errors():
    first = pd.DataFrame([row("a", 1.0, standard_error=0.3), row("b", 2.0), row("c", 5.0)])
    second = pd.DataFrame([row("a", 1.5, standard_error=0.4), row("b", 2.0), row("d", 5.0)])
    found = compare_records(first, second)
    assert (found.common, found.only_a, found.only_b) == (2, 1, 1)
    (moved,) = found.rows.to_dict("records")
    assert moved["standard_errors"] == pytest.approx(1.0)
    exact = compare_records(pd.DataFrame([row("b", 2.0)]), pd.DataFrame([row("b", 2.1)]))
    assert exact.rows["standard_errors"].tolist() == [np.inf]
    untold = [{"source": "other", "size": None}]
    pair = [pd.DataFrame([row("b", value, errors=untold)]) for value in (2.0, 2.1)]
    assert compare_records(*pair).rows["standard_errors"].isna().tolist() == [True]
    assert json.dumps(moved["subject_label"])


def compared(*sides):
    """Standard errors by subject of the figures that differ between two sets of (subject, value, more)."""
    frames = [pd.DataFrame([row(s, v, **more) for s, v, more in side]) for side in sides]
    found = compare_records(*frames)
    return dict(zip(found.rows["subject_label"], found.rows["standard_errors"], strict=True))


def test_figures_of_one_key_share_their_random_numbers():
    """Points 12, probes 5 and rounding 4 of one key: only rounding, √2·4 together, can tell them apart."""
    sizes = {"points": 12.0, "probes": 5.0, "directions": 3.0, "draws": 2.0, "rounding": 4.0}
    errors = [{"source": s, "size": size, "degrees_of_freedom": 9} for s, size in sizes.items()]
    shared = {"key": "k", "subject_label": "all", "errors": errors}
    random = {"key": "l", "subject_label": "random", "errors": errors[:2], "standard_error": 13.0}
    whole = {"key": "m", "subject_label": "whole", "errors": [], "standard_error": 13.0}
    none = {"key": "n", "subject_label": "none stated", "errors": []}
    untold = {"key": "o", "subject_label": "untold", "errors": [{"source": "other", "size": None}]}
    asked = [("a", shared), ("b", random), ("c", whole), ("d", none), ("e", untold)]
    found = compared(*([(s, value, {**m, "seed": 0}) for s, m in asked] for value in (1.0, 3.0)))
    assert found.pop("all") == pytest.approx(2 / (math.sqrt(2) * 4))
    assert np.isnan(found.pop("untold"))
    assert found == {"random": np.inf, "whole": np.inf, "none stated": np.inf}


def test_another_version_is_judged_by_the_spread_of_the_paired_differences():
    """Changes of 1, 3 and 8% of the mean size, whatever each error is: their deviation is √13%."""

    def side(key, values):
        return [
            (s, v, {"key": f"{key}{s}", "subject_label": s, "standard_error": 5.0, "errors": []})
            for s, v in values.items()
        ]  # fmt: skip

    changes, sizes = {"a": 0.01, "b": 0.03, "c": 0.08}, {"a": 1.0, "b": 10.0, "c": 500.0}
    before = {s: sizes[s] * (1 - 0.5 * c) for s, c in changes.items()}
    after = {s: sizes[s] * (1 + 0.5 * c) for s, c in changes.items()}
    found = compared(side("old", before), side("new", after))
    assert found == pytest.approx({s: c / math.sqrt(0.0013) for s, c in changes.items()})
    # All by the same factor: that is no noise.
    doubled = compared(side("old", sizes), side("new", {s: 2 * v for s, v in sizes.items()}))
    assert min(doubled.values()) > 1e9
    # Two seeds tell no spread: both errors stand for themselves.
    two = {s: v for s, v in sizes.items() if s != "c"}
    few = compared(side("old", two), side("new", {s: v + 1 for s, v in two.items()}))
    assert few == pytest.approx(dict.fromkeys(two, 1 / (math.sqrt(2) * 5)))


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
    assert random_error(frame).tolist() == pytest.approx([13.0, 0.5, np.nan], nan_ok=True)
    untold = pd.DataFrame(
        [row("a", 1.0, errors=[component("points", 1.0), component("other", None)])]
    )
    assert np.isnan(error_on_same_points(untold).item())


def networks_called(*called):
    """Own networks: each its builder, its title, the file of its weights and what this is called."""
    rows = []
    for number, (builder, title, file, recipe) in enumerate(called):
        own = {"dataset": "x.npz", "dataset_label": f"{number}/x.npz", "model": builder, "model_label": title,
               "recipe": "weights", "recipe.file": file, "recipe_label": recipe,
               "problem": None, "problem_label": None}  # fmt: skip
        rows.append({**row(str(number), 1.0), **own})
    found = with_short_names(pd.DataFrame(rows).drop(columns="metric_short", errors="ignore"))
    return [tuple(r) for r in found[["dataset_short", "model_short", "recipe_short"]].to_numpy()]


def test_networks_of_ones_own_are_called_as_their_suite_calls_them():
    one, other = "n:a", "mlp"
    assert networks_called((one, "A", "f.pt", "x/f"), (one, "A", "f.pt", "y/f")) == [
        ("0/x.npz", "A", "x/f"), ("1/x.npz", "A", "y/f"),
    ]  # fmt: skip
    # Several titles of one builder are no names of models, nor is the name of another one.
    for called in (
        [(one, "A"), (one, "B")],
        [(one, "mlp"), (other, "mlp(widths=[8])")],
    ):
        shown = networks_called(*((*c, f"{i}.pt", f"{i}") for i, c in enumerate(called)))
        assert [model for _, model, _ in shown] == [builder for builder, _ in called]
