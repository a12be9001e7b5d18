"""How each torch operation acts on a Taylor series, one file a family.

A rule has the signature of the torch function it stands for and takes `Jet` objects where that takes
tensors; it returns NotImplemented for arguments it doesn't cover. Functions of one name are one
function here: torch.relu, Tensor.relu and torch.nn.functional.relu.
"""

from __future__ import annotations

from sharpbench.taylor.rules import (
    basic,
    functions,
    indexing,
    linear_algebra,
    recurrent,
    spectral,
)
from sharpbench.taylor.rules.basic import ALIASES, Rule

__all__ = ["ALIASES", "IN_PLACE", "RULES", "SHAPES_IN_PLACE"]

RULES: dict[str, Rule] = {}
for _family in (basic, functions, indexing, linear_algebra, recurrent, spectral):
    RULES.update(_family.RULES)

IN_PLACE = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "idiv": "div",
    "itruediv": "div",
    "ifloordiv": "floor_divide",
    "imod": "remainder",
    "ipow": "pow",
}
"""Operators that write into their first operand, and what they write."""

SHAPES_IN_PLACE = frozenset(
    {"unsqueeze", "squeeze", "t", "transpose", "swapaxes", "swapdims", "resize", "resize_as"}
)
"""Operations in place that change how a tensor is looked at, not what is in it."""
