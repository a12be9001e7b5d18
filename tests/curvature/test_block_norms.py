import pytest
import torch

from sharpbench.curvature.block_norms import block_norms
from sharpbench.curvature.operator import MatrixOperator
from sharpbench.errors import MetricFailed


def turned(eigenvalues, seed):
    """A symmetric matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return (basis * torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def spectra():
    size = 60
    generator = torch.Generator().manual_seed(5)
    uniform = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
    decaying = 1 / torch.arange(1, size + 1, dtype=torch.float64) ** 2
    hidden = torch.cat([torch.ones(30), torch.zeros(29), torch.tensor([-1.1])]).double()
    clustered = torch.cat([torch.linspace(0.99, 1, 20), torch.linspace(0, 0.1, 40)]).double()
    return [uniform, 1e-9 * decaying, -decaying, hidden, 50 * clustered]


@pytest.fixture(scope="module")
def operator():
    return MatrixOperator(torch.block_diag(*(turned(s, i) for i, s in enumerate(spectra()))))


def found(operator, *, seed=0, **parameters):
    generator = torch.Generator().manual_seed(seed)
    given = {"tolerance": 1e-3, "max_products": 60}
    return block_norms(operator, 5, generator=generator, **{**given, **parameters})


TRUTH = torch.stack([s.abs().max() for s in spectra()])


@pytest.mark.parametrize("tolerance", [0.1, 1e-2, 1e-6])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 1e9, 1.0, 1.0, 0.02])])
def test_the_bounds_hold_and_the_mean_meets_the_tolerance(operator, tolerance, weights):
    scale = torch.ones(5) if weights is None else weights
    for seed in range(10):
        norms = found(operator, tolerance=tolerance, seed=seed, weights=weights)
        assert norms.converged
        assert (norms.norms <= TRUTH * (1 + 1e-12)).all()
        assert (norms.norms + norms.error_bounds >= TRUTH * (1 - 1e-12)).all()
        assert (scale * norms.error_bounds).mean() <= tolerance * (scale * norms.norms).mean()


def test_a_block_is_stopped_by_its_start_alone(operator):
    """The bound of one iteration on its own, which is that of `extreme_eigenvalues` by magnitude."""
    from sharpbench.curvature.lanczos import _Lanczos

    alone = MatrixOperator(turned(spectra()[0], 0))
    ours = block_norms(
        alone, 1, tolerance=1e-9, max_products=9, generator=torch.Generator().manual_seed(3),
        chance=0.01,
    )  # fmt: skip
    theirs = _Lanczos(alone, 9, torch.Generator().manual_seed(3), chance=0.01)
    for _ in range(9):
        theirs.step()
    assert not ours.converged
    assert float(ours.norms) == pytest.approx(float(theirs.ritz.abs().max()), rel=1e-12)
    assert float(ours.norms + ours.error_bounds) == pytest.approx(
        theirs.upper(both_ends=True), rel=2e-3
    )


def test_too_few_products_are_admitted(operator):
    for products in (1, 3, 8):
        norms = found(operator, max_products=products)
        assert norms.products == products
        assert not norms.converged
        assert (norms.norms + norms.error_bounds >= TRUTH * (1 - 1e-9)).all()


def test_blocks_of_a_low_rank_are_exact_and_zeros_cost_one_product():
    low = [turned([3.0, -4.0, 0.5] + [0.0] * 37, 1), torch.zeros(40, 40), turned([1.0] * 40, 2)]
    norms = block_norms(
        MatrixOperator(torch.block_diag(*low)), 3, tolerance=1e-9, max_products=40,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert norms.norms.tolist() == pytest.approx([4.0, 0.0, 1.0], rel=1e-12)
    assert norms.error_bounds.tolist() == [0, 0, 0]
    assert norms.converged
    assert norms.failure_probability == 0
    assert norms.products == 4
    nothing = block_norms(
        MatrixOperator(torch.zeros(20, 20)), 2, tolerance=1e-3, max_products=40,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (nothing.products, nothing.norms.tolist()) == (1, [0, 0])


def test_small_blocks_are_written_out():
    blocks = [turned([2.0, -7.0, 1.0], 0), turned([1e-3, 0.0, 1e-4], 1)]
    norms = block_norms(
        MatrixOperator(torch.block_diag(*blocks)), 2, tolerance=1e-3, max_products=3,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert norms.norms.tolist() == pytest.approx([7, 1e-3], rel=1e-12)
    assert norms.error_bounds.tolist() == [0, 0]


@pytest.mark.parametrize("size", [4, 20])
def test_a_block_that_is_not_symmetric_is_refused(size):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double()
    blocks = MatrixOperator(torch.block_diag(matrix + matrix.T, matrix))
    with pytest.raises(MetricFailed, match="block 1 of the operator is not symmetric"):
        block_norms(
            blocks, 2, tolerance=1e-9, max_products=30, generator=torch.Generator().manual_seed(0)
        )
