import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricUnsupported
from sharpbench.metrics import metrics
from sharpbench.metrics.base import measured_points


def wave_loss(outputs, targets):
    return outputs[:, 0]


class Quadratic(nn.Module):
    """f(x) = ½ xᵀAx with A = diag(−5, 1, 2): gradient Ax, Hessian A everywhere."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([-5.0, 1.0, 2.0], dtype=torch.float64))

    def forward(self, x):
        return 0.5 * (self.a * x.square()).sum(1, keepdim=True)


@pytest.fixture(scope="module")
def quadratic():
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return sb.Subject(Quadratic(), x, torch.zeros(30, 1), loss=wave_loss)


def test_curvature_of_a_quadratic(quadratic):
    sizes = (quadratic.model.a * quadratic.inputs).norm(dim=1)
    found = sb.measure(quadratic, "input_curvature", tolerance=1e-9, epsilon=1e-12, seed=0)
    assert found.value == pytest.approx(float((5 / sizes).mean()), rel=1e-6)
    assert found.converged
    assert found.error_bound is None  # three inputs: the blocks are written out
    short = sb.measure(quadratic, "input_curvature", iterations=1, seed=0)
    assert not short.converged
    assert short.value < found.value < short.value + short.error_bound


def test_curvature_in_float32_allows_for_rounding(trained_mlp):
    given = {"samples": 60, "seed": 0}
    exact = sb.measure(trained_mlp, "input_curvature", tolerance=1e-9, iterations=64, **given)
    for tolerance in (1e-2, 1e-4):
        found = sb.measure(
            trained_mlp, "input_curvature", tolerance=tolerance, dtype="float32", **given
        )
        assert found.converged
        assert found.error_bound > 0
        assert abs(found.value - exact.value) <= found.error_bound


@pytest.mark.parametrize("tolerance", [0.1, 1e-3])
def test_curvature_equals_that_of_the_dense_hessians(trained_cnn, tolerance):
    found = sb.measure(trained_cnn, "input_curvature", samples=24, tolerance=tolerance, seed=1)
    close = sb.measure(
        trained_cnn, "input_curvature", samples=24, tolerance=1e-9, iterations=64, seed=1
    )
    metric = metrics.create("input_curvature", {"samples": 24})
    x, y = measured_points(trained_cnn, "test", metric.samples, torch.float64, seed=1)
    model = trained_cnn.working_model(torch.float64)

    def loss(point, label):
        return trained_cnn.losses(model(point.unsqueeze(0)), label.unsqueeze(0))[0]

    size = x[0].numel()
    dense = torch.stack(
        [
            torch.autograd.functional.hessian(lambda p, t=t: loss(p, t), point).view(size, size)
            for point, t in zip(x, y, strict=True)
        ]
    )
    slopes = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda p, t=t: loss(p, t), point).flatten()
            for point, t in zip(x, y, strict=True)
        ]
    )
    ratios = torch.linalg.matrix_norm(dense, 2) / (slopes.norm(dim=1) + 1e-6)
    truth = float(ratios.mean())
    assert close.value == pytest.approx(truth, rel=1e-8)
    assert found.converged
    assert found.value <= truth * (1 + 1e-12)
    assert truth <= found.value + (found.error_bound or 0)
    assert (found.error_bound or 0) <= tolerance * found.value
    assert found.details["products"] <= close.details["products"]


def test_curvature_is_exact_where_the_loss_is_linear_in_the_input():
    x = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    subject = sb.Subject(nn.Linear(12, 1), x, torch.zeros(20, 1), loss=wave_loss)
    found = sb.measure(subject, "input_curvature", seed=0)
    assert found.value == 0
    assert found.converged
    assert found.error_bound is None


def test_curvature_in_chunks_equals_that_at_once(trained_mlp, monkeypatch):
    from sharpbench.metrics import input_space

    at_once = sb.measure(trained_mlp, "input_curvature", samples=60, tolerance=1e-8, seed=0)
    monkeypatch.setattr(input_space, "_KRYLOV_NUMBERS", 64 * 51 * 7)
    chunked = sb.measure(trained_mlp, "input_curvature", samples=60, tolerance=1e-8, seed=0)
    assert chunked.value == pytest.approx(at_once.value, rel=1e-8)
    assert chunked.details["failure_probability"] <= 1e-3 * (1 + 1e-9)


def test_gradient_change_of_a_quadratic(quadratic):
    """A(x + hz) − Ax = hAz, z = ±1/√3 in every coordinate."""
    found = sb.measure(quadratic, "input_gradient_change", step=0.3, seed=0)
    assert found.value == pytest.approx(0.3 * math.sqrt(30 / 3), rel=1e-12)


@pytest.mark.parametrize("output", ["logits", "softmax"])
def test_jacobian_norm_equals_the_dense_jacobian(tiny, output):
    found = sb.measure(tiny, "input_jacobian_norm", output=output, samples="all", seed=0)
    model = tiny.working_model(torch.float64)
    x = tiny.data("test")[0].double()

    def function(p):
        z = model(p.unsqueeze(0))[0]
        return z.softmax(0) if output == "softmax" else z

    norms = torch.func.vmap(torch.func.jacrev(function))(x).flatten(1).norm(dim=1)
    assert found.value == pytest.approx(float(norms.mean()), rel=1e-10)
    assert found.exact
    drawn = 3 * len(x) // 4
    part = sb.measure(tiny, "input_jacobian_norm", output=output, samples=drawn, seed=0)
    left = math.sqrt((1 - drawn / len(x)) / drawn)
    assert part.standard_error == pytest.approx(float(norms.std()) * left, rel=0.5)


def test_outputs():
    z = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    subject = sb.Subject(nn.Linear(2, 2), z, torch.tensor([0, 0, 1]))
    with torch.no_grad():
        subject.model.weight.copy_(torch.eye(2))
        subject.model.bias.zero_()
    assert sb.measure(subject, "logit_norm").value == pytest.approx(8 / 3)
    assert sb.measure(subject, "margin").value == pytest.approx(2 / 3)
    p = [1 / (1 + math.exp(-m)) for m in (1, 1, 2)]
    assert sb.measure(subject, "mean_confidence").value == pytest.approx(sum(p) / 3)


def test_regressions_and_bad_parameters(quadratic, tiny):
    for name in ("margin", "mean_confidence", "input_jacobian_norm"):
        with pytest.raises(MetricUnsupported, match="regression"):
            sb.measure(quadratic, name)
    for name, bad in (
        ("input_curvature", {"iterations": 0}),
        ("input_gradient_change", {"step": 0}),
    ):
        with pytest.raises(InputError):
            sb.measure(tiny, name, **bad)
