"""One subject from plan to records: train or load it, evaluate, measure, transform, measure again."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpbench.cost import Cost, keep_freed_memory, measure_cost, peak_in_fresh_process
from sharpbench.errors import (
    InputError,
    MetricFailed,
    MetricUnsupported,
    TimeLimitExceeded,
    TransformationRefused,
)
from sharpbench.evaluation.classification import (
    EVALUATION_VERSION,
    FIGURES,
    decision_map,
    evaluate,
    reliability_diagram,
)
from sharpbench.invariance import Transformation
from sharpbench.invariance.base import verify_promise
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.metrics.base import state_hash, torch_dtype
from sharpbench.problems.base import Known
from sharpbench.results.record import FINAL, Kind, Record, content_key
from sharpbench.results.store import ResultsStore, SubjectFolder
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits, Subject
from sharpbench.suite.limits import time_limit
from sharpbench.suite.plan import MeasurementPlan, Plan, ProblemPlan, SubjectPlan

__all__ = ["Notify", "SubjectOutcome", "SubjectTask", "run_subject"]

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


def run_subject(task: SubjectTask, notify: Notify) -> SubjectOutcome:
    """Bring the records of one subject up to the plan; what is there already is left alone."""
    folder = ResultsStore(task.results).subject(task.subject.key)
    with folder.writing(), _settings(task):
        if isinstance(task.subject, ProblemPlan):
            return _ProblemRun(task, task.subject, folder, notify).run()
        return _SubjectRun(task, task.subject, folder, notify).run()


@contextmanager
def _settings(task: SubjectTask) -> Iterator[None]:
    """What decides the order of sums belongs to the suite: the thread count, on CUDA the algorithms."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(task.plan.threads)
    if task.subject.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


class _Run:
    """What trained subjects and problems share: asking a metric, and what comes of it."""

    def __init__(self, task: SubjectTask, folder: SubjectFolder, notify: Notify) -> None:
        self.task, self.folder, self.notify = task, folder, notify
        self.plan, self.label = task.plan, task.subject.label
        self.device = torch.device(task.subject.device)
        self.problems: list[str] = []
        self.written = 0
        self._gradients: dict[tuple[str, int], float] = {}
        self._gradient_seconds: float | None = None

    def _attempt(self, base: Record, ask: Callable[[], tuple[Measurement, Cost | None]]) -> Record:
        """``base`` with the answer, or with the reason why there is none."""
        try:
            with time_limit(self.plan.measurement_seconds, base.label):
                measurement, cost = ask()
        except MetricUnsupported as error:
            record = dataclasses.replace(base, status="unsupported", reason=str(error))
        except MetricFailed as error:
            record = dataclasses.replace(base, status="failed", reason=str(error))
        except TimeLimitExceeded as error:
            record = dataclasses.replace(base, status="timeout", reason=str(error))
        except Exception as error:
            record = dataclasses.replace(base, status="error", reason=_explain(error))
        else:
            record = dataclasses.replace(base, **_answer(measurement), cost=self._cost(cost))
        self._note_problem(record)
        return record

    def _cost(self, cost: Cost | None) -> dict[str, Any] | None:
        if cost is None:
            return None
        return {
            "median_seconds": cost.median_seconds,
            "spread_seconds": cost.spread_seconds,
            "first_seconds": cost.first_seconds,
            "device_seconds": list(cost.device_seconds),
            "seconds": list(cost.seconds),
            "peak_bytes": cost.peak_bytes,
            "device": cost.device,
            "threads": cost.threads,
            "shared_machine": self.task.shared_machine,
            "foreign_cores": cost.foreign_cores,
            "unstable": cost.unstable,
            "flops": cost.flops,
            "gradient_seconds": self._gradient_seconds,
        }

    def _timed(self, metric: Metric, subject: Subject, seed: int) -> tuple[Measurement, Cost]:
        """The measurement with its cost, and the time of one gradient over as many samples."""
        asked = self.plan.cost
        measurement, cost = measure_cost(
            lambda: metric.measure(subject, seed=seed),
            first=lambda: metric.checked_measure(subject, seed=seed),
            repeats=asked.repeats,
            spread=asked.spread,
            count_flops=asked.flops,
            device=self.device,
        )
        self._gradient_seconds = self._time_gradient(metric, subject, measurement.samples)
        return measurement, cost

    def _time_gradient(self, metric: Metric, subject: Subject, samples: int) -> float | None:
        """Median time of the loss's gradient over ``samples`` points, in the metric's precision."""
        dtype = torch_dtype(getattr(metric, "dtype", "float32"))
        key = (str(dtype), samples)
        if key in self._gradients or not 0 < samples <= len(subject.inputs):
            return self._gradients.get(key)
        model = subject.working_model(dtype)
        parameters = [p for p in model.parameters() if p.requires_grad]
        x, y = subject.inputs[:samples].to(dtype), subject.targets[:samples]
        y = y.to(dtype) if y.is_floating_point() else y

        def gradient() -> None:
            for part, target in zip(x.split(1024), y.split(1024), strict=True):
                loss = subject.losses(model(part), target).sum()
                torch.autograd.grad(loss, parameters, materialize_grads=True)

        if parameters:
            _, cost = measure_cost(
                gradient, repeats=max(self.plan.cost.repeats, 3), device=self.device
            )
            self._gradients[key] = cost.median_seconds
        return self._gradients.get(key)

    def _note_problem(self, record: Record) -> None:
        if record.status not in {"ok", "unsupported"}:
            after = f" after {record.transformation}" if record.transformation else ""
            text = f"{record.label}{after} on {self.label}: {record.reason}"
            if record.kind != "calibration" or text not in self.problems:  # of many repetitions one
                self.problems.append(text)

    def _write(self, records: list[Record]) -> None:
        self.folder.append(records)
        self.written += len(records)


class _ProblemRun(_Run):
    """A problem: no training, no evaluation, no transformation; the known answer goes beside."""

    def __init__(
        self, task: SubjectTask, plan: ProblemPlan, folder: SubjectFolder, notify: Notify
    ) -> None:
        super().__init__(task, folder, notify)
        self.problem = plan
        self._questions: dict[tuple[Metric, bool], Record] = {}

    def run(self) -> SubjectOutcome:
        plan = self.problem
        subject = plan.problem.subject(seed=derive_seed(plan.seed, "problem"))
        weights = state_hash(subject.model)
        description = {
            "schema": 1,
            "key": plan.key,
            "label": plan.label,
            "problem_label": plan.problem.label,
            "identity": plan.identity,
            "status": "known",
            "parameters": sum(p.numel() for p in subject.model.parameters()),
            "reason": None,
            "weights": weights,
            "run": self.task.run,
        }
        if self.folder.read() is None:
            self.folder.commit(description, None)
        subject = dataclasses.replace(
            subject,
            model=subject.model.to(self.device),
            inputs=subject.inputs.to(self.device),
            targets=subject.targets.to(self.device),
        )
        existing = {r.key: r for r in self.folder.records()}
        waiting: list[Record] = []
        last_written = time.monotonic()
        for measurement in self.plan.asked(plan):
            key = content_key([plan.key, weights, measurement.key])
            known = existing.get(key)
            if known is not None and known.status in FINAL:
                self._note_problem(known)
            else:
                self.notify(f"{measurement.label} on {plan.label}", 0)
                waiting.append(self._record(key, measurement, subject))
            # A repetition can take less time than putting it on the disk.
            if waiting and (not measurement.draw or time.monotonic() - last_written > 1):
                self._write(waiting)
                waiting, last_written = [], time.monotonic()
            self.notify("", 1)
        if waiting:
            self._write(waiting)
        return SubjectOutcome(plan.key, plan.label, False, self.written, tuple(self.problems))

    def _record(self, key: str, measurement: MeasurementPlan, subject: Subject) -> Record:
        metric, draw = measurement.metric, measurement.draw
        base = self._question(measurement, subject)
        base = dataclasses.replace(base, key=key, plan_key=measurement.key, draw=draw)
        seed = derive_seed(self.problem.seed, "metric")  # one for all: they measure the same points
        if draw:
            seed = derive_seed(seed, "repetition", draw)

        def ask() -> tuple[Measurement, Cost | None]:
            if draw or not self.task.time_costs:
                return metric.checked_measure(subject, seed=seed), None
            measurement, cost = self._timed(metric, subject, seed)
            if self.plan.cost.memory == "process" and self.device.type == "cpu":
                peak = peak_in_fresh_process(_prepare, self.problem, metric, seed)
                cost = dataclasses.replace(cost, peak_bytes=peak)
            return measurement, cost

        record = self._attempt(base, ask)
        if draw:  # curves and grids of every repetition would be most of the file
            kept = {k: v for k, v in record.details.items() if k in _TOLD_OF_REPETITIONS}
            record = dataclasses.replace(record, details=kept)
        return record

    def _question(self, measurement: MeasurementPlan, subject: Subject) -> Record:
        """What the records of a metric share: the question with its known answer."""
        metric, repeated = measurement.metric, measurement.draw > 0
        if (metric, repeated) in self._questions:
            return self._questions[metric, repeated]
        kind: Kind = "calibration" if repeated else "problem"
        base = _base_record("", measurement.key, metric, subject, kind, self.task.run)
        problem = self.problem.problem
        answer = metric.known(problem, subject) or Known()
        if answer.limit is not None and math.isinf(answer.limit):
            base = dataclasses.replace(base, diverges="+∞" if answer.limit > 0 else "−∞")
        elif answer.limit is not None:
            base = dataclasses.replace(base, limit=answer.limit)
        expected, source = answer.expected, "theory"
        if expected is None and repeated:
            expected, source = _of_all_points(metric, subject), "all points"
        base = dataclasses.replace(
            base,
            expected=expected,
            expected_from=None if expected is None else source,
            adversarial=problem.adversarial,
            problem_title=getattr(problem, "title", problem.name),
            trap=problem.trap or None,
            trap_kind=problem.trap_kind,
        )
        self._questions[metric, repeated] = base
        return base


_TOLD_OF_REPETITIONS = frozenset({"method", "why", "checks", "failure_probability"})


def _of_all_points(metric: Metric, subject: Subject) -> float | None:
    """What ``metric`` says of all points in place of some; None if it takes all, or says it by chance."""
    if getattr(metric, "samples", "all") == "all":
        return None
    whole: Any = dataclasses.replace(metric, samples="all")  # type: ignore[call-arg]
    try:
        found: Measurement = whole.measure(subject, seed=0)
    except MetricFailed:
        return None
    by_chance = any(e.source != "points" for e in found.errors)
    return None if by_chance or found.error_bound or not found.converged else found.value


class _SubjectRun(_Run):
    def __init__(
        self, task: SubjectTask, plan: SubjectPlan, folder: SubjectFolder, notify: Notify
    ) -> None:
        super().__init__(task, folder, notify)
        self.subject = plan
        self._splits: Splits | None = None
        self._values: dict[str, float | None] = {}
        """By plan key: what each metric said of the network as it is."""

    @property
    def splits(self) -> Splits:
        """The data, loaded on first use: a subject that is complete never touches it."""
        if self._splits is None:
            seed = derive_seed(self.subject.seed, "data")
            self._splits = self.subject.dataset.load(self.task.data, seed=seed).to(self.device)
        return self._splits

    def run(self) -> SubjectOutcome:
        description = self.folder.read()
        trained = False
        if self._must_train(description):
            try:
                description = self._train(description)
                trained = description["status"] == "trained"
            except TimeLimitExceeded as error:
                description = self._give_up("timeout", str(error))
            except Exception as error:
                description = self._give_up("error", _explain(error))
        assert description is not None
        if description["status"] == "trained":
            self._measure(description)
        else:
            self.problems.append(f"{self.subject.label}: {description['reason']}")
        return SubjectOutcome(
            self.subject.key, self.subject.label, trained, self.written, tuple(self.problems)
        )

    # --- training -----------------------------------------------------------------------------

    def _must_train(self, description: dict[str, Any] | None) -> bool:
        if description is None or description["status"] in {"error", "timeout"}:
            return True
        done = description.get("trajectories", [])
        return description["status"] == "trained" and any(
            self.plan.trajectory.metric_key(m) not in done for m in self.plan.trajectory.metrics
        )

    def _build(self) -> nn.Module:
        seed = derive_seed(self.subject.seed, "init")
        model = self.subject.model.build(self.splits.input_shape, self.splits.outputs, seed=seed)
        return model.to(self.device)

    def _train(self, before: dict[str, Any] | None) -> dict[str, Any]:
        """Train, measure along the way, and commit weights and description."""
        self.notify(f"training {self.subject.label}", 0)
        model = self._build()
        recipe = self.subject.recipe
        trajectory = self.plan.trajectory
        along: list[Record] = []

        def measure_along(epoch: int, current: nn.Module) -> None:
            if trajectory.metrics and trajectory.due(epoch, recipe.epochs):
                point = self._as_subject(current)
                along.extend(self._trajectory_record(m, point, epoch) for m in trajectory.metrics)

        with time_limit(self.plan.training_seconds, "training"):
            log = recipe.train(
                model,
                self.splits,
                seed=derive_seed(self.subject.seed, "training"),
                callbacks=[measure_along],
            )
        if log.diverged:
            return self._give_up("diverged", log.diverged, dataclasses.asdict(log))
        weights = state_hash(model)
        done = set()
        if before and before["status"] == "trained":
            if before["weights"] != weights:
                raise RuntimeError(
                    "training again, to measure along the way, gave other weights than the stored "
                    "ones: another version of torch or another machine? Delete the results folder "
                    f"{self.folder.path} to start over"
                )
            done = set(before.get("trajectories", []))
        if along:
            self._write(along)
        description = {
            **self._description("trained", None),
            "weights": weights,
            "parameters": sum(p.numel() for p in model.parameters()),
            "training": dataclasses.asdict(log),
            "shared_machine": self.task.shared_machine,
            "trajectories": sorted(done | {trajectory.metric_key(m) for m in trajectory.metrics}),
        }
        self.folder.commit(description, model.state_dict())
        return description

    def _give_up(
        self, status: str, reason: str, log: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        existing = self.folder.read()
        if existing and existing["status"] == "trained":
            # The trained network stays; only the measurements along training are missing.
            self.problems.append(f"{self.subject.label}: {reason}")
            return existing
        description = {**self._description(status, reason), "training": log}
        self.folder.commit(description, None)
        return description

    def _description(self, status: str, reason: str | None) -> dict[str, Any]:
        return {
            "schema": 1,
            "key": self.subject.key,
            "label": self.subject.label,
            "dataset_label": self.subject.dataset.label,
            "model_label": self.subject.model.label,
            "recipe_label": self.subject.recipe.label,
            "identity": self.subject.identity,
            "status": status,
            "reason": reason,
            "run": self.task.run,
        }

    def _trajectory_record(self, metric: Metric, subject: Subject, epoch: int) -> Record:
        plan_key = self.plan.trajectory.metric_key(metric)
        key = content_key([self.subject.key, plan_key, "epoch", epoch])
        base = _base_record(key, plan_key, metric, subject, "trajectory", self.task.run)
        base = dataclasses.replace(base, epoch=epoch)
        return self._attempt(base, lambda: (self._ask(metric, subject), None))

    # --- measuring ----------------------------------------------------------------------------

    def _measure(self, description: dict[str, Any]) -> None:
        """Write the records that are missing; those that failed before are named again."""
        weights = description["weights"]
        existing = {r.key: r for r in self.folder.records()}
        evaluation_key = content_key([self.subject.key, weights, self.plan.evaluation_key])
        todo: list[tuple[str, MeasurementPlan]] = []
        for measurement in self.plan.measurements:
            key = content_key([self.subject.key, weights, measurement.key])
            known = existing.get(key)
            if known is not None and known.status in FINAL:
                self._note_problem(known)
                self.notify("", 1)
                if measurement.transformation is None:
                    self._values[measurement.key] = known.value
            else:
                todo.append((key, measurement))
        along = {self.plan.trajectory.metric_key(m) for m in self.plan.trajectory.metrics}
        for record in existing.values():
            if record.plan_key in along and record.run != self.task.run:
                self._note_problem(record)
        # All of them: a crash can have cut off the last lines.
        missing_evaluation = any(f"{evaluation_key}:{name}" not in existing for name in FIGURES)
        if not todo and not missing_evaluation:
            return
        model = self._build()
        model.load_state_dict(self.folder.weights())
        model.to(self.device).eval()
        if missing_evaluation:
            self._write(self._evaluation_records(model, evaluation_key))
        subject = self._as_subject(model)
        changed: dict[str, tuple[Subject, float] | TransformationRefused] = {}
        for key, measurement in todo:
            what = f"{measurement.label} on {self.subject.label}"
            self.notify(what, 0)
            self._write([self._measurement_record(key, measurement, subject, changed)])
            self.notify(what, 1)

    def _as_subject(self, model: nn.Module) -> Subject:
        splits = self.splits
        return Subject(
            model, splits.train_inputs, splits.train_targets, task=splits.task, splits=splits
        )

    def _evaluation_records(self, model: nn.Module, key: str) -> list[Record]:
        seed = derive_seed(self.subject.seed, "evaluation")
        figures = evaluate(model, self.splits, ece_bins=self.plan.ece_bins, seed=seed)
        common: dict[str, Any] = {
            "plan_key": self.plan.evaluation_key,
            "version": EVALUATION_VERSION,
            "run": self.task.run,
        }
        records = [
            Record(
                key=f"{key}:{name}",
                kind="evaluation",
                name=name,
                label=name,
                title=FIGURES[name].title,
                unit=FIGURES[name].unit,
                value=figure.value,
                standard_error=figure.standard_error,
                samples=figure.samples,
                details={"interval": list(figure.interval)} if figure.interval else {},
                parameters={"bins": self.plan.ece_bins} if name.startswith("ece") else {},
                **common,
            )
            for name, figure in figures.items()
        ]
        pictures: dict[Kind, dict[str, Any] | None] = {
            "decision_map": decision_map(model, self.splits),
            "reliability": reliability_diagram(model, self.splits, bins=self.plan.ece_bins),
        }
        drawn = [
            Record(f"{key}:{kind}", kind=kind, name=kind, label=kind, details=details, **common)
            for kind, details in pictures.items()
            if details is not None
        ]
        return [*drawn, *records]  # pictures first: they are there whenever the figures are

    def _measurement_record(
        self,
        key: str,
        measurement: MeasurementPlan,
        subject: Subject,
        changed: dict[str, tuple[Subject, float] | TransformationRefused],
    ) -> Record:
        metric, transformation = measurement.metric, measurement.transformation
        base = _base_record(key, measurement.key, metric, subject, "measurement", self.task.run)
        if transformation is None:
            record = self._attempt(base, lambda: self._ask_and_time(metric, subject))
            self._values[measurement.key] = record.value
            return record
        before = self._values.get(MeasurementPlan(metric).key)
        expected = None if before is None else metric.expected_after(transformation, before)
        base = dataclasses.replace(
            base,
            transformation=transformation.label,
            transformation_name=transformation.name,
            transformation_parameters=transformation.parameters(),
            transformation_kind=transformation.widest_kind,
            preserves=transformation.preserves,
            promised=metric.promises(transformation),
            expected=expected,
            expected_from=None if expected is None else "theory",
            draw=measurement.draw,
        )
        result = self._transformed(transformation, measurement.draw, subject, changed)
        if isinstance(result, TransformationRefused):
            return dataclasses.replace(base, status="unsupported", reason=str(result))
        other, change = result
        base = dataclasses.replace(base, function_change=change)
        return self._attempt(base, lambda: (self._ask(metric, other), None))

    def _transformed(
        self,
        transformation: Transformation,
        draw: int,
        subject: Subject,
        changed: dict[str, tuple[Subject, float] | TransformationRefused],
    ) -> tuple[Subject, float] | TransformationRefused:
        """The transformed subject in float64 with its promise verified, made once for all metrics."""
        key = content_key([transformation.identity(), draw])
        if key not in changed:
            # Of its own for each network: two recipes of one seed are not changed alike.
            axes = ("transformation", transformation.name, draw, self.subject.key)
            seed = derive_seed(self.subject.seed, *axes)
            before = copy.deepcopy(subject.model).double()
            try:
                after = transformation.apply(before, seed=seed, splits=self.splits)
                inputs = self.splits.test_inputs[:1024]
                change = verify_promise(transformation, before, after, inputs)
                changed[key] = (subject.with_model(after).mapped(transformation.points), change)
            except TransformationRefused as refusal:
                changed[key] = refusal
            except InputError as error:  # the changed network is none that can be measured
                changed[key] = TransformationRefused(str(error))
        return changed[key]

    def _ask(self, metric: Metric, subject: Subject) -> Measurement:
        # The seed is the same before and after a transformation: common random numbers.
        return metric.checked_measure(subject, seed=self._metric_seed)

    def _ask_and_time(self, metric: Metric, subject: Subject) -> tuple[Measurement, Cost | None]:
        if not self.task.time_costs:
            return self._ask(metric, subject), None
        return self._timed(metric, subject, self._metric_seed)

    @property
    def _metric_seed(self) -> int:
        """One for all metrics: those of equal number and split measure the same points."""
        return derive_seed(self.subject.seed, "metric")


def _prepare(plan: ProblemPlan, metric: Metric, seed: int) -> Callable[[], object]:
    """The measurement of a problem as a call, with the problem already built."""
    subject = plan.problem.subject(seed=derive_seed(plan.seed, "problem"))
    return lambda: metric.measure(subject, seed=seed)


def _base_record(
    key: str, plan_key: str, metric: Metric, subject: Subject, kind: Kind, run: str
) -> Record:
    """The question: which metric of which subject."""
    return Record(
        key=key,
        plan_key=plan_key,
        kind=kind,
        name=metric.name,
        label=metric.label,
        parameters=metric.parameters(),
        version=metric.version,
        title=getattr(metric, "title", ""),
        unit=metric.unit_on(subject),
        space=getattr(metric, "space", ""),
        run=run,
    )


def _answer(measurement: Measurement) -> dict[str, Any]:
    return {
        "value": measurement.value,
        "standard_error": measurement.standard_error,
        "errors": [dataclasses.asdict(e) for e in measurement.errors],
        "error_bound": measurement.error_bound,
        "converged": measurement.converged,
        "samples": measurement.samples,
        "gradient_equivalents": measurement.work.gradient_equivalents(measurement.samples),
        "work": dict(measurement.work.__dict__),
        "details": measurement.details,
    }


def _explain(error: Exception) -> str:
    """The exception in one line with the place in the code where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
