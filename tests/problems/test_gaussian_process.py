"""The process's derivatives by autograd, and how fast Fourier features come to it."""

import math

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.problems import problems


def made(**parameters):
    problem = problems.create("gaussian_process", parameters)
    return problem, problem.subject(seed=0)


@pytest.mark.parametrize("nodes", [0, 9, 24])
def test_derivatives_are_those_of_autograd(nodes):
    problem, subject = made(nodes=nodes)
    x = subject.inputs.clone().requires_grad_()
    value = subject.model(x)[:, 0]
    for n, known in enumerate(problem.log_derivatives(subject, 4)):
        big = known > known.max() - 8
        assert (value.abs().log() - known)[big].abs().max() < 1e-8, n
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        value = slope[:, 0]


def test_it_is_the_posterior_mean_of_scikit_learn():
    """(K + σ²)α = y: at an observation the mean misses the datum by σ²α."""
    _, subject = made(observations=8)
    weights, centres = subject.model.weights.detach(), subject.model.centres
    data = subject.model(centres.unsqueeze(1)).detach()[:, 0] + 0.01 * weights
    process = GaussianProcessRegressor(RBF(0.7), alpha=0.01, optimizer=None)
    mean = process.fit(centres.unsqueeze(1).numpy(), data.numpy()).predict(subject.inputs.numpy())
    assert torch.allclose(subject.model(subject.inputs)[:, 0], torch.from_numpy(mean), atol=1e-9)
    assert float((data - (1.5 * centres).sin()).std()) == pytest.approx(0.1, rel=0.5)


def test_features_come_to_the_process_exponentially_fast():
    _, exact = made()
    rate = metrics.create("curvature_rate", {"target": 0, "samples": "all"})
    known = rate.checked_measure(exact, seed=0).value
    errors, off = [], []
    for nodes in (12, 24, 48):
        problem, subject = made(nodes=nodes)
        assert torch.equal(subject.inputs, exact.inputs)
        x = exact.inputs.clone().requires_grad_()
        found = []
        for model in (exact.model, subject.model):
            (first,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x)
            found.append(second)
        errors.append(float((found[1] - found[0]).abs().max() / found[0].abs().max()))
        off.append(abs(rate.checked_measure(subject, seed=0).value - known))
        assert rate.known(problem, subject).limit == pytest.approx(
            math.log(float(subject.model.frequencies.max()))
        )
    assert errors[0] > 30 * errors[1] > 1000 * errors[2]
    assert off[2] < 1e-3 * off[0]


def test_impossible_ones_are_refused():
    for parameters in ({"nodes": 1}, {"noise": 0.0}, {"points": 0}):
        with pytest.raises(InputError):
            problems.create("gaussian_process", parameters)
