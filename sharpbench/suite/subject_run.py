"""One trained subject from plan to records: train or load it, evaluate, measure, transform, measure again."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.cost import Cost
from sharpbench.errors import (
    InputError,
    Meddled,
    TimeLimitExceeded,
    TransformationRefused,
    first_line,
    message_of,
)
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
from sharpbench.invariance.base import verify_promise
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.metrics.base import state_hash, unit_of_task
from sharpbench.metrics.untouched import data_of_splits, same_data, untouched
from sharpbench.results.checksum import Damaged
from sharpbench.results.keys import (
    change_key,
    figure_key,
    part_of_figure,
    trajectory_figure_key,
)
from sharpbench.results.record import Kind, Record
from sharpbench.results.store import SubjectFolder
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits, Subject
from sharpbench.suite.asking import Draft, Run, asked_record, explain, meaning, told_of
from sharpbench.suite.plan import MeasurementPlan, SubjectPlan
from sharpbench.suite.remaining import Remaining, remaining
from sharpbench.suite.task import Notify, Step, SubjectTask, Watch
from sharpbench.training.base import TrainingLog

__all__ = ["SubjectRun"]

_UNDEFINED = "needs classes, and this is a regression"


class SubjectRun(Run):
    """Trains a network unless its weights are there, and asks it the plan's questions."""

    def __init__(
        self,
        task: SubjectTask,
        subject: SubjectPlan,
        folder: SubjectFolder,
        notify: Notify,
        watch: Watch,
    ) -> None:
        super().__init__(task, folder, notify, watch)
        self.subject = subject
        self._splits: Splits | None = None
        self._plain: dict[str, float | None] = {}
        """By question: what each metric said of the network as it is."""
        self._changed: dict[str, tuple[Subject, float] | Exception] = {}
        """By change: the transformed subject and how far its function moved, or why there is none."""

    @property
    def splits(self) -> Splits:
        """The data, loaded on first use: a subject that is complete never touches it."""
        if self._splits is None:
            seed = derive_seed(self.subject.seed, "data")
            with self.step(Step("data", "loading the data", self.plan.training_seconds)):
                splits = self.subject.dataset.load(self.task.data, seed=seed)
            self._splits = splits.to(self.device)
        return self._splits

    def run(self) -> None:
        """Bring weights and records up to the plan."""
        left = remaining(self.plan, self.subject, self.folder, run=self.task.run)
        if left.training is None and self.subject.data is None:
            left = self._on_the_same_data(left)
        if left.training:
            left = self._trained()
        try:
            self._bring_up(left)
        except Damaged as error:
            if (
                self.folder.weights_fault() is None
            ):  # they are there, and not those that were measured
                self.mended.append(self.folder.set_weights_aside(str(error)))
                self._bring_up(self._trained())

    def _trained(self) -> Remaining:
        """Train, if that can be done, and keep what came of it; what is left then."""
        along: list[Record] = []
        try:
            model, log = self._train(along)
            found = self._network(model, log)
            weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        except TimeLimitExceeded as error:
            self._give_up("timeout", message_of(error))
        except Exception as error:
            self._give_up("error", explain(error))
        else:
            if log.diverged:
                self._give_up("diverged", log.diverged, dataclasses.asdict(log))
            else:
                self._keep(found, weights, along)
        return remaining(self.plan, self.subject, self.folder, run=self.task.run)

    def _on_the_same_data(self, left: Remaining) -> Remaining:
        """``left``, or everything where the data, of which only loading tells, are others or not known."""
        description = self.folder.read()
        if description is None or description["status"] != "trained":
            return left
        try:
            found = _data_hash(self.splits)
        except Exception as error:
            self.problems.append(f"{self.label}: {explain(error)}")
            return left
        if found == description.get("data"):
            return left
        known = "have changed" if "data" in description else "were not recorded"
        self.mended.append(self.folder.set_aside(f"the data it was trained and judged on {known}"))
        return remaining(self.plan, self.subject, self.folder, run=self.task.run)

    def _bring_up(self, left: Remaining) -> None:
        """Measure what is missing. Raises Damaged if the stored weights are not the described ones."""
        description = self.folder.read()
        assert description is not None
        if description["status"] == "trained":
            self._measure(description["weights"], left)
        else:
            self.problems.append(f"{self.label}: {description['reason']}")

    # --- training -----------------------------------------------------------------------------

    def _build(self) -> nn.Module:
        seed = derive_seed(self.subject.seeds.initialization, "init")
        splits = self.splits
        with self.step(Step("model", "building the network", self.plan.training_seconds)):
            return self.subject.model.build(splits.input_shape, splits.outputs, seed=seed).to(
                self.device
            )

    def _train(self, along: list[Record]) -> tuple[nn.Module, TrainingLog]:
        """A trained network and how that went; what is measured along the way is added to ``along``."""
        self.notify(f"training {self.label}", 0)
        model = self._build()
        recipe = self.subject.recipe
        trajectory = self.plan.trajectory

        def measure_along(epoch: int, current: nn.Module) -> None:
            if trajectory.metrics and trajectory.due(epoch, recipe.epochs):
                point = self._as_subject(current)
                along.extend(self._trajectory_record(m, point, epoch) for m in trajectory.metrics)

        training = Step("training", "training", self.plan.training_seconds, trains=True)
        with self.step(training), same_data(recipe.label, data_of_splits(self.splits)):
            log = recipe.train(
                model,
                self.splits,
                seed=derive_seed(self.subject.seeds.training, "training"),
                callbacks=[measure_along],
            )
        if not isinstance(log, TrainingLog):
            raise TypeError(
                f"{recipe.label}: train must return a TrainingLog, not {type(log).__name__}"
            )
        return model, log

    def _network(self, model: nn.Module, log: TrainingLog) -> dict[str, Any]:
        """What the description says of a trained network."""
        return {
            **self._description("trained", None),
            "weights": state_hash(model),
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}),
            "data": _data_hash(self.splits),
            "training": dataclasses.asdict(log),
            "shared_machine": self.task.shared_machine,
        }

    def _keep(self, found: dict[str, Any], weights: dict[str, Tensor], along: list[Record]) -> None:
        """Commit weights and description, with what was measured along training."""
        before = self.folder.read()
        done: dict[str, list[int]] = {}
        if before and before["status"] == "trained":
            if before["weights"] == found["weights"]:
                known = before.get("trajectory_epochs") or {}
                done = {q: known.get(q, []) for q in before.get("trajectories") or []}
            elif self.folder.weights_fault() is None:
                self.mended.append(
                    self.folder.set_aside(
                        "training again, to measure along the way, gave other weights: another version of "
                        "torch or another machine"
                    )
                )
        trajectory = self.plan.trajectory
        done |= {trajectory.metric_key(metric): [] for metric in trajectory.metrics}
        for record in along:
            done[record.plan_key].append(record.epoch or 0)
        if along:
            self.write(along)
        told = {"trajectories": sorted(done), "trajectory_epochs": done}
        self.folder.commit({**found, **told}, weights)
        self.trained = True

    def _give_up(self, status: str, reason: str, log: dict[str, Any] | None = None) -> None:
        existing = self.folder.read()
        if existing and existing["status"] == "trained":
            # The trained network stays; only the measurements along training are missing.
            self.problems.append(f"{self.label}: {reason}")
            return
        self.folder.commit({**self._description(status, reason), "training": log}, None)

    def _description(self, status: str, reason: str | None) -> dict[str, Any]:
        return {
            "key": self.subject.key,
            "label": self.label,
            "dataset_label": self.subject.dataset.label,
            "model_label": self.subject.model.label,
            "recipe_label": self.subject.recipe.label,
            "identity": self.subject.identity,
            "unsaid": self.subject.unsaid,
            "status": status,
            "reason": reason,
            "run": self.task.run,
        }

    def _trajectory_record(self, metric: Metric, subject: Subject, epoch: int) -> Record:
        question = self.plan.trajectory.metric_key(metric)
        key = trajectory_figure_key(self.subject.key, question, epoch)
        base = asked_record(key, question, metric, "trajectory", self.task.run)

        def ask(draft: Draft) -> tuple[Measurement, None]:
            draft.add(unit=metric.unit_on(subject))
            with self.limited():
                return metric.checked_measure(subject, seed=self._metric_seed), None

        return self.attempt(metric, dataclasses.replace(base, epoch=epoch), ask)

    # --- evaluating ---------------------------------------------------------------------------

    def _evaluation_records(self, model: nn.Module, weights: str) -> list[Record]:
        """Every figure of `FIGURES`: its value, or the reason why there is none; and the outcomes."""
        key = figure_key(self.subject.key, weights, self.plan.evaluation_key)
        outcomes_key = figure_key(self.subject.key, weights, self.plan.outcomes_key)
        common: dict[str, Any] = {
            "plan_key": self.plan.evaluation_key,
            "version": EVALUATION_VERSION,
            "run": self.task.run,
        }
        bins, task = self.plan.ece_bins, self.splits.task
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
        pictures: dict[Kind, dict[str, Any] | None] = {}
        done: dict[str, Any] = {}
        try:
            seed = derive_seed(self.subject.seed, "evaluation")
            with self.step(Step("evaluation", "evaluating", self.plan.training_seconds)):
                figures = evaluate(model, self.splits, ece_bins=bins, seed=seed)
                if task == "classification":
                    figures |= corrupted_errors(
                        model, self.splits, self.plan.corruptions, seed=seed
                    )
                if task == "classification" and (attack := self.plan.attack):
                    found = adversarial_error(model, self.splits, attack, seed=seed)
                    figures["adversarial_error"] = found
                if self.plan.outcomes:
                    test = self.splits.test_inputs, self.splits.test_targets
                    done["test"] = outcomes(model, *test, task).packed()
                if task == "classification":
                    pictures["decision_map"] = decision_map(model, self.splits)
                    pictures["reliability"] = reliability_diagram(model, self.splits, bins=bins)
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
            else dataclasses.replace(record, status="unsupported", reason=self._undefined(name))
            for name, record in base.items()
        ]
        return [*drawn, *records]  # pictures first: they are there whenever the figures are

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
                key=part_of_figure(figure_key(self.subject.key, weights, question), name),
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

    def _undefined(self, name: str) -> str:
        """Why there is no evaluated figure of this name."""
        if self.splits.task == "classification" and name.startswith("corrupted_error"):
            kinds = [name.removeprefix("corrupted_error_")]
            if name == "corrupted_error":
                kinds = list(self.plan.corruptions)
            reasons = [unsuitable(kind, self.splits.input_shape) for kind in kinds]
            return "; ".join(reason for reason in reasons if reason)
        return _UNDEFINED

    # --- measuring ----------------------------------------------------------------------------

    def _measure(self, weights: str, left: Remaining) -> None:
        """Write the records that are missing; those that failed before are named again."""
        needed = bool(left.questions or left.evaluation or left.untold)
        subject = self._stored_subject(weights) if needed else None
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
        if left.evaluation:
            self.write(self._evaluation_records(subject.model, weights))
        if left.untold:
            self.write([self._completed(record, subject) for record in left.untold])
        for question in left.questions:
            what = f"{question.label} on {self.label}"
            self.notify(what, 0)
            key = figure_key(self.subject.key, weights, question.key)
            self.write([self._measurement_record(key, question, subject)])
            self.notify(what, 1)

    def _stored_subject(self, weights: str) -> Subject | None:
        """The trained network on its data; None, with the reason told, if it can't be built.

        Raises Damaged unless the hash of what is stored is ``weights``.
        """
        stored = self.folder.weights()
        try:
            model = self._build()
            with self.step(Step("weights", "loading its weights", self.plan.training_seconds)):
                misfit = _misfit(model, stored)
                model.to(self.device).eval()
        except Exception as error:
            self.problems.append(f"{self.label}: {explain(error)}")
            return None
        if misfit:
            raise Damaged(f"it is of another network: {misfit}")
        if state_hash(model) != weights:
            raise Damaged("its weights are not the trained ones: their hash is another")
        return self._as_subject(model)

    def _as_subject(self, model: nn.Module) -> Subject:
        splits = self.splits
        return Subject(
            model,
            splits.train_inputs,
            splits.train_targets,
            task=splits.task,
            splits=splits,
            initial=self._initial,
        )

    @cached_property
    def _initial(self) -> nn.Module:
        """The network as training found it, derived anew from the seed; the random state stays."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            return self._build()

    def _measurement_record(self, key: str, question: MeasurementPlan, subject: Subject) -> Record:
        metric = question.metric
        base = asked_record(key, question.key, metric, "measurement", self.task.run)

        def ask(draft: Draft) -> tuple[Measurement, Cost | None]:
            draft.add(unit=metric.unit_on(subject))
            measured = subject
            if question.transformation is not None:
                draft.add(**self._theory(metric, question.transformation))
                measured, change = self._transformed(
                    question.transformation, question.draw, subject
                )
                draft.add(function_change=change)
            with self.limited():
                if question.transformation is None and self.task.time_costs:
                    return self.timed(metric, subject, self._metric_seed)
                # The seed is the same before and after a transformation: common random numbers.
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

    def _transformed(
        self, transformation: Transformation, draw: int, subject: Subject
    ) -> tuple[Subject, float]:
        """The transformed subject in float64 with its promise verified, made once for all metrics.

        With it, how far the logits moved. Raises TransformationRefused, or what the transformation raised.
        """
        key = change_key(transformation, draw)
        if key not in self._changed:
            # Of its own for each network: two recipes of one seed are not changed alike.
            axes = ("transformation", transformation.name, draw, self.subject.key)
            seed = derive_seed(self.subject.seed, *axes)
            before = copy.deepcopy(subject.model).double()
            doing = f"changing the network by {transformation.label}"
            try:
                with self.step(Step(key, doing, self.plan.measurement_seconds)):
                    with untouched(
                        transformation.label, before, data_of_splits(self.splits), state_hash
                    ):
                        after = transformation.transform(before, seed=seed, splits=self.splits)
                    if after.model is before:
                        raise Meddled(
                            f"{transformation.label} answered with the network it was given"
                        )
                    inputs = self.splits.test_inputs[:1024]
                    change = verify_promise(
                        transformation, before, after.model, inputs, points=after.points
                    )
                    moved = subject.with_model(after.model).mapped(after.points)
                self._changed[key] = (moved, change)
            except InputError as error:  # the changed network is none that can be measured
                self._changed[key] = TransformationRefused(message_of(error))
            except Exception as error:
                self._changed[key] = error
        found = self._changed[key]
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def _metric_seed(self) -> int:
        """One for all metrics: those of equal number and split measure the same points."""
        return derive_seed(self.subject.seed, "metric")


def _evaluated(record: Record, figure: Figure) -> Record:
    return dataclasses.replace(
        record,
        value=figure.value,
        standard_error=figure.standard_error,
        samples=figure.samples,
        details={"interval": list(figure.interval)} if figure.interval else {},
    )


def _misfit(model: nn.Module, weights: dict[str, Tensor]) -> str | None:
    """Load ``weights`` into ``model``; why they don't fit, if they don't."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        return first_line(error)
    return None


def _data_hash(splits: Splits) -> str:
    """SHA-256 of everything that is trained on and judged by."""
    digest = hashlib.sha256()
    for name in ("train_inputs", "train_targets", "test_inputs", "test_targets"):
        part = getattr(splits, name).detach().cpu().contiguous()
        digest.update(f"{name}:{part.dtype}:{tuple(part.shape)}".encode())
        digest.update(part.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
