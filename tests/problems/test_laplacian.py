"""An eigenfunction of the Laplacian beside dense derivatives."""

import math

import pytest
import torch
from torch.func import hessian, jacrev, vmap

from sharpbench.metrics import metrics
from sharpbench.problems import problems


def value(point):
    return (math.pi * point).sin().prod()


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_every_norm_of_its_derivatives_is_known(dimension):
    problem = problems.create("laplacian_mode", {"dimension": dimension, "points": 7})
    subject = problem.subject(seed=0)
    derivative, known = value, problem.log_derivatives(subject, 4).exp()
    for order in range(5):
        found = vmap(derivative)(subject.inputs).reshape(7, -1).norm(dim=1)
        assert torch.allclose(found, known[order], rtol=1e-10)
        derivative = jacrev(derivative)


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_minus_the_laplacian_is_d_times_pi_squared(dimension):
    problem = problems.create("laplacian_mode", {"dimension": dimension, "points": 20})
    subject = problem.subject(seed=1)
    dense = vmap(hessian(value))(subject.inputs)
    trace = dense.diagonal(dim1=1, dim2=2).sum(1)
    outputs = subject.model(subject.inputs)[:, 0]
    assert torch.allclose(-trace, dimension * math.pi**2 * outputs)
    gradients, norms = problem.input_norms(subject)
    assert torch.allclose(gradients, vmap(jacrev(value))(subject.inputs).norm(dim=1))
    assert torch.allclose(norms, torch.linalg.eigvalsh(dense).abs().amax(1))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("input_curvature", {"tolerance": 1e-9}), ("input_jacobian_norm", {"output": "logits"}),
     ("curvature_rate", {"target": 0, "norm": "frobenius", "samples": "all"})],
)  # fmt: skip
@pytest.mark.parametrize("dimension", [1, 4])
def test_metrics_of_the_input_find_what_is_known(name, parameters, dimension):
    problem = problems.create("laplacian_mode", {"dimension": dimension, "points": 64})
    subject = problem.subject(seed=0)
    metric = metrics.create(name, parameters)
    found, known = metric.checked_measure(subject, seed=0), metric.known(problem, subject)
    assert abs(found.value - known.expected) <= 4 * (found.standard_error or 0) + 1e-6 * abs(
        found.value
    )


def test_the_rate_tends_to_the_band_edge():
    problem = problems.create("laplacian_mode", {"dimension": 3, "points": 50})
    subject = problem.subject(seed=0)
    logs = problem.log_derivatives(subject, 80).mean(1)
    assert float(logs[80] - logs[60]) / 20 == pytest.approx(math.log(math.pi * 3**0.5), abs=1e-6)
    assert problem.limits(subject, mean_of_logs=True)[0] == math.log(math.pi * 3**0.5)
