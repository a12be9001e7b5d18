"""Standard streams that end nothing: neither that nobody reads any more, nor a letter they can't write."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

__all__ = ["lasting_streams", "lost_output"]

_NOBODY_READS = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENOTCONN})
"""A pipe without a reader, a terminal that is gone."""


class _Lasting(io.RawIOBase):
    """A file that takes whatever is written to it, also what it can't pass on."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.fault: OSError | None = None
        """Why the first of what was lost was lost."""

    def write(self, data: Any) -> int | None:
        """See `io.RawIOBase.write`."""
        try:
            return self._raw.write(data)
        except OSError as error:
            self.fault = self.fault or error
            return len(data)

    def writable(self) -> bool:
        """See `io.IOBase.writable`."""
        return True

    def fileno(self) -> int:
        """See `io.IOBase.fileno`."""
        return self._raw.fileno()

    def isatty(self) -> bool:
        """See `io.IOBase.isatty`."""
        return self._raw.isatty()

    @property
    def name(self) -> Any:
        """See `io.FileIO.name`."""
        return self._raw.name


def lasting_streams() -> None:
    """From here on, nothing that is printed raises an error; for the start of a process.

    What was lost although somebody may have wanted to read it, `lost_output` tells. A stream that is
    closed is replaced by one that leads nowhere, so that no file of results comes under its number. A name
    of a file is written as its own bytes, and what the encoding lacks by its escape.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream = _lasting(stream)
        setattr(sys, name, stream)


def lost_output() -> OSError | None:
    """Why not all of standard output was written, unless nobody reads it."""
    if sys.stdout is None:
        return None
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    fault = raw.fault if isinstance(raw, _Lasting) else None
    return None if fault is None or fault.errno in _NOBODY_READS else fault


def _raw(stream: Any) -> Any:
    """What a text stream writes to in the end: through a buffer, or with ``python -u`` without."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = _raw(stream)
    if type(raw) is not io.FileIO:  # somebody put another one in its place already
        stream.reconfigure(errors=_ERRORS)
        return stream
    settings: dict[str, Any] = {
        "encoding": stream.encoding,
        "line_buffering": stream.line_buffering,
        "write_through": stream.write_through,
    }
    buffer: Any = stream.detach()
    if buffer is not raw:
        buffer.detach()
    below: Any = _Lasting(raw)
    below = below if buffer is raw else io.BufferedWriter(below)
    return io.TextIOWrapper(below, errors=_ERRORS, **settings)


_ERRORS = "bytes_or_escapes"


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Undecodable bytes of a name, which Python holds as lone surrogates, as they were; escapes else."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = b""
    for letter in error.object[error.start : error.end]:
        code = ord(letter)
        own = 0xDC80 <= code <= 0xDCFF
        found += bytes([code - 0xDC00]) if own else letter.encode("ascii", "backslashreplace")
    return found, error.end


codecs.register_error(_ERRORS, _bytes_or_escapes)
