"""Is what a results folder holds what was written: framing, schema, checksums, identity, weights, columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.registry import SOURCE_HASH
from sharpbench.results.checksum import Damaged
from sharpbench.results.keys import question_keys_of
from sharpbench.results.reading import Stored
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore, SubjectFolder

__all__ = ["Verified", "verify_store"]


@dataclass
class Verified:
    """What was looked at, and what is wrong with it."""

    subjects: int = 0
    records: int = 0
    unproven: int = 0
    """Records and descriptions that carry no checksum, since an older version wrote them."""
    faults: list[str] = field(default_factory=list)
    stored: dict[str, tuple[SubjectFolder, Stored]] = field(default_factory=dict)
    """By folder, the subjects whose description is sound."""


def verify_store(store: ResultsStore, seen: Callable[[str], None]) -> Verified:
    """Everything that can be told without computing; ``seen`` is told each subject's folder."""
    found = Verified()
    found.faults += map(str, store.damaged_documents())
    runs = store.documents("runs")
    lost: dict[str, int] = {}
    for folder in store.subjects():
        seen(folder.path.name)
        stored = folder.load()
        found.subjects += 1
        found.faults += map(str, stored.left_out)
        found.unproven += stored.unproven
        if stored.description is None:
            continue
        found.stored[folder.path.name] = folder, stored
        found.records += len(stored.records)
        if stored.description["status"] == "trained":
            try:
                folder.weights()
            except Damaged as error:
                found.faults.append(f"{folder.path.name}/weights.safetensors: {error}")
        for record in stored.records:
            if fault := _question_fault(record):
                found.faults.append(
                    f"{folder.path.name}/measurements.jsonl, {record.label}: {fault}"
                )
            if record.run not in runs:
                lost[record.run] = lost.get(record.run, 0) + 1
    for name in store.columns.unlike([folder.path.name for folder in store.subjects()]):
        found.faults.append(
            f".columns: its copy of {name} is not what the lines say; delete .columns, and it is made anew"
        )
    for run, count in lost.items():
        found.faults.append(
            f"runs/{run}.json: it is missing or damaged, and with it the versions and the machine of "
            f"{count} records"
        )
    return found


def _question_fault(record: Record) -> str | None:
    """Whether the record's metric and parameters are those that it was asked with.

    Told by the key of the question, where all that enters it is in the record: of metrics asked without a
    transformation.
    """
    if record.kind not in {"measurement", "problem", "calibration"} or record.transformation:
        return None
    metric = {"name": record.name, "version": record.version, **record.parameters}
    if record.metric_source:
        metric[SOURCE_HASH] = record.metric_source
    if record.plan_key in question_keys_of(metric, record.draw):
        return None
    told = {k: v for k, v in metric.items() if k not in _unsaid(record)}
    if record.plan_key in question_keys_of(told, record.draw):
        return None
    return "its metric and parameters are not those of its question"


def _unsaid(record: Record) -> set[str]:
    """The parameters that no key names: those given to the metric later, where they have the default."""
    try:
        later = metrics.get(str(record.name)).defaults_added_later()
    except InputError:
        return set()
    return {name for name, default in later.items() if record.parameters.get(name) == default}
