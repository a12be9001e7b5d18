"""Stored columns as arrow has them: what each one holds, which rows are wanted, words by their codes.

Frames are made of them in `sharpbench.results.frame`; what is left to do of a suite is told without pandas.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sharpbench.results.columns import Sort
from sharpbench.results.record import Record

__all__ = [
    "SORTS",
    "Words",
    "coded",
    "one_dictionary",
    "reals_of",
    "stored_columns",
    "wanted_rows",
    "words_of",
]

_REAL = frozenset({"epoch"})
"""Whole numbers that are kept as reals."""
_LONG = frozenset({"details", "errors"})
_UNLIKE = frozenset({"key"})


def _sort(name: str, annotation: Any) -> Sort:
    options = [annotation]
    if isinstance(annotation, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not type(None)]
    kind = typing.get_origin(options[0]) or options[0]
    if name in _REAL or kind is float:
        return "real"
    if kind in {dict, list}:
        return "long nested" if name in _LONG else "nested"
    if kind in {int, bool}:
        return "whole" if kind is int else "flag"
    return "text" if name in _UNLIKE else "word"


_HINTS = typing.get_type_hints(Record)

SORTS: dict[str, Sort] = {
    field.name: _sort(field.name, _HINTS[field.name]) for field in dataclasses.fields(Record)
}
"""What each field of a record holds."""


def stored_columns(columns: Collection[str] | None) -> list[str]:
    """The stored columns that the ``columns`` of a frame are made of."""
    if columns is None:
        return list(SORTS)
    costs = any(name.startswith("cost.") for name in columns)
    return [name for name in SORTS if name in columns or (name == "cost" and costs)]


def wanted_rows(
    questions: Collection[str] | None, kinds: Collection[str] | None
) -> tuple[Callable[[pa.Table], pa.Array | None], tuple[str, ...]]:
    """Chooses the rows of some kinds that answer ``questions`` or are none of a question; with the columns
    that tell."""

    def where(table: pa.Table) -> pa.Array | None:
        import pyarrow.compute as pc  # not above: what is left to do is told of all rows, without it

        kept = None
        if questions is not None:
            own = pc.is_in(table["plan_key"], pa.array(sorted(questions), pa.string()))
            kept = pc.or_(own, pc.is_null(table["plan_key"]))
        if kinds is not None:
            of_kind = pc.is_in(table["kind"], pa.array(sorted(kinds), pa.string()))
            kept = of_kind if kept is None else pc.and_(kept, of_kind)
        return None if kept is None or pc.all(kept).as_py() else kept.combine_chunks()

    needs = (("plan_key",) if questions is not None else ()) + (
        ("kind",) if kinds is not None else ()
    )
    return where, needs


class Words(NamedTuple):
    """A column of words: each stands once, and ``codes`` (N,) are their places; −1: missing."""

    words: list[Any]
    codes: np.ndarray

    def among(self, *words: str) -> np.ndarray:
        """Where one of ``words`` stands, (N,)."""
        found: np.ndarray = np.array([*(word in words for word in self.words), False])[self.codes]
        return found


def coded(name: str, values: pa.ChunkedArray, order: np.ndarray | None = None) -> Any:
    """A stored column of words, nested values or reals as `Words` or reals (N,), its rows in ``order``."""
    chosen = slice(None) if order is None else order
    if SORTS[name] == "real":
        return reals_of(values)[chosen]
    words, codes = words_of(values)
    return Words(words, codes[chosen])


def words_of(values: pa.ChunkedArray) -> Words:
    """A stored column of words, or of nested values."""
    array = one_dictionary(values)
    return Words(array.dictionary.to_pylist(), _numbers(array.indices, np.int32, -1))


def reals_of(values: pa.ChunkedArray) -> np.ndarray:
    """A stored column of reals, (N,), NaN where one is missing."""
    parts = [_numbers(chunk, np.float64, math.nan) for chunk in values.chunks]
    return np.concatenate([np.zeros(0), *parts])


def _numbers(values: pa.Array, kind: type[Any], missing: float) -> np.ndarray:
    """Numbers of one kind by their memory: to convert them, arrow would import pandas."""
    if not len(values):
        return np.zeros(0, kind)
    present, numbers = values.buffers()
    here = slice(values.offset, values.offset + len(values))
    found: np.ndarray = np.frombuffer(numbers, kind)[here]
    if not values.null_count:
        return found
    there = np.unpackbits(np.frombuffer(present, np.uint8), count=here.stop, bitorder="little")
    return np.where(there[here], found, kind(missing))


def one_dictionary(values: pa.ChunkedArray) -> pa.DictionaryArray:
    """All chunks as one."""
    if values.num_chunks == 0:
        return pa.array([], values.type)
    return values.unify_dictionaries().combine_chunks()
