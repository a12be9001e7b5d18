"""Waits for what another process or thread does, however slow or quick it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

__all__ = ["PATIENCE", "until"]

T = TypeVar("T")

PATIENCE = 1200.0
"""Seconds after which the other side hangs: none takes a twentieth of it on a machine of two cores."""


def until(happened: Callable[[], T], *, goes_on: Callable[[], bool] = lambda: True) -> T:
    """What ``happened`` answers as soon as that is true.

    The test fails where the other side is over, and it has not happened, and where its patience ends.
    """
    end = time.monotonic() + PATIENCE
    while True:
        over = not goes_on()  # before the look: what it did last counts
        if found := happened():
            return found
        if over or time.monotonic() > end:
            pytest.fail("the other side is over" if over else f"it took longer than {PATIENCE:g} s")
        time.sleep(0.01)
