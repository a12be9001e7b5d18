"""sharpbench: which sharpness metric of a neural network can be trusted?

>>> import sharpbench as sb
>>> subject = sb.Subject(model=net, inputs=X, targets=y)
>>> sb.measure(subject, "curvature_rate", seed=0).value
>>> results = sb.run("quick")
>>> results.scorecard()

Names are imported on first use, so that ``import sharpbench`` does not import torch.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpbench.api.measuring import by_layer as by_layer
    from sharpbench.api.measuring import measure as measure
    from sharpbench.api.results import Results as Results
    from sharpbench.api.results import load_records as load_records
    from sharpbench.api.results import report as report
    from sharpbench.api.running import rank as rank
    from sharpbench.api.running import run as run
    from sharpbench.errors import MetricFailed as MetricFailed
    from sharpbench.measurement import Measurement as Measurement
    from sharpbench.subject import Splits as Splits
    from sharpbench.subject import Subject as Subject
    from sharpbench.version import __version__ as __version__

_HOMES = {
    "MetricFailed": "sharpbench.errors",
    "Measurement": "sharpbench.measurement",
    "Results": "sharpbench.api.results",
    "Splits": "sharpbench.subject",
    "Subject": "sharpbench.subject",
    "__version__": "sharpbench.version",
    "by_layer": "sharpbench.api.measuring",
    "load_records": "sharpbench.api.results",
    "measure": "sharpbench.api.measuring",
    "rank": "sharpbench.api.running",
    "report": "sharpbench.api.results",
    "run": "sharpbench.api.running",
}

__all__ = [
    "Measurement",
    "MetricFailed",
    "Results",
    "Splits",
    "Subject",
    "__version__",
    "by_layer",
    "load_records",
    "measure",
    "rank",
    "report",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sharpbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Door(types.ModuleType):
    """The package as users see it: `report` is what writes a page, and not the folder of that name, which
    an import of anything in it would put in its place."""

    @property
    def report(self) -> Any:
        return __getattr__("report")

    @report.setter
    def report(self, folder: types.ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Door
