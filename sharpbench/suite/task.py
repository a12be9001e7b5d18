"""What a worker process is given to do, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sharpbench.suite.plan import Plan, ProblemPlan, SubjectPlan

__all__ = ["Notify", "SubjectOutcome", "SubjectTask"]

Notify = Callable[[str, int], None]
"""``notify(what is being done, measurements dealt with since the last call)``."""


@dataclass(frozen=True)
class SubjectTask:
    """Everything a worker process needs to run one subject."""

    plan: Plan
    subject: SubjectPlan | ProblemPlan
    results: Path
    data: Path
    run: str
    time_costs: bool
    shared_machine: bool
    """Whether other subjects run at the same time: their costs are marked."""


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
