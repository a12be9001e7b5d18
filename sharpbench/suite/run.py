"""One subject of a plan, in this process: its records brought up to the plan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sharpbench.cost import keep_freed_memory
from sharpbench.results.store import ResultsStore
from sharpbench.suite.plan import ProblemPlan
from sharpbench.suite.problem_run import ProblemRun
from sharpbench.suite.subject_run import SubjectRun
from sharpbench.suite.task import Notify, SubjectOutcome, SubjectTask

__all__ = ["run_subject"]


def run_subject(task: SubjectTask, notify: Notify) -> SubjectOutcome:
    """Bring the records of one subject up to the plan; what is there already is left alone."""
    folder = ResultsStore(task.results).subject(task.subject.key)
    with folder.writing(), _settings(task):
        if isinstance(task.subject, ProblemPlan):
            return ProblemRun(task, task.subject, folder, notify).run()
        return SubjectRun(task, task.subject, folder, notify).run()


@contextmanager
def _settings(task: SubjectTask) -> Iterator[None]:
    """What decides the order of sums belongs to the suite: the thread count, on CUDA the algorithms."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(task.plan.threads)
    if task.subject.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
