"""What a change of a network declares of itself, in the terms in which theory speaks of a metric."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

from sharpbench.registry import Plugin

__all__ = ["PROPERTIES", "SAME_FUNCTION", "Change", "Kind", "Preserves", "Property"]

Kind = Literal["permutation", "linear_gauge", "chart", "growth", "units", "decision", "control"]
"""From the narrowest to the widest:

``permutation``: parameters in another order. ``linear_gauge``: another point of the same parameter space,
reached by a linear map, with the same function. ``chart``: other coordinates of the parameters.
``growth``: more or fewer parameters. ``units``: the inputs in other units or axes, the function of the raw
data stays. ``decision``: other logits with the same decisions. ``control``: another function.
"""

Preserves = Literal["function", "loss", "nothing"]

Trait = Literal[
    "isometry", "diagonal", "homogeneous", "head_gauge", "logit_shift", "input_isometry"
]
"""What finer promises rest on:

``isometry``: distances between parameters stay, and the loss at each: every spectrum in them too.
``diagonal``: each parameter is multiplied by a number of its own, perhaps in another order.
``homogeneous``: it commutes with growing all parameters together, w → cw.
``head_gauge``: another basis inside each attention head, in what its queries and keys, or its values and
outputs, have in common.
``logit_shift``: one number, the same for every input, is added to all logits through the parameters.
``input_isometry``: distances between inputs stay, as under a rotation.
"""

Property = Kind | Trait

PROPERTIES: frozenset[Property] = frozenset({*get_args(Kind), *get_args(Trait)})

SAME_FUNCTION: frozenset[Property] = frozenset({"permutation", "linear_gauge", "chart", "growth"})
"""Kinds that keep the function of the given inputs: no metric of the function may move."""

_IMPLIED: dict[Kind, frozenset[Property]] = {
    "permutation": frozenset({"isometry", "diagonal", "homogeneous"}),
    "linear_gauge": frozenset({"homogeneous"}),
}

_KEPT_BY: dict[Kind, frozenset[Preserves]] = {
    **dict.fromkeys(
        ("permutation", "linear_gauge", "chart", "growth", "units"), frozenset({"function"})
    ),
    "decision": frozenset({"loss", "nothing"}),
    "control": frozenset({"nothing"}),
}


class Change(Plugin):
    """The declarations of a transformation: all that a metric knows of it.

    Class attributes
    ----------------
    kind: what it is.
    preserves: what stays: the function, the loss, or nothing. Every kind from ``permutation`` to ``units``
        keeps the function (of the raw data), ``decision`` the loss or nothing, ``control`` nothing.
    traits: what holds of it beyond what its kind implies: a permutation is isometric, diagonal and
        homogeneous, a linear gauge homogeneous.

    Raises TypeError, when the class is made, for a kind or a trait there is none of and for a kind that
    contradicts ``preserves``.
    """

    kind: ClassVar[Kind]
    preserves: ClassVar[Preserves]
    traits: ClassVar[frozenset[Trait]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kind, preserves = getattr(cls, "kind", None), getattr(cls, "preserves", None)
        if kind is not None and kind not in _KEPT_BY:
            raise TypeError(f"{cls.__name__}: unknown kind {kind!r}, one of {', '.join(_KEPT_BY)}")
        if kind and preserves and preserves not in _KEPT_BY[kind]:
            allowed = " or ".join(repr(p) for p in sorted(_KEPT_BY[kind]))
            raise TypeError(f"{cls.__name__}: a {kind} preserves {allowed}, not {preserves!r}")
        if unknown := cls.traits - set(get_args(Trait)):
            raise TypeError(
                f"{cls.__name__}: unknown traits {', '.join(sorted(unknown))}, "
                f"known are {', '.join(get_args(Trait))}"
            )

    @property
    def parts(self) -> tuple[Change, ...]:
        """The changes that it makes one after another; itself, for most."""
        return (self,)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of its parts; empty where none is declared."""
        kinds = (getattr(part, "kind", None) for part in self.parts)
        return frozenset(kind for kind in kinds if kind)

    @property
    def widest_kind(self) -> Kind | None:
        """The one of its kinds that keeps least."""
        kinds = self.kinds
        return next((kind for kind in reversed(get_args(Kind)) if kind in kinds), None)

    @property
    def input_scale(self) -> float | None:
        """The factor by which it multiplies every distance between inputs; None where there is none.

        1 unless the units change. None of a change of units that doesn't say, and of several in a row
        that aren't all 1: one that doesn't apply to a network may be left out.
        """
        if self._single:
            return None if "units" in self.kinds else 1.0
        return 1.0 if all(part.input_scale == 1 for part in self.parts) else None

    @property
    def temperature(self) -> float:
        """What it divides the logits by."""
        return 1.0 if self._single else math.prod(part.temperature for part in self.parts)

    @property
    def properties(self) -> frozenset[Property]:
        """What holds of it: its kind, its traits and what they imply; of several, what holds of all."""
        if not self._single:
            return frozenset.intersection(*(part.properties for part in self.parts))
        found: frozenset[Property] = self.kinds | self.traits
        for kind in self.kinds:
            found |= _IMPLIED.get(kind, frozenset())
        rotates = "units" in self.kinds and self.input_scale == 1
        return found | {"input_isometry"} if rotates else found

    @property
    def _single(self) -> bool:
        return all(part is self for part in self.parts)
