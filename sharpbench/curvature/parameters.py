"""Which parameters are meant."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from sharpbench.errors import MetricFailed, nearest_names

__all__ = ["named_subset"]


def named_subset(model: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """The trainable parameters that ``patterns`` name; all if there is none: each is a parameter's name, the
    name of a module, for all in it, or a shell pattern of parameters' names. One that is tied has as many
    names.

    Raises MetricFailed where nothing is trainable and, with the nearest names, for a pattern that fits none.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise MetricFailed("the model has no parameter that requires gradients")
    every = dict(model.named_parameters(remove_duplicate=False))
    named = {n: p for n, p in every.items() if p.requires_grad}
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in named):
            frozen = any(_fits(name, pattern) for name in every)
            why = "Those that do require no gradients." if frozen else nearest_names(pattern, named)
            raise MetricFailed(f"no trainable parameter fits {pattern!r}. {why}")
    if not patterns:
        return trainable
    meant = {id(p) for n, p in named.items() if any(_fits(n, q) for q in patterns)}
    return [p for p in trainable if id(p) in meant]


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
