"""Whether Taylor mode is right for the function at hand: its series against other means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.taylor.expansion import derivatives, taylor

__all__ = ["BENT", "check_reverse_mode", "check_series", "check_values"]

Function = Callable[[Tensor], Tensor]

Checks = dict[str, float | str]

_HIGHEST = 4
"""Nested reverse mode doubles its cost with each order; the recurrences don't change with it."""


def check_values(function: Function, points: Tensor, found: Tensor, *, work: Work) -> Checks:
    """That ``found``, with which series at the points begin, is what the function itself gives, to half the
    digits.

    Raises
    ------
    MetricFailed: it isn't, or the function gives something else each time.
    """
    with torch.no_grad():
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
                "a tensor, or leaves torch, in a way that can't be followed, or computes in half precision "
                "(autocast); write it without in-place operations"
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
    """The values, by `check_values`, and each order up to 4 against nested reverse mode along t ↦ f(x + t·u).

    All outputs of all points are weighed by ±1 and summed, which is right too where points depend on
    each other. Where reverse mode has no answer, or another one, central differences of the order below
    decide, down to differences of the function itself: torch's own rules aren't all right. Where the function
    is bent right at the points (`BENT` in the checks), the orders are compared a little beside them.

    Parameters
    ----------
    function: (n, …) to n or more values; it must be a function of its input alone.
    points, directions: (n, …); a few are enough.
    parameters: their gradients of the derivatives are compared too.

    Raises
    ------
    MetricFailed: the series are not those of this function.
    """
    highest = min(order, _HIGHEST)

    def orders(x: Tensor) -> Tensor:
        return derivatives(taylor(function, x, directions, highest, work=work))

    with torch.set_grad_enabled(bool(parameters)):
        series = orders(points)
    checks = check_values(function, points, series[0].detach(), work=work)
    if not highest:
        return checks
    try:
        return checks | _check_orders(function, points, directions, series, work, parameters)
    except _Deviation:
        with torch.no_grad():
            bent = _bent(lambda x: orders(x).flatten(1), points, directions)
        if not bent:
            raise
    beside = _aside(points)
    with torch.set_grad_enabled(bool(parameters)):
        series = orders(beside)
    checks |= _check_orders(function, beside, directions, series, work, parameters)
    return checks | {BENT: _BESIDE}


def check_reverse_mode(
    function: Function, points: Tensor, directions: Tensor, order: int, *, work: Work
) -> Checks:
    """Nested reverse mode along t ↦ f(x + t·u), up to order 4, against differences of the order below.

    For functions that Taylor mode can't follow. Raises MetricFailed where torch has no such derivatives, or
    wrong ones.
    """
    order = min(order, _HIGHEST)
    where = points
    try:
        apart = _reverse_mode_apart(function, where, directions, order, work)
        if apart > _TOLERANCE_OF_DIFFERENCES[points.dtype]:
            with torch.no_grad():
                signs = _signs(function(points.clone()).flatten())
            reverse = partial(_by_reverse_mode, function)
            if _bent(
                lambda x: reverse(x, directions, order, signs, work).detach()[:, None],
                points,
                directions,
            ):
                where = _aside(points)
                apart = _reverse_mode_apart(function, where, directions, order, work)
    except RuntimeError as error:
        if isinstance(error, (TimeLimitExceeded, torch.OutOfMemoryError)):
            raise
        raise MetricFailed(
            f"torch can't differentiate it {order} times: {in_words(error)}"
        ) from error
    if apart > _TOLERANCE_OF_DIFFERENCES[points.dtype]:
        raise MetricFailed(
            f"torch's derivatives deviate by {apart:.2g} from central differences of the order below: an "
            "operation in the network has a derivative that isn't the one of its outputs"
        )
    checks: Checks = {"reverse mode against central differences": apart}
    return checks if where is points else checks | {BENT: _BESIDE}


def _reverse_mode_apart(
    function: Function, points: Tensor, directions: Tensor, order: int, work: Work
) -> float:
    with torch.no_grad():
        signs = _signs(function(points.clone()).flatten())

    def at(t: float, highest: int) -> Tensor:
        x = _moved(points, directions, t)
        return _by_reverse_mode(function, x, directions, highest, signs, work).detach()

    found = at(0.0, order)
    best = math.inf
    for h in (f * _STEP[points.dtype] for f in _FACTORS):
        sides = [(at(s, order - 1), at(-s, order - 1)) for s in (h, h / 2)]
        slopes = [(a - b) / (2 * s) for (a, b), s in zip(sides, (h, h / 2), strict=True)]
        expected = torch.cat([found[:1], (4 * slopes[1] - slopes[0]) / 3])
        best = min(best, _largest(found, expected, torch.maximum(found.abs(), expected.abs())))
        if best <= _TOLERANCE_OF_DIFFERENCES[points.dtype]:
            break
    return best


class _Deviation(MetricFailed):
    """The series of some points are not those of the function."""


def _check_orders(
    function: Function,
    points: Tensor,
    directions: Tensor,
    series: Tensor,
    work: Work,
    parameters: Sequence[Tensor],
) -> Checks:
    """``series``: the derivatives (order + 1, …) by Taylor mode."""
    checks: Checks = {}
    series, order = series.flatten(1), len(series) - 1
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
        raise _Deviation(
            f"the gradients of Taylor mode's derivatives deviate by {deviation:.2g} from reverse mode's"
        )
    decided = _against_differences(function, points, directions, order, signs, found, scale, work)
    if decided > _TOLERANCE_OF_DIFFERENCES[points.dtype]:
        said = f"by {deviation:.2g} " if math.isfinite(deviation) else ""
        raise _Deviation(
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


def _bent(orders: Callable[[Tensor], Tensor], points: Tensor, directions: Tensor) -> bool:
    """Whether some derivative jumps right where the points stand: there each mode may take another side's.

    So it is where several entries are the largest (a black border under max-pooling) or a ReLU's argument
    is zero, up to rounding. A jump stays as the distance over which it is seen shrinks.

    ``orders``: derivatives (order + 1, …) at other points, along the directions.
    """
    jumps = []
    for length in (_JUMP[points.dtype], _JUMP[points.dtype] / 10):
        ahead, behind = (
            orders(_moved(points, directions, t))[1:].flatten(1) for t in (length, -length)
        )
        scale = torch.maximum(ahead.abs().sum(1), behind.abs().sum(1))
        jumps.append((ahead - behind).abs().sum(1) / scale.clamp_min(1e-300))
    far, near = jumps
    if not bool(torch.isfinite(near).all()):
        return False
    return bool(((near > 0.5 * far) & (near > _TOLERANCE_OF_DIFFERENCES[points.dtype])).any())


def _aside(points: Tensor) -> Tensor:
    """The points a little off, in every entry."""
    generator = torch.Generator().manual_seed(len(points))
    drawn = torch.randn(points.shape, generator=generator, dtype=torch.float64).to(points)
    size = points.flatten(1).square().mean(1).sqrt().clamp_min(1e-3)
    return points + 1e-2 * size.view(-1, *[1] * (points.ndim - 1)) * drawn


BENT = "points"
"""The entry of the checks that tells of points at which the function is not smooth."""

_BESIDE = "the function is bent where a point stands: its orders were checked beside it"

_FACTORS = (1.0, 0.1, 0.02)
"""Of the step of a difference: a kink near a point spoils some."""

_TOLERANCE_OF_VALUES = {torch.float64: 1e-8, torch.float32: 1e-3}
_TOLERANCE_OF_ORDERS = {torch.float64: 1e-6, torch.float32: 2e-2}
_TOLERANCE_OF_DIFFERENCES = {torch.float64: 1e-4, torch.float32: 0.1}
_STEP = {torch.float64: 2e-4, torch.float32: 2e-2}
_JUMP = {torch.float64: 1e-5, torch.float32: 1e-3}


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
    if not lost:
        return
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
    for h in (f * _STEP[points.dtype] for f in _FACTORS):
        slopes = [(below(s) - below(-s)) / (2 * s) for s in (h, h / 2)]
        estimate = (4 * slopes[1] - slopes[0]) / 3
        expected = torch.cat([found[:1].detach(), estimate])
        best = min(best, _largest(found.detach(), expected, scale))
    return best
