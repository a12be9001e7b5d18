"""The covariance of the samples' gradients, where each gradient is known."""

import contextlib

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import MetricFailed
from sharpbench.metrics import metrics
from sharpbench.problems import problems
from sharpbench.seeds import torch_generator


def regression(samples: int = 40) -> tuple[sb.Subject, torch.Tensor]:
    """Linear regression with noise, and its samples' gradients (xᵀw − y)x."""
    generator = torch_generator(0)
    x = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(samples, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -1.0, 2.0]]))
        gradients = (model(x) - y) * x
    return sb.Subject(model, x, y), gradients


def test_of_all_samples_it_is_exact():
    subject, gradients = regression()
    expected = float(gradients.var(0, correction=0).sum())
    found = sb.measure(subject, "gradient_noise")
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.exact
    assert set(found.details["checks"]) == {"samples_apart", "sample_gradients"}
    scale = sb.measure(subject, "gradient_noise", quantity="noise_scale")
    assert scale.value == pytest.approx(expected / float(gradients.mean(0).square().sum()))


def test_of_some_samples_neither_figure_is_biased():
    subject, _ = regression(24)
    x = 1 + 0.3 * subject.inputs  # gradients that stand out of their noise
    gradients = (subject.model(x).detach() - subject.targets) * x
    moved = sb.Subject(subject.model, x, subject.targets)
    trace, squares = [], []
    for seed in range(70):
        a, b = (
            sb.measure(moved, "gradient_noise", samples=6, seed=seed, quantity=quantity)
            for quantity in ("trace", "noise_scale")
        )
        trace.append(a.value)
        squares.append(a.value / b.value)
    for found, exact in (
        (trace, gradients.var(0, correction=0).sum()),
        (squares, gradients.mean(0).square().sum()),
    ):
        values = torch.tensor(found)
        error = float(values.std()) / len(found) ** 0.5
        assert error < 0.12 * exact
        assert float(values.mean()) == pytest.approx(float(exact), abs=4 * error)


def test_layers_that_share_a_weight_are_measured_sample_by_sample():
    """Where the shortcut doesn't hold the same figure comes out of single gradients."""

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[0.3, -0.7]], dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.weight.exp()).sum(1, keepdim=True)

    x = torch.randn(9, 2, generator=torch_generator(1), dtype=torch.float64)
    model = Squared()
    subject = sb.Subject(model, x, torch.zeros(9, 1).double(), task="regression")
    grown = model.weight.detach().exp()
    gradients = (x * grown).sum(1, keepdim=True) * x * grown
    found = sb.measure(subject, "gradient_noise")
    assert found.value == pytest.approx(float(gradients.var(0, correction=0).sum()), rel=1e-12)
    assert "why" in found.details


def test_a_single_sample_has_no_variance():
    subject = problems.create("least_squares").subject(seed=0)
    with pytest.raises(sb.MetricFailed, match="ask for more samples"):
        sb.measure(subject, "gradient_noise", samples=1)
    at_the_minimum, _ = regression()
    fitted = sb.Subject(
        at_the_minimum.model, at_the_minimum.inputs, at_the_minimum.model(at_the_minimum.inputs)
    )
    assert sb.measure(fitted, "gradient_noise").value == 0
    with pytest.raises(sb.MetricFailed, match="can't be told from its noise"):
        sb.measure(fitted, "gradient_noise", quantity="noise_scale")


def test_a_noise_scale_that_is_hardly_told_from_infinity_has_an_error_of_untold_size():
    """Near a minimum few samples show a gradient; those that do show it too long, by an error too small."""
    problem = problems.create("tiny_network", {"training_steps": 200, "samples": 1024})
    subject = problem.subject(seed=0)
    metric = metrics.create("gradient_noise", {"quantity": "noise_scale", "samples": 128})
    whole = metrics.create("gradient_noise", {"quantity": "noise_scale"}).measure(subject, seed=0)
    answers = []
    for seed in range(20):
        with contextlib.suppress(MetricFailed):
            answers.append(metric.measure(subject, seed=seed))
    assert len(answers) > 3
    assert all(a.value < whole.value for a in answers)
    assert all(a.interval() is None for a in answers)
