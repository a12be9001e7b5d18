"""Subjects in processes of this machine, any of which may die or hang at any time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from sharpbench.errors import InputError, first_line, guarded
from sharpbench.processes import end_with_parent, without_main
from sharpbench.streams import lasting_streams
from sharpbench.suite.engines.base import Engine
from sharpbench.suite.engines.job import Fault, Job
from sharpbench.suite.task import (
    Doing,
    Notify,
    SubjectOutcome,
    SubjectTask,
    Watch,
    nobody_watches,
)

__all__ = ["ProcessEngine"]

_TICK = 0.5
"""Seconds between two looks at processes that say nothing."""

_PATIENCE = 60.0
"""Seconds in which a process of a busy machine is run at least once."""

_WORKS = "sharpbench.suite.run"
"""The module that a worker needs, and this process doesn't."""

_LONGEST_TRAINING, _LONGEST_STEP = 3 * 86400.0, 12 * 3600.0
"""Limits in seconds where the suite states none."""


class ProcessEngine(Engine):
    """Each worker is a fresh process that is given one subject after another while it lives.

    A process that dies fails the step that it was at: the subject goes on in a fresh process, where the
    step is tried once more, and is then recorded as an error and left out. A step that takes longer than
    its limit, whatever it is doing, is ended with its process ``grace`` seconds later (until then it may
    end by itself), and recorded as a time-out. A process that is kept stopped for ``stopped`` seconds
    counts as dead.
    """

    name = "process"

    def __init__(
        self,
        workers: int = 1,
        *,
        grace: float = 5.0,
        stopped: float = 30.0,
        watch: Watch = nobody_watches,
    ) -> None:
        self.workers, self.grace, self.stopped, self.watch = workers, grace, stopped, watch

    def run(
        self, tasks: Sequence[SubjectTask], notify: Notify
    ) -> Generator[SubjectOutcome, None, None]:
        """See `Engine.run`."""
        waiting = deque(Job(task) for task in tasks)
        imports = sorted({name for task in tasks for name in _first_used(task)})
        crew: list[_Worker] = []
        clock = _Clock()
        try:
            while waiting or any(worker.job for worker in crew):
                yield from self._hand_out(waiting, crew, clock, imports)
                wait([end for w in crew for end in (w.pipe, w.process.sentinel)], timeout=_TICK)
                clock.tick()
                for worker in list(crew):
                    dead = worker.dead  # found before what it said is read
                    if outcome := worker.listen(notify, self.watch):
                        yield outcome
                    if not (fault := worker.fault(dead, self.grace, self.stopped)):
                        continue
                    crew.remove(worker)
                    worker.kill()
                    if worker.job is None:
                        continue
                    if outcome := worker.job.died(worker.doing.step, fault):
                        yield outcome
                    else:
                        waiting.appendleft(worker.job)
            for worker in crew:
                worker.pipe.close()  # it leaves
            for worker in crew:
                worker.process.join(timeout=2)
        finally:
            _kill(crew)

    def _hand_out(
        self, waiting: deque[Job], crew: list[_Worker], clock: _Clock, imports: Sequence[str]
    ) -> Iterator[SubjectOutcome]:
        """Give every idle worker a job; those that can't be sent are outcomes."""
        while waiting:
            idle = next((worker for worker in crew if worker.job is None), None)
            if idle is None and len(crew) == self.workers:
                return
            job = waiting.popleft()
            try:
                message = pickle.dumps(job.task)
            except Exception as error:
                yield job.failed(
                    f"can't be sent to another process ({first_line(error)}): its classes must stand in "
                    "modules, or the engine be 'inline'"
                )
                continue
            if idle is None:
                crew.append(idle := _Worker(clock, imports))
            idle.give(job, message)


class _Worker:
    """A process, and this end of its connection."""

    def __init__(self, clock: _Clock, imports: Sequence[str]) -> None:
        context = _context(imports)
        self.clock = clock
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        try:
            with without_main():
                self.process.start()
        except BaseException:  # most likely Ctrl-C, while the server imports
            _end_server()
            raise
        theirs.close()
        try:
            self.system: psutil.Process | None = psutil.Process(self.process.pid)
        except psutil.Error:  # it is over already
            self.system = None
        self.job: Job | None = None
        self.doing = Doing(None, 0, False)
        self._since = self._ran = clock.now
        self._deaf = False

    def give(self, job: Job, message: bytes) -> None:
        """Let it run a job: a pickled task."""
        self.job, self.doing = job, Doing(None, 0, False)
        job.begin()
        self._ran = self.clock.now
        try:
            self.pipe.send_bytes(message)
        except OSError:
            self._deaf = True

    def listen(self, notify: Notify, watch: Watch) -> SubjectOutcome | None:
        """Take in what it said since the last time: the outcome of its job if that is done."""
        while self.job is not None and not self._deaf:
            try:
                if not self.pipe.poll():
                    return None
                said = self.pipe.recv()
            except Exception:  # it is dead, or something else writes into its connection
                self._deaf = True
                return None
            if isinstance(said, Doing):
                self.doing, self._since = said, self.clock.now
                watch(said)
            elif isinstance(said, SubjectOutcome):
                job, self.job = self.job, None
                return job.outcome(said)
            elif isinstance(said, str):
                job, self.job = self.job, None
                return job.failed(said)
            elif isinstance(said, Exception):
                raise said
            else:
                text, dealt_with = said
                notify(text, self.job.new(dealt_with))
        return None

    def fault(self, dead: bool, grace: float, stopped: float) -> Fault | None:
        """Why it is to be replaced, or None if it may go on."""
        if self._deaf and not dead:  # most likely it is about to be
            self.process.join(timeout=1)
            if self._over:  # who forked it has yet to say how it ended
                self.process.join(timeout=_PATIENCE)
            dead = self.dead
        if dead and (code := self.process.exitcode) is not None:
            how = f"died by signal {-code}" if code < 0 else f"ended itself with exit code {code}"
            return Fault(f"worker {how}")
        if self._deaf:
            return Fault("worker closed its connection")
        now, step = self.clock.now, self.doing.step
        if self.job is not None and step is not None:
            usual = _LONGEST_TRAINING if step.trains else _LONGEST_STEP
            limit = usual if step.seconds is None else step.seconds
            if now - self._since > limit + grace:
                took = f"{step.what} took longer than the limit of {limit:g} s"
                return Fault(f"{took}, and its process was ended", timeout=True)
        if self._status != psutil.STATUS_STOPPED:
            self._ran = now
        elif now - self._ran > stopped:
            return Fault(f"worker was kept stopped for {stopped:g} s")
        return None

    @property
    def dead(self) -> bool:
        """Whether its process is over; one that closed whatever it had open can look as if it were."""
        return self.process.exitcode is not None and self._over

    @property
    def _over(self) -> bool:
        return self._status in {"", psutil.STATUS_ZOMBIE}

    @property
    def _status(self) -> str:
        try:
            return str(self.system.status()) if self.system and self.system.is_running() else ""
        except psutil.Error:
            return ""

    def kill(self) -> None:
        """End it, now, with the processes that it started; what was written by its job is counted."""
        if self.job is not None:
            self.job.ended(self.doing)
        _kill([self])


def _first_used(task: SubjectTask) -> tuple[str, ...]:
    """What training and its data import when they are first used, 200 MB and two seconds for each process.

    Where there are GPUs it stays so: a module that asks for them when it is imported would keep every
    process that is forked later from using one.
    """
    from sharpbench.suite.plan import SubjectPlan

    subject = task.subject
    if not isinstance(subject, SubjectPlan) or subject.device != "cpu":
        return ()
    return *subject.dataset.imports, *subject.recipe.imports


def _context(imports: Sequence[str]) -> Any:
    """How processes are started: forked from one that has imported everything and done nothing.

    So a fresh one takes milliseconds in place of seconds and shares the memory of what was imported, and has
    no threads, devices or locks of this process. It ends with that one, which ends with this process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    imported = [name for name in sys.modules if name.startswith("sharpbench.")]
    own = [name for name in imported if not name.endswith("__main__")]
    context.set_forkserver_preload(list(dict.fromkeys([*own, _WORKS, *imports])))
    _start_server()
    return context


def _start_server() -> None:
    """Start what workers are forked from, and what clears up after those that are ended, unless they run.

    The one takes a terminal's Ctrl-C, which all processes get, for its own end until it has imported what it
    is to hold; it inherits from here that the signal waits. The other warns of what it clears up, which a
    worker that was ended could not do itself.
    """
    sys.warnoptions.append(_CLEARED_UP)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_CLEARED_UP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_CLEARED_UP = "ignore:resource_tracker"


def _end_server() -> None:
    """End what workers are forked from, with those that it was forking: one that never learns what it is to
    do would tell of it in a traceback."""
    pid = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if pid is None:
        return
    with suppress(psutil.Error):
        server = psutil.Process(pid)
        server.suspend()
        for process in (*server.children(), server):
            process.kill()


def _kill(crew: list[_Worker]) -> None:
    """End processes: asked at first, then without being asked."""
    alive = [worker.system for worker in crew if worker.system and not worker.dead]
    left = [*alive, *(child for process in alive for child in _children(process))]
    try:
        for process in alive:
            with suppress(psutil.Error):
                process.terminate()
        _, left = psutil.wait_procs(left, timeout=2)
    finally:  # stopped, deaf to the asking, or never asked; at a second Ctrl-C all of them
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
    for worker in crew:
        worker.process.join(timeout=10)
        worker.pipe.close()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


class _Clock:
    """Seconds that this process ran: not those in which it was stopped or waited for its caller."""

    def __init__(self) -> None:
        self.now = 0.0
        self._last = time.monotonic()

    def tick(self) -> None:
        """To be called at least every `_TICK` seconds."""
        time_now = time.monotonic()
        self.now += min(time_now - self._last, 2 * _TICK)
        self._last = time_now


def _serve(pipe: Connection) -> None:
    """The life of a worker: task after task, until the other end is closed."""
    from sharpbench.suite.run import run_subject

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides on Ctrl-C
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `_start_server`
    end_with_parent(os.getppid())
    lasting_streams()

    def say(what: Any) -> None:
        try:
            pipe.send(what)
        except (
            OSError
        ):  # the other end is closed, and no guard around a plug-in is to take it for its fault
            os._exit(1)

    def notify(text: str, dealt_with: int) -> None:
        say((text, dealt_with))

    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            with guarded():
                task = pickle.loads(message)
        except Exception as error:
            say(f"its classes can't be read by another process ({first_line(error)})")
            continue
        try:
            say(run_subject(task, notify, say))
        except (InputError, OSError) as error:
            say(error)
