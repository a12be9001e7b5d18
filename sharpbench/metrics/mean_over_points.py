"""The answer of a metric that is a mean over points."""

from __future__ import annotations

import math

from torch import Tensor

from sharpbench.measurement import ErrorComponent, Measurement, Source, Work

__all__ = ["degrees_of_freedom", "jackknife", "mean_over_points"]


def degrees_of_freedom(values: Tensor) -> float:
    """Those of the variance estimated from ``values`` (N,), from N − 1 down to 1 as their tails grow.

    Satterthwaite's 2σ⁴/Var(s²) with Var(s²) = σ⁴(κ/N + 2/(N − 1)), κ the excess kurtosis: three times the
    sample's, which falls short where it is large (the suite ``calibration`` tells by how much), and none
    below the normal distribution's.
    """
    n = len(values)
    centred = (values - values.mean()).double()
    square = float(centred.square().mean())
    if n < 3 or not square > 0:
        return float(max(n - 1, 1))
    kurtosis = max(float(centred.pow(4).mean()) / square**2 - 3, 0.0)
    return max(1 / (1.5 * kurtosis / n + 1 / (n - 1)), 1.0)


def jackknife(without: Tensor, *, source: Source) -> ErrorComponent:
    """The error of a figure from its values ``without`` each of N points (N,) (Tukey 1958)."""
    n = len(without)
    if n < 2 or not without.isfinite().all():
        return ErrorComponent(source, None)
    size = math.sqrt(n - 1) * float(without.std(correction=0))
    return ErrorComponent(source, size, degrees_of_freedom(without))


def mean_over_points(values: Tensor, work: Work, *, converged: bool = True) -> Measurement:
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
        samples=len(exact),
        work=work,
    )
