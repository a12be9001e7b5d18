"""Every table of a page as JSON: what its sections show, for programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.results import Results
from sharpbench.report.sections import Section

__all__ = ["plain", "tables"]


def tables(view: Results, shown: Iterable[Section]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table that the sections ``shown`` have, by ``<section>-<table>``, as JSON has them.

    A table is a frame or a list of rows (mappings, dataclasses); what else a section gives its fragment is
    none. An interval is an object with ``value``, ``low``, ``high`` and ``n``; what is missing or not finite
    is None.
    """
    found = {}
    for section in shown:
        for name, value in section.tables(view).items():
            rows = value.to_dict("records") if isinstance(value, pd.DataFrame) else value
            if isinstance(rows, (list, tuple)):
                told = [plain(row) for row in rows]
                if told and all(isinstance(row, dict) for row in told):
                    found[f"{section.name}-{name}"] = told
    return found


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: of a dataclass its fields, of an array or a set a list."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if value is pd.NA or value is pd.NaT else str(value)
