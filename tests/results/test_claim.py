"""One writer a subject: a claim is taken over from the dead and the silent, and from nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from sharpbench.results.claim import Claim, ClaimLost, claimed
from sharpbench.results.record import Record
from sharpbench.results.store import SubjectFolder


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
