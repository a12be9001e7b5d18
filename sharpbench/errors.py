"""The errors that sharpbench raises on purpose; each message says what was wrong and what would be right."""

from __future__ import annotations

import difflib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "DataUnavailable",
    "InputError",
    "InputWarning",
    "LeftOutWarning",
    "Meddled",
    "MetricFailed",
    "MetricUnsupported",
    "NotFinite",
    "PluginWarning",
    "Terminated",
    "TimeLimitExceeded",
    "TransformationRefused",
    "WorkerDied",
    "first_line",
    "guarded",
    "in_words",
    "message_of",
    "nearest_names",
    "no_file",
    "no_file_near",
    "own_interrupts",
    "shortened",
]


_LONGEST_MESSAGE = 4000
"""Characters of an exception's message that are kept."""


class InputError(ValueError):
    """What the user wrote (suite file, option, parameter) is wrong. The CLI exits with 2."""


class DataUnavailable(InputError):
    """A dataset's files are not on this machine, or are not the files they claim to be."""


class MetricFailed(RuntimeError):
    """A metric could not answer; the message is the reason that the report will show."""


class NotFinite(MetricFailed, ValueError):
    """A figure came out as NaN or infinite: that is no answer."""


class MetricUnsupported(MetricFailed):
    """A metric is not defined for this kind of subject at all; nothing went wrong."""


class TransformationRefused(RuntimeError):
    """A transformation does not apply to a model, or broke its promise; the message says why."""


class InputWarning(UserWarning):
    """What the user gave was taken in one of several ways; the message says in which."""


class PluginWarning(UserWarning):
    """Another package's plug-in is not used, and a built-in one of its name is."""


class LeftOutWarning(RuntimeWarning):
    """Something stored is damaged, or of another place, and is not believed."""


class TimeLimitExceeded(RuntimeError):
    """A training or a measurement took longer than the suite allows."""


class Meddled(MetricFailed):
    """A plug-in changed what is not its own; it was brought back."""


class Terminated(BaseException):
    """The system asks this process to end, by the signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class WorkerDied(RuntimeError):
    """What a plug-in did ended the process that did it; the message says how."""


def message_of(error: BaseException) -> str:
    """What an exception says, as text that can be printed and stored, whatever made it."""
    try:
        text = str(error)
    except BaseException as second:
        text = f"(its message can't be read: {type(second).__name__})"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " …"


def first_line(error: BaseException) -> str:
    """An exception in one line; of one from a worker process of torch the line that it had there."""
    lines = message_of(error).strip().splitlines() or [""]
    if len(lines) > 2 and "Original Traceback" in lines[1]:
        return lines[-1]
    text = lines[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def in_words(error: Exception) -> str:
    """Why a shortcut was left, in one line: our own reason, or the kind and first line of another error."""
    reason = message_of(error).strip().partition("\n")[0]
    return reason if isinstance(error, MetricFailed) else first_line(error)


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, a plug-in works: what it raises to end the program is an error like any other of its faults.

    Only the user's own Ctrl-C and a signal that ends the program go through, also where the plug-in
    swallows them. A child that the plug-in forked ends here: it would go on as a second of this process.
    """
    with _alone(), own_interrupts() as interrupted:
        try:
            yield
        except Exception:
            if interrupted():
                raise KeyboardInterrupt from None
            raise
        except BaseException as error:
            if interrupted() or isinstance(error, Terminated):
                raise
            if isinstance(error, SystemExit):
                raise RuntimeError(f"it called sys.exit({error.code!r})") from error
            raise RuntimeError(f"it raised {first_line(error)}") from error
        if interrupted():
            raise KeyboardInterrupt


@contextmanager
def _alone() -> Iterator[None]:
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(1)


@contextmanager
def own_interrupts() -> Iterator[Callable[[], bool]]:
    """Whether the user pressed Ctrl-C inside: an exception alone doesn't tell who raised it."""
    pressed = False
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: pressed
        return
    handler = before

    def note(number: int, frame: FrameType | None) -> Any:
        nonlocal pressed
        pressed = True
        return handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def nearest_names(name: str, known: Iterable[str], *, most: int | None = None) -> str:
    """A sentence that points from a misspelt name to the valid ones nearest to it, or else to all; to none of
    more than ``most``."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    if most is not None and not 0 < len(known) <= most:
        return ""
    return f"Known names: {', '.join(known) or 'none'}."


def no_file(path: str | os.PathLike[str]) -> str | None:
    """Why there is no file to read at ``path``, in a few words; None where there is one.

    Only a regular file is one: to read a FIFO or a device may never end.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        leads = f" (a link to {os.readlink(path)!r})" if os.path.islink(path) else ""
        return f"there is no file {str(path)!r}{leads}"
    except (OSError, ValueError) as error:  # a circle of links, a name too long, a NUL in it
        return f"{shortened(os.fspath(path))} can't be opened: {getattr(error, 'strerror', error)}"
    if stat.S_ISREG(mode):
        return None
    known = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket"}
    kind = next((name for test, name in known.items() if test(mode)), "device")
    return f"{str(path)!r} is a {kind}, not a file"


def no_file_near(path: str | os.PathLike[str]) -> str | None:
    """`no_file`, with the names of files in its folder that are nearest to one that isn't there."""
    fault = no_file(path)
    if fault is None or not fault.startswith("there is no file"):
        return fault
    folder, name = os.path.split(os.fspath(path))
    try:
        near = nearest_names(name, os.listdir(folder or "."), most=0)
    except OSError:
        return f"{fault}: there is no folder {folder!r}"
    return f"{fault}. {near}" if near else fault


def shortened(value: object, most: int = 80) -> str:
    """``repr(value)`` in at most so many characters, also where Python refuses to write it."""
    try:
        text = repr(value)
    except Exception:
        if isinstance(value, int):  # of thousands of digits
            return f"an integer of {value.bit_length():,} bits"
        return f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"
