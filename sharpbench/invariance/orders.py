"""Random orders of units, heads and coordinates, of which one at least is another than before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sharpbench.errors import TransformationRefused
from sharpbench.invariance.recording import note_left

__all__ = ["drawn_orders"]


def drawn_orders(
    sizes: Sequence[tuple[str, int]], generator: torch.Generator, what: str
) -> list[Tensor | None]:
    """An order for each layer by its name and how many of ``what`` it has; None where it was drawn as it is,
    which is noted. All are drawn again where none would change.

    Raises TransformationRefused where no layer has two.
    """
    if not any(size > 1 for _, size in sizes):
        raise TransformationRefused(
            f"no layer that could be changed has two {what}, and one has no order"
        )
    while True:
        drawn = [torch.randperm(size, generator=generator) for _, size in sizes]
        same = [torch.equal(order, torch.arange(len(order))) for order in drawn]
        if not all(same):
            break
    for (name, size), kept in zip(sizes, same, strict=True):
        if kept:
            note_left(
                name, f"of {what} it has one" if size == 1 else "its order was drawn as it is"
            )
    return [None if kept else order for order, kept in zip(drawn, same, strict=True)]
