"""The kernels, native against rivals in one group each: `pytest --benchmark-only`.

`--benchmark-autosave` keeps the times, `--benchmark-compare` shows them beside the last ones, and
`--benchmark-compare-fail=median:10%` makes a slowdown an error.
"""

import pytest
import torch

from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.measurement import Work
from sharpbench.metrics import metrics
from sharpbench.taylor.expansion import jet

IMPLEMENTATIONS = ["native", "pyhessian", "curvlinops"]


@pytest.mark.benchmark(group="one Hessian-vector product")
@pytest.mark.parametrize("way", ["kept graph", "rebuilt graph", "gauss-newton"])
def test_product(benchmark, trained_mlp, way):
    kind = GaussNewtonOperator if way == "gauss-newton" else HessianOperator
    budget = 1 << 21 if way == "rebuilt graph" else 1 << 30
    operator = kind(
        trained_mlp.working_model(torch.float32), trained_mlp.loss, *trained_mlp.data("train"),
        work=Work(), memory_budget=budget,
    )  # fmt: skip
    vector = torch.ones(operator.dimension)
    product = benchmark(operator.matvec, vector)
    assert product.shape == (operator.dimension,)


@pytest.mark.benchmark(group="top eigenvalue, tolerance 1e-3")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_top_eigenvalue(benchmark, trained_mlp, implementation):
    metric = metrics.create(
        "hessian_top_eigenvalue", {"implementation": implementation, "dtype": "float32"}
    )
    assert benchmark(metric.measure, trained_mlp, seed=0).value > 0


@pytest.mark.benchmark(group="trace, 32 probes")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_trace(benchmark, trained_mlp, implementation):
    metric = metrics.create(
        "hessian_trace",
        {"implementation": implementation, "tolerance": 0.0, "max_probes": 32, "dtype": "float32"},
    )
    assert benchmark(metric.measure, trained_mlp, seed=0).value > 0


@pytest.mark.benchmark(group="derivatives of the loss, orders 1 to 4")
@pytest.mark.parametrize("way", ["taylor mode", "nested reverse mode"])
def test_derivatives(benchmark, trained_mlp, way):
    x, y = trained_mlp.data("test")
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def loss(points):
        return trained_mlp.losses(trained_mlp.model(points), y)

    def nested():
        points = x.clone().requires_grad_()
        total = loss(points).sum()
        for _ in range(4):
            (gradient,) = torch.autograd.grad(total, points, create_graph=True)
            total = (gradient * v).sum()
        return total

    benchmark(nested if way == "nested reverse mode" else lambda: jet(loss, x, v, 4))
