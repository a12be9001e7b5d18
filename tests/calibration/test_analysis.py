"""The intervals of the analysis against populations whose correlation, slope or mean is known."""

import math

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.cost import exponents
from sharpbench.analysis.rank_correlation import kendall
from sharpbench.analysis.statistics import binomial_interval, mean, over_seeds, pearson, slope
from sharpbench.seeds import numpy_generator
from tests.calibration.coverage import assert_covers


def correlated(rng: np.random.Generator, n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    x, other = rng.standard_normal((2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * other


@pytest.mark.parametrize("n", [3, 12])
def test_a_mean_over_networks(n):
    rng = numpy_generator(0)
    found = [mean(rng.normal(2.0, 0.3, n)) for _ in range(600)]
    assert_covers([(e.low, e.high) for e in found], 2.0)


@pytest.mark.parametrize(("seeds", "recipes"), [(40, 1), (12, 3)])
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_pearsons_r_over_seeds_that_share_a_part_of_their_figures(seeds, recipes, rho):
    rng = numpy_generator(1)
    found = []
    for _ in range(400):
        # Half of the variance is the seed's, half the network's, both with the same correlation.
        shared, own = correlated(rng, seeds, rho), correlated(rng, seeds * recipes, rho)
        blocks = np.repeat(np.arange(seeds), recipes)
        x, y = (s[blocks] + o for s, o in zip(shared, own, strict=True))
        found.append(over_seeds(pearson, x, y, seeds=blocks, correlation=True))
    assert_covers([(e.low, e.high) for e in found], rho)


@pytest.mark.parametrize("seeds", [15, 40])
def test_a_slope_over_seeds(seeds):
    rng = numpy_generator(2)
    found = []
    for _ in range(400):
        x = rng.standard_normal(seeds)
        y = 0.3 * x + rng.normal(0, 1, seeds)
        found.append(over_seeds(slope, x, y, seeds=np.arange(seeds)))
    assert_covers([(e.low, e.high) for e in found], 0.3)


@pytest.mark.parametrize(("strata", "seeds"), [(1, 24), (4, 10)])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_kendalls_tau_of_normal_variables(strata, seeds, rho):
    """τ = (2/π) asin ρ (Kendall & Gibbons 1990, chapter 9), in every stratum, whose levels differ."""
    rng = numpy_generator(3)
    groups, blocks = np.repeat(np.arange(strata), seeds), np.tile(np.arange(seeds), strata)
    found = []
    for _ in range(200):
        x, y = correlated(rng, strata * seeds, rho)
        found.append(kendall(x + 5 * groups, y - 5 * groups, groups, blocks))
    assert_covers([(a.low, a.high) for a in found], 2 / math.pi * math.asin(rho))


def test_a_rank_correlation_of_noise_is_clear_in_one_case_of_twenty():
    rng = numpy_generator(4)
    p = np.array([kendall(*rng.standard_normal((2, 12)), np.zeros(12)).p for _ in range(400)])
    low, _ = binomial_interval(int((p <= 0.05).sum()), len(p))
    assert low <= 0.05


@pytest.mark.parametrize("n", [4, 8])
def test_the_exponent_of_a_cost(n):
    rng = numpy_generator(5)
    size = 2.0 ** np.arange(n)
    found = []
    for _ in range(400):
        cost = 1e-3 * size**1.5 * np.exp(rng.normal(0, 0.1, n))
        swept = pd.DataFrame(
            {
                "axis": "samples",
                "metric": "m",
                "group": "g",
                "device": "cpu",
                "size": size,
                "seconds": cost,
                "peak_bytes": cost,
                "gradients": cost,
                "gradient_times": 1.0,
                "shared": False,
            }
        )
        found.append(exponents(swept)["time"].item())
    assert_covers([(e.low, e.high) for e in found], 1.5)
