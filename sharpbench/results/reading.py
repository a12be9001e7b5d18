"""What a subject's folder holds, proven before it is believed, and the rows that the columns hold of it.

Nothing here writes. All that shapes a row is reached from `read_stored` and `content_of`: a columnar copy is
made anew when their definitions, or those that they use, say something else (`reader_version`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from sharpbench.results.checksum import Damaged
from sharpbench.results.columns import Content
from sharpbench.results.definitions import digest_of
from sharpbench.results.description import ANSWERED, SCHEMA, read_description, subject_columns
from sharpbench.results.disk import read_file
from sharpbench.results.keys import expected_key
from sharpbench.results.record import Record

__all__ = [
    "DESCRIPTION",
    "LINES",
    "TORN",
    "LeftOut",
    "Line",
    "Lines",
    "Stored",
    "Threads",
    "content_of",
    "read_stored",
    "reader_version",
    "stored_description",
]

DESCRIPTION, LINES = "subject.json", "measurements.jsonl"
TORN = "torn by a crash, dropped"

Threads = Callable[[str], int | None]
"""With how many threads a run computed, where that is known: versions that wrote no checksums kept figures
of different numbers under one key."""

_IN_COLUMNS = frozenset({"training", "identity"})
"""What of a description stands in the columns already."""


@dataclass(frozen=True)
class LeftOut:
    """Something stored that is not believed.

    ``place`` in the results folder, with the numbers of the ``lines`` from 1 where it is some of a file.
    """

    place: str
    reason: str
    lines: tuple[int, ...] = ()

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.lines[:3]))
        more = f" and {len(self.lines) - 3} more" if len(self.lines) > 3 else ""
        where = f", line{'s'[: len(self.lines) > 1]} {numbers}{more}" if self.lines else ""
        return f"{self.place}{where}: {self.reason}"


@dataclass(frozen=True)
class Stored:
    """What a subject's folder holds that is proven to belong there, and what it holds besides."""

    description: dict[str, Any] | None
    """None where the subject was never completed, or its description is damaged."""
    records: tuple[Record, ...] = ()
    """The last one of each key."""
    left_out: tuple[LeftOut, ...] = ()
    unproven: int = 0
    """Lines and descriptions of an older version, which wrote no checksums."""


@dataclass(frozen=True)
class Line:
    """A record with its line, without the newline; ``proven``: whether it carries its checksum."""

    record: Record
    content: bytes
    proven: bool


class Lines:
    """The lines of ``measurements.jsonl``, each of them proven or at fault.

    Lines end at ``\\n`` alone. The last one counts without it too, if it is whole.
    """

    def __init__(self, content: bytes, description: dict[str, Any], threads: Threads) -> None:
        self.lines: dict[str, Line] = {}
        """By the record's key, the last one of each."""
        self.faults: dict[int, str] = {}
        """By the number of the line, what is wrong with it."""
        self.torn: int | None = None
        """The number of a last line that was never finished."""
        self.unproven = 0
        self._description, self._threads = description, threads
        self._subject, self._weights = description["key"], description["weights"]
        self._along: list[str] | None = description.get("trajectories")
        *lines, tail = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                self._add(line)
            except Damaged as error:
                self.faults[number] = str(error)
        if tail:
            try:
                self._add(tail.rstrip(b"\0"))
            except Damaged:
                self.torn = len(lines) + 1

    def left_out(self, place: str) -> Iterator[LeftOut]:
        """What is at fault, lines of one reason together."""
        reasons: dict[str, list[int]] = {}
        for number, reason in self.faults.items():
            reasons.setdefault(reason, []).append(number)
        for reason, numbers in reasons.items():
            yield LeftOut(place, reason, tuple(numbers))
        if self.torn:
            yield LeftOut(place, TORN, (self.torn,))

    def _add(self, line: bytes) -> None:
        record, proven = Record.from_line(line)
        expected = expected_key(
            record.kind,
            self._subject,
            self._weights,
            record.plan_key,
            name=record.name,
            epoch=record.epoch,
        )
        if record.key != expected:
            raise Damaged("it is of another subject, or of other weights than the stored ones")
        if not proven:
            if self._description["schema"] >= SCHEMA:
                raise Damaged("its checksum is missing")
            _check_threads(self._description, record.run, self._threads)
        self.unproven += not proven
        if record.kind != "trajectory" or self._along is None or record.plan_key in self._along:
            self.lines[record.key] = Line(record, line, proven)
        # Else it is of a training that was not finished, and is measured again with it.


def stored_description(
    folder: Path, threads: Threads
) -> tuple[dict[str, Any] | None, str | None, bool]:
    """The description in ``folder``, what is wrong with it, and whether its checksum proves it."""
    try:
        content = read_file(folder / DESCRIPTION)
        if content is None:
            return None, None, True
        found, proven = read_description(content, folder.name)
        if not proven:
            _check_threads(found, found.get("run", ""), threads)
    except Damaged as error:
        return None, str(error), True
    return found, None, proven


def _check_threads(description: dict[str, Any], run: str, threads: Threads) -> None:
    used, asked = threads(run), description["identity"].get("threads", 1)
    if used not in (None, asked):
        raise Damaged(f"it was computed with {used} threads, and {asked} are asked for")


def read_stored(folder: Path, threads: Threads) -> Stored:
    """Everything in ``folder`` that is proven."""
    description, fault, proven = stored_description(folder, threads)
    if fault:
        return Stored(None, left_out=(LeftOut(f"{folder.name}/{DESCRIPTION}", fault),))
    if description is None:
        return Stored(None)
    if description["status"] not in ANSWERED:
        return Stored(description, unproven=not proven)
    place = f"{folder.name}/{LINES}"
    try:
        content = read_file(folder / LINES) or b""
    except Damaged as error:
        left_out = (LeftOut(place, str(error)),)
        return Stored(description, left_out=left_out, unproven=not proven)
    found = Lines(content, description, threads)
    return Stored(
        description,
        tuple(line.record for line in found.lines.values()),
        tuple(found.left_out(place)),
        found.unproven + (not proven),
    )


def content_of(stored: Stored) -> Content:
    """What the columns hold of a subject."""
    description = stored.description
    facts: dict[str, Any] = {
        "columns": None,
        "description": None,
        "left_out": [dataclasses.astuple(left_out) for left_out in stored.left_out],
        "unproven": stored.unproven,
    }
    if description is None:
        return Content(facts, [])
    facts["columns"] = subject_columns(description)
    facts["description"] = {k: v for k, v in description.items() if k not in _IN_COLUMNS}
    if description["status"] not in ANSWERED:
        # A network of a user's own, which alone is `said` how it was read, and a problem are never trained.
        trained = "problem" not in description["identity"] and "said" not in description
        failed = "training" if trained else "building"
        row = {"kind": "subject", "name": failed, "label": failed}
        row |= {"status": description["status"], "reason": description["reason"]}
        return Content(facts, [row])
    cost = {"shared_machine": description.get("shared_machine")}
    log: list[dict[str, Any]] = [
        {"kind": "training", "name": name, "label": name, "status": "ok", "value": value,
         "epoch": int(row["epoch"]), "cost": cost}
        for row in (description.get("training") or {}).get("epochs", [])
        for name, value in row.items()
        if name != "epoch"
    ]  # fmt: skip
    return Content(facts, [*log, *(record.__dict__ for record in stored.records)])


@functools.cache
def reader_version() -> str:
    """Tells apart the versions of what reads records: another one may read them otherwise.

    pydantic's is a part of it, which takes the types of a record's fields literally or not.
    """
    return f"{digest_of(read_stored, content_of)} pydantic {pydantic.VERSION}"
