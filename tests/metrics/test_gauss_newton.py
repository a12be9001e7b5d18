"""Metrics of the Gauss-Newton matrix against each sample's gradient by autograd, in float64."""

import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.errors import MetricFailed, TimeLimitExceeded
from sharpbench.measurement import Work
from sharpbench.subject import Subject

SAMPLES = 9


class Complex(nn.Module):
    """Complex weights between real inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5, dtype=torch.complex128))
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        z = x.to(self.weight.dtype) @ self.weight.T
        return self.out((z * z).real + z.imag)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self):
        super().__init__()
        self.weight, self.out = nn.Parameter(0.5 * torch.randn(5, 5)), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(torch.tanh(torch.tanh(x @ self.weight) @ self.weight.T))


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
    "norm": lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)),
    "by_batch": lambda: nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Tanh(), nn.Linear(6, 3)
    ),
    "weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3)
    ),
    "complex": Complex,
    "tied": Tied,
}


def made(name, targets=None):
    torch.manual_seed(4)
    model = NETWORKS[name]().double().eval()
    x = torch.randn(SAMPLES, 5, dtype=torch.float64)
    return Subject(model, x, torch.arange(SAMPLES) % 3 if targets is None else targets)


def flat(tensors):
    return torch.cat(
        [(torch.view_as_real(t) if t.is_complex() else t).detach().reshape(-1) for t in tensors]
    )


def slopes(subject):
    """⟨w, ∇ℓᵢ⟩, a gradient a sample."""
    parameters = list(subject.model.parameters())
    losses = subject.loss(subject.model(subject.inputs), subject.targets)
    rows = [flat(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses]
    return torch.stack(rows) @ flat(parameters)


def gauss_newton(subject):
    """(1/N) Σ JᵢᵀΛᵢJᵢ from a gradient an output, with Λ = diag(p) − ppᵀ by hand."""
    parameters = list(subject.model.parameters())
    outputs = subject.model(subject.inputs)
    total = 0.0
    for f in outputs:
        p = f.detach().softmax(0)
        rows = [flat(torch.autograd.grad(z, parameters, retain_graph=True)) for z in f]
        jacobian = torch.stack(rows)
        total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total / len(outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fisher_rao_norm_of_both_kinds_of_labels(name):
    subject = made(name)
    observed = sb.measure(subject, "fisher_rao_norm", labels="observed")
    assert observed.value == pytest.approx(float(slopes(subject).square().mean().sqrt()), rel=1e-9)
    assert observed.exact
    assert observed.details["checks"]["sample_slopes"] < 1e-12
    w, matrix = flat(subject.model.parameters()), gauss_newton(subject)
    model = sb.measure(subject, "fisher_rao_norm")
    assert model.value == pytest.approx(math.sqrt(float(w @ matrix @ w)), rel=1e-9)
    assert model.value != pytest.approx(observed.value, rel=1e-2)


def test_both_kinds_of_labels_agree_on_labels_that_the_model_draws():
    """The Fisher matrix is the expectation of the empirical one over labels from the softmax."""
    subject = made("mlp")
    p = subject.model(subject.inputs).detach().softmax(1)
    total = torch.zeros((), dtype=torch.float64)
    for label in range(3):
        drawn = made("mlp", torch.full((SAMPLES,), label))
        total += (p[:, label] * slopes(drawn).square()).mean()
    found = sb.measure(subject, "fisher_rao_norm", labels="model").value
    assert found == pytest.approx(float(total.sqrt()), rel=1e-10)


def test_slopes_are_the_same_chunk_by_chunk_and_of_a_part_of_the_parameters():
    subject = made("mlp")
    operator = GaussNewtonOperator(
        subject.model, subject.loss, subject.inputs, subject.targets, work=Work(), memory_budget=1
    )
    assert operator.chunk < SAMPLES
    assert torch.allclose(operator.sample_slopes(operator.point), slopes(subject), rtol=1e-12)
    part = sb.measure(subject, "fisher_rao_norm", labels="observed", parameters_of=("2.*",))
    parameters = list(subject.model[2].parameters())
    losses = subject.loss(subject.model(subject.inputs), subject.targets)
    rows = [flat(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses]
    exact = (torch.stack(rows) @ flat(parameters)).square().mean().sqrt()
    assert part.value == pytest.approx(float(exact), rel=1e-12)


def test_given_labels_need_no_convex_loss():
    subject = made("mlp", torch.randn(SAMPLES, 3, dtype=torch.float64))
    bent = Subject(
        subject.model,
        subject.inputs,
        subject.targets,
        loss=lambda f, y: -(f - y).square().sum(1).sqrt(),
    )
    found = sb.measure(bent, "fisher_rao_norm", labels="observed")
    assert found.value == pytest.approx(float(slopes(bent).square().mean().sqrt()), rel=1e-10)
    with pytest.raises(MetricFailed, match="not convex"):
        sb.measure(bent, "fisher_rao_norm")


class _WrongTwice(torch.autograd.Function):
    """2x, whose backward pass isn't linear in what torch takes it for."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return _Doubled.apply(gradient)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


def test_a_wrong_second_derivative_is_found_out():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return _WrongTwice.apply(self.layer(x))

    subject = Subject(Wrong(), torch.randn(SAMPLES, 5), torch.arange(SAMPLES) % 3)
    with pytest.raises(MetricFailed, match="wrong second derivative"):
        sb.measure(subject, "fisher_rao_norm", labels="observed")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_top_eigenvalue_by_the_gram_matrix_and_by_iteration(name, monkeypatch):
    subject = made(name)
    exact = float(torch.linalg.eigvalsh(gauss_newton(subject))[-1])
    gram = sb.measure(subject, "gauss_newton_top_eigenvalue")
    assert gram.details["gram_rows"] == 3 * SAMPLES
    assert gram.exact
    assert gram.value == pytest.approx(exact, rel=1e-9)
    monkeypatch.setattr("sharpbench.metrics.gauss_newton._GRAM_NUMBERS", 0)
    iterated = sb.measure(subject, "gauss_newton_top_eigenvalue", tolerance=1e-8)
    assert iterated.details["products"] > 0
    assert iterated.value == pytest.approx(exact, rel=1e-6)


def test_whatever_stops_the_gram_matrix_leaves_iteration(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no such luck")

    subject = made("mlp")
    exact = float(torch.linalg.eigvalsh(gauss_newton(subject))[-1])
    monkeypatch.setattr("sharpbench.metrics.gauss_newton.gauss_newton_gram", broken)
    found = sb.measure(subject, "gauss_newton_top_eigenvalue", tolerance=1e-8)
    assert found.value == pytest.approx(exact, rel=1e-6)
    assert "no such luck" in found.details["why"]

    def late(*_, **__):
        raise TimeLimitExceeded("late")

    monkeypatch.setattr("sharpbench.metrics.gauss_newton.gauss_newton_gram", late)
    with pytest.raises(TimeLimitExceeded):
        sb.measure(subject, "gauss_newton_top_eigenvalue")


@pytest.mark.parametrize("metric", ["gauss_newton_trace", "hessian_frobenius_norm"])
def test_probes_in_float32_tell_what_rounding_does(metric):
    """XTrace with as many vectors as its rank, and the norm of random probes, beside float64's."""
    subject = made("weight_norm")
    double = sb.measure(subject, metric, max_probes=60, tolerance=0.0)
    assert {e.source for e in double.errors} <= {"probes"}
    single = sb.measure(subject, metric, max_probes=60, tolerance=0.0, dtype="float32")
    sizes = {e.source: e.size for e in single.errors}
    assert set(sizes) == {"probes", "rounding"}
    assert 1e-8 < sizes["rounding"] / single.value < 1e-5
    apart = abs(single.value - double.value)
    assert 0 < apart <= 4 * math.hypot(*sizes.values())
