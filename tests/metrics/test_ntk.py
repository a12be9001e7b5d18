"""Figures of the tangent kernel beside dense Jacobians, linear models and the circle."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import sharpbench as sb
from sharpbench.errors import MetricFailed
from sharpbench.metrics import metrics
from sharpbench.problems import problems

TOP, ALIGNMENT = "ntk_top_eigenvalue", "ntk_alignment"


def dense(subject, patterns=()):
    """Θ (N·C, N·C), rows a sample's outputs one after another."""
    model = subject.model.double()
    weights = {k: p.detach() for k, p in model.named_parameters()}
    chosen = {k: p for k, p in weights.items() if not patterns or k.split(".")[0] in patterns}

    def outputs(w):
        return functional_call(model, {**weights, **w}, (subject.inputs.double(),))

    jacobian = jacrev(outputs)(chosen)
    rows = torch.cat([j.flatten(0, 1).flatten(1) for j in jacobian.values()], 1)
    return rows @ rows.T


def aligned(kernel, subject, classes=3):
    y = torch.nn.functional.one_hot(subject.targets, classes).double() - 1 / classes
    y = y.reshape(-1)
    return float(y @ kernel @ y / (kernel.norm() * (y @ y)))


def network(samples, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        x = torch.randn(samples, 4, dtype=torch.float64)
    return sb.Subject(model, x, torch.arange(samples) % 3)


@pytest.mark.parametrize("samples", [20, 200])
def test_both_are_those_of_the_dense_kernel(samples):
    """Of 60 rows by the Gram matrix, exactly; of 600 by products."""
    subject = network(samples)
    kernel = dense(subject)
    top = sb.measure(subject, TOP, tolerance=1e-9)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(kernel)[-1]) / samples, rel=1e-8)
    found = sb.measure(subject, ALIGNMENT, tolerance=0.01, max_probes=400)
    known = aligned(kernel, subject)
    assert abs(found.value - known) <= 4 * (found.standard_error or 0) + 1e-9
    assert found.exact == (samples == 20)
    assert found.value == pytest.approx(known, rel=0.05)


def test_a_part_of_the_network_has_the_kernel_of_its_parameters():
    subject = network(20)
    kernel = dense(subject, ("0",))
    top = sb.measure(subject, TOP, parameters_of=["0"])
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(kernel)[-1]) / 20)
    assert sb.measure(subject, ALIGNMENT, parameters_of=["0"]).value == pytest.approx(
        aligned(kernel, subject)
    )


def test_of_a_linear_model_it_is_the_gram_matrix_of_the_features():
    """Θ = (xxᵀ + 1) ⊗ I: with targets x·v it is aligned by vᵀC²v/(‖C‖ vᵀCv) for C = XᵀX, no bias."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    v = torch.randn(4, 1, generator=generator, dtype=torch.float64)
    subject = sb.Subject(nn.Linear(4, 1, bias=False).double(), x, x @ v)
    c = x.T @ x
    assert sb.measure(subject, TOP).value == pytest.approx(float(torch.linalg.eigvalsh(c)[-1]) / 30)
    expected = float(v.T @ c @ c @ v / (c.norm() * (v.T @ c @ v)))
    assert sb.measure(subject, ALIGNMENT).value == pytest.approx(expected)
    with_bias = sb.Subject(nn.Linear(4, 3).double(), x, torch.arange(30) % 3)
    gram = x @ x.T + 1
    assert sb.measure(with_bias, TOP).value == pytest.approx(
        float(torch.linalg.eigvalsh(gram)[-1]) / 30
    )


def test_on_the_circle_the_kernel_is_known_and_tends_to_that_of_infinite_width():
    errors = []
    for width in (256, 16384):
        problem = problems.create("ntk_circle", {"width": width})
        subject = problem.subject(seed=0)
        for name in (TOP, ALIGNMENT):
            metric = metrics.create(name, {})
            known = metric.known(problem, subject)
            assert metric.checked_measure(subject, seed=0).value == pytest.approx(known.expected)
            assert known.expected == pytest.approx(known.limit, rel=4 / math.sqrt(width))
        kernel, wide = problem.kernel(subject), problem.kernel_of_infinite_width(subject)
        assert torch.allclose(kernel, dense(subject))
        errors.append(float((kernel - wide).norm() / wide.norm()))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.5)  # as the root of the width


def test_the_circles_eigenvalues_are_those_of_the_integral():
    """Of 400 points: 3/π², ¼, 0 in the odd modes; a mode's alignment is its eigenvalue over ‖Θ‖_F."""
    problem = problems.create("ntk_circle", {"width": 4, "points": 400, "mode": 3})
    subject = problem.subject(seed=0)
    kernel = problem.kernel_of_infinite_width(subject) / 400
    values = torch.fft.rfft(kernel[0]).real
    known = torch.tensor([3 / math.pi**2, 0.25, 0.0789, 0.0], dtype=torch.float64)
    assert torch.allclose(values[:4], known, atol=1e-4)
    metric = metrics.create(ALIGNMENT, {})
    assert metric.of_kernel(kernel, subject) == pytest.approx(0, abs=1e-4)


def test_a_shift_of_all_logits_has_no_part_in_the_alignment():
    subject = network(20)
    before = sb.measure(subject, ALIGNMENT).value
    subject.model[2].bias.data += 3.0
    assert sb.measure(subject, ALIGNMENT).value == pytest.approx(before, rel=1e-12)


def test_nothing_to_align_with_is_told():
    x = torch.ones(4, 2, dtype=torch.float64)
    subject = sb.Subject(nn.Linear(2, 1).double(), x, torch.zeros(4, 1, dtype=torch.float64))
    with pytest.raises(MetricFailed, match="the targets are zero"):
        sb.measure(subject, ALIGNMENT)
