"""How often stated 95% intervals hold the truth, counted over simulations with fixed seeds."""

from __future__ import annotations

from collections.abc import Iterable

from sharpbench.analysis.calibration import BAND
from sharpbench.analysis.statistics import binomial_interval

Interval = tuple[float, float]


def share_covered(intervals: Iterable[Interval], truth: float) -> tuple[float, Interval]:
    """The share of intervals that hold ``truth``, with its own 95% binomial interval."""
    held = [low <= truth <= high for low, high in intervals]
    return sum(held) / len(held), binomial_interval(sum(held), len(held))


def assert_covers(intervals: Iterable[Interval], truth: float) -> None:
    """What is told as 95% covers 92 to 98%, as far as the number of intervals can tell."""
    share, (low, high) = share_covered(intervals, truth)
    told = f"intervals told as 95% hold the truth in {share:.1%} [{low:.1%}, {high:.1%}]"
    assert low <= BAND[1], told
    assert high >= BAND[0], told
