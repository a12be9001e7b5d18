"""What is left to do for one subject: decided here, for a run, for its dry run and after training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sharpbench.evaluation.classification import FIGURES
from sharpbench.results.description import ANSWERED
from sharpbench.results.keys import figure_key, part_of_figure, trajectory_figure_key
from sharpbench.results.record import FINAL, Record
from sharpbench.results.store import SubjectFolder
from sharpbench.suite.plan import MeasurementPlan, Plan, ProblemPlan, SubjectPlan

__all__ = ["Remaining", "remaining"]


@dataclass(frozen=True)
class Remaining:
    """What the results folder lacks of a plan for one subject."""

    training: str | None
    """Why the network is to be trained; None where it needn't be."""
    evaluation: bool
    """Whether the network is to be evaluated."""
    questions: tuple[MeasurementPlan, ...]
    """What is to be measured, in the plan's order."""
    answered: tuple[Record, ...] = ()
    """The answers there are to the other questions, in the same order."""
    along: tuple[Record, ...] = ()
    """What was measured along training."""

    @property
    def untold(self) -> tuple[Record, ...]:
        """Records of an older version, which didn't say what they are: nothing is measured for them."""
        return tuple(record for record in (*self.answered, *self.along) if not record.title)


def remaining(
    plan: Plan, subject: SubjectPlan | ProblemPlan, folder: SubjectFolder, *, run: str | None = None
) -> Remaining:
    """What is missing, or was ended by an error or a time-out and is tried again.

    Reads the folder and nothing else. A training that diverged is an answer: it leaves nothing to do.
    What failed in ``run``, which goes on in another process, is left to the next one.
    """
    stored = folder.load()
    description = stored.description
    asked, trains = plan.asked(subject), isinstance(subject, SubjectPlan)
    if description is None:
        why = f"again: {stored.left_out[0]}" if stored.left_out else "new"
        return Remaining(why if trains else None, trains, asked)
    failed = description["status"] not in ANSWERED
    if description["status"] == "diverged" or (failed and run and description["run"] == run):
        return Remaining(None, False, ())
    if failed:
        return Remaining(f"again: {description['reason']}", trains, asked)
    weights = description["weights"]
    final = {r.key: r for r in stored.records if r.status in FINAL or r.run == run}
    keys = {m.key: figure_key(subject.key, weights, m.key) for m in asked}
    questions = tuple(m for m in asked if keys[m.key] not in final)
    answered = tuple(final[key] for key in keys.values() if key in final)
    if not trains:
        return Remaining(None, False, questions, answered)
    evaluation = figure_key(subject.key, weights, plan.evaluation_key)
    # All of them: a crash can have cut off the last lines.
    evaluated = all(part_of_figure(evaluation, name) in final for name in FIGURES)
    along = {plan.trajectory.metric_key(metric) for metric in plan.trajectory.metrics}
    measured = _measured_along(description, {record.key for record in stored.records})
    training = None if along <= measured else "again: to measure along the way"
    if fault := folder.weights_fault():
        training = f"again: {folder.path.name}/weights.safetensors: {fault}"
    return Remaining(
        training,
        not evaluated,
        questions,
        answered,
        tuple(record for record in stored.records if record.plan_key in along),
    )


def _measured_along(description: dict[str, Any], there: set[str]) -> set[str]:
    """The questions that were asked along training, and whose answers are all there."""
    epochs = description.get("trajectory_epochs") or {}  # older versions told none
    return {
        question
        for question in description.get("trajectories") or []
        if all(
            trajectory_figure_key(description["key"], question, epoch) in there
            for epoch in epochs.get(question, [])
        )
    }
