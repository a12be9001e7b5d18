"""A suite expanded: which subjects are trained and which figures are asked of each one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sharpbench.datasets import Dataset, datasets
from sharpbench.errors import InputError
from sharpbench.evaluation.classification import EVALUATION_VERSION
from sharpbench.invariance import Transformation, transformations
from sharpbench.metrics import Metric, metrics
from sharpbench.models import Model, models
from sharpbench.problems import Problem, problems
from sharpbench.registry import Registry
from sharpbench.results.keys import (
    content_key,
    evaluation_question,
    question_key,
    trajectory_question,
)
from sharpbench.seeds import Seeds
from sharpbench.suite.spec import (
    Block,
    CostSpec,
    P,
    SeedsSpec,
    SuiteFile,
    expand,
    seeds_of,
)
from sharpbench.training import Recipe, recipes

__all__ = [
    "MeasurementPlan",
    "Plan",
    "ProblemPlan",
    "SubjectPlan",
    "TrajectoryPlan",
    "make_plan",
]


@dataclass(frozen=True)
class SubjectPlan:
    """A dataset, a model, a training recipe and seeds, trained on a kind of device."""

    dataset: Dataset
    model: Model
    recipe: Recipe
    seeds: Seeds
    device: str = "cpu"

    @property
    def seed(self) -> int:
        """The data's: networks that share it are judged and measured on the same points."""
        return self.seeds.data

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything the trained weights depend on, defaults resolved."""
        return {
            "dataset": {**self.dataset.identity(), "data": self.dataset.fingerprint()},
            "model": self.model.identity(),
            "recipe": self.recipe.identity(),
            "seed": self.seeds.identity(),
            "device": self.device,
        }

    @cached_property
    def key(self) -> str:
        return content_key(self.identity)

    @property
    def label(self) -> str:
        parts = (self.dataset.label, self.model.label, self.recipe.label)
        return " · ".join((*parts, str(self.seeds)))

    def missing(self, root: Path) -> str | None:
        """What data must be prepared first, or None."""
        return self.dataset.missing(root)


@dataclass(frozen=True)
class ProblemPlan:
    """A problem with a known answer, asked its own questions; it is never trained."""

    problem: Problem
    measurements: tuple[MeasurementPlan, ...]
    seed: int
    device: str = "cpu"

    @property
    def seeds(self) -> Seeds:
        return Seeds.all(self.seed)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {"problem": self.problem.identity(), "seed": self.seed, "device": self.device}

    @cached_property
    def key(self) -> str:
        return content_key(self.identity)

    @property
    def label(self) -> str:
        return f"{self.problem.label} · seed={self.seed}"

    def missing(self, root: Path) -> str | None:
        return None


@dataclass(frozen=True)
class MeasurementPlan:
    """A metric asked of a trained subject, after one draw of a transformation or as it is.

    Of a problem, ``draw`` counts the repetitions from 1; 0 is the question that is asked once.
    """

    metric: Metric
    transformation: Transformation | None = None
    draw: int = 0

    @cached_property
    def key(self) -> str:
        """The same for every subject; a record's key adds the subject and its weights."""
        return question_key(self.metric, self.transformation, self.draw)

    @property
    def label(self) -> str:
        return self.metric.label + (
            f" after {self.transformation.label}" if self.transformation else ""
        )


@dataclass(frozen=True)
class TrajectoryPlan:
    """Metrics measured along training."""

    metrics: tuple[Metric, ...]
    every: int

    def due(self, epoch: int, last: int) -> bool:
        return epoch == 1 or epoch % self.every == 0 or epoch == last

    def metric_key(self, metric: Metric) -> str:
        return trajectory_question(metric, self.every)


@dataclass(frozen=True)
class Plan:
    """Ordered subjects, each of which gets every measurement, and problems with their own."""

    name: str
    subjects: tuple[SubjectPlan | ProblemPlan, ...]
    measurements: tuple[MeasurementPlan, ...]
    trajectory: TrajectoryPlan
    ece_bins: int
    cost: CostSpec
    threads: int
    training_seconds: float | None
    measurement_seconds: float | None

    def asked(self, subject: SubjectPlan | ProblemPlan) -> tuple[MeasurementPlan, ...]:
        """The measurements of a subject or problem."""
        if isinstance(subject, ProblemPlan):
            return subject.measurements
        return self.measurements

    @property
    def evaluation_key(self) -> str:
        return evaluation_question(EVALUATION_VERSION, self.ece_bins)

    def record_keys(self) -> set[str]:
        """The subject-independent keys of every record that belongs to this plan."""
        return {
            self.evaluation_key,
            *(m.key for m in self.measurements),
            *(m.key for s in self.subjects if isinstance(s, ProblemPlan) for m in self.asked(s)),
            *(self.trajectory.metric_key(m) for m in self.trajectory.metrics),
        }

    def only(self, texts: Iterable[str]) -> Plan:
        """The plan with those subjects alone whose label contains one of ``texts``.

        Raises InputError if none does.
        """
        wanted = list(texts)
        if not wanted:
            return self
        kept = tuple(s for s in self.subjects if any(text in s.label for text in wanted))
        if not kept:
            labels = "\n  ".join(s.label for s in self.subjects)
            raise InputError(
                f"--only {' '.join(wanted)!r} matches none of the subjects:\n  {labels}"
            )
        return dataclasses.replace(self, subjects=kept)


def make_plan(suite: SuiteFile, *, device: str = "cpu") -> Plan:
    """Expand the grids of a suite; equal subjects or measurements stand once.

    Raises InputError, with file and line, for unknown names, parameters and values.
    """
    spec = suite.spec
    subjects: dict[str, SubjectPlan | ProblemPlan] = {}
    for i, block in enumerate(spec.subjects):
        at = ("subjects", i)
        for dataset in _expand_all(suite, datasets, block.dataset, (*at, "dataset")):
            for model in _expand_all(suite, models, block.model, (*at, "model")):
                for recipe in _expand_all(suite, recipes, block.recipe, (*at, "recipe")):
                    for seeds in seeds_of(block.seeds or spec.seeds):
                        subject = SubjectPlan(dataset, model, recipe, seeds, device)
                        subjects.setdefault(subject.key, subject)
    for problem_plan in _problem_plans(suite, device):
        subjects[problem_plan.key] = problem_plan
    chosen = [
        metric
        for i, entry in enumerate(spec.metrics)
        for metric in _expand_all(suite, metrics, [entry], ("metrics", i))
    ]
    measurements: dict[str, MeasurementPlan] = {}
    for metric in chosen:
        plain = MeasurementPlan(metric)
        measurements.setdefault(plain.key, plain)
    for i, entry in enumerate(spec.transformations):
        at = ("transformations", i)
        draws = entry.get("draws", 1)
        if not isinstance(draws, int) or draws < 1:
            raise suite.error((*at, "draws"), f"must be a positive whole number, got {draws!r}")
        parameters = {k: v for k, v in entry.items() if k != "draws"}
        for transformation in _expand_all(suite, transformations, [parameters], at):
            for metric in chosen:
                for draw in range(draws):
                    changed = MeasurementPlan(metric, transformation, draw)
                    measurements.setdefault(changed.key, changed)
    along: list[Metric] = []
    if spec.trajectory:
        along = _expand_all(suite, metrics, spec.trajectory.metrics, ("trajectory", "metrics"))
    return Plan(
        name=spec.name,
        subjects=tuple(subjects.values()),
        measurements=tuple(measurements.values()),
        trajectory=TrajectoryPlan(tuple(along), spec.trajectory.every if spec.trajectory else 1),
        ece_bins=spec.evaluation.ece_bins,
        cost=spec.cost,
        threads=spec.threads,
        training_seconds=spec.limits.training_seconds,
        measurement_seconds=spec.limits.measurement_seconds,
    )


def _problem_plans(suite: SuiteFile, device: str) -> list[ProblemPlan]:
    """Every problem with the questions of all blocks that name it, each once."""
    found: dict[str, ProblemPlan] = {}
    for i, block in enumerate(suite.spec.problems):
        draws = range(1, block.repetitions + 1) if block.repetitions > 1 else range(1)
        asked = [
            MeasurementPlan(metric, draw=draw)
            for metric in _expand_all(suite, metrics, block.metrics, ("problems", i, "metrics"))
            for draw in draws
        ]
        for problem in _expand_all(suite, problems, block.problem, ("problems", i, "problem")):
            for seed in block.seeds or _seeds_of_problems(suite):
                plan = ProblemPlan(problem, (), seed, device)
                before = found.get(plan.key, plan).measurements
                together = {m.key: m for m in (*before, *asked)}
                found[plan.key] = dataclasses.replace(plan, measurements=tuple(together.values()))
    return list(found.values())


def _seeds_of_problems(suite: SuiteFile) -> list[int]:
    seeds = suite.spec.seeds
    assert not isinstance(seeds, SeedsSpec)  # refused when the file was read
    return seeds


def _expand_all(
    suite: SuiteFile, registry: Registry[P], blocks: list[Block], at: tuple[str | int, ...]
) -> list[P]:
    found: list[P] = []
    for block in blocks:
        try:
            found += expand(registry, block)
        except InputError as error:
            # Point at the key the message complains of, if it is one of the block's own.
            key = next((k for k in block if k != "name" and repr(k) in str(error)), "name")
            value = str(block.get("name")) if key == "name" else None
            raise suite.error((*at, key), str(error), value=value) from None
    return found
