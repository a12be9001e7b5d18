"""The gradient in the Gauss-Newton matrix's leading space, beside dense matrices and a linear regression."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import sharpbench as sb
from sharpbench.errors import MetricFailed
from sharpbench.problems import problems

NAME = "gauss_newton_directions"


def network(samples):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        x = torch.randn(samples, 4, dtype=torch.float64)
    return sb.Subject(model, x, torch.arange(samples) % 3)


def dense(subject):
    """Each sample's gradient (N, P), and its part JᵀΛJ of the Gauss-Newton matrix (N, P, P)."""
    model, x, y = subject.model, subject.inputs, subject.targets
    weights = {k: p.detach() for k, p in model.named_parameters()}
    found = jacrev(lambda w: functional_call(model, w, (x,)))(weights)
    jacobian = torch.cat([j.flatten(2) for j in found.values()], 2)
    p = model(x).softmax(1).detach()
    slopes = p - nn.functional.one_hot(y, 3)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("nc,ncp->np", slopes, jacobian), jacobian.mT @ curvature @ jacobian


@pytest.mark.parametrize("samples", [20, 200])
def test_every_direction_is_that_of_the_dense_matrix(samples):
    """Of 60 rows by the Gram matrix, of 600 by products."""
    subject = network(samples)
    gradients, parts = dense(subject)
    values, vectors = torch.linalg.eigh(parts.mean(0))
    values, vectors = values.flip(0)[:3], vectors.flip(1)[:, :3]
    slopes = gradients @ vectors
    curvatures = torch.einsum("pk,npq,qk->nk", vectors, parts, vectors)
    square = gradients.mean(0).square().sum()
    found = sb.measure(subject, NAME, tolerance=1e-4)
    assert found.converged
    assert found.value == pytest.approx(float(slopes.mean(0).square().sum() / square), rel=1e-5)
    for k, row in enumerate(found.details["directions"]):
        mean = slopes[:, k].mean().square()
        assert row["eigenvalue"] == pytest.approx(float(values[k]), rel=1e-7)
        assert row["curvature"] == pytest.approx(float(values[k]), rel=1e-7)
        assert row["share"] == pytest.approx(float(mean / square), rel=1e-3)
        assert row["signal_to_noise"] == pytest.approx(float(mean / slopes[:, k].var()), rel=1e-3)
        assert row["curvature_spread"] == pytest.approx(float(curvatures[:, k].std()), rel=1e-3)
    ratio = sb.measure(subject, NAME, tolerance=1e-4, quantity="signal_to_noise")
    known = slopes.mean(0).square().sum() / slopes.var(0).sum()
    assert ratio.value == pytest.approx(float(known), rel=1e-5)


def test_a_bound_covers_what_too_few_products_miss():
    subject = network(200)
    coarse = sb.measure(subject, NAME, max_products=12, count=2, tolerance=0.3)
    exact = sb.measure(subject, NAME, tolerance=1e-6, count=2).value
    assert coarse.error_bound > 0
    assert abs(coarse.value - exact) <= coarse.error_bound


def test_of_a_linear_regression_the_directions_are_the_features_own():
    """G = XᵀX/N = R diag(1/k) Rᵀ and g = G(w − w*)."""
    problem = problems.create("least_squares", {"features": 5, "samples": 40})
    subject = problem.subject(seed=0)
    x, y = subject.inputs, subject.targets
    gradient = x.T @ (subject.model(x).detach() - y) / len(x)
    _, vectors = torch.linalg.eigh(x.T @ x)
    share = (vectors[:, -2:].T @ gradient).square().sum() / gradient.square().sum()
    found = sb.measure(subject, NAME, count=2)
    assert found.value == pytest.approx(float(share))
    assert [d["eigenvalue"] for d in found.details["directions"]] == pytest.approx([1, 0.5])
    assert sb.measure(subject, NAME, count=5).value == pytest.approx(1)
    assert sb.measure(subject, NAME, count=50).value == pytest.approx(1)  # of rank 5


def test_a_space_between_equal_eigenvalues_is_none():
    x = torch.eye(4, dtype=torch.float64)
    subject = sb.Subject(nn.Linear(4, 1, bias=False).double(), x, torch.zeros(4, 1).double())
    with pytest.raises(MetricFailed, match="so that the space is not defined"):
        sb.measure(subject, NAME, count=2)
    assert sb.measure(subject, NAME, count=4).value == pytest.approx(1)
