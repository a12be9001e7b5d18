"""Nests of dicts, tuples, lists, dataclasses and what stands in them, as batches of data are."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = [
    "Key",
    "Path",
    "at",
    "described",
    "from_array",
    "kept",
    "leaves",
    "named",
    "parsed",
    "placed",
    "rebuilt",
    "same",
    "unusual",
    "written",
]

Key = str | int
Path = tuple[Key, ...]
"""Keys of dicts, names of fields and numbers of tuples, from the outside in."""


def leaves(nest: Any, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in a nest that is no container, an array as the tensor of its numbers, with its path."""
    inside = _parts(nest)
    if inside is None:
        yield above, from_array(nest)
        return
    for key, part in inside:
        yield from leaves(part, (*above, key))


def rebuilt(nest: Any, value: Callable[[Path, Any], Any]) -> Any:
    """A nest of the same kind whose leaves are ``value(path, leaf)``, an array being the tensor of its
    numbers."""
    return _mapped(nest, lambda path, leaf: value(path, from_array(leaf)), ())


def _mapped(nest: Any, value: Callable[[Path, Any], Any], above: Path) -> Any:
    inside = _parts(nest)
    if inside is None:
        return value(above, nest)
    parts = [(key, _mapped(part, value, (*above, key))) for key, part in inside]
    if isinstance(nest, Mapping):
        given = {key: part for key, (_, part) in zip(nest, parts, strict=True)}
        try:
            fresh: Any = copy.copy(nest)
            for key, part in given.items():
                fresh[key] = part
        except Exception:  # one that can't be written into
            return given
        return fresh
    if isinstance(nest, tuple):
        every = [part for _, part in parts]
        if isinstance(nest, PackedSequence):  # which wants its sizes there
            every[1] = every[1].cpu()
        return type(nest)(*every) if hasattr(nest, "_fields") else tuple(every)
    if isinstance(nest, list):
        return [part for _, part in parts]
    fresh = copy.copy(nest)  # a dataclass, or an object whose attributes hold tensors
    for key, part in parts:
        object.__setattr__(fresh, str(key), part)
    return fresh


def kept(nest: Any) -> Any:
    """The same nest with tensors, arrays and lists of its own: who gave it may write the next into them."""
    return _mapped(nest, lambda _, leaf: _own(leaf), ())


def _own(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    return leaf.copy() if isinstance(leaf, (np.ndarray, list)) else leaf


def at(nest: Any, path: Path) -> Any:
    """What stands at ``path``, be it a leaf or a part. Raises KeyError where nothing does."""
    for key in path:
        found = [part for k, part in _parts(nest) or () if str(k) == str(key)]
        if not found:
            raise KeyError(key)
        nest = found[0]
    return nest


def parsed(path: str | int | Path) -> Path:
    """``"text.input_ids"`` as keys."""
    if isinstance(path, tuple):
        return path
    return tuple(path.split(".")) if isinstance(path, str) else (path,)


def named(path: Path) -> str:
    """A path as a user writes it."""
    return ".".join(map(str, path))


def written(nest: Any, path: Path) -> str:
    """How one writes what stands at ``path`` behind the nest's own name: ``['text'][0]``, ``.mask``."""
    place = ""
    for key in path:
        by_name = isinstance(nest, Mapping) or not isinstance(key, str)
        place += f"[{key!r}]" if by_name else f".{key}"
        nest = at(nest, (key,))
    return place


def placed(path: Path) -> str:
    """Where in a batch something stands, in words."""
    return f"{named(path)!r} of the batch" if path else "the batch"


def unusual(tensor: Tensor) -> str | None:
    """Why a tensor has no values that could be cut into samples and differentiated, or None."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return f"quantised, {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_meta:
        return "on the meta device"
    return None if tensor.layout == torch.strided else str(tensor.layout)


def described(nest: Any) -> str:
    """Paths, types and shapes of a nest in a few words, for an error."""
    found = []
    for path, leaf in leaves(nest):
        name = f"{named(path)} " if path else ""
        if isinstance(leaf, Tensor):
            kind = str(leaf.dtype).removeprefix("torch.")
            shape = "" if leaf.is_nested else f" {tuple(leaf.shape)}"
            found.append(f"{name}{unusual(leaf) or kind}{shape}")
        elif isinstance(leaf, (list, tuple)) and leaf:
            inside = type(leaf[0]).__name__
            found.append(f"{name}a {type(leaf).__name__} of {len(leaf)} {inside}")
        else:
            found.append(f"{name}{type(leaf).__name__}")
    return (
        ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
        or f"an empty {type(nest).__name__}"
    )


def same(one: Any, other: Any) -> bool:
    """Whether two leaves hold the same."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    try:
        return bool(one == other)
    except Exception:
        return one is other


def _parts(nest: Any) -> list[tuple[Key, Any]] | None:
    """What a container holds; None for a leaf."""
    if isinstance(nest, Mapping):
        return [(key if isinstance(key, int) else str(key), nest[key]) for key in nest]
    if isinstance(nest, (list, tuple)):
        if nest and all(isinstance(part, Tensor) and part.ndim == 0 for part in nest):
            return None  # a number a sample: one leaf
        if nest and not any(isinstance(leaf, Tensor) for part in nest for _, leaf in leaves(part)):
            return None  # names, strings: one leaf
        fields = getattr(nest, "_fields", range(len(nest)))
        return list(zip(fields, nest, strict=True))
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        return [(field.name, getattr(nest, field.name)) for field in dataclasses.fields(nest)]
    attributes = getattr(nest, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(nest, (Tensor, torch.nn.Module, type)):
        held: list[tuple[Key, Any]] = [
            (k, t) for k, t in attributes.items() if isinstance(t, Tensor)
        ]
        return held or None
    return None


def from_array(leaf: Any) -> Any:
    """An array of numbers as a tensor, one of words as a list; what is neither stays."""
    if not isinstance(leaf, (np.ndarray, np.generic)):
        return leaf
    if leaf.dtype.kind in "US":
        return leaf.tolist()
    if leaf.dtype.kind not in "biufc":
        return leaf
    steps = isinstance(leaf, np.ndarray) and any(step < 0 for step in leaf.strides)
    return torch.as_tensor(leaf.copy() if steps or not leaf.flags.writeable else leaf)
