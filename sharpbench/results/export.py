"""Records as one table in a file, written piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sharpbench.beside import written_beside
from sharpbench.errors import InputError
from sharpbench.results.nested import NestedArray
from sharpbench.results.spreadsheet import without_formulas

__all__ = ["write_table"]


def write_table(frames: pd.DataFrame | Iterable[pd.DataFrame], target: Path) -> int:
    """Write a frame, or several of the same columns one after another, to a .parquet or .csv file; the number
    of rows.

    Nested values are written as JSON text, and in a .csv file no text as one that a spreadsheet would run
    as a formula. The file is there when it is whole. Raises InputError for any other ending.
    """
    if target.suffix not in {".parquet", ".csv"}:
        raise InputError(f"{target}: the file must end in .parquet or .csv")
    pieces = [frames] if isinstance(frames, pd.DataFrame) else frames
    write = _write_parquet if target.suffix == ".parquet" else _write_csv
    partial: Path | None = None
    try:
        with written_beside(target) as partial:
            return write(map(_flat, pieces), partial)
    except OSError as error:
        if error.errno and error.filename in (
            None,
            str(partial),
            partial,
        ):  # which nobody asked for
            raise OSError(error.errno, error.strerror, str(target)) from None
        raise


def _write_parquet(pieces: Iterable[pd.DataFrame], path: Path) -> int:
    rows, writer = 0, None
    try:
        for piece in pieces:
            schema = writer.schema if writer else None
            table = pa.Table.from_pandas(piece, schema=schema, preserve_index=False)
            if writer is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            rows += len(piece)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _write_csv(pieces: Iterable[pd.DataFrame], path: Path) -> int:
    rows, file = 0, None
    try:
        for piece in pieces:
            if file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("w", encoding="utf-8", newline="")
            without_formulas(piece).to_csv(file, index=False, header=not rows)
            rows += len(piece)
    finally:
        if file is not None:
            file.close()
    return rows


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {name: _flat_column(frame[name]) for name in frame.columns}, index=frame.index
    )


def _flat_column(column: pd.Series) -> pd.Series:
    if isinstance(column.array, NestedArray):
        return pd.Series(column.array.plain().to_pylist(), index=column.index, dtype="string")
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype(object).astype("string")
    if column.dtype == object:
        return column.map(_text).astype("string")
    return column


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value
