"""In which precision a network's weights are, and in which it computes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "HALF",
    "Precisions",
    "at_least_single",
    "first_dtype",
    "on_the_way_to",
    "real_dtypes",
    "told",
]

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

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.dtypes |= {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


def on_the_way_to(outputs: Tensor) -> set[torch.dtype]:
    """The types of what lies on the differentiable way to ``outputs``: constants and other results of a
    network do not."""
    found: set[torch.dtype] = set()
    stack = [outputs.grad_fn] if outputs.grad_fn is not None else []
    known: set[Any] = set(stack)
    while stack:
        node: Any = stack.pop()
        found |= {one.dtype for one in getattr(node, "_input_metadata", ())}
        following = {n for n, _ in node.next_functions if n is not None} - known
        known |= following
        stack.extend(following)
    return found
