"""The tables of changes: intervals, bounds and extremes by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sharpbench.analysis.invariance import (
    changes,
    gauge_orbits,
    invariance_matrix,
    ranking_survival,
    reachable,
)
from sharpbench.analysis.results import Results
from sharpbench.analysis.statistics import bound_for_single, effective_number, mean_over_seeds

PERMUTED = {"transformation": "neuron_permutation", "parameters": {}}


def records(
    metric, pairs, *, transformation, parameters, promised=False, expected=None, kind="linear_gauge"
):
    """Rows as `load_records` gives them: before and after on several subjects."""
    rows = []
    for i, (before, after) in enumerate(pairs):
        common = {
            "kind": "measurement", "status": "ok", "subject": f"s{i}", "label": metric,
            "metric_short": metric, "name": metric, "parameters": {}, "standard_error": None,
            "dataset_short": "d", "model_short": "m", "seed": i,
        }  # fmt: skip
        rows.append({**common, "value": before, "transformation": None})
        rows.append(
            {
                **common, "value": after, "transformation": f"{transformation}{parameters}",
                "transformation_name": transformation, "transformation_parameters": parameters,
                "transformation_kind": kind, "promised": promised, "function_change": 0.0, "draw": 0,
                "preserves": "nothing" if kind == "control" else "function",
                "expected": None if expected is None else before + expected,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def test_the_interval_is_students_and_the_bound_howes():
    change = np.array([0.05, -0.02, 0.01, 0.03, -0.04, 0.06])
    frame = records("hessian_trace", [(2.0, 2.0 * (1 + c)) for c in change], **PERMUTED)
    (row,) = invariance_matrix(Results(frame)).to_dict("records")
    log = np.log1p(change)
    low, high = stats.t.interval(0.95, 5, log.mean(), stats.sem(log))
    assert (row["low"], row["high"]) == pytest.approx((math.expm1(low), math.expm1(high)))
    factor = stats.norm.ppf(0.975) * math.sqrt(5 * (1 + 1 / 6) / stats.chi2.ppf(0.05, 5))
    assert row["bound"] == pytest.approx(math.expm1(log.mean() + factor * log.std(ddof=1)))
    assert row["largest_change"] == pytest.approx(0.06)
    assert row["median_change"] == pytest.approx(0.035)
    assert (row["lowest_ratio"], row["highest_ratio"]) == pytest.approx((0.96, 1.06))


def test_networks_of_one_seed_count_by_how_alike_they_are():
    """Means 1 and 5, mean squares 16 and 2, whose ratio is judged by an F of 1 and 2 degrees of freedom: at
    the one that is met in half of the cases, 2/3, they may be 24 and 2, so that n is 4/(1 + 22/26)."""
    half = {"seldom": 0.5}
    assert stats.f.ppf(0.5, 1, 2) == pytest.approx(2 / 3)
    four, twos = np.array([0.0, 2.0, 4.0, 6.0]), np.array([0, 0, 1, 1])
    assert effective_number(four, twos, **half) == pytest.approx(4 / (1 + 22 / 26))
    alike = np.repeat([1.0, 2.0, 4.0], 5)
    assert effective_number(alike, np.repeat([0, 1, 2], 5), **half) == pytest.approx(3)
    assert effective_number(alike, np.arange(15), **half) == 15
    assert effective_number(alike, np.zeros(15), **half) == 1
    # As unlike within a seed as between seeds: all of them count.
    assert effective_number(np.array([0.0, 2.0, 2.0, 0.0]), twos, **half) == 4


def test_a_mean_over_seeds_by_hand():
    """Recipes that differ by 10 and seeds by 1: the spread is that of the seeds' means alone."""
    seeds, recipes = np.tile([0, 1, 2], 2), np.repeat([0, 1], 3)
    of_seed = np.array([1.0, 2.0, 4.0])
    found = mean_over_seeds(of_seed[seeds] + 10 * recipes, seeds, recipes)
    low, high = stats.t.interval(0.95, 2, 5 + of_seed.mean(), stats.sem(of_seed))
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 6)
    # A recipe that one seed lacks stays what it is.
    there = np.arange(6) != 5
    left = mean_over_seeds((of_seed[seeds] + 10 * recipes)[there], seeds[there], recipes[there])
    assert left.value == pytest.approx(3 / 5 * 7 / 3 + 2 / 5 * 11.5)
    # Seeds of 2, 2 and 1 networks are worth 25/9.
    with_seed = [2 / 5 * 12 + 3 / 5 * 3, 2 / 5 * 11 + 3 / 5 * 2.5, 2 / 5 * 11.5 + 3 / 5 * 1.5]
    error = math.sqrt(2 / 3 * np.square(with_seed - np.mean(with_seed)).sum())
    half = stats.t.ppf(0.975, 25 / 9 - 1) * error
    assert (left.low, left.high) == pytest.approx((left.value - half, left.value + half))
    # A single seed says nothing of another one, but that what does not move at all is not moved.
    assert mean_over_seeds(of_seed, np.zeros(3), np.arange(3)) is None
    still = mean_over_seeds(np.zeros(3), np.zeros(3), np.arange(3))
    assert (still.low, still.high) == (0, 0)


def test_of_several_streams_the_one_that_differs_most_tells_the_spread():
    data, initial = np.repeat([0, 1, 2], 3), np.tile([0, 1, 2], 3)
    both, alike = np.column_stack([data, initial]), np.zeros(9)
    of_initial = np.array([1.0, 2.0, 4.0])[initial]
    found = mean_over_seeds(of_initial, both, alike)
    low, high = stats.t.interval(0.95, 2, 7 / 3, stats.sem([1, 2, 4]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert mean_over_seeds(of_initial, np.column_stack([alike, initial]), alike) is None


def test_a_figure_that_stays_0_is_not_moved():
    """As the share of negative eigenvalues of networks that have none."""
    frame = records("negative share", [(0.0, 0.0)] * 4, **PERMUTED, promised=True)
    (row,) = invariance_matrix(Results(frame)).to_dict("records")
    assert (row["verdict"], row["low"], row["high"], row["bound"]) == ("invariant", 0, 0, 0)
    moved = records("negative share", [(0.0, 0.0), (0.0, 0.0), (0.0, 0.5)], **PERMUTED)
    (row,) = invariance_matrix(Results(moved)).to_dict("records")
    assert math.isnan(row["low"])
    assert row["verdict"] == "can't tell"  # of what size is none?


def test_factors_count_by_their_logarithm_and_in_the_direction_of_before():
    """Down to a third and up to thrice is no move on average, of negative figures neither."""
    for sign in (1, -1):
        pairs = [(sign * 1.0, sign * c) for c in (1 / 3, 3.0, 1 / 2, 2.0)]
        (row,) = invariance_matrix(Results(records("m", pairs, **PERMUTED))).to_dict("records")
        assert (1 + row["low"]) * (1 + row["high"]) == pytest.approx(1)
        twice = [(sign * 1.0, sign * c) for c in (1.9, 2.1, 2.0, 2.05)]
        (row,) = invariance_matrix(Results(records("m", twice, **PERMUTED))).to_dict("records")
        assert 1.8 < 1 + row["low"] < 2 < 1 + row["high"] < 2.2
    # What changes its sign has no logarithm: 1 + |change| stands in, with the change's sign.
    turned = [(1.0, -1.0), (1.0, -1.2), (-1.0, 0.8)]
    (row,) = invariance_matrix(Results(records("m", turned, **PERMUTED))).to_dict("records")
    low, high = stats.t.interval(0.95, 2, *(f(np.log([3, 3.2, 2.8])) for f in (np.mean, stats.sem)))
    assert (row["low"], row["high"]) == pytest.approx((1 - math.exp(high), 1 - math.exp(low)))
    assert row["verdict"] == "moves"


def test_a_change_of_a_value_near_zero_is_told_by_the_usual_size():
    frame = records("hessian_trace", [(1.0, 1.0), (3.0, 3.3), (1e-6, 1e-3)], **PERMUTED)
    found = changes(Results(frame)).set_index("subject")["relative_change"]
    assert found.tolist() == pytest.approx([0.0, 0.1, (1e-3 - 1e-6) / 0.1])


def test_a_change_must_exceed_the_tolerance_by_three_times_the_noise():
    def moved(after, error):
        frame = records("hessian_trace", [(1.0, after)], **PERMUTED)
        (row,) = changes(Results(frame.assign(standard_error=error))).to_dict("records")
        assert row["noise"] == pytest.approx(math.sqrt(2) * error)
        return row["moved"]

    edge = 0.02 + 3 * math.sqrt(2) * 0.01
    assert not moved(1 + 0.99 * edge, 0.01)
    assert moved(1 + 1.01 * edge, 0.01)
    assert moved(1.021, 0.0)
    assert not moved(1.019, 0.0)


def test_an_error_estimated_from_few_random_numbers_excuses_more():
    """Two errors of 3 degrees of freedom each and equal size: 6 together, 4.90 for 3 (0.135% on a side)."""
    frame = records("hessian_trace", [(1.0, 1.06), (1.0, 1.08)], **PERMUTED)
    part = {"source": "probes", "size": 0.01, "degrees_of_freedom": 3}
    few = frame.assign(errors=[[part]] * len(frame))
    edge = stats.t.isf(stats.norm.sf(3), 6) * math.sqrt(2) * 0.01
    assert edge == pytest.approx(0.0693, abs=1e-4)
    beyond = [(1.0, 1.02 + 0.99 * edge), (1.0, 1.02 + 1.01 * edge)]
    few["value"] = records("hessian_trace", beyond, **PERMUTED)["value"]
    assert changes(Results(few))["moved"].tolist() == [False, True]
    known = few.assign(errors=[[part | {"degrees_of_freedom": None}]] * len(few))
    assert changes(Results(known))["moved"].tolist() == [True, True]
    # One seed's points are on both sides: how well their error is known is no matter.
    shared = {"source": "points", "size": 1.0, "degrees_of_freedom": 1}
    both = few.assign(errors=[[part, shared]] * len(few))
    assert changes(Results(both))["moved"].tolist() == [False, True]


def what_would_tell(change, error):
    pairs = [(1.0, 1.0 + c) for c in change]
    frame = records("hessian_trace", pairs, **PERMUTED, promised=True)
    part = {"source": "probes", "size": error, "degrees_of_freedom": None}
    frame["errors"] = [[part]] * len(frame)
    (row,) = invariance_matrix(Results(frame)).to_dict("records")
    assert row["verdict"] == "can't tell"
    return row


def test_an_unclear_one_says_what_would_tell():
    # 24% at most, and by its own noise: within 2% with errors twelve times smaller.
    row = what_would_tell([0.24, -0.2, 0.1, -0.1, 0.0, -0.04], 0.1)
    assert row["precision"] == pytest.approx(max(0.24, row["bound"]) / 0.02)
    assert row["bound"] > 0.24
    assert math.isnan(row["networks"])
    # A metric that doesn't tell its error can't be asked for a smaller one.
    row = what_would_tell([0.24, -0.2, 0.1, -0.1, 0.0, -0.04], None)
    assert math.isnan(row["networks"])
    assert math.isnan(row["precision"])


def test_a_bound_that_more_networks_would_bring_down():
    change = np.tile([0.008, -0.008], 4)
    row = what_would_tell(change, 0.01)
    n = int(row["networks"])
    log = np.log1p(change)
    deviation = log.std(ddof=1)
    bounds = [
        abs(log.mean())
        + stats.norm.ppf(0.975)
        * math.sqrt((k - 1) * (1 + 1 / k) / stats.chi2.ppf(0.05, k - 1))
        * deviation
        for k in (8, n / 1.06, n)
    ]
    assert math.expm1(bounds[0]) == pytest.approx(row["bound"])
    assert bounds[1] > math.log(1.02) > bounds[2]
    # A mean of 3% with an interval of ±x: it excludes 2% once x is the third by which it is beyond.
    log = np.log(1.03) + np.array([0.18, -0.18, 0.09, -0.09])
    row = what_would_tell(np.expm1(log), None)
    half = stats.t.ppf(0.975, 3) * log.std(ddof=1) / 2
    assert row["networks"] == math.ceil(4 * (half / math.log(1.03 / 1.02)) ** 2)


def test_how_far_one_network_can_be_pushed():
    frame = pd.concat(
        [
            records(
                "hessian_trace", pairs, transformation="layer_rescaling", parameters={"alpha": a}
            )
            for a, pairs in ((0.1, [(1.0, 0.25), (2.0, 3.0)]), (10.0, [(1.0, 8.0), (2.0, 1.0)]))
        ]
    ).drop_duplicates(subset=["subject", "transformation"])
    (row,) = reachable(Results(frame)).to_dict("records")
    assert row["family"] == "layer_rescaling"
    assert (row["lowest"], row["highest"]) == (0.25, 8.0)
    assert (row["tried"], row["n"]) == (4, 2)


@pytest.mark.parametrize(("networks", "told"), [(29, False), (30, True)])
def test_a_ranking_is_told_from_thirty_networks_on(networks, told):
    pairs = [(float(i), float(i % 7)) for i in range(1, networks + 1)]
    frame = records("hessian_trace", pairs, transformation="neuron_rescaling", parameters={})
    assert (len(ranking_survival(Results(frame))) == 1) == told


def verdict(*args, **kwargs):
    (row,) = invariance_matrix(Results(records(*args, **kwargs))).to_dict("records")
    return row["verdict"], row["theory"], row["disagrees"]


def test_verdicts_against_theory():
    shifted = [(1.0, 1.0 - 0.6931), (1.2, 1.2 - 0.6932), (0.9, 0.9 - 0.6931)]
    rescaled = {"transformation": "input_rescaling", "parameters": {"factor": 2.0},
                "kind": "units", "expected": -math.log(2)}  # fmt: skip
    assert verdict("curvature_rate", shifted, **rescaled) == ("equivariant", "equivariant", "")
    same = [(1.0, 1.0), (1.2, 1.2), (0.9, 0.9)]
    assert verdict("curvature_rate", same, **rescaled) == ("moves", "equivariant", "promise broken")
    permuted = {"transformation": "neuron_permutation", "parameters": {}, "promised": True}
    assert verdict("hessian_trace", same, **permuted) == ("invariant", "invariant", "")
    moved = [(1.0, 2.0), (1.2, 2.2), (0.9, 2.9)]
    assert verdict("hessian_trace", moved, **permuted) == ("moves", "invariant", "promise broken")
    scaled = {"transformation": "neuron_rescaling", "parameters": {}}
    assert verdict("hessian_trace", moved, **scaled) == ("moves", "", "")
    assert verdict("hessian_trace", same, **scaled)[2] == "invariant though not promised"
    control = {**scaled, "kind": "control"}
    assert verdict("hessian_trace", same, **control)[2] == "a control does not move it"
    # Small changes to both sides: no change beyond 2% for most, but not shown to be equivalent.
    unsure = [(1.0, 1.019), (1.0, 0.981), (1.0, 1.018)]
    assert verdict("hessian_trace", unsure, **permuted)[0] == "can't tell"


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        # ±5% at random: 0 in the mean of 38, and no invariance of any single network.
        (np.tile([0.05, -0.05], 19), None, "can't tell"),
        (np.tile([0.05, -0.05], 19), 0.05, "can't tell"),
        (np.tile([0.05, -0.05], 19), 1e-3, "moves"),
        # 30% on all of them: no noise of a single figure hides what 38 agree in.
        (np.linspace(0.25, 0.35, 38), 0.3, "moves"),
        (np.linspace(0.25, 0.35, 38), None, "moves"),
        (np.linspace(-0.35, -0.25, 38), None, "moves"),
        (np.linspace(-0.005, 0.005, 38), 0.3, "invariant"),
    ],
)
def test_single_networks_decide_invariance_and_all_of_them_a_move(change, error, expected):
    frame = records("hessian_trace", [(1.0, 1.0 + c) for c in change], **PERMUTED)
    part = {"source": "probes", "size": error, "degrees_of_freedom": None}
    frame["errors"] = [[part]] * len(frame)
    (row,) = invariance_matrix(Results(frame)).to_dict("records")
    assert row["verdict"] == expected


def test_one_network_that_changes_is_enough_to_be_no_invariance():
    """One of 200 by 5%: 95% of networks are bounded by 0.8%, and yet one was seen to move."""
    pairs = [(1.0, 1.05)] + [(1.0, 1.0)] * 199
    frame = records("hessian_trace", pairs, **PERMUTED, promised=True)
    (row,) = invariance_matrix(Results(frame)).to_dict("records")
    assert row["bound"] < 0.01
    assert (row["verdict"], row["disagrees"]) == ("mixed", "promise broken")


@pytest.mark.parametrize("told", [None, "without the field"])
def test_a_promise_that_older_records_do_not_tell_is_never_called_broken(told):
    frame = records("hessian_trace", [(1.0, 2.0)] * 3, transformation="t", parameters={})
    fields = ["promised", "expected", "preserves", "transformation_kind"]
    older = frame.drop(columns=fields) if told else frame.assign(**dict.fromkeys(fields))
    (row,) = invariance_matrix(Results(older)).to_dict("records")
    assert (row["verdict"], row["theory"], row["disagrees"]) == ("moves", "not told", "")
    # What the logits did tells that the function stayed.
    assert changes(Results(older))["keeps_function"].all()
    assert not changes(Results(older.assign(function_change=1e-3)))["keeps_function"].any()


@pytest.mark.parametrize(
    ("kind", "noise"), [("linear_gauge", 0.02), ("units", math.hypot(0.1, 0.02))]
)
def test_directions_are_noise_where_the_input_is_turned(kind, noise):
    frame = records("λ", [(2.0, 2.3)], transformation="turned", parameters={}, kind=kind)
    parts = [
        {"source": source, "size": size, "degrees_of_freedom": 9}
        for source, size in (("points", 1.0), ("directions", 0.2), ("probes", 0.04))
    ]
    half = [dict(part, size=part["size"] / math.sqrt(2)) for part in parts]
    frame["errors"] = [half] * len(frame)
    (row,) = changes(Results(frame)).to_dict("records")
    assert row["noise"] == pytest.approx(noise)
    assert row["moved"] == (kind == "linear_gauge")


def test_an_error_that_does_not_tell_directions_from_points_holds_both():
    """λ's jackknife over points, each with directions of its own: a rotation moves λ by the directions."""
    pairs = [(2.0, 2.0 + 0.06 * (-1) ** i) for i in range(8)]
    frame = records("λ", pairs, transformation="turned", parameters={}, kind="units", promised=True)
    part = {"source": "points", "size": 0.04, "degrees_of_freedom": 127}
    frame["errors"] = [[part]] * len(frame)
    assert changes(Results(frame))["noise"].to_numpy() == pytest.approx(math.hypot(0.02, 0.02))
    (row,) = invariance_matrix(Results(frame)).to_dict("records")
    assert (row["verdict"], row["disagrees"]) == ("can't tell", "")
    # On the same directions the same change is no noise.
    same = frame.assign(transformation_kind=frame["transformation_kind"].replace("units", "chart"))
    (row,) = invariance_matrix(Results(same)).to_dict("records")
    assert (row["verdict"], row["disagrees"]) == ("moves", "promise broken")


def test_orbits_and_rankings():
    pairs = [(float(i + 1), float(30 - i)) for i in range(30)]
    frame = pd.concat(
        [
            records(
                "hessian_trace", pairs, transformation="layer_rescaling", parameters={"alpha": a}
            )
            for a in (0.1, 10.0, 100.0)
        ]
    ).drop_duplicates(subset=["subject", "transformation"])
    orbit = gauge_orbits(Results(frame))
    assert sorted(set(orbit["strength"])) == [0.1, 10.0, 100.0]
    assert orbit.groupby("subject")["ratio"].nunique().eq(1).all()
    reversed_ = ranking_survival(Results(frame))
    assert (reversed_["association"].map(lambda a: a.value) == -1).all()
    assert ranking_survival(Results(frame[frame["subject"].isin(["s1", "s2"])])).empty
    assert changes(Results(frame))["promised"].eq(False).all()


@pytest.mark.parametrize(("seeds", "each", "alike"), [(2, 6, 0.9), (3, 9, 0.5), (10, 3, 0.9)])
def test_a_bound_of_few_seeds_is_seldom_too_small(seeds, each, alike):
    """Changes of which 95% are within ±2%: a smaller bound would call them invariant."""
    rng, trials, small = np.random.default_rng(6), 400, 0
    block = np.repeat(np.arange(seeds), each)
    for _ in range(trials):
        common, own = rng.normal(size=seeds)[block], rng.normal(size=len(block))
        values = 0.02 / stats.norm.ppf(0.975) * (np.sqrt(alike) * common + np.sqrt(1 - alike) * own)
        small += bound_for_single(values, block) <= 0.02
    assert small / trials <= 0.05


def test_the_least_that_values_are_worth_is_by_the_f_of_their_blocks():
    rng = np.random.default_rng(7)
    values, blocks = rng.normal(size=24), np.repeat(np.arange(4), 6)
    groups = values.reshape(4, 6)
    ratio = stats.f_oneway(*groups).statistic / stats.f.ppf(0.2, 3, 20)
    likeness = max((ratio - 1) / (ratio + 5), 0)
    assert effective_number(values, blocks, seldom=0.2) == pytest.approx(24 / (1 + 5 * likeness))
    assert effective_number(values, blocks, seldom=0.2) < effective_number(
        values, blocks, seldom=0.5
    )
