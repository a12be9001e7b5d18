"""Figures that were once wrong in silence, each with its value by first derivatives or a closed form."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import sharpbench as sb
from tests.zoo.references import Reference

D = torch.float64


def classes(*shape: int) -> tuple[Tensor, Tensor]:
    """Inputs of a shape and labels of three classes."""
    torch.manual_seed(0)
    return torch.randn(shape, dtype=D), torch.randint(0, 3, shape[:1])


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def reference(net: nn.Module, x: Tensor, y: Tensor) -> Reference:
    return Reference(net, x, y, cross_entropy)


def assert_figure(got: sb.Measurement, expected: float, tolerance: float = 1e-6) -> None:
    """Within ``tolerance`` relatively, or within four of its own standard errors."""
    allowed = tolerance * abs(expected) + 4 * (got.standard_error or 0.0)
    assert abs(got.value - expected) <= allowed, (got, expected)


def top_eigenvalue(net: nn.Module, x: Tensor, y: Tensor, **subject: Any) -> sb.Measurement:
    return sb.measure(sb.Subject(net, x, y, **subject), "hessian_top_eigenvalue", tolerance=1e-8)


class Model(nn.Module):
    """A network of one forward function and named parts."""

    def __init__(self, forward: Callable[[Model, Tensor], Tensor], **parts: object) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Standardised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        v = self.weight
        v = (v - v.mean(1, keepdim=True)) / (v.std(1, keepdim=True) + 1e-5)
        return F.linear(x, v, self.bias)


def in_place() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def weight_used_again() -> nn.Module:
    def forward(m: Model, x: Tensor) -> Tensor:
        return m.b(torch.relu(F.linear(m.a(x), m.a.weight.t())))

    return Model(forward, a=nn.Linear(5, 5, bias=False), b=nn.Linear(5, 3))


def standardised() -> nn.Module:
    return nn.Sequential(Standardised(5, 6), nn.ReLU(), nn.Linear(6, 3))


def pruned() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    prune.random_unstructured(net[0], "weight", 0.5)
    with torch.no_grad():
        net(torch.zeros(1, 5, dtype=D))
    return net


def token() -> nn.Module:
    def forward(m: Model, x: Tensor) -> Tensor:
        return m.b(torch.relu(m.a(x) + m.h(m.code)))

    return Model(
        forward,
        code=nn.Buffer(torch.randn(1, 4)),
        h=nn.Linear(4, 6),
        a=nn.Linear(5, 6),
        b=nn.Linear(6, 3),
    )


def backbone_without_gradients() -> nn.Module:
    def forward(m: Model, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.tanh(m.a(x))
        return m.b(h)

    return Model(forward, a=nn.Linear(5, 4), b=nn.Linear(4, 3))


@pytest.mark.parametrize(
    "build",
    [
        in_place,
        weight_used_again,
        standardised,
        pruned,
        token,
        backbone_without_gradients,
    ],
)
def test_gauss_newton_trace(build: Callable[[], nn.Module]) -> None:
    x, y = classes(12, 5)
    net = build().double()
    got = sb.measure(sb.Subject(net, x, y), "gauss_newton_trace")
    assert_figure(got, reference(net, x, y).gauss_newton_trace().value)


def test_gauss_newton_trace_of_flattened_tokens() -> None:
    x, y = classes(6, 3, 4)

    def forward(m: Model, x: Tensor) -> Tensor:
        n, t, d = x.shape
        return m.c(torch.relu(m.a(x.reshape(n * t, d))).view(n, t, -1).mean(1))

    net = Model(forward, a=nn.Linear(4, 5), c=nn.Linear(5, 3)).double()
    subject = sb.Subject(net, x, y)
    got = sb.measure(subject, "gauss_newton_trace", tolerance=0.02, max_probes=2000)
    assert_figure(got, reference(net, x, y).gauss_newton_trace().value)


def test_trace_of_a_gate_that_does_not_see_the_input() -> None:
    x, y = classes(12, 5)

    def forward(m: Model, x: Tensor) -> Tensor:
        return m.b(torch.relu(m.a(x) * torch.tanh(m.h(m.code[: len(x)]))))

    net = Model(
        forward,
        code=nn.Buffer(torch.randn(12, 4)),
        h=nn.Linear(4, 6),
        a=nn.Linear(5, 6),
        b=nn.Linear(6, 3),
    ).double()
    got = sb.measure(
        sb.Subject(net, x, y),
        "hessian_trace",
        method="gauss_newton",
        tolerance=0.02,
        max_probes=2000,
    )
    assert_figure(got, reference(net, x, y).trace().value)


def test_hessian_under_weight_norm() -> None:
    x, y = classes(12, 5)
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    subject, exact = sb.Subject(net, x, y), reference(net, x, y)
    trace = sb.measure(subject, "hessian_trace", tolerance=0.01, max_probes=4000)
    assert_figure(trace, exact.trace().value)
    top = sb.measure(subject, "hessian_top_eigenvalue", tolerance=1e-8)
    assert_figure(top, exact.top_eigenvalue().value)


def test_a_reentrant_checkpoint() -> None:
    x, y = classes(12, 5)

    def forward(m: Model, x: Tensor) -> Tensor:
        def first(z: Tensor) -> Tensor:
            return torch.tanh(m.a(z))

        return m.b(checkpoint(first, x, use_reentrant=True) if m.checkpointed else first(x))

    net = Model(forward, a=nn.Linear(5, 4), b=nn.Linear(4, 3), checkpointed=True).double()
    got = top_eigenvalue(net, x, y)
    net.checkpointed = False
    assert_figure(got, reference(net, x, y).top_eigenvalue().value)


def test_complex_weights() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 4), torch.randint(0, 3, (10,))

    def forward(m: Model, x: Tensor) -> Tensor:
        w = m.w if m.w.is_complex() else torch.view_as_complex(m.w)
        return m.l(torch.tanh(torch.fft.irfft(torch.fft.rfft(x) * w, n=4)))

    net = Model(forward, w=nn.Parameter(torch.randn(3, dtype=torch.cfloat)), l=nn.Linear(4, 3))
    twin = Model(forward, w=nn.Parameter(torch.view_as_real(net.w.detach()).clone()), l=net.l)
    got = top_eigenvalue(net, x, y)
    exact = reference(twin.double(), x.double(), y).top_eigenvalue().value
    assert_figure(got, exact, tolerance=1e-5)


def test_a_loss_that_returns_a_mean() -> None:
    x, y = classes(12, 5)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    got = top_eigenvalue(net, x, y, loss=nn.CrossEntropyLoss())
    assert_figure(got, reference(net, x, y).top_eigenvalue().value)


def test_regression_of_flat_outputs() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 4, dtype=D), torch.randn(10, dtype=D)
    net = Model(lambda m, x: m.l(x).squeeze(-1), l=nn.Linear(4, 1)).double()
    features = torch.cat([x, torch.ones(10, 1, dtype=D)], 1)
    exact = float(torch.linalg.eigvalsh(features.T @ features / 10)[-1])
    got = sb.measure(sb.Subject(net, x, y), "hessian_top_eigenvalue", tolerance=1e-8)
    assert_figure(got, exact)


def scalar_rate(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """λ of the orders 1 to 4 of a network of one input and one output."""
    net = Model(lambda m, x: function(m.p * x), p=nn.Parameter(torch.ones(1))).double()
    subject = sb.Subject(net, x, torch.zeros(len(x), 1, dtype=D))
    return sb.measure(subject, "curvature_rate", target=0, directions=1, samples="all").value


def rate(*derivatives: np.ndarray | float) -> float:
    """Slope of the mean of log|dₙ|."""
    y = [np.log(np.abs(d)).mean() for d in derivatives]
    return float(np.polyfit(np.arange(1, len(y) + 1), y, 1)[0])


LINE = torch.linspace(-1, 1, 9, dtype=D)[:, None]


def test_rate_of_a_sum_accumulated_in_place() -> None:
    def function(x: Tensor) -> Tensor:
        total = torch.zeros(len(x), 1, dtype=x.dtype)
        total.add_(torch.exp(2 * x))
        return total + torch.exp(3 * x)

    v = LINE.numpy()
    exact = rate(*(2.0**n * np.exp(2 * v) + 3.0**n * np.exp(3 * v) for n in range(1, 5)))
    assert scalar_rate(function, LINE) == pytest.approx(exact, rel=1e-6)


def test_rate_of_a_base_read_through_a_view() -> None:
    def function(x: Tensor) -> Tensor:
        h = torch.cat([x + 2, x + 3], 1)
        view = h.view(-1, 2, 1)
        h.mul_(2.0)
        return torch.exp(view[:, 0])

    assert scalar_rate(function, LINE) == pytest.approx(math.log(2), rel=1e-6)


def test_rate_of_a_log_determinant() -> None:
    def function(x: Tensor) -> Tensor:
        one = torch.ones_like(x)
        rows = [torch.cat([x + 2, one], 1), torch.cat([one, 3 * one], 1)]
        return torch.linalg.slogdet(torch.stack(rows, 1))[1][:, None] + torch.exp(x)

    v = LINE.numpy()
    exact = rate(
        *(
            (-1.0) ** (n - 1) * math.factorial(n - 1) * 3.0**n / (3 * v + 5) ** n + np.exp(v)
            for n in range(1, 5)
        )
    )
    assert scalar_rate(function, LINE) == pytest.approx(exact, rel=1e-6)


def test_rate_of_a_cumulative_product_at_zero() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.cat([x, x + 2, x + 3], 1).cumprod(1)[:, 2:] + torch.exp(x)

    exact = rate(7.0, 11.0, 7.0, 1.0)
    assert scalar_rate(function, torch.zeros(1, 1, dtype=D)) == pytest.approx(exact, rel=1e-6)


def test_trace_under_group_norm() -> None:
    x, y = classes(6, 2, 4, 4)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()
    got = sb.measure(sb.Subject(net, x, y), "hessian_trace", tolerance=0.02, max_probes=1000)
    assert_figure(got, reference(net, x, y).trace().value)


def test_eigenvalues_with_their_multiplicity() -> None:
    """½ wᵀAw with the Laplacian of a cycle, whose eigenvalues but two come in pairs."""
    n = 20
    cycle = torch.eye(n, dtype=D)
    for i in range(n):
        cycle[i, (i + 1) % n] -= 0.5
        cycle[(i + 1) % n, i] -= 0.5
    net = Model(
        lambda m, x: 0.5 * m.w @ m.cycle @ m.w + 0 * x,
        w=nn.Parameter(torch.ones(n, dtype=D)),
        cycle=nn.Buffer(cycle),
    )
    x = torch.zeros(4, 1, dtype=D)
    subject = sb.Subject(net, x, x, loss=lambda outputs, targets: outputs[:, 0])
    got = sb.measure(subject, "hessian_top_eigenvalue", count=5)
    exact = torch.linalg.eigvalsh(cycle).flip(0)[:5].tolist()
    assert got.details["eigenvalues"] == pytest.approx(exact, rel=1e-3)


def test_rate_with_a_position_code_moved_like_the_input() -> None:
    x, y = classes(8, 4)
    parts = {"l": nn.Linear(4, 5).double(), "o": nn.Linear(5, 3).double()}
    code = torch.linspace(0, 1, 4)
    moved = Model(lambda m, x: m.o(torch.tanh(m.l(x + code.to(x)))), **parts)
    plain = Model(lambda m, x: m.o(torch.tanh(m.l(x + code.double()))), **parts)
    got, exact = (sb.measure(sb.Subject(m, x, y), "curvature_rate").value for m in (moved, plain))
    assert got == pytest.approx(exact, rel=1e-6)


def test_rate_and_trace_of_a_gated_unit() -> None:
    x, y = classes(8, 4)
    first, last = nn.Linear(4, 6).double(), nn.Linear(3, 3).double()

    def gate(m: Model, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a * torch.sigmoid(b)

    unit, plain = (
        sb.Subject(nn.Sequential(first, middle, last), x, y) for middle in (nn.GLU(), Model(gate))
    )
    got, exact = (sb.measure(s, "curvature_rate").value for s in (unit, plain))
    assert got == pytest.approx(exact, rel=1e-6)
    trace = sb.measure(unit, "hessian_trace", method="gauss_newton", max_probes=400)
    assert_figure(trace, reference(unit.model, x, y).trace().value)


def test_margin_of_a_network_that_deepcopy_refuses() -> None:
    x, y = classes(12, 5)
    net = nn.Sequential(nn.utils.spectral_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3))
    net = net.double()
    net(x)
    net.eval()
    exact = reference(net, x, y).margin().value
    net(x)
    assert sb.measure(sb.Subject(net, x, y), "margin").value == pytest.approx(exact, rel=1e-6)


class ExtraState(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def test_a_module_with_extra_state() -> None:
    x, y = classes(12, 5)
    net = ExtraState(5, 3).double()
    got = sb.measure(sb.Subject(net, x, y), "hessian_top_eigenvalue", tolerance=1e-8)
    assert_figure(got, reference(net, x, y).top_eigenvalue().value)


def test_ignored_targets_are_left_out() -> None:
    x, y = classes(12, 5)
    y[::3] = -100
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    got = top_eigenvalue(net, x, y)
    kept = y != -100
    assert_figure(got, reference(net, x[kept], y[kept]).top_eigenvalue().value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("margin", [20.0, 40.0])
def test_curvature_of_confident_points(margin: float, dtype: str) -> None:
    """H = G = pq [[1, −1], [−1, 1]] ⊗ xxᵀ: trace and top eigenvalue are 10 pq, wᵀGw is pq·margin²."""
    x = torch.tensor([[1.0, 2.0]] * 8, dtype=D)
    net = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[margin / 5, 2 * margin / 5], [0, 0]]))
    subject = sb.Subject(net, x, torch.zeros(8, dtype=torch.long))
    pq = math.exp(-margin) / (1 + math.exp(-margin)) ** 2
    assert pq > 100 * sys.float_info.min
    for name in (
        "gauss_newton_trace",
        "hessian_trace",
        "hessian_top_eigenvalue",
        "gauss_newton_top_eigenvalue",
    ):
        got = sb.measure(subject, name, dtype=dtype)
        assert_figure(got, 10 * pq, tolerance=1e-3)
    norm = sb.measure(subject, "fisher_rao_norm", dtype=dtype)
    assert_figure(norm, math.sqrt(pq) * margin, tolerance=1e-3)
