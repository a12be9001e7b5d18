"""Errors of means over points: the jackknife, and what skewness leaves of its degrees of freedom."""

import math

import pytest
import torch

from sharpbench.curvature.trace import degrees_of_freedom
from sharpbench.measurement import Work
from sharpbench.metrics.mean_over_points import jackknife, mean_over_points
from sharpbench.seeds import torch_generator
from tests.calibration.coverage import assert_covers


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(50, generator=torch_generator(0), dtype=torch.float64)
    found = jackknife((values.sum() - values) / 49, source="points")
    assert found.size == pytest.approx(float(values.std()) / math.sqrt(50))
    assert mean_over_points(values, Work()).standard_error == pytest.approx(found.size)
    assert jackknife(values[:1], source="points").size is None
    assert jackknife(torch.tensor([1.0, -math.inf]), source="points").size is None


def test_skewness_leaves_few_degrees_of_freedom():
    generator = torch_generator(1)
    assert degrees_of_freedom(torch.linspace(-1, 1, 40)) == pytest.approx(39)
    assert degrees_of_freedom(torch.ones(7)) == 6
    one_of_forty = torch.zeros(40, dtype=torch.float64)
    one_of_forty[0] = 1  # the most extreme that 40 values can be
    assert degrees_of_freedom(one_of_forty) < 1.2
    u = torch.rand(100_000, generator=generator, dtype=torch.float64)
    exponential = -u.log()  # of skewness 2
    assert degrees_of_freedom(exponential) == pytest.approx(1 / (7.2e-5 + 1e-5), rel=0.1)
    laplace = exponential * torch.linspace(-1, 1, 100_000).sign()  # heavy on both sides alike
    assert degrees_of_freedom(laplace) > 80_000


@pytest.mark.parametrize("n", [20, 64])
@pytest.mark.parametrize("law", ["exponential", "chi-square", "log-normal", "laplace"])
def test_coverage_of_means_of_skewed_and_of_heavy_tailed_laws(law, n):
    normal = torch.randn(600, n, generator=torch_generator(2), dtype=torch.float64)
    u = torch.special.ndtr(normal)
    values, truth = {
        "exponential": (-u.log(), 1.0),
        "chi-square": (normal.square(), 1.0),
        "log-normal": ((0.8 * normal).exp(), math.exp(0.32)),
        "laplace": (torch.where(u < 0.5, (2 * u).log(), -(2 - 2 * u).log()), 0.0),
    }[law]
    found = [mean_over_points(row, Work()).interval() for row in values]
    assert_covers([interval for interval in found if interval], truth)
