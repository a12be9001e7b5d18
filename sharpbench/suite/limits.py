"""Giving up on work that takes too long."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sharpbench.errors import TimeLimitExceeded

__all__ = ["time_limit"]


@contextmanager
def time_limit(seconds: float | None, what: str) -> Iterator[None]:
    """Raise TimeLimitExceeded inside the block after ``seconds`` (None: never).

    Works through SIGALRM: in the main thread of a process, on POSIX, between two Python
    instructions; a single long call into torch finishes first. Elsewhere a limit is an error, since
    ignoring it in silence would not be one.
    """
    if seconds is None:
        yield
        return
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        raise RuntimeError("time limits need POSIX signals and the main thread")

    over = False

    def expired(signum: int, frame: FrameType | None) -> None:
        if over:  # it came while the limit was taken away, which is to be done as a whole
            return
        raise TimeLimitExceeded(f"{what} took longer than the limit of {seconds:g} s")

    around, _ = signal.getitimer(signal.ITIMER_REAL)
    start = time.monotonic()
    previous = signal.signal(signal.SIGALRM, expired)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # which may be over when this returns
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if around:  # one limit inside another
            left = around - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6))
