"""The written rules by which a statement about a figure with its 95% interval is judged."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from sharpbench.analysis.statistics import Estimate

__all__ = [
    "CONTRADICTED",
    "INCONCLUSIVE",
    "IN_DIRECTION",
    "REPRODUCED",
    "Effect",
    "Judgement",
    "Level",
    "NoEffect",
    "Rule",
    "Sign",
    "Within",
]

REPRODUCED = "reproduced"
IN_DIRECTION = "reproduced in direction"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Judgement:
    """What a rule says of an estimate.

    ``resolution``: of an inconclusive one half the width of its interval, the smallest effect that could
    have been seen; ``networks``: how many it would take if the figure stayed where it is (None: no
    number would do).
    """

    verdict: str
    resolution: float | None = None
    networks: int | None = None


class Rule(ABC):
    """How a statement is judged from an estimate alone; a wide interval never decides anything."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The rule in words."""

    @abstractmethod
    def judge(self, found: Estimate) -> Judgement:
        """The verdict on an estimate with its 95% interval."""

    @property
    def identity(self) -> str:
        """A hash of the rule with its numbers: a rule changed after the fact shows."""
        return hashlib.sha256(f"{self!r}: {self.text}".encode()).hexdigest()[:12]


def _inconclusive(found: Estimate, half: float, *distances: float) -> Judgement:
    """``distances``: from the figure to the bounds that its interval would have to stay clear of."""
    room = max(distances, default=0.0)
    told = room > 0 and 0 < half < math.inf
    needed = math.ceil(found.n * (half / room) ** 2 - 1e-6) if told else None
    return Judgement(INCONCLUSIVE, half, needed)


@dataclass(frozen=True)
class Level(Rule):
    """A stated number, to be met within ``tolerance``.

    ``margin``: half the width of the stated number's own 95% interval, where that is known.
    """

    stated: float
    tolerance: float
    margin: float = 0.0

    @property
    def text(self) -> str:
        own = f", ±{self.margin:.2g} of the stated number itself included," if self.margin else ""
        return (
            f"reproduced if the 95% interval of the difference from {self.stated:g}{own} lies within "
            f"±{self.tolerance:g}, contradicted if it lies outside, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        distance = abs(found.value - self.stated)
        own = (found.high - found.low) / 2
        half = math.hypot(own, self.margin)
        if distance + half <= self.tolerance:
            return Judgement(REPRODUCED)
        if distance - half > self.tolerance:
            return Judgement(CONTRADICTED)
        room = abs(self.tolerance - distance)
        needed = None
        if (
            room > self.margin and 0 < own < math.inf
        ):  # what the stated number lacks no network of ours gives
            needed = math.ceil(found.n * own**2 / (room**2 - self.margin**2) - 1e-6)
        return Judgement(INCONCLUSIVE, half, needed)


@dataclass(frozen=True)
class Effect(Rule):
    """A stated difference, slope or correlation, to be met within a quarter of its size."""

    stated: float

    @property
    def text(self) -> str:
        return (
            f"stated {self.stated:+g}: reproduced if the interval lies within a quarter of it, in "
            "direction if it leaves out 0 on the same side, contradicted if it leaves out 0 on the other "
            "or shows the effect to be smaller than a quarter of it, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        quarter, half = abs(self.stated) / 4, (found.high - found.low) / 2
        if self.stated - quarter <= found.low and found.high <= self.stated + quarter:
            return Judgement(REPRODUCED)
        if found.low > 0 or found.high < 0:
            same = math.copysign(1, found.value) == math.copysign(1, self.stated)
            return Judgement(IN_DIRECTION if same else CONTRADICTED)
        if -quarter <= found.low and found.high <= quarter:
            return Judgement(CONTRADICTED)
        return _inconclusive(found, half, abs(found.value), quarter - abs(found.value))


@dataclass(frozen=True)
class Sign(Rule):
    """A stated sign without a size: +1 or −1."""

    stated: int

    @property
    def text(self) -> str:
        side, other = ("above", "below") if self.stated > 0 else ("below", "above")
        return (
            f"reproduced if the interval lies {side} 0, contradicted if {other}, inconclusive if it "
            "holds 0"
        )

    def judge(self, found: Estimate) -> Judgement:
        if found.low <= 0 <= found.high:
            return _inconclusive(found, (found.high - found.low) / 2, abs(found.value))
        return Judgement(REPRODUCED if found.value * self.stated > 0 else CONTRADICTED)


@dataclass(frozen=True)
class NoEffect(Rule):
    """Stated: nothing there, which takes an interval within ±``margin`` to show."""

    margin: float

    @property
    def text(self) -> str:
        return (
            f"reproduced if the interval lies within ±{self.margin:g}, contradicted if it leaves out 0 "
            "and does not, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        if -self.margin <= found.low and found.high <= self.margin:
            return Judgement(REPRODUCED)
        if found.low > 0 or found.high < 0:
            return Judgement(CONTRADICTED)
        half = (found.high - found.low) / 2
        return _inconclusive(found, half, abs(found.value), self.margin - abs(found.value))


@dataclass(frozen=True)
class Within(Rule):
    """Stated: it lies between two bounds."""

    low: float
    high: float

    @property
    def text(self) -> str:
        return (
            f"reproduced if the whole interval lies in [{self.low:g}, {self.high:g}], contradicted if "
            "it lies outside, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        if self.low <= found.low and found.high <= self.high:
            return Judgement(REPRODUCED)
        if found.high < self.low or found.low > self.high:
            return Judgement(CONTRADICTED)
        inside = min(found.value - self.low, self.high - found.value)
        return _inconclusive(found, (found.high - found.low) / 2, abs(inside))
