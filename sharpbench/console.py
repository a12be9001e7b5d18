"""Where is printed what users read: results on standard output, all else on standard error.

Piped output is never cut or wrapped: a row stays a line. What a log file is kept of stands there without
colours, each line with its time.
"""

from __future__ import annotations

import datetime
import io
import shlex
import sys
from pathlib import Path
from typing import IO, Any, TextIO

from rich.console import Console, ConsoleDimensions
from rich.markup import escape

__all__ = ["aside", "err", "escape", "out", "print_line", "speak", "verbose"]

_UNBOUNDED = 100_000
"""Columns of what is no terminal: none is cut."""


class _Console(Console):
    @property
    def size(self) -> ConsoleDimensions:
        """See `rich.console.Console.size`; without bound where nobody's screen has one."""
        found = super().size
        if self.is_jupyter or _is_terminal(self.file):
            return found
        return ConsoleDimensions(_UNBOUNDED, found.height)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    def print(self, *objects: Any, **how: Any) -> None:
        """See `rich.console.Console.print`; what is silenced is kept in the log file all the same."""
        super().print(*objects, **how)
        if _SPEECH.log is not None and objects:
            text = io.StringIO()
            plain = Console(
                file=text, width=_UNBOUNDED, highlight=False, emoji=False, color_system=None
            )
            plain.print(*objects, **how)
            _log(text.getvalue())


class _Speech:
    """How much is said in this process, and where it is kept."""

    verbose = False
    log: TextIO | None = None


_SPEECH = _Speech()

out = _Console(highlight=False, emoji=False)
"""What was asked for."""
err = _Console(stderr=True, highlight=False, emoji=False)
"""What went wrong: it is said in any case."""
aside = _Console(stderr=True, highlight=False, emoji=False)
"""Progress and notes."""


_UNCHANGED: Any = object()


def speak(
    *, quiet: bool = _UNCHANGED, verbose: bool = _UNCHANGED, log_file: Path | None = _UNCHANGED
) -> None:
    """How much is printed from here on: ``quiet``: only what goes wrong; ``verbose``: every failure and every
    subject. ``log_file`` is appended to, whatever is printed. What isn't given stays as it was."""
    if quiet is not _UNCHANGED:
        out.quiet = aside.quiet = quiet
    if verbose is not _UNCHANGED:
        _SPEECH.verbose = verbose
    if log_file is _UNCHANGED:
        return
    if _SPEECH.log is not None:
        _SPEECH.log.close()
        _SPEECH.log = None
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        _SPEECH.log = log_file.open("a", encoding="utf-8", errors="backslashreplace")
        _log(f"$ sharpbench {shlex.join(sys.argv[1:])}")


def verbose() -> bool:
    """Whether every failure and every subject is told."""
    return _SPEECH.verbose


def print_line(text: str, *, shown: bool = True) -> None:
    """A line of progress, not by way of rich, which takes a millisecond for each of ten thousand; not
    ``shown``: for the log file alone."""
    if shown and not aside.quiet:
        print(text, file=aside.file, flush=True)
    if _SPEECH.log is not None:
        _log(text)


def _is_terminal(file: IO[str]) -> bool:
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # closed, or nothing of the kind
        return False


def _log(text: str) -> None:
    assert _SPEECH.log is not None
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    for line in text.splitlines():
        if line.strip():
            print(f"{now} {line.rstrip()}", file=_SPEECH.log, flush=True)
