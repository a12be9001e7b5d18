"""Files of the results folder: read without waiting, written whole, set aside and never deleted."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharpbench.beside import written_beside
from sharpbench.results.checksum import Damaged

__all__ = [
    "clear",
    "fault_of",
    "named_in_errors",
    "read_file",
    "set_aside",
    "sweep_partials",
    "write_atomically",
]

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")

_SPOILT = {
    errno.EACCES: "may not be read",
    errno.EPERM: "may not be read",
    errno.EIO: "can't be read from the disk",
    errno.ELOOP: "is a link that leads to itself",
    errno.ENOTDIR: "leads through a file",
    errno.EISDIR: "is a folder",
    errno.ENXIO: "is no file",
}
"""What is wrong with the file itself; any other error is the machine's, and nothing is said of the file."""


def read_file(path: Path) -> bytes | None:
    """The bytes of a regular file, None if there is none.

    Nothing else is opened for reading: a FIFO would wait for ever. Raises Damaged for what is no readable
    file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Damaged(f"it {_kind(path)}")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise Damaged("it is a link that leads nowhere") from None
        return None
    except OSError as error:
        if error.errno in _SPOILT:
            raise Damaged(f"it {_SPOILT[error.errno]}") from None
        raise


def fault_of(path: Path) -> str | None:
    """Why ``path`` is no regular file that is there; opens nothing."""
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else f"it {_kind(path)}"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        if error.errno in _SPOILT:
            return f"it {_SPOILT[error.errno]}"
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is on the disk, whole, when this returns; what stood there stays until then."""
    with written_beside(path) as partial, named_in_errors(path), partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sweep_partials(folder: Path, *, before: float = math.inf) -> None:
    """Remove from ``folder`` what a killed `written_beside` left there: nothing names it, and it grows.

    ``before``: only what was last written to earlier than that, in seconds of the file system's clock, where
    somebody else may be writing. What can't be removed stays.
    """
    with suppress(OSError):
        for path in sorted(folder.glob("*.partial")):
            with suppress(OSError):
                if _PARTIAL.fullmatch(path.name) and path.lstat().st_mtime < before:
                    path.unlink()


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """An error of the machine while ``path`` is written says which file that was: a full disk doesn't."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def set_aside(path: Path, root: Path, folder: str) -> Path:
    """Move ``path`` into a folder of its own, ``root/folder-<n>``; where it is then.

    Counted up, so that nothing set aside before is overwritten.
    """
    number = 1
    while True:
        target = root / f"{folder}-{number}"
        try:
            target.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    try:
        os.rename(path, target / path.name)
    except FileNotFoundError:
        with suppress(OSError):
            target.rmdir()
        raise
    return target / path.name


def clear(path: Path, root: Path, folder: str) -> Path | None:
    """Make room for a file at ``path``: what stands there and is none is set aside; where it is then."""
    if not os.path.lexists(path) or not fault_of(path):
        return None
    try:
        moved = set_aside(path, root, folder)
    except FileNotFoundError:  # another process was quicker
        if not path.parent.is_dir():
            raise
        return None
    if fault_of(moved):
        return moved
    with suppress(FileExistsError):  # another process was quicker, and this is its file
        os.link(moved, path)
    moved.unlink()
    return None


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    for test, name in (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
    ):
        if test(mode):
            return f"is a {name}"
    return "is no file"
