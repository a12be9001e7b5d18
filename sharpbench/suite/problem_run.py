"""One problem from plan to records: no training, no transformation; the known answer stands beside."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from sharpbench.cost import Cost, peak_in_fresh_process
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.metrics.base import state_hash
from sharpbench.results.keys import figure_key
from sharpbench.results.record import Kind, Record
from sharpbench.results.store import SubjectFolder
from sharpbench.seeds import derive_seed
from sharpbench.shared import Room, Shared
from sharpbench.subject import Subject
from sharpbench.suite.asking import Draft, Run, asked_record, meaning, told_of
from sharpbench.suite.plan import MeasurementPlan, ProblemPlan
from sharpbench.suite.remaining import remaining
from sharpbench.suite.task import Notify, Step, SubjectTask, Watch
from sharpbench.truth import Known

__all__ = ["ProblemRun"]

_EXACTLY, _NEAR = 1e-9, 1e-6
"""The tolerance with which all points are asked, and how near they have to be, to be taken for a truth."""

_TOLD_OF_REPETITIONS = frozenset(
    {"method", "why", "checks", "failure_probability", "absolute_tolerance"}
)
"""Details that repetitions keep: curves and grids of all of them would be most of the file."""


class ProblemRun(Run):
    """Asks a problem its own questions, some of them many times with random numbers of their own."""

    def __init__(
        self,
        task: SubjectTask,
        problem: ProblemPlan,
        folder: SubjectFolder,
        notify: Notify,
        watch: Watch,
    ) -> None:
        super().__init__(task, folder, notify, watch)
        self.problem = problem
        self._known: dict[tuple[str, bool], dict[str, Any]] = {}
        self._facts = Shared(Room())

    def run(self) -> None:
        """Write the records that are missing."""
        building = Step("problem", "building it", self.plan.measurement_seconds)
        if (found := self.built_anew(building, self._built, self._told)) is None:
            return
        subject, weights = found
        left = remaining(self.plan, self.problem, self.folder, run=self.task.run)
        for record in left.answered:
            self.note(record)
            self.notify("", 1)
        if left.untold:
            metrics = {question.key: question.metric for question in self.problem.measurements}
            self.write(
                [
                    self._completed(record, metrics[record.plan_key], subject)
                    for record in left.untold
                ]
            )
        waiting: list[Record] = []
        last_written = time.monotonic()
        for question in left.questions:
            self.notify(f"{question.label} on {self.label}", 0)
            key = figure_key(self.problem.key, weights, question.key)
            waiting.append(self._record(key, question, subject))
            # A repetition can take less time than putting it on the disk.
            if not question.draw or time.monotonic() - last_written > 1:
                self.write(waiting)
                waiting, last_written = [], time.monotonic()
            self.notify("", 1)
        if waiting:
            self.write(waiting)

    def _built(self) -> tuple[Subject, str]:
        seed = derive_seed(self.problem.seed, "problem")
        subject = self.problem.problem.subject(seed=seed)
        if not isinstance(subject, Subject):
            raise TypeError(f"a problem's subject must be a Subject, got {type(subject)}")
        weights = state_hash(subject.model)
        subject = dataclasses.replace(
            subject,
            model=subject.model.to(self.device),
            inputs=subject.inputs.to(self.device),
            targets=subject.targets.to(self.device),
        )
        return subject, weights

    def _told(self, subject: Subject | None) -> dict[str, Any]:
        return {"problem_label": self.problem.problem.label}

    def _record(self, key: str, question: MeasurementPlan, subject: Subject) -> Record:
        metric, draw = question.metric, question.draw
        seed = derive_seed(self.problem.seed, "metric")  # one for all: they measure the same points
        if draw:
            seed = derive_seed(seed, "repetition", draw)

        def ask(draft: Draft) -> tuple[Measurement, Cost | None]:
            with self.limited():
                draft.add(**self._truth(metric, subject, repeated=draw > 0))
                if draw or not self.task.time_costs:
                    with subject.sharing(self._facts):
                        return metric.checked_measure(subject, seed=seed), None
                measurement, cost = self.timed(metric, subject, seed)
                if self.plan.cost.memory == "process" and self.device.type == "cpu":
                    peak = peak_in_fresh_process(_prepare, self.problem, metric, seed)
                    cost = dataclasses.replace(cost, peak_bytes=peak)
                return measurement, cost

        kind: Kind = "calibration" if draw else "problem"
        base = asked_record(key, question.key, metric, kind, self.task.run)
        record = self.attempt(metric, dataclasses.replace(base, draw=draw), ask)
        if draw:
            kept = {k: v for k, v in record.details.items() if k in _TOLD_OF_REPETITIONS}
            record = dataclasses.replace(record, details=kept)
            record = dataclasses.replace(record, notes=told_of(metric, record))
        return record

    def _truth(self, metric: Metric, subject: Subject, *, repeated: bool) -> dict[str, Any]:
        """What is known of the answer, found once for all repetitions, as fields of a record."""
        key = (MeasurementPlan(metric).key, repeated)
        if key in self._known:
            return self._known[key]
        problem = self.problem.problem
        answer = metric.known(problem, subject) or Known()
        limit = answer.limit
        infinite = limit is not None and math.isinf(limit)
        expected, source = answer.expected, "theory"
        if repeated and answer.computed is not None:
            expected, source = answer.computed, f"theory: {answer.computed_is}"
        elif expected is None and repeated:
            expected, source = _of_all_points(metric, subject), "all points"
        self._known[key] = {
            "unit": metric.unit_on(subject),
            "limit": None if infinite else limit,
            "diverges": ("+∞" if limit > 0 else "−∞") if limit is not None and infinite else None,
            "expected": expected,
            "expected_from": None if expected is None else source,
            **self._meaning(),
        }
        return self._known[key]

    def _meaning(self) -> dict[str, Any]:
        problem = self.problem.problem
        return {
            "adversarial": problem.adversarial,
            "problem_title": getattr(problem, "title", problem.name),
            "trap": problem.trap or None,
            "trap_kind": problem.trap_kind,
        }

    def _completed(self, record: Record, metric: Metric, subject: Subject) -> Record:
        """A record of an older version with what it lacks; what was expected stays as it was found."""
        return self.complete(
            record,
            lambda: {
                **meaning(metric),
                "unit": metric.unit_on(subject),
                "notes": told_of(metric, record),
                **self._meaning(),
            },
        )


def _of_all_points(metric: Metric, subject: Subject) -> float | None:
    """What ``metric`` says of all points in place of some; None if it takes all, or says it by chance."""
    if getattr(metric, "samples", "all") == "all":
        return None
    changed: dict[str, Any] = {"samples": "all"}
    if hasattr(
        metric, "tolerance"
    ):  # an iteration that stops early would be another figure's truth
        changed["tolerance"] = _EXACTLY
    whole = dataclasses.replace(metric, **changed)
    try:
        found: Measurement = whole.measure(subject, seed=0)
    except MetricFailed:
        return None
    by_chance = any(e.source != "points" for e in found.errors)
    near = (found.error_bound or 0.0) <= _NEAR * abs(found.value)
    return found.value if near and not by_chance else None


def _prepare(plan: ProblemPlan, metric: Metric, seed: int) -> Callable[[], object]:
    """The measurement of a problem as a call, with the problem already built."""
    subject = plan.problem.subject(seed=derive_seed(plan.seed, "problem"))
    return lambda: metric.measure(subject, seed=seed)
