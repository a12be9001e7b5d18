"""The tables of changes: intervals, bounds and extremes by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sharpbench.analysis.invariance import (
    _effective,
    changes,
    invariance_matrix,
    ranking_survival,
    reachable,
)
from tests.invariance.test_theory import records

PERMUTED = {"transformation": "neuron_permutation", "parameters": {}}


def test_the_interval_is_students_and_the_bound_howes():
    change = np.array([0.05, -0.02, 0.01, 0.03, -0.04, 0.06])
    frame = records("hessian_trace", [(2.0, 2.0 * (1 + c)) for c in change], **PERMUTED)
    (row,) = invariance_matrix(frame).to_dict("records")
    low, high = stats.t.interval(0.95, 5, change.mean(), stats.sem(change))
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    factor = stats.norm.ppf(0.975) * math.sqrt(5 * (1 + 1 / 6) / stats.chi2.ppf(0.05, 5))
    assert row["bound"] == pytest.approx(change.mean() + factor * change.std(ddof=1))
    assert row["largest_change"] == pytest.approx(0.06)
    assert row["median_change"] == pytest.approx(0.035)
    assert (row["lowest_ratio"], row["highest_ratio"]) == pytest.approx((0.96, 1.06))


def test_networks_of_one_seed_count_by_how_alike_they_are():
    """Means 1 and 5, mean squares 16 and 2: the ICC is (16 − 2)/(16 + 2), so that n is 4/(1 + 7/9)."""
    assert _effective(np.array([0.0, 2.0, 4.0, 6.0]), np.array([0, 0, 1, 1])) == pytest.approx(2.25)
    alike = np.repeat([1.0, 2.0, 4.0], 5)
    assert _effective(alike, np.repeat([0, 1, 2], 5)) == pytest.approx(3)
    assert _effective(alike, np.arange(15)) == 15
    assert _effective(alike, np.zeros(15)) == 1
    # As unlike within a seed as between seeds: all of them count.
    assert _effective(np.array([0.0, 2.0, 2.0, 0.0]), np.array([0, 0, 1, 1])) == 4


def test_a_change_of_a_value_near_zero_is_told_by_the_usual_size():
    frame = records("hessian_trace", [(1.0, 1.0), (3.0, 3.3), (1e-6, 1e-3)], **PERMUTED)
    found = changes(frame).set_index("subject")["relative_change"]
    assert found.tolist() == pytest.approx([0.0, 0.1, (1e-3 - 1e-6) / 0.1])


def test_a_change_must_exceed_the_tolerance_by_three_times_the_noise():
    def moved(after, error):
        frame = records("hessian_trace", [(1.0, after)], **PERMUTED)
        (row,) = changes(frame.assign(standard_error=error)).to_dict("records")
        assert row["noise"] == pytest.approx(math.sqrt(2) * error)
        return row["moved"]

    edge = 0.02 + 3 * math.sqrt(2) * 0.01
    assert not moved(1 + 0.99 * edge, 0.01)
    assert moved(1 + 1.01 * edge, 0.01)
    assert moved(1.021, 0.0)
    assert not moved(1.019, 0.0)


def test_how_far_one_network_can_be_pushed():
    frame = pd.concat(
        [
            records(
                "hessian_trace", pairs, transformation="layer_rescaling", parameters={"alpha": a}
            )
            for a, pairs in ((0.1, [(1.0, 0.25), (2.0, 3.0)]), (10.0, [(1.0, 8.0), (2.0, 1.0)]))
        ]
    ).drop_duplicates(subset=["subject", "transformation"])
    (row,) = reachable(frame).to_dict("records")
    assert row["family"] == "layer_rescaling"
    assert (row["lowest"], row["highest"]) == (0.25, 8.0)
    assert (row["tried"], row["n"]) == (4, 2)


@pytest.mark.parametrize(("networks", "told"), [(29, False), (30, True)])
def test_a_ranking_is_told_from_thirty_networks_on(networks, told):
    pairs = [(float(i), float(i % 7)) for i in range(1, networks + 1)]
    frame = records("hessian_trace", pairs, transformation="neuron_rescaling", parameters={})
    assert (len(ranking_survival(frame)) == 1) == told
