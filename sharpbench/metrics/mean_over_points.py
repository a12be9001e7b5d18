"""The answer of a metric that is a mean over points."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sharpbench.curvature.trace import degrees_of_freedom
from sharpbench.measurement import ErrorComponent, Measurement, Source, Work

__all__ = ["jackknife", "mean_over_points", "mean_over_tokens"]


def jackknife(without: Tensor, *, source: Source, left: float = 1.0) -> ErrorComponent:
    """The error of a figure from its values ``without`` each of N points (N,) (Tukey 1958).

    ``left``: the share of the variance that remains where the points are a part of finitely many.
    """
    n = len(without)
    if n < 2 or not without.isfinite().all():
        return ErrorComponent(source, None)
    size = math.sqrt(n - 1) * float(without.std(correction=0)) * math.sqrt(left)
    return ErrorComponent(source, size, degrees_of_freedom(without))


def mean_over_tokens(values: Tensor, kept: Tensor, work: Work) -> Measurement:
    """The mean of ``values`` (N, K) over the tokens that are ``kept`` (N, K), and its standard error over
    the samples that they belong to: of a ratio of means, to first order (Cochran 1977, §2.11).

    Raises NotFinite.
    """
    counts = kept.sum(1).double()
    sums = values.double().masked_fill(~kept, 0.0).sum(1)
    mean = sums.sum() / counts.sum()
    return mean_over_points(mean + (sums - mean * counts) / counts.mean(), work)


def mean_over_points(
    values: Tensor,
    work: Work,
    *,
    converged: bool = True,
    error_bound: float | None = None,
    details: dict[str, Any] | None = None,
) -> Measurement:
    """Mean of ``values`` (N,) with its standard error; a skewed law's has fewer degrees of freedom.

    Raises NotFinite.
    """
    exact = values.double()
    several = len(exact) > 1
    size = float(exact.std()) / math.sqrt(len(exact)) if several else None
    return Measurement(
        value=float(exact.mean()),
        errors=(ErrorComponent("points", size, degrees_of_freedom(exact) if several else None),),
        converged=converged,
        error_bound=error_bound,
        samples=len(exact),
        work=work,
        details=details or {},
    )
