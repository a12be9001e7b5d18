"""What several metrics of one network on its data find alike, found once.

A metric asks for a fact by what it is of (`Shared.once`); where nobody shares, it is found as ever. What is
found follows from its name alone, whoever asks first, so that a figure's digits are the same alone and beside
others, in any order and in a run that goes on; and the passes that finding it took are counted for each who
asks: a record tells what its metric costs alone.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sharpbench.measurement import Work

__all__ = ["ALONE", "Room", "Shared", "digest"]

T = TypeVar("T")

ROOM = 128 << 20
"""Bytes that the facts of one network and its changed copies may take."""


class Room:
    """The memory that is left for facts, of several `Shared` together."""

    def __init__(self, room: int = ROOM) -> None:
        self.left = room

    def taken(self, size: int) -> bool:
        """Whether so many bytes fit; they are taken then."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Shared:
    """The facts of one network on its data, each with the passes that it took.

    It holds as long as neither changes. Tensors are given as copies. What doesn't fit the ``room`` is found
    anew each time; with none, everything is.
    """

    def __init__(self, room: Room | None = None) -> None:
        self._room = room
        self._known: dict[Hashable, tuple[Any, Work]] = {}
        self._place: tuple[Hashable, ...] = ()

    @property
    def remembers(self) -> bool:
        """Whether facts are kept at all."""
        return self._room is not None

    def under(self, *place: Hashable) -> Shared:
        """The facts of a part of it, by a name of its own; of the same memory."""
        part = copy.copy(self)
        part._place = (*self._place, *place)
        return part

    def once(self, key: Hashable, find: Callable[[], T], work: Work) -> T:
        """The fact ``key``: as it is known, else by ``find``, which adds its passes to ``work``.

        For a known one as many are added. What ``find`` raises is raised, and found anew by the next one.
        """
        if self._room is None:
            return find()
        key = (self._place, key)
        if key in self._known:
            known, passes = self._known[key]
            work.add(passes)
            return cast(T, _own(known))
        before = dataclasses.replace(work)
        found = find()
        if self._room.taken(_bytes(found)):
            self._known[key] = _own(found), work.since(before)
        return found


ALONE = Shared()
"""Where nobody shares."""


def digest(*tensors: Tensor) -> bytes:
    """SHA-256 of shapes, precisions and numbers; the sign of a zero is no part of it."""
    found = hashlib.sha256()
    for tensor in tensors:
        held = (tensor.detach() + 0).cpu().contiguous()
        found.update(f"{held.dtype}:{tuple(held.shape)}".encode())
        found.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def _own(found: Any) -> Any:
    """With its tensors copied: nobody's change of one is another's."""
    return _mapped(found, Tensor.clone)


def _mapped(found: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(found, Tensor):
        return change(found)
    if isinstance(found, Mapping):
        return {key: _mapped(part, change) for key, part in found.items()}
    if isinstance(found, tuple):
        return tuple(_mapped(part, change) for part in found)
    if isinstance(found, list):
        return [_mapped(part, change) for part in found]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        parts = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.init}
        return dataclasses.replace(found, **{k: _mapped(v, change) for k, v in parts.items()})
    return found


def _bytes(found: Any) -> int:
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    _mapped(found, count)
    return total
