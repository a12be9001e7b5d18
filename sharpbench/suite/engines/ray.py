"""Subjects on the nodes of a Ray cluster, any of which may be lost at any time."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pickle
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpbench.datasets.files import data_root
from sharpbench.errors import InputError, first_line
from sharpbench.results import provenance
from sharpbench.results.store import ResultsStore
from sharpbench.suite.engines.base import Engine
from sharpbench.suite.engines.job import Fault, Job
from sharpbench.suite.engines.process import ProcessEngine
from sharpbench.suite.task import Doing, Notify, SubjectOutcome, SubjectTask

__all__ = ["RayEngine"]

_TICK = 0.5
"""Seconds between two looks at what the nodes say and at which there are."""


@dataclass(frozen=True)
class _Node:
    """What a node of the cluster has, and what it said of itself."""

    key: str
    host: str
    cpus: float
    gpus: float
    shares: bool
    """Whether it sees the results folder."""
    run: str
    """Of the provenance of what is done there."""


@dataclass
class _Job:
    """A subject on a node."""

    job: Job
    node: _Node
    alone: bool
    said: Any
    """What it tells, as a generator of references."""
    doing: Doing = field(default_factory=lambda: Doing(None, 0, False))


class RayEngine(Engine):
    """Hands each subject to a node, where a process engine of one worker runs it.

    The results folder is the truth: a node that sees it appends to it, and holds the subject's claim; any
    other is sent what there is of the subject and answers with the files. Scheduling is done here and
    nothing is retried by Ray: a subject whose node is lost goes to another, and the step at which that
    happened twice is recorded as an error and left out. What takes times has its node to itself.

    Joins the cluster at ``RAY_ADDRESS`` or of this machine; else starts one of this machine's cores. Needs
    the extra ``sharpbench[ray]``.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, gpus_per_worker: float | None = None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise InputError("the engine 'ray' is not installed: pip install 'sharpbench[ray]'")
        self._most, self._gpus_asked = workers, gpus_per_worker
        self._started = False
        self._nodes: dict[str, _Node] = {}

    @property
    def workers(self) -> int:  # type: ignore[override]
        """How many subjects run at once, at most: as many as the cluster has cores unless stated."""
        self._connect()
        cores = int(sum(resources.get("CPU", 0) for _, resources in _alive()))
        return max(1, min(cores, self._most or cores))

    def run(
        self, tasks: Sequence[SubjectTask], notify: Notify
    ) -> Generator[SubjectOutcome, None, None]:
        """See `Engine.run`. Raises InputError for a cluster that can't run the tasks."""
        if not tasks:
            return
        self._connect()
        gpus = self._gpus(tasks[0].subject.device)
        waiting = deque(Job(task) for task in tasks)
        running: list[_Job] = []
        deserted: float | None = None
        try:
            with _token(tasks[0].results) as token:
                while waiting or running:
                    nodes = self._look(tasks[0], token, gpus)
                    if nodes:
                        deserted = None
                    elif not running:
                        deserted = deserted or time.monotonic()
                        notify("waiting for a node of the Ray cluster", 0)
                        time.sleep(_TICK)
                        if time.monotonic() - deserted > 60:
                            needs = f"{gpus:g} GPUs" if gpus else "a core"
                            raise InputError(
                                f"no node of the Ray cluster has {needs}; run again to resume"
                            )
                        continue
                    self._hand_out(waiting, running, nodes, gpus)
                    for work in _ready(running):
                        yield from self._listen(work, waiting, running, notify)
        finally:
            _stop(running)
            self.close()

    # --- the cluster --------------------------------------------------------------------------

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            try:
                ray.init(os.environ.get("RAY_ADDRESS", "auto"), **quiet)
            except (ConnectionError, ValueError) as error:
                if "RAY_ADDRESS" in os.environ:
                    raise InputError(
                        f"no Ray cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']!r} "
                        f"({first_line(error)})"
                    ) from None
                # Results pass through the folder, not through Ray's memory, which is taken at once.
                ray.init(include_dashboard=False, object_store_memory=200 * 2**20, **quiet)
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        self._started = True

    def close(self) -> None:
        """Leave the cluster, unless it is the caller's."""
        if self._started:
            import ray

            ray.shutdown()
            self._started, self._nodes = False, {}

    def _gpus(self, device: str) -> float:
        """GPUs that each worker is given."""
        if not device.startswith("cuda"):
            return self._gpus_asked or 0.0
        if device not in {"cuda", "cuda:0"}:
            raise InputError(
                f"--device {device} with the engine 'ray': each worker sees the GPUs that it is given, "
                "counted from 0; say --device cuda"
            )
        return self._gpus_asked or 1.0

    def _look(self, task: SubjectTask, token: Path, gpus: float) -> list[_Node]:
        """The nodes that are there and can run a task; a new one is asked about itself first."""
        here = dict(_alive())
        for key in set(self._nodes) - set(here):
            del self._nodes[key]
        for key, resources in here.items():
            if key in self._nodes or not resources.get("CPU", 0) >= 1:
                continue
            if gpus and not resources.get("GPU", 0) >= gpus:
                continue
            if node := self._ask(key, resources, task, token, gpus):
                self._nodes[key] = node
        return list(self._nodes.values())

    def _ask(
        self, key: str, resources: dict[str, float], task: SubjectTask, token: Path, gpus: float
    ) -> _Node | None:
        import ray

        store = ResultsStore(task.results)
        command = store.documents("runs").get(task.run, {}).get("command", "")
        introduce = ray.remote(**_once(gpus))(_introduce)
        asked = introduce.options(num_cpus=0, num_gpus=gpus, scheduling_strategy=_on(key)).remote(
            str(token), command, task.subject.device, self.workers, task.plan.threads
        )
        try:
            host, shares, found = ray.get(asked, timeout=120)
        except ray.exceptions.RayTaskError as error:
            raise InputError(
                f"a node of the Ray cluster can't run sharpbench ({first_line(error.cause)}); every node "
                "needs the versions that this machine has"
            ) from None
        except (ray.exceptions.RayError, TimeoutError):
            return None  # it is lost already, or has no core free
        run = provenance.run_on_node(task.run, key)
        store.write_document("runs", run, {**found, "node": host})
        return _Node(key, host, resources["CPU"], resources.get("GPU", 0), shares, run)

    # --- subjects -----------------------------------------------------------------------------

    def _hand_out(
        self, waiting: deque[Job], running: list[_Job], nodes: list[_Node], gpus: float
    ) -> None:
        """Give every node what it has room for."""
        for node in nodes:
            while len(running) < self.workers:
                there = [work for work in running if work.node.key == node.key]
                if any(work.alone for work in there):
                    break
                cpus = node.cpus - sum(_cpus(work.job.task, node) for work in there)
                room_for_gpus = not gpus or node.gpus - gpus * len(there) >= gpus
                chosen = next(
                    (
                        job
                        for job in waiting
                        if _cpus(job.task, node) <= cpus
                        and room_for_gpus
                        and not (job.task.time_costs and there)
                    ),
                    None,
                )
                if chosen is None:
                    break
                waiting.remove(chosen)
                running.append(self._send(chosen, node, gpus))

    def _send(self, job: Job, node: _Node, gpus: float) -> _Job:
        import ray

        job.begin()
        alone = job.task.time_costs
        task = dataclasses.replace(job.task, shared_machine=not alone, run=node.run)
        files: dict[str, bytes] | None = None
        if not node.shares:
            folder = ResultsStore(task.results).subject(task.subject.key)
            with folder.writing():
                folder.mend()
                files = folder.files()
        remote = ray.remote(**_once(gpus), num_returns="streaming")(_run)
        said = remote.options(
            # A whole node for what takes times: nor does any other driver put something beside it.
            num_cpus=node.cpus if alone else _cpus(task, node),
            num_gpus=gpus,
            scheduling_strategy=_on(node.key),
        ).remote(pickle.dumps(task), files)
        return _Job(job, node, alone, said)

    def _listen(
        self, work: _Job, waiting: deque[Job], running: list[_Job], notify: Notify
    ) -> Iterator[SubjectOutcome]:
        """Take in the next thing that a subject's node says."""
        import ray

        try:
            said = ray.get(next(work.said))
        except StopIteration:
            fault: Exception | None = RuntimeError("it left without an answer")
        except (ray.exceptions.RayError, ray.exceptions.RayTaskError) as error:
            fault = error
        else:
            fault = None
        if fault is not None:
            running.remove(work)
            work.job.ended(work.doing)
            if isinstance(fault, ray.exceptions.TaskUnschedulableError):
                waiting.appendleft(work.job)  # its node was gone before it began
            elif outcome := work.job.died(work.doing.step, Fault(self._loss(work.node))):
                yield outcome
            else:
                waiting.appendleft(work.job)
        elif isinstance(said, Doing):
            work.doing = said
        elif isinstance(said, Exception):
            raise said
        elif isinstance(said, dict):
            folder = ResultsStore(work.job.task.results).subject(work.job.task.subject.key)
            with folder.writing():
                folder.take(said)
        elif isinstance(said, SubjectOutcome):
            running.remove(work)
            yield work.job.outcome(said)
        else:
            text, dealt_with = said
            notify(text, work.job.new(dealt_with))

    def _loss(self, node: _Node) -> str:
        alive = node.key in dict(_alive())
        return f"the worker on {node.host} died" if alive else f"the node {node.host} was lost"


def _cpus(task: SubjectTask, node: _Node) -> float:
    """Cores that a task takes up there: as many as its threads, or all."""
    return min(float(max(1, task.plan.threads)), node.cpus)


def _alive() -> list[tuple[str, dict[str, float]]]:
    import ray

    return [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _once(gpus: float) -> dict[str, Any]:
    """Ray retries nothing. A worker with a GPU serves one task: its processes know that GPU alone."""
    return {"max_retries": 0, **({"max_calls": 1} if gpus else {})}


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _ready(running: list[_Job]) -> list[_Job]:
    """Those that say something, waiting a little for the first."""
    import ray

    if not running:
        time.sleep(_TICK)
        return []
    ready, _ = ray.wait([w.said for w in running], timeout=_TICK, fetch_local=False)
    return [work for work in running if work.said in ready]


def _stop(running: list[_Job]) -> None:
    """End what runs, and wait until it doesn't any more."""
    import ray

    if not ray.is_initialized():
        return
    for work in running:
        with suppress(Exception):
            ray.cancel(work.said, force=True)
    deadline = time.monotonic() + 10
    for work in running:
        with suppress(Exception):
            while ray.wait([work.said], timeout=max(0, deadline - time.monotonic()))[0]:
                next(work.said)


@contextmanager
def _token(results: Path) -> Iterator[Path]:
    """A file that only who sees the very results folder can find."""
    path = results / f".shared.{uuid.uuid4().hex}"
    path.write_text(path.name, "utf-8")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


# --- what runs on the nodes -------------------------------------------------------------------------


def _introduce(
    token: str, command: str, device: str, workers: int, threads: int
) -> tuple[str, bool, dict[str, Any]]:
    """This node's host, whether it sees the results folder, and its provenance."""
    path = Path(token)
    shares = path.is_file() and path.read_text("utf-8") == path.name
    found = provenance.collect(command, device=device, workers=workers, threads=threads)
    return socket.gethostname(), shares, found


def _run(message: bytes, files: dict[str, bytes] | None) -> Iterator[Any]:
    """Run a task in a process of this node; yields what it tells, the files if any were sent, the outcome."""
    task: SubjectTask = pickle.loads(message)
    if task.subject.missing(task.data):
        # The dataset may lie elsewhere on this node.
        task = dataclasses.replace(task, data=data_root())
        if reason := task.subject.missing(task.data):
            subject, text = task.subject, f"{socket.gethostname()}: {reason}"
            yield SubjectOutcome(
                subject.key, subject.label, False, 0, (f"{subject.label}: {text}",)
            )
            return
    if files is None:
        yield from _told(task)
        return
    with tempfile.TemporaryDirectory(prefix="sharpbench-") as place:
        task = dataclasses.replace(task, results=Path(place))
        folder = ResultsStore(task.results).subject(task.subject.key)
        with folder.writing():
            folder.take(files)
        for said in _told(task):
            if isinstance(said, SubjectOutcome):
                yield folder.files()
            yield said


def _told(task: SubjectTask) -> Iterator[Any]:
    # Else each process would run Ray's own main module again, to no use.
    sys.modules["__main__"].__dict__.pop("__file__", None)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work() -> None:
        try:
            engine = ProcessEngine(1, watch=events.put)
            for outcome in engine.run([task], lambda *event: events.put(event)):
                events.put(outcome)
        except Exception as error:
            events.put(error)
        finally:
            events.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (said := events.get()) is not None:
        yield said
