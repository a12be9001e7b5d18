"""In which precision a network's weights are, and in which it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "HALF",
    "Precisions",
    "Widened",
    "at_least_single",
    "first_dtype",
    "on_the_way_to",
    "real_dtypes",
    "told",
    "without_casts",
]

T = TypeVar("T")

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


def without_casts(run: Callable[[], T]) -> tuple[T, bool]:
    """What ``run`` gives where casts to float32 and below go to float64, and whether there are any.

    RMS norms and softmaxes cast so whatever they are given. That their rounding is no part of the function,
    and hides what is, holds where ``run`` gets by without them; otherwise they stay.
    """
    widened = Widened()
    try:
        with widened:
            return run(), widened.used
    except Exception:
        return run(), False


class Widened(TorchFunctionMode):
    """Within it casts to float32 and below go to float64; ``used``: whether there were any."""

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _CASTS and getattr(Tensor, name, None) is func:
            self.used = True
            return Tensor.double(args[0])
        return func(*map(self._wide, args), **{k: self._wide(v) for k, v in (kwargs or {}).items()})

    def _wide(self, value: Any) -> Any:
        if isinstance(value, torch.dtype) and value in (torch.float32, *HALF):
            self.used = True
            return torch.float64
        return value


_CASTS = {"float", "half", "bfloat16"}
