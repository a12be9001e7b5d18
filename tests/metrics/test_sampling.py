"""The component ``points``: against closed forms of linear regression, and its coverage."""

import numpy as np
import pytest
import torch
from scipy.stats import skew
from torch import nn

import sharpbench as sb
from sharpbench.curvature.lanczos import extreme_eigenvalues
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics.base import measured_points
from sharpbench.metrics.sampling import (
    eigenvalue_error,
    frobenius_error,
    quadratic_form_error,
    sampling_error,
    trace_error,
)


class SumOfMatrices(SymmetricOperator):
    """(1/n) Σ Aᵢ of given matrices (n, P, P)."""

    def __init__(self, matrices):
        self.matrices = matrices
        self.samples, self.dimension = matrices.shape[:2]
        self.device, self.dtype, self.work = matrices.device, matrices.dtype, Work()
        self.mean = matrices.mean(0)

    def matmat(self, vectors):
        return self.mean @ vectors.to(self.dtype)

    def group_products(self, vectors, groups):
        for group in groups:
            yield self.matrices[group].sum(0) @ vectors / self.samples


@pytest.fixture
def regression():
    """y = w·x: the Hessian of a sample is xxᵀ, whatever w. 50 samples, 20 of them drawn."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64) * scales
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
    return sb.Subject(model, x, torch.zeros(50, 1, dtype=torch.float64))


def drawn(subject, samples):
    return measured_points(subject, "train", samples, torch.float64, seed=0)[0].numpy()


def standard_error(values, population=50):
    return values.std(ddof=1) / len(values) ** 0.5 * (1 - len(values) / population) ** 0.5


def left_by_skewness(values, left):
    """Degrees of freedom of so many groups, ``left`` of the samples not being taken."""
    n = len(values)
    return 1 / (1 / (n - 1) + 0.5 * left * 1.8 * skew(values) ** 2 / n)


@pytest.mark.parametrize(
    ("metric", "parameters"),
    [
        ("hessian_top_eigenvalue", {"tolerance": 0.0}),
        ("gauss_newton_top_eigenvalue", {}),  # by the Gram matrix
        ("gauss_newton_top_eigenvalue", {"tolerance": 0.0, "by": "iteration"}),
    ],
)
def test_an_eigenvalue_has_the_error_of_the_jackknife_and_its_excess(
    regression, metric, parameters, monkeypatch
):
    if parameters.pop("by", None):
        monkeypatch.setattr("sharpbench.metrics.gauss_newton._GRAM_NUMBERS", 0)
    found = sb.measure(regression, metric, samples=20, seed=0, **parameters)
    x = drawn(regression, 20)
    values, vectors = np.linalg.eigh(x.T @ x / 20)
    assert found.value == pytest.approx(values[-1])
    forms = (x @ vectors) * (x @ vectors[:, -1:])  # uⱼᵀ xxᵀ v, (20, 3)
    gaps = values[-1] - values[:-1]
    coupled = np.array([standard_error(f) for f in forms.T[:-1]])
    excess = (np.sqrt(gaps**2 + 4 * coupled**2) - gaps).sum() / 2
    without = [np.delete(x, i, 0) for i in range(20)]
    tops = np.array([np.linalg.eigvalsh(left.T @ left / 19)[-1] for left in without])
    jackknife = (19 / 20 * ((tops - tops.mean()) ** 2).sum() * (1 - 20 / 50)) ** 0.5
    (points,) = found.errors
    assert (points.source, points.degrees_of_freedom) == ("points", 19)
    assert points.size == pytest.approx(np.hypot(jackknife, excess), rel=1e-6)
    whole = sb.measure(regression, metric, samples="all", seed=0, **parameters)
    assert whole.errors == ()


def test_the_fisher_rao_norm_has_the_spread_of_its_quadratic_forms(regression):
    found = sb.measure(regression, "fisher_rao_norm", samples=20, seed=0)
    squares = (drawn(regression, 20) @ np.array([1.0, -2.0, 3.0])) ** 2
    assert found.value == pytest.approx(squares.mean() ** 0.5)
    assert found.errors[0].size == pytest.approx(standard_error(squares) / (2 * found.value))
    assert found.errors[0].degrees_of_freedom == pytest.approx(left_by_skewness(squares, 0.6))


def test_the_fisher_rao_norm_of_given_labels_has_the_spread_of_its_squared_slopes(regression):
    """½(w·x)² against zero: ⟨w, ∇ℓ⟩ = (w·x)²."""
    found = sb.measure(regression, "fisher_rao_norm", labels="observed", samples=20, seed=0)
    squares = (drawn(regression, 20) @ np.array([1.0, -2.0, 3.0])) ** 4
    assert found.value == pytest.approx(squares.mean() ** 0.5)
    assert found.errors[0].size == pytest.approx(standard_error(squares) / (2 * found.value))
    assert found.errors[0].degrees_of_freedom == pytest.approx(left_by_skewness(squares, 0.6))


@pytest.mark.parametrize("labels", ["model", "observed"])
def test_a_fisher_rao_norm_of_zero_does_not_know_its_error(regression, labels):
    with torch.no_grad():
        regression.model.weight.zero_()
    found = sb.measure(regression, "fisher_rao_norm", labels=labels, samples=20, seed=0)
    assert (found.value, found.standard_error) == (0.0, None)
    assert [error.source for error in found.errors] == ["points"]
    assert sb.measure(regression, "fisher_rao_norm", labels=labels).exact


def test_random_groups_share_the_variance_of_samples():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    single = sampling_error(values / 1000, 4000)[0]
    assert single.size == pytest.approx(float(values.std()) / 1000**0.5 * 0.75**0.5)
    groups = values.view(50, 20).sum(1) / 1000
    grouped = sampling_error(groups, 4000, sizes=torch.full((50,), 20))[0]
    shares = groups.numpy()
    assert grouped.degrees_of_freedom == pytest.approx(left_by_skewness(shares, 0.75))
    assert 48 < grouped.degrees_of_freedom < 49
    assert grouped.size == pytest.approx(single.size, rel=0.3)
    assert sampling_error(values / 1000, 1000) == ()
    assert sampling_error(values[:1], 2)[0].size is None


def coverage(figure, truth, repetitions=300):
    hits = 0
    for seed in range(repetitions):
        low, high = figure(seed).interval()
        hits += low <= truth <= high
    return hits / repetitions


@pytest.fixture(scope="module")
def population():
    """400 matrices xxᵀ with slowly falling scales, as a curvature matrix has."""
    generator = torch.Generator().manual_seed(2)
    scales = 1 / torch.arange(1, 13, dtype=torch.float64).sqrt()
    x = torch.randn(400, 12, generator=generator, dtype=torch.float64) * scales
    return SumOfMatrices(x.unsqueeze(2) * x.unsqueeze(1))


def part(population, seed, samples=60):
    chosen = torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:samples]
    return SumOfMatrices(population.matrices[chosen])


def test_coverage_of_the_top_eigenvalue(population):
    def figure(seed):
        operator = part(population, seed)
        result = extreme_eigenvalues(
            operator, tolerance=1e-3, max_products=20, vectors=True,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        errors = eigenvalue_error(operator, result, 400, seed=seed)
        return Measurement(result.value, errors=errors)

    truth = float(torch.linalg.eigvalsh(population.mean)[-1])
    assert 0.92 <= coverage(figure, truth) <= 0.98


def test_coverage_of_trace_frobenius_norm_and_quadratic_form(population):
    w = torch.linspace(1, 2, 12, dtype=torch.float64)

    def trace(seed):
        operator = part(population, seed)
        value = float(operator.mean.trace())
        return Measurement(value, errors=trace_error(operator, 400, seed=seed))

    def known(seed):
        """Half of the matrix by probes, the trace of the other half by what each sample says."""
        operator = part(population, seed)
        half = SumOfMatrices(0.5 * operator.matrices)
        own = 0.5 * operator.matrices.diagonal(dim1=1, dim2=2).sum(1)
        value = float(operator.mean.trace())
        return Measurement(value, errors=trace_error(half, 400, seed=seed, known=own))

    def frobenius(seed):
        operator = part(population, seed)
        value = float(operator.mean.norm())
        return Measurement(value, errors=frobenius_error(operator, value, 400, seed=seed))

    def form(seed):
        operator = part(population, seed)
        value = float(w @ operator.mean @ w)
        return Measurement(value, errors=quadratic_form_error(operator, w, 400, seed=seed))

    truth = float(population.mean.trace())
    assert 0.92 <= coverage(trace, truth) <= 0.98
    assert 0.92 <= coverage(known, truth) <= 0.98
    assert 0.92 <= coverage(frobenius, float(population.mean.norm())) <= 0.98
    assert 0.92 <= coverage(form, float(w @ population.mean @ w)) <= 0.98
