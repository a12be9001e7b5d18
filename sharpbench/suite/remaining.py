"""What is left to do for one subject: decided here, for a run, for its dry run and after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpbench.results.description import ANSWERED, FOLDER_NAME
from sharpbench.results.provenance import same_run
from sharpbench.results.record import FINAL, Record
from sharpbench.results.store import SubjectFolder
from sharpbench.suite.outline import AnyPlan, SubjectLike

if TYPE_CHECKING:
    from sharpbench.suite.plan import AnySubject, Plan

__all__ = ["QUESTIONS", "Remaining", "left_of", "remaining"]

QUESTIONS = frozenset({"measurement", "problem", "calibration"})
"""Kinds of records that answer a question of the plan."""


@dataclass(frozen=True)
class Remaining:
    """What the results folder lacks of a plan for one subject."""

    training: str | None
    """Why the network is to be trained; None where it needn't be."""
    evaluation: bool
    """Whether the network is to be evaluated."""
    questions: tuple[Any, ...]
    """What is to be measured, in the plan's order, as its `asked` tells it."""
    answered: tuple[Record, ...] = ()
    """The answers there are to the other questions, in the same order."""
    along: tuple[Record, ...] = ()
    """What was measured along training."""

    @property
    def untold(self) -> tuple[Record, ...]:
        """Records of an older version, which didn't say what they are: nothing is measured for them."""
        return tuple(record for record in (*self.answered, *self.along) if not record.title)


def remaining(
    plan: Plan, subject: AnySubject, folder: SubjectFolder, *, run: str | None = None
) -> Remaining:
    """What is missing, or was ended by an error or a time-out and is tried again.

    Reads the folder and nothing else. A training that diverged is an answer: it leaves nothing to do.
    What failed in ``run``, which goes on in another process or on another node, is left to the next one.
    """
    stored = folder.load()
    final = [r for r in stored.records if r.status in FINAL or same_run(r.run, run)]
    questions = {r.plan_key: r for r in final if r.kind in QUESTIONS}
    left = left_of(
        plan,
        subject,
        stored.description,
        answered=questions.keys(),
        evaluated={(r.plan_key, r.name) for r in final},
        along={(r.plan_key, r.epoch) for r in stored.records if r.kind == "trajectory"},
        damage=stored.left_out[0] if stored.left_out else None,
        weights_fault=folder.weights_fault,
        run=run,
    )
    if stored.description is None or stored.description["status"] not in ANSWERED:
        return left
    return dataclasses.replace(
        left,
        answered=tuple(questions[m.key] for m in plan.asked(subject) if m.key in questions),
        along=tuple(r for r in stored.records if r.plan_key in plan.trajectory.keys),
    )


def left_of(
    plan: AnyPlan,
    subject: SubjectLike,
    description: Mapping[str, Any] | None,
    *,
    answered: Collection[str],
    evaluated: Collection[tuple[str, str]],
    along: Collection[tuple[str, int | None]],
    damage: object = None,
    weights_fault: Callable[[], str | None],
    run: str | None = None,
) -> Remaining:
    """What is left to do for a subject of which this much is known, whoever read it.

    ``answered``: the questions that its weights have answered for good; ``evaluated``: question
    and name of the evaluated quantities that are there; ``along``: the questions asked along training
    with the epochs at which there is an answer; ``damage``: what is left out of its folder;
    ``weights_fault``: why there is no file with the weights.
    """
    asked, trains = tuple(plan.asked(subject)), subject.kind == "trained"
    evaluates = subject.kind != "problem"
    if description is None:
        return Remaining(
            (f"again: {damage}" if damage else "new") if trains else None, evaluates, asked
        )
    failed = description["status"] not in ANSWERED
    if description["status"] == "diverged" or (failed and same_run(description["run"], run)):
        return Remaining(None, False, ())
    if failed:
        return Remaining(f"again: {description['reason']}", evaluates, asked)
    questions = tuple(m for m in asked if m.key not in answered)
    # All of them: a crash can have cut off the last lines.
    evaluation = evaluates and not all(one in evaluated for one in plan.evaluated)
    if not trains:
        return Remaining(None, evaluation, questions)
    measured = plan.trajectory.keys <= _measured_along(description, along)
    training = None if measured else "again: to measure along the way"
    if fault := weights_fault():
        training = f"again: {description['key'][:FOLDER_NAME]}/weights.safetensors: {fault}"
    return Remaining(training, evaluation, questions)


def _measured_along(
    description: Mapping[str, Any], there: Collection[tuple[str, int | None]]
) -> set[str]:
    """The questions that were asked along training, and whose answers are all there."""
    epochs = description.get("trajectory_epochs") or {}  # older versions told none
    return {
        question
        for question in description.get("trajectories") or []
        if all((question, epoch) in there for epoch in epochs.get(question, []))
    }
