"""The results folder: one folder a subject, appended to crash-safely by one writer at a time.

What is read is proven first: a record by its line's checksum, its schema and its key, which is that of the
subject, of its weights and of the question. What can't be is left out and named; a run moves it out of the
way and never deletes it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpbench.errors import InputError, LeftOutWarning, first_line, nearest_names
from sharpbench.results.checksum import Damaged, json_object, sealed
from sharpbench.results.claim import Claim, claimed, deleted_meanwhile
from sharpbench.results.coded import SORTS, stored_columns, wanted_rows
from sharpbench.results.columns import Columns, Content, Rows
from sharpbench.results.description import ANSWERED, FOLDER_NAME, SCHEMA
from sharpbench.results.disk import (
    clear,
    fault_of,
    named_in_errors,
    read_file,
    set_aside,
    sweep_partials,
    write_atomically,
)
from sharpbench.results.reading import (
    DESCRIPTION,
    LINES,
    TORN,
    LeftOut,
    Line,
    Lines,
    Stored,
    Threads,
    content_of,
    read_stored,
    reader_version,
    stored_description,
)
from sharpbench.results.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = [
    "ResultsBusy",
    "ResultsStore",
    "SubjectFolder",
    "left_out_of",
    "load_records",
    "record_pieces",
    "tell_left_out",
]

_WEIGHTS = "weights.safetensors"
_DAMAGED = "damaged"
_DOCUMENTS = ("suites", "runs", "rules")
_FORGOTTEN = 3600.0
"""Seconds after which nobody is still writing a document."""


class ResultsBusy(InputError):
    """Another run is writing to the results folder."""


class SubjectFolder:
    """``subject.json``, ``weights.safetensors`` and ``measurements.jsonl`` of one subject.

    ``subject.json`` is written last and atomically: a folder without it holds no trained subject.
    ``threads`` tells with how many a run computed.
    """

    def __init__(self, path: Path, threads: Threads | None = None) -> None:
        self.path = path
        self._threads = threads or (lambda run: None)
        self._claim: Claim | None = None
        self._told: list[str] = []
        self._loaded: tuple[object, Stored] | None = None

    def load(self) -> Stored:
        """Everything that is proven; read again only if a file has changed."""
        signature = tuple(_signature(self.path / name) for name in (DESCRIPTION, LINES))
        if self._loaded is None or self._loaded[0] != signature:
            self._loaded = signature, read_stored(self.path, self._threads)
        return self._loaded[1]

    def read(self) -> dict[str, Any] | None:
        """The subject's description, or None if it was never completed or is damaged."""
        return stored_description(self.path, self._threads)[0]

    def records(self) -> list[Record]:
        """Every record, the last one of each key."""
        return list(self.load().records)

    def recorded(self) -> int | None:
        """Bytes of its records; None where there is no description, without which they don't count.

        Opens nothing. Raises ClaimLost where the folder is held, and isn't this process's any more.
        """
        self._check_claim()
        if fault_of(self.path / DESCRIPTION):
            return None
        try:
            return (self.path / LINES).stat().st_size
        except FileNotFoundError:
            return 0

    def look_again(self) -> None:
        """Let a file system of several machines ask what there is now: it does when a file is opened."""
        for path in (self.path.parent, self.path, self.path / DESCRIPTION, self.path / LINES):
            with suppress(OSError):
                os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))

    def commit(self, description: dict[str, Any], weights: dict[str, Tensor] | None) -> None:
        """Write the weights, then the description that makes them count."""
        self._ready()
        before = self.read()
        description = {"schema": SCHEMA if before is None else before["schema"], **description}
        if weights is not None:
            from safetensors.torch import save

            contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
            content = save(contiguous)
            write_atomically(self.path / _WEIGHTS, content)
            description = {**description, "weights_file": hashlib.sha256(content).hexdigest()}
        text = json.dumps(description, indent=1, allow_nan=False, ensure_ascii=False)
        write_atomically(self.path / DESCRIPTION, sealed(text).encode())

    def weights(self) -> dict[str, Tensor]:
        """The tensors that are stored. Raises Damaged for a file that is not what was written."""
        from safetensors import SafetensorError
        from safetensors.torch import load  # not above: to read figures takes no torch

        content = self._weights_file((self.read() or {}).get("weights_file"))
        try:
            return dict(load(content))
        except (SafetensorError, ValueError, KeyError, OverflowError) as error:
            raise Damaged(f"it is no whole safetensors file: {first_line(error)}") from None

    def _weights_file(self, known: str | None) -> bytes:
        content = read_file(self.path / _WEIGHTS)
        if content is None:
            raise Damaged("it is missing")
        if known is not None and hashlib.sha256(content).hexdigest() != known:
            raise Damaged("its SHA-256 is not that of the trained weights")
        return content

    def weights_proven(self, description: Mapping[str, Any]) -> bool:
        """Whether the file with the weights is, byte by byte, what ``description`` says was written."""
        known = description.get("weights_file")
        try:
            return known is not None and bool(self._weights_file(known))
        except Damaged:
            return False

    def weights_fault(self) -> str | None:
        """Why there is no file with the weights, or None. Opens nothing."""
        return fault_of(self.path / _WEIGHTS)

    def set_weights_aside(self, reason: str) -> str:
        """Move a damaged file of weights out of the way; what was done, in a sentence."""
        return self._set_aside(_WEIGHTS, reason, "the network is trained again")

    def set_aside(self, reason: str) -> str:
        """Move the whole subject out of the way; what was done, in a sentence."""
        return self._set_aside("", reason, "it is done again")

    def append(self, records: list[Record]) -> None:
        """Add records; they are on the disk when this returns."""
        self._ready()
        lines = "".join(record.to_line() + "\n" for record in records).encode()
        path = self.path / LINES
        with named_in_errors(path), path.open("ab+", buffering=0) as file:
            _mend_tail(file)
            start = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, lines)
                os.fsync(file.fileno())
            except OSError:  # all of them or none, so that none is done twice
                with suppress(OSError):
                    file.truncate(start)
                raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder: a second writer waits."""
        if os.path.lexists(self.path) and not self.path.is_dir():
            moved = set_aside(self.path, self.path.parent / _DAMAGED, self.path.name)
            self._told.append(f"{self.path.name}: it is no folder; it was moved to {moved}")
        self.path.mkdir(parents=True, exist_ok=True)
        if strange := clear(self.path / ".lock", self.path.parent / _DAMAGED, self.path.name):
            self._told.append(f"{self._place('.lock')}: it is no file; it was moved to {strange}")
        import filelock

        # The lock is for this machine, and ends with the process; the claim for those that share the folder.
        try:
            with filelock.FileLock(self.path / ".lock"), claimed(self.path) as self._claim:
                sweep_partials(self.path)
                try:
                    yield
                except FileNotFoundError:  # it may have gone after it was last asked for
                    self._check_claim()
                    raise
                finally:
                    self._claim = None
        except FileNotFoundError:
            if self.path.is_dir():
                raise
            raise InputError(deleted_meanwhile(self.path)) from None

    def files(self) -> dict[str, bytes]:
        """The bytes of the three files, as far as they are there: to be taken to another machine."""
        found = {name: read_file(self.path / name) for name in (_WEIGHTS, LINES, DESCRIPTION)}
        return {name: content for name, content in found.items() if content is not None}

    def proven_lines(self) -> dict[str, Line]:
        """By their keys the records' lines as they stand, without those that are not believed."""
        description = self.read()
        if description is None or description["status"] not in ANSWERED:
            return {}
        try:
            content = read_file(self.path / LINES) or b""
        except Damaged:
            return {}
        return Lines(content, description, self._threads).lines

    def take(self, files: dict[str, bytes]) -> None:
        """Put `files` of another machine in place, the description last, while the folder is held."""
        self._check_claim()
        for name in (_WEIGHTS, LINES, DESCRIPTION):
            if name in files and read_file(self.path / name) != files[name]:
                write_atomically(self.path / name, files[name])

    def _ready(self) -> None:
        """The folder is there to be written to: one that is held is never made anew, nobody holds that."""
        if self._claim is None:
            self.path.mkdir(parents=True, exist_ok=True)
        self._check_claim()

    def _check_claim(self) -> None:
        if self._claim is not None:
            self._claim.check()

    def mend(self) -> list[str]:
        """Move what is damaged out of the way, while the folder is held; what was done, in sentences.

        A subject whose description is damaged goes as a whole to ``damaged/<folder>-<n>/``, so does a
        file that is none or holds other weights; single lines go to ``measurements.damaged.jsonl``.
        """
        told, self._told = self._told, []
        description, fault, _ = stored_description(self.path, self._threads)
        if fault:
            return [*told, self.set_aside(f"{DESCRIPTION}: {fault}")]
        try:
            content = read_file(self.path / LINES) or b""
        except Damaged as error:
            told.append(self._set_aside(LINES, str(error), "what it held is measured again"))
            content = b""
        if description is not None and description["status"] in ANSWERED:
            told += self._mend_lines(content, description)
        if description is not None and description["status"] == "trained":
            try:
                self.weights()
            except Damaged as error:
                if os.path.lexists(self.path / _WEIGHTS):
                    told.append(self.set_weights_aside(str(error)))
                else:
                    told.append(f"{self._place(_WEIGHTS)}: {error}; the network is trained again")
        return told

    def _mend_lines(self, content: bytes, description: dict[str, Any]) -> list[str]:
        found = Lines(content, description, self._threads)
        if found.faults:
            aside = self.path / "measurements.damaged.jsonl"
            if os.path.lexists(aside) and fault_of(aside):
                self._set_aside(aside.name, "", "")
            lines = content.split(b"\n")
            with named_in_errors(aside), aside.open("ab") as file:
                file.write(b"".join(lines[n - 1] + b"\n" for n in sorted(found.faults)))
                file.flush()
                os.fsync(file.fileno())
            kept = [line for n, line in enumerate(lines, 1) if n not in found.faults]
            write_atomically(self.path / LINES, b"\n".join(kept))
        if found.torn:
            with (self.path / LINES).open("ab+", buffering=0) as file:
                _mend_tail(file)
        moved = "; moved to measurements.damaged.jsonl, and measured again if it is still asked for"
        return [
            f"{left_out}{'' if left_out.reason == TORN else moved}"
            for left_out in found.left_out(self._place(LINES))
        ]

    def _set_aside(self, name: str, reason: str, then: str) -> str:
        """Move a file of the folder, or with ``""`` all of them, into ``damaged``."""
        root = self.path.parent / _DAMAGED
        moving = [self.path / name] if name else sorted(self.path.iterdir())
        # The description first: without it nothing else counts, should this be interrupted.
        moving.sort(key=lambda path: path.name != DESCRIPTION)
        target: Path | None = None
        for path in moving:
            if path.name in {".lock", ".claim"}:
                continue
            if target is None:
                target = set_aside(path, root, self.path.name).parent
            else:
                os.rename(path, target / path.name)
        place = self._place(name) if name else self.path.name
        where = f"{_DAMAGED}/{target.name}" if target else _DAMAGED
        return f"{place}: {reason}; moved to {where}, {then}"

    def _place(self, name: str) -> str:
        return f"{self.path.name}/{name}"


def _write_all(file: RawIOBase, content: bytes) -> None:
    """Without a buffer, which would try once more when the file is closed."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def _mend_tail(file: RawIOBase) -> None:
    """End the last line of a file opened for appending: a whole one with its newline, else cut it off."""
    end = position = file.seek(0, os.SEEK_END)
    tail = b""
    while position and b"\n" not in tail:
        step = min(position, 1 << 16)
        position -= step
        file.seek(position)
        tail = (file.read(step) or b"") + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return
    whole = tail.rstrip(b"\0")
    start = end - len(tail)
    try:
        Record.from_line(whole)
    except Damaged:
        file.truncate(start)
        return
    file.truncate(start + len(whole))
    file.seek(0, os.SEEK_END)
    file.write(b"\n")


def _signature(path: Path) -> tuple[int, ...]:
    """Changes whenever the file does."""
    try:
        state = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return state.st_ino, state.st_mtime_ns, state.st_size


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from another one that is put in its place; None if there is none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino


class ResultsStore:
    """A results folder, shared by any number of suites."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._threads_of: dict[str, int | None] = {}
        self._held: tuple[int, int] | None = None

    @functools.cached_property
    def columns(self) -> Columns:
        """The records as columns; see `sharpbench.results.columns` for what of it is believed."""
        return Columns(
            self.root,
            (DESCRIPTION, LINES),
            SORTS,
            self._content,
            version=reader_version(),
            also=self._threads,
        )

    def _content(self, name: str) -> Content:
        asked: dict[str, int | None] = {}

        def threads(run: str) -> int | None:
            asked[run] = self._threads(run)
            return asked[run]

        content = content_of(read_stored(self.root / name, threads))
        return dataclasses.replace(content, also=asked)

    def asked(self, suite: str | None) -> tuple[list[str], set[str] | None]:
        """The names of the folders of a suite and the keys of its questions; None: all there are."""
        if suite is None:
            return [folder.path.name for folder in self.subjects()], None
        manifest = self.manifest(suite)
        keys = [*manifest["subjects"], *manifest.get("problems", [])]
        return [key[:FOLDER_NAME] for key in keys], set(manifest["plan_keys"])

    def subject(self, key: str) -> SubjectFolder:
        return SubjectFolder(self.root / key[:FOLDER_NAME], self._threads)

    def subjects(self) -> list[SubjectFolder]:
        """Every folder with a description of a subject, be it damaged or another folder's."""
        if not self.root.is_dir():
            return []
        with os.scandir(self.root) as entries:
            names = sorted(e.name for e in entries if _is_folder(e))
        folders = (self.root / n for n in names if n not in {*_DOCUMENTS, _DAMAGED})
        there = (path for path in folders if os.path.lexists(path / DESCRIPTION))
        return [SubjectFolder(path, self._threads) for path in there]

    def _threads(self, run: str) -> int | None:
        """With how many threads a run computed, where its provenance tells."""
        if run not in self._threads_of:
            try:
                found = _document("runs", self.root / "runs" / f"{run}.json")
            except (Damaged, OSError, ValueError):
                found = None
            threads = (found or {}).get("settings", {}).get("threads")
            self._threads_of[run] = threads if isinstance(threads, int) else None
        return self._threads_of[run]

    def write_document(self, kind: str, name: str, content: dict[str, Any]) -> None:
        """Write ``<kind>/<name>.json`` (a suite's manifest, a run's provenance) atomically.

        One that stands there and is damaged is moved to ``damaged``.
        """
        folder = self.root / kind
        if os.path.lexists(folder) and not folder.is_dir():
            set_aside(folder, self.root / _DAMAGED, kind)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        try:
            _document(kind, path)
        except Damaged:
            set_aside(path, self.root / _DAMAGED, kind)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_atomically(path, sealed(text, place=f"{kind}/{name}").encode())

    def documents(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every ``<kind>/*.json`` by name; `damaged_documents` names those that are not believed."""
        return self._documents(kind)[0]

    def damaged_documents(self) -> list[LeftOut]:
        """The manifests, provenances and rules that are not what was written."""
        return [left_out for kind in _DOCUMENTS for left_out in self._documents(kind)[1]]

    def _documents(self, kind: str) -> tuple[dict[str, dict[str, Any]], list[LeftOut]]:
        found, left_out = {}, []
        for path in sorted(self.root.glob(f"{kind}/*.json")):
            try:
                content = _document(kind, path)
            except Damaged as error:
                left_out.append(LeftOut(f"{kind}/{path.name}", str(error)))
            else:
                if content is not None:
                    found[path.stem] = content
        return found, left_out

    def manifest(self, suite: str) -> dict[str, Any]:
        """What a suite asked for when it last ran here. Raises InputError if it never did, or if what it
        asked for is damaged."""
        manifests, left_out = self._documents("suites")
        if suite in manifests:
            return manifests[suite]
        for damaged in left_out:
            if damaged.place == f"suites/{suite}.json":
                raise InputError(
                    f"{self.root}/{damaged}. The next run of the suite writes it again: its networks "
                    "and figures are kept"
                )
        raise InputError(
            f"no results of suite {suite!r} in {self.root}. {nearest_names(suite, manifests)}"
        )

    @contextmanager
    def locked(self, *, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the whole folder for a run. A second run says so and waits, or raises ResultsBusy."""
        import filelock  # not above: to read takes no lock

        self.root.mkdir(parents=True, exist_ok=True)
        path, holder = self.root / ".lock", self.root / ".lock.holder"
        for file in (path, holder):
            if strange := clear(file, self.root / _DAMAGED, file.name):
                say(f"{file} is no file; it was moved to {strange}")
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            who = _text(holder) or "another process"
            if not wait:
                raise ResultsBusy(f"{self.root} is in use by {who}") from None
            say(f"{self.root} is in use by {who}; waiting for it to finish")
            lock.acquire()
        try:
            with named_in_errors(holder):
                holder.write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
            for kind in _DOCUMENTS:  # other machines write some of them, too
                sweep_partials(self.root / kind, before=holder.stat().st_mtime - _FORGOTTEN)
            self._held = _identity(path)
            yield
        except FileNotFoundError:
            self.check_held()
            raise
        finally:
            self._held = None
            holder.unlink(missing_ok=True)
            lock.release()

    def check_held(self) -> None:
        """Raises InputError if the folder that a run holds was deleted, or another put in its place."""
        if self._held is not None and self._held != _identity(self.root / ".lock"):
            raise InputError(deleted_meanwhile(self.root))

    def check_recorded(self, recorded: Mapping[str, int]) -> None:
        """Raises InputError unless each subject, by its key, has so many bytes of records still."""

        def gone(folder: SubjectFolder, bytes_then: int) -> bool:
            found = folder.recorded()
            return found is None or found < bytes_then

        missing = []
        for key, bytes_then in recorded.items():
            folder = self.subject(key)
            if gone(folder, bytes_then):
                folder.look_again()
                if gone(folder, bytes_then):
                    missing.append(folder.path)
        if missing:
            raise InputError(deleted_meanwhile(missing[0], len(missing) - 1))


def load_records(
    path: str | Path,
    *,
    suite: str | None = None,
    columns: Collection[str] | None = None,
    kinds: Collection[str] | None = None,
    fresh: bool = False,
    read_only: bool = False,
) -> pd.DataFrame:
    """Every figure under a results folder as one long frame: a row a figure.

    Columns: ``subject`` (key), ``dataset``, ``model``, ``recipe``, ``seed`` (that of the data; those of all
    streams as ``seed.data``, ``seed.initialization``, ``seed.training``), every parameter of the three as
    ``dataset.noise`` …, ``problem`` and ``problem.scale`` … for problems with known answers, the fields
    of `Record` (``kind``, ``name``, ``label``, ``status``, ``reason``, ``value``, ``standard_error``, …),
    with the training logs as ``kind="training"``. Costs are columns ``cost.median_seconds`` …. A subject
    without a trained network is a row of ``kind="subject"`` with its reason. Lists and dicts are decoded when
    they are looked at.

    Parameters
    ----------
    path: the results folder.
    suite: keep what this suite asked for when it last ran here.
    columns: only these; those of costs and of parameters that no record has are NaN. None: all.
    kinds: only records of these kinds. None: all.
    fresh: read every line's bytes again, in place of believing the copy in ``.columns`` of files that were
        not touched since.
    read_only: keep columns of one value in the memory of one, which saves a quarter of a large store's; what
        writes to these in place raises ValueError.

    Raises
    ------
    InputError: there are no results, none of that suite, or no such column.
    """
    from sharpbench.results.frame import column, frame_of  # pandas is for who wants a frame

    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no results folder {root}")
    store = ResultsStore(root)
    folders, questions = store.asked(suite)
    where, needs = wanted_rows(questions, kinds)
    if fresh:
        store.columns.facts(folders, fresh=True)
    rows = store.columns.rows(
        folders, stored_columns(columns), where=where, needs=needs, convert=column
    )
    told = _tell(root, rows.facts)
    if not len(rows.folder) and kinds is None:
        raise _no_results(root, suite, rows.facts)
    common = [fact["columns"] or {} for fact in rows.facts]
    frame = frame_of(rows, columns, common, read_only=read_only)
    frame.attrs["left_out"] = told
    return frame


def record_pieces(path: str | Path, *, suite: str | None = None) -> Iterator[pd.DataFrame]:
    """The frame of `load_records` in pieces of some ten thousand rows, each of the same columns and types.

    Whole folders after each other in the order of their names; texts and what may be missing are in pandas'
    nullable types. Raises InputError if there are no results, or none of that suite.
    """
    from sharpbench.results.frame import column, cost_sorts, frame_of, typed

    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no results folder {root}")
    store = ResultsStore(root)
    folders, questions = store.asked(suite)
    where, needs = wanted_rows(questions, None)
    first = store.columns.rows(folders, ["cost"], where=where, needs=needs, convert=cost_sorts)
    _tell(root, first.facts)
    if not len(first.folder):
        raise _no_results(root, suite, first.facts)
    for piece in store.columns.batches(folders, list(SORTS), where=where, needs=needs):
        rows = Rows(piece.folder, {k: column(k, v) for k, v in piece.columns.items()}, piece.facts)
        common = [fact["columns"] or {} for fact in rows.facts]
        frame = frame_of(rows, None, common, read_only=True)
        yield typed(frame, common, first.columns["cost"])


def _tell(root: Path, facts: Sequence[Mapping[str, Any]]) -> list[str]:
    return tell_left_out(root, left_out_of(facts), sum(fact["unproven"] for fact in facts))


def _no_results(root: Path, suite: str | None, facts: Sequence[Mapping[str, Any]]) -> InputError:
    why = "".join(f"\n  {left_out}" for left_out in left_out_of(facts))
    of = f" of suite {suite!r}" if suite else ""
    return InputError(f"no results in {root}{of}" + (f". Left out:{why}" if why else ""))


def left_out_of(facts: Iterable[Mapping[str, Any]]) -> list[LeftOut]:
    """What is not believed, from what the columns say of each folder."""
    return [
        LeftOut(place, reason, tuple(lines))
        for fact in facts
        for place, reason, lines in fact["left_out"]
    ]


def tell_left_out(root: Path, left_out: Iterable[LeftOut], unproven: int) -> list[str]:
    """Warn of what is not believed, and of what nothing proves; the same as sentences."""
    told = list(map(str, left_out))
    if told:
        shown = "".join(f"\n  {line}" for line in told[:10])
        more = f"\n  and {len(told) - 10} more" if len(told) > 10 else ""
        warnings.warn(
            f"left out of {root}, and measured again by the next run:{shown}{more}",
            LeftOutWarning,
            stacklevel=3,
        )
    if unproven:
        old = (
            f"{unproven} records or descriptions in {root} were written without checksums, by an "
            "earlier version: a changed digit in them would not be noticed"
        )
        warnings.warn(old, LeftOutWarning, stacklevel=3)
        told.append(old)
    return told


def _document(kind: str, path: Path) -> dict[str, Any] | None:
    """A document's content, None if there is none. Raises Damaged."""
    content = read_file(path)
    if content is None:
        return None
    found, _ = json_object(content, place=f"{kind}/{path.stem}")
    for key, type_ in _DOCUMENT_TYPES.get(kind, {}).items():
        if key in found and not isinstance(found[key], type_):
            raise Damaged(f"its entry {key!r} is of another type")
    if "run" not in found and kind == "suites":
        raise Damaged("its entry 'run' is missing")
    return found


_DOCUMENT_TYPES: dict[str, dict[str, type]] = {
    "suites": {"run": str, "suite": str, "subjects": list, "problems": list, "plan_keys": list},
    "runs": {"versions": dict, "settings": dict, "machine": dict, "device": dict},
}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return (read_file(path) or b"").decode("utf-8", "replace")
    except Damaged:
        return ""
