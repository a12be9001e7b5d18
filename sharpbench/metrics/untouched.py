"""A plug-in is given a network and data, and leaves both, and all that others share, as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sharpbench.errors import Meddled
from sharpbench.subject import Splits, Subject
from sharpbench.surroundings import Surroundings

__all__ = ["data_of", "data_of_splits", "same_data", "untouched"]

_COPIED = 1 << 30
"""Bytes of data on the CPU up to which a copy is held against it; of more, torch's own counters are read."""

_DRAWN = " (or the network drew from it: is dropout or another random layer left on?)"

_HELD = (
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""What a module has by name, besides its state: a plug-in's own hooks would work for all others as well."""


def data_of(subject: Subject) -> list[Tensor]:
    """Every tensor of a subject that holds inputs or targets."""
    splits, front = subject.splits, subject.front
    held = [] if front is None else front.batches.tensors
    return [subject.inputs, subject.targets, *(data_of_splits(splits) if splits else []), *held]


def data_of_splits(splits: Splits) -> list[Tensor]:
    """Every tensor of the splits that holds inputs or targets."""
    return [splits.train_inputs, splits.train_targets, splits.test_inputs, splits.test_targets]


@contextmanager
def untouched(
    who: str, model: nn.Module, data: Iterable[Tensor], digest: Callable[[nn.Module], Any]
) -> Iterator[None]:
    """After the block model, data and surroundings are as they were before it, bit by bit.

    ``digest`` tells two states of the model apart. Raises Meddled, once everything is brought back, if
    ``who`` changed something; data of more than a gigabyte, or on a GPU, can't be brought back.
    """
    network, kept, surroundings = _Network(model, digest), _Data(data), Surroundings()
    faults: list[str] = []
    try:
        yield
    finally:
        for part in surroundings.restore():
            hint = _DRAWN if part == "torch's global random state" else ""
            faults.append(f"changed {part}{hint}")
        faults += network.restore()
        faults += kept.restore()
    if faults:
        raise Meddled(f"{who} {' and '.join(faults)}")


@contextmanager
def same_data(who: str, data: Iterable[Tensor]) -> Iterator[None]:
    """After the block the data are as they were before it. Raises Meddled as `untouched` does."""
    kept = _Data(data)
    faults: list[str] = []
    try:
        yield
    finally:
        faults += kept.restore()
    if faults:
        raise Meddled(f"{who} {faults[0]}")


class _Network:
    def __init__(self, model: nn.Module, digest: Callable[[nn.Module], Any]) -> None:
        self.model, self.digest, self.before = model, digest, digest(model)
        self.modules = [(module, _shape_of(module)) for module in model.modules()]
        self.grads = [(p, p.grad) for p in model.parameters()]
        tensors = [*model.parameters(), *model.buffers()]
        self.copies = [(t, t.detach().clone()) for t in tensors if _plain(t)]

    def restore(self) -> list[str]:
        same_modules = [module for module, _ in self.modules] == list(self.model.modules())
        as_held = same_modules and all(_is_same(_shape_of(m), held) for m, held in self.modules)
        grads = all(p.grad is grad for p, grad in self.grads)
        if as_held and grads and self.digest(self.model) == self.before:
            return []
        for module, held in self.modules:
            module.training = held["training"]
            for name, before in held.items():
                if name in _HELD:
                    module.__dict__[name].clear()
                    module.__dict__[name].update(before)
        for parameter, grad in self.grads:
            parameter.grad = grad
        with torch.no_grad():
            for tensor, copy in self.copies:
                if tensor.shape == copy.shape and tensor.dtype == copy.dtype:
                    tensor.data.copy_(copy)
                else:
                    tensor.data = copy
        return ["changed the model it was given"]


class _Data:
    def __init__(self, data: Iterable[Tensor]) -> None:
        self.data = _each_once(data)
        total = sum(t.numel() * t.element_size() for t in self.data)
        copied = total <= _COPIED and all(t.device.type == "cpu" and _plain(t) for t in self.data)
        self.copies = [t.detach().clone() for t in self.data] if copied else []
        self.versions = [t._version for t in self.data]

    def restore(self) -> list[str]:
        if not self.copies:
            same = [t._version for t in self.data] == self.versions
            return [] if same else ["changed the data it was given, which can't be brought back"]
        changed = False
        for tensor, copy in zip(self.data, self.copies, strict=True):
            if not _same_bits(tensor, copy):
                tensor.data = copy if tensor.shape != copy.shape else tensor.data.copy_(copy)
                changed = True
        return ["changed the data it was given"] if changed else []


def _shape_of(module: nn.Module) -> dict[str, Any]:
    """What a module holds; a scripted one makes its tables anew each time, and is told by its state."""
    tables = {name: module.__dict__.get(name) for name in _HELD}
    held = {name: dict(table) for name, table in tables.items() if isinstance(table, dict)}
    return {**held, "training": module.training}


def _is_same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    if now.keys() != before.keys() or now["training"] != before["training"]:
        return False
    return all(
        now[name].keys() == table.keys()
        and all(value is table[key] for key, value in now[name].items())
        for name, table in before.items()
        if name in _HELD
    )


def _plain(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided and not tensor.is_quantized


def _same_bits(tensor: Tensor, copy: Tensor) -> bool:
    alike = tensor.shape == copy.shape and tensor.dtype == copy.dtype
    return alike and torch.equal(_bits(tensor), _bits(copy))


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8)


def _each_once(data: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in data}.values())
