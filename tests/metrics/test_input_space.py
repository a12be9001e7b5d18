import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricUnsupported


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
    assert not sb.measure(quadratic, "input_curvature", iterations=1, seed=0).converged


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
    assert found.standard_error == pytest.approx(float(norms.std()) / math.sqrt(len(x)), rel=1e-9)


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
