"""The trace of a symmetric operator from random probes, with its standard error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TraceResult", "hutchinson_trace", "mean_and_standard_error"]

_MIN_PROBES = 8
"""Below this the standard error itself is too uncertain to stop by."""


@dataclass(frozen=True)
class TraceResult:
    """The mean of vᵀHv over ``probes`` random v, with the standard error of that mean."""

    value: float
    standard_error: float
    converged: bool
    probes: int


def mean_and_standard_error(values: list[float]) -> tuple[float, float | None]:
    """Mean and its standard error s/√n; None for fewer than two values."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, statistics.stdev(values) / math.sqrt(len(values))


def hutchinson_trace(
    matvec: Callable[[Tensor], Tensor],
    dimension: int,
    *,
    tolerance: float,
    max_probes: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> TraceResult:
    """tr H = E[vᵀHv] over Rademacher v (Hutchinson 1990).

    Stops when the standard error is at most ``tolerance`` times the estimate, after eight probes or
    more; with ``max_probes`` used up it returns what it has with ``converged=False``.
    """
    samples: list[float] = []
    error = float("inf")
    for probe in range(max_probes):
        signs = torch.randint(0, 2, (dimension,), generator=generator).to(device, torch.float64)
        vector = 2 * signs - 1
        samples.append(float(matvec(vector).to(torch.float64) @ vector))
        mean, standard_error = mean_and_standard_error(samples)
        if standard_error is None:
            continue
        error = standard_error
        if probe + 1 >= _MIN_PROBES and error <= tolerance * abs(mean):
            break
    mean, _ = mean_and_standard_error(samples)
    return TraceResult(mean, error, error <= tolerance * abs(mean), len(samples))
