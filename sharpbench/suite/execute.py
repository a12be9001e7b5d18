"""Hands subjects to this process or to worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue

from sharpbench.suite.run import run_subject
from sharpbench.suite.task import Notify, SubjectOutcome, SubjectTask

__all__ = ["execute"]

_Event = tuple[str, int] | None
"""What `Notify` is called with; None ends the stream."""

_events: SimpleQueue[_Event] | None = None


def execute(
    tasks: Sequence[SubjectTask], *, workers: int, notify: Notify
) -> Iterator[SubjectOutcome]:
    """Run every task and yield the outcomes as they come.

    With one worker, in this process. With more, in that many fresh processes; figures are the same,
    since every seed is derived and the thread count belongs to the suite. A process that dies (out
    of memory, say) fails the tasks it may have held and the rest is left to the next run.
    """
    if workers == 1 or len(tasks) == 1:
        for task in tasks:
            yield run_subject(task, notify)
        return
    context = multiprocessing.get_context("spawn")
    events = context.SimpleQueue()
    drain = threading.Thread(target=_forward, args=(events, notify), daemon=True)
    drain.start()
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), context, initializer=_start_worker, initargs=(events, os.getpid())
    )
    try:
        futures = {pool.submit(_run_in_worker, task): task for task in tasks}
        for future in as_completed(futures):
            task = futures[future]
            try:
                yield future.result()
            except BrokenProcessPool:
                reason = "a worker process died (out of memory?); run again to resume"
                yield SubjectOutcome(
                    task.subject.key,
                    task.subject.label,
                    trained=False,
                    measured=0,
                    problems=(f"{task.subject.label}: {reason}",),
                )
    except BaseException:
        # Ctrl-C: what is recorded is on the disk, so the workers can simply be ended.
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        events.put(None)
        drain.join(timeout=5)


def _forward(events: SimpleQueue[_Event], notify: Notify) -> None:
    while (event := events.get()) is not None:
        notify(*event)


def _start_worker(events: SimpleQueue[_Event], parent: int) -> None:
    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides on Ctrl-C
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent must not leave workers behind that still write to the results folder."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run_in_worker(task: SubjectTask) -> SubjectOutcome:
    assert _events is not None
    events = _events
    return run_subject(task, lambda text, dealt_with: events.put((text, dealt_with)))
