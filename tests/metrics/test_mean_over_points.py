"""Errors of means over points: the jackknife, and what heavy tails leave of its degrees of freedom."""

import math

import pytest
import torch

from sharpbench.curvature.trace import degrees_of_freedom
from sharpbench.measurement import Work
from sharpbench.metrics.mean_over_points import jackknife, mean_over_points
from sharpbench.seeds import torch_generator


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(50, generator=torch_generator(0), dtype=torch.float64)
    found = jackknife((values.sum() - values) / 49, source="points")
    assert found.size == pytest.approx(float(values.std()) / math.sqrt(50))
    assert mean_over_points(values, Work()).standard_error == pytest.approx(found.size)
    assert jackknife(values[:1], source="points").size is None
    assert jackknife(torch.tensor([1.0, -math.inf]), source="points").size is None


def test_heavy_tails_leave_few_degrees_of_freedom():
    generator = torch_generator(1)
    uniform = torch.rand(40, generator=generator, dtype=torch.float64)
    assert degrees_of_freedom(uniform) == 39
    assert degrees_of_freedom(torch.ones(7)) == 6
    one_of_forty = torch.zeros(40, dtype=torch.float64)
    one_of_forty[0] = 1  # the most extreme that 40 values can be
    assert degrees_of_freedom(one_of_forty) < 1.2
    laplace = torch.distributions.Laplace(0.0, 1.0)
    u = torch.rand(100_000, generator=generator, dtype=torch.float64)
    assert degrees_of_freedom(laplace.icdf(u)) == pytest.approx(
        1 / (4.5e-5 + 1e-5), rel=0.1
    )  # κ = 3
