import math

import numpy as np
import pytest
from scipy import stats

from sharpbench.analysis.estimates import (
    Effect,
    Estimate,
    Level,
    NoEffect,
    Sign,
    Within,
    bootstrap,
    exactly,
    mean,
    partial_spearman,
    pearson,
    slope,
    spearman,
)

RNG = np.random.default_rng(0)
X, Y, Z = RNG.normal(size=(3, 60))
Y = Y + 0.5 * X + Z


def test_the_mean_has_students_interval():
    found = mean(X)
    low, high = stats.t.interval(0.95, 59, X.mean(), stats.sem(X))
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 60)
    assert mean(np.array([1.0])) is None
    assert mean(np.array([1.0, 2.0, math.nan])).n == 2


def test_correlations_are_scipys():
    assert pearson(X, Y) == pytest.approx(stats.pearsonr(X, Y).statistic)
    assert spearman(X, Y) == pytest.approx(stats.spearmanr(X, Y).statistic)
    assert slope(X, Y) == pytest.approx(stats.linregress(X, Y).slope)
    assert math.isnan(pearson(X, np.ones(60)))


def test_the_partial_correlation_is_that_of_residual_ranks():
    x, y, z = (stats.rankdata(v) for v in (X, Y, Z))
    design = np.column_stack([np.ones(60), z])
    left, right = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y))
    assert partial_spearman(X, Y, Z) == pytest.approx(stats.pearsonr(left, right).statistic)
    assert math.isnan(partial_spearman(X, Y, X))


def test_the_bootstrap_is_repeatable_and_covers():
    found = bootstrap(pearson, X, Y)
    assert found == bootstrap(pearson, X, Y)
    assert found.low < found.value < found.high
    other = stats.bootstrap(
        (X, Y), lambda a, b: pearson(a, b), paired=True, vectorized=False, method="percentile",
        n_resamples=2000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == (
        pytest.approx(other.low, abs=0.05),
        pytest.approx(other.high, abs=0.05),
    )
    assert bootstrap(pearson, X[:3], Y[:3]) is None


def test_strata_keep_their_sizes():
    group = np.repeat([0.0, 1.0], [50, 10])
    sizes = []

    def count(_: np.ndarray, g: np.ndarray) -> float:
        sizes.append(g.sum())
        return 0.0

    bootstrap(count, X, group, strata=group)
    assert set(sizes) == {10.0}


@pytest.mark.parametrize(
    ("rule", "estimate", "verdict"),
    [
        (Level(1.0, 0.1), (1.05, 1.04, 1.06), "reproduced"),
        (Level(1.0, 0.1), (1.5, 0.9, 2.1), "reproduced"),
        (Level(1.0, 0.1), (1.5, 1.4, 1.6), "not reproduced"),
        (Level(1.0, 0.1, 0.3), (1.49, 1.09, 1.89), "reproduced"),  # √(0.3² + 0.4²) = 0.5
        (Level(1.0, 0.1, 0.3), (1.51, 1.11, 1.91), "not reproduced"),
        (Effect(-2.0), (-2.2, -2.3, -2.1), "reproduced"),
        (Effect(-2.0), (-4.0, -6.0, -1.5), "reproduced"),
        (Effect(-2.0), (-0.5, -0.7, -0.3), "reproduced in direction"),
        (Effect(-2.0), (0.5, 0.3, 0.7), "contradicted"),
        (Effect(-2.0), (-1.0, -3.0, 1.0), "not reproduced"),
        (Sign(1), (0.5, 0.3, 0.7), "reproduced"),
        (Sign(1), (-0.5, -0.7, -0.3), "contradicted"),
        (Sign(-1), (0.0, -0.3, 0.3), "not reproduced"),
        (NoEffect(), (0.1, -0.2, 0.4), "reproduced"),
        (NoEffect(), (0.3, 0.2, 0.4), "contradicted"),
        (Within(0, 1), (0.5, 0.4, 0.6), "reproduced"),
        (Within(0, 1), (1.5, 1.4, 1.6), "contradicted"),
        (Within(0, 1), (1.0, 0.8, 1.2), "not reproduced"),
    ],
)
def test_rules(rule, estimate, verdict):
    assert rule.verdict(Estimate(*estimate, n=9)) == verdict
    assert "reproduced" in rule.text


def test_an_exact_figure_has_no_width():
    assert exactly(2.0) == Estimate(2.0, 2.0, 2.0, 1)
