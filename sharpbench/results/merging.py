"""Results of several folders brought together, line by line as they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sharpbench.results.description import ANSWERED, SCHEMA
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore, SubjectFolder

__all__ = ["Merged", "merge"]


@dataclass
class Merged:
    """What was taken over, and what was not."""

    subjects: int = 0
    """New ones."""
    records: int = 0
    """New ones, those of new subjects included."""
    conflicts: list[str] = field(default_factory=list)
    """What says something else in both places: what stood there stays."""
    left_out: list[str] = field(default_factory=list)
    """What is not believed where it comes from."""


def merge(
    source: ResultsStore, into: ResultsStore, seen: Callable[[str], None] = lambda name: None
) -> Merged:
    """Take over from ``source`` what ``into``, which the caller holds, does not have.

    A record is taken as its line stands, with its checksum, once the line is proven. Networks of one subject
    whose weights differ (another machine, another version of torch) have figures of their own: those of
    ``into`` stay. ``seen`` is told each folder.
    """
    found = Merged()
    for folder in source.subjects():
        seen(folder.path.name)
        stored = folder.load()
        found.left_out += map(str, stored.left_out)
        if stored.description is not None:
            target = into.subject(stored.description["key"])
            with target.writing():
                _take(folder, stored.description, target, found)
    runs, rules = into.documents("runs"), into.documents("rules")
    for run, content in source.documents("runs").items():
        if run not in runs:
            into.write_document("runs", run, content)
    _merge_suites(source, into, found)
    for audit, judged in source.documents("rules").items():
        into.write_document("rules", audit, {**judged, **rules.get(audit, {})})
    found.left_out += map(str, source.damaged_documents())
    return found


def _take(
    folder: SubjectFolder, description: dict[str, Any], target: SubjectFolder, found: Merged
) -> None:
    lines = folder.proven_lines()
    there = target.load()
    label, answered = description["label"], description["status"] in ANSWERED
    known = there.description
    if known is None or (known["status"] not in ANSWERED and answered):
        files = folder.files()
        files["measurements.jsonl"] = b"".join(line.content + b"\n" for line in lines.values())
        target.take(files)
        found.subjects += known is None
        found.records += len(lines)
        return
    if not answered or known["status"] not in ANSWERED:
        return
    if known["weights"] != description["weights"]:
        found.conflicts.append(
            f"{label}: its weights are others than those that stand here, as are its {len(lines)} figures"
        )
        return
    own = {record.key: record for record in there.records}
    new = []
    for key, line in lines.items():
        record = line.record
        if key not in own:
            if line.proven or known["schema"] < SCHEMA:
                new.append(line.content)
            else:
                found.left_out.append(
                    f"{label}, {record.label}: its line carries no checksum, as those that stand there do"
                )
        elif (own[key].status, own[key].value) != (record.status, record.value):
            after = f" after {record.transformation}" if record.transformation else ""
            found.conflicts.append(
                f"{label}, {record.label}{after}: {_told(record)} there, {_told(own[key])} here"
            )
    if new:
        before = target.files().get("measurements.jsonl", b"")
        ended = before if not before or before.endswith(b"\n") else before + b"\n"
        target.take({"measurements.jsonl": ended + b"".join(line + b"\n" for line in new)})
        found.records += len(new)


def _told(record: Record) -> str:
    return repr(record.value) if record.status == "ok" else record.status


def _merge_suites(source: ResultsStore, into: ResultsStore, found: Merged) -> None:
    mine = into.documents("suites")
    for name, asked in source.documents("suites").items():
        known = mine.get(name)
        if known is None:
            into.write_document("suites", name, asked)
        elif known["suite"] != asked["suite"]:
            found.conflicts.append(
                f"suite {name}: its file says something else there; which networks and questions belong to "
                "it is what stands here"
            )
        else:
            both = {
                key: [
                    *known.get(key, []),
                    *(k for k in asked.get(key, []) if k not in known.get(key, [])),
                ]
                for key in ("subjects", "problems", "plan_keys")
            }
            into.write_document("suites", name, {**known, **both})
