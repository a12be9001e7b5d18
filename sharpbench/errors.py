"""The errors that sharpbench raises on purpose; each message says what was wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "DataUnavailable",
    "InputError",
    "LeftOutWarning",
    "MetricFailed",
    "MetricUnsupported",
    "NotFinite",
    "PluginWarning",
    "TimeLimitExceeded",
    "TransformationRefused",
    "WorkerDied",
    "exits_as_errors",
    "first_line",
    "in_words",
    "nearest_names",
]


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


class PluginWarning(UserWarning):
    """Another package's plug-in is not used, and a built-in one of its name is."""


class LeftOutWarning(RuntimeWarning):
    """Something stored is damaged, or of another place, and is not believed."""


class TimeLimitExceeded(RuntimeError):
    """A training or a measurement took longer than the suite allows."""


class WorkerDied(RuntimeError):
    """What a plug-in did ended the process that did it; the message says how."""


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def in_words(error: Exception) -> str:
    """Why a shortcut was left, in one line: our own reason, or the kind and first line of another error."""
    reason = str(error).strip().partition("\n")[0]
    return reason if isinstance(error, MetricFailed) else first_line(error)


@contextmanager
def exits_as_errors() -> Iterator[None]:
    """Inside, a plug-in that wants to end the program raises a RuntimeError like any other fault of it."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error


def nearest_names(name: str, known: Iterable[str]) -> str:
    """A sentence that points from a misspelt name to the valid ones nearest to it."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    return f"Known names: {', '.join(known) or 'none'}."
