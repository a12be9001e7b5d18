"""Peak memory of a call in a process of its own, above what it held before the call."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from sharpbench.cost.meter import measure_cost
from sharpbench.processes import end_with_parent, without_main

__all__ = ["peak_in_fresh_process"]


def peak_in_fresh_process(
    prepare: Callable[..., Callable[[], object]], *arguments: Any, timeout: float = 600.0
) -> int | None:
    """Bytes by which the resident set of a fresh process rises during ``prepare(*arguments)()``.

    ``prepare`` (a module-level function) runs first and counts as the baseline. In the calling process
    memory that earlier work left behind would make a call look cheaper than it is. None if the process
    died or took longer than ``timeout`` seconds.
    """
    context = multiprocessing.get_context("spawn")
    answer, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure, args=(theirs, os.getpid(), prepare, arguments), daemon=True
    )
    with without_main():
        process.start()
    theirs.close()
    try:
        peak: int | None = answer.recv() if answer.poll(timeout) else None
    except EOFError:
        peak = None
    finally:
        process.terminate()
        process.join()
        answer.close()
    return peak


def _measure(
    answer: Connection, parent: int, prepare: Callable[..., Callable[[], object]], arguments: Any
) -> None:
    import torch

    end_with_parent(parent)
    torch.set_num_threads(1)
    try:
        call = prepare(*arguments)
        _, cost = measure_cost(call, repeats=0, device=torch.device("cpu"))
        answer.send(cost.peak_bytes)
    except Exception:
        answer.send(None)
