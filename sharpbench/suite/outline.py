"""A plan as far as it takes to say what is left of it: keys, names and numbers, without plug-ins or torch.

`sharpbench.suite.plan.Plan` is one, with all that a run needs; `Outline` is what is known of a plan that was
not made again (`sharpbench.suite.remembered`). Whoever reads the results folder takes either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from sharpbench.datasets.files import FILE_SETS
from sharpbench.errors import InputError
from sharpbench.seeds import Seeds

__all__ = [
    "AnyPlan",
    "Kind",
    "Outline",
    "OutlinedQuestion",
    "OutlinedSubject",
    "Question",
    "SubjectLike",
    "Trajectory",
    "named_only",
]

Kind = Literal["trained", "own", "problem"]
"""A network that the suite trains, a user's own, or a problem with a known answer."""


class Question(Protocol):
    """A metric asked of a subject, after a transformation or as it is."""

    @property
    def key(self) -> str: ...
    @property
    def metric_label(self) -> str:
        """Under which its costs are recorded."""

    @property
    def alone(self) -> bool:
        """Whether it is asked as it is, and once."""

    def missing(self) -> str | None:
        """What must be installed before it can be asked, or None."""


class SubjectLike(Protocol):
    """A network or a problem of a plan."""

    @property
    def key(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def seeds(self) -> Seeds: ...
    @property
    def device(self) -> str: ...
    @property
    def network(self) -> tuple[str, ...]:
        """What like subjects share, whose costs are alike; the device last."""

    @property
    def data_known(self) -> bool:
        """Whether its key says which data it is trained on."""

    @property
    def recipe_name(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def dataset_name(self) -> str: ...
    def missing(self, root: Path) -> str | None:
        """What data must be prepared first, or None."""


class TrajectoryLike(Protocol):
    """What is measured along training."""

    @property
    def keys(self) -> frozenset[str]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    def due(self, epoch: int, last: int) -> bool: ...


class AnyPlan(Protocol):
    """What is asked of which subjects."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def highlight(self) -> tuple[str, ...]: ...
    @property
    def expects_nothing(self) -> tuple[str, ...]: ...
    @property
    def threads(self) -> int: ...
    @property
    def repeats(self) -> int:
        """How often a measurement whose cost is recorded is repeated."""

    @property
    def subjects(self) -> Sequence[SubjectLike]: ...
    @property
    def evaluated(self) -> frozenset[tuple[str, str]]: ...
    @property
    def trajectory(self) -> TrajectoryLike: ...
    def asked(self, subject: Any) -> Sequence[Question]: ...
    def timed(self, subject: Any) -> bool: ...
    def record_keys(self) -> Collection[str]: ...


S = TypeVar("S", bound=SubjectLike)


def named_only(subjects: Sequence[S], texts: Iterable[str]) -> tuple[S, ...]:
    """The subjects whose label contains one of ``texts``; all if there are none.

    Raises InputError where no label does.
    """
    wanted = list(texts)
    if not wanted:
        return tuple(subjects)
    kept = tuple(s for s in subjects if any(text in s.label for text in wanted))
    if not kept:
        labels = "\n  ".join(s.label for s in subjects)
        raise InputError(f"--only {' '.join(wanted)!r} matches none of the subjects:\n  {labels}")
    return kept


class OutlinedQuestion(NamedTuple):
    """What is known of a `Question`."""

    key: str
    metric_label: str
    alone: bool
    not_installed: str | None

    def missing(self) -> str | None:
        return self.not_installed


class OutlinedSubject(NamedTuple):
    """What is known of a subject of a plan."""

    key: str
    label: str
    kind: Kind
    seeds: Seeds
    network: tuple[str, ...]
    recipe_name: str
    epochs: int
    dataset_name: str
    file_set: str | None
    """Of the files that its data are in, where they are in any."""
    questions: tuple[OutlinedQuestion, ...] | None
    """Its own; None: the plan's."""

    @property
    def device(self) -> str:
        return self.network[-1]

    @property
    def data_known(self) -> bool:
        return True

    def missing(self, root: Path) -> str | None:
        return FILE_SETS[self.file_set].missing(root) if self.file_set else None


@dataclass(frozen=True)
class Trajectory:
    """What is known of what is measured along training."""

    keys: frozenset[str]
    labels: tuple[str, ...]
    every: int

    def due(self, epoch: int, last: int) -> bool:
        """Whether it is measured after this epoch of so many."""
        return epoch == 1 or epoch % self.every == 0 or epoch == last


@dataclass(frozen=True)
class Outline:
    """What is known of a plan. Equal plans have equal outlines."""

    name: str
    title: str
    description: str
    highlight: tuple[str, ...]
    expects_nothing: tuple[str, ...]
    threads: int
    repeats: int
    subjects: tuple[OutlinedSubject, ...]
    measurements: tuple[OutlinedQuestion, ...]
    evaluated: frozenset[tuple[str, str]]
    trajectory: Trajectory
    keys: frozenset[str]

    def asked(self, subject: OutlinedSubject) -> tuple[OutlinedQuestion, ...]:
        """The measurements of a subject."""
        return self.measurements if subject.questions is None else subject.questions

    def record_keys(self) -> frozenset[str]:
        """The subject-independent keys of every record that belongs to the plan."""
        return self.keys

    @cached_property
    def _lowest(self) -> Seeds:
        return min(subject.seeds for subject in self.subjects)

    def timed(self, subject: OutlinedSubject) -> bool:
        """Whether the cost of measuring it is recorded."""
        return subject.kind == "own" or subject.seeds == self._lowest

    def only(self, texts: Iterable[str]) -> Outline:
        """The outline with those subjects alone whose label contains one of ``texts``."""
        return dataclasses.replace(self, subjects=named_only(self.subjects, texts))

    # --- as text ------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """All of it, JSON-able; what many subjects share stands once."""
        shared: dict[str, _Once] = {name: _Once() for name in _SHARED}
        subjects = [
            [*(shared[n].place(v) if n in _SHARED else v for n, v in _cells(subject))]
            for subject in self.subjects
        ]
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "highlight": list(self.highlight),
            "expects_nothing": list(self.expects_nothing),
            "measurements": [list(question) for question in self.measurements],
            "evaluated": sorted(map(list, self.evaluated)),
            "trajectory": [
                sorted(self.trajectory.keys),
                list(self.trajectory.labels),
                self.trajectory.every,
            ],
            "keys": sorted(self.keys),
            "shared": {name: once.values for name, once in shared.items()},
            "subjects": subjects,
        }

    @classmethod
    def of_told(cls, told: Mapping[str, Any]) -> Outline:
        """The outline that `told` this. Raises KeyError, TypeError, ValueError or IndexError for anything
        else."""
        shared = told["shared"]
        seeds = [Seeds(*values) for values in shared["seeds"]]
        networks = [tuple(values) for values in shared["network"]]
        questions = [
            None if own is None else tuple(OutlinedQuestion(*one) for one in own)
            for own in shared["questions"]
        ]
        words = {name: shared[name] for name in ("kind", "recipe_name", "dataset_name", "file_set")}
        keys, labels, every = told["trajectory"]
        return cls(
            **{name: told[name] for name in _PLAIN},
            highlight=tuple(told["highlight"]),
            expects_nothing=tuple(told["expects_nothing"]),
            measurements=tuple(OutlinedQuestion(*one) for one in told["measurements"]),
            evaluated=frozenset((question, name) for question, name in told["evaluated"]),
            trajectory=Trajectory(frozenset(keys), tuple(labels), every),
            keys=frozenset(told["keys"]),
            subjects=tuple(
                OutlinedSubject(
                    key, label, words["kind"][kind], seeds[seed], networks[network],
                    words["recipe_name"][recipe], epochs, words["dataset_name"][dataset],
                    words["file_set"][files], questions[own],
                )
                for key, label, kind, seed, network, recipe, epochs, dataset, files, own
                in told["subjects"]
            ),
        )  # fmt: skip


_PLAIN = ("name", "title", "description", "threads", "repeats")
_SHARED = ("kind", "seeds", "network", "recipe_name", "dataset_name", "file_set", "questions")


class _Once:
    """Values that stand once each, by their places."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Any, int] = {}

    def place(self, value: Any) -> int:
        if value not in self._places:
            self._places[value] = len(self.values)
            plain = dataclasses.astuple(value) if isinstance(value, Seeds) else value
            self.values.append(plain)
        return self._places[value]


def _cells(subject: OutlinedSubject) -> Iterable[tuple[str, Any]]:
    return zip(subject._fields, subject, strict=True)
