"""What surrounds a run: streams, disks, folders, clocks and other runs. Each ends as the README says."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest

from sharpbench.errors import InputError
from sharpbench.results.store import ResultsStore
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="devices of Linux")

SUITE = """
name = "tiny"
seeds = {seeds}
[[subjects]]
dataset = {{ name = "two_moons", n = 60 }}
model = {{ name = "mlp", widths = [4] }}
recipe = {{ name = "adam", lr = 1e-2, epochs = 2 }}
[[metrics]]
name = "sam_sharpness"
[[problems]]
problem = {{ name = "sine" }}
metrics = {{ name = "curvature_rate", target = 0, orders = [1, 2] }}
[cost]
repeats = 1
"""
RUN = ("run", "tiny.toml", "--no-report", "--engine", "inline")


class Command:
    """``sharpbench`` in a process of its own, forked from one that has imported everything: a tenth of a
    second in place of three. Its streams are files in its folder, or what is named."""

    def __init__(self, folder: Path, *arguments: str, out="out", err="err", file_size=None):
        self.out, self.err = folder / out, folder / err
        for path in (self.out, self.err):
            path.unlink(missing_ok=True) if path.parent == folder else None
        told = {"arguments": arguments, "folder": folder, "out": out, "err": err}
        context = multiprocessing.get_context("forkserver")
        self.process = context.Process(target=_command, kwargs={**told, "file_size": file_size})
        self.process.start()
        self.started.append(self.process)

    started: ClassVar[list] = []

    def code(self) -> int:
        """How it ended."""
        self.process.join(PATIENCE)
        return self.process.exitcode


def _command(*, arguments, folder, out, err, file_size):
    os.chdir(folder)
    for number, where in ((1, out), (2, err)):
        if where == "nobody reads":
            reader, writer = os.pipe()
            os.close(reader)
        elif where != "closed":
            writer = os.open(where, os.O_WRONLY | os.O_CREAT)
        if where == "closed":
            os.close(number)
            setattr(sys, {1: "stdout", 2: "stderr"}[number], None)  # as Python does at its start
        else:
            os.dup2(writer, number)
    if file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    sys.argv = ["sharpbench", *arguments]
    from sharpbench.cli import main

    gc.freeze()  # what was imported is not looked through again and again
    main()


@pytest.fixture(scope="module", autouse=True)
def _imported():
    names = ["cli", "suite.session", "suite.engines", "suite.survey", "report.page", "plugins"]
    kinds = ["metrics.sam", "metrics.curvature_rate", "datasets", "models", "training.adam"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [*(f"sharpbench.{name}" for name in (*names, *kinds)), "torch._dynamo", "scipy.special"]
    )


@pytest.fixture(autouse=True)
def _ended():
    """No command is left when its test fails."""
    yield
    while Command.started:
        process = Command.started.pop()
        process.kill()
        process.join()


def suite(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text(SUITE.format(seeds=1))
    return folder


def records(results: Path):
    """Everything but cost, by key."""
    folders = ResultsStore(results).subjects()
    return {r.key: r.figure() for folder in folders for r in folder.records()}


def lines(results: Path) -> list[bytes]:
    found = []
    for path in results.glob("*/measurements.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            found += path.read_bytes().splitlines()
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a run says in peace."""
    folder = suite(tmp_path_factory.mktemp("peace"))
    assert Command(folder, *RUN).code() == 0
    found = records(folder / "results")
    assert len(found) == len(lines(folder / "results")) > 10
    return found


# --- streams, names, clocks -----------------------------------------------------------------------


@linux
@pytest.mark.parametrize(
    ("out", "err"),
    [("closed", "closed"), ("nobody reads", "nobody reads"), ("nobody reads", "/dev/full")],
)
def test_nobody_needs_to_listen(tmp_path, expected, out, err):
    folder = suite(tmp_path)
    assert Command(folder, *RUN, out=out, err=err).code() == 0
    assert records(folder / "results") == expected


@linux
def test_an_answer_that_could_not_be_written_is_an_error(tmp_path, expected):
    folder = suite(tmp_path)
    told = Command(folder, *RUN, out="/dev/full")
    assert told.code() == 2
    assert told.err.read_text().endswith("error: standard output: No space left on device\n")
    assert records(folder / "results") == expected  # the run itself went on


BACKWARDS = """
import time
start, calls = time.time(), 0
def back():
    global calls
    calls += 1
    return start - 60.0 * calls
time.time, time.time_ns = back, lambda: int(back() * 1e9)
"""


@linux
def test_a_poor_place_to_start_from(tmp_path, expected):
    """No terminal, no language, no home, few files, a clock that goes backwards, and a path like this."""
    folder = suite(tmp_path / "a b [c] 日本 ü")
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(BACKWARDS)
    poor = {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "HOME": "/proc/nobody",
        "XDG_CACHE_HOME": "/proc/nobody",
        "MPLCONFIGDIR": "/proc/nobody",
        "PYTHONPATH": f"{clock}:{ROOT}",
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    code = (
        "import sys, time; assert time.time() > time.time() > time.time(); "
        "from sharpbench.cli import main; main()"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, "run", "tiny.toml", "--results", "rés ü", "--reports", "報告"],
        cwd=folder, env=poor, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)), timeout=PATIENCE,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr.decode()
    assert b"Traceback" not in told.stderr
    assert records(folder / "rés ü") == expected
    # A name is printed as its own bytes, and what the encoding lacks as an escape.
    assert "report: 報告/tiny/index.html".encode() in told.stdout
    assert rb"two_moons(n=60) \xb7 mlp(widths=[4])" in told.stderr
    assert (folder / "報告" / "tiny" / "index.html").stat().st_size > 10_000


# --- disks ----------------------------------------------------------------------------------------


FULL = {12_000: "measurements.jsonl", 1_800: "subject.json"}


@linux
@pytest.mark.parametrize("size", FULL)
def test_what_may_not_grow_any_more_ends_the_run_and_it_resumes(tmp_path, expected, size):
    folder = suite(tmp_path)
    told = Command(folder, *RUN, file_size=size)
    assert told.code() == 2
    assert "error:" in told.err.read_text()
    assert FULL[size] in told.err.read_text()
    assert "File too large" in told.err.read_text()
    assert Command(folder, *RUN).code() == 0
    assert records(folder / "results") == expected
    assert len(lines(folder / "results")) == len(expected)


@linux
def test_a_full_disk_ends_the_run_and_it_resumes(disk, tmp_path, expected):
    folder = suite(tmp_path)
    place = disk("-o", "size=60k")
    command = (*RUN, "--results", str(place / "results"))
    told = Command(folder, *command)
    assert told.code() == 2
    assert "measurements.jsonl: No space left on device" in told.err.read_text()
    subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
    assert Command(folder, *command).code() == 0
    assert records(place / "results") == expected
    assert len(lines(place / "results")) == len(expected)


@linux
def test_a_folder_that_can_only_be_read_is_read(disk, tmp_path, expected):
    folder = suite(tmp_path)
    assert Command(folder, *RUN).code() == 0
    results = folder / "results"
    if os.geteuid():
        for path in [results, *results.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    else:  # to whom modes mean nothing
        results = disk() / "results"
        subprocess.run(["cp", "-r", str(folder / "results"), str(results)], check=True)
        subprocess.run(["mount", "-o", "remount,ro", str(results.parent)], check=True)
    of = ("--results", str(results))
    told = Command(folder, *RUN, *of)
    assert told.code() == 2
    assert str(results) in told.err.read_text()
    assert "Traceback" not in told.err.read_text()
    dry = Command(folder, *RUN, *of, "--dry-run")
    assert dry.code() == 0
    assert "0 measurements to make" in dry.out.read_text()
    assert Command(folder, "report", "tiny", *of).code() == 0
    assert Command(folder, "export", "all.csv", *of).code() == 0
    assert Command(folder, "verify", str(results)).code() == 0
    if os.geteuid():
        for path in [results, *results.rglob("*")]:
            path.chmod(0o755)
    assert (folder / "reports" / "tiny" / "index.html").is_file()
    assert len((folder / "all.csv").read_text().splitlines()) > len(expected)


# --- others ---------------------------------------------------------------------------------------


WAITING = """
import time
from dataclasses import dataclass
from pathlib import Path
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric

@dataclass(frozen=True)
class Waiting(Metric):
    \"""Tells that it is here, and goes on when it may.\"""
    name, title, unit, space = "waiting", "waiting metric", "", "parameter"

    def measure(self, subject, *, seed):
        number = len(list(Path().glob("here-*")))
        Path(f"here-{number}").touch()
        while not Path(f"go-{number}").exists():
            time.sleep(0.01)
        return Measurement(1.0, samples=1)
"""


def waiting_suite(folder: Path, seeds: int) -> Path:
    """The last figure of each network waits in ``here-<n>`` for ``go-<n>``."""
    suite(folder)
    (folder / "waiting.py").write_text(WAITING)
    asked = '[[metrics]]\nname = "waiting.py:Waiting"\n[[problems]]'
    text = SUITE.format(seeds=seeds).replace("[[problems]]", asked)
    (folder / "tiny.toml").write_text(text.replace("repeats = 1", "repeats = 0"))
    return folder


@pytest.mark.parametrize("engine", ["inline", "process"])
@pytest.mark.parametrize("what", ["all", "what is written to", "what is done"])
def test_a_folder_that_is_taken_away_ends_the_run(tmp_path, engine, what):
    folder = waiting_suite(tmp_path, seeds=2)
    results = folder / "results"
    told = Command(folder, "run", "tiny.toml", "--no-report", "--engine", engine)

    def here(number):
        until((folder / f"here-{number}").exists, goes_on=told.process.is_alive)

    here(0)
    if what == "what is done":
        (folder / "go-0").touch()
        here(1)
    written_to = {path.parent for path in results.glob("*/.claim")}
    done = {path.parent for path in results.glob("*/measurements.jsonl")} - written_to
    taken = {"all": {results}, "what is written to": written_to, "what is done": done}[what]
    assert len(taken) >= 1
    (folder / "away").mkdir()
    for path in taken:
        path.rename(folder / "away" / path.name)
    for number in range(2):
        (folder / f"go-{number}").touch()
    assert told.code() == 2
    assert "was deleted while" in told.err.read_text()
    assert "Traceback" not in told.err.read_text()


def test_another_folder_in_the_place_of_the_one_that_is_held_is_not_taken_for_it(tmp_path):
    store = ResultsStore(tmp_path / "results")
    with store.locked(wait=False, say=print):
        store.check_held()
        store.root.rename(tmp_path / "away")
        for _ in range(2):
            with pytest.raises(InputError, match="results was deleted while the run wrote to it"):
                store.check_held()
            store.root.mkdir(exist_ok=True)
            (store.root / ".lock").touch()
    store.check_held()  # nobody holds it


def test_a_file_that_is_missed_since_the_folder_was_taken_away_is_told_as_that(tmp_path):
    store = ResultsStore(tmp_path / "results")

    def write():
        with store.locked(wait=False, say=print):
            store.root.rename(tmp_path / "away")
            (store.root / "suites" / "tiny.json").touch()

    with pytest.raises(InputError, match="results was deleted while the run wrote to it"):
        write()


def test_three_runs_and_a_report_share_a_folder(tmp_path):
    folder = waiting_suite(tmp_path, seeds=6)
    runs = [Command(folder, *RUN, out=f"out{n}", err=f"err{n}") for n in range(3)]

    def waiting():
        told = [run.err.read_text() for run in runs if run.err.exists()]
        return sum("waiting for it to finish" in text for text in told)

    until(lambda: waiting() == 2, goes_on=lambda: all(run.process.is_alive() for run in runs))
    until((folder / "here-0").exists, goes_on=lambda: all(run.process.is_alive() for run in runs))
    report = Command(folder, "report", "tiny", out="out3", err="err3")
    for number in range(6):
        (folder / f"go-{number}").touch()
    assert (report.code(), [run.code() for run in runs]) == (0, [0, 0, 0])
    assert (folder / "reports" / "tiny" / "index.html").is_file()
    found = Counter(lines(folder / "results"))
    assert len(found) == len(records(folder / "results"))
    assert set(found.values()) == {1}
    told = "".join(run.out.read_text() for run in runs)
    assert told.count("12 subjects: 6 trained") == 1
    assert told.count("12 subjects: 0 trained") == 2
    assert waiting() == 2
