"""The contract of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import ClassVar

from sharpbench.suite.task import Notify, SubjectOutcome, SubjectTask

__all__ = ["Engine"]


class Engine(ABC):
    """Runs tasks somewhere; the results folder, and not the engine, is the truth about what was done.

    Figures are the same for every engine and any number of workers, since every seed is derived and the
    thread count belongs to the suite.
    """

    name: ClassVar[str]
    workers: int
    """How many subjects run at once, at most."""

    @abstractmethod
    def run(
        self, tasks: Sequence[SubjectTask], notify: Notify
    ) -> Generator[SubjectOutcome, None, None]:
        """Run every task and yield each outcome as it comes, in any order, exactly one a task.

        ``notify`` is called from the thread that asks for the next outcome. What is recorded when the
        iterator is closed stays, and no worker writes any more. Raises InputError or OSError for what
        would befall every other task as well: a results folder that can't be written to, a full disk.
        """

    def close(self) -> None:  # noqa: B027
        """Let go of whatever it holds between two runs."""
