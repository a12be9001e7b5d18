"""The answer of a metric that is a mean over points, or over directions at each of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sharpbench.curvature.trace import degrees_of_freedom
from sharpbench.errors import MetricFailed, NotFinite
from sharpbench.measurement import ErrorComponent, Measurement, Source, Work

__all__ = [
    "Errors",
    "jackknife",
    "jackknife_in_two_stages",
    "mean_over_decisions",
    "mean_over_points",
    "residuals_of_samples",
    "sizes_in_two_stages",
]

Errors = tuple[ErrorComponent, ...]


def jackknife(without: Tensor, *, source: Source, left: float = 1.0) -> ErrorComponent:
    """The error of a figure from its values ``without`` each of N points (N,) (Tukey 1958).

    ``left``: the share of the variance that remains where the points are a part of finitely many.
    """
    n = len(without)
    if n < 2 or not without.isfinite().all():
        return ErrorComponent(source, None)
    size = math.sqrt(n - 1) * float(without.std(correction=0)) * math.sqrt(left)
    return ErrorComponent(source, size, degrees_of_freedom(without))


def jackknife_in_two_stages(without: Tensor, inside: Tensor | None, *, left: float) -> Errors:
    """The errors ``points`` and ``directions`` of a figure of N points with D random directions each.

    ``without`` (N,): the figure without each point; ``inside`` (N, D): without each direction of each
    point (N, 0 where D is 1: nothing is left then), None where the directions are not random. ``left``:
    the share of the points meant that is not measured, 1 − n/N; 0 where all of them are.

    The spread over the points is that of both, V; the spread of each point's directions, a jackknife in
    strata, is theirs alone, V_d. So V_d + ``left``·(V − V_d) is the variance (Cochran 1977, §10.3), and
    the second term, no less than 0, is that of ``points``. By one direction the two can't be told apart:
    of some of the points the component is ``points and directions``, V; of all of them it is
    ``directions``, for which V is too large, if anything.

    The degrees of freedom of ``points`` are those that give the sum its own, though the two estimates
    depend on each other.
    """
    if inside is None:
        return (jackknife(without, source="points", left=left),) if left > 0 else ()
    if inside.shape[1] < 2:
        return (jackknife(without, source="points and directions" if left > 0 else "directions"),)
    directions = _of_strata(without, inside)
    if not left > 0:
        return (directions,)
    whole = jackknife(without, source="points")
    if whole.size is None or directions.size is None:
        return ErrorComponent("points", None), directions
    both, own = whole.size**2, directions.size**2
    variance = left * max(both - own, 0.0)
    assert whole.degrees_of_freedom is not None
    assert directions.degrees_of_freedom is not None
    scatter_of_own = own**2 / directions.degrees_of_freedom
    scatter = left**2 * both**2 / whole.degrees_of_freedom + (1 - left) ** 2 * scatter_of_own
    rest = scatter - scatter_of_own
    most = len(without) - 1.0
    free = min(max(variance**2 / rest, 1.0), most) if rest > 0 else most
    return ErrorComponent("points", math.sqrt(variance), free), directions


def sizes_in_two_stages(
    without: Tensor, inside: Tensor | None, *, left: float
) -> list[float] | None:
    """The total errors alone of K figures, from ``without`` (N, K) and ``inside`` (N, D, K); None where they
    are not told."""
    n = len(without)
    both = (n - 1) * without.var(0, correction=0) if n > 1 else math.nan * without[0]
    if inside is None:
        variance = left * both
    elif inside.shape[1] < 2:
        variance = both
    else:
        own = _over_directions(inside).sum(0)
        variance = own + (left * (both - own).clamp_min(0) if left > 0 else 0.0)
    found: list[float] = variance.sqrt().tolist()
    return found if variance.isfinite().all() else None


def _over_directions(inside: Tensor) -> Tensor:
    """That of each of N strata over the second axis, (N, …)."""
    return (inside.shape[1] - 1) * inside.var(1, correction=0)


def _of_strata(without: Tensor, inside: Tensor) -> ErrorComponent:
    """The jackknife in N strata of D values each, of a figure that is ``inside`` (N, D) without each value,
    and ``without`` (N,) each stratum.

    The square of the variance of D normal values is smaller on average than its estimate's by
    (D − 1)/(D + 1), which Satterthwaite's degrees of freedom allow for. Skewness is that of all values
    together: about the mean of two, each is as far on its side as the other.
    """
    strata, each = inside.shape
    if not inside.isfinite().all():
        return ErrorComponent("directions", None)
    own = _over_directions(inside)
    total = float(own.sum())
    free = float(strata * (each - 1))
    if total > 0:
        free = (each + 1) * total**2 / float(own.square().sum())
        values = strata * (each - 1) * (inside - inside.mean(1, keepdim=True))
        if strata > 1 and without.isfinite().all():
            values = values + (strata - 1) * without.unsqueeze(1)
        skewed = 1 / degrees_of_freedom(values.flatten()) - 1 / (values.numel() - 1)
        free = max(1 / (1 / free + skewed), 1.0)
    return ErrorComponent("directions", math.sqrt(total), free)


def residuals_of_samples(values: Tensor, owner: Tensor, samples: int) -> tuple[float, Tensor]:
    """The mean of ``values`` (M,) and what each of the ``samples`` (N,) adds to it: r_i whose mean is 0, so
    that its standard error is that of the mean of r, to first order (a ratio of means, Cochran 1977, §2.11).

    ``owner`` (M,): the sample that each value belongs to; those of one sample are not independent.
    """
    exact = values.double()
    sums = exact.new_zeros(samples).index_add(0, owner, exact)
    counts = exact.new_zeros(samples).index_add(0, owner, torch.ones_like(exact))
    mean = sums.sum() / counts.sum()
    return float(mean), (sums - mean * counts) / counts.mean()


def mean_over_decisions(
    values: Tensor, owner: Tensor, samples: int, population: int, work: Work
) -> Measurement:
    """The mean of ``values`` (M,), and its standard error over the ``samples``, of ``population``, that they
    belong to (`residuals_of_samples`).

    Raises MetricFailed where there are none, and NotFinite.
    """
    if not len(values):
        raise MetricFailed("every target of the samples drawn is one that the loss ignores")
    mean, residuals = residuals_of_samples(values, owner, samples)
    return mean_over_points(mean + residuals, population, work)


def mean_over_points(
    values: Tensor,
    population: int,
    work: Work,
    *,
    converged: bool = True,
    error_bound: float | None = None,
    details: dict[str, Any] | None = None,
) -> Measurement:
    """Mean of ``values`` (N,) of N points drawn from ``population``, with its standard error: none where all
    of them are measured. A skewed law's has fewer degrees of freedom.

    Raises NotFinite.
    """
    exact = values.double()
    n, left = len(exact), 1 - len(exact) / population
    if lost := int((~exact.isfinite()).sum()):
        raise NotFinite(f"of {lost} of {n} points the figure is not finite")
    errors: Errors = (ErrorComponent("points", None),)
    if n > 1:
        size = float(exact.std()) * math.sqrt(left / n)
        errors = (ErrorComponent("points", size, degrees_of_freedom(exact)),)
    return Measurement(
        value=float(exact.mean()),
        errors=errors if left > 0 else (),
        converged=converged,
        error_bound=error_bound,
        samples=n,
        work=work,
        details=details or {},
    )
