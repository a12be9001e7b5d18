"""What a change of a network declares of itself, in the terms in which theory speaks of a metric."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from sharpbench.registry import Plugin

__all__ = ["Change", "Kind", "Preserves"]

Kind = Literal["permutation", "linear_gauge", "chart", "growth", "units", "decision", "control"]
"""From the narrowest to the widest:

``permutation``: parameters in another order. ``linear_gauge``: another point of the same parameter space,
reached by a linear map, with the same function. ``chart``: other coordinates of the parameters.
``growth``: more or fewer parameters. ``units``: the inputs in other units or axes, the function of the raw
data stays. ``decision``: other logits with the same decisions. ``control``: another function.
"""

Preserves = Literal["function", "loss", "nothing"]


class Change(Plugin):
    """The declarations of a transformation: all that a metric knows of it.

    Class attributes
    ----------------
    kind: what it is.
    preserves: what stays: the function, the loss, or nothing.
    """

    kind: ClassVar[Kind]
    preserves: ClassVar[Preserves]

    @property
    def kinds(self) -> frozenset[Kind]:
        """Its kind; those of all parts where it has parts; empty where it declares none."""
        kind: Kind | None = getattr(self, "kind", None)
        return frozenset({kind} if kind else ())

    @property
    def widest_kind(self) -> Kind | None:
        """The one of its kinds that keeps least."""
        kinds = self.kinds
        return next((kind for kind in reversed(get_args(Kind)) if kind in kinds), None)
