"""A columnar copy of the records beside them, in ``<results>/.columns``: read in a thousandth of the time.

The lines are the truth; this is what they said when they were last read. A folder's part of the copy is
believed if its files have the size, inode, modification time and change time that they had then, which no
program can set back; files that were changed within two seconds of being read, and every file if the caller
asks for it (``fresh``), are believed if their bytes have the same SHA-256. Everything else is read from the
lines again. The copy proves itself: each file of it carries the SHA-256 of its content, and one that is
missing, torn or changed is made anew. Files are put in place whole, by one writer at a time; who reads
meanwhile sees the state before or after. Where nothing can be written
there is no copy, and the lines are read.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharpbench.beside import written_beside
from sharpbench.results.checksum import Damaged
from sharpbench.results.definitions import digest_of
from sharpbench.results.disk import clear, read_file, set_aside

__all__ = ["Columns", "Content", "Rows", "Sort", "one_array"]

Sort = Literal["word", "text", "real", "whole", "flag", "nested", "long nested"]
"""What a column holds: words and nested values repeat and stand once in each file; texts and long nested
values are mostly unlike each other."""

Where = Callable[[pa.Table], pa.Array | None]
Convert = Callable[[str, pa.ChunkedArray, np.ndarray | None], Any]
"""Takes a column by its name, and the order (N,) in which its rows are wanted; None: as they stand."""

_ARROW: dict[Sort, pa.DataType] = {
    "word": pa.dictionary(pa.int32(), pa.string()),
    "nested": pa.dictionary(pa.int32(), pa.string()),
    "text": pa.string(),
    "long nested": pa.string(),
    "real": pa.float64(),
    "whole": pa.int64(),
    "flag": pa.bool_(),
}
_FOLDER = "__folder"
_LAYOUT = 2
"""Raised when the files of the copy are laid out in another way: older ones are made anew."""
_ROWS = 50_000
"""Rows of a full file. Files of fewer than half as many live rows are put together."""
_SMALL_FILES = 8
_OPENED = _SMALL_FILES + 4
"""Files whose columns are kept while the next piece is read: a piece may need every small one."""
_AT_ONCE = 8
"""Columns that are read together."""
_LARGE = frozenset({"text", "long nested"})
_SETTLING = 2_000_000_000
"""Nanoseconds within which a second change could leave the same times."""
_SHARE = 50
"""Folders that one thread reads in a row."""
_PATIENCE = 60.0
"""Seconds to wait for another writer, before the lines are read without leaving a copy."""
_COUNTED = 2**31 - 1
"""Bytes that a string array of arrow can count."""


@dataclass(frozen=True)
class Content:
    """What one folder says: ``facts`` about it, JSON-able, and its ``rows`` by the names of the columns."""

    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    also: Mapping[str, Any] = field(default_factory=dict)
    """What else it was made from, JSON-able and by name: `Columns` asks whether that is so still."""


@dataclass(frozen=True)
class Rows:
    """Rows of several folders: ``folder`` (N,) is the place of each row's folder among those asked for, and
    ``facts`` is what each of these says of itself."""

    folder: np.ndarray
    columns: Mapping[str, Any]
    facts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Entry:
    """What is known of a folder: the state of its files when they were read, and where its rows are."""

    name: str
    stamp: str
    settled: bool
    digest: str
    part: str
    start: int
    rows: int
    facts: str
    also: str


@dataclass(frozen=True)
class _Asked:
    """Which columns of which rows; ``needs`` are those that ``where`` looks at.

    For other columns of the same folders ``kept`` is what it chose, by the file, and ``files`` are those that
    were opened, and proven.
    """

    columns: tuple[str, ...]
    where: Where | None = None
    needs: tuple[str, ...] = ()
    kept: dict[str, pa.Array | None] = field(default_factory=dict)
    files: dict[str, pq.ParquetFile] = field(default_factory=dict)

    def of(self, part: str) -> list[str]:
        """The columns that are read of a file."""
        needs = () if self.where is None or part in self.kept else self.needs
        return list(dict.fromkeys([*self.columns, *needs]))

    def chosen(self, part: str, table: pa.Table) -> pa.Array | None:
        """Which rows of the table of a file are wanted; None: all."""
        if self.where is None:
            return None
        if part not in self.kept:
            self.kept[part] = self.where(table)
        return self.kept[part]


class _Spoilt(Exception):
    """A file of the copy is not what was written."""

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part


class Columns:
    """The copy of the folders under ``root``.

    Parameters
    ----------
    files: the names of the files in each folder that its content is read from.
    sorts: the columns with what each holds.
    read: the content of a folder, by its name, from its files.
    version: of what ``read`` does; a copy made by another one is made anew, as is one that was laid out in
        another way.
    also: what is said now of something that a content was `Content.also` made from, by its name.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        sorts: Mapping[str, Sort],
        read: Callable[[str], Content],
        *,
        version: str,
        also: Callable[[str], Any] = lambda name: None,
    ) -> None:
        self._root, self._files, self._read = root, tuple(files), read
        self._also = also
        self._sorts = dict(sorts)
        self._folder = root / ".columns"
        self._schema = pa.schema(
            [pa.field(_FOLDER, _ARROW["word"]), *(pa.field(n, _ARROW[s]) for n, s in sorts.items())]
        )
        self._made_by = hashlib.sha256(
            repr((_layout(), version, sorted(self._sorts.items()), self._files)).encode()
        ).hexdigest()
        self._memory: dict[str, pa.Table] = {}
        self._held: dict[str, _Entry] = {}
        """What was read and could not be written, by the name of the folder."""

    def facts(self, names: Sequence[str], *, fresh: bool = False) -> list[dict[str, Any]]:
        """What each folder says of itself. ``fresh``: every byte is read again and compared."""
        return _facts(self._entries(names, fresh=fresh))

    def rows(
        self,
        names: Sequence[str],
        columns: Sequence[str],
        *,
        where: Where | None = None,
        needs: Sequence[str] = (),
        convert: Convert | None = None,
    ) -> Rows:
        """``columns`` of the folders ``names``, in that order.

        ``where``: which rows are wanted, from a table of the columns that it ``needs``; None: all.
        ``convert``: what becomes of a column, whose rows it puts in order; only a few wait for it at a time.
        """
        distrusted: set[str] = set()
        while True:
            entries = self._entries(names, distrusted=distrusted)
            try:
                return self._converted(entries, columns, where, needs, convert)
            except _Spoilt as spoilt:
                distrusted.add(spoilt.part)

    def batches(
        self,
        names: Sequence[str],
        columns: Sequence[str],
        *,
        where: Where | None = None,
        needs: Sequence[str] = (),
    ) -> Iterator[Rows]:
        """The same in pieces of some ten thousand rows, in the order of the names of the folders.

        ``folder`` is the place in ``names``.
        """
        asked = _Asked(tuple(columns), where, tuple(needs))
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int32)
        entries = self._entries([names[i] for i in order])
        place_of = np.argsort(order)
        facts = _facts([entries[i] for i in place_of])
        opened: dict[str, pa.Table] = {}
        first, count = 0, 0
        for place, entry in enumerate(entries):
            count += entry.rows
            if count >= _ROWS // 2 or place == len(entries) - 1:
                chosen = slice(first, place + 1)
                try:
                    folder, table = self._gathered(entries[chosen], asked, opened)
                except _Spoilt:
                    own = [names[i] for i in order[chosen]]
                    again = self.rows(own, columns, where=where, needs=needs)
                    folder, table = again.folder, pa.table(dict(again.columns))
                yield Rows(
                    order[chosen][folder], dict(zip(columns, table.columns, strict=True)), facts
                )
                first, count = place + 1, 0

    def unlike(self, names: Sequence[str]) -> list[str]:
        """The folders of whose part of the copy readers would believe what their files don't say.

        Every byte and every line is read; nothing is written.
        """
        index = self._index()
        entries = [index[name] for name in names if name in index]
        believed = [entry for entry in entries if self._is_current(entry)]
        opened: dict[str, pa.Table] = {}
        found = []
        for entry in sorted(believed, key=lambda entry: (entry.part, entry.start)):
            try:
                _, copy = self._gathered([entry], _Asked(tuple(self._schema.names)), opened)
            except _Spoilt:  # no reader believes it
                continue
            content = self._read(entry.name)
            rows = list(content.rows)
            said = _as_table([entry.name] * len(rows), rows, self._sorts, self._schema)
            same = (
                entry.digest == self._digest(entry.name)
                and (entry.facts, entry.also) == (_text(content.facts), _text(content.also))
                and _equal(copy, said)
            )
            if not same and self._stamp(entry.name) == entry.stamp:  # else somebody writes to it
                found.append(entry.name)
        return found

    # --- reading ------------------------------------------------------------------------------

    def _converted(
        self,
        entries: Sequence[_Entry],
        columns: Sequence[str],
        where: Where | None,
        needs: Sequence[str],
        convert: Convert | None,
    ) -> Rows:
        if convert is None:
            asked = _Asked(tuple(columns), where, tuple(needs))
            folder, table = self._gathered(entries, asked, {})
            return Rows(folder, {name: table[name] for name in columns}, _facts(entries))
        found: dict[str, Any] = dict.fromkeys(columns)
        first, *others = self._groups(columns)
        asked = _Asked(first, where, tuple(needs))
        folder, table = self._collected(entries, asked, {})
        order = _order(folder)  # the same for all
        for group in (first, *others):
            if group is not first:
                _, table = self._collected(entries, replace(asked, columns=group), {})
            for name in group:
                found[name] = convert(name, table[name], order)
            del table
        del asked
        pa.default_memory_pool().release_unused()
        return Rows(folder if order is None else folder[order], found, _facts(entries))

    def _groups(self, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """Columns that are read together. The large ones come first and alone: while little else is there."""
        large = [name for name in columns if self._sorts.get(name) in _LARGE]
        rest = [name for name in columns if name not in large]
        small = [tuple(rest[i : i + _AT_ONCE]) for i in range(0, len(rest), _AT_ONCE)]
        return [*((name,) for name in large), *small] or [()]

    def _gathered(
        self, entries: Sequence[_Entry], asked: _Asked, opened: dict[str, pa.Table]
    ) -> tuple[np.ndarray, pa.Table]:
        """The rows of ``entries``, in their order."""
        folder, whole = self._collected(entries, asked, opened)
        asked.files.clear()  # those of whole stores would take as much memory as the store on the disk
        if (order := _order(folder)) is not None:
            folder, whole = folder[order], whole.unify_dictionaries().take(pa.array(order))
        return folder, whole

    def _collected(
        self, entries: Sequence[_Entry], asked: _Asked, opened: dict[str, pa.Table]
    ) -> tuple[np.ndarray, pa.Table]:
        """The rows of ``entries``, in the order of the files, with the place of each one's entry; files that
        are ``opened`` are not read again. Raises _Spoilt."""
        by_part: dict[str, list[int]] = {}
        for place, entry in enumerate(entries):
            if entry.rows:
                by_part.setdefault(entry.part, []).append(place)
        tables, folders = [], []
        for part, places in by_part.items():
            if part not in opened:
                while len(opened) >= _OPENED:
                    del opened[next(iter(opened))]
                opened[part] = self._table(part, asked)
            table = opened[part]
            places.sort(key=lambda place: entries[place].start)
            starts = np.array([entries[place].start for place in places])
            counts = np.array([entries[place].rows for place in places])
            if starts[-1] + counts[-1] > table.num_rows:
                raise _Spoilt(part)
            folder = np.repeat(np.array(places, dtype=np.int32), counts)
            if counts.sum() != table.num_rows:
                ends = np.cumsum(counts)
                rows = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
                table = table.take(pa.array(rows))
            if (kept := asked.chosen(part, table)) is not None:
                table, folder = table.filter(kept), folder[np.asarray(kept)]
            tables.append(table.select(asked.columns))
            folders.append(folder)
            if len(by_part) > _OPENED:
                opened.clear()
        if not tables:
            schema = pa.schema([self._schema.field(c) for c in asked.columns])
            return np.zeros(0, np.int32), schema.empty_table()
        return np.concatenate(folders), pa.concat_tables(tables)

    def _table(self, part: str, asked: _Asked) -> pa.Table:
        columns = asked.of(part)
        if part in self._memory:
            return self._memory[part].select(columns)
        if part not in asked.files:
            content = _bytes(self._folder / part)
            if content is None or hashlib.sha256(content).hexdigest()[:32] != Path(part).stem:
                raise _Spoilt(part)
            words = [f.name for f in self._schema if pa.types.is_dictionary(f.type)]
            asked.files[part] = pq.ParquetFile(pa.BufferReader(content), read_dictionary=words)
        table = asked.files[part].read(columns=columns, use_threads=True)
        # Parquet gives dictionaries back under types of its own.
        wanted = pa.schema([self._schema.field(c) for c in columns])
        return table if table.schema.equals(wanted) else table.select(columns).cast(wanted)

    # --- what is current ----------------------------------------------------------------------

    def _entries(
        self, names: Sequence[str], *, fresh: bool = False, distrusted: Iterable[str] = ()
    ) -> list[_Entry]:
        """The entry of each folder, of those that are not current from their lines."""
        absent = {n for n in names if not os.path.lexists(os.path.join(self._root, n))}
        nothing = {
            n: _Entry(n, "", True, "", "", 0, 0, _text(self._read(n).facts), "{}") for n in absent
        }
        present = [name for name in names if name not in absent]
        lost = set(distrusted)
        digests: dict[tuple[str, str], str] = {}

        def current(index: Mapping[str, _Entry]) -> tuple[list[str], list[_Entry]]:
            """The folders whose entries can't be believed; entries whose files have settled since."""
            stale, doubtful = [], []
            for name in present:
                entry = index.get(name)
                if entry is None or entry.part in lost or not self._is_current(entry):
                    stale.append(name)
                elif fresh or not entry.settled:
                    doubtful.append(entry)
            unread = [e for e in doubtful if (e.name, e.stamp) not in digests]
            with ThreadPoolExecutor() as pool:
                shares = [unread[i : i + _SHARE] for i in range(0, len(unread), _SHARE)]
                for share, told in zip(shares, pool.map(self._digests, shares), strict=True):
                    for entry, digest in zip(share, told, strict=True):
                        digests[entry.name, entry.stamp] = digest
            stale += [e.name for e in doubtful if digests[e.name, e.stamp] != e.digest]
            now = time.time_ns()
            settled = [
                replace(e, settled=True)
                for e in doubtful
                if not e.settled and e.name not in stale and self._has_settled(e.stamp, now)
            ]
            return stale, settled

        index = {**self._index(), **self._held} if present else {}
        stale, settled = current(index)
        if not stale and not settled:
            index |= nothing
            return [index[name] for name in names]
        import filelock  # not above: to read a copy takes no lock

        try:
            if os.path.lexists(self._folder) and not self._folder.is_dir():
                set_aside(self._folder, self._root / "damaged", ".columns")
            self._folder.mkdir(exist_ok=True)
            self._clear(".lock")
            lock = filelock.FileLock(self._folder / ".lock")
            with lock.acquire(timeout=_PATIENCE if stale else 0):
                if len(lost) > _SMALL_FILES:
                    raise OSError("what is written there does not last")
                index = self._index()  # another one may have done it meanwhile
                stale, settled = current(index)
                index |= {entry.name: entry for entry in settled}
                if stale or settled:
                    self._write(index, stale)
                self._memory, self._held = {}, {}
        except (OSError, filelock.Timeout):
            self._held |= self._in_memory(stale)
            index |= self._held
        index |= nothing
        return [index[name] for name in names]

    def _in_memory(self, names: Sequence[str]) -> dict[str, _Entry]:
        """The folders' content as tables that are kept nowhere else."""
        found: dict[str, _Entry] = {}
        for table, entries in self._read_again(names):
            part = f"memory-{len(self._memory)}"
            self._memory[part] = table
            found |= {entry.name: replace(entry, part=part) for entry in entries}
        return found

    def _write(self, index: dict[str, _Entry], stale: Sequence[str]) -> None:
        """Read the ``stale`` folders again, and put their rows and the new index in place."""
        for name in [n for n in index if not (self._root / n).is_dir()]:
            del index[name]
        try:
            for table, entries in self._read_again(sorted(stale)):
                part = self._put_table(table)
                index |= {entry.name: replace(entry, part=part) for entry in entries}
                self._put_index(index)  # what was read so far is kept if it is interrupted
            self._put_together(index)
            self._put_index(index)
        except OSError:  # a full disk isn't filled with what no index names
            self._sweep(self._index())
            raise
        self._sweep(index)

    def _sweep(self, index: Mapping[str, _Entry]) -> None:
        """Remove the files that ``index``, the one in place, doesn't name."""
        used = {entry.part for entry in index.values()}
        for path in [*self._folder.glob("*.parquet"), *self._folder.glob("*.partial")]:
            if path.name not in used and path.name != "index.parquet":
                with suppress(OSError):  # it is none of ours
                    path.unlink(missing_ok=True)

    def _read_again(self, names: Sequence[str]) -> Iterator[tuple[pa.Table, list[_Entry]]]:
        """The content of folders as tables of some size, with the entries of those in each."""
        rows: list[Mapping[str, Any]] = []
        folders: list[str] = []
        entries: list[_Entry] = []
        for number, name in enumerate(names, start=1):
            now, stamp = time.time_ns(), self._stamp(name)
            digest = self._digest(name)
            content = self._read(name)
            if self._stamp(name) != stamp:
                stamp = "changing"  # a writer is at it: the next reader looks again
            settled = self._has_settled(stamp, now)
            place = len(rows), len(content.rows)
            said = _text(content.facts), _text(content.also)
            entries.append(_Entry(name, stamp, settled, digest, "", *place, *said))
            rows += content.rows
            folders += [name] * len(content.rows)
            if len(rows) >= _ROWS or number == len(names):
                yield _as_table(folders, rows, self._sorts, self._schema), entries
                rows, folders, entries = [], [], []

    def _put_together(self, index: dict[str, _Entry]) -> None:
        """Few files of many rows in place of many of few."""
        live: dict[str, list[_Entry]] = {}
        for entry in index.values():
            live.setdefault(entry.part, []).append(entry)
        small = [p for p, e in live.items() if p and sum(x.rows for x in e) < _ROWS // 2]
        if len(small) <= _SMALL_FILES:
            return
        entries = sorted((e for part in small for e in live[part]), key=lambda e: e.name)
        chunk: list[_Entry] = []
        for place, entry in enumerate(entries):
            chunk.append(entry)
            if sum(e.rows for e in chunk) >= _ROWS or place == len(entries) - 1:
                try:
                    _, found = self._gathered(chunk, _Asked(tuple(self._schema.names)), {})
                except _Spoilt:
                    return  # whoever reads that file finds out
                part, start = self._put_table(found.combine_chunks()), 0
                for own in chunk:
                    index[own.name] = replace(own, part=part, start=start)
                    start += own.rows
                chunk = []

    # --- files --------------------------------------------------------------------------------

    def _stamp(self, name: str) -> str:
        """The state of a folder's files: nothing that is written to them leaves it as it was."""
        told = []
        for file in self._files:
            path = f"{self._root}/{name}/{file}"
            try:
                s = os.stat(path)
                told.append([s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino])
            except OSError as error:  # gone, a link that leads nowhere, a circle of them
                told.append([error.errno or 0, int(os.path.lexists(path))])
        return str(told)  # as JSON

    def _is_current(self, entry: _Entry) -> bool:
        """Whether its folder's files, and what else it was made from, are in the state that they had."""
        if entry.stamp != self._stamp(entry.name):
            return False
        if entry.also == "{}":
            return True
        return all(self._also(name) == said for name, said in json.loads(entry.also).items())

    @staticmethod
    def _has_settled(stamp: str, now: int) -> bool:
        if stamp == "changing":
            return False
        files = (state for state in json.loads(stamp) if len(state) > 2)
        return all(max(s[1], s[2]) < now - _SETTLING for s in files)

    def _digests(self, entries: Sequence[_Entry]) -> list[str]:
        return [self._digest(entry.name) for entry in entries]

    def _digest(self, name: str) -> str:
        """SHA-256 of the bytes of a folder's files."""
        digest = hashlib.sha256()
        for file in self._files:
            path = os.path.join(self._root, name, file)
            content, kind = b"", "missing"
            try:
                # No pipe is opened, whose other end may never come.
                mode = os.stat(path).st_mode
                kind = f"{stat.S_IFMT(mode)}"
                if stat.S_ISREG(mode):
                    with open(path, "rb") as found:
                        content = found.read()
            except OSError as error:
                kind = f"{error.errno} {os.path.lexists(path)}"
            digest.update(f"{kind} {len(content)} ".encode() + content)
        return digest.hexdigest()

    def _index(self) -> dict[str, _Entry]:
        """What was last written, empty if there is none that proves itself."""
        content = _bytes(self._folder / "index.parquet")
        if content is None:
            return {}
        head, body = content[:64], content[64:]
        if hashlib.sha256(self._made_by.encode() + body).hexdigest().encode() != head:
            return {}
        columns = pq.ParquetFile(pa.BufferReader(body)).read().to_pydict()
        return {row[0]: _Entry(*row) for row in zip(*columns.values(), strict=True)}

    def _put_index(self, index: Mapping[str, _Entry]) -> None:
        fields = list(_Entry.__dataclass_fields__)
        table = pa.table({f: [getattr(e, f) for e in index.values()] for f in fields})
        body = _parquet(table)
        head = hashlib.sha256(self._made_by.encode() + body).hexdigest().encode()
        self._put("index.parquet", head + body)

    def _put_table(self, table: pa.Table) -> str:
        content = _parquet(table)
        name = hashlib.sha256(content).hexdigest()[:32] + ".parquet"
        self._put(name, content)
        return name

    def _put(self, name: str, content: bytes) -> None:
        with written_beside(self._folder / name) as partial:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._clear(name)

    def _clear(self, name: str) -> None:
        clear(self._folder / name, self._root / "damaged", ".columns")


@functools.cache
def _layout() -> tuple[int, str]:
    return _LAYOUT, digest_of(_as_table, _Entry)


def _as_table(
    folders: list[str],
    rows: list[Mapping[str, Any]],
    sorts: Mapping[str, Sort],
    schema: pa.Schema,
) -> pa.Table:
    arrays = [pa.array(folders, pa.string()).dictionary_encode()]
    for name, sort in sorts.items():
        values = [row.get(name) for row in rows]
        if sort in {"nested", "long nested"}:
            values = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
        array = pa.array(values, pa.string() if sort == "nested" else _plain(sort))
        arrays.append(array.dictionary_encode() if sort in {"word", "nested"} else array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _order(folder: np.ndarray) -> np.ndarray | None:
    """In which rows of these folders come in the order of their numbers; None: they do."""
    if (folder[1:] < folder[:-1]).any():
        return np.argsort(folder, kind="stable")
    return None


def one_array(texts: pa.ChunkedArray) -> pa.Array:
    """All chunks as one array, counted in 64 bits where 32 can't count their letters."""
    if texts.nbytes > _COUNTED:
        texts = texts.cast(pa.large_string())
    return texts.combine_chunks()


def _bytes(path: Path) -> bytes | None:
    """Those of a file; None of one that is missing, or is none."""
    try:
        return read_file(path)
    except (Damaged, OSError):
        return None


def _text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False)


def _facts(entries: Sequence[_Entry]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(f"[{','.join(entry.facts for entry in entries)}]")
    return found


def _equal(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables of the same columns hold the same, however their words are coded."""

    def plain(table: pa.Table, name: str) -> pa.ChunkedArray:
        values = table[name]
        coded = pa.types.is_dictionary(values.type)
        return values.cast(values.type.value_type) if coded else values

    return one.num_rows == other.num_rows and all(
        plain(one, name).equals(plain(other, name)) for name in one.column_names
    )


def _plain(sort: Sort) -> pa.DataType:
    kind = _ARROW[sort]
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    words = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
    pq.write_table(table, buffer, compression="zstd", use_dictionary=words or False)
    return buffer.getvalue()
