"""One subject of a plan, in this process: its records brought up to the plan."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from sharpbench.allocator import keep_freed_memory
from sharpbench.errors import InputError
from sharpbench.results.store import ResultsStore
from sharpbench.suite.asking import explain
from sharpbench.suite.network_run import NetworkRun
from sharpbench.suite.plan import NetworkPlan, ProblemPlan
from sharpbench.suite.problem_run import ProblemRun
from sharpbench.suite.subject_run import SubjectRun
from sharpbench.suite.task import Notify, SubjectOutcome, SubjectTask, Watch, nobody_watches

__all__ = ["run_subject"]


def run_subject(
    task: SubjectTask,
    notify: Notify,
    watch: Watch = nobody_watches,
    *,
    network: Callable[..., NetworkRun] = NetworkRun,
) -> SubjectOutcome:
    """Bring the records of one subject up to the plan; what is there already, and proven, is left alone.

    Raises InputError or OSError for a results folder that can't be used; anything else is in the outcome.
    """
    folder = ResultsStore(task.results).subject(task.subject.key)
    run: ProblemRun | NetworkRun | SubjectRun
    if isinstance(task.subject, ProblemPlan):
        run = ProblemRun(task, task.subject, folder, notify, watch)
    elif isinstance(task.subject, NetworkPlan):
        run = network(task, task.subject, folder, notify, watch)
    else:
        run = SubjectRun(task, task.subject, folder, notify, watch)
    with folder.writing(), _settings(task), _settled_heap():
        try:
            run.mended += folder.mend()
            run.unproven = folder.load().unproven
            run.run()
            run.recorded = folder.recorded()
        except (InputError, OSError):
            raise
        except Exception as error:
            run.problems.append(f"{task.subject.label}: {explain(error)}")
    return run.outcome()


@contextmanager
def _settings(task: SubjectTask) -> Iterator[None]:
    """What decides the order of sums belongs to the suite: the thread count, torch's and that of numpy's and
    scipy's linear algebra, on CUDA the algorithms."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(task.plan.threads)
    if task.subject.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with threadpool_limits(task.plan.threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic)  # imports a compiler, for seconds


@contextmanager
def _settled_heap() -> Iterator[None]:
    """What is alive by now is not looked through for garbage before every figure.

    A search through all that was imported takes longer than many a metric does.
    """
    gc.collect()
    others = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not others:
            gc.unfreeze()
