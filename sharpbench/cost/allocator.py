"""The C library's allocator, set so that memory once used stays with the process."""

from __future__ import annotations

import ctypes
import functools
import platform

__all__ = ["keep_freed_memory"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> bool:
    """Reuse freed memory instead of giving it back to the system; whether that could be set.

    glibc maps every allocation above 32 MB anew, and the system clears each of its pages on first
    touch: for the large temporaries of Taylor mode that took half of the time. Peak memory stays what
    it was; between peaks the process keeps it. Elsewhere than on glibc nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
