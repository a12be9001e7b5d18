"""A metric is asked: its answer with what it cost, or the reason why there is none, as a record."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from sharpbench.cost import Cost, measure_cost
from sharpbench.errors import (
    InputError,
    MetricFailed,
    MetricUnsupported,
    TimeLimitExceeded,
    TransformationRefused,
    WorkerDied,
    guarded,
    message_of,
)
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.metrics.base import torch_dtype
from sharpbench.registry import SOURCE_HASH
from sharpbench.results.record import Kind, Record
from sharpbench.results.store import SubjectFolder
from sharpbench.seeds import derive_seed
from sharpbench.subject import Subject
from sharpbench.suite.limits import time_limit
from sharpbench.suite.task import Doing, Notify, Step, SubjectOutcome, SubjectTask, Watch, failure
from sharpbench.surroundings import restored, seeded

__all__ = ["Draft", "Run", "asked_record", "check_answer", "explain", "meaning", "told_of"]

LARGEST_RECORD = 1 << 20
"""Bytes that a figure may take: the largest of sharpbench's own take some 30 thousand."""


class Draft:
    """A record in the making: what is known of it stays, whatever comes of the rest."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def add(self, **fields: Any) -> None:
        """Set fields of the record."""
        self.record = dataclasses.replace(self.record, **fields)


class Run:
    """What the runs of trained subjects and of problems share; nothing that a plug-in does ends it."""

    def __init__(
        self, task: SubjectTask, folder: SubjectFolder, notify: Notify, watch: Watch
    ) -> None:
        self.task, self.folder, self.notify, self.watch = task, folder, notify, watch
        self.plan, self.label = task.plan, task.subject.label
        self.device = torch.device(task.subject.device)
        self.problems: list[str] = []
        self.mended: list[str] = []
        self.unproven = 0
        self.recorded: int | None = None
        self.written, self.trained = 0, False
        self._step: Step | None = None
        self._gradients: dict[tuple[str, int], float] = {}
        self._gradient_seconds: float | None = None

    def outcome(self) -> SubjectOutcome:
        """What came of it so far."""
        return SubjectOutcome(
            self.task.subject.key,
            self.label,
            self.trained,
            self.written,
            tuple(self.problems),
            mended=tuple(self.mended),
            unproven=self.unproven,
            recorded=self.recorded,
        )

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Inside, a plug-in does something: who watches this process knows what, and for how long, and global
        random states begin at a seed of the step.

        Raises, in place of the block, WorkerDied or TimeLimitExceeded for a step that ended processes
        before; inside it, TimeLimitExceeded after its time.
        """
        if fatal := self.task.fatal.get(step.key):
            raise fatal.error()
        around = self._step
        self._at(step)
        # What a plug-in leaves changed behind is brought back before anything else is done.
        left_as_found = restored() if around is None else nullcontext()
        try:
            with guarded(), left_as_found, self._seeded(step), time_limit(step.seconds, step.what):
                yield
        finally:
            self._at(around)

    def _seeded(self, step: Step) -> AbstractContextManager[None]:
        """What draws from a global random state has the same numbers in every run, too; data, on which
        networks are compared, are those of all networks of one data seed."""
        seeds = self.task.subject.seeds
        others = () if step.key == "data" else (seeds.initialization, seeds.training)
        return seeded(derive_seed(seeds.data, "global", step.key, *others), self.device)

    def _at(self, step: Step | None) -> None:
        self._step = step
        self.watch(Doing(step, self.written, self.trained))

    def built_anew(
        self,
        step: Step,
        build: Callable[[], tuple[Subject, str]],
        told: Callable[[Subject | None], dict[str, Any]],
    ) -> tuple[Subject, str] | None:
        """A subject that each run builds, with the hash to which its figures belong; its description is
        brought up to date. None if it can't be built, which is told, and recorded where nothing is known.

        ``told`` gives what the description says beside what all say.
        """

        def described(
            subject: Subject | None, weights: str | None, status: str, reason: str | None
        ) -> dict[str, Any]:
            return {
                "key": self.task.subject.key,
                "label": self.label,
                "identity": self.task.subject.identity,
                "status": status,
                "parameters": subject and sum(p.numel() for p in subject.model.parameters()),
                "reason": reason,
                "weights": weights,
                "run": self.task.run,
                **told(subject),
            }

        known = self.folder.read()
        try:
            with self.step(step):
                subject, weights = build()
        except Exception as error:
            status = "timeout" if isinstance(error, TimeLimitExceeded) else "error"
            reason = message_of(error) if status == "timeout" else explain(error)
            self.problems.append(f"{self.label}: {reason}")
            if known is None or known["status"] != "known":
                self.folder.commit(described(None, None, status, reason), None)
            return None
        found = described(subject, weights, "known", None)
        if known is not None and known["weights"] not in (None, weights):
            self.mended.append(
                self.folder.set_aside(
                    "what it holds is of other weights or data, or of how they were read"
                )
            )
            known = None
        if known is None or known["weights"] != weights:
            self.folder.commit(found, None)
        elif names := {k: v for k, v in found.items() if k.endswith("label") and v != known.get(k)}:
            self.folder.commit({**known, **names}, None)  # this suite calls it otherwise
        return subject, weights

    def attempt(
        self,
        metric: Metric,
        base: Record,
        ask: Callable[[Draft], tuple[Measurement, Cost | None]],
    ) -> Record:
        """``base``, with what ``ask`` adds to it, and ``metric``'s answer or the reason why there is none."""
        draft = Draft(base)
        after = f" after {base.transformation}" if base.transformation else ""
        asking = Step(_step_key(base), f"measuring {base.label}{after}", None)
        try:
            with self.step(asking):
                measurement, cost = ask(draft)
                answered = dataclasses.replace(
                    draft.record, **_answer(measurement), notes=metric.notes(measurement.details)
                )
            _check_storable(answered)
            draft.record = dataclasses.replace(answered, cost=self._cost(cost))
        except (MetricUnsupported, TransformationRefused) as error:
            draft.add(status="unsupported", reason=message_of(error))
        except MetricFailed as error:
            draft.add(status="failed", reason=message_of(error))
        except TimeLimitExceeded as error:
            draft.add(status="timeout", reason=message_of(error))
        except Exception as error:
            draft.add(status="error", reason=explain(error))
        try:
            _check_storable(draft.record)
        except Exception:  # not even what the plug-in says of itself can be stored
            status, reason = draft.record.status, draft.record.reason
            draft.record = dataclasses.replace(base, status=status, reason=reason)
        self.note(draft.record)
        return draft.record

    def limited(self) -> AbstractContextManager[None]:
        """Within the plan's time for a measurement."""
        step = self._step
        assert step is not None  # inside `attempt`
        return self.step(dataclasses.replace(step, seconds=self.plan.measurement_seconds))

    def timed(self, metric: Metric, subject: Subject, seed: int) -> tuple[Measurement, Cost]:
        """The measurement with its cost, and the time of one gradient over as many samples."""
        asked = self.plan.cost
        with metric.untouched(subject):  # its own memory is there before the first call
            measurement, cost = measure_cost(
                lambda: metric.measure(subject, seed=seed),
                first=lambda: metric.answer(subject, seed=seed),
                repeats=asked.repeats,
                spread=asked.spread,
                count_flops=asked.flops,
                device=self.device,
            )
        self._gradient_seconds = self._time_gradient(metric, subject, measurement.samples)
        return measurement, cost

    def note(self, record: Record) -> None:
        """Tell at the end of a record that is neither an answer nor a question out of place."""
        if record.status not in {"ok", "unsupported"}:
            text = failure(record.label, record.transformation, record.reason, self.label)
            if record.kind != "calibration" or text not in self.problems:  # of many repetitions one
                self.problems.append(text)

    def complete(self, record: Record, told: Callable[[], dict[str, Any]]) -> Record:
        """A record that an older version wrote, with what it says today: its name alone if that fails."""
        draft = Draft(record)
        try:
            with guarded():
                draft.add(**told())
            draft.record.to_line()
        except Exception:
            return dataclasses.replace(record, title=record.name.replace("_", " "))
        return draft.record

    def write(self, records: list[Record]) -> None:
        """Put the records on the disk."""
        self.folder.append(records)
        self.written += len(records)

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


def asked_record(key: str, question: str, metric: Metric, kind: Kind, run: str) -> Record:
    """The record of ``metric``, asked and not yet answered."""
    return Record(
        key=key,
        plan_key=question,
        kind=kind,
        name=metric.name,
        label=metric.label,
        parameters=metric.parameters(),
        version=metric.version,
        metric_source=metric.identity().get(SOURCE_HASH),
        run=run,
        **meaning(metric),
    )


def told_of(metric: Metric, record: Record) -> list[str]:
    """What ``metric`` says of a recorded figure; where there is none, there is nothing to be said."""
    return metric.notes(record.details) if record.status == "ok" else []


def meaning(metric: Metric) -> dict[str, Any]:
    """What a record says of the metric itself, whatever was measured; the title is never empty."""
    return {
        "title": _declared(metric, "title") or metric.name.replace("_", " "),
        "space": _declared(metric, "space"),
    }


def _declared(metric: Metric, name: str) -> str:
    """A text that a metric says of itself; empty where it says none."""
    try:
        with guarded():
            text = getattr(metric, name, "")
            text.encode()
    except Exception:
        return ""
    return str(text)


def check_answer(metric: Metric, measurement: Measurement) -> None:
    """Raises as a suite's record would be refused: MetricFailed for an answer that is not JSON or takes more
    than `LARGEST_RECORD`, TypeError for words that are none."""
    told = {**_answer(measurement), "notes": metric.notes(measurement.details)}
    asked = asked_record("figure", "question", metric, "measurement", "run")
    _check_storable(dataclasses.replace(asked, **told))


def _check_storable(record: Record) -> None:
    """Raises MetricFailed for an answer that is not JSON, TypeError for words that are none."""
    words = {"unit_on": [record.unit], "notes": record.notes}
    for name, told in words.items():
        if not isinstance(told, list) or not all(isinstance(text, str) for text in told):
            raise TypeError(f"{name} of {record.name} must answer with text, got {told!r}")
    if not isinstance(record.promised, (bool, NoneType)):
        raise TypeError(f"promises of {record.name} must be True or False, got {record.promised!r}")
    if not isinstance(record.expected, (float, int, NoneType)):
        raise TypeError(f"what {record.name} expects must be a number, got {record.expected!r}")
    try:
        size = len(record.to_line().encode())
    except Exception as error:
        raise MetricFailed(
            f"what {record.name} answers can't be stored as JSON ({message_of(error)}): numbers must be "
            "finite, details lists, dicts, text and numbers"
        ) from error
    if size > LARGEST_RECORD:
        raise MetricFailed(
            f"what {record.name} answers takes {size / 2**20:.3g} MiB, a figure's record at most "
            f"{LARGEST_RECORD // 2**20}: put what sums its details up there, not every number behind it"
        )


def _step_key(record: Record) -> str:
    """The question, at its epoch: a record's key has the weights in it, which may not be there yet."""
    return record.plan_key if record.epoch is None else f"{record.plan_key}:{record.epoch}"


def explain(error: Exception) -> str:
    """The exception in one line with the place in the code where it was raised; what was wrong with a process
    or with the input in its own words."""
    if isinstance(error, (WorkerDied, InputError)):
        return message_of(error)
    ended = error.__cause__  # by what wanted to end the program, it was raised elsewhere
    raised = error if ended is None or isinstance(ended, Exception) else ended
    frames = traceback.extract_tb(raised.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message_of(error)}{where}"


def _answer(measurement: Measurement) -> dict[str, Any]:
    work, samples = measurement.work, measurement.samples
    return {
        "value": measurement.value,
        "standard_error": measurement.standard_error,
        "errors": [dataclasses.asdict(e) for e in measurement.errors],
        "error_bound": measurement.error_bound,
        "converged": measurement.converged,
        "samples": samples,
        "gradient_equivalents": work.gradient_equivalents(samples) if samples else None,
        "work": dict(work.__dict__),
        "details": measurement.details,
    }
