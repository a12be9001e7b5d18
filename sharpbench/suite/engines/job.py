"""A subject on its way through processes that may die."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import NamedTuple

from sharpbench.suite.task import Doing, Fatal, Step, SubjectOutcome, SubjectTask

__all__ = ["Fault", "Job"]

TRIES = 2
"""How often a step may end its process before it is recorded and left out."""


class Fault(NamedTuple):
    """How a process came to its end, or why it had to be brought to it."""

    reason: str
    timeout: bool = False


class Job:
    """A task with what came of it in earlier processes."""

    def __init__(self, task: SubjectTask) -> None:
        self.task = task
        self.deaths: Counter[str] = Counter()
        self.written, self.trained = 0, False
        self._dealt_with = self._told = 0

    def begin(self) -> None:
        """Another process takes it up."""
        self._told = 0

    def new(self, dealt_with: int) -> int:
        """How many of the measurements that its process has just dealt with are new.

        A job that was begun anew tells of what is there already once more.
        """
        self._told += dealt_with
        new = max(self._told - self._dealt_with, 0) if dealt_with else 0
        self._dealt_with += new
        return new

    def ended(self, doing: Doing) -> None:
        """Count what a process had done that is there no more."""
        self.written += doing.written
        self.trained |= doing.trained

    def outcome(self, last: SubjectOutcome) -> SubjectOutcome:
        """That of the last process, with what was written by those before it."""
        return dataclasses.replace(
            last, trained=self.trained or last.trained, measured=self.written + last.measured
        )

    def failed(self, reason: str) -> SubjectOutcome:
        """The outcome without any more records."""
        subject = self.task.subject
        return SubjectOutcome(
            subject.key, subject.label, self.trained, self.written, (f"{subject.label}: {reason}",)
        )

    def died(self, step: Step | None, fault: Fault) -> SubjectOutcome | None:
        """Note that a process ended at ``step``: the outcome if there is no point in going on."""
        key = step.key if step else ""
        self.deaths[key] += 1
        if not fault.timeout and self.deaths[key] < TRIES:
            return None
        if step is None:
            return self.failed(f"{fault.reason}, {TRIES} times")
        if fault.timeout:
            fatal = Fatal("timeout", fault.reason)
        else:
            fatal = Fatal("error", f"{fault.reason} while {step.what}, {TRIES} times")
        if key in self.task.fatal:  # left out, and still it ends its process
            return self.failed(fatal.reason)
        self.task = self.task.without(key, fatal)
        return None
