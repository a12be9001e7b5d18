"""Critical sharpness where the loss along a line is a parabola, or a known function."""

import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.metrics import metrics
from sharpbench.problems import problems
from sharpbench.seeds import torch_generator
from sharpbench.subject import Splits


def quadratic() -> tuple[sb.Subject, torch.Tensor, torch.Tensor]:
    """Least squares, its Hessian and its gradient."""
    subject = problems.create("least_squares", {"features": 6}).subject(seed=1)
    x, w = subject.inputs, subject.model.weight.detach().squeeze()
    return subject, x.T @ x / len(x), x.T @ (x @ w - subject.targets.squeeze()) / len(x)


@pytest.mark.parametrize("resolution", [1e-2, 1e-6])
def test_on_a_quadratic_it_is_the_curvature_along_the_direction(resolution):
    subject, hessian, g = quadratic()
    for direction, d in (("gradient", g), ("sign", g.sign())):
        found = sb.measure(
            subject, "critical_sharpness", direction=direction, resolution=resolution
        )
        expected = float(d @ hessian @ d / (g @ d))
        assert abs(found.value - expected) <= found.error_bound
        assert found.error_bound == pytest.approx(resolution * expected, rel=0.02)
        assert not found.errors
        assert found.work.hessian_vector == 0
        assert found.work.gradient == len(subject.inputs)
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    assert sb.measure(subject, "critical_sharpness").value < top


def test_the_way_down_another_loss():
    """gᵀHg/gᵀg of the test loss along the gradient of the training loss is 2(g₁ᵀg₂)… in full:
    η_c = 2 g₁ᵀg₂/g₁ᵀH₂g₁."""
    generator = torch_generator(0)
    x, z = (torch.randn(50, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
    w = model.weight.detach().squeeze()
    zeros = torch.zeros(50, 1, dtype=torch.float64)
    splits = Splits(x, zeros, z, zeros, outputs=1, task="regression")
    subject = sb.Subject(model, x, zeros, splits=splits)
    first, second, hessian = x.T @ x @ w / 50, z.T @ z @ w / 50, z.T @ z / 50
    expected = float(first @ hessian @ first / (first @ second))
    parameters = {"split": "test", "gradient_of": "train"}
    found = sb.measure(subject, "critical_sharpness", **parameters, resolution=1e-6)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert sb.measure(subject, "critical_sharpness", **parameters, samples=20).standard_error > 0
    some = sb.measure(subject, "critical_sharpness", samples=20)
    assert [(e.source, e.size) for e in some.errors] == [("points", None)]


def test_where_the_loss_does_not_fall_no_rounding_is_taken_for_a_fall():
    """Test data that pull the weights the other way, and a minimum that is one to the last digits."""
    generator = torch_generator(3)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    truth = torch.randn(4, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(truth.T + 0.1)
    splits = Splits(x, x @ truth, x, x @ (truth + 1), outputs=1, task="regression")
    subject = sb.Subject(model, x, x @ truth, splits=splits)
    found = sb.measure(subject, "critical_sharpness")
    assert found.work.gradient == 50
    for direction in ("gradient", "sign"):
        with pytest.raises(sb.MetricFailed, match="rises along the way down the test loss"):
            sb.measure(subject, "critical_sharpness", gradient_of="test", direction=direction)
    noisy = x @ truth + torch.randn(50, 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, noisy).solution.T)
    minimum = sb.Subject(model, x, noisy)
    assert 0 < sb.measure(minimum, "gradient_norm").value < 1e-14
    with pytest.raises(sb.MetricFailed, match="by no more than it is rounded"):
        sb.measure(minimum, "critical_sharpness")


class Potential(nn.Module):
    """The loss is a function of one parameter, whatever the input."""

    def __init__(self, function, at: float) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.tensor([at], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.w) + 0 * x


def potential(function, at: float) -> sb.Subject:
    ones = torch.ones(4, 1, dtype=torch.float64)
    return sb.Subject(
        Potential(function, at), ones, ones, loss=lambda f, _: f[:, 0], task="regression"
    )


def test_beyond_a_quadratic():
    """w⁴ from w = 1 is as high at w = −1: η_c·4 = 2, so that λ_c = 4 where w⁴'' = 12."""
    found = sb.measure(potential(lambda w: w**4, 1.0), "critical_sharpness", resolution=1e-7)
    assert found.value == pytest.approx(4, rel=1e-6)


def test_a_way_without_end_or_without_beginning_is_told():
    with pytest.raises(sb.MetricFailed, match="does not rise along the direction"):
        sb.measure(potential(lambda w: (-w).exp(), 0.0), "critical_sharpness")
    with pytest.raises(sb.MetricFailed, match="no way leads down"):
        sb.measure(potential(lambda w: w.square(), 0.0), "critical_sharpness")
    with pytest.raises(ValueError, match="resolution"):
        metrics.create("critical_sharpness", {"resolution": math.inf})
