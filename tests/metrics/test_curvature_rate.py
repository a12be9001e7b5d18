import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed, MetricUnsupported
from sharpbench.metrics.curvature_rate import _cross_entropy_of_margins


class Waves(nn.Module):
    """f(x) = sin(k·w·x)/k + 2, so that ½(f − 0)² has growing derivatives; w is a unit vector."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def forward(self, x):
        return torch.exp(self.k * x.sum(1, keepdim=True))


def identity_loss(outputs, targets):
    return outputs[:, 0]


@pytest.mark.parametrize("k", [0.5, 1.0, 3.0])
def test_an_exponential_has_rate_log_of_its_exponent(k):
    """dₙ = kⁿ e^{kx} along a unit direction of one dimension: λ = log k exactly, with no error."""
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(1)
    subject = sb.Subject(Waves(k).double(), x, torch.zeros(20, 1), loss=identity_loss)
    found = sb.measure(subject, "curvature_rate", orders=(1, 2, 3, 4, 5), seed=0)
    assert found.value == pytest.approx(math.log(k), abs=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert found.details["residual_rms"] == pytest.approx(0, abs=1e-12)


def test_scaling_the_input_by_one_over_c_adds_log_c(tiny):
    c = 3.0

    class Rescaled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(c * x)

    x, y = tiny.data("test")
    plain = sb.Subject(tiny.model, x, y)
    scaled = sb.Subject(Rescaled(tiny.model), x.double() / c, y)
    values = [sb.measure(s, "curvature_rate", samples=50, seed=0).value for s in (plain, scaled)]
    assert values[1] - values[0] == pytest.approx(math.log(c), abs=1e-6)


@pytest.mark.parametrize("margin", [1.0, 20.0, 60.0, 300.0])
def test_the_loss_keeps_its_precision_for_confident_points(margin):
    """ℓ = log(1 + e^{−m−x}): far out every derivative is ±e^{−m−x}, where −log softmax gives noise."""
    t = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    outputs = torch.stack([margin + t, torch.zeros_like(t)], dim=1)
    value = _cross_entropy_of_margins(outputs, torch.tensor([0]))
    assert value.item() == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-12)
    p = 1 / (1 + math.exp(margin))
    for expected in (-p, p * (1 - p), -p * (1 - p) * (1 - 2 * p)):
        (value,) = torch.autograd.grad(value.sum(), t, create_graph=True)
        assert value.item() == pytest.approx(expected, rel=1e-10)


def test_the_loss_is_cross_entropy():
    outputs = 5 * torch.randn(50, 7, dtype=torch.float64)
    targets = torch.arange(50) % 7
    expected = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    assert torch.allclose(_cross_entropy_of_margins(outputs, targets), expected, rtol=1e-12)


def test_the_papers_floor_biases_lambda_upward_for_confident_networks(tiny):
    class Confident(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 40 * self.inner(x)

    x, y = tiny.data("test")
    subject = sb.Subject(Confident(tiny.model), x, y)
    free = sb.measure(subject, "curvature_rate", seed=0)
    floored = sb.measure(subject, "curvature_rate", floor=1e-12, seed=0)
    assert floored.value != free.value
    assert abs(floored.value) < abs(free.value)


def test_boundary_points_are_taken_from_the_band_or_the_nearest(tiny):
    found = sb.measure(tiny, "curvature_rate", points="boundary", seed=0)
    assert 0 < found.details["points_in_band"] == found.samples
    assert not found.details["fallback_to_nearest"]
    forced = sb.measure(
        tiny, "curvature_rate", points="boundary", band=(0.0, 0.1), samples=9, seed=0
    )
    assert forced.details["fallback_to_nearest"]
    assert forced.samples == 9


def test_what_has_no_rate_says_why():
    x, y = torch.randn(10, 3), torch.arange(10) % 2
    constant = nn.Linear(3, 2)
    nn.init.zeros_(constant.weight)
    flat = sb.Subject(constant, x, y)
    with pytest.raises(MetricFailed, match="flat, saturated or not finite"):
        sb.measure(flat, "curvature_rate")
    regression = sb.Subject(nn.Linear(3, 1), x, torch.randn(10))
    with pytest.raises(MetricUnsupported, match="regression"):
        sb.measure(regression, "curvature_rate", points="boundary")


@pytest.mark.parametrize(
    "parameters",
    [{"orders": (2,)}, {"orders": (0, 1)}, {"samples": 0}, {"band": (0.6, 0.5)}, {"floor": 0.0}],
)
def test_impossible_parameters_are_refused(tiny, parameters):
    with pytest.raises(InputError):
        sb.measure(tiny, "curvature_rate", **parameters)


def test_a_linear_relu_network_on_squared_error_has_no_third_derivative():
    """Piecewise linear f and ½f²: D³ = 0 exactly, so there is no slope through order 3."""
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    subject = sb.Subject(network, torch.randn(8, 2), torch.randn(8))
    with pytest.raises(MetricFailed):
        sb.measure(subject, "curvature_rate", orders=(1, 2, 3))
    assert sb.measure(subject, "curvature_rate", orders=(1, 2)).details["points_kept"] > 0
