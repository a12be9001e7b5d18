"""How far kernels drift: beside dense ones, as the width's root, and not at all where residuals decay."""

import copy
import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.metrics import metrics
from sharpbench.problems import problems
from tests.metrics.test_ntk import dense, network

NAME = "ntk_drift"


@pytest.mark.parametrize("samples", [20, 100])
def test_it_is_that_of_the_dense_kernels(samples):
    """Of 60 rows exactly, of 300 by products."""
    subject, initial = network(samples), network(samples, seed=1).model
    before = dense(subject.with_model(initial))
    known = float((dense(subject) - before).norm() / before.norm())
    found = sb.measure(
        sb.Subject(subject.model, subject.inputs, subject.targets, initial=initial),
        NAME,
        tolerance=0.03,
        max_probes=300,
    )
    assert found.exact == (samples == 20)
    low, high = found.interval(0.999)
    assert low - 1e-9 * known <= known <= high + 1e-9 * known
    assert found.value == pytest.approx(known, rel=0.2)


def test_nothing_drifts_before_training():
    subject = network(20)
    start = copy.deepcopy(subject.model)
    still = sb.Subject(subject.model, subject.inputs, subject.targets, initial=start)
    assert sb.measure(still, NAME).value == 0
    with pytest.raises(sb.MetricFailed, match="give them as Subject"):
        sb.measure(subject, NAME)


class Smooth(nn.Module):
    """The circle's network with tanh units."""

    def __init__(self, wide: nn.Module) -> None:
        super().__init__()
        self.inner, self.outer = wide.inner, wide.outer

    def forward(self, x):
        return ((x @ self.inner.T).tanh() @ self.outer / len(self.outer) ** 0.5).unsqueeze(1)


def fitted(width, steps, *, seed=0, rate=1.0, mode=1, smooth=False):
    """The circle's network by gradient descent, with its initial network."""
    subject = problems.create("ntk_circle", {"width": width, "mode": mode}).subject(seed=seed)
    start = Smooth(subject.model) if smooth else subject.model
    x, y, model = subject.inputs, subject.targets, copy.deepcopy(start)
    for _ in range(steps):
        loss = (model(x) - y).square().mean() / 2
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradient, strict=True):
                p -= rate * g
    return sb.Subject(model, x, y, initial=start)


@pytest.mark.parametrize(
    ("name", "smooth", "exponent"),
    [
        ("representation_shift", False, -0.5),
        (NAME, False, -0.75),  # √m units switch, some on and some off: m^¼/m
        (NAME, True, -1.0),  # to first order the signs of the outer weights cancel
    ],
)
def test_under_the_kernel_scaling_training_moves_a_wide_network_less(name, smooth, exponent):
    """Each weight moves by width^−½; the kernel, which theory bounds by the same, by less."""
    widths, sizes = (512, 8192), []
    for width in widths:
        figures = [
            sb.measure(fitted(width, 30, seed=seed, smooth=smooth), name).value for seed in range(3)
        ]
        sizes.append(math.sqrt(sum(f**2 for f in figures) / len(figures)))
    slope = math.log(sizes[1] / sizes[0]) / math.log(widths[1] / widths[0])
    assert slope == pytest.approx(exponent, abs=0.1)


def test_residuals_decay_by_mode_as_the_kernels_eigenvalues_say():
    """Spectral bias: of cos kφ it is exp(−λ_k t) with 3/π², ¼, 0.079 and, of the odd third mode, none."""
    steps, rate = 60, 0.1
    subject = fitted(16384, steps, rate=rate, mode=3)
    phi = 2 * math.pi / 32 * torch.arange(32, dtype=torch.float64)
    waves = torch.stack([(k * phi).cos() for k in range(4)] + [(k * phi).sin() for k in (1, 2, 3)])
    before, after = (
        (m(subject.inputs) - subject.targets).detach()[:, 0]
        for m in (subject.initial, subject.model)
    )
    start, end = waves @ before, waves @ after
    rates = torch.tensor([3 / math.pi**2, 0.25, 0.0789, 0.0, 0.25, 0.0789, 0.0]).double()
    expected = start * (-rates * rate * steps).exp()
    assert torch.allclose(end, expected, atol=0.03 * float(start.abs().max()))
    assert float(start[3]) == pytest.approx(-16, abs=0.1)
    assert float(end[3]) == pytest.approx(-16, abs=0.2)


def test_the_curvature_rate_does_not_order_what_is_learned_first():
    """cos 3φ, of λ = log 3, is never learned, and cos 4φ, of λ = log 4, is: spectral bias is the kernel's."""
    problem = problems.create("ntk_circle", {"width": 4, "points": 64})
    kernel = problem.kernel_of_infinite_width(problem.subject(seed=0)) / 64
    rates = torch.fft.rfft(kernel[0]).real
    assert float(rates[3]) == pytest.approx(0, abs=1e-3)
    assert float(rates[4]) > 5 * abs(float(rates[3]))
    found = []
    for wave in (3.0, 4.0):
        truth = problems.create("sine", {"scale": wave, "points": 32, "half_width": 1.0})
        metric = metrics.create("curvature_rate", {"target": 0, "samples": "all"})
        found.append(metric.known(truth, truth.subject(seed=0)).limit)
    assert found == pytest.approx([math.log(3), math.log(4)])


def test_the_residuals_norm_in_the_kernel_is_the_gradients_length():
    problem = problems.create("ntk_circle", {"width": 50})
    subject = problem.subject(seed=0)
    metric = metrics.create("gradient_norm")
    known = metric.known(problem, subject)
    assert metric.checked_measure(subject, seed=0).value == pytest.approx(known.expected)
    assert (
        metrics.create("gradient_norm", {"parameters_of": ("inner",)}).known(problem, subject)
        is None
    )


def test_a_gradient_by_hand():
    """Of ½(xw − y)²: the mean of x(xw − y)."""
    x = torch.tensor([[1.0], [2.0], [3.0]]).double()
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 2.0)
    subject = sb.Subject(layer, x, torch.ones(3, 1).double())
    assert sb.measure(subject, "gradient_norm").value == pytest.approx((1 + 6 + 15) / 3)
    part = sb.measure(subject, "gradient_norm", samples=2)
    assert part.interval() is None
