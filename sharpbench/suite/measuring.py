"""What is asked of a network, however it came about: evaluated, measured, transformed and measured again."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.cost import Cost
from sharpbench.errors import InputError, TransformationRefused, message_of
from sharpbench.evaluation.classification import (
    EVALUATION_VERSION,
    FIGURES,
    Figure,
    decision_map,
    evaluate,
    reliability_diagram,
)
from sharpbench.evaluation.outcomes import OUTCOMES_VERSION, outcomes
from sharpbench.evaluation.shift import (
    SHIFT_VERSION,
    adversarial_error,
    corrupted_errors,
    meaning_of_corrupted,
    unsuitable,
)
from sharpbench.invariance import Transformation
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.metrics.base import unit_of_task
from sharpbench.outputs import Decisions
from sharpbench.results.keys import change_key, figure_key, part_of_figure
from sharpbench.results.record import Kind, Record
from sharpbench.results.store import SubjectFolder
from sharpbench.seeds import derive_seed
from sharpbench.shared import Room, Shared
from sharpbench.subject import Loss, Splits, Subject, Task
from sharpbench.suite.asking import Draft, Run, asked_record, explain, meaning, told_of
from sharpbench.suite.changing import Changed, changed
from sharpbench.suite.plan import MeasurementPlan
from sharpbench.suite.remaining import Remaining
from sharpbench.suite.task import Notify, Step, SubjectTask, Watch

__all__ = ["Measuring", "hash_of_tensors"]

_UNDEFINED = "needs classes, and this is a regression"


class Measuring(Run, ABC):
    """Asks a network the plan's questions; subclasses say where it and its data come from."""

    def __init__(
        self, task: SubjectTask, folder: SubjectFolder, notify: Notify, watch: Watch
    ) -> None:
        super().__init__(task, folder, notify, watch)
        self.key, self.seed = task.subject.key, task.subject.seeds.data
        self._plain: dict[str, float | None] = {}
        """By question: what each metric said of the network as it is."""
        self._changed: dict[str, Changed | Exception] = {}
        """By change: the transformed subject, or why there is none."""
        self._facts: dict[str, Shared] = {}
        """By change: what metrics of the network find alike."""

    @property
    @abstractmethod
    def judged(self) -> Splits | str:
        """The data by which the network is judged, or why there are none."""

    @property
    @abstractmethod
    def loss_task(self) -> Task:
        """What the network was made for."""

    @property
    def decisions(self) -> Decisions | None:
        """What the network decides; None in a regression."""
        return Decisions() if self.loss_task == "classification" else None

    @property
    def own_loss(self) -> Loss | None:
        """The loss of a regression, where it is not half the squared error."""
        return None

    @property
    def takes_tensors(self) -> bool:
        """Whether the network is given its inputs as one tensor, in which they can be corrupted."""
        return True

    # --- measuring ----------------------------------------------------------------------------

    def _ask(self, weights: str, left: Remaining, found: Callable[[], Subject | None]) -> None:
        """Write the records that are missing; those that failed before are named again.

        ``found`` gives the network on its data; it is asked only where something is left to do.
        """
        # Of lines that were damaged nobody knows which they were, and a picture is not missed by its name.
        evaluates = left.evaluation or bool(self.mended)
        needed = bool(left.questions or evaluates or left.untold)
        subject = found() if needed else None
        for record in left.answered:
            self.note(record)
            self.notify("", 1)
            if record.transformation is None:
                self._plain[record.plan_key] = record.value
        for record in left.along:
            if record.run != self.task.run:
                self.note(record)
        if subject is None:
            return
        if evaluates:
            self.write(self._evaluation_records(subject, weights))
        if left.untold:
            self.write([self._completed(record, subject) for record in left.untold])
        room = Room()
        self._facts = defaultdict(lambda: Shared(room))
        for question in left.questions:
            what = f"{question.label} on {self.label}"
            self.notify(what, 0)
            key = figure_key(self.key, weights, question.key)
            self.write([self._measurement_record(key, question, subject)])
            self.notify(what, 1)
        self._facts = {}

    def _measurement_record(self, key: str, question: MeasurementPlan, subject: Subject) -> Record:
        metric = question.metric
        base = asked_record(key, question.key, metric, "measurement", self.task.run)

        def ask(draft: Draft) -> tuple[Measurement, Cost | None]:
            draft.add(unit=metric.unit_on(subject))
            measured, change = subject, ""
            if question.transformation is not None:
                draft.add(**self._theory(metric, question.transformation))
                after = self._transformed(question.transformation, question.draw, subject)
                measured = after.subject
                change = change_key(question.transformation, question.draw)
                draft.add(function_change=after.function_change, left_alone=after.left or None)
            with self.limited():
                if question.transformation is None and self.task.time_costs:
                    return self.timed(metric, subject, self._metric_seed)
                # The seed is the same before and after a transformation: common random numbers.
                with measured.sharing(self._facts[change]):
                    return metric.checked_measure(measured, seed=self._metric_seed), None

        if question.transformation is not None:
            base = dataclasses.replace(
                base,
                transformation=question.transformation.label,
                transformation_name=question.transformation.name,
                transformation_parameters=question.transformation.parameters(),
                draw=question.draw,
            )
        record = self.attempt(question.metric, base, ask)
        if question.transformation is None:
            self._plain[question.key] = record.value
        return record

    def _completed(self, record: Record, subject: Subject) -> Record:
        """A record of an older version with what it lacks: what it is, and what theory says."""
        asked = {question.key: question for question in self.plan.measurements}
        along = {self.plan.trajectory.metric_key(m): m for m in self.plan.trajectory.metrics}

        def told() -> dict[str, Any]:
            question = asked.get(record.plan_key)
            metric = question.metric if question else along[record.plan_key]
            found = {**meaning(metric), "unit": metric.unit_on(subject)}
            found["notes"] = told_of(metric, record)
            if question and question.transformation:
                found |= self._theory(metric, question.transformation)
            return found

        return self.complete(record, told)

    def _theory(self, metric: Metric, transformation: Transformation) -> dict[str, Any]:
        """What the transformation is and what theory says of the figure after it, as fields of a record."""
        before = self._plain.get(MeasurementPlan(metric).key)
        expected = None if before is None else metric.expected_after(transformation, before)
        return {
            "transformation_kind": transformation.widest_kind,
            "preserves": transformation.preserves,
            "promised": metric.promises(transformation),
            "expected": expected,
            "expected_from": None if expected is None else "theory",
        }

    def _transformed(self, transformation: Transformation, draw: int, subject: Subject) -> Changed:
        """The transformed subject in float64 with its promise verified, made once for all metrics.

        Raises TransformationRefused, or what the transformation raised.
        """
        key = change_key(transformation, draw)
        if key not in self._changed:
            doing = f"changing the network by {transformation.label}"
            try:
                with self.step(Step(key, doing, self.plan.measurement_seconds)):
                    own = self._change_seed(transformation.name, draw)
                    found = changed(subject, transformation, seed=own)
                self._changed[key] = found
            except InputError as error:  # the changed network is none that can be measured
                self._changed[key] = TransformationRefused(message_of(error))
            except Exception as error:
                self._changed[key] = error
        known = self._changed[key]
        if isinstance(known, Exception):
            raise known
        return known

    def _change_seed(self, name: str, draw: int) -> int:
        """Of its own for each network: two recipes of one seed are not changed alike."""
        return derive_seed(self.seed, "transformation", name, draw, self.key)

    @property
    def _metric_seed(self) -> int:
        """One for all metrics: those of equal number and split measure the same points."""
        return derive_seed(self.seed, "metric")

    # --- evaluating ---------------------------------------------------------------------------

    def _evaluation_records(self, subject: Subject, weights: str) -> list[Record]:
        """Every figure of `FIGURES`: its value, or the reason why there is none; and the outcomes."""
        key = figure_key(self.key, weights, self.plan.evaluation_key)
        outcomes_key = figure_key(self.key, weights, self.plan.outcomes_key)
        common: dict[str, Any] = {
            "plan_key": self.plan.evaluation_key,
            "version": EVALUATION_VERSION,
            "run": self.task.run,
        }
        bins, judged = self.plan.ece_bins, self.judged
        decisions = None if isinstance(judged, str) else self.decisions
        task: Task = self.loss_task if decisions is None else "classification"
        by_sample = decisions == Decisions()
        base = {
            name: Record(
                key=part_of_figure(key, name),
                kind="evaluation",
                name=name,
                label=name,
                title=meaning.title,
                unit=unit_of_task(meaning.unit, task),
                parameters={"bins": bins} if name.startswith("ece") else {},
                **common,
            )
            for name, meaning in FIGURES.items()
        }
        if self.plan.outcomes:
            base["test"] = Record(
                key=part_of_figure(outcomes_key, "test"),
                plan_key=self.plan.outcomes_key,
                kind="outcomes",
                name="test",
                label="test outcomes",
                title="outcomes on test data",
                version=OUTCOMES_VERSION,
                run=self.task.run,
            )
        base |= self._shift_records(weights)
        if isinstance(judged, str):
            return [
                dataclasses.replace(record, status="unsupported", reason=judged)
                for record in base.values()
            ]
        splits, model = judged, self._judged_model(subject)
        pictures: dict[Kind, dict[str, Any] | None] = {}
        done: dict[str, Any] = {}
        try:
            seed = derive_seed(self.seed, "evaluation")
            with self.step(Step("evaluation", "evaluating", self.plan.training_seconds)):
                own: dict[str, Any] = {"decisions": decisions}
                figures = evaluate(
                    model, splits, **own, loss=self.own_loss, ece_bins=bins, seed=seed
                )
                if by_sample and self.takes_tensors:
                    figures |= corrupted_errors(model, splits, self.plan.corruptions, seed=seed)
                    if attack := self.plan.attack:
                        found = adversarial_error(model, splits, attack, seed=seed)
                        figures["adversarial_error"] = found
                if self.plan.outcomes and (by_sample or decisions is None):
                    test = splits.test_inputs, splits.test_targets
                    done["test"] = outcomes(model, *test, task, self.own_loss).packed()
                if by_sample:
                    pictures["decision_map"] = decision_map(model, splits)
                if decisions is not None:
                    pictures["reliability"] = reliability_diagram(model, splits, **own, bins=bins)
        except Exception as error:
            self.problems.append(f"evaluation of {self.label}: {explain(error)}")
            return [
                dataclasses.replace(record, status="error", reason=explain(error))
                for record in base.values()
            ]
        drawn = [
            Record(
                part_of_figure(key, kind),
                kind=kind,
                name=kind,
                label=kind,
                details=details,
                **common,
            )
            for kind, details in pictures.items()
            if details is not None
        ]
        records = [
            dataclasses.replace(record, details=done[name], samples=done[name]["samples"])
            if name in done
            else _evaluated(record, figures[name])
            if name in figures
            else dataclasses.replace(
                record, status="unsupported", reason=self._undefined(name, splits, decisions)
            )
            for name, record in base.items()
        ]
        return [*drawn, *records]  # pictures first: they are there whenever the figures are

    def _judged_model(self, subject: Subject) -> nn.Module:
        """The network as it is called with the inputs of `judged`."""
        return subject.model

    def _shift_records(self, weights: str) -> dict[str, Record]:
        """The errors away from the test data that the plan asks for, without their values."""
        plan, found = self.plan, {}
        asked = []
        if plan.corruptions:
            told = {"corruptions": list(plan.corruptions)}
            meanings = meaning_of_corrupted(plan.corruptions)
            asked += [(plan.corruption_key, n, m.title, told) for n, m in meanings.items()]
        if plan.attack:
            asked.append(
                (
                    plan.attack_key,
                    "adversarial_error",
                    "adversarial error",
                    plan.attack.parameters(),
                )
            )
        for question, name, title, parameters in asked:
            found[name] = Record(
                key=part_of_figure(figure_key(self.key, weights, question), name),
                plan_key=question,
                kind="evaluation",
                name=name,
                label=name,
                title=title,
                parameters=parameters,
                version=SHIFT_VERSION,
                run=self.task.run,
            )
        return found

    def _undefined(self, name: str, splits: Splits, decisions: Decisions | None) -> str:
        """Why there is no evaluated figure of this name."""
        if decisions is None:
            return _UNDEFINED
        if decisions != Decisions():
            return (
                f"needs one class a sample, and the network decides on each {decisions.each} of it"
            )
        if not self.takes_tensors:
            return "the network is given batches, not one tensor that could be changed"
        if name.startswith("corrupted_error"):
            kinds = [name.removeprefix("corrupted_error_")]
            if name == "corrupted_error":
                kinds = list(self.plan.corruptions)
            reasons = [unsuitable(kind, splits.input_shape) for kind in kinds]
            return "; ".join(reason for reason in reasons if reason)
        return _UNDEFINED


def _evaluated(record: Record, figure: Figure) -> Record:
    return dataclasses.replace(
        record,
        value=figure.value,
        standard_error=figure.standard_error,
        samples=figure.samples,
        details={"interval": list(figure.interval)} if figure.interval else {},
    )


def hash_of_tensors(parts: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of named tensors: of their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, part in parts:
        held = part.detach().cpu().contiguous()
        digest.update(f"{name}:{held.dtype}:{tuple(held.shape)}".encode())
        digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
