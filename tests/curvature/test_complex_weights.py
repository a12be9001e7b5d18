"""Curvature in complex weights is that in their real and imaginary parts."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

import sharpbench as sb
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.loss import per_sample_loss
from sharpbench.measurement import Work
from sharpbench.subject import Subject

CROSS_ENTROPY = per_sample_loss("classification")
SAMPLES = 30


class Complex(nn.Module):
    """Complex weights and a complex bias between real inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5, dtype=torch.complex128))
        self.bias = nn.Parameter(torch.randn(4, dtype=torch.complex128))
        self.out = nn.Linear(4, 3).double()

    def forward(self, x):
        z = x.to(self.weight.dtype) @ self.weight.T + self.bias
        return self.out((z * z).real + z.abs())


class Parts(nn.Module):
    """The same in real arithmetic: each complex parameter is a pair (…, 2)."""

    def __init__(self, model):
        super().__init__()
        self.weight = nn.Parameter(torch.view_as_real(model.weight.detach()).clone())
        self.bias = nn.Parameter(torch.view_as_real(model.bias.detach()).clone())
        self.out = model.out

    def forward(self, x):
        real = x @ self.weight[..., 0].T + self.bias[:, 0]
        imag = x @ self.weight[..., 1].T + self.bias[:, 1]
        return self.out(real**2 - imag**2 + (real**2 + imag**2).sqrt())


@pytest.fixture(scope="module")
def case():
    """The network, its data, and the dense Hessian and Jacobian of the real twin."""
    torch.manual_seed(0)
    model = Complex()
    x, y = torch.randn(SAMPLES, 5, dtype=torch.float64), torch.arange(SAMPLES) % 3
    twin = Parts(model)
    assert torch.allclose(model(x), twin(x), rtol=1e-12)
    named = dict(twin.named_parameters())
    point = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def outputs(vector):
        pieces = vector.split([p.numel() for p in named.values()])
        shaped = {n: v.view_as(named[n]) for n, v in zip(named, pieces, strict=True)}
        return functional_call(twin, shaped, (x,))

    exact = hessian(lambda v: CROSS_ENTROPY(outputs(v), y).mean())(point)
    jacobian = torch.func.jacfwd(outputs)(point)
    p = outputs(point).softmax(1)
    curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    linear = torch.einsum("nkp,nkl,nlq->pq", jacobian, curvature, jacobian) / SAMPLES
    return model, x, y, exact, linear


def test_products_are_those_of_the_real_twin(case):
    model, x, y, exact, linear = case
    for kind, matrix in ((HessianOperator, exact), (GaussNewtonOperator, linear)):
        operator = kind(model, CROSS_ENTROPY, x, y, work=Work())
        assert operator.dimension == 2 * 24 + 15
        assert torch.allclose(operator.dense(), matrix, rtol=1e-10, atol=1e-12)
        vector = torch.randn(operator.dimension, dtype=torch.float64)
        assert torch.allclose(operator.matvec(vector), matrix @ vector, rtol=1e-10, atol=1e-12)
        assert operator.checks["product"] < 1e-5


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenvalues(case, which):
    model, x, y, exact, _ = case
    found = sb.measure(Subject(model, x, y), "hessian_top_eigenvalue", which=which, tolerance=1e-8)
    spectrum = torch.linalg.eigvalsh(exact)
    wanted = {
        "largest": spectrum[-1],
        "smallest": spectrum[0],
        "magnitude": spectrum[spectrum.abs().argmax()],
    }[which]
    assert found.converged
    assert found.value == pytest.approx(float(wanted), rel=1e-7)


def test_traces_and_norms(case):
    model, x, y, exact, linear = case
    asked = Subject(model, x, y)
    trace = float(exact.trace())
    assert sb.measure(asked, "hessian_trace").value == pytest.approx(trace, rel=1e-10)
    for method in ("gauss_newton", "xtrace", "hutchinson"):
        found = sb.measure(asked, "hessian_trace", method=method, max_probes=60)
        assert found.value == pytest.approx(trace, abs=4 * (found.standard_error or 0.0) + 1e-10)
    norm = sb.measure(asked, "hessian_frobenius_norm", max_probes=400)
    assert norm.value == pytest.approx(float(exact.norm()), abs=4 * norm.standard_error)
    exact_trace = sb.measure(asked, "gauss_newton_trace").value
    assert exact_trace == pytest.approx(float(linear.trace()), rel=1e-10)
    top = sb.measure(asked, "gauss_newton_top_eigenvalue", tolerance=1e-8).value
    assert top == pytest.approx(float(torch.linalg.eigvalsh(linear)[-1]), rel=1e-7)


def test_the_negative_share_of_the_spectrum(case):
    model, x, y, exact, _ = case
    found = sb.measure(Subject(model, x, y), "hessian_spectral_density", probes=8, steps=63)
    spectrum = torch.linalg.eigvalsh(exact)
    share = float(-spectrum[spectrum < 0].sum() / spectrum.abs().sum())
    assert found.value == pytest.approx(share, abs=4 * found.standard_error)
