"""Records as one pandas frame: the columns that are asked for, in little memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.arrays import NumpyExtensionArray

from sharpbench.errors import InputError, nearest_names
from sharpbench.results.coded import SORTS, one_dictionary, reals_of, words_of
from sharpbench.results.columns import Rows, Sort, one_array
from sharpbench.results.description import PARTS
from sharpbench.results.nested import NestedArray

__all__ = ["column", "cost_sorts", "frame_of", "rows_of", "typed"]

_OPEN = tuple(f"{part}." for part in (*PARTS, "cost"))
"""Beginnings of columns of which each store has its own."""


def frame_of(
    rows: Rows,
    columns: Collection[str] | None,
    common: Sequence[Mapping[str, Any]],
    *,
    read_only: bool = False,
) -> pd.DataFrame:
    """The frame of ``rows``, converted by `column`; ``common``: the `subject_columns` of each folder.

    ``read_only``: columns of one value stay in the memory of one, and can't be written to in place.
    Equal texts are one object; lists and dicts are decoded when they are looked at. Raises InputError for a
    column that no record can have.
    """
    own = pd.DataFrame(common)
    found: dict[str, Any] = {
        name: _repeated(own[name], rows.folder)
        for name in own.columns
        if columns is None or name in columns
    }
    for name, values in rows.columns.items():
        of_name = values if name == "cost" else {name: values}
        found |= {k: v for k, v in of_name.items() if columns is None or k in columns}
    for name in columns or ():
        if name not in found:
            if not name.startswith(_OPEN):
                known = [*own.columns, *SORTS]
                raise InputError(f"no record has a column {name!r}. {nearest_names(name, known)}")
            found[name] = np.full(len(rows.folder), np.nan)
    index = pd.RangeIndex(len(rows.folder))
    if not read_only:
        found = {k: _writable(v) for k, v in found.items()}
    return pd.DataFrame({k: _series(v, index) for k, v in found.items()}, copy=False)


def rows_of(
    frame: pd.DataFrame, chosen: Any, columns: Collection[str] | None = None
) -> pd.DataFrame:
    """The rows of a frame where ``chosen`` (N,) holds, all ``columns`` if none are named.

    A column of one value stays in the memory of one, in which half of a large frame is kept (`load_records`,
    ``read_only``): ``frame[chosen]`` spells each out.
    """
    rows = np.flatnonzero(chosen)
    index = frame.index[rows]
    found = {}
    for name in frame.columns if columns is None else columns:
        values = frame[name].array
        if isinstance(values, NumpyExtensionArray):
            plain = values.to_numpy()
            once = len(rows) > 0 and plain.strides == (0,)
            values = np.broadcast_to(plain[:1], len(rows)) if once else plain[rows]
        else:
            values = values.take(rows)
        found[name] = _series(values, index)
    return pd.DataFrame(found, index=index, copy=False)


def _writable(values: Any) -> Any:
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        return values.copy()
    return values


def _series(values: Any, index: pd.Index) -> pd.Series:
    objects = isinstance(values, np.ndarray) and values.dtype == object
    return pd.Series(values, index=index, dtype=object if objects else None, copy=False)


def column(name: str, values: pa.ChunkedArray, order: np.ndarray | None = None) -> Any:
    """A stored column as pandas has it, its rows in ``order``; that of the costs as one for each of its
    entries."""
    sort = SORTS[name]
    if name == "cost":
        return _costs(values, order)
    if sort == "nested":
        array = one_dictionary(values)
        return NestedArray(array if order is None else array.take(pa.array(order)))
    if sort == "long nested":
        return NestedArray(_once_each(values, order))
    if sort == "word":
        words, codes = words_of(values)
        return _words(words, _ordered(codes, order))
    if sort == "text":
        return (values if order is None else one_array(values).take(pa.array(order))).to_pandas()
    if sort == "real":
        return _in_little(_ordered(reals_of(values), order))
    if sort == "flag" and values.null_count:
        found = values.to_pandas().to_numpy(dtype=object)
    else:
        found = values.to_numpy()
    return _in_little(_ordered(found, order))


def _ordered(values: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    return values if order is None else values.take(order)


def _once_each(values: pa.ChunkedArray, order: np.ndarray | None) -> pa.Array:
    """Texts, equal ones in the memory of one if there are many of them; in another order they stay where they
    are, each under the number of its row."""
    some = _some(values)
    if 2 * len(set(some)) <= len(some):
        # Piece by piece: of all pieces at once, each would be given the words of all before.
        found = one_dictionary(
            pa.chunked_array([chunk.dictionary_encode() for chunk in values.chunks])
        )
        if order is None:
            return found
        return pa.DictionaryArray.from_arrays(found.indices.take(pa.array(order)), found.dictionary)
    if order is None:
        return one_array(values)
    kind = pa.int32() if len(values) <= np.iinfo(np.int32).max else pa.int64()
    return pa.DictionaryArray.from_arrays(pa.array(order, kind), one_array(values))


def _words(words: Sequence[str], codes: np.ndarray) -> np.ndarray:
    """The words by their codes, one object for all equal ones; −1: missing."""
    distinct = np.empty(len(words), dtype=object)
    distinct[:] = words
    return _chosen(distinct, codes)


def _chosen(distinct: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The entries of ``distinct`` at ``codes``, −1: missing. A column of one entry takes the memory of one:
    half of the columns of most stores are such."""
    if not len(codes):
        return distinct[codes]
    lowest = codes.min()
    one = lowest == codes.max() or (lowest >= 0 and _all_same(distinct))
    if lowest < 0:
        whole = distinct.dtype.kind in "iuf"
        distinct = np.append(distinct.astype(float if whole else object), np.nan)
    if one:
        return np.broadcast_to(distinct[codes[:1]], len(codes))
    return distinct.take(codes.astype(np.intp))  # numpy takes twice as long by others


def _in_little(values: np.ndarray) -> np.ndarray:
    """``values``, in the memory of one where all are the same."""
    some = values[:: max(1, len(values) // 100)]
    if not (_all_same(some) and _all_same(values)):
        return values
    return np.broadcast_to(values[:1].copy(), len(values))


def _all_same(values: np.ndarray) -> bool:
    if not len(values):
        return False
    first = values[0]
    if values.dtype == object:
        missing = first is None or first != first
        return all(v is first or v == first or (missing and v != v) for v in values)
    return bool((values == first).all() or (values != values).all())


def _repeated(distinct: pd.Series, codes: np.ndarray) -> Any:
    """``distinct`` entries, each as often as its place stands in ``codes``; −1: missing."""
    values = distinct.to_numpy(dtype=object) if not _numeric(distinct) else distinct.to_numpy()
    present = distinct.notna().to_numpy()
    kinds = set(map(type, values[present]))
    if kinds & {list, dict}:
        texts = [
            json.dumps(v, ensure_ascii=False) if p else None
            for v, p in zip(values, present, strict=True)
        ]
        array = pa.array(texts, pa.string()).dictionary_encode()
        return NestedArray(array.take(pa.array(codes, mask=codes < 0)))
    if kinds <= {str} and not _numeric(distinct):
        return _words(np.where(present, values, np.nan).tolist(), codes)
    return _chosen(values, codes)


def _numeric(values: pd.Series) -> bool:
    return isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf"


def _some(values: pa.ChunkedArray) -> list[str | None]:
    """A thousand of the texts, piece by piece: to take from all at once, arrow would join them first."""
    each = -(-1000 // max(values.num_chunks, 1))
    found: list[str | None] = []
    for chunk in values.chunks:
        places = np.linspace(0, len(chunk) - 1, min(len(chunk), each)).astype(int)
        found += chunk.take(pa.array(places)).to_pylist()
    return found


def _costs(values: pa.ChunkedArray, order: np.ndarray | None) -> dict[str, Any]:
    """A column for each entry of the costs."""
    texts, codes = words_of(values)
    codes = _ordered(codes, order)
    distinct = pd.DataFrame([json.loads(text) for text in texts])
    return {f"cost.{name}": _repeated(distinct[name], codes) for name in distinct.columns}


def cost_sorts(
    name: str, values: pa.ChunkedArray, order: np.ndarray | None = None
) -> dict[str, Sort]:
    """What the columns of the costs hold, in all rows together."""
    distinct = pd.DataFrame([json.loads(text) for text in words_of(values).words])
    return {f"cost.{key}": _sort_of(distinct[key]) for key in distinct.columns}


def typed(
    frame: pd.DataFrame, common: Sequence[Mapping[str, Any]], costs: Mapping[str, Sort]
) -> pd.DataFrame:
    """``frame`` in types that don't depend on which of the rows it holds."""
    own = pd.DataFrame(common)
    sorts = {name: _sort_of(own[name]) for name in own.columns}
    sorts |= {name: sort for name, sort in SORTS.items() if name != "cost"} | dict(costs)
    missing = pd.Series(np.nan, index=frame.index)
    return pd.DataFrame(
        {name: _typed(frame.get(name, missing), sort) for name, sort in sorts.items()},
        index=frame.index,
    )


_DTYPES: dict[Sort, str] = {"word": "string", "text": "string", "whole": "Int64", "flag": "boolean",
                            "real": "float64"}  # fmt: skip


def _typed(values: pd.Series, sort: Sort) -> pd.Series:
    if sort not in _DTYPES:
        texts = values.array.plain().to_pylist() if isinstance(values.array, NestedArray) else None
        return pd.Series(texts, index=values.index, dtype="string")
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    return values.astype(_DTYPES[sort])


def _sort_of(values: pd.Series) -> Sort:
    """What a column holds, by its entries."""
    if values.dtype.kind in "iu":
        return "whole"
    present = values[values.notna()]
    if any(isinstance(v, (list, dict)) for v in present):
        return "nested"
    if len(present) and all(isinstance(v, (bool, np.bool_)) for v in present):
        return "flag"
    return "real" if values.dtype.kind == "f" else "word"
