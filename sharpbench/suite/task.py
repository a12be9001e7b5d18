"""What is to be done for a subject, what goes on meanwhile, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sharpbench.errors import TimeLimitExceeded, WorkerDied

if TYPE_CHECKING:
    from sharpbench.suite.plan import AnySubject, Plan

__all__ = [
    "Doing",
    "Fatal",
    "Notify",
    "Step",
    "SubjectOutcome",
    "SubjectTask",
    "Watch",
    "failure",
    "nobody_watches",
]

Notify = Callable[[str, int], None]
"""``notify(what is being done, measurements dealt with since the last call)``."""


@dataclass(frozen=True)
class Step:
    """Something that a plug-in does, and that may end the process it is done in."""

    key: str
    """Names it within its subject, the same in every process."""
    what: str
    """In words: "measuring …", "training"."""
    seconds: float | None
    """After which it is given up; None where the suite says nothing."""
    trains: bool = False
    """Whether it is a training, which may take much longer than anything else."""


@dataclass(frozen=True)
class Doing:
    """Where the work on a subject stands: told at the start and the end of each step."""

    step: Step | None
    written: int
    """Records written by this process."""
    trained: bool


Watch = Callable[[Doing], None]


def nobody_watches(doing: Doing) -> None:
    """For work in the process of who asked for it: nobody could end it from outside."""


@dataclass(frozen=True)
class Fatal:
    """Why a step isn't tried again: it ended the processes it was tried in, or had to be ended itself."""

    status: Literal["error", "timeout"]
    reason: str

    def error(self) -> WorkerDied | TimeLimitExceeded:
        """The exception in place of the step."""
        return (TimeLimitExceeded if self.status == "timeout" else WorkerDied)(self.reason)


@dataclass(frozen=True)
class SubjectTask:
    """Everything that is needed to run one subject, wherever that is."""

    plan: Plan
    """What is asked; its list of subjects may be empty."""
    subject: AnySubject
    results: Path
    data: Path
    run: str
    time_costs: bool
    shared_machine: bool
    """Whether other subjects run at the same time: their costs are marked."""
    fatal: Mapping[str, Fatal] = field(default_factory=dict)
    """By key of a step: those that are recorded and left out."""

    def without(self, key: str, fatal: Fatal) -> SubjectTask:
        """The task with one more step that is left out."""
        return dataclasses.replace(self, fatal={**self.fatal, key: fatal})


@dataclass(frozen=True)
class SubjectOutcome:
    """What came of one subject."""

    key: str
    label: str
    trained: bool
    measured: int
    """New records written."""
    problems: tuple[str, ...] = ()
    """Trainings and measurements that failed, by label with the reason."""
    mended: tuple[str, ...] = ()
    """What was damaged in the results folder, and where it was moved to."""
    unproven: int = 0
    """Records and descriptions of an older version, which wrote no checksums."""
    recorded: int | None = None
    """`SubjectFolder.recorded` at the end of the work: what has to be there when the run ends. None of a
    subject whose work failed as a whole."""


def failure(label: str, transformation: str | None, reason: str | None, subject: str) -> str:
    """What failed, after which transformation, on which subject and why."""
    after = f" after {transformation}" if transformation else ""
    return f"{label}{after} on {subject}: {reason}"
