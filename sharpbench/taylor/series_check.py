"""Whether Taylor mode is right for the function at hand: its series against other means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.taylor.expansion import derivatives, taylor

__all__ = ["check_series", "check_values"]

Function = Callable[[Tensor], Tensor]

Checks = dict[str, float | str]

_HIGHEST = 4
"""Nested reverse mode doubles its cost with each order; the recurrences don't change with it."""


def check_values(function: Function, points: Tensor, directions: Tensor, *, work: Work) -> Checks:
    """That the series begin with what the function itself gives, to half the digits.

    Raises
    ------
    MetricFailed: they don't, or the function gives something else each time.
    """
    with torch.no_grad():
        found = taylor(function, points, directions, 1, work=work)[0]
        plain = function(points.clone())
        work.forward += len(points)
        deviation = _deviation(found, plain)
        if not deviation <= _TOLERANCE_OF_VALUES[points.dtype]:
            again = function(points.clone())
            if not _deviation(again, plain) <= _TOLERANCE_OF_VALUES[points.dtype]:
                raise MetricFailed(
                    "the network gives different outputs for the same input: it draws random numbers "
                    "or keeps a state; make it a function of its input alone"
                )
            raise MetricFailed(
                f"Taylor mode's value deviates by {deviation:.2g} from the network's own: it writes into "
                "a tensor, or leaves torch, in a way that can't be followed; write it without in-place "
                "operations"
            )
    return {"coefficient 0": deviation}


def check_series(
    function: Function,
    points: Tensor,
    directions: Tensor,
    order: int,
    *,
    work: Work,
    parameters: Sequence[Tensor] = (),
) -> Checks:
    """`check_values`, and each order up to 4 against nested reverse mode along t ↦ f(x + t·u).

    All outputs of all points are weighed by ±1 and summed, which is right too where points depend on
    each other. Where reverse mode has no answer, or another one, central differences of the order below
    decide, down to differences of the function itself: torch's own rules aren't all right.

    Parameters
    ----------
    function: (n, …) to n or more values; it must be a function of its input alone.
    points, directions: (n, …); a few are enough.
    parameters: their gradients of the derivatives are compared too.

    Raises
    ------
    MetricFailed: the series are not those of this function.
    """
    checks = check_values(function, points, directions, work=work)
    order = min(order, _HIGHEST)
    if not order:
        return checks
    with torch.set_grad_enabled(bool(parameters)):
        series = derivatives(taylor(function, points, directions, order, work=work)).flatten(1)
    signs = _signs(series[0])
    found, scale = series @ signs, series.detach().abs().sum(1)
    if parameters:
        _refuse_lost_parameters(function, points, found, parameters)
    name, tolerance = "orders against reverse mode", _TOLERANCE_OF_ORDERS[points.dtype]
    try:
        expected = _by_reverse_mode(function, points, directions, order, signs, work)
        checks[name] = deviation = _largest(found.detach(), expected.detach(), scale)
        if deviation <= tolerance and parameters:
            checks["gradients of orders"] = deviation = _of_gradients(found, expected, parameters)
            work.gradient += 2 * len(points)
            tolerance *= 100
    except (RuntimeError, NotImplementedError) as error:  # torch has no such derivative
        if isinstance(error, MetricFailed):
            raise
        deviation = math.inf
        checks[name] = f"not made: {str(error).splitlines()[0][:120]}"
    if deviation <= tolerance:
        return checks
    if "gradients of orders" in checks:
        raise MetricFailed(
            f"the gradients of Taylor mode's derivatives deviate by {deviation:.2g} from reverse mode's"
        )
    decided = _against_differences(function, points, directions, order, signs, found, scale, work)
    if decided > _TOLERANCE_OF_DIFFERENCES[points.dtype]:
        said = f"by {deviation:.2g} " if math.isfinite(deviation) else ""
        raise MetricFailed(
            f"Taylor mode's derivatives deviate {said}from reverse mode and by {decided:.2g} from central "
            "differences: the network leaves torch, or has a derivative of its own making that isn't the "
            "one of its outputs"
        )
    if math.isfinite(deviation):
        checks[name] = (
            f"not made: torch's own deviates by {deviation:.2g}, differences say it is wrong"
        )
    checks["orders against central differences"] = decided
    return checks


_TOLERANCE_OF_VALUES = {torch.float64: 1e-8, torch.float32: 1e-3}
_TOLERANCE_OF_ORDERS = {torch.float64: 1e-6, torch.float32: 2e-2}
_TOLERANCE_OF_DIFFERENCES = {torch.float64: 1e-4, torch.float32: 0.1}
_STEP = {torch.float64: 2e-4, torch.float32: 2e-2}


def _deviation(found: Tensor, plain: Tensor) -> float:
    """The largest difference over the largest value, but for what rounding may make."""
    if found.shape != plain.shape:
        return math.inf
    same = torch.isnan(found) & torch.isnan(plain) | (found == plain)
    difference = torch.where(same, torch.zeros_like(plain), found - plain).abs()
    finite = plain[torch.isfinite(plain)].abs()
    if not len(finite):
        return float(difference.any())
    rounding = 100 * torch.finfo(plain.dtype).eps
    return float((difference.max() - rounding).clamp_min(0) / (finite.max() + rounding))


def _largest(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """The largest difference over each order's size, from order 1 on; less what rounding may make."""
    rounding = 1e3 * torch.finfo(scale.dtype).eps * torch.cummax(scale, 0).values
    difference = (found - expected).abs() - rounding
    if not torch.isfinite(difference).all():
        same = torch.isfinite(found) == torch.isfinite(expected)
        return 0.0 if same.all() else math.inf
    return float((difference.clamp_min(0) / (scale + rounding).clamp_min(1e-300))[1:].max())


def _signs(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(len(values))
    drawn = torch.randint(2, (len(values),), generator=generator)
    return (2 * drawn - 1).to(values)


def _moved(points: Tensor, directions: Tensor, t: Tensor | float) -> Tensor:
    return points + t * directions


def _by_reverse_mode(
    function: Function, points: Tensor, directions: Tensor, order: int, signs: Tensor, work: Work
) -> Tensor:
    with repeatedly_differentiable(), torch.enable_grad():
        t = torch.zeros((), dtype=points.dtype, device=points.device, requires_grad=True)
        current = function(_moved(points, directions, t)).flatten() @ signs
        work.forward += len(points)
        found = [current]
        for n in range(1, order + 1):
            if current.grad_fn is None:
                current = torch.zeros_like(current)
            else:
                (current,) = torch.autograd.grad(
                    current, t, create_graph=True, materialize_grads=True
                )
                work.add_derivative(n, len(points))
            found.append(current)
        return torch.stack(found)


def _refuse_lost_parameters(
    function: Function, points: Tensor, found: Tensor, parameters: Sequence[Tensor]
) -> None:
    """Raises MetricFailed where parameters without a gradient change the function's values."""
    lost = list(parameters)
    if found.requires_grad:
        gradients = torch.autograd.grad(
            found.sum(), parameters, allow_unused=True, retain_graph=True
        )
        lost = [p for p, g in zip(parameters, gradients, strict=True) if g is None]
    with suppress(RuntimeError):  # what the plain network doesn't train either isn't lost
        plain = torch.autograd.grad(
            function(points.clone()).sum(), lost, allow_unused=True, materialize_grads=False
        )
        lost = [p for p, g in zip(lost, plain, strict=True) if g is not None]
    if not lost:
        return
    with torch.no_grad():
        before, saved = function(points.clone()), [p.clone() for p in lost]
        for p in lost:
            p.mul_(1.25).add_(0.125)
        after = function(points.clone())
        for p, value in zip(lost, saved, strict=True):
            p.copy_(value)
    if not torch.equal(before, after):
        raise MetricFailed(
            f"{len(lost)} parameters get no gradients from Taylor mode although the outputs depend on "
            "them: a part of the network runs without a graph (a reentrant checkpoint, no_grad)"
        )


def _of_gradients(found: Tensor, expected: Tensor, parameters: Sequence[Tensor]) -> float:
    weights = 1 / found.detach().abs().clamp_min(torch.finfo(found.dtype).tiny)

    def gradient(values: Tensor) -> Tensor:
        if not values.requires_grad:
            return torch.zeros(1, dtype=values.dtype)
        parts = torch.autograd.grad(
            (values * weights)[1:].sum(), parameters, materialize_grads=True
        )
        return torch.cat([p.flatten() for p in parts])

    ours, theirs = gradient(found), gradient(expected)
    size = float(torch.linalg.vector_norm(theirs))
    return float(torch.linalg.vector_norm(ours - theirs)) / size if size else 0.0


def _against_differences(
    function: Function,
    points: Tensor,
    directions: Tensor,
    order: int,
    signs: Tensor,
    found: Tensor,
    scale: Tensor,
    work: Work,
) -> float:
    """The smallest deviation over a few steps: a kink near a point spoils some of them."""

    def below(t: float) -> Tensor:
        x = _moved(points, directions, t)
        with torch.no_grad():
            values = [function(x.clone()).flatten().unsqueeze(0)]
            work.forward += len(points)
            if order > 1:
                rest = derivatives(taylor(function, x, directions, order - 1, work=work))
                values.append(rest.flatten(1)[1:])
        return torch.cat(values) @ signs

    best = math.inf
    for step in (1.0, 0.1, 0.02):
        h = step * _STEP[points.dtype]
        slopes = [(below(s) - below(-s)) / (2 * s) for s in (h, h / 2)]
        estimate = (4 * slopes[1] - slopes[0]) / 3
        expected = torch.cat([found[:1].detach(), estimate])
        best = min(best, _largest(found.detach(), expected, scale))
    return best
