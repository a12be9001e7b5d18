"""In what networks are differentiated, once and twice, and what is said where that can't be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.formulas.convolution import ConvolutionsByFormula

__all__ = [
    "Graph",
    "check_twice_differentiable",
    "first_derivatives",
    "out_of_memory",
    "second_derivatives",
]

Graph = tuple[Tensor, ...]
"""Tensors that have a graph, to be differentiated again."""


@contextmanager
def first_derivatives() -> Iterator[None]:
    """What a plain gradient is taken in: torch's own derivatives, and its complaints in our words."""
    with repeatedly_differentiable(), _named_reasons():
        yield


@contextmanager
def second_derivatives() -> Iterator[None]:
    """What a graph is made in, and differentiated again."""
    with first_derivatives(), ConvolutionsByFormula():
        yield


@contextmanager
def _named_reasons() -> Iterator[None]:
    """Torch's complaints about missing second derivatives as reasons a report can show."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(part in text for part in _NOT_TWICE):
            first = text.splitlines()[0]
            raise MetricFailed(f"the loss is not twice differentiable: {first}") from error
        raise


def check_twice_differentiable(graph: Graph) -> None:
    """torch cuts what is differentiable once out of the graph in silence: find the place it left.

    Raises MetricFailed where there is one.
    """
    stack = [t.grad_fn for t in graph if t.grad_fn is not None]
    known = set(stack)
    while stack:
        node = stack.pop()
        if node.name().rpartition("::")[2] in {"Error", "DelayedError"}:
            raise MetricFailed(
                "the loss is not twice differentiable: an operation in it is marked "
                "once_differentiable, and torch would leave its second derivative out"
            )
        following = {n for n, _ in node.next_functions if n is not None} - known
        known |= following
        stack.extend(following)


_NOT_TWICE = (
    "once_differentiable",
    "is not implemented",
    "not differentiable",
    "does not require grad",
    "double backward",
    "nested",  # nested tensors have hardly any second derivatives
)


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory was short, of either kind of device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "not enough memory" in str(error) or "out of memory" in str(error)
    )
