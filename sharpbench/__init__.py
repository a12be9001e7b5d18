"""sharpbench: which sharpness metric of a neural network can be trusted?

>>> import sharpbench as sb
>>> subject = sb.Subject(model=net, inputs=X, targets=y)
>>> sb.measure(subject, "curvature_rate", seed=0).value

Names are imported on first use, so that ``import sharpbench`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sharpbench.version import __version__

if TYPE_CHECKING:
    from sharpbench.api import by_layer as by_layer
    from sharpbench.api import measure as measure
    from sharpbench.errors import MetricFailed as MetricFailed
    from sharpbench.measurement import Measurement as Measurement
    from sharpbench.results.store import load_records as load_records
    from sharpbench.subject import Splits as Splits
    from sharpbench.subject import Subject as Subject

_HOMES = {
    "MetricFailed": "sharpbench.errors",
    "Measurement": "sharpbench.measurement",
    "Splits": "sharpbench.subject",
    "Subject": "sharpbench.subject",
    "by_layer": "sharpbench.api",
    "load_records": "sharpbench.results.store",
    "measure": "sharpbench.api",
}

__all__ = [
    "Measurement",
    "MetricFailed",
    "Splits",
    "Subject",
    "__version__",
    "by_layer",
    "load_records",
    "measure",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sharpbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
