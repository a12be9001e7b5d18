"""Records as one table in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from sharpbench.errors import InputError
from sharpbench.results.spreadsheet import without_formulas

__all__ = ["write_table"]


def write_table(frame: pd.DataFrame, target: Path) -> int:
    """Write ``frame`` to a .parquet or .csv file, nested values as JSON text; the number of rows.

    In a .csv file no text is one that a spreadsheet would run as a formula.

    Raises InputError for any other ending.
    """
    if target.suffix not in {".parquet", ".csv"}:
        raise InputError(f"{target}: the file must end in .parquet or .csv")
    flat = frame.copy()
    for column in flat.columns:
        if flat[column].map(lambda v: isinstance(v, (list, dict))).any():
            flat[column] = flat[column].map(
                lambda v: json.dumps(v) if isinstance(v, (list, dict)) else v
            )
            flat[column] = flat[column].astype("string")
        elif flat[column].dtype == object:
            flat[column] = flat[column].astype("string")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".parquet":
        flat.to_parquet(target, index=False)
    else:
        without_formulas(flat).to_csv(target, index=False)
    return len(flat)
