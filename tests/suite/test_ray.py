"""One suite on many machines: no digit differs, and whatever is lost is done elsewhere, once."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from sharpbench.errors import InputError
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric
from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.subject import Subject
from sharpbench.suite.engines import InlineEngine, RayEngine, make_engine
from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import run_plan
from sharpbench.suite.spec import load_suite
from tests.waiting import until

pytest.importorskip("ray", reason="needs sharpbench[ray]")
ROOT = Path(__file__).resolve().parents[2]

TRAINED = """
name = "mini"
seeds = [0, 1]
[[subjects]]
dataset = { name = "two_moons", n = 80 }
model = { name = "mlp", widths = [8] }
recipe = { name = "adam", lr = 1e-2, epochs = 2 }
[[metrics]]
name = "curvature_rate"
[[metrics]]
name = "hessian_trace"
[cost]
repeats = 1
"""


@dataclass(frozen=True)
class Waiting(Metric):
    """Tells that it is here and goes on when it may; ends its process if ``deadly``."""

    name, title, unit, space = "waiting", "waiting metric", "", "parameter"
    folder: str = ""
    deadly: bool = False

    def measure(self, subject, *, seed):
        if self.deadly:
            os._exit(3)
        here = Path(self.folder)
        (here / f"tried-{os.getpid()}").touch()
        while not (here / "go").exists():
            time.sleep(0.05)
        return Measurement(1.0)


@dataclass(frozen=True, kw_only=True)
class Plane(Problem):
    """A linear function."""

    name = title = "plane"
    size: int = 1

    def subject(self, *, seed):
        return Subject(nn.Linear(2, 1), torch.ones(3, 2), torch.zeros(3, 1))


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    small = {"include_dashboard": False, "object_store_memory": 10**8}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    os.environ["RAY_ADDRESS"] = found.address
    yield found
    found.shutdown()
    os.environ.clear()
    os.environ |= before


@pytest.fixture
def plugged_in():
    metrics.register(Waiting)
    problems.register(Plane)
    yield
    metrics.forget("waiting")
    problems.forget("plane")


def add_node(cluster):
    return cluster.add_node(num_cpus=1, object_store_memory=10**8)


def run(folder: Path, text: str, engine, finished=lambda outcome: None):
    (folder / "suite.toml").write_text(text)
    plan = make_plan(load_suite(folder / "suite.toml"))
    return run_plan(
        plan, plan, ResultsStore(folder / "results"), folder, suite_text="", command="test", engine=engine,
        notify=lambda text, dealt_with: None, finished=finished,
    )  # fmt: skip


def figures(folder: Path):
    """Everything but cost, by key."""
    return {
        record.key: record.figure()
        for subject in ResultsStore(folder).subjects()
        for record in subject.records()
    }


def lines(folder: Path) -> int:
    return sum(p.read_bytes().count(b"\n") for p in folder.glob("*/measurements.jsonl"))


def test_two_nodes_give_every_digit_and_a_lost_node_costs_nothing(cluster, plugged_in, tmp_path):
    here, there, bare, lost = (tmp_path / name for name in ("here", "there", "bare", "lost"))
    for folder in (here, there, bare, lost):
        folder.mkdir()
    run(here, TRAINED, InlineEngine())
    first, second = add_node(cluster), add_node(cluster)
    outcomes = run(there, TRAINED, RayEngine())
    assert [(o.trained, o.problems) for o in outcomes] == [(True, ())] * 2
    expected = figures(here / "results")
    assert figures(there / "results") == expected
    assert lines(there / "results") == len(expected)
    frame = load_records(there / "results")
    # What was timed had its node to itself, and each record's run names the node that made it.
    assert not frame[frame.seed == 0]["cost.shared_machine"].dropna().any()
    hosts = {r: d.get("node") for r, d in ResultsStore(there / "results").documents("runs").items()}
    assert all(hosts[record] for record in frame.run.dropna() if record)

    cluster.remove_node(second, allow_graceful=False)
    # A node that does not see the folder is sent what there is, and answers with files.
    ask = RayEngine._ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            RayEngine,
            "_ask",
            lambda self, *about: (
                (node := ask(self, *about)) and dataclasses.replace(node, shares=False)
            ),
        )
        run(bare, TRAINED, RayEngine())
        assert [o.measured for o in run(bare, TRAINED, RayEngine())] == [0, 0]
    assert figures(bare / "results") == expected

    # A metric that ends its process is recorded; a node that is killed meanwhile loses nothing.
    deadly = '{ name = "waiting", deadly = true }'
    waits = f'{{ name = "waiting", folder = "{lost}" }}'
    suite = (
        'name = "lost"\nseeds = [0]\n[[problems]]\nproblem = { name = "plane" }\n'
        f"metrics = [{deadly}, {waits}]\n[cost]\nrepeats = 1\n"
    )

    over = threading.Event()

    def lose_a_node():
        def tried(times):
            return until(
                lambda: len(found := list(lost.glob("tried-*"))) >= times and found,
                goes_on=lambda: not over.is_set(),
            )

        there = tried(1)
        parents = psutil.Process(int(there[0].name.removeprefix("tried-"))).parents()
        cluster.remove_node(
            next(
                node
                for node in nodes
                if node.all_processes["raylet"][0].process.pid in {p.pid for p in parents}
            ),
            allow_graceful=False,
        )
        tried(2)  # its worker ends with it, another begins
        (lost / "go").touch()

    nodes = [first, add_node(cluster)]
    losing = threading.Thread(target=lose_a_node)
    losing.start()
    try:
        (outcome,) = run(lost, suite, RayEngine())
    finally:
        over.set()
        losing.join()
    assert len(list(lost.glob("tried-*"))) == 2
    assert "ended itself with exit code 3" in outcome.problems[0]
    frame = load_records(lost / "results").set_index("label")
    assert sorted(frame.status) == ["error", "ok"]
    assert frame[frame.status == "ok"].value.tolist() == [1.0]
    assert lines(lost / "results") == 2

    def take_away(outcome):
        ResultsStore(here / "results").subject(outcome.key).path.rename(tmp_path / "away")

    (here / "go").touch()
    asked = suite.replace(f"{deadly}, ", "").replace(str(lost), str(here))
    with pytest.raises(InputError, match="was deleted while the run wrote to it; run again"):
        run(here, asked, RayEngine(), finished=take_away)


def test_what_the_engine_cannot_do_is_told():
    with pytest.raises(InputError, match="say --device cuda"):
        RayEngine()._gpus("cuda:3")
    assert (RayEngine()._gpus("cuda"), RayEngine()._gpus("cpu")) == (1.0, 0.0)
    assert make_engine("ray", workers=2, gpus_per_worker=0.5)._gpus("cuda") == 0.5


def test_an_address_without_a_cluster_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "no address")
    with pytest.raises(InputError, match="no Ray cluster at RAY_ADDRESS='no address'"):
        run(tmp_path, TRAINED, RayEngine())


KILLS = 20


@pytest.mark.endurance
def test_twenty_random_kills_lose_nothing_and_do_nothing_twice(cluster, tmp_path):
    """Of nodes, workers and the command itself, at times drawn over all of the work: each that is killed is
    replaced, the cluster stays."""
    many = TRAINED.replace("seeds = [0, 1]", "seeds = 12")
    (tmp_path / "alone").mkdir()
    run(tmp_path / "alone", many, InlineEngine())
    expected = figures(tmp_path / "alone" / "results")
    nodes = [add_node(cluster), add_node(cluster)]
    (tmp_path / "suite.toml").write_text(many)
    results = tmp_path / "results"
    # A process of its own each time, forked from one that has imported what it needs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ray", "sharpbench.cli.run", "sharpbench.suite.session"])
    choose = random.Random(0)
    kills, begun = {"node": 0, "worker": 0, "driver": 0}, time.monotonic()
    last, code, finished = 0, None, 0
    while sum(kills.values()) < KILLS or code != 0:
        driver = context.Process(target=_drive, args=(tmp_path, dict(os.environ)))
        driver.start()
        due: float | None = None
        while driver.is_alive():
            working = _workers(nodes)
            if working and due is None:
                due = time.monotonic() + choose.uniform(0, 12)
            if working and sum(kills.values()) < KILLS and due and time.monotonic() > due:
                victim = choose.choice(sorted(kills))
                if victim == "node":
                    cluster.remove_node(nodes.pop(choose.randrange(2)), allow_graceful=False)
                    nodes.append(add_node(cluster))
                elif victim == "driver":
                    driver.kill()
                else:
                    choose.choice(working).kill()
                kills[victim] += 1
                due = None
                done = len(figures(results))
                assert done >= last  # nothing that was recorded is ever gone
                last = done
                print(f"{time.monotonic() - begun:.0f} s {kills}, {done} recorded", flush=True)
            driver.join(timeout=0.2)
        code = driver.exitcode
        if code == 0:  # after whatever was killed meanwhile
            finished += 1
            assert figures(results) == expected
            assert lines(results) == len(expected)
            if sum(kills.values()) < KILLS:  # more work, to be killed at
                shutil.rmtree(results)
                last = 0
    print(f"{kills}: {finished} times all of {len(expected)} figures, none twice", flush=True)


def _drive(folder: Path, environment: dict[str, str]) -> None:
    """What the shell does: the command, in a process of its own.

    What it is forked from may have begun before the cluster, whose address stands in the environment.
    """
    from sharpbench.cli import main

    os.environ |= environment
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.argv = ["sharpbench", "run", "suite.toml", "--engine", "ray", "--no-report"]
    main()


def _workers(nodes) -> list[psutil.Process]:
    """The processes that measure on the nodes of the cluster, and no others of this machine."""
    found = []
    for node in nodes:
        with suppress(psutil.Error):
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            found += raylet.children(recursive=True)
    working = []
    for process in found:
        with suppress(psutil.Error):
            if any("forkserver" in part for part in process.cmdline()) and not process.children():
                working.append(process)
    return working
