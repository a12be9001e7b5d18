"""In which precision a network's weights are, and in which it computes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["HALF", "Precisions", "at_least_single", "first_dtype", "real_dtypes", "told"]

HALF = (torch.bfloat16, torch.float16)
"""Precisions whose rounding is seen in every figure."""


def real_dtypes(model: nn.Module) -> tuple[torch.dtype, ...]:
    """The real precisions of a network's parameters and buffers, each once, in the order they stand in it."""
    return tuple(dict.fromkeys(_each(model)))


def first_dtype(model: nn.Module) -> torch.dtype | None:
    """That of the first of them, which is everyone's in a copy."""
    return next(_each(model), None)


def _each(model: nn.Module) -> Iterator[torch.dtype]:
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point() or tensor.is_complex():
            yield tensor.dtype.to_real()


def at_least_single(dtypes: tuple[torch.dtype, ...]) -> torch.dtype:
    """The precision that holds all of ``dtypes``, float32 at least."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def told(dtypes: tuple[torch.dtype, ...]) -> str:
    """Their names in a sentence."""
    return " and ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


class Precisions(TorchDispatchMode):
    """Notes of which types everything is that is computed within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()
        self.rounded_to: set[torch.dtype] = set()
        """To which types numbers of a more accurate one were brought."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.dtypes |= {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        if func is torch.ops.aten._to_copy.default and _less(result.dtype, args[0].dtype):
            self.rounded_to.add(result.dtype)
        return result


def _less(one: torch.dtype, other: torch.dtype) -> bool:
    real = one.is_floating_point and other.is_floating_point
    return real and torch.finfo(one).eps > torch.finfo(other).eps
