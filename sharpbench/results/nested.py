"""Nested values (lists and dicts) as a column that is decoded entry by entry, when it is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.extensions import ExtensionArray, ExtensionDtype, take
from pyarrow.json import ParseOptions, ReadOptions, read_json

from sharpbench.results.columns import one_array

__all__ = ["NestedArray", "NestedDtype"]


_TOGETHER = 1000
"""Entries that are decoded at a time."""
_PARSED = 50_000
"""Entries that are parsed at a time without becoming objects."""


class NestedDtype(ExtensionDtype):
    """Lists and dicts, stored as JSON."""

    name = "nested"
    type = object
    kind = "O"
    na_value = np.nan

    @classmethod
    def construct_array_type(cls) -> Any:
        return NestedArray


class NestedArray(ExtensionArray):
    """JSON texts in arrow's memory: a fifth of what the objects take, and no time until one is read.

    An entry is decoded whenever it is read, so each reader gets an object of its own; a missing one is NaN.
    ``texts``: the JSON, a string or dictionary array of pyarrow.
    """

    dtype = NestedDtype()

    def __init__(self, texts: pa.Array | pa.ChunkedArray) -> None:
        self.texts = one_array(texts) if isinstance(texts, pa.ChunkedArray) else texts

    @classmethod
    def _from_sequence(
        cls, scalars: Sequence[Any], *, dtype: Any = None, copy: bool = False
    ) -> Self:
        if isinstance(scalars, NestedArray):
            return cls(scalars.texts)
        return cls(pa.array([_text(value) for value in scalars], pa.string()))

    def _cast_pointwise_result(self, values: Any) -> Any:
        return _inferred(values)  # what a function made of the entries need not be nested

    @classmethod
    def _from_factorized(cls, values: Any, original: Self) -> Self:
        return cls(pa.array(values, pa.string()))

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[Self]) -> Self:
        parts = [part.plain() for part in to_concat]
        large = any(pa.types.is_large_string(part.type) for part in parts)
        kind = pa.large_string() if large else pa.string()
        return cls(pa.chunked_array([part.cast(kind) for part in parts], kind))

    def plain(self) -> pa.Array:
        """The JSON texts as an array of strings."""
        if pa.types.is_dictionary(self.texts.type):
            return self.texts.cast(self.texts.type.value_type)
        return self.texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, (int, np.integer)):
            return self._decoded(self.texts[int(item)].as_py())
        item = pd.api.indexers.check_array_indexer(self, item)
        if isinstance(item, slice):
            return type(self)(self.texts.take(pa.array(np.arange(len(self))[item])))
        chosen = np.asarray(item)
        if chosen.dtype == bool:
            return type(self)(self.texts.filter(pa.array(chosen)))
        return type(self)(self.texts.take(pa.array(np.arange(len(self))[chosen], pa.int64())))

    def __setitem__(self, key: Any, value: Any) -> None:
        objects = self.astype(object)
        objects[key] = value
        self.texts = self._from_sequence(list(objects)).texts

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _TOGETHER):
            texts = self.texts.slice(start, _TOGETHER).to_pylist()
            decoded = json.loads(
                f"[{','.join(t or 'null' for t in texts)}]"
            )  # much faster than one by one
            yield from (np.nan if value is None else value for value in decoded)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, (pd.Series, pd.DataFrame, pd.Index)):
            return NotImplemented
        others = other if isinstance(other, NestedArray) else [other] * len(self)
        return np.array([a == b for a, b in zip(self, others, strict=True)], dtype=bool)

    def map(self, mapper: Any, na_action: Any = None) -> Any:
        """``mapper`` of each entry; of equal entries it is computed once."""
        if not callable(mapper):
            return super().map(mapper, na_action)
        texts = self.texts
        if not pa.types.is_dictionary(texts.type):
            texts = texts.dictionary_encode()
        codes = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        used, places = np.unique(codes, return_inverse=True)
        present = used[used >= 0]
        found = [*map(mapper, type(self)(texts.dictionary.take(pa.array(present))))]
        if len(present) < len(used):  # -1, which comes first
            found.insert(0, np.nan if na_action == "ignore" else mapper(np.nan))
        return _inferred(_objects(found, len(found))[places])

    def members(self, fields: Mapping[str, pa.DataType]) -> tuple[np.ndarray, dict[str, pa.Array]]:
        """Every dict of a column of lists of dicts: the row that it stands in, counted from 0, and its
        ``fields``, null where it has none, without what else it holds; all (M,), in the order of the rows.

        No entry becomes an object. Raises pyarrow.ArrowInvalid for entries that are no lists of dicts, or
        whose fields are of other types.
        """
        texts, codes = self.texts, None
        if pa.types.is_dictionary(texts.type):
            codes = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            used, places = np.unique(codes, return_inverse=True)
            texts = texts.dictionary.take(pa.array(used, mask=used < 0))
        parts = [_parsed(texts.slice(i, _PARSED), fields) for i in range(0, len(texts), _PARSED)]
        lists = pa.chunked_array(parts or [pa.array([], _lists(fields))]).combine_chunks()
        counts = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        found = lists.flatten()
        if codes is not None:
            starts = (np.cumsum(counts) - counts)[places]
            counts = counts[places]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            found = found.take(pa.array(np.repeat(starts, counts) + within))
        rows = np.repeat(np.arange(len(self)), counts)
        return rows, dict(zip(fields, found.flatten(), strict=True))

    @staticmethod
    def _decoded(text: str | None) -> Any:
        return np.nan if text is None else json.loads(text)

    @property
    def nbytes(self) -> int:
        return int(self.texts.nbytes)

    def isna(self) -> np.ndarray:
        found: np.ndarray = pc.is_null(self.texts).to_numpy(zero_copy_only=False)
        return found

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> Self:
        where = np.asarray(indices, dtype=np.int64)
        if not allow_fill:
            where = np.where(where < 0, where + len(self), where)
            if len(where) and (len(self) == 0 or where.min() < 0 or where.max() >= len(self)):
                raise IndexError("out of bounds")
            return type(self)(self.texts.take(pa.array(where)))
        take(np.arange(len(self)), where, allow_fill=True)  # raises for what is out of bounds
        return type(self)(self.texts.take(pa.array(where, mask=where < 0)))

    def copy(self) -> Self:
        return type(self)(self.texts)  # arrow's memory is never written to

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        if isinstance(dtype, NestedDtype) or dtype == self.dtype.name:
            return self.copy()
        objects = _objects(self, len(self))
        return objects if np.dtype(object) == dtype else pd.array(objects, dtype=dtype)

    def _values_for_factorize(self) -> tuple[np.ndarray, Any]:
        return self.plain().to_numpy(zero_copy_only=False), None


def _lists(fields: Mapping[str, pa.DataType]) -> pa.DataType:
    return pa.list_(pa.struct(list(fields.items())))


def _parsed(texts: pa.Array, fields: Mapping[str, pa.DataType]) -> pa.Array:
    """The lists of dicts in JSON ``texts``, by arrow's parser, which reads an object a line."""
    texts = texts.cast(pa.string()).fill_null("null")
    lines = pc.binary_join_element_wise('{"all": ', texts, "}\n", "")
    _, ends, content = lines.buffers()
    longest = pc.max(pc.binary_length(lines)).as_py()
    table = read_json(
        pa.BufferReader(content.slice(0, int(np.frombuffer(ends, np.int32)[len(lines)]))),
        read_options=ReadOptions(block_size=max(longest + 1, 1 << 20)),
        parse_options=ParseOptions(
            explicit_schema=pa.schema([("all", _lists(fields))]), unexpected_field_behavior="ignore"
        ),
    )
    return table["all"].combine_chunks()


def _objects(values: Iterable[Any], count: int) -> np.ndarray:
    """An array of objects, also of lists of equal lengths."""
    found = np.empty(count, dtype=object)
    for i, value in enumerate(values):
        found[i] = value
    return found


def _text(value: Any) -> str | None:
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False)
    if value is None or value is pd.NA or value != value:
        return None
    raise TypeError(f"neither a list nor a dict: {value!r}")


def _inferred(values: Any) -> Any:
    return pd.Series(list(values)).infer_objects().array
