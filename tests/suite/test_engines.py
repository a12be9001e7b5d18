"""Whatever ends a worker fails one figure, and no engine changes a digit."""

from __future__ import annotations

import ctypes
import multiprocessing.forkserver
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from sharpbench.errors import InputError
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric
from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.results import store
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.subject import Subject
from sharpbench.suite.engines import InlineEngine, ProcessEngine, make_engine, process
from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import run_plan
from sharpbench.suite.spec import load_suite
from sharpbench.suite.task import SubjectTask


def end(how: str) -> None:
    """End, hang or stop this process."""
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(0)
    elif how == "killed":  # as the system does when memory is short
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif (
        how == "c_code"
    ):  # a deadlock that keeps the interpreter: no signal handler of Python's runs
        library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(128)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
    elif how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(600)
    elif how == "closes":
        os.closerange(3, 200)
        time.sleep(600)
    elif how.startswith("takes "):  # away the folder that its figure is to be recorded in
        take_away(next(Path(how.removeprefix("takes ")).glob("*/.claim")).parent)


def take_away(folder: Path) -> None:
    folder.rename(folder.parent.parent / "away")


@dataclass(frozen=True)
class Deadly(Metric):
    """Ends the process that it measures in, ``times`` times if a folder to count in is given."""

    name, title, unit, space = "deadly", "deadly metric", "", "parameter"
    how: str = ""
    times: int = 1000
    folder: str = ""

    def measure(self, subject, *, seed):
        if self.folder:
            before = len(list(Path(self.folder).iterdir()))
            (Path(self.folder) / str(before)).touch()
            if before >= self.times:
                return Measurement(2.0)
        end(self.how)
        return Measurement(1.0)


@dataclass(frozen=True, kw_only=True)
class Plane(Problem):
    """A linear function that can't be built where ``how`` says so."""

    name = title = "plane"
    how: str = ""
    size: int = 1

    def subject(self, *, seed):
        end(self.how)
        return Subject(nn.Linear(2, 1), torch.ones(3, 2), torch.zeros(3, 1))


@pytest.fixture(autouse=True)
def plugged_in():
    metrics.register(Deadly)
    problems.register(Plane)
    yield
    metrics.forget("deadly")
    problems.forget("plane")


def run(folder: Path, blocks: str, engine, limits: str = "", finished=lambda outcome: None):
    suite = folder / "deadly.toml"
    suite.write_text(
        f'name = "deadly"\nseeds = [0]\n{blocks}\n[cost]\nrepeats = 1\n[limits]\n{limits}\n'
    )
    plan = make_plan(load_suite(suite))
    told: list[tuple[str, int]] = []
    outcomes = run_plan(
        plan, plan, ResultsStore(folder / "results"), folder, suite_text="", command="test", engine=engine,
        notify=lambda *event: told.append(event), finished=finished,
    )  # fmt: skip
    return {outcome.label: outcome for outcome in outcomes}, sum(n for _, n in told)


def block(problem: str, *asked: str) -> str:
    asked = ", ".join(f'{{ name = "deadly", {one} }}' for one in asked)
    return f'[[problems]]\nproblem = {{ name = "plane", {problem} }}\nmetrics = [{asked}]\n'


ENDS = {
    "segfault": ("error", "worker died by signal 11 while measuring WHAT, 2 times"),
    "exit": ("error", "worker ended itself with exit code 0 while measuring WHAT, 2 times"),
    "killed": ("error", "worker died by signal 9 while measuring WHAT, 2 times"),
    "stopped": ("error", "worker was kept stopped for 0.2 s while measuring WHAT, 2 times"),
    "closes": ("error", "worker closed its connection while measuring WHAT, 2 times"),
    "c_code": ("timeout", "measuring WHAT took longer than the limit of 3 s, and its process was ended"),
    "deaf": ("timeout", "measuring WHAT took longer than the limit of 3 s, and its process was ended"),
}  # fmt: skip


def test_what_ends_a_worker_fails_one_figure_and_is_tried_again(tmp_path):
    blocks = (
        block("size = 1", *(f'how = "{how}"' for how in ENDS), 'how = ""')
        + block("size = 2", 'how = ""')
        + block('how = "segfault"', 'how = ""', 'how = "exit"')
    )
    engine = ProcessEngine(2, grace=0.3, stopped=0.2)
    outcomes, dealt_with = run(tmp_path, blocks, engine, "measurement_seconds = 3")
    frame = load_records(tmp_path / "results", suite="deadly")
    rows = frame[frame["problem.size"] == 1].set_index("label")
    told = {how: (row.status, row.reason) for how, row in rows.groupby("label").first().iterrows()}
    for how, (status, reason) in ENDS.items():
        label = f"deadly(how={how})"
        assert told[label] == (status, reason.replace("WHAT", label))
    assert rows.status["deadly"] == "ok"
    mishaps = outcomes["plane · seed=0"]
    assert (mishaps.measured, len(mishaps.problems)) == (8, 7)
    whole = outcomes["plane(size=2) · seed=0"]
    assert (whole.measured, whole.problems) == (1, ())
    unbuilt = outcomes["plane(how=segfault) · seed=0"]
    assert unbuilt.measured == 0
    assert unbuilt.problems == (
        "plane(how=segfault) · seed=0: worker died by signal 11 while building it, 2 times",
    )
    assert dealt_with == 9
    # The next run tries what failed again, and nothing else.
    again, _ = run(tmp_path, block("size = 1", *(f'how = "{h}"' for h in ["exit", ""])), engine)
    assert again["plane · seed=0"].measured == 1
    assert "exit code 0" in again["plane · seed=0"].problems[0]


def test_how_a_worker_ended_is_waited_for_where_that_takes_a_while():
    """Its connection is closed before the process that forked it learns of its end, and tells it."""

    class Ended:
        exitcode = None

        def join(self, timeout):
            if timeout > 1:  # a busy machine gets to it later
                self.exitcode = -9

    class Gone:
        def is_running(self):
            return False

    worker = object.__new__(process._Worker)
    worker.process, worker.system, worker._deaf = Ended(), Gone(), True
    fault = worker.fault(worker.dead, grace=5.0, stopped=30.0)
    assert fault.reason == "worker died by signal 9"


def test_a_worker_that_dies_once_is_replaced_and_nobody_is_bothered(tmp_path):
    count = tmp_path / "count"
    count.mkdir()
    asked = ["how = 'none'", f"how = 'killed', times = 1, folder = '{count}'"]
    outcomes, dealt_with = run(tmp_path, block("size = 1", *asked), ProcessEngine())
    assert len(list(count.iterdir())) >= 2
    (outcome,) = outcomes.values()
    assert (outcome.measured, outcome.problems) == (2, ())
    assert dealt_with == 2
    rows = load_records(tmp_path / "results", suite="deadly")
    assert rows.value.tolist() == [1.0, 2.0]


TRAINED = """
[[subjects]]
dataset = { name = "two_moons", n = 60 }
model = { name = "mlp", widths = [4] }
recipe = { name = "adam", epochs = [1, 2] }
[[metrics]]
name = "margin"
"""
ASKED = block("size = [1, 2]", 'how = ""')


@pytest.mark.parametrize("engine", [InlineEngine, ProcessEngine])
def test_a_folder_that_is_taken_away_while_it_is_written_to_ends_the_run(tmp_path, engine):
    takes = block("size = 2", f'how = "takes {tmp_path / "results"}"')
    with pytest.raises(InputError, match="was deleted while the run wrote to it; run again"):
        run(tmp_path, block("size = 1", 'how = ""') + takes, engine())


@pytest.mark.parametrize(
    "moment", ["claimed", "sweep_partials", "named_in_errors", "write_atomically"]
)
def test_a_folder_that_is_taken_away_between_a_look_and_a_write_ends_the_run(
    tmp_path, monkeypatch, moment
):
    """Whatever was the last that found it there."""
    real, left = getattr(store, moment), [1]

    def found_there(path, *arguments, **options):
        folder = path if path.is_dir() else path.parent
        if folder.parent == tmp_path / "results" and left and folder.name not in store._DOCUMENTS:
            left.clear()
            take_away(folder)
        return real(path, *arguments, **options)

    monkeypatch.setattr(store, moment, found_there)
    with pytest.raises(InputError, match="was deleted while the run wrote to it; run again"):
        run(tmp_path, block("size = 1", 'how = ""'), InlineEngine())
    assert not left
    assert not [p for p in (tmp_path / "results").glob("*/*") if p.name.startswith("measure")]
    outcomes, _ = run(tmp_path, block("size = 1", 'how = ""'), InlineEngine())
    assert [o.measured for o in outcomes.values()] == [1]


@pytest.mark.parametrize(
    ("engine", "blocks", "again"),
    [
        (InlineEngine, ASKED, False),
        (ProcessEngine, ASKED, False),
        (InlineEngine, ASKED, True),
        (InlineEngine, TRAINED, True),
    ],
)
def test_a_folder_that_is_taken_away_after_its_work_ends_the_run(tmp_path, engine, blocks, again):
    taken = []

    def finished(outcome):
        if not taken:
            taken.append(ResultsStore(tmp_path / "results").subject(outcome.key).path)
            take_away(taken[0])

    if again:  # nothing is to do
        run(tmp_path, blocks, engine())
    with pytest.raises(InputError, match="was deleted while the run wrote to it; run again"):
        run(tmp_path, blocks, engine(), finished=finished)
    outcomes, _ = run(tmp_path, blocks, engine())
    assert sorted(o.measured > 0 for o in outcomes.values()) == [False, True]


def test_records_that_are_cut_off_after_their_subject_was_done_end_the_run(tmp_path):
    def finished(outcome):
        os.truncate(
            ResultsStore(tmp_path / "results").subject(outcome.key).path / "measurements.jsonl", 9
        )

    with pytest.raises(InputError, match="was deleted while the run wrote to it; run again"):
        run(tmp_path, block("size = 1", 'how = ""'), InlineEngine(), finished=finished)


def test_an_engine_that_cannot_do_it_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sharpbench\[ray\]'"):
        make_engine("ray")
    with pytest.raises(InputError, match="Did you mean 'process'"):
        make_engine("proces")
    with pytest.raises(InputError, match="leave out --workers"):
        make_engine("inline", workers=2)
    with pytest.raises(InputError, match="--gpus-per-worker"):
        make_engine("process", gpus_per_worker=1)


def test_classes_that_no_process_can_import_are_told(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Local(Plane):
        """Defined in a function."""

        name = "local"

    problems.register(Local)
    try:
        text = block("size = 1", 'how = ""').replace("plane", "local")
        outcomes, _ = run(tmp_path, text, ProcessEngine())
        inline, _ = run(tmp_path, text, InlineEngine())
    finally:
        problems.forget("local")
    assert "can't be sent to another process" in outcomes["local · seed=0"].problems[0]
    assert inline["local · seed=0"].problems == ()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_workers_share_what_training_and_its_data_import(tmp_path, device):
    """Forked from a process that has imported it, except where that could ask for a GPU."""
    (tmp_path / "suite.toml").write_text(
        'name = "one"\nseeds = [0]\n[[subjects]]\ndataset = { name = "two_moons" }\n'
        'model = { name = "mlp" }\nrecipe = { name = "adam" }\n'
        '[[metrics]]\nname = "margin"\n[[problems]]\nproblem = { name = "hyperbolic_tangent" }\n'
        'metrics = { name = "curvature_rate", target = 0 }\n'
    )
    plan = make_plan(load_suite(tmp_path / "suite.toml"), device=device)
    tasks = [
        SubjectTask(plan, subject, tmp_path, tmp_path, "run", False, False)
        for subject in plan.subjects
    ]
    found = [process._first_used(task) for task in tasks]
    for modules in found:
        process._context(modules)
        given = multiprocessing.forkserver._forkserver._preload_modules
        assert {"sharpbench.suite.run", *modules} <= set(given)
    shared = {"torch._dynamo", "sklearn.datasets"}
    assert [shared <= set(modules) for modules in found] == [device == "cpu", False]
