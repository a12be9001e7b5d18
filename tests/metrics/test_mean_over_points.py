"""Errors of means over points: the jackknife, and what skewness leaves of its degrees of freedom."""

import math

import pytest
import torch

from sharpbench.curvature.trace import degrees_of_freedom
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics.mean_over_points import (
    jackknife,
    jackknife_in_two_stages,
    mean_over_decisions,
    mean_over_points,
)
from sharpbench.seeds import torch_generator
from tests.calibration.coverage import assert_covers

_MANY = 10**12


def test_of_finitely_many_points_only_those_left_out_are_uncertain():
    """Of all 40 nothing is left to chance; 30 of them have a quarter of the variance of 30 of many."""
    values = torch.randn(40, generator=torch_generator(4), dtype=torch.float64)
    whole = mean_over_points(values, 40, Work())
    assert whole.errors == ()
    assert whole.exact
    part, drawn = (mean_over_points(values[:30], n, Work()) for n in (40, _MANY))
    assert part.standard_error == pytest.approx(0.5 * drawn.standard_error)
    assert mean_over_points(values[:1], 40, Work()).errors == (ErrorComponent("points", None),)
    assert mean_over_decisions(values, torch.arange(40), 40, 40, Work()).errors == ()


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(50, generator=torch_generator(0), dtype=torch.float64)
    found = jackknife((values.sum() - values) / 49, source="points")
    assert found.size == pytest.approx(float(values.std()) / math.sqrt(50))
    of_many = mean_over_points(values, _MANY, Work())
    assert of_many.standard_error == pytest.approx(found.size)
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
    found = [mean_over_points(row, _MANY, Work()).interval() for row in values]
    assert_covers([interval for interval in found if interval], truth)


@pytest.mark.parametrize("chi", [1, 4, 17])
def test_coverage_of_means_of_few_quadratic_forms(chi):
    """Eight pairs of draws: what a loss rises by is a sum of squares, whose skewness eight do not show."""
    normal = torch.randn(600, 8, chi, generator=torch_generator(6), dtype=torch.float64)
    found = []
    for row in normal.square().sum(2):
        size, free = float(row.std()) / math.sqrt(8), degrees_of_freedom(row, few=True)
        errors = (ErrorComponent("draws", size, free),)
        found.append(Measurement(float(row.mean()), errors=errors).interval())
        assert free <= degrees_of_freedom(row)
    assert_covers([interval for interval in found if interval], float(chi))


def two_stages(x: torch.Tensor, population: int) -> Measurement:
    """The mean of x (n, D), n points of a population with D directions each."""
    n, each = x.shape
    own = x.mean(1)
    without = (own.sum() - own) / (n - 1)
    others = (each * own.unsqueeze(1) - x[:, : each if each > 1 else 0]) / max(each - 1, 1)
    inside = ((own.sum() - own).unsqueeze(1) + others) / n
    errors = jackknife_in_two_stages(without, inside, left=1 - n / population)
    return Measurement(float(own.mean()), errors=errors)


def test_the_variance_of_two_stages_is_that_of_the_textbook():
    """Cochran 1977, §10.3: (1 − f)s₁²/n + f s₂²/(nD), the first stage's share without the second's."""
    x = torch.randn(12, 3, generator=torch_generator(3), dtype=torch.float64)
    x = x + torch.randn(12, 1, generator=torch_generator(4), dtype=torch.float64)
    found = two_stages(x, 48)
    first, second = float(x.mean(1).var()), float(x.var(1).mean())
    total = 0.75 * first / 12 + 0.25 * second / 36
    assert found.standard_error == pytest.approx(math.sqrt(total))
    points, directions = found.errors
    assert (points.source, directions.source) == ("points", "directions")
    assert directions.size == pytest.approx(math.sqrt(second / 36))
    assert [e.source for e in two_stages(x, 12).errors] == ["directions"]
    # One direction a point: what a point adds can't be told from what its direction does.
    for population, source in ((12, "directions"), (48, "points and directions")):
        (one,) = two_stages(x[:, :1], population).errors
        assert one.source == source
        assert one.size == pytest.approx(float(x[:, 0].std()) / math.sqrt(12))


@pytest.mark.parametrize("population", [40, 80, 4000])
@pytest.mark.parametrize("law", ["normal", "log"])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_coverage_and_shares_of_two_stages(population, law, spread):
    """The mean of a finite population, each point with the mean of its directions: log|z|, as λ's, or z."""
    generator = torch_generator(5)
    means = spread * torch.randn(population, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(300):
        chosen = torch.randperm(population, generator=generator)[:40]
        z = torch.randn(40, 2, generator=generator, dtype=torch.float64)
        along = z if law == "normal" else z.abs().log() - math.log(0.5) / 2 + 0.5 * 0.5772156649
        found.append(two_stages(means[chosen].unsqueeze(1) + along, population))
    assert_covers([i for m in found if (i := m.interval())], float(means.mean()))
    of_each = 1.0 if law == "normal" else math.pi**2 / 8
    expected = {"directions": of_each / 80}
    if population > 40:
        expected["points"] = (1 - 40 / population) * float(means.var()) / 40
    for source, variance in expected.items():
        stated = [e.size**2 for m in found for e in m.errors if e.source == source]
        floored = 0.2 * expected["directions"] * (source == "points")
        assert sum(stated) / 300 == pytest.approx(variance, rel=0.15, abs=floored)
