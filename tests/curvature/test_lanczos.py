"""Eigenvalues against closed forms, and the bound against what it claims, over many starts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import sharpbench as sb
from sharpbench.curvature.krylov import failure_probability
from sharpbench.curvature.lanczos import (
    _PUSH,
    SpectralDensity,
    _Lanczos,
    extreme_eigenvalues,
)
from sharpbench.curvature.operator import MatrixOperator
from sharpbench.errors import MetricFailed
from sharpbench.seeds import torch_generator
from tests.curvature.test_operators import dense_hessian, symmetric


def diagonal(spectrum):
    """A random start has independent coordinates in any basis: a diagonal stands for all of them."""
    return MatrixOperator(torch.diag(torch.as_tensor(spectrum, dtype=torch.float64)))


class Guided(MatrixOperator):
    """With a guess of its own."""

    def __init__(self, matrix, direction):
        super().__init__(matrix)
        self.direction = direction

    def guess(self):
        return self.direction


def cycle(n):
    """Laplacian of a cycle: 2 − 2 cos(2πk/n), all but one or two of them in pairs."""
    eye = torch.eye(n, dtype=torch.float64)
    return 2 * eye - eye.roll(1, 0) - eye.roll(-1, 0), [
        2 - 2 * math.cos(2 * math.pi * k / n) for k in range(n)
    ]


def hypercube(d):
    """Laplacian of the d-cube: 2k, binomial(d, k) times."""
    numbers = torch.arange(2**d)
    bits = (numbers[:, None] ^ numbers[None, :])[..., None] >> torch.arange(d) & 1
    adjacent = (bits.sum(2) == 1).double()
    laplacian = torch.diag(adjacent.sum(1)) - adjacent
    return laplacian, [2.0 * int(number).bit_count() for number in numbers]


KEYS = {"largest": lambda v: -v, "smallest": lambda v: v, "magnitude": lambda v: -abs(v)}


@pytest.mark.parametrize("which", KEYS)
@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("graph", [cycle(20), cycle(61), hypercube(6)], ids=["c20", "c61", "cube"])
def test_multiple_eigenvalues_come_with_their_multiplicity(graph, count, which):
    matrix, spectrum = graph
    result = extreme_eigenvalues(
        MatrixOperator(matrix),
        count=count,
        which=which,
        tolerance=1e-6,
        max_products=400,
        generator=torch_generator(count),
        vectors=True,
    )
    assert result.converged
    assert result.values == pytest.approx(sorted(spectrum, key=KEYS[which])[:count], abs=1e-5)
    residual = matrix @ result.vectors - result.vectors * torch.tensor(result.values)
    assert residual.norm() < 1e-5
    assert torch.allclose(result.vectors.T @ result.vectors, torch.eye(count).double(), atol=1e-10)


# What is below a float's square root of the smallest number is lost in a squared length.
MODERATE = st.one_of(st.just(0.0), st.floats(1e-100, 1e3), st.floats(-1e3, -1e-100))


@settings(max_examples=200, deadline=None)
@given(
    spectrum=st.lists(MODERATE, min_size=9, max_size=30),
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 12),
)
def test_the_start_holds_no_more_of_an_eigenvector_than_its_share(spectrum, seed, steps):
    """What the bound rests on, for each eigenvalue beyond the Ritz values, without any chance in it."""
    operator = diagonal(spectrum)
    iteration = _Lanczos(operator, steps, torch_generator(seed))
    while iteration.steps < steps and not iteration.exhausted:
        iteration.step()
    start = iteration.known[:-1].T[:, 0]
    edge = float(iteration.ritz[-1]) + 1e-6 * max(map(abs, spectrum))
    beyond = {eigenvalue for eigenvalue in spectrum if eigenvalue > edge}
    held = {
        b: sum(float(s) ** 2 for s, v in zip(start, spectrum, strict=True) if v == b)
        for b in beyond
    }
    assert all(held[b] <= iteration.share(b) * (1 + 1e-6) + 1e-12 for b in beyond)


ADVERSARIAL = {
    "half at one and a single larger one": [1.0] * 100 + [1.1] + [0.0] * 99,
    "clustered": [k / 195 * 0.9 for k in range(195)] + [0.99, 0.9925, 0.995, 0.9975, 1.0],
    "a wide bulk with one outlier": [k / 299 for k in range(299)] + [1.2],
    "ill-conditioned": torch.logspace(-8, 0, 200).tolist(),
    "the second close to the first": [0.01 * k / 300 for k in range(300)] + [0.85, 1.0],
}


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_bound_fails_as_rarely_as_it_says(name, which):
    spectrum = ADVERSARIAL[name]
    if which == "smallest":
        spectrum = [-v for v in spectrum]
    top, starts = max(map(abs, spectrum)), 100
    for tolerance in (0.1, 1e-2):
        found = [
            extreme_eigenvalues(
                diagonal(spectrum), which=which, tolerance=tolerance, max_products=60,
                generator=torch_generator(seed),
            )
            for seed in range(starts)
        ]  # fmt: skip
        missed = sum(top > abs(f.value) + f.error_bound * (1 + 1e-9) + 1e-12 for f in found)
        chance = failure_probability(tolerance)
        spread = math.sqrt(chance * (1 - chance) * starts)
        assert missed <= chance * starts + 2.5 * spread
        assert sum(f.converged for f in found) > 0.95 * starts
        assert all(f.error_bound <= tolerance * abs(f.value) for f in found if f.converged)


def test_what_is_claimed_has_met_the_tolerance_and_a_value_on_its_way_up_claims_nothing():
    """In about 3 of 300 starts the top's share is below the quantile: a residual tells that it is coming."""
    spectrum, false = torch.logspace(-8, 0, 200).double(), 0
    for seed in range(300):
        operator = diagonal(spectrum)
        found = extreme_eigenvalues(
            operator, tolerance=1e-2, max_products=200, generator=torch_generator(seed)
        )
        assert found.converged
        assert found.products < 30
        false += found.value < 0.99
    assert false == 0


def test_a_guess_that_misleads_breaks_no_bound():
    spectrum = torch.cat([torch.linspace(0, 0.1, 300), torch.tensor([0.8, 1.0])]).double()
    second = torch.zeros(302, dtype=torch.float64)
    second[300] = 1.0
    missed = 0
    for seed in range(200):
        result = extreme_eigenvalues(
            Guided(torch.diag(spectrum), second), tolerance=0.1, max_products=60,
            generator=torch_generator(seed),
        )  # fmt: skip
        missed += result.value + result.error_bound < 1.0
    assert missed <= 12


def test_a_guess_along_the_top_leaves_nothing_to_chance():
    spectrum = torch.cat([torch.linspace(0, 0.1, 300), torch.tensor([0.8, 1.0])]).double()
    for seed in range(200):
        result = extreme_eigenvalues(
            Guided(torch.diag(spectrum), torch.eye(302).double()[301]),
            tolerance=0.1,
            max_products=60,
            generator=torch_generator(seed),
        )
        assert result.converged
        assert abs(result.value - 1) <= 0.1


@pytest.mark.parametrize("tolerance", [0.1, 1e-3])
def test_a_trained_network_is_never_misjudged(tiny, tolerance):
    model = tiny.working_model(torch.float64)
    x, y = tiny.data("train")
    exact = dense_hessian(model, tiny.loss, x.double(), y)
    top = float(torch.linalg.eigvalsh(exact)[-1])
    for seed in range(40):
        found = sb.measure(tiny, "hessian_top_eigenvalue", tolerance=tolerance, seed=seed)
        assert found.converged
        assert found.value <= top * (1 + 1e-9)
        assert top <= found.value + found.error_bound * (1 + 1e-9)
        assert found.error_bound <= tolerance * found.value


def test_a_short_budget_is_admitted_with_a_bound_that_holds():
    matrix = symmetric([3.0, -5.0, 1.0] + [0.1] * 40, 0)
    for budget in (1, 2, 3):
        result = extreme_eigenvalues(
            MatrixOperator(matrix), tolerance=1e-8, max_products=budget,
            generator=torch_generator(1),
        )  # fmt: skip
        assert not result.converged
        assert result.products == budget
        assert result.value <= 3 <= result.value + result.error_bound
    several = extreme_eigenvalues(
        MatrixOperator(matrix), count=3, tolerance=1e-8, max_products=3,
        generator=torch_generator(1),
    )  # fmt: skip
    assert not several.converged
    for value, bound, exact in zip(several.values, several.error_bounds, (3, 1, 0.1), strict=True):
        assert value - 1e-9 <= exact <= value + bound + 1e-9


def test_float32_is_not_called_better_than_it_is():
    matrix = symmetric([1.0 / (k + 1) for k in range(60)], 2)
    result = extreme_eigenvalues(
        MatrixOperator(matrix.float()), tolerance=1e-9, max_products=60,
        generator=torch_generator(0),
    )  # fmt: skip
    assert not result.converged
    assert 1e-8 < result.error_bound < 1e-4
    assert abs(result.value - 1) <= result.error_bound


def test_operators_without_a_spread():
    for matrix, value in ((torch.zeros(20, 20), 0.0), (-3 * torch.eye(20), -3.0)):
        result = extreme_eigenvalues(
            MatrixOperator(matrix.double()), count=2, tolerance=1e-3, max_products=20,
            generator=torch_generator(0),
        )  # fmt: skip
        assert result.converged
        assert result.values == pytest.approx((value, value), abs=1e-12)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_several_eigenvalues_with_their_vectors(which):
    spectrum = [5.0, 4.0, 4.0, -6.0, -1.0] + [0.01 * k for k in range(30)]
    matrix = symmetric(spectrum, 1)
    order = {"largest": lambda v: -v, "smallest": lambda v: v, "magnitude": lambda v: -abs(v)}[
        which
    ]
    exact = sorted(spectrum, key=order)[:3]
    result = extreme_eigenvalues(
        MatrixOperator(matrix),
        count=3,
        which=which,
        tolerance=1e-10,
        max_products=35,
        generator=torch_generator(0),
        vectors=True,
    )
    assert result.converged
    assert result.values == pytest.approx(exact, abs=1e-8)  # the double 4 is found twice
    assert torch.allclose(matrix @ result.vectors, result.vectors * torch.tensor(result.values))
    assert torch.allclose(result.vectors.T @ result.vectors, torch.eye(3, dtype=torch.float64))


def test_an_operator_that_is_not_symmetric_is_refused():
    matrix = torch.randn(12, 12, dtype=torch.float64, generator=torch_generator(0))
    with pytest.raises(MetricFailed, match="not symmetric"):
        extreme_eigenvalues(
            MatrixOperator(matrix), tolerance=1e-6, max_products=12, generator=torch_generator(0)
        )


def iterated(steps=6, **more):
    """A few steps on a full matrix, and the matrix."""
    matrix = symmetric([1 / k - 0.1 for k in range(1, 31)], 0)
    krylov = _Lanczos(MatrixOperator(matrix), 20, torch_generator(1), **more)
    for _ in range(steps):
        krylov.step()
    return krylov, matrix


def test_ritz_values_vectors_and_residuals_are_those_of_the_krylov_space():
    krylov, matrix = iterated()
    basis = krylov.known[:-1].T
    assert torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64), atol=1e-12)
    values, turn = torch.linalg.eigh(basis.T @ matrix @ basis)
    assert torch.allclose(krylov.ritz, values, atol=1e-12)
    vectors = basis @ turn
    residuals = (matrix @ vectors - vectors * values).norm(dim=0)
    assert torch.allclose(krylov.residuals, residuals, atol=1e-12)


def test_the_share_of_a_missed_direction_is_the_christoffel_function():
    """p_j(λ) = det(λ − T_j)/(β₁ … β_j) for the leading blocks T_j of T = QᵀAQ."""
    krylov, matrix = iterated()
    more, _ = iterated(7)
    basis = more.known[:-1].T
    tridiagonal = basis.T @ matrix @ basis
    for value in (1.2, 3.0):
        total, scale = 1.0, 1.0
        for j in range(1, 7):
            scale *= float(tridiagonal[j, j - 1])
            block = value * torch.eye(j, dtype=torch.float64) - tridiagonal[:j, :j]
            total += (float(torch.linalg.det(block)) / scale) ** 2
        assert krylov.share(value) == pytest.approx(1 / total, rel=1e-9)


def test_the_least_share_is_the_betas_quantile_over_the_squared_length_with_the_guess():
    plain, _ = iterated(1, chance=0.03)
    quantile = stats.beta(0.5, 29 / 2).ppf(0.03)
    assert plain.least_share == pytest.approx(quantile, rel=1e-9)
    guess = torch.ones(30, dtype=torch.float64)
    pushed, _ = iterated(1, chance=0.03, guess=guess)
    drawn = torch.randn(30, generator=torch_generator(1), dtype=torch.float64)
    start = drawn / drawn.norm()
    start = start + min(1.0, _PUSH / 30**0.5) * guess / guess.norm()
    assert torch.allclose(pushed.known[:-1].T[:, 0], start / start.norm(), atol=1e-12)
    assert pushed.least_share == pytest.approx(quantile / float(start.square().sum()), rel=1e-9)


def test_a_densitys_error_is_that_of_the_mean_over_its_probes():
    """Two probes with the quadratures 2 and 4: their mean has the error √2/√2 = 1."""
    nodes = torch.tensor([[1.0, 3.0], [3.0, 5.0]]).double()
    weights = torch.full((2, 2), 0.5).double()
    density = SpectralDensity(nodes, weights, 4)
    mean, error = density.mean(nodes)
    assert (mean, error) == pytest.approx((3.0, 1.0))
