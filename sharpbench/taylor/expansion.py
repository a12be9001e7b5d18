"""Taylor-mode automatic differentiation: all directional derivatives of a network in one pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpbench.errors import MetricFailed, TimeLimitExceeded, first_line
from sharpbench.formulas.context import plain_checkpoints
from sharpbench.measurement import Work
from sharpbench.running import as_written
from sharpbench.taylor.dispatch import Propagation
from sharpbench.taylor.jet import Jet, Tally
from sharpbench.taylor.rules import (  # noqa: F401 - their rules enter the table
    arithmetic,
    elementwise,
    functions,
    indexing,
    linear,
    linear_algebra,
    losses,
    normalization,
    recurrent,
    selections,
    spectral,
)

__all__ = [
    "derivatives",
    "is_piecewise_linear",
    "jet",
    "log_factorials",
    "propagated",
    "signed_sums",
    "taylor",
]

Function = Callable[[Any], Any]


def jet(
    function: Function,
    points: Tensor,
    directions: Tensor,
    order: int,
    *,
    work: Work | None = None,
    memory_budget: int | None = None,
) -> list[Tensor]:
    """[f(x), Df(x)[v], D²f(x)[v, v], …] up to ``order``, in one pass.

    The derivatives are plain ones, not divided by n!; `taylor` gives the normalised coefficients,
    which don't overflow. Differentiable once with respect to the parameters of ``function``.

    Parameters
    ----------
    function: a module or any function of tensors built from torch operations. An operation without a
        rule is differentiated by nested forward mode, with one warning that names it.
    points: (N, …) floating point.
    directions: the shape of ``points``, or (D, N, …) for D directions a point.
    order: highest order, at least 0.
    work: the passes made are added to it, in forward passes over samples.
    memory_budget: bytes; the points are then taken in chunks that should fit, which needs a function
        that treats the first axis sample by sample. None: all at once.

    Returns
    -------
    order + 1 tensors of the shape of ``function(points)``, with D in front if ``directions`` has it.

    Raises
    ------
    ValueError: shapes that don't fit, a negative order, or integer points.
    """
    coefficients = taylor(
        function, points, directions, order, work=work, memory_budget=memory_budget
    )
    return list(derivatives(coefficients))


def derivatives(coefficients: Tensor) -> Tensor:
    """Plain derivatives from normalised coefficients (order + 1, …): times n!."""
    factors = [math.factorial(n) for n in range(len(coefficients))]
    scale = torch.tensor([float(min(f, 10**308)) for f in factors], dtype=torch.float64)
    scale = scale.to(coefficients.device, coefficients.dtype)
    return coefficients * scale.view(-1, *[1] * (coefficients.ndim - 1))


def signed_sums(directions: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(±1, u₁ ± u₂ ± … ± uₙ) for the 2ⁿ⁻¹ choices of signs, of ``directions`` (n, …).

    By polarisation Dⁿf[u₁, …, uₙ] = 2¹⁻ⁿ Σ ± cₙ(u₁ ± … ± uₙ), cₙ the nth normalised coefficient.
    """
    for signs in itertools.product((1, -1), repeat=len(directions) - 1):
        total = directions[0].clone()
        for sign, other in zip(signs, directions[1:], strict=True):
            total += sign * other
        yield math.prod(signs), total


def log_factorials(degree: int) -> Tensor:
    """log n! for n = 0 … degree, float64."""
    return torch.lgamma(torch.arange(1, degree + 2, dtype=torch.float64))


def taylor(
    function: Function,
    points: Tensor,
    directions: Tensor,
    order: int,
    *,
    work: Work | None = None,
    memory_budget: int | None = None,
) -> Tensor:
    """The normalised coefficients Dⁿf(x)[v, …, v]/n!, stacked (order + 1, …); see `jet`."""
    if order < 0:
        raise ValueError(f"order must not be negative, got {order}")
    if not points.is_floating_point():
        raise ValueError(f"points must be floating point, got {points.dtype}")
    if directions.shape == points.shape:
        shape = None
    elif directions.shape[1:] == points.shape:
        shape = directions.shape[:2]
        points = points.expand_as(directions).flatten(0, 1)
        directions = directions.flatten(0, 1)
    else:
        raise ValueError(
            f"directions need the shape of the points {tuple(points.shape)}, or that with a leading "
            f"axis; got {tuple(directions.shape)}"
        )
    directions = directions.to(points)
    tally = Tally()
    if memory_budget is None:
        result = _propagate(function, points, directions, order, tally)
    else:
        result = _in_chunks(function, points, directions, order, tally, memory_budget)
    if work is not None:
        work.forward += tally.passes(order) * len(points)
    return result if shape is None else result.unflatten(1, shape)


def is_piecewise_linear(function: Function, points: Tensor) -> bool:
    """Whether every derivative above the first is structurally zero, as in ReLU networks."""
    tally = Tally()
    start = Jet(torch.stack([points, torch.ones_like(points)]), (0, 1), 2, tally)
    try:
        with torch.no_grad():
            result = _through(function, start)
    except NotImplementedError:
        return False
    return result.orders[-1] <= 1


def _in_chunks(
    function: Function, points: Tensor, directions: Tensor, order: int, tally: Tally, budget: int
) -> Tensor:
    """The first sample tells how large the largest intermediate series is."""
    pieces = [_propagate(function, points[:1], directions[:1], order, tally)]
    per_sample = _LIVE_SERIES * tally.largest * points.element_size()
    chunk = max(int(budget / max(per_sample, 1)), 1)
    rest = zip(points[1:].split(chunk), directions[1:].split(chunk), strict=True)
    pieces += [_propagate(function, x, v, order, tally) for x, v in rest if len(x)]
    return torch.cat(pieces, dim=1)


_LIVE_SERIES = 4
"""Series of the largest size alive at once: the input, y, w and one scratch."""


def _propagate(function: Function, x: Tensor, v: Tensor, order: int, tally: Tally) -> Tensor:
    start = Jet(torch.stack([x, v]) if order else x.unsqueeze(0), (0, 1)[: order + 1], order, tally)
    return _through(function, start).full()


def _through(function: Function, start: Jet) -> Jet:
    """The series that ``function`` makes of ``start``."""
    return propagated(lambda: function(start), start.degree, start.tally)


def propagated(run: Callable[[], Any], degree: int, tally: Tally) -> Jet:
    """The series that ``run()`` returns; within it series up to ``degree`` are defined."""
    # What is run again in a backward pass would meet series after their propagation.
    with (
        as_written(),
        sdpa_kernel(SDPBackend.MATH),
        plain_checkpoints(every=True),
        Propagation(degree, tally) as propagation,
    ):
        try:
            result = run()
        except Exception as error:
            known = (NotImplementedError, MetricFailed, TimeLimitExceeded, torch.OutOfMemoryError)
            if isinstance(error, (*known, MemoryError)) or "memory" in str(error):
                raise
            # The network runs on tensors: what fails is that a series stands in for one.
            raise NotImplementedError(
                f"Taylor mode can't follow it: {first_line(error)}"
            ) from error
        if isinstance(result, Tensor):
            series = propagation.series_of(result)
            result = Jet(result.unsqueeze(0), (0,), degree, tally) if series is None else series
        if not isinstance(result, Jet):
            raise TypeError(
                f"the function must return one tensor, it returned {type(result).__name__}"
            )
        return result.like(result.coefficients)
