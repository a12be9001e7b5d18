"""A user's batches: held sample by sample, or read anew for each pass where that would be too much."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from sharpbench.errors import InputError, first_line, nearest_names, shortened
from sharpbench.nest import (
    Path,
    at,
    described,
    kept,
    leaves,
    named,
    parsed,
    placed,
    rebuilt,
    same,
    unusual,
    written,
)
from sharpbench.streamed import HELD, Chained, Reading, Streamed, bytes_of, readable_again

__all__ = ["TARGETS", "Batches", "Take", "read", "size_of", "targets_of", "turned"]

TARGETS = ("labels", "label", "targets", "target", "y")
"""Under which key a dict's targets are looked for, the first that is there."""


def read(batches: Any, what: str = "batches") -> list[Any] | Streamed:
    """Every batch of a list, a DataLoader or a function that returns an iterable.

    They are read once and held: so a shuffled loader, or one that augments, gives every pass the same
    samples. Those that take more than `HELD` bytes together are read anew for each pass (`Streamed`), but for
    what can be read once, an iterator. Raises InputError.
    """
    function = batches if callable(batches) and not hasattr(batches, "__iter__") else None
    if function is not None:
        try:
            batches = function()
        except Exception as error:
            raise InputError(f"{what}() can't be called: {first_line(error)}") from error
    tabular = hasattr(batches, "__array__")  # of tensors, arrays and tables
    if tabular or isinstance(batches, (Mapping, str)) or not hasattr(batches, "__iter__"):
        raise InputError(
            f"{what} must be a list of batches, a DataLoader or a function that returns an iterable of "
            f"batches, got {_kind(batches)}: for one batch write [batch], for a data set "
            "DataLoader(dataset, batch_size=…)"
        )
    if isinstance(batches, tuple) and batches and all(hasattr(b, "__array__") for b in batches):
        raise InputError(
            f"{what} is a tuple of tensors ({described(batches)}), which can be one batch or several: write "
            "[(inputs, targets)] for one batch, a list for several"
        )
    if isinstance(batches, itertools.cycle):
        raise InputError(f"{what} never end: give what itertools.cycle was given")
    found, size, reading = [], 0, Reading(what)
    try:
        for given in batches:
            # What makes them one by one may write each into the memory of the last.
            batch = given if isinstance(batches, (list, tuple)) else kept(given)
            found.append(batch)
            size += (own := bytes_of(batch))
            reading.note(batch, own)
            if size > HELD:
                again = readable_again(batches, function)
                if again is not None:
                    least = len(found)
                    del found, given, batch
                    return Streamed(again, what, least)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} can't be read: {first_line(error)}") from error
    if found and isinstance(found[0], (DataLoader, Dataset)):
        kind = "the loader itself" if isinstance(found[0], DataLoader) else "DataLoader(dataset, …)"
        raise InputError(f"{what} hold a {type(found[0]).__name__} in a batch's place: give {kind}")
    if not found:
        raise InputError(
            f"{what} hold no batch: a loader of an empty data set, or an iterator read before?"
        )
    return found


def targets_of(
    batch: Any, where: str | int | Callable[[Any], Any] | None
) -> tuple[Any, Path | None]:
    """The targets of a batch and their path in it; (None, None) where there are none.

    ``where``: a path or a function of the batch; None: the last of a tuple or list of at least two, or
    what a dict (or dataclass) has under one of `TARGETS`. Raises InputError.
    """
    if callable(where):
        try:
            return where(batch), None
        except Exception as error:
            raise InputError(
                f"targets can't be taken of a batch ({described(batch)}): {first_line(error)}"
            ) from error
    if where is not None:
        last = isinstance(where, int) and where < 0 and isinstance(batch, (tuple, list))
        path = (len(batch) + where,) if last else parsed(where)  # type: ignore[operator]
        try:
            return at(batch, path), path
        except KeyError:
            held = [named(path) for path, _ in leaves(batch)]
            raise InputError(
                f"targets={where!r} is not in a batch, which holds {described(batch)}. "
                f"{nearest_names(str(where), held)}"
            ) from None
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        return (batch[-1], (len(batch) - 1,)) if len(batch) > 1 else (None, None)
    for key in TARGETS:
        try:
            return at(batch, (key,)), (key,)
        except KeyError:
            continue
    return None, None


Take = tuple[Tensor | None, Any]
"""Places of samples among those asked for (None: all of them, in order) and their batch."""


_CONSTANT = (
    *(Tensor, type(None), bool, int, float, complex, str, bytes, list, tuple),
    *(torch.dtype, torch.device),
)
"""What may be the same in every batch."""


@dataclass
class _Kind:
    """Samples whose tensors have the same shapes."""

    template: Any
    tensors: dict[Path, list[Tensor]]
    real: list[Path]
    """Where those of real numbers are."""
    words: dict[Path, list[Any]] = field(default_factory=dict)
    """Lists with one entry a sample that is no number."""
    stacked: dict[Path, Tensor] = field(default_factory=dict)
    samples: int = 0


class Batches:
    """Samples (or whole batches) by their number, and batches of any of them as a network takes them.

    A tensor whose first axis is as long as the batch is cut into samples; everything else must be the same
    in every batch. Samples of different shapes (padded to the longest of their batch) stay as they came:
    a network never sees two shapes in one batch. ``whole``: a batch is never cut, and counts as one.
    ``streamed``: of batches that are not a list none is held; each is read where its samples are asked for.

    Raises InputError for batches that fit neither way.
    """

    def __init__(
        self, batches: Sequence[Any], device: torch.device, *, whole: bool, sizes: list[int] | None
    ) -> None:
        self.whole, self.device = whole, device
        self.streamed = not isinstance(batches, list)
        if not self.streamed:
            batches = [rebuilt(batch, self._placed) for batch in batches]
        self._source = batches
        self.first = self._load(0)
        self.sizes = sizes or [1] * len(batches)
        self.cut: frozenset[Path] = frozenset()
        """Where what is cut into samples stands."""
        self._kinds: list[_Kind] = []
        self.count = len(batches) if whole else sum(self.sizes)
        if whole:
            for number in range(len(batches)):
                self._check(number, self._load(number))
        else:
            self._cut(self.sizes)
            if not self.streamed:
                self._source = []

    @property
    def ragged(self) -> bool:
        """Whether samples have different shapes."""
        return len(self._kinds) > 1

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that is held; of streamed batches one that tells them from others."""
        if isinstance(self._source, (Streamed, Chained)):
            return [self._source.fingerprint]
        held = [t for kind in self._kinds for t in kind.stacked.values()]
        return held + [
            leaf for batch in self._source for _, leaf in leaves(batch) if isinstance(leaf, Tensor)
        ]

    @property
    def read_bytes(self) -> int:
        """How much is read for each sample at least; nothing where all is held."""
        if not self.streamed:
            return 0
        return max(bytes_of(self.first) // max(self.sizes[0], 1), 1)

    def real_leaves(self) -> list[Path]:
        """Paths of the samples' own tensors of real numbers."""
        if self.whole:
            return []
        return self._kinds[0].real

    def leaf(self, path: Path, numbers: Tensor | None = None) -> Tensor:
        """The tensor (n, …) of the samples of these ``numbers``, or of all (N, …), at ``path``."""
        if self.streamed:
            every = torch.arange(self.count, device=self.device) if numbers is None else numbers
            return self._gathered([path], every)[path]
        held = self._kinds[0].stacked[path]
        return held if numbers is None else held[numbers]

    def alike(self, numbers: Tensor) -> list[Tensor]:
        """Places of the samples of these ``numbers`` that are in one batch of `take`."""
        places = torch.arange(len(numbers), device=numbers.device)
        if self.whole:
            return list(places.split(1))
        if not self.ragged:
            return [places]
        kinds = self._kind_of[numbers]
        return [places[kinds == kind] for kind in kinds.unique().tolist()]

    def take(
        self,
        numbers: Tensor,
        dtype: torch.dtype | None,
        put: Mapping[Path, Tensor] | None = None,
    ) -> Iterator[Take]:
        """The samples of these ``numbers`` (n,) in as few batches as their shapes allow, real tensors in
        ``dtype`` (None: as given). ``put``: what stands in the place of some of their tensors."""
        if self.whole:
            for place, number in enumerate(numbers.tolist()):
                where = torch.tensor([place], device=numbers.device)
                yield where, rebuilt(self._load(number), lambda _, leaf: _cast(leaf, dtype))
            return
        if not self.ragged:
            yield None, self._batch(self._kinds[0], numbers, numbers, dtype, put or {})
            return
        kinds = self._kind_of[numbers]
        for number in kinds.unique().tolist():
            where = (kinds == number).nonzero().squeeze(1)
            chosen = {path: tensor[where] for path, tensor in (put or {}).items()}
            yield (
                where,
                self._batch(
                    self._kinds[number],
                    self._place[numbers[where]],
                    numbers[where],
                    dtype,
                    chosen,
                ),
            )

    def _batch(
        self,
        kind: _Kind,
        places: Tensor,
        numbers: Tensor,
        dtype: torch.dtype | None,
        put: Mapping[Path, Tensor],
    ) -> Any:
        """The batch of samples of one kind: by their places in it, or by their numbers where streamed."""
        read: dict[Path, Tensor] = {}
        if self.streamed:
            read = self._gathered([path for path in kind.tensors if path not in put], numbers)

        def value(path: Path, leaf: Any) -> Any:
            if path in put:
                return put[path]
            if path in read:  # a copy already
                fresh = read.pop(path)
                if dtype is None:
                    return fresh
                return fresh.to(dtype) if fresh.is_floating_point() else _cast(fresh, dtype)
            if path in kind.stacked:
                return _cast(kind.stacked[path][places], dtype)
            if path in kind.words:
                return type(leaf)([kind.words[path][i] for i in places.tolist()])
            return _cast(leaf, dtype)

        return rebuilt(kind.template, value)

    def _gathered(self, paths: list[Path], numbers: Tensor) -> dict[Path, Tensor]:
        """The tensors of these samples, which are of one kind, from the batches they stand in."""
        batch_of, place = self._batch_of[numbers], self._place_in[numbers]
        found: dict[Path, Tensor] = {}
        for number in batch_of.unique().tolist():
            where = (batch_of == number).nonzero().squeeze(1)
            batch = self._load(number)
            for path in paths:
                rows = at(batch, path)[place[where]]
                if len(rows) == len(numbers):
                    found[path] = rows
                    continue
                if path not in found:
                    found[path] = rows.new_empty(len(numbers), *rows.shape[1:])
                found[path][where] = rows
        return found

    def _load(self, number: int) -> Any:
        batch = self._source[number]
        return rebuilt(batch, self._placed) if self.streamed else batch

    def _placed(self, path: Path, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if found := unusual(leaf):
            raise InputError(f"{placed(path)} must be a dense tensor with values, and is {found}")
        if leaf.is_floating_point() and bool(leaf.isnan().any()):
            rows = leaf.isnan().reshape(len(leaf), -1).any(1) if leaf.ndim else leaf.isnan()
            first = f", first in sample {int(rows.nonzero()[0])} of it" if leaf.ndim else ""
            raise InputError(f"{placed(path)} holds NaN values{first}")
        leaf = leaf.clone() if leaf.is_inference() else leaf.detach()
        return leaf.to(self.device)

    def _check(self, number: int, batch: Any) -> None:
        expected = [path for path, _ in leaves(self.first)]
        if [path for path, _ in leaves(batch)] != expected:
            lists = any(len(path) > 1 and isinstance(path[-1], int) for path in expected)
            hint = "; a list of one tensor a sample is torch.stack(…) of it" if lists else ""
            raise InputError(
                f"batch {number} holds other things than batch 0 ({described(batch)}; "
                f"{described(self.first)}): give every batch the same keys{hint}"
            )

    def _cut(self, sizes: list[int]) -> None:
        own = [path for path, _ in leaves(self.first)]
        packed = (p[:-1] for p in own if p and isinstance(at(self.first, p[:-1]), PackedSequence))
        if (path := next(packed, None)) is not None:
            raise InputError(
                f"{named(path) or 'a batch'} is a PackedSequence, which can't be cut into samples: give the "
                "padded tensor and the lengths in its place, and forward=lambda model, batch: model("
                "torch.nn.utils.rnn.pack_padded_sequence(batch[0], batch[1].cpu(), batch_first=True, "
                "enforce_sorted=False)); or a sum over the batch, loss=lambda model, batch: …, with "
                "normaliser='sum'"
            )
        words = list(own)
        for number, size in enumerate(
            sizes
        ):  # one pass finds what has an entry a sample throughout
            batch = self._load(number)
            self._check(number, batch)
            held = dict(leaves(batch))
            own = [p for p in own if isinstance(t := held[p], Tensor) and t.ndim and len(t) == size]
            words = [
                p for p in words if isinstance(held[p], (list, tuple)) and len(held[p]) == size
            ]
        self.cut = frozenset(own + words)
        kinds: dict[Any, _Kind] = {}
        kind_of: list[int] = []
        place: list[int] = []
        for number, size in enumerate(sizes):
            batch = self._load(number)
            held = {path: at(batch, path) for path in own}
            for path, leaf in leaves(batch):
                if path in held or path in words:
                    continue
                if not isinstance(leaf, _CONSTANT):
                    raise InputError(
                        f"{named(path) or 'a batch'} is a {type(leaf).__name__}, which can't be cut into "
                        "samples: give batches of dicts, tuples, lists, dataclasses and tensors"
                    )
                if not same(leaf, at(self.first, path)):
                    raise InputError(
                        f"{named(path)} has no entry a sample ({described(leaf)} in a batch of {size}) and "
                        "differs between the batches: leave it out, or give a loss of the model and the "
                        f"batch, loss=lambda model, batch: …{turned(batch, path, size)}"
                    )
            key = tuple((path, tuple(t.shape[1:]), t.dtype) for path, t in held.items())
            if key not in kinds:
                real = [path for path, t in held.items() if t.is_floating_point()]
                kinds[key] = _Kind(batch, {path: [] for path in own}, real)
            kind = kinds[key]
            if not self.streamed:
                for path, tensor in held.items():
                    kind.tensors[path].append(tensor)
            for path in words:
                kind.words.setdefault(path, []).extend(at(batch, path))
            kind_of += [list(kinds).index(key)] * size
            place += range(kind.samples, kind.samples + size)
            kind.samples += size
        if not self.streamed:
            for kind in kinds.values():
                kind.stacked = {path: torch.cat(each) for path, each in kind.tensors.items()}
                kind.tensors = {}
        self._kinds = list(kinds.values())
        self._kind_of = torch.tensor(kind_of, device=self.device)
        self._place = torch.tensor(place, device=self.device)
        each = torch.tensor(sizes, device=self.device)
        self._batch_of = torch.arange(len(sizes), device=self.device).repeat_interleave(each)
        before = each.cumsum(0) - each
        self._place_in = torch.arange(self.count, device=self.device) - before[self._batch_of]


def turned(batch: Any, path: Path, size: int) -> str:
    """What to write, behind a semicolon, where a tensor seems to have its samples on its second axis."""
    leaf = at(batch, path)
    if not isinstance(leaf, Tensor) or leaf.ndim < 2 or leaf.shape[1] != size:
        return ""
    place = f"batch{written(batch, path)}.transpose(0, 1)"
    return (
        f"; {named(path)} seems to have its samples on axis 1, and samples are taken from axis 0: put "
        f"{place} into the batches, and turn it back in forward=lambda model, batch: model({place})"
    )


def size_of(batch: Any, targets: Any) -> int | None:
    """How many samples a batch has: as many as targets, or as all of its tensors agree on; else None."""
    if isinstance(targets, Tensor) and targets.ndim:
        return len(targets)
    lengths = Counter(len(t) for _, t in leaves(batch) if isinstance(t, Tensor) and t.ndim)
    return next(iter(lengths)) if len(lengths) == 1 else None


def _cast(leaf: Any, dtype: torch.dtype | None) -> Any:
    """A copy, which a network may write into."""
    if not isinstance(leaf, Tensor):
        return leaf
    if dtype is None:
        return leaf.clone()
    if leaf.is_floating_point():
        return leaf.to(dtype, copy=True)
    return leaf.to(dtype.to_complex()) if leaf.is_complex() else leaf.clone()


def _kind(value: Any) -> str:
    told = isinstance(value, (str, int, float, type(None)))
    return shortened(value) if told else f"a {type(value).__name__}"
