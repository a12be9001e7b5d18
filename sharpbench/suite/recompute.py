"""A share of the stored figures measured again from the stored weights, and their digits compared."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sharpbench.datasets import datasets
from sharpbench.errors import InputError
from sharpbench.evaluation.classification import EVALUATION_VERSION, FIGURES
from sharpbench.invariance import transformations
from sharpbench.metrics import Metric, metrics
from sharpbench.models import models
from sharpbench.problems import problems
from sharpbench.registry import SOURCE_HASH, Plugin, Registry
from sharpbench.results import provenance
from sharpbench.results.reading import Stored
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore, SubjectFolder
from sharpbench.seeds import Seeds
from sharpbench.suite.engines import Engine
from sharpbench.suite.plan import MeasurementPlan, Plan, ProblemPlan, SubjectPlan, TrajectoryPlan
from sharpbench.suite.spec import CostSpec
from sharpbench.suite.task import SubjectTask
from sharpbench.training import recipes

__all__ = ["Recomputed", "recompute"]

P = TypeVar("P", bound=Plugin)

_COMPARABLE = ("measurement", "problem", "calibration", "evaluation")
_ROUNDING = {"float32": 1e-4, "float64": 1e-7}
"""The relative change that another machine or version of a library is allowed where no error is stated."""


@dataclass
class Recomputed:
    """How the figures that were measured again compare with the stored ones."""

    equal: int = 0
    """To the last bit."""
    near: int = 0
    """Within the stated error, where versions, processor or commit are others than those of the record."""
    faults: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    """Why figures can't be measured again here, with their number."""


def recompute(
    found: Mapping[str, tuple[SubjectFolder, Stored]],
    store: ResultsStore,
    share: float,
    *,
    seed: int,
    data: Path,
    engine: Engine,
    seen: Callable[[int, int], None],
) -> Recomputed:
    """Measure a random ``share`` of the figures again, in a folder of their own; nothing is trained.

    ``found``: by folder, the subjects with what is proven of them. A network that is asked anything is
    evaluated as a whole. ``seen`` is told how many subjects are done, and of how many.
    """
    result = Recomputed()
    chosen = _chosen(found, share, seed)
    here = provenance.collect("verify", device="cpu", workers=engine.workers, threads=1)
    runs = store.documents("runs")
    with tempfile.TemporaryDirectory(prefix="sharpbench-verify-") as scratch:
        tasks: dict[str, SubjectTask] = {}
        for name, records in chosen.items():
            folder, stored = found[name]
            assert stored.description is not None
            try:
                task = _task(
                    stored.description, stored.records, records, result, Path(scratch), data
                )
            except InputError as error:
                _skip(result, str(error), len(records))
                continue
            target = Path(scratch) / name
            target.mkdir()
            for file in ("subject.json", "weights.safetensors"):
                if (folder.path / file).is_file():
                    shutil.copyfile(folder.path / file, target / file)
            tasks[task.subject.key] = task
        seen(0, len(tasks))
        with closing(engine.run(list(tasks.values()), lambda *_: None)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                name = ResultsStore(Path(scratch)).subject(outcome.key).path.name
                again = {r.key: r for r in SubjectFolder(Path(scratch) / name).records()}
                task = tasks[outcome.key]
                asked = {q.key for q in task.plan.asked(task.subject)}
                for record in chosen[name]:
                    if record.kind != "evaluation" and record.plan_key not in asked:
                        continue  # told already why not
                    same = _same_place(runs.get(record.run), here)
                    _compare(record, again.get(record.key), same, name, outcome.problems, result)
                seen(done, len(tasks))
    return result


def _chosen(
    found: Mapping[str, tuple[SubjectFolder, Stored]], share: float, seed: int
) -> dict[str, list[Record]]:
    """By folder, the figures to be measured again: the same for the same seed and the same folder."""
    figures = [
        (name, record)
        for name, (_, stored) in sorted(found.items())
        for record in stored.records
        if record.kind in _COMPARABLE and record.status == "ok"
    ]
    number = min(len(figures), math.ceil(share * len(figures)))
    chosen: dict[str, list[Record]] = {}
    for index in sorted(random.Random(seed).sample(range(len(figures)), number)):
        name, record = figures[index]
        chosen.setdefault(name, []).append(record)
    return chosen


def _task(
    description: Mapping[str, Any],
    stored: Sequence[Record],
    records: Sequence[Record],
    result: Recomputed,
    results: Path,
    data: Path,
) -> SubjectTask:
    """The questions of ``records`` to one subject. Raises InputError if it can't be made again."""
    identity = description["identity"]
    questions = tuple(_questions(records, result))
    seeds, device, threads = identity["seed"], identity["device"], identity.get("threads", 1)
    subject: SubjectPlan | ProblemPlan
    if description["status"] == "known" and "problem" not in identity:
        raise InputError("a network of your own is built by the suite that names it alone")
    if "problem" in identity:
        problem = _made(problems, identity["problem"])
        subject = ProblemPlan(problem, questions, seeds, device, threads)
    else:
        dataset = _made(datasets, identity["dataset"])
        if reason := dataset.missing(data):
            raise InputError(f"data are missing: {reason}")
        subject = SubjectPlan(
            dataset,
            _made(models, identity["model"]),
            _made(recipes, identity["recipe"]),
            Seeds(**seeds) if isinstance(seeds, dict) else Seeds.all(seeds),
            device,
            threads,
            identity["dataset"].get("data", ""),
        )
    if subject.key != description["key"]:
        raise InputError("the subject has other parameters in this version of sharpbench")
    bins = next((r.parameters["bins"] for r in stored if r.name == "ece" and r.parameters), 15)
    plan = Plan(
        name="verify",
        subjects=(),
        measurements=questions,
        trajectory=TrajectoryPlan((), 1),
        ece_bins=bins,
        cost=CostSpec.model_validate({}),
        threads=threads,
        training_seconds=None,
        measurement_seconds=None,
    )
    return SubjectTask(
        plan, subject, results, data, "verify", time_costs=False, shared_machine=True
    )


def _questions(records: Sequence[Record], result: Recomputed) -> Iterator[MeasurementPlan]:
    """What the records answer; those that can't be asked again here are counted as skipped."""
    for record in records:
        if record.kind == "evaluation":
            if record.name not in FIGURES:
                _skip(result, "errors away from the test data are not computed again", 1)
            elif record.version != EVALUATION_VERSION:
                _skip(result, f"evaluation has version {EVALUATION_VERSION} here", 1)
            continue
        try:
            told = {"name": record.name, "version": record.version, **record.parameters}
            metric: Metric = _made(metrics, told)
            change = None
            if record.transformation_name:
                change = transformations.create(
                    record.transformation_name, record.transformation_parameters
                )
            question = MeasurementPlan(metric, change, record.draw)
            if question.key != record.plan_key:
                raise InputError(
                    f"{record.transformation_name or record.name} is asked otherwise in this version"
                )
        except InputError as error:
            _skip(result, str(error), 1)
        else:
            yield question


def _made(registry: Registry[P], identity: Mapping[str, Any]) -> P:
    """The plug-in of this identity. Raises InputError if there is none here of that version."""
    told = {"name", "version", "data", SOURCE_HASH}
    parameters = {k: v for k, v in identity.items() if k not in told}
    plugin = registry.create(identity["name"], parameters)
    if plugin.version != identity["version"]:
        raise InputError(
            f"{plugin.name} has version {plugin.version} here, and is stored of version "
            f"{identity['version']}"
        )
    return plugin


def _same_place(then: Mapping[str, Any] | None, here: Mapping[str, Any]) -> bool:
    """Whether a run used the versions, the processor and the code of today: then bits are repeated."""
    if then is None or then.get("git") != here["git"]:
        return False
    versions, machine = then.get("versions", {}), then.get("machine", {})
    return machine.get("processor") == here["machine"]["processor"] and all(
        versions.get(name) == here["versions"][name]
        for name in ("sharpbench", "torch", "numpy", "scikit-learn")
    )


def _compare(
    before: Record,
    after: Record | None,
    same_place: bool,
    name: str,
    problems_told: Sequence[str],
    result: Recomputed,
) -> None:
    after_change = f" after {before.transformation}" if before.transformation else ""
    place = f"{name}, {before.label}{after_change}"
    if before.kind == "evaluation" and (
        before.name not in FIGURES or before.version != EVALUATION_VERSION
    ):
        return
    if after is None or after.status != "ok" or after.value is None or before.value is None:
        why = (after.reason if after else None) or "; ".join(problems_told) or "of other weights"
        result.faults.append(
            f"{place}: {before.value!r} is stored, and there is no answer now: {why}"
        )
        return
    if (after.value, after.standard_error) == (before.value, before.standard_error):
        result.equal += 1
        return
    errors = [e for r in (before, after) for e in (r.standard_error, r.error_bound) if e]
    rounding = _ROUNDING.get(before.parameters.get("dtype", "float64"), 1e-4)
    allowed = 4 * math.fsum(errors) + rounding * abs(before.value)
    told = f"{place}: {before.value!r} is stored, and it is {after.value!r} now"
    if same_place:
        result.faults.append(f"{told}, with the same versions on the same processor")
    elif abs(after.value - before.value) > allowed:
        result.faults.append(f"{told}: further apart than the stated error of {allowed:.2g}")
    else:
        result.near += 1


def _skip(result: Recomputed, reason: str, number: int) -> None:
    result.skipped[reason] = result.skipped.get(reason, 0) + number
