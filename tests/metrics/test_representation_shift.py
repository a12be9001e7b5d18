"""Shifts by hand, and the mean-field scaling in which they fall as 1/α."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from tests.metrics.test_norms import network

NAME = "representation_shift"


def test_by_hand():
    """Rows (1, 1 | 1) of two units and (1, 1) of two without a bias, all three times as large."""
    x, y = torch.randn(5, 2).double(), torch.tensor([0, 1, 0, 1, 0])
    subject = sb.Subject(network(3.0), x, y, initial=network(1.0))
    assert sb.measure(subject, NAME).value == pytest.approx(math.sqrt(4 * (3 + 3 + 2 + 2) / 4))
    assert sb.measure(subject, NAME, quantity="relative").value == pytest.approx(2)
    assert sb.measure(subject, NAME, parameters_of=["2"]).value == pytest.approx(math.sqrt(8))
    with pytest.raises(sb.MetricFailed, match="no weight whose rows"):
        sb.measure(subject, NAME, parameters_of=["0.bias"])
    with pytest.raises(sb.MetricFailed, match="give them as Subject"):
        sb.measure(sb.Subject(network(3.0), x, y), NAME)


class MeanField(nn.Module):
    """f(x) = (α/N) Σ aᵢ tanh(wᵢ·x)."""

    def __init__(self, alpha: float, width: int) -> None:
        super().__init__()
        self.alpha = alpha
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(width, 2, generator=generator).double())
        self.outer = nn.Parameter(torch.randn(width, generator=generator).double())

    def forward(self, x):
        hidden = (x @ self.inner.T).tanh()
        return (self.alpha / len(self.outer) * (hidden @ self.outer)).unsqueeze(1)


def test_in_the_mean_field_scaling_it_falls_as_one_over_alpha():
    """Gradient flow of the time α⁻²·N fits as much at every α, by units that move 1/α as far."""
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(1)).double()
    y, width = x[:, :1].sin(), 400
    shifts = []
    for alpha in (10.0, 100.0, 1000.0):
        model = MeanField(alpha, width)
        with torch.no_grad():  # from zero outputs, whatever α is
            model.outer[width // 2 :] = -model.outer[: width // 2]
            model.inner[width // 2 :] = model.inner[: width // 2]
        start = copy.deepcopy(model)
        for _ in range(100):
            loss = (model(x) - y).square().mean() / 2
            gradient = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradient, strict=True):
                    p -= 0.5 * width / alpha**2 * g
        shifts.append(sb.measure(sb.Subject(model, x, y, initial=start), NAME).value)
    slopes = [math.log10(b / a) for a, b in itertools.pairwise(shifts)]
    assert slopes == pytest.approx([-1, -1], abs=0.02)
