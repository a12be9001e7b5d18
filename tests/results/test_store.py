"""The results folder: what a crash leaves is mended, and nothing else is read as a record."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sharpbench.errors import InputError
from sharpbench.results.checksum import Damaged, json_object, sealed
from sharpbench.results.disk import write_atomically
from sharpbench.results.keys import content_key, figure_key
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore, SubjectFolder, load_records

IDENTITY = {"problem": {"name": "p", "version": 1}, "seed": 0, "device": "cpu"}
KEY, WEIGHTS = content_key(IDENTITY), "e" * 64
DESCRIPTION = {
    "schema": 1,
    "key": KEY,
    "label": "p · seed=0",
    "problem_label": "p",
    "identity": IDENTITY,
    "status": "known",
    "reason": None,
    "weights": WEIGHTS,
    "run": "one",
}


def record(question, value, **more):
    return Record(
        figure_key(KEY, WEIGHTS, question), question, "problem", "m", "m", value=value, **more
    )


def questions(folder):
    return [r.plan_key for r in folder.records()]


@pytest.fixture
def folder(tmp_path):
    folder = ResultsStore(tmp_path).subject(KEY)
    folder.commit(DESCRIPTION, None)
    return folder


@pytest.fixture
def lines(folder):
    return folder.path / "measurements.jsonl"


def test_the_last_record_of_a_key_counts(folder):
    folder.append([record("a", 1.0), record("b", 2.0)])
    folder.append([record("a", 3.0)])
    assert {r.plan_key: r.value for r in folder.records()} == {"a": 3.0, "b": 2.0}


def test_a_line_torn_by_a_crash_is_dropped_and_cut_off_by_the_next_record(folder, lines):
    folder.append([record("a", 1.0)])
    lines.write_text(lines.read_text() + record("b", 2.0).to_line()[:40])
    assert "line 2: torn by a crash" in str(folder.load().left_out[0])
    assert questions(folder) == ["a"]
    folder.append([record("c", 3.0)])
    assert questions(folder) == ["a", "c"]
    assert lines.read_text() == f"{record('a', 1.0).to_line()}\n{record('c', 3.0).to_line()}\n"


def test_a_whole_last_line_counts_without_its_newline(folder, lines):
    folder.append([record("a", 1.0), record("b", 2.0)])
    lines.write_bytes(lines.read_bytes()[:-1])
    assert questions(folder) == ["a", "b"]
    folder.append([record("c", 3.0)])
    assert questions(folder) == ["a", "b", "c"]
    assert folder.load().left_out == ()


@pytest.mark.parametrize("whole", [True, False])
def test_a_tail_of_zeros_is_cut_once(folder, lines, whole):
    folder.append([record("a", 1.0), record("b", 2.0)])
    content = lines.read_bytes()
    lines.write_bytes((content[:-1] if whole else content[:-30]) + b"\0" * 100_000)
    assert questions(folder) == ["a", "b"][: 1 + whole]
    folder.append([record("c", 3.0)])
    assert questions(folder)[-1] == "c"
    assert folder.load().left_out == ()
    assert b"\0" not in lines.read_bytes()


def test_a_line_that_is_no_record_is_left_out_and_moved_by_the_next_run(folder, lines):
    folder.append([record("a", 1.0), record("b", 2.0)])
    first, second = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(first[:30] + b"\n" + second + b"garbage\n")
    assert questions(folder) == ["b"]
    assert [x.lines for x in folder.load().left_out] == [(1,), (3,)]
    assert "line 1: it is not JSON" in folder.mend()[0]
    assert lines.read_bytes() == second
    moved = (folder.path / "measurements.damaged.jsonl").read_bytes()
    assert moved == first[:30] + b"\ngarbage\n"
    assert folder.mend() == []


@pytest.mark.parametrize("content", [b'{"status"', b"\xff\xfe", b""])
def test_a_subject_with_a_description_that_is_none_is_moved_as_a_whole(folder, content):
    folder.append([record("a", 1.0)])
    (folder.path / "subject.json").write_bytes(content)
    assert folder.read() is None
    assert folder.load().left_out[0].place == f"{KEY[:20]}/subject.json"
    assert "moved to damaged" in folder.mend()[0]
    moved = folder.path.parent / "damaged" / f"{KEY[:20]}-1"
    assert sorted(os.listdir(moved)) == ["measurements.jsonl", "subject.json"]
    assert folder.load().left_out == ()
    folder.commit(DESCRIPTION, None)
    assert folder.records() == []


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\n", "\r", "\x1c"])
def test_a_reason_may_hold_any_character(folder, mark):
    folder.append([record("a", None, status="error", reason=f"one{mark}two"), record("b", 2.0)])
    first, second = folder.records()
    assert (first.reason, second.value) == (f"one{mark}two", 2.0)


def test_half_of_a_surrogate_pair_is_stored_as_a_question_mark(folder):
    folder.append([record("a", None, status="error", reason="no file \udcff")])
    assert folder.records()[0].reason == "no file ?"


def test_a_record_survives_its_line_and_a_newer_field_is_left_out():
    written = record("a", 0.1, errors=[{"source": "points", "size": 0.2}], details={"why": "µ"})
    line = written.to_line()
    assert Record.from_line(line.encode()) == (written, True)
    newer = sealed(line[:-25] + ', "of_tomorrow": 1}')
    assert Record.from_line(newer.encode()) == (written, True)


def deep(levels):
    return {} if not levels else {"in": deep(levels - 1)}


@pytest.mark.parametrize(
    ("value", "more", "fault"),
    [
        (float("nan"), {}, "JSON compliant"),
        (True, {}, "value: input should be a valid number"),
        (None, {}, "value: there is none"),
        (1.0, {"details": deep(250)}, "recursion"),
        (1.0, {"details": deep(900)}, "nests without end"),
        (1.0, {"samples": 2.5}, "samples: input should be a valid integer"),
        (1.0, {"standard_error": -1.0}, "standard_error: -1.0 is no error"),
        (1.0, {"errors": [{"size": 1.0}]}, "no component"),
        (1.0, {"status": "fine"}, "status: input should be"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(value, more, fault):
    with pytest.raises(ValueError, match=fault):
        record("a", value, **more).to_line()


def test_a_checksum_is_of_the_content_and_its_place():
    content = sealed('{"a": 1}', place="here").encode()
    assert json_object(content, place="here") == ({"a": 1}, True)
    for changed, place in ((content, "there"), (content.replace(b"1", b"2", 1), "here")):
        with pytest.raises(Damaged, match="checksum is not that of its content"):
            json_object(changed, place=place)


def test_weights_are_hashed_when_they_are_loaded(folder, tmp_path):
    other = SubjectFolder(tmp_path / "other")
    folder.commit(DESCRIPTION, {"w": torch.ones(3)})
    other.commit(DESCRIPTION, {"w": torch.zeros(3)})
    assert torch.equal(folder.weights()["w"], torch.ones(3))
    (folder.path / "weights.safetensors").write_bytes(
        (other.path / "weights.safetensors").read_bytes()
    )
    with pytest.raises(Damaged, match="SHA-256"):
        folder.weights()


def test_documents_are_of_their_name_and_damaged_ones_are_kept(tmp_path):
    store = ResultsStore(tmp_path)
    for name in ("one", "two"):
        store.write_document("rules", name, {"name": name})
    one, two = (tmp_path / "rules" / f"{name}.json" for name in ("one", "two"))
    os.replace(one, two)
    os.mkfifo(one)
    assert store.documents("rules") == {}
    assert [x.place for x in store.damaged_documents()] == ["rules/one.json", "rules/two.json"]
    store.write_document("rules", "two", {"name": "again"})
    assert store.documents("rules") == {"two": {"name": "again"}}
    assert (tmp_path / "damaged" / "rules-1" / "two.json").is_file()


def test_nothing_but_damage_is_no_result(folder, lines, tmp_path):
    lines.write_text("garbage\n")
    with (
        pytest.warns(RuntimeWarning, match="left out"),
        pytest.raises(InputError, match=r"(?s)no results.*line 1: it is not JSON"),
    ):
        load_records(tmp_path)


def test_a_file_that_several_write_at_once_is_always_one_of_theirs(tmp_path):
    path = tmp_path / "index.html"
    whole = {bytes([65 + i]) * 200_000 for i in range(3)}
    seen = set()

    def write(content):
        for _ in range(20):
            write_atomically(path, content)
            seen.add(path.read_bytes())

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, whole))
    assert seen <= whole
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    """Of a subject by who holds it, of documents, which other machines write too, after an hour."""
    root, folder = tmp_path / "results", tmp_path / "results" / "subject"
    code = (
        "import os, pathlib, signal, sys; from sharpbench.results import disk\n"
        "disk.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "disk.write_atomically(pathlib.Path(sys.argv[1]), b'half')"
    )
    left = {}
    for path in (folder / "subject.json", root / "runs" / "one.json", root / "runs" / "two.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert ended.returncode == -9
        (left[path.name],) = path.parent.glob(f"{path.name}.*.partial")
    long_ago = left["one.json"].stat().st_mtime - 3700
    os.utime(left["one.json"], (long_ago, long_ago))
    draft, waiting = (folder / f".claim.{sign * 32}" for sign in "ab")
    own = [folder / "notes.partial", root / "runs" / "mine.json.partial", folder / ".claim.txt"]
    for path in (draft, waiting, *own):
        path.write_text("mine")
    for path in (draft, *own):
        os.utime(path, (long_ago, long_ago))
    store = ResultsStore(root)
    with store.locked(wait=False, say=print), store.subject("subject").writing():
        there = {path for path in root.rglob("*") if path.is_file()}
    assert not there & {left["subject.json"], left["one.json"], draft}
    assert there >= {left["two.json"], waiting, *own}
