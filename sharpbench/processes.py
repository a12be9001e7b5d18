"""Processes that end with the one that started them, and leave its main program alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["end_with_parent", "without_main"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
    """End this process when ``parent``, which started it, does, however that ends.

    Linux does it at once, whatever this process is at; elsewhere it takes half a second, and waits for C
    code that keeps the interpreter.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that are started here leave the main program alone: a script that calls for a run, without a
    guard, would begin anew in each of them. What they need stands in modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
