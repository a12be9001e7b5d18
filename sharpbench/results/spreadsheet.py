"""Text that a spreadsheet would run, made text again."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

__all__ = ["without_formulas"]

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""How a cell begins that a spreadsheet reads as a formula (OWASP, "CSV injection")."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with an apostrophe before every text, names of columns too, that begins like a formula.

    Spreadsheets take it off again. Numbers stay as they are, also those that stand among texts.
    """
    safe = frame.rename(columns=_safe)
    for place, dtype in enumerate(frame.dtypes):
        if isinstance(dtype, pd.CategoricalDtype):
            safe.isetitem(place, frame.iloc[:, place].astype(object).map(_safe))
        elif not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)):
            safe.isetitem(place, frame.iloc[:, place].map(_safe))
    return safe


def _safe(cell: Any) -> Any:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell
