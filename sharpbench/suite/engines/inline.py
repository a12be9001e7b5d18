"""One subject after another in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from sharpbench.suite.engines.base import Engine
from sharpbench.suite.task import Notify, SubjectOutcome, SubjectTask

__all__ = ["InlineEngine"]


class InlineEngine(Engine):
    """For a debugger: what ends the process ends the run, and C code can't be stopped by a limit."""

    name = "inline"
    workers = 1

    def run(
        self, tasks: Sequence[SubjectTask], notify: Notify
    ) -> Generator[SubjectOutcome, None, None]:
        """See `Engine.run`."""
        from sharpbench.suite.run import run_subject  # not above: nothing may be left to do

        for task in tasks:
            yield run_subject(task, notify)
