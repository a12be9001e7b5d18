"""The results folder: what a crash leaves is mended, and nothing else is read as a record."""

import pytest

from sharpbench.errors import InputError
from sharpbench.results.record import Record
from sharpbench.results.store import SubjectFolder


def record(key, value, **more):
    return Record(key, "plan", "measurement", "m", "m", value=value, **more)


@pytest.fixture
def folder(tmp_path):
    return SubjectFolder(tmp_path / "subject")


def test_the_last_record_of_a_key_counts(folder):
    folder.append([record("a", 1.0), record("b", 2.0)])
    folder.append([record("a", 3.0)])
    assert {r.key: r.value for r in folder.records()} == {"a": 3.0, "b": 2.0}


def test_a_line_torn_by_a_crash_is_dropped_and_cut_off_by_the_next_record(folder):
    folder.append([record("a", 1.0)])
    path = folder.path / "measurements.jsonl"
    path.write_text(path.read_text() + record("b", 2.0).to_line()[:40])
    with pytest.warns(RuntimeWarning, match="line 2: torn by a crash"):
        assert [r.key for r in folder.records()] == ["a"]
    folder.append([record("c", 3.0)])
    assert [r.key for r in folder.records()] == ["a", "c"]
    assert path.read_text() == record("a", 1.0).to_line() + "\n" + record("c", 3.0).to_line() + "\n"


def test_a_line_in_the_middle_that_is_no_record_is_an_error(folder):
    folder.append([record("a", 1.0), record("b", 2.0)])
    path = folder.path / "measurements.jsonl"
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first[:30] + "\n" + second)
    with pytest.raises(InputError, match="line 1: not a record"):
        folder.records()


@pytest.mark.parametrize("content", [b'{"status"', b"\xff\xfe", b""])
def test_a_description_that_is_none_is_an_error(folder, content):
    assert folder.read() is None
    folder.commit({"status": "known"}, None)
    (folder.path / "subject.json").write_bytes(content)
    with pytest.raises(InputError, match=r"subject\.json: not a description; the file was edited"):
        folder.read()


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\n", "\r", "\x1c"])
def test_a_reason_may_hold_any_character(folder, mark):
    folder.append([record("a", None, status="error", reason=f"one{mark}two"), record("b", 2.0)])
    first, second = folder.records()
    assert (first.reason, second.value) == (f"one{mark}two", 2.0)


def test_a_record_survives_its_line_and_a_newer_field_is_left_out():
    written = record("a", 0.1, errors=[{"source": "points", "size": 0.2}], details={"why": "µ"})
    line = written.to_line()
    assert Record.from_line(line) == written
    assert Record.from_line(line[:-1] + ', "of_tomorrow": 1}') == written
    with pytest.raises(ValueError, match="JSON compliant"):
        record("a", float("nan")).to_line()
