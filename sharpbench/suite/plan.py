"""A suite expanded: which subjects are trained and which figures are asked of each one."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape, glob
from pathlib import Path
from typing import Any, TypeVar

from sharpbench.datasets import Dataset, datasets
from sharpbench.datasets.files import data_root
from sharpbench.errors import InputError, first_line, guarded, nearest_names
from sharpbench.evaluation.classification import EVALUATION_VERSION, FIGURES
from sharpbench.evaluation.outcomes import OUTCOMES_VERSION
from sharpbench.evaluation.shift import SHIFT_VERSION, Attack, meaning_of_corrupted
from sharpbench.invariance import Transformation, transformations
from sharpbench.metrics import Metric, metrics
from sharpbench.models import Model, models
from sharpbench.plugins import load_plugins, plugin_name
from sharpbench.problems import Problem, problems
from sharpbench.registry import Registry
from sharpbench.results.keys import (
    attack_question,
    content_key,
    corruption_question,
    evaluation_question,
    outcomes_question,
    question_key,
    trajectory_question,
)
from sharpbench.seeds import Seeds, derive_seed
from sharpbench.subject import Subject
from sharpbench.suite.given import Given, NetworkNamed
from sharpbench.suite.networks import NetworkPlan, hash_of_file, source_of
from sharpbench.suite.outline import Kind, named_only
from sharpbench.suite.spec import (
    Block,
    CostSpec,
    NetworksSpec,
    P,
    SeedsSpec,
    SuiteFile,
    expand,
    grid_size,
    number_of_seeds,
    seeds_of,
)
from sharpbench.training import Recipe, recipes

__all__ = [
    "MOST_FIGURES",
    "MOST_QUESTIONS",
    "MOST_SUBJECTS",
    "AnySubject",
    "MeasurementPlan",
    "NetworkPlan",
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
    threads: int = 1
    data: str | None = ""
    """The fingerprint of the data; None where only loading it tells."""

    @property
    def kind(self) -> Kind:
        return "trained"

    @property
    def seed(self) -> int:
        """The data's: networks that share it are judged and measured on the same points."""
        return self.seeds.data

    @property
    def network(self) -> tuple[str, ...]:
        """What networks share whose costs are alike."""
        return self.dataset.name, self.model.label, self.device

    @property
    def data_known(self) -> bool:
        """Whether its key says which data it is trained on; else only to load them tells."""
        return self.data is not None

    @property
    def dataset_name(self) -> str:
        return self.dataset.name

    @property
    def recipe_name(self) -> str:
        return self.recipe.name

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything the trained weights depend on, defaults resolved."""
        return {
            "dataset": {**self.dataset.identity(), "data": self.data or ""},
            "model": self.model.identity(),
            "recipe": self.recipe.identity(),
            "seed": self.seeds.identity(),
            **_computed_on(self.device, self.threads),
        }

    @property
    def unsaid(self) -> dict[str, dict[str, Any]]:
        """What `identity` says nothing of, part by part: parameters that were added later, at their
        defaults."""
        parts = {"dataset": self.dataset, "model": self.model, "recipe": self.recipe}
        return {name: unsaid for name, part in parts.items() if (unsaid := part.unsaid())}

    @cached_property
    def key(self) -> str:
        return content_key(self.identity)

    @property
    def label(self) -> str:
        parts = (self.dataset.label, self.model.label, self.recipe.label)
        return " · ".join((*parts, str(self.seeds)))

    def missing(self, root: Path) -> str | None:
        """What data must be prepared first, or None: also where the dataset can't tell."""
        try:
            with guarded():
                return self.dataset.missing(root)
        except Exception:  # to load them raises it as well, and is recorded
            return None


@dataclass(frozen=True)
class ProblemPlan:
    """A problem with a known answer, asked its own questions; it is never trained."""

    problem: Problem
    measurements: tuple[MeasurementPlan, ...]
    seed: int
    device: str = "cpu"
    threads: int = 1

    dataset_name = recipe_name = ""
    epochs = 0
    data_known = True

    @property
    def kind(self) -> Kind:
        return "problem"

    @property
    def seeds(self) -> Seeds:
        return Seeds.all(self.seed)

    @property
    def network(self) -> tuple[str, ...]:
        """What problems share whose costs are alike."""
        return self.problem.label, self.device

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {
            "problem": self.problem.identity(),
            "seed": self.seed,
            **_computed_on(self.device, self.threads),
        }

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

    @cached_property
    def metric_label(self) -> str:
        return self.metric.label

    @property
    def alone(self) -> bool:
        """Whether it is asked as it is, and once."""
        return self.transformation is None and not self.draw

    def missing(self) -> str | None:
        """What must be installed before it can be asked, or None: also where the metric can't tell."""
        try:
            with guarded():
                return self.metric.missing()
        except Exception:  # to be asked raises it as well, and is recorded
            return None

    @property
    def label(self) -> str:
        return self.metric.label + (
            f" after {self.transformation.label}" if self.transformation else ""
        )


AnySubject = SubjectPlan | NetworkPlan | ProblemPlan


@dataclass(frozen=True)
class TrajectoryPlan:
    """Metrics measured along training."""

    metrics: tuple[Metric, ...]
    every: int

    def due(self, epoch: int, last: int) -> bool:
        return epoch == 1 or epoch % self.every == 0 or epoch == last

    def metric_key(self, metric: Metric) -> str:
        return trajectory_question(metric, self.every)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Of its metrics, under which their costs are recorded."""
        return tuple(metric.label for metric in self.metrics)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Of all its metrics."""
        return frozenset(map(self.metric_key, self.metrics))


@dataclass(frozen=True)
class Plan:
    """Ordered subjects, each of which gets every measurement, and problems with their own."""

    name: str
    subjects: tuple[AnySubject, ...]
    measurements: tuple[MeasurementPlan, ...]
    trajectory: TrajectoryPlan
    ece_bins: int
    cost: CostSpec
    threads: int
    training_seconds: float | None
    measurement_seconds: float | None
    outcomes: bool = False
    """Whether what each network did on each test point is stored."""
    corruptions: tuple[str, ...] = ()
    attack: Attack | None = None
    title: str = ""
    description: str = ""
    highlight: tuple[str, ...] = ()
    """Names of metrics whose rows stand first in the scorecard."""
    expects_nothing: tuple[str, ...] = ()
    """Names of metrics that are not asked of problems that ask every metric which says what it expects."""

    @property
    def repeats(self) -> int:
        """How often a measurement whose cost is recorded is repeated."""
        return self.cost.repeats

    def asked(self, subject: AnySubject) -> tuple[MeasurementPlan, ...]:
        """The measurements of a subject or problem."""
        if isinstance(subject, ProblemPlan):
            return subject.measurements
        return self.measurements

    @cached_property
    def evaluation_key(self) -> str:
        return evaluation_question(EVALUATION_VERSION, self.ece_bins)

    @cached_property
    def outcomes_key(self) -> str:
        return outcomes_question(OUTCOMES_VERSION)

    @cached_property
    def evaluated(self) -> frozenset[tuple[str, str]]:
        """Question and name of everything that is evaluated."""
        figures = {(self.evaluation_key, name) for name in FIGURES}
        if self.outcomes:
            figures.add((self.outcomes_key, "test"))
        if self.corruptions:
            figures |= {(self.corruption_key, n) for n in meaning_of_corrupted(self.corruptions)}
        if self.attack:
            figures.add((self.attack_key, "adversarial_error"))
        return frozenset(figures)

    @cached_property
    def corruption_key(self) -> str:
        return corruption_question(SHIFT_VERSION, self.corruptions)

    @cached_property
    def attack_key(self) -> str:
        assert self.attack is not None
        return attack_question(SHIFT_VERSION, self.attack.parameters())

    def record_keys(self) -> set[str]:
        """The subject-independent keys of every record that belongs to this plan."""
        return {
            *(question for question, _ in self.evaluated),
            *(m.key for m in self.measurements),
            *(m.key for s in self.subjects if isinstance(s, ProblemPlan) for m in self.asked(s)),
            *(self.trajectory.metric_key(m) for m in self.trajectory.metrics),
        }

    @cached_property
    def _lowest(self) -> Seeds:
        return min(s.seeds for s in self.subjects)

    def timed(self, subject: AnySubject) -> bool:
        """Whether the cost of measuring it is recorded: of one seed, and of every network of a user's own."""
        return isinstance(subject, NetworkPlan) or subject.seeds == self._lowest

    def only(self, texts: Iterable[str]) -> Plan:
        """The plan with those subjects alone whose label contains one of ``texts``.

        Raises InputError if none does.
        """
        return dataclasses.replace(self, subjects=named_only(self.subjects, texts))


MOST_SUBJECTS = 100_000
"""Networks and problems of a suite."""

MOST_QUESTIONS = 100_000
"""Measurements asked of one of them, and metrics along training."""

MOST_FIGURES = 100_000_000
"""All measurements of a suite."""

T = TypeVar("T")


def make_plan(
    suite: SuiteFile,
    *,
    device: str = "cpu",
    data: Path | None = None,
    doubts: list[str] | None = None,
) -> Plan:
    """Expand the grids of a suite; equal subjects or measurements stand once.

    ``data`` is where the files of datasets are, `data_root` by default: what is there enters the keys.
    ``doubts`` is given what failed meanwhile and was taken for an answer: it may be another one next time.

    Raises InputError, with file and line, for unknown names, parameters and values, and for a grid that is
    larger than any run: its size is known before anything of it is made.
    """
    suite = _with_plugins(suite)
    spec = suite.spec
    _check_sizes(suite)
    root, doubts = data or data_root(), [] if doubts is None else doubts
    fingerprints: dict[str, str | None] = {}
    subjects: dict[str, AnySubject] = {}
    for i, block in enumerate(spec.subjects):
        at = ("subjects", i)
        for dataset, model, recipe, seeds in itertools.product(
            _expand_all(suite, datasets, block.dataset, (*at, "dataset")),
            _expand_all(suite, models, block.model, (*at, "model")),
            _expand_all(suite, recipes, block.recipe, (*at, "recipe")),
            seeds_of(block.seeds or spec.seeds),
        ):
            name = repr(dataset)
            if name not in fingerprints:
                fingerprints[name] = _fingerprint(dataset, root)
            subject = SubjectPlan(
                dataset, model, recipe, seeds, device, spec.threads, fingerprints[name]
            )
            subjects.setdefault(subject.key, subject)
    for network in _network_plans(suite, device, root):
        subjects.setdefault(network.key, network)
    for problem_plan in _problem_plans(suite, device, doubts):
        subjects[problem_plan.key] = problem_plan
    chosen = _chosen(suite)
    for i, name in enumerate(spec.highlight):
        if name not in (known := {metric.name for metric in chosen}):
            raise suite.error(
                ("highlight", i), f"no metric {name!r} here. {nearest_names(name, known)}"
            )
    measurements: dict[str, MeasurementPlan] = {}
    for metric in chosen:
        plain = MeasurementPlan(metric)
        measurements.setdefault(plain.key, plain)
    for i, entry in enumerate(spec.transformations):
        for transformation in _expand_all(
            suite, transformations, [entry], ("transformations", i), also=("draws",)
        ):
            for metric in chosen:
                for draw in range(entry.get("draws", 1)):
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
        outcomes=spec.evaluation.outcomes,
        corruptions=tuple(dict.fromkeys(spec.evaluation.corruptions)),
        attack=Attack(**attack.model_dump()) if (attack := spec.evaluation.attack) else None,
        cost=spec.cost,
        threads=spec.threads,
        training_seconds=spec.limits.training_seconds,
        measurement_seconds=spec.limits.measurement_seconds,
        title=spec.title,
        description=spec.description,
        highlight=tuple(spec.highlight),
        expects_nothing=_expecting_nothing(suite, chosen, subjects.values()),
    )


def _with_plugins(suite: SuiteFile) -> SuiteFile:
    """The suite with its plug-ins loaded, and their names where it says ``file.py:Class`` or
    ``package.module:Class``."""
    folder, spec = suite.path.parent, suite.spec
    for i, place in enumerate(spec.plugins):
        try:
            load_plugins(place, folder)
        except InputError as error:
            raise suite.error(("plugins", i), str(error)) from None

    def named(kind: str, blocks: list[Block], *at: str | int) -> list[Block]:
        def read(block: Block) -> Block:
            name = block.get("name")
            if not isinstance(name, str):
                return block  # told when it is expanded
            return {**block, "name": plugin_name(kind, name, folder)}

        return [_located(suite, block, at, read) for block in blocks]

    def each(kind: str, blocks: list[Block], key: str) -> list[Block]:
        return [one for i, block in enumerate(blocks) for one in named(kind, [block], key, i)]

    subjects = [
        block.model_copy(
            update={p: named(p, getattr(block, p), "subjects", i, p) for p in _PARTS},
        )
        for i, block in enumerate(spec.subjects)
    ]
    asked = [
        block.model_copy(
            update={
                "problem": named("problem", block.problem, "problems", i, "problem"),
                "metrics": block.metrics
                and named("metric", block.metrics, "problems", i, "metrics"),
            }
        )
        for i, block in enumerate(spec.problems)
    ]
    zoo = [
        block.model_copy(
            update={
                "dataset": block.dataset and named("dataset", [block.dataset], "networks", i)[0]
            }
        )
        for i, block in enumerate(spec.networks)
    ]
    along = spec.trajectory and spec.trajectory.model_copy(
        update={"metrics": named("metric", spec.trajectory.metrics, "trajectory", "metrics")}
    )
    update = {
        "subjects": subjects,
        "networks": zoo,
        "problems": asked,
        "metrics": each("metric", spec.metrics, "metrics"),
        "transformations": each("transformation", spec.transformations, "transformations"),
        "trajectory": along,
    }
    return dataclasses.replace(suite, spec=spec.model_copy(update=update))


_PARTS = ("dataset", "model", "recipe")


def _computed_on(device: str, threads: int) -> dict[str, Any]:
    """What the order of sums depends on: the kind of device, and the threads unless there is one."""
    kind = {"device": device.partition(":")[0]}
    return kind if threads == 1 else {**kind, "threads": threads}


def _chosen(suite: SuiteFile) -> list[Metric]:
    """The metrics that are asked of every network."""
    return [
        metric
        for i, entry in enumerate(suite.spec.metrics)
        for metric in _expand_all(suite, metrics, [entry], ("metrics", i))
    ]


def _expecting_nothing(
    suite: SuiteFile, chosen: list[Metric], subjects: Iterable[AnySubject]
) -> tuple[str, ...]:
    """Names of metrics that problems which ask every metric that says what it expects do not ask."""
    if all(block.metrics is not None for block in suite.spec.problems):
        return ()
    solved = (s for s in subjects if isinstance(s, ProblemPlan))
    asked = {question.metric.name for plan in solved for question in plan.measurements}
    return tuple(sorted({metric.name for metric in chosen} - asked))


def _knowing(chosen: list[Metric], problem: Problem, seed: int, doubts: list[str]) -> list[Metric]:
    """The metrics that say of a problem what they should answer."""
    able = [metric for metric in chosen if type(metric).known is not Metric.known]
    if not able:
        return []
    try:
        with guarded():
            subject = problem.subject(seed=derive_seed(seed, "problem"))
    except Exception as error:  # to ask it raises it as well, and is recorded
        doubts.append(f"{problem.label}: {first_line(error)}")
        return able
    return [metric for metric in able if _knows(metric, problem, subject, doubts)]


def _knows(metric: Metric, problem: Problem, subject: Subject, doubts: list[str]) -> bool:
    try:
        with guarded():
            known = metric.known(problem, subject)
            return known is not None and not (known.expected is None and known.limit is None)
    except Exception as error:  # the record says so
        doubts.append(f"{metric.label} on {problem.label}: {first_line(error)}")
        return True


def _fingerprint(dataset: Dataset, root: Path) -> str | None:
    """The dataset's own; None if it has none or fails to tell it."""
    try:
        with guarded():
            told = dataset.fingerprint(root)
    except Exception:
        return None
    return told if isinstance(told, str) else None


def _network_plans(suite: SuiteFile, device: str, root: Path) -> Iterator[NetworkPlan]:
    """Every network of the user's own: of each block one a file of weights."""
    blocks = suite.spec.networks
    files = [list(_weights(suite, block, ("networks", i))) for i, block in enumerate(blocks)]
    called = _called_apart(file for each in files for file in each if file is not None)
    folder = suite.path.parent
    arrays = _called_apart((folder / b.inputs for b in blocks if b.inputs is not None), stem=False)
    titled: dict[str, str] = {}
    for i, block in enumerate(blocks):
        title = block.title or block.model
        if (built := titled.setdefault(title, block.model)) != block.model:
            raise suite.error(
                ("networks", i, "model" if block.title is None else "title"),
                f"networks of {built} are called {title!r}, too: give those of {block.model} another title",
            )
        model, data, data_label, given, dataset = _told_of_network(
            suite, block, ("networks", i), root, arrays
        )
        for file in files[i]:
            recipe: dict[str, Any] = {"name": "as built"}
            if file is not None:
                recipe = {"name": "weights", "file": file.name, "sha256": hash_of_file(file)}
            label = "as built" if file is None else called[file]
            yield NetworkPlan(
                given.model_copy(update={"weights": file}),
                {"dataset": data, "model": model, "recipe": recipe},
                {"dataset": data_label, "model": title, "recipe": label},
                block.seed,
                device,
                suite.spec.threads,
                dataset,
            )


def _called_apart(files: Iterable[Path], *, stem: bool = True) -> dict[Path, str]:
    """What each of several files is called: its name, or its ``stem`` if that will do, with as many of the
    folders above it as tell it from the others."""
    tails: dict[str, set[Path]] = {}

    def names(file: Path) -> Iterator[str]:
        for n in range(1, len(file.parts) + 1):
            if stem:
                yield "/".join([*file.parts[-n:-1], file.stem])
            yield "/".join(file.parts[-n:])

    each = dict.fromkeys(files)
    for file in each:
        for name in names(file):
            tails.setdefault(name, set()).add(file)
    return {f: next((n for n in names(f) if tails[n] == {f}), str(f)) for f in each}


def _told_of_network(
    suite: SuiteFile,
    block: NetworksSpec,
    at: tuple[str | int, ...],
    root: Path,
    arrays: Mapping[Path, str],
) -> tuple[dict[str, Any], dict[str, Any], str, Given, Dataset | None]:
    """Identities of the network but for its weights and of its data, what these are called, how they are
    made, and the dataset if one is named. ``arrays``: what files of inputs are called."""

    def told(key: str, tell: Callable[[T], str], of: T) -> str:
        try:
            return tell(of)
        except InputError as error:
            raise suite.error((*at, key), str(error)) from None

    folder = suite.path.parent
    options = block.told(*block.OPTIONS)
    model = {"name": block.model, "source": told("model", source_of, block.model), **options}
    for name in ("forward", "loss"):
        if (
            ":" in options.get(name, "")
            and options[name].partition(":")[0] != block.model.partition(":")[0]
        ):
            model[f"{name}_source"] = told(name, source_of, options[name])
    files = {name: str(folder / place) for name, place in block.told(*block.FILES).items()}
    given = Given(**{**block.told(*NetworkNamed.model_fields), **files})
    test = {}
    if block.test is not None:
        test = {"test": block.test, "test_source": told("test", source_of, block.test)}
    if block.dataset is not None:
        size = _size(suite, datasets, [block.dataset], (*at, "dataset"))
        if size != 1:
            raise suite.error(
                (*at, "dataset"),
                f"a grid of {size:,} datasets, and networks of one's own are measured on one: write a "
                "[[networks]] block for each",
            )
        (dataset,) = _expand_all(suite, datasets, [block.dataset], (*at, "dataset"))
        data = {**dataset.identity(), "data": _fingerprint(dataset, root) or ""}
        return model, data, dataset.label, given, dataset
    if block.data is not None:
        data = {"name": block.data, "source": told("data", source_of, block.data)}
        return model, {**data, **test}, block.data, given, None
    assert block.inputs is not None
    hashes = {f"{n}_sha256": told(n, hash_of_file, Path(file)) for n, file in files.items()}
    # Where a file is says nothing of what is in it, and is not for a page.
    inside = not (Path(block.inputs).is_absolute() or ".." in Path(block.inputs).parts)
    name = block.inputs if inside else Path(block.inputs).name
    label = block.inputs if inside else arrays[folder / block.inputs]
    return model, {"name": name, **hashes, **test}, label, given, None


def _weights(
    suite: SuiteFile, block: NetworksSpec, at: tuple[str | int, ...]
) -> Iterator[Path | None]:
    """The files that the patterns of a block stand for, each once, in order; None: the network as built."""
    if block.weights is None:
        yield None
        return
    folder, seen = suite.path.parent.resolve(), set()
    for pattern in block.weights:
        inside = Path(escape(str(folder))) / pattern  # the folder's own name is no pattern
        named = folder / pattern  # a file may have brackets in its name, too
        found = [named] if named.is_file() else sorted(map(Path, glob(str(inside), recursive=True)))
        files = [file for file in found if file.is_file()]
        if not files:
            raise suite.error(
                (*at, "weights"),
                f"no file {pattern!r} in the suite's folder {folder}",
            )
        for file in files:
            if file not in seen:
                seen.add(file)
                yield file


def _problem_plans(suite: SuiteFile, device: str, doubts: list[str]) -> list[ProblemPlan]:
    """Every problem with the questions of all blocks that name it, each once."""
    found: dict[str, ProblemPlan] = {}
    chosen = _chosen(suite)
    for i, block in enumerate(suite.spec.problems):
        draws = range(1, block.repetitions + 1) if block.repetitions > 1 else range(1)
        seeds = block.seeds or _seeds_of_problems(suite)
        named = None
        if block.metrics is not None:
            named = _expand_all(suite, metrics, block.metrics, ("problems", i, "metrics"))
        for problem in _expand_all(suite, problems, block.problem, ("problems", i, "problem")):
            own = _knowing(chosen, problem, seeds[0], doubts) if named is None else named
            asked = [MeasurementPlan(metric, draw=draw) for metric in own for draw in draws]
            for seed in seeds:
                plan = ProblemPlan(problem, (), seed, device, suite.spec.threads)
                before = found.get(plan.key, plan).measurements
                together = {m.key: m for m in (*before, *asked)}
                found[plan.key] = dataclasses.replace(plan, measurements=tuple(together.values()))
    return list(found.values())


def _seeds_of_problems(suite: SuiteFile) -> list[int]:
    seeds = suite.spec.seeds
    assert not isinstance(seeds, SeedsSpec)  # refused when the file was read
    return seeds


def _expand_all(
    suite: SuiteFile,
    registry: Registry[P],
    blocks: list[Block],
    at: tuple[str | int, ...],
    also: tuple[str, ...] = (),
) -> list[P]:
    return [
        plugin
        for block in blocks
        for plugin in _located(suite, block, at, lambda b: expand(registry, b, also))
    ]


def _size(
    suite: SuiteFile,
    registry: Registry[P],
    blocks: list[Block],
    at: tuple[str | int, ...],
    also: tuple[str, ...] = (),
) -> int:
    """How many plug-ins the blocks stand for."""
    return sum(
        _located(suite, block, at, lambda b: grid_size(registry, b, also)) for block in blocks
    )


def _located(
    suite: SuiteFile, block: Block, at: tuple[str | int, ...], read: Callable[[Block], T]
) -> T:
    """``read(block)``; its InputError points at the key that it complains of, if it is the block's own."""
    try:
        return read(block)
    except InputError as error:
        told = str(error)
        named = [k for k in block if k != "name" and repr(k) in told]
        named += [k for k in block if k != "name" and re.search(rf"\b{re.escape(k)}\b", told)]
        key = named[0] if named else "name"
        value = str(block.get("name")) if key == "name" else None
        raise suite.error((*at, key), told, value=value) from None


def _check_sizes(suite: SuiteFile) -> None:
    """Raises InputError for a grid that is larger than any run. Nothing is expanded."""
    spec = suite.spec
    asked = sum(
        _size(suite, metrics, [entry], ("metrics", i)) for i, entry in enumerate(spec.metrics)
    )
    _limit(suite, ("metrics",), {"metrics": asked}, MOST_QUESTIONS, "metrics")
    views = 1
    where: tuple[str | int, ...]
    for i, entry in enumerate(spec.transformations):
        at = ("transformations", i)
        draws = entry.get("draws", 1)
        if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
            raise suite.error((*at, "draws"), f"must be a positive whole number, got {draws!r}")
        parts = {"transformations": _size(suite, transformations, [entry], at, ("draws",))}
        views += parts["transformations"] * draws
        parts |= {"draws": draws, "metrics": asked}
        where = (*at, "draws") if draws > 1 else at
        _limit(suite, where, parts, MOST_QUESTIONS, "measurements of one network")
        _limit(suite, at, {"changes": views, "metrics": asked}, MOST_QUESTIONS, "measurements")
    if spec.trajectory:
        where = ("trajectory", "metrics")
        along = {"metrics": _size(suite, metrics, spec.trajectory.metrics, where)}
        _limit(suite, where, along, MOST_QUESTIONS, "metrics along training")
    subjects = figures = 0
    for i, block in enumerate(spec.subjects):
        at = ("subjects", i)
        parts = {
            "datasets": _size(suite, datasets, block.dataset, (*at, "dataset")),
            "models": _size(suite, models, block.model, (*at, "model")),
            "recipes": _size(suite, recipes, block.recipe, (*at, "recipe")),
            "seeds": number_of_seeds(block.seeds or spec.seeds),
        }
        here = _limit(suite, at, parts, MOST_SUBJECTS, "networks")
        subjects, figures = subjects + here, figures + here * asked * views
    for i, problem in enumerate(spec.problems):
        at = ("problems", i)
        questions = {
            "metrics": asked
            if problem.metrics is None
            else _size(suite, metrics, problem.metrics, (*at, "metrics")),
            "repetitions": problem.repetitions,
        }
        where = (*at, "repetitions") if problem.repetitions > 1 else (*at, "metrics")
        each = _limit(suite, where, questions, MOST_QUESTIONS, "questions of one problem")
        parts = {
            "problems": _size(suite, problems, problem.problem, (*at, "problem")),
            "seeds": len(problem.seeds or _seeds_of_problems(suite)),
        }
        here = _limit(suite, at, parts, MOST_SUBJECTS, "problems")
        subjects, figures = subjects + here, figures + here * each
    _limit(suite, (), {"subjects": subjects}, MOST_SUBJECTS, "subjects in all")
    _limit(suite, (), {"figures": figures}, MOST_FIGURES, "measurements in all")


def _limit(
    suite: SuiteFile, at: tuple[str | int, ...], parts: dict[str, int], most: int, what: str
) -> int:
    """The product of ``parts``. Raises InputError, with the parts, where it is more than ``most``."""
    size = math.prod(parts.values())
    if size > most:
        each = " × ".join(f"{n:,} {name}" for name, n in parts.items())
        spelled = f" ({each})" if len(parts) > 1 else ""
        raise suite.error(
            at,
            f"a grid of {size:,} {what}{spelled}, and at most {most:,} can be asked: shorten an axis",
        )
    return size
