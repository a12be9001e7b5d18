"""The C library's allocator: what it keeps of memory that was freed, and what the system gets back."""

from __future__ import annotations

import ctypes
import functools
import platform
from typing import Any

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> bool:
    """Reuse freed memory instead of giving it back to the system; whether that could be set.

    glibc maps every allocation above 32 MB anew, and the system clears each of its pages on first
    touch: for the large temporaries of Taylor mode that took half of the time. Between peaks the process
    keeps what it held, and gaps that nothing fits into, until `give_back_freed_memory`. Elsewhere than on
    glibc nothing is changed.
    """
    library = _glibc()
    if library is None:
        return False
    mallopt = library.mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> None:
    """Hand to the system what was freed, gaps between what is held among it; on glibc."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
