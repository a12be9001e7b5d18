"""Batches that are read anew for each pass, and proved to be the same ones each time."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sharpbench.console import aside, escape
from sharpbench.errors import InputError, first_line
from sharpbench.nest import described, kept, leaves, unusual

__all__ = [
    "Again",
    "Chained",
    "Reading",
    "Shelf",
    "Streamed",
    "bytes_of",
    "cast",
    "readable_again",
    "roomy",
]

Again = Callable[[int], Any]
"""Reads the batch of a number; IndexError behind the last."""

HELD = 256 << 20
"""Batches of more bytes together are not held; of those that are not, so many are kept at hand."""


PATIENCE = 10.0
"""Seconds after which reading is spoken of."""


def readable_again(batches: Any, function: Callable[[], Any] | None) -> Again | None:
    """How single batches of a list, a DataLoader or an iterable are read again; None for an iterator, which
    passes once, unless a ``function`` makes it anew.

    A DataLoader over a data set with numbers keeps the order that it draws here; what else draws from
    torch's global generator (an iterable that shuffles or augments, a loader that changes what DataLoader
    gives) starts each pass from one state.
    """
    if isinstance(batches, DataLoader) and _as_torch_reads(batches):
        return _Numbered(batches)
    if function is not None:
        return _Walked(lambda: iter(function()))
    if isinstance(batches, (list, tuple)):
        return batches.__getitem__
    if iter(batches) is batches:
        return None
    return _Walked(lambda: iter(batches))


def bytes_of(batch: Any) -> int:
    """Of the tensors in it."""
    held = (t for _, t in leaves(batch) if isinstance(t, Tensor))
    return sum(t.nbytes for t in held if t.layout == torch.strided and not t.is_nested)


class Reading:
    """Says, where reading takes long, how far it is, each time after twice as long: batches that never end
    would be read without a word."""

    def __init__(self, what: str) -> None:
        self._what, self._begun = what.removeprefix("the "), time.monotonic()
        self._batches = self._samples = self._bytes = 0
        self._next = PATIENCE

    def note(self, batch: Any, size: int) -> None:
        """One batch more, of ``size`` bytes."""
        held = (t for _, t in leaves(batch) if isinstance(t, Tensor) and unusual(t) is None)
        self._samples += next((len(t) for t in held if t.ndim), 0)
        self._batches, self._bytes = self._batches + 1, self._bytes + size
        if time.monotonic() - self._begun < self._next:
            return
        self._next *= 2
        count = f"{self._batches:,} so far"
        if self._samples:
            count += f" ({self._samples:,} samples, {self._bytes / 2**20:,.0f} MiB)"
        sentence = (
            f"reading the {self._what}: {count}, and no end of them is known; if there is none, give the "
            f"first of them alone, itertools.islice(…, {self._batches})"
        )
        aside.print(escape(sentence), soft_wrap=True)


class Streamed(Sequence[Any]):
    """A sequence of batches of which few are held: each is read where it is asked for.

    Raises InputError for a batch that is another one than in the first pass, which is made at once, and for
    fewer than ``least``.
    """

    def __init__(self, again: Again, what: str, least: int = 1) -> None:
        self._again, self._what = again, what
        self._kept: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        self._prints: list[bytes] = []
        self.bytes = 0
        reading = Reading(what)
        while True:
            try:
                batch = self._read(len(self._prints))
            except IndexError:
                break
            self._prints.append(_fingerprint(batch))
            self.bytes += (size := bytes_of(batch))
            reading.note(batch, size)
        if len(self) < least:
            raise InputError(
                f"the {what} can't be read anew: at least {least} were there first, then {len(self)} (does "
                "the function return one iterator twice?), and they are too large to be held; let it make "
                "them anew, or give a list"
            )

    def __len__(self) -> int:
        return len(self._prints)

    def __getitem__(self, number: Any) -> Any:
        if not isinstance(number, int):
            raise TypeError("batches are read one by one")
        if not 0 <= number < len(self):
            raise IndexError(number)
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number][0]
        try:
            batch = self._read(number)
            same = _fingerprint(batch) == self._prints[number]
        except IndexError:
            same = False
        if not same:
            raise InputError(
                f"batch {number} of the {self._what} is another one when it is read again, and they are too "
                f"large ({self.bytes / 2**20:.0f} MiB) to be held: every pass must see the same batches; fix "
                "what shuffles or augments them, or give a list"
            )
        self._keep(number, batch)
        return batch

    @property
    def fingerprint(self) -> Tensor:
        """Of all batches, uint8."""
        digest = hashlib.blake2b(b"".join(self._prints), digest_size=32).digest()
        return torch.frombuffer(bytearray(digest), dtype=torch.uint8)

    def _read(self, number: int) -> Any:
        try:
            return self._again(number)
        except (IndexError, InputError):
            raise
        except Exception as error:
            raise InputError(f"{self._what} can't be read: {first_line(error)}") from error

    def _keep(self, number: int, batch: Any) -> None:
        self._kept[number] = batch, bytes_of(batch)
        while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > HELD:
            self._kept.popitem(last=False)


class Chained(Sequence[Any]):
    """Sequences of batches, one after the other."""

    def __init__(self, *parts: Sequence[Any]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, number: Any) -> Any:
        for part in self.parts:
            if number < len(part):
                return part[number]
            number -= len(part)
        raise IndexError(number)

    @property
    def fingerprint(self) -> Tensor:
        """Of the parts that are not held."""
        return torch.cat([part.fingerprint for part in self.parts if isinstance(part, Streamed)])


class Shelf:
    """Tensors that are to stay: up to `HELD` bytes of them as they are, what is beyond in temporary files."""

    def __init__(self) -> None:
        self.bytes = 0
        self._room, self._used = torch.empty(0, dtype=torch.uint8), 0

    def place(self, tensor: Tensor) -> Tensor:
        """The same tensor, or one of its numbers that takes no memory of its own."""
        self.bytes += tensor.nbytes
        if self.bytes <= HELD or tensor.device.type != "cpu":
            return tensor
        begin = -(-self._used // _ALIGNED) * _ALIGNED
        if begin + tensor.nbytes > len(self._room):  # a file for many: each is a mapping
            self._room, begin = _in_a_file(max(tensor.nbytes, _FILE)), 0
        self._used = begin + tensor.nbytes
        placed = self._room[begin : self._used].view(tensor.dtype).view(tensor.shape)
        return placed.copy_(tensor)


def roomy(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor to be filled; one of more than `HELD` bytes on the CPU lies in a temporary file, of which the
    system holds in memory what it has room for."""
    size = math.prod(shape) * dtype.itemsize
    if size <= HELD or device.type != "cpu":
        return torch.empty(*shape, dtype=dtype, device=device)
    return _in_a_file(size).view(dtype).view(*shape)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, `roomy`."""
    if tensor.dtype == dtype or tensor.numel() * dtype.itemsize <= HELD:
        return tensor.to(dtype)
    found = roomy(tensor.shape, dtype, tensor.device)
    for here, there in zip(tensor.split(256), found.split(256), strict=True):
        there.copy_(here)
    return found


_ALIGNED, _FILE = 64, 64 << 20


def _in_a_file(size: int) -> Tensor:
    """So many bytes in a file that nobody else sees, and that goes with the tensor."""
    handle, path = tempfile.mkstemp(prefix="sharpbench_targets_")
    try:
        try:
            if hasattr(
                os, "posix_fallocate"
            ):  # else a full disk ends the process at the first write
                os.posix_fallocate(handle, 0, size)
        finally:
            os.close(handle)
        return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{size / 2**20:.0f} MiB of targets can't be kept in {tempfile.gettempdir()} "
            f"({first_line(error)}): name a folder with room in the environment variable TMPDIR"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # Windows keeps what is mapped
            os.unlink(path)


def _as_torch_reads(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives the samples of its data set by their numbers, and not by a pass of its own."""
    return not isinstance(loader.dataset, IterableDataset) and all(
        getattr(type(loader), way) is getattr(DataLoader, way)
        for way in ("__iter__", "_get_iterator")
    )


class _Numbered:
    """The batches of a DataLoader by their number, in the order that its sampler draws once."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        with _generator_of(None):
            sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
            self.order, reading = [], Reading("numbers of the samples")
            for members in sampler:
                self.order.append(members)
                reading.note((), 0)

    def __call__(self, number: int) -> Any:
        members, data = self.order[number], self.loader.dataset
        with _generator_of(torch.Generator().manual_seed(number).get_state()):
            if self.loader.batch_sampler is None:
                found = data[members]
            elif hasattr(data, "__getitems__"):
                found = data.__getitems__(list(members))
            else:
                found = [data[i] for i in members]
            return kept(self.loader.collate_fn(found))


class _Walked:
    """The batches of an iterable that is begun anew, walked on where it stands as far as possible."""

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self.begin = begin
        self.walk: Iterator[Any] | None = None
        self.next, self.state = 0, torch.Generator().manual_seed(0).get_state()

    def __call__(self, number: int) -> Any:
        if self.walk is None or number < self.next:
            self.walk, self.next = None, 0
            self.state = torch.Generator().manual_seed(0).get_state()
        found = None
        with _generator_of(self.state) as left:
            if self.walk is None:
                self.walk = self.begin()
            while self.next <= number:
                try:
                    found = next(self.walk)
                except StopIteration:
                    self.walk = None
                    raise IndexError(number) from None
                self.next += 1
            self.state = left()
        return kept(found)


@contextmanager
def _generator_of(state: Tensor | None) -> Iterator[Callable[[], Tensor]]:
    """Within it torch's global generator has this state (None: its own); the caller's comes back."""
    outside = torch.get_rng_state()
    if state is not None:
        torch.set_rng_state(state)
    try:
        yield torch.get_rng_state
    finally:
        torch.set_rng_state(outside)


def _fingerprint(batch: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in leaves(batch):
        digest.update(repr(path).encode())
        if isinstance(leaf, Tensor) and unusual(leaf) is None:
            held = leaf.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            if held.numel():
                digest.update(held.resolve_conj().resolve_neg().view(torch.uint8).numpy().data)
        elif isinstance(leaf, (str, bytes, int, float, bool, type(None), list, tuple)):
            digest.update(repr(leaf).encode())
        else:  # nothing is known of it but its kind
            digest.update(described(type(leaf).__name__).encode())
    return digest.digest()
