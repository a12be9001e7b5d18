"""Where every subject of a plan stands, from the columns of the results folder: no line is parsed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpbench.results.coded import coded
from sharpbench.results.description import FOLDER_NAME
from sharpbench.results.record import FINAL
from sharpbench.results.store import ResultsStore, left_out_of
from sharpbench.suite.outline import AnyPlan
from sharpbench.suite.remaining import QUESTIONS, Remaining, left_of
from sharpbench.suite.task import failure

__all__ = ["Standing", "survey"]

_PARTS = ("evaluation", "decision_map", "reliability", "outcomes")
_COLUMNS = ("plan_key", "kind", "name", "status", "title", "label", "transformation", "reason")


@dataclass(frozen=True)
class Standing:
    """What is left to do for a subject."""

    left: Remaining
    """Without the records themselves."""
    settled: bool
    """Whether a run would do nothing for it but name the ``problems`` again."""
    problems: tuple[str, ...] = ()
    """What failed for good."""
    unproven: int = 0
    """Lines and descriptions of an older version, which wrote no checksums."""


def survey(plan: AnyPlan, store: ResultsStore, *, fresh: bool = False) -> list[Standing]:
    """The standing of each subject of ``plan``, in order; by the same rules as `remaining`.

    ``fresh``: the bytes of every line are read again and compared with those that the columns come from, and
    those of the weights with their SHA-256; without it nothing is said of the latter.
    """
    names = [subject.key[:FOLDER_NAME] for subject in plan.subjects]
    if fresh:
        store.columns.facts(names, fresh=True)
    there = sorted(set(names))  # as they stand in the files
    rows = store.columns.rows(there, (*_COLUMNS, "epoch"), convert=coded)
    table = _Table(rows.columns, rows.folder, len(there))
    place = {name: place for place, name in enumerate(there)}
    return [
        _standing(plan, subject, store, rows.facts[place[name]], table, place[name], fresh)
        for subject, name in zip(plan.subjects, names, strict=True)
    ]


class _Table:
    """The rows of each subject, as arrays of codes."""

    def __init__(self, columns: Mapping[str, Any], folder: np.ndarray, count: int) -> None:
        self.words = {name: np.array(columns[name].words, object) for name in _COLUMNS}
        self.codes = {name: columns[name].codes for name in _COLUMNS}
        self.epoch = columns["epoch"]
        self.ends = np.searchsorted(folder, np.arange(count + 1))
        kind, status, title = (columns[name] for name in ("kind", "status", "title"))
        final = status.among(*FINAL)
        self.question = final & kind.among(*QUESTIONS)
        self.part = final & kind.among(*_PARTS)
        self.along = kind.among("trajectory")
        self.told = self.question | self.along
        self.untitled = self.told & ((title.codes < 0) | title.among(""))
        self.failed = self.told & ~status.among("ok", "unsupported")

    def of(self, place: int, name: str, chosen: np.ndarray) -> list[str]:
        rows = slice(self.ends[place], self.ends[place + 1])
        found: list[str] = self.words[name][self.codes[name][rows][chosen[rows]]].tolist()
        return found

    def any(self, place: int, chosen: np.ndarray) -> bool:
        return bool(chosen[self.ends[place] : self.ends[place + 1]].any())

    def epochs(self, place: int) -> set[tuple[str, int]]:
        """The questions asked along training with each epoch."""
        rows = slice(self.ends[place], self.ends[place + 1])
        epochs = self.epoch[rows][self.along[rows]].astype(int).tolist()
        return set(zip(self.of(place, "plan_key", self.along), epochs, strict=True))

    def failures(self, place: int) -> Iterator[dict[str, str | None]]:
        rows = np.arange(self.ends[place], self.ends[place + 1])
        for row in rows[self.failed[rows]]:
            codes = {name: self.codes[name][row] for name in _COLUMNS}
            yield {n: self.words[n][c] if c >= 0 else None for n, c in codes.items()}


def _standing(
    plan: AnyPlan,
    subject: Any,
    store: ResultsStore,
    facts: Mapping[str, Any],
    table: _Table,
    place: int,
    fresh: bool,
) -> Standing:
    description = facts["description"]
    left = left_of(
        plan,
        subject,
        description,
        answered=set(table.of(place, "plan_key", table.question)),
        evaluated=_evaluated(table, place),
        along=table.epochs(place),
        damage=left_out[0] if (left_out := left_out_of([facts])) else None,
        weights_fault=store.subject(subject.key).weights_fault,
    )
    # A problem's network is built anew by each run, which compares it with the one that was measured.
    # Whether data without a fingerprint are still the same is known when they are loaded.
    settled = subject.kind == "trained" and subject.data_known and not facts["left_out"]
    if not settled or description is None or left.training or left.evaluation or left.questions:
        return Standing(left, False)
    trained = description["status"] == "trained"
    if fresh and trained and not store.subject(subject.key).weights_proven(description):
        return Standing(left, False)
    if description["status"] == "diverged":
        return Standing(
            left, True, (f"{subject.label}: {description['reason']}",), facts["unproven"]
        )
    problems: list[str] = []
    if table.any(place, table.untitled) or table.any(place, table.failed):
        own = {m.key for m in plan.asked(subject)} | plan.trajectory.keys
        if not own.isdisjoint(table.of(place, "plan_key", table.untitled)):
            return Standing(left, False)
        problems = [
            failure(str(found["label"]), found["transformation"], found["reason"], subject.label)
            for found in table.failures(place)
            if found["plan_key"] in own
        ]
    return Standing(left, True, tuple(problems), facts["unproven"])


def _evaluated(table: _Table, place: int) -> set[tuple[str, str]]:
    keys = table.of(place, "plan_key", table.part)
    names = table.of(place, "name", table.part)
    return set(zip(keys, names, strict=True))
