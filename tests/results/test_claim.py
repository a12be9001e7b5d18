"""One writer a subject: a claim is taken over from the dead and the silent, and from nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from sharpbench.results import disk
from sharpbench.results.checksum import sealed
from sharpbench.results.claim import Claim, ClaimLost, _host, claimed
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsBusy, ResultsStore, SubjectFolder


def foreign(path, *, host="elsewhere", process=1, lease=60.0):
    holder = {"host": host, "process": process, "since": 0.0, "lease_seconds": lease, "token": "x"}
    path.write_text(json.dumps(holder))


def test_a_claim_names_its_holder_and_goes_with_it(tmp_path):
    with claimed(tmp_path):
        holder = json.loads((tmp_path / ".claim").read_text())
        assert holder["process"] == os.getpid()
        assert holder["lease_seconds"] == 60
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path):
    code = (
        "import os, pathlib, sys; from sharpbench.results.claim import Claim\n"
        "Claim(pathlib.Path(sys.argv[1]) / '.claim', 1e9).acquire()\n"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -9
    left = (tmp_path / ".claim").read_bytes()
    with claimed(tmp_path):
        assert (tmp_path / ".claim").read_bytes() != left


@pytest.mark.parametrize("content", ["whole", "no JSON", ""])
def test_the_claim_of_another_machine_lasts_for_its_lease(tmp_path, content):
    path = tmp_path / ".claim"
    foreign(path)
    if content != "whole":
        path.write_text(content)
    acquired = threading.Event()
    claim = Claim(path, 60)
    waiting = threading.Thread(target=lambda: (claim.acquire(), acquired.set()))
    waiting.start()
    assert not acquired.wait(0.6)
    state = path.stat()
    os.utime(path, (state.st_atime - 61, state.st_mtime - 61))  # its last sign of life
    waiting.join()
    claim.check()
    claim.release()
    assert not path.exists()


HOLDER = {"host": "elsewhere", "process": 1, "since": 0.0, "lease_seconds": 60.0, "token": "x"}
HERE = {**HOLDER, "host": _host()}
NO_CLAIMS = {
    "no text": b"\xff\xfe",
    "list": b"[]",
    "deep": b"[" * 200_000,
    "long number": json.dumps(HOLDER).encode().replace(b": 1,", b": " + b"9" * 6000 + b","),
    "infinite process": json.dumps({**HERE, "process": float("inf")}).encode(),
    "negative process": json.dumps({**HERE, "process": -1}).encode(),
    "list for a process": json.dumps({**HERE, "process": [1]}).encode(),
    "infinite lease": json.dumps({**HOLDER, "lease_seconds": float("inf")}).encode(),
    "lease of no number": json.dumps({**HOLDER, "lease_seconds": float("nan")}).encode(),
    "endless lease, unproven": json.dumps({**HOLDER, "lease_seconds": 1e300}).encode(),
    "a flipped digit": sealed(json.dumps(HOLDER)).replace("60.0", "6e90").encode(),
}


@pytest.mark.parametrize("damage", NO_CLAIMS)
def test_a_damaged_claim_lasts_for_a_lease_and_no_longer(tmp_path, damage):
    path = tmp_path / ".claim"
    path.write_bytes(NO_CLAIMS[damage])
    claim = Claim(path, 60)
    assert not claim._abandoned(NO_CLAIMS[damage])
    state = path.stat()
    os.utime(path, (state.st_atime - 61, state.st_mtime - 61))
    claim.acquire()
    claim.check()
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_proves_itself_lasts_as_long_as_it_says(tmp_path):
    path = tmp_path / ".claim"
    path.write_text(sealed(json.dumps({**HOLDER, "lease_seconds": 1000.0})))
    os.utime(path, (0, path.stat().st_mtime - 500))
    assert not Claim(path, 60)._abandoned(path.read_bytes())


STRANGE = {
    "pipe": os.mkfifo,
    "folder": lambda path: (path.mkdir(), (path / "own").touch()),
    "circle": lambda path: path.symlink_to(path),
    "nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
}


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("name", [".claim", ".lock"])
def test_what_is_no_file_holds_nobody_up_and_is_kept(tmp_path, name, strange):
    folder = SubjectFolder(tmp_path / "subject")
    folder.path.mkdir()
    STRANGE[strange](folder.path / name)
    record = Record(key="k", plan_key="p", kind="measurement", name="n", label="n", value=1.0)
    with folder.writing():
        folder.append([record])
    assert os.path.lexists(tmp_path / "damaged" / "subject-1" / name)
    assert (folder.path / "measurements.jsonl").stat().st_size


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("name", [".lock", ".lock.holder"])
def test_a_results_folder_is_held_whatever_stands_where_its_lock_belongs(tmp_path, name, strange):
    STRANGE[strange](tmp_path / name)
    told = []
    store = ResultsStore(tmp_path)
    with store.locked(wait=False, say=told.append):
        store.check_held()
        with pytest.raises(ResultsBusy), ResultsStore(tmp_path).locked(wait=False, say=told.append):
            pass
    assert len(told) == 1
    assert str(tmp_path / "damaged" / f"{name}-1" / name) in told[0]


def test_a_file_that_came_meanwhile_is_put_back(tmp_path, monkeypatch):
    """Another process was quicker to clear the place, and has put its file there."""
    path = tmp_path / ".lock"
    path.write_text("of another")
    looked = iter(["it is a folder"])
    real = disk.fault_of
    monkeypatch.setattr(disk, "fault_of", lambda path: next(looked, None) or real(path))
    inode = path.stat().st_ino
    assert disk.clear(path, tmp_path / "damaged", "x") is None
    assert (path.read_text(), path.stat().st_ino) == ("of another", inode)
    assert [p for p in (tmp_path / "damaged").rglob("*") if p.is_file()] == []


def test_what_is_no_file_may_be_set_aside_by_another(tmp_path, monkeypatch):
    path, damaged = tmp_path / "results" / ".lock", tmp_path / "results" / "damaged"
    path.mkdir(parents=True)
    real = os.rename

    def after(first, where):
        def rename(source, target):
            real(first, where)
            real(source, target)

        return rename

    monkeypatch.setattr(os, "rename", after(path, tmp_path / "theirs"))
    assert disk.clear(path, damaged, ".lock") is None
    assert list(damaged.iterdir()) == []
    path.mkdir()
    monkeypatch.setattr(os, "rename", after(path.parent, tmp_path / "away"))
    with pytest.raises(FileNotFoundError):  # with the folder itself, which others tell
        disk.clear(path, damaged, ".lock")


def test_who_was_silent_for_too_long_writes_nothing_any_more(tmp_path):
    folder = SubjectFolder(tmp_path / "subject")
    record = Record(key="k", plan_key="p", kind="measurement", name="n", label="n", value=1.0)
    with folder.writing():
        folder.append([record])
        foreign(folder.path / ".claim")  # another machine took over
        before = (folder.path / "measurements.jsonl").read_bytes()
        with pytest.raises(ClaimLost, match="taken over by another process"):
            folder.append([record])
        with pytest.raises(ClaimLost):
            folder.commit({}, None)
        with pytest.raises(ClaimLost):
            folder.take({"measurements.jsonl": b"other"})
    assert (folder.path / "measurements.jsonl").read_bytes() == before
    assert not (folder.path / "subject.json").exists()
    assert (folder.path / ".claim").exists()  # it isn't ours to remove


def test_many_take_turns(tmp_path):
    inside, most, turns = 0, 0, []
    guard = threading.Lock()

    def work(name):
        nonlocal inside, most
        for _ in range(5):
            with claimed(tmp_path) as claim:
                with guard:
                    inside += 1
                    most = max(most, inside)
                turns.append(name)
                claim.check()
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(turns)) == (1, 20)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_removed_while_it_was_judged_is_put_back(tmp_path):
    path = tmp_path / ".claim"
    foreign(path, host="b")
    Claim(path, 60)._remove(b"what was judged abandoned")
    assert json.loads(path.read_text())["host"] == "b"
    assert [p.name for p in tmp_path.iterdir()] == [".claim"]
