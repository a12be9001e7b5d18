"""The results folder: one folder a subject, appended to crash-safely by one writer at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
from safetensors.torch import load_file, save
from torch import Tensor

from sharpbench.errors import InputError, nearest_names
from sharpbench.results.record import Record
from sharpbench.seeds import STREAMS

__all__ = ["ResultsBusy", "ResultsStore", "SubjectFolder", "load_records"]


_SPOILT = (
    "the file was edited or the disk is failing. Delete the folder to measure this subject again."
)


class ResultsBusy(InputError):
    """Another run is writing to the results folder."""


class SubjectFolder:
    """``subject.json``, ``weights.safetensors`` and ``measurements.jsonl`` of one subject.

    ``subject.json`` is written last and atomically: a folder without it holds no trained subject.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """The subject's description, or None if it was never completed."""
        path = self.path / "subject.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise InputError(f"{path}: not a description; {_SPOILT}") from None
        return content

    def commit(self, description: dict[str, Any], weights: dict[str, Tensor] | None) -> None:
        """Write the weights, then the description that makes them count."""
        self.path.mkdir(parents=True, exist_ok=True)
        if weights is not None:
            contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
            _write_atomically(self.path / "weights.safetensors", save(contiguous))
        text = json.dumps(description, indent=1, allow_nan=False, ensure_ascii=False)
        _write_atomically(self.path / "subject.json", text.encode())

    def weights(self) -> dict[str, Tensor]:
        return dict(load_file(self.path / "weights.safetensors"))

    def records(self) -> list[Record]:
        """Every record, the last one of each key; a torn last line is dropped with a warning."""
        return list({record.key: record for record in self._lines()}.values())

    def append(self, records: list[Record]) -> None:
        """Add records; they are on the disk when this returns."""
        path = self.path / "measurements.jsonl"
        self.path.mkdir(parents=True, exist_ok=True)
        self._cut_torn_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(record.to_line() + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder: a second writer waits."""
        self.path.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.path / ".lock"):
            yield

    def _lines(self) -> Iterator[Record]:
        path = self.path / "measurements.jsonl"
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.readlines()  # str.splitlines would also split inside a text, at U+2028
        for number, line in enumerate(lines, start=1):
            try:
                yield Record.from_line(line)
            except (json.JSONDecodeError, TypeError):
                if number < len(lines):
                    raise InputError(f"{path}, line {number}: not a record; {_SPOILT}") from None
                warnings.warn(
                    f"{path}, line {number}: torn by a crash, dropped", RuntimeWarning, stacklevel=4
                )

    @staticmethod
    def _cut_torn_line(path: Path) -> None:
        if not path.exists():
            return
        with path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)


class ResultsStore:
    """A results folder, shared by any number of suites."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def subject(self, key: str) -> SubjectFolder:
        return SubjectFolder(self.root / key[:20])

    def subjects(self) -> list[SubjectFolder]:
        """Every completed subject."""
        return [SubjectFolder(path.parent) for path in sorted(self.root.glob("*/subject.json"))]

    def write_document(self, kind: str, name: str, content: dict[str, Any]) -> None:
        """Write ``<kind>/<name>.json`` (a suite's manifest, a run's provenance) atomically."""
        (self.root / kind).mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        _write_atomically(self.root / kind / f"{name}.json", text.encode())

    def documents(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every ``<kind>/*.json`` by name."""
        return {
            p.stem: json.loads(p.read_text("utf-8"))
            for p in sorted(self.root.glob(f"{kind}/*.json"))
        }

    def manifest(self, suite: str) -> dict[str, Any]:
        """What a suite asked for when it last ran here. Raises InputError if it never did."""
        manifests = self.documents("suites")
        if suite not in manifests:
            raise InputError(
                f"no results of suite {suite!r} in {self.root}. {nearest_names(suite, manifests)}"
            )
        return manifests[suite]

    @contextmanager
    def locked(self, *, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the whole folder for a run. A second run says so and waits, or raises ResultsBusy."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / ".lock"
        lock = filelock.FileLock(path)
        holder = self.root / ".lock.holder"
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            who = holder.read_text("utf-8") if holder.exists() else "another process"
            if not wait:
                raise ResultsBusy(f"{self.root} is in use by {who}") from None
            say(f"{self.root} is in use by {who}; waiting for it to finish")
            lock.acquire()
        try:
            holder.write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


def load_records(path: str | Path, *, suite: str | None = None) -> pd.DataFrame:
    """Every figure under a results folder as one long frame: a row a figure.

    Columns: ``subject`` (key), ``dataset``, ``model``, ``recipe``, ``seed`` (that of the data; those of all
    streams as ``seed.data``, ``seed.initialization``, ``seed.training``), every parameter of the three as
    ``dataset.noise`` …, ``problem`` and ``problem.scale`` … for problems with known answers, the fields
    of `Record` (``kind``, ``name``, ``label``, ``status``, ``reason``, ``value``, ``standard_error``, …),
    with the training logs as ``kind="training"``. Costs are columns ``cost.median_seconds`` …. A subject
    without a trained network is a row of ``kind="subject"`` with its reason.

    Parameters
    ----------
    path: the results folder.
    suite: keep what this suite asked for when it last ran here.

    Raises InputError if there are no results, or none of that suite.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no results folder {root}")
    store = ResultsStore(root)
    wanted: set[str] | None = None
    if suite is None:
        folders = store.subjects()
    else:
        manifest = store.manifest(suite)
        wanted = set(manifest["plan_keys"])
        keys = [*manifest["subjects"], *manifest.get("problems", [])]
        folders = [store.subject(key) for key in keys]
    rows: list[dict[str, Any]] = []
    for folder in folders:
        rows += _rows_of(folder, wanted)
    if not rows:
        raise InputError(f"no results in {root}" + (f" of suite {suite!r}" if suite else ""))
    frame = pd.DataFrame(rows)
    for field in dataclasses.fields(Record):
        if field.name not in frame.columns and field.name != "cost":
            frame[field.name] = None  # nothing of the kind was recorded
    for column in _REAL_COLUMNS & set(frame.columns):
        frame[column] = frame[column].astype(float)  # also where every entry is missing
    return frame


_REAL_COLUMNS = {
    "expected",
    "limit",
    "value",
    "standard_error",
    "error_bound",
    "function_change",
    "gradient_equivalents",
    "epoch",
}


def _rows_of(folder: SubjectFolder, wanted: set[str] | None) -> list[dict[str, Any]]:
    description = folder.read()
    if description is None:
        return []
    common = _subject_columns(description)
    if description["status"] not in {"trained", "known"}:
        outcome = {"kind": "subject", "name": "training", "label": "training"}
        return [
            {
                **common,
                **outcome,
                "status": description["status"],
                "reason": description["reason"],
            }
        ]
    rows = []
    for row in description.get("training", {}).get("epochs", []):
        for name, value in row.items():
            if name != "epoch":
                figure = {"kind": "training", "name": name, "label": name, "status": "ok"}
                rows.append({**common, **figure, "epoch": int(row["epoch"]), "value": value})
                rows[-1]["cost.shared_machine"] = description.get("shared_machine")
    for record in folder.records():
        if wanted is not None and record.plan_key not in wanted:
            continue
        fields = dict(record.__dict__)
        cost = fields.pop("cost") or {}
        rows.append({**common, **fields, **{f"cost.{k}": v for k, v in cost.items()}})
    return rows


def _subject_columns(description: dict[str, Any]) -> dict[str, Any]:
    identity = description["identity"]
    columns: dict[str, Any] = {
        "subject": description["key"],
        "subject_label": description["label"],
        **_seed_columns(identity["seed"]),
        "device": identity["device"],
        "network_parameters": description.get("parameters"),
    }
    for part in ("dataset", "model", "recipe", "problem"):
        if part not in identity:
            columns |= {part: None, f"{part}_label": None}
            continue
        columns[part] = identity[part]["name"]
        columns[f"{part}_label"] = description[f"{part}_label"]
        for key, value in identity[part].items():
            if key not in {"name", "version", "data"}:
                columns[f"{part}.{key}"] = value
    return columns


def _seed_columns(seed: int | dict[str, int]) -> dict[str, int]:
    """``seed``, that of the data, and ``seed.data``, ``seed.initialization`` and ``seed.training``."""
    streams = seed if isinstance(seed, dict) else dict.fromkeys(STREAMS, seed)
    return {"seed": streams["data"], **{f"seed.{name}": streams[name] for name in STREAMS}}


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
