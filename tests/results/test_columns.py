"""The columnar copy beside the records: what of it is believed, and that it never tells anything else."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sharpbench.results import columns as columns_module
from sharpbench.results.columns import Columns, Content
from tests.waiting import PATIENCE

SORTS = {"name": "word", "value": "real", "count": "whole", "good": "flag", "more": "nested"}


class Folders:
    """Folders of one file of JSON lines each, and how often each one was read."""

    def __init__(self, root: Path, count: int = 3, rows: int = 4) -> None:
        self.root, self.read_names = root, []
        for i in range(count):
            self.write(f"f{i}", [{"name": f"n{k % 2}", "value": i + k / 8, "count": k, "good": None,
                                  "more": {"k": k}} for k in range(rows)])  # fmt: skip

    def write(self, name: str, rows: list[dict]) -> None:
        (self.root / name).mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        partial = self.root / name / f"partial{os.getpid()}"
        partial.write_text(text)
        partial.replace(self.root / name / "lines")

    def read(self, name: str) -> Content:
        self.read_names.append(name)
        path = self.root / name / "lines"
        lines = path.read_text().splitlines() if path.exists() else []
        return Content({"lines": len(lines)}, [json.loads(line) for line in lines])

    def columns(self) -> Columns:
        return Columns(self.root, ("lines",), SORTS, self.read, version="1")

    def values(self, *names: str) -> list[float]:
        found = self.columns().rows(names or ("f0", "f1", "f2"), ["value"])
        return found.columns["value"].to_pylist()

    def truth(self, *names: str) -> list[float]:
        rows = [row for name in names or ("f0", "f1", "f2") for row in self.read(name).rows]
        return [row["value"] for row in rows]


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path / "root")


def parts(folders):
    return [p for p in (folders.root / ".columns").glob("*.parquet") if p.name != "index.parquet"]


def reads(folders, act):
    """What ``act`` gives, and the folders whose lines it took."""
    folders.read_names.clear()
    return act(), list(folders.read_names)


def test_lines_are_read_once_and_the_rows_stand_in_the_order_asked_for(folders):
    assert folders.values() == folders.truth()
    found, read = reads(folders, lambda: folders.columns().rows(["f2", "f0"], list(SORTS)))
    assert read == []
    assert found.columns["value"].to_pylist() == folders.truth("f2", "f0")
    assert found.folder.tolist() == [0] * 4 + [1] * 4
    assert found.columns["name"].to_pylist()[:2] == ["n0", "n1"]
    assert [fact["lines"] for fact in found.facts] == [4, 4]


def test_only_the_folder_that_was_written_to_is_read_again(folders):
    folders.values()
    folders.write("f1", [{"name": "new", "value": 7.0}])
    found, read = reads(folders, folders.values)
    assert read == ["f1"]
    assert found == [*folders.truth("f0"), 7.0, *folders.truth("f2")]


@pytest.mark.parametrize("settled", [False, True])
def test_an_edit_of_the_same_size_with_its_times_put_back_is_seen(folders, monkeypatch, settled):
    monkeypatch.setattr(columns_module, "_SETTLING", -(10**18) if settled else 10**18)
    folders.values()
    path = folders.root / "f1" / "lines"
    times = path.stat()
    path.write_text(path.read_text().replace("1.0", "9.0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert folders.values() == folders.truth()
    assert 9.0 in folders.values()


def test_fresh_reads_every_byte_and_believes_nothing_else(folders, monkeypatch):
    """Bytes that change without any sign, as on a failing disk: only the digest can tell."""
    monkeypatch.setattr(columns_module, "_SETTLING", -(10**18))
    monkeypatch.setattr(Columns, "_stamp", lambda self, name: "[[1, 1, 1, 1]]")
    folders.values()
    before = folders.values()
    folders.write("f1", [{"name": "n", "value": 5.0}])
    assert folders.values() == before
    assert [f["lines"] for f in folders.columns().facts(["f1"], fresh=True)] == [1]
    assert folders.values() == folders.truth()


@pytest.mark.parametrize("which", ["index", "part"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "gone"])
def test_a_damaged_copy_is_made_anew(folders, which, damage):
    folders.values()
    path = folders.root / ".columns" / "index.parquet" if which == "index" else parts(folders)[0]
    content = path.read_bytes()
    middle = len(content) // 2
    changed = {
        "cut": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "emptied": b"",
    }
    path.unlink() if damage == "gone" else path.write_bytes(changed[damage])
    found, read = reads(folders, folders.values)
    assert found == folders.truth()
    assert set(read[:3]) == {"f0", "f1", "f2"}
    found, read = reads(folders, folders.values)
    assert read == []


STRANGE = {
    "pipe": os.mkfifo,
    "folder": lambda path: (path.mkdir(), (path / "own").touch()),
    "circle": lambda path: path.symlink_to(path),
    "nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
}


@pytest.mark.parametrize("which", ["index", "part", "lock", "all"])
@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_no_file_is_set_aside_and_the_copy_made_anew(folders, which, strange):
    folders.values()
    copy = folders.root / ".columns"
    index = copy / "index.parquet"
    path = {"index": index, "part": parts(folders)[0], "lock": copy / ".lock", "all": copy}[which]
    if which == "all":
        shutil.rmtree(path)
    else:
        path.unlink()
        index.unlink(missing_ok=True) if which == "lock" else None
    STRANGE[strange](path)
    assert folders.values() == folders.truth()
    found, read = reads(folders, folders.values)
    assert (found, read) == (folders.truth(), [])
    kept = os.path.lexists(folders.root / "damaged" / ".columns-1" / path.name)
    assert kept == ((which, strange) != ("all", "folder"))  # which is what belongs there


def test_a_full_disk_leaves_no_copy_and_the_lines_are_read(disk):
    place = disk("-o", "size=256k")
    folders = Folders(place / "root", rows=200)
    ballast = place / "ballast"
    for left in (0, 4096):  # the second has room for the rows, and none for the index
        ballast.unlink(missing_ok=True)
        state = os.statvfs(place)
        ballast.write_bytes(b"x" * max(0, state.f_bavail * state.f_frsize - left))
        assert folders.values() == folders.truth()
        assert not [*place.rglob("*.parquet"), *place.rglob("*.partial")]
    ballast.unlink()
    folders.values()
    assert reads(folders, folders.values) == (folders.truth(), [])


def test_another_version_of_the_reader_makes_the_copy_anew(folders):
    folders.values()
    other = Columns(folders.root, ("lines",), SORTS, folders.read, version="2")
    _, read = reads(folders, lambda: other.facts(["f0"]))
    assert read == ["f0"]


def test_where_nothing_can_be_written_the_lines_are_read(folders, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(Columns, "_put", refuse)
    copy = folders.columns()
    assert copy.rows(["f0", "f1"], ["value"]).columns["value"].to_pylist() == folders.truth(
        "f0", "f1"
    )
    _, read = reads(folders, lambda: copy.rows(["f1"], ["count"]))
    assert read == []  # kept in memory
    folders.write("f1", [{"name": "n", "value": 5.0}])
    assert copy.rows(["f1"], ["value"]).columns["value"].to_pylist() == [5.0]


def test_a_folder_that_is_not_there_leaves_nothing_behind(tmp_path):
    copy = Folders(tmp_path / "none", count=0).columns()
    assert copy.rows(["f9"], ["value"]).columns["value"].to_pylist() == []
    assert not (tmp_path / "none").exists()


def test_many_small_files_are_put_together_and_dead_ones_deleted(folders):
    for k in range(30):
        folders.write(f"f{k % 3}", [{"name": "n", "value": float(k)}])
        assert folders.values() == folders.truth()
    assert len(parts(folders)) <= columns_module._SMALL_FILES + 1


def test_pieces_are_all_rows(folders, monkeypatch):
    monkeypatch.setattr(columns_module, "_ROWS", 8)
    pieces = list(folders.columns().batches(["f2", "f0", "f1"], ["value"]))
    assert len(pieces) > 1
    found = [v for piece in pieces for v in piece.columns["value"].to_pylist()]
    assert found == folders.truth()
    assert (
        np.concatenate([piece.folder for piece in pieces]).tolist() == [1] * 4 + [2] * 4 + [0] * 4
    )


def _read_and_write(root: str, number: int) -> None:
    folders = Folders(Path(root), count=0)
    for k in range(15):
        if number == 0:
            folders.write("f1", [{"name": "n", "value": float(k)}] * (1 + k % 3))
        found = folders.values()
        assert found[:4] == [0, 0.125, 0.25, 0.375]
        assert found[-4:] == [2, 2.125, 2.25, 2.375]
        assert len(set(found[4:-4])) <= 4


def test_readers_beside_a_writer_never_see_half_a_copy(folders):
    context = multiprocessing.get_context("forkserver")  # this process may have threads, and locks
    others = [
        context.Process(target=_read_and_write, args=(str(folders.root), n)) for n in range(3)
    ]
    for process in others:
        process.start()
    for process in others:
        process.join(PATIENCE)
    assert [process.exitcode for process in others] == [0, 0, 0]


def test_a_copy_that_says_anything_else_than_the_lines_is_found(folders):
    names = ["f0", "f1", "f2"]

    def lie(name):
        found = folders.read(name)
        if name == "f1":
            return Content(found.facts, [{**row, "more": {"k": 7}} for row in found.rows])
        return Content({**found.facts, "lines": 5}, found.rows) if name == "f2" else found

    assert folders.columns().unlike(names) == []  # there is none yet
    Columns(folders.root, ("lines",), SORTS, lie, version="1").facts(names)
    before = {p: p.read_bytes() for p in (folders.root / ".columns").iterdir()}
    assert folders.columns().unlike(names) == ["f1", "f2"]
    assert {p: p.read_bytes() for p in (folders.root / ".columns").iterdir()} == before
    folders.write("f1", [{"value": 1.0}])  # no reader believes its old copy
    assert folders.columns().unlike(names) == ["f2"]
    for part in parts(folders):
        part.write_bytes(part.read_bytes()[:-1])  # nor a file that is not what was written
    assert folders.columns().unlike(names) == []
    assert folders.values() == folders.truth()
    assert folders.columns().unlike(names) == []
