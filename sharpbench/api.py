"""The Python entry point to a single measurement."""

from __future__ import annotations

from typing import Any

from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric
from sharpbench.subject import Subject

__all__ = ["measure"]


def measure(
    subject: Subject, metric: str | Metric, *, seed: int = 0, **parameters: Any
) -> Measurement:
    """Measure ``subject`` with a metric, named with its parameters or given as an instance.

    >>> measure(subject, "curvature_rate", orders=(1, 2, 3, 4), directions=2, seed=0)

    Raises
    ------
    InputError: unknown metric or parameter; the message has the nearest valid names.
    MetricFailed: the metric has no answer for this subject; the message says why.
    """
    if isinstance(metric, Metric):
        if parameters:
            raise TypeError("parameters go with a metric's name, not with an instance")
        chosen = metric
    else:
        chosen = metrics.create(metric, parameters)
    return chosen.checked_measure(subject, seed=seed)
