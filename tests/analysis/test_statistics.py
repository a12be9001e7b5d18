import math

import numpy as np
import pytest
from scipy import stats

from sharpbench.analysis.rules import Effect, Level, NoEffect, Sign, Within
from sharpbench.analysis.statistics import (
    Estimate,
    exactly,
    jackknife,
    mean,
    over_seeds,
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


def test_a_few_equal_values_tell_no_spread():
    """As test errors of few points: another network may be anywhere, and no rule is won by it. Of what isn't
    counted, as a change that theory forbids, they are equal by their nature."""
    for values in ([0.03] * 5, [0.0, 0.0], [0.1 + 0.2, 0.3, 0.3]):
        assert mean(np.array(values)).high == pytest.approx(values[0])
        found = mean(np.array(values), counted=True)
        assert (found.low, found.high) == (-math.inf, math.inf)
        for rule in (Level(values[0], 0.1), NoEffect(0.1), Within(0, 1), Sign(1), Effect(0.03)):
            assert rule.judge(found).verdict == "inconclusive"
    six = mean(np.full(6, 0.03), counted=True)
    assert (six.low, six.high) == pytest.approx((0.03, 0.03))
    counted = {"counted": True}
    level = over_seeds(slope, np.arange(9.0), np.zeros(9), seeds=np.repeat([0, 1, 2], 3), **counted)
    assert (level.value, level.low, level.high) == (0, -math.inf, math.inf)
    by_six = np.repeat(np.arange(6), 3)
    certain = over_seeds(slope, np.arange(18.0), np.zeros(18), seeds=by_six, **counted)
    assert (certain.low, certain.high) == (0, 0)


@pytest.mark.parametrize("n", [2, 3, 4, 6])
@pytest.mark.parametrize("step", [0.3, 1.0])
def test_the_mean_of_rounded_values_is_covered(n, step):
    """In steps of 0.3 and of a whole deviation: of few networks some are equal, of two every fourth pair."""
    rng, trials, held = np.random.default_rng(8), 1000, 0
    for _ in range(trials):
        found = mean(step * np.round(rng.normal(0.3, 1, size=n) / step), counted=True)
        held += found.low <= 0.3 <= found.high
    assert held / trials >= 0.92


@pytest.mark.parametrize("seeds", [3, 4, 6])
@pytest.mark.parametrize("tied", [False, True])
def test_a_slope_over_few_seeds_is_covered(seeds, tied):
    rng, trials, held = np.random.default_rng(9), 600, 0
    for _ in range(trials):
        x, own = rng.normal(size=(2, seeds))
        y = 0.6 * x + 0.8 * own
        of = np.round(y) if tied else y
        found = over_seeds(slope, x, of, seeds=np.arange(seeds), counted=tied)
        held += found.low <= 0.6 <= found.high
    assert held / trials >= 0.92


def test_correlations_are_scipys():
    assert pearson(X, Y) == pytest.approx(stats.pearsonr(X, Y).statistic)
    assert spearman(X, Y) == pytest.approx(stats.spearmanr(X, Y).statistic)
    assert slope(X, Y) == pytest.approx(stats.linregress(X, Y).slope)
    constant = np.full(len(Y), 0.1)  # of whose sum a third is no tenth
    assert math.isnan(slope(constant, Y))
    assert math.isnan(pearson(X, np.ones(60)))


def test_the_partial_correlation_is_that_of_residual_ranks():
    x, y, z = (stats.rankdata(v) for v in (X, Y, Z))
    design = np.column_stack([np.ones(60), z])
    left, right = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y))
    assert partial_spearman(X, Y, Z) == pytest.approx(stats.pearsonr(left, right).statistic)
    assert math.isnan(partial_spearman(X, Y, X))
    assert partial_spearman(X, Y) == spearman(X, Y)
    w = stats.rankdata(np.sin(X) + np.cos(Z))
    both = np.column_stack([design, w])
    left, right = (v - both @ np.linalg.lstsq(both, v, rcond=None)[0] for v in (x, y))
    assert partial_spearman(X, Y, Z, w) == pytest.approx(stats.pearsonr(left, right).statistic)


def test_the_jackknife_of_a_mean_is_students_interval():
    found = over_seeds(np.mean, X, seeds=np.arange(60))
    by_hand = mean(X)
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))
    assert over_seeds(np.mean, X[:2], seeds=np.arange(2)) is None


def test_the_jackknife_leaves_a_seed_out_as_a_whole():
    """Five seeds of twelve networks that are all alike: as many figures as seeds."""
    five = X[:5]
    found = over_seeds(np.mean, np.repeat(five, 12), seeds=np.repeat(np.arange(5), 12))
    by_hand = mean(five)
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))
    assert found.n == 60


def test_blocks_that_say_the_same_bound_what_another_one_may_say():
    """With 5 alike, up to 1 − 2.5%^(1/5) = 52% of others, at either end, would have gone unseen."""
    same, unseen = np.full(5, 0.3), 1 - 0.025 ** (1 / 5)
    low, high, p = jackknife(0.3, same, reach=(-2.0, 2.0))
    assert (low, high) == pytest.approx((0.3 - 2.3 * unseen, 0.3 + 1.7 * unseen))
    assert p == 2 / 32  # five coins that fall alike
    assert jackknife(0.0, np.zeros(5), reach=(0.0, 1.0)) == (0, pytest.approx(unseen), 1)
    assert jackknife(0.3, same) == (0.3, 0.3, 0.0)  # without bounds, as a slope: exact
    assert jackknife(1.0, np.ones(1), reach=(0.0, 1.0)) == (0.0, 1.0, 1.0)


def test_a_share_is_judged_by_its_angle():
    """Of means of shares, left out one by one, the arcsine of their roots, where that reaches further."""
    shares = np.array([0.02, 0.1, 0.2])
    without = np.array([shares[np.arange(3) != k].mean() for k in range(3)])
    angles = np.arcsin(np.sqrt(without))
    error = math.sqrt(2 / 3 * np.square(angles - angles.mean()).sum())
    centre = math.asin(math.sqrt(shares.mean()))
    plain = stats.t.interval(0.95, 2, shares.mean(), stats.sem(shares))
    low, top, _ = jackknife(shares.mean(), without, reach=(0.0, 1.0))
    assert low == pytest.approx(plain[0])
    assert top == pytest.approx(math.sin(centre + stats.t.ppf(0.975, 2) * error) ** 2)
    assert plain[1] < top < 1
    # Seen from the other end, and on another scale, it is the same.
    turned = jackknife(1 - shares.mean(), 1 - without, reach=(0.0, 1.0))
    assert turned[:2] == pytest.approx((1 - top, 1 - low))
    doubled = jackknife(2 * shares.mean() - 1, 2 * without - 1, reach=(-1.0, 1.0))
    assert doubled[:2] == pytest.approx((2 * low - 1, 2 * top - 1))


@pytest.mark.parametrize("seeds", [3, 4, 6, 10])
@pytest.mark.parametrize("law", ["often 0", "skewed", "even", "0 or 1"])
def test_a_mean_of_shares_over_few_seeds_is_covered(seeds, law):
    """As of regrets, of which some are 0 and most are small: on the plain scale it would hold 83 to 90%."""
    rng, trials, held = np.random.default_rng(10), 600, 0
    draw, truth = {
        "often 0": (lambda n: np.where(rng.random(n) < 0.5, 0, rng.beta(1, 5, n)), 1 / 12),
        "skewed": (lambda n: rng.beta(1, 5, n), 1 / 6),
        "even": (lambda n: rng.beta(2, 2, n), 1 / 2),
        "0 or 1": (lambda n: rng.random(n) < 0.2, 0.2),
    }[law]
    for _ in range(trials):
        each = np.asarray(draw(seeds), dtype=float)
        without = np.array([np.delete(each, k).mean() for k in range(seeds)])
        low, high, _ = jackknife(float(each.mean()), without, reach=(0.0, 1.0))
        held += low <= truth <= high
    assert held / trials >= 0.9


def test_a_single_pair_is_what_a_count_of_pairs_is_certain_to():
    """Agreement throughout says no more than if one of a thousand pairs were turned, and no less."""
    students = stats.t.ppf(0.975, 4)
    low, high, p = jackknife(0.3, np.full(5, 0.3), step=0.01)
    assert (low, high) == pytest.approx((0.3 - 0.01 * students, 0.3 + 0.01 * students))
    assert p == pytest.approx(2 * stats.t.sf(30, 4))
    low, high, p = jackknife(1.0, np.ones(5), step=2 / 1000, correlation=True)
    centre, turned = np.arctanh(1 - 1 / 1000), np.arctanh(1 - 3 / 1000)
    ends = np.tanh(centre + np.array([-1, 1]) * students * (centre - turned))
    assert (low, high) == pytest.approx((ends[0], 1), abs=1e-12)
    assert p == pytest.approx(2 * stats.t.sf(centre / (centre - turned), 4))
    for value in (-1.0, -0.5, 0.0, 0.2, 1.0):  # of two pairs one is half of all there is
        ends = jackknife(value, np.full(3, value), step=1.0, correlation=True)
        assert -1 <= ends[0] <= value <= ends[1] <= 1
        assert ends[2] > 0.05
    # It is no leap to what a pair away is judged to be.
    beside = jackknife(0.998, np.array([0.9975] * 4 + [1.0]), step=2 / 1000, correlation=True)
    assert beside[0] == pytest.approx(low, abs=0.01)
    assert max(p, beside[2]) < 0.005


@pytest.mark.parametrize(("n", "r"), [(9, 0.0), (9, 0.8), (40, 0.5)])
def test_a_correlations_interval_covers(n, r):
    rng, trials, covered = np.random.default_rng(4), 500, 0
    for _ in range(trials):
        x = rng.normal(size=n)
        y = r * x + math.sqrt(1 - r * r) * rng.normal(size=n)
        found = over_seeds(pearson, x, y, seeds=np.arange(n), correlation=True)
        covered += found.low <= r <= found.high
    assert 0.92 <= covered / trials <= 0.985


@pytest.mark.parametrize(
    ("rule", "estimate", "verdict"),
    [
        (Level(1.0, 0.1), (1.02, 0.96, 1.08), "reproduced"),
        (Level(1.0, 0.1), (1.5, 0.9, 2.1), "inconclusive"),  # wide
        (Level(1.0, 0.1), (1.05, 0.98, 1.12), "inconclusive"),
        (Level(1.0, 0.1), (1.5, 1.4, 1.6), "contradicted"),
        (Level(1.0, 0.1, 0.3), (1.0, 0.99, 1.01), "inconclusive"),  # the stated number is no better
        (Level(1.0, 0.1, 0.3), (1.61, 1.21, 2.01), "contradicted"),  # 0.61 − √(0.3² + 0.4²) > 0.1
        (Level(1.0, 0.1, 0.3), (1.59, 1.19, 1.99), "inconclusive"),
        (Effect(-2.0), (-2.2, -2.4, -2.0), "reproduced"),
        (Effect(-2.0), (-2.4, -2.6, -2.2), "reproduced in direction"),  # beyond −2.5
        (Effect(-2.0), (-4.0, -6.0, -1.5), "reproduced in direction"),
        (Effect(-2.0), (-0.5, -0.7, -0.3), "reproduced in direction"),
        (Effect(-2.0), (0.5, 0.3, 0.7), "contradicted"),
        (Effect(-2.0), (-0.1, -0.4, 0.2), "contradicted"),  # smaller than a quarter
        (Effect(-2.0), (-1.0, -3.0, 1.0), "inconclusive"),
        (Sign(1), (0.5, 0.3, 0.7), "reproduced"),
        (Sign(1), (-0.5, -0.7, -0.3), "contradicted"),
        (Sign(-1), (0.0, -0.3, 0.3), "inconclusive"),
        (NoEffect(0.3), (0.1, -0.2, 0.4), "inconclusive"),
        (NoEffect(0.3), (0.1, -0.05, 0.25), "reproduced"),
        (NoEffect(0.3), (0.3, 0.2, 0.4), "contradicted"),
        (Within(0, 1), (0.5, 0.4, 0.6), "reproduced"),
        (Within(0, 1), (1.5, 1.4, 1.6), "contradicted"),
        (Within(0, 1), (1.0, 0.8, 1.2), "inconclusive"),
        (Within(0, 1), (0.5, -9.0, 10.0), "inconclusive"),
    ],
)
def test_rules(rule, estimate, verdict):
    assert rule.judge(Estimate(*estimate, n=9)).verdict == verdict
    assert "reproduced" in rule.text


def test_an_inconclusive_figure_says_how_many_networks_it_would_take():
    """Four times the networks halve the interval: ±0.2 about 0.1 leaves out 0 at ±0.1."""
    judged = Sign(1).judge(Estimate(0.1, -0.1, 0.3, 10))
    assert judged.resolution == pytest.approx(0.2)
    assert judged.networks == 40
    judged = Level(1.0, 0.1).judge(Estimate(1.05, 0.95, 1.15, 8))
    assert judged.networks == 32
    assert Level(1.0, 0.1, 0.3).judge(Estimate(1.0, 0.99, 1.01, 8)).networks is None


def test_a_rule_is_known_by_its_numbers():
    assert Level(1.0, 0.1).identity == Level(1.0, 0.1).identity
    assert Level(1.0, 0.1).identity != Level(1.0, 0.2).identity
    assert Sign(1).identity != Sign(-1).identity


def test_an_exact_figure_has_no_width():
    assert exactly(2.0) == Estimate(2.0, 2.0, 2.0, 1)
