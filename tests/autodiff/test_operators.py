import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, hessian

from sharpbench.autodiff.context import repeatedly_differentiable
from sharpbench.autodiff.hessian import HessianOperator
from sharpbench.autodiff.lanczos import largest_eigenvalue
from sharpbench.autodiff.trace import hutchinson_trace
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Work
from sharpbench.models import models
from sharpbench.seeds import torch_generator
from sharpbench.subject import per_sample_loss

CROSS_ENTROPY = per_sample_loss("classification")


def dense_hessian(model, loss, x, y):
    """The whole Hessian by torch.func: forward over reverse, another route than the operator's."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    parameters = dict(model.named_parameters())
    flat = torch.cat([parameters[n].detach().reshape(-1) for n in names])

    def mean_loss(vector):
        pieces = vector.split([parameters[n].numel() for n in names])
        shaped = {n: v.view_as(parameters[n]) for n, v in zip(names, pieces, strict=True)}
        return loss(functional_call(model, shaped, (x,)), y).mean()

    return hessian(mean_loss)(flat)


def problem(name="mlp", shape=(3,), **parameters):
    model = models.create(name, parameters).build(shape, 3, seed=0).double().eval()
    x = torch.randn(11, *shape, dtype=torch.float64, generator=torch_generator(1))
    return model, x, torch.arange(11) % 3


@pytest.mark.parametrize("budget", [1 << 30, 4000, 1], ids=["kept", "chunked", "one by one"])
@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("mlp", (3,), {"widths": [6], "activation": "gelu"}),
        ("cnn", (1, 6, 6), {"channels": [2, 2], "hidden": 4}),
        ("vit", (1, 4, 4), {"width": 4, "heads": 2, "depth": 1, "mlp_ratio": 1}),
    ],
)
def test_equal_to_the_dense_matrix(name, shape, parameters, budget):
    model, x, y = problem(name, shape, **parameters)
    with repeatedly_differentiable():
        exact = dense_hessian(model, CROSS_ENTROPY, x, y)
    operator = HessianOperator(model, CROSS_ENTROPY, x, y, work=Work(), memory_budget=budget)
    assert torch.allclose(operator.dense(), exact, rtol=1e-10, atol=1e-12)
    gradient = torch.autograd.grad(CROSS_ENTROPY(model(x), y).mean(), operator.parameters)
    assert torch.allclose(operator.gradient(), torch.cat([g.reshape(-1) for g in gradient]))
    assert all(p.grad is None for p in model.parameters())


def test_least_squares_has_its_closed_form():
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double()
    operator = HessianOperator(model, per_sample_loss("regression"), x, y, work=Work())
    assert torch.allclose(operator.dense(), x.T @ x / 20, rtol=1e-12)


def test_parameters_without_influence_or_gradient():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)
            self.frozen = nn.Linear(3, 3).requires_grad_(False)

        def forward(self, x):
            return self.used(self.frozen(x))

    model = Partial().double()
    x = torch.randn(5, 3, dtype=torch.float64)
    operator = HessianOperator(model, CROSS_ENTROPY, x, torch.arange(5) % 3, work=Work())
    dense = operator.dense()
    assert dense.shape == (24, 24)
    assert (dense[12:] == 0).all()
    assert (dense[:12, :12] != 0).any()


def test_what_has_no_hessian_is_refused():
    x, y = torch.randn(8, 3), torch.arange(8) % 3
    with pytest.raises(MetricFailed, match="no parameter"):
        HessianOperator(nn.Linear(3, 3).requires_grad_(False), CROSS_ENTROPY, x, y, work=Work())
    noisy = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    with pytest.raises(MetricFailed, match="dropout"):
        HessianOperator(noisy, CROSS_ENTROPY, x, y, work=Work())
    with pytest.raises(MetricFailed, match="not finite"):
        HessianOperator(nn.Linear(3, 3), CROSS_ENTROPY, x * float("nan"), y, work=Work())


def symmetric(spectrum, seed):
    spectrum = torch.tensor(spectrum, dtype=torch.float64)
    basis, _ = torch.linalg.qr(
        torch.randn(
            len(spectrum), len(spectrum), dtype=torch.float64, generator=torch_generator(seed)
        )
    )
    return basis @ torch.diag(spectrum) @ basis.T


@settings(max_examples=200, deadline=None)
@given(
    spectrum=st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=25),
    seed=st.integers(0, 10**6),
    tolerance=st.sampled_from([1e-1, 1e-3, 1e-8]),
    budget=st.integers(2, 30),
)
def test_an_eigenvalue_lies_within_lanczos_bound(spectrum, seed, tolerance, budget):
    matrix = symmetric(spectrum, seed)
    result = largest_eigenvalue(
        lambda v: matrix @ v,
        len(spectrum),
        tolerance=tolerance,
        max_products=budget,
        generator=torch_generator(seed),
    )
    eigenvalues = torch.linalg.eigvalsh(matrix)
    rounding = 1e-9 * max(1.0, float(eigenvalues.abs().max()))
    assert (eigenvalues - result.value).abs().min() <= result.error_bound + rounding
    assert result.value <= float(eigenvalues[-1]) + rounding  # a Ritz value never exceeds the top
    assert result.products <= budget
    if result.converged:
        assert result.error_bound <= tolerance * abs(result.value) + rounding


def test_lanczos_finds_the_algebraically_largest_and_admits_a_short_budget():
    matrix = symmetric([3.0, -5.0, 1.0] + [0.1] * 40, 0)

    def run(products):
        return largest_eigenvalue(
            lambda v: matrix @ v, 43, tolerance=1e-8, max_products=products,
            generator=torch_generator(0),
        )  # fmt: skip

    done = run(43)
    assert done.converged
    assert abs(done.value - 3) < 1e-7
    assert not run(2).converged


def test_hutchinson_is_unbiased_with_an_honest_standard_error():
    matrix = symmetric([(-1) ** k * 10 / (k + 1) for k in range(30)], 3)
    exact = float(torch.trace(matrix))

    def estimate(seed):
        return hutchinson_trace(
            lambda v: matrix @ v, 30, tolerance=0.0, max_probes=40, generator=torch_generator(seed)
        )

    found = [estimate(seed) for seed in range(200)]
    values = torch.tensor([f.value for f in found])
    assert abs(values.mean() - exact) < 3 * values.std() / 200**0.5
    covered = sum(abs(f.value - exact) <= 1.96 * f.standard_error for f in found) / 200
    assert 0.88 <= covered <= 0.99  # nominally 0.94 with 40 probes
    assert not any(f.converged for f in found)


def test_hutchinson_is_exact_on_a_diagonal_and_stops_at_its_tolerance():
    result = hutchinson_trace(
        lambda v: -2 * v, 10, tolerance=0.01, max_probes=100, generator=torch_generator(0)
    )
    assert result.value == -20
    assert result.converged
    assert result.probes == 8  # a negative trace must not stop it earlier
