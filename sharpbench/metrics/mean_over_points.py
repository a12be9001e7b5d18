"""The answer of a metric that is a mean over points."""

from __future__ import annotations

import math

from torch import Tensor

from sharpbench.measurement import ErrorComponent, Measurement, Work

__all__ = ["mean_over_points"]


def mean_over_points(values: Tensor, work: Work, *, converged: bool = True) -> Measurement:
    """Mean of ``values`` (N,) with its standard error. Raises NotFinite."""
    exact = values.double()
    several = len(exact) > 1
    size = float(exact.std()) / math.sqrt(len(exact)) if several else None
    return Measurement(
        value=float(exact.mean()),
        errors=(ErrorComponent("points", size, len(exact) - 1 if several else None),),
        converged=converged,
        samples=len(exact),
        work=work,
    )
