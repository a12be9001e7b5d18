"""The diagonal network: its Hessian dense, and what its initial scale does."""

import pytest
import torch
from scipy.optimize import linprog
from torch.func import functional_call, hessian

import sharpbench as sb
from sharpbench.problems import problems


def made(seed=0, **parameters):
    problem = problems.create("diagonal_network", parameters)
    return problem, problem.subject(seed=seed)


def coefficients(subject):
    u, v = (p.detach() for p in subject.model.parameters())
    return u.square() - v.square()


@pytest.mark.parametrize("alpha", [0.05, 1.0])
def test_its_spectrum_is_that_of_the_dense_hessian(alpha):
    problem, subject = made(alpha=alpha, features=8, samples=5)
    names = ["u", "v"]
    flat = torch.cat([p.detach() for p in subject.model.parameters()]) + 0.01

    def loss(vector):
        weights = dict(zip(names, vector.split(8), strict=True))
        outputs = functional_call(subject.model, weights, (subject.inputs,))
        return 0.5 * (outputs - subject.targets).square().mean()

    for parameter, value in zip(subject.model.parameters(), flat.split(8), strict=True):
        parameter.data.copy_(value)  # away from the fit: the residuals have a part too
    expected = torch.linalg.eigvalsh(hessian(loss)(flat))
    assert torch.allclose(problem.eigenvalues(subject), expected, atol=1e-10)
    top = sb.measure(subject, "hessian_top_eigenvalue", tolerance=1e-8).value
    assert top == pytest.approx(float(expected[-1]))


def test_the_initial_scale_moves_sharpness_and_test_error_alike():
    traces, errors = [], []
    for alpha in (0.02, 0.3, 1.0):
        problem, subject = made(alpha=alpha)
        outputs = subject.model(subject.inputs).detach()
        assert float((outputs - subject.targets).square().mean()) < 1e-3
        traces.append(float(problem.eigenvalues(subject).sum()))
        unseen, wanted = subject.splits.test_inputs, subject.splits.test_targets
        errors.append(float((subject.model(unseen).detach() - wanted).square().mean()))
    assert traces[0] < traces[1] / 2 < traces[2] / 10
    assert errors[0] < errors[1] / 10 < errors[2] / 10
    measured = sb.measure(subject, "hessian_trace", split="train").value
    assert measured == pytest.approx(traces[-1], rel=1e-6)


def test_a_large_start_finds_the_least_l2_norm_and_a_small_one_nearly_the_least_l1_norm():
    _, subject = made(alpha=10.0)
    x, y = subject.inputs, subject.targets
    least = (torch.linalg.pinv(x) @ y)[:, 0]
    assert torch.allclose(coefficients(subject), least, atol=2e-3)
    _, subject = made(alpha=0.02)
    x, y = subject.inputs.numpy(), subject.targets.numpy()[:, 0]
    features = x.shape[1]
    fit = linprog([1.0] * 2 * features, A_eq=[[*row, *-row] for row in x], b_eq=y)
    assert float(coefficients(subject).abs().sum()) == pytest.approx(fit.fun, rel=0.05)
