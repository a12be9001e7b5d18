"""The table of rules: which function answers a torch function of Taylor series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["RULES", "Rule", "rule"]

Rule = Callable[..., Any]
"""Has the signature of the torch function it stands for and takes series where that takes tensors.

It returns NotImplemented for arguments that it doesn't cover.
"""

_Rule = TypeVar("_Rule", bound=Rule)

RULES: dict[str, Rule] = {}
"""By torch's name; functions of one name are one: torch.relu, Tensor.relu, torch.nn.functional.relu."""


def rule(*names: str) -> Callable[[_Rule], _Rule]:
    """Enters the function it decorates under ``names``; each name has one rule."""

    def enter(function: _Rule) -> _Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"there are two Taylor rules for {name}")
            RULES[name] = function
        return function

    return enter
