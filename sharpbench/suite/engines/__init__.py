"""Where subjects are run: in this process, in processes of this machine, on other machines."""

from __future__ import annotations

from sharpbench.errors import InputError, nearest_names
from sharpbench.suite.engines.base import Engine
from sharpbench.suite.engines.inline import InlineEngine
from sharpbench.suite.engines.process import ProcessEngine
from sharpbench.suite.engines.ray import RayEngine

__all__ = ["ENGINES", "Engine", "InlineEngine", "ProcessEngine", "RayEngine", "make_engine"]

ENGINES = ("process", "ray", "inline")


def make_engine(
    name: str, *, workers: int | None = None, gpus_per_worker: float | None = None
) -> Engine:
    """The engine called ``name``. Raises InputError for what it can't do, or what is not installed."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}. {nearest_names(name, ENGINES)}")
    if name == "ray":
        return RayEngine(workers, gpus_per_worker)
    if gpus_per_worker is not None:
        raise InputError(
            f"the engine {name!r} gives no GPUs to its workers: name one by --device cuda:N, or leave out "
            "--gpus-per-worker"
        )
    if name == "process":
        return ProcessEngine(workers or 1)
    if workers not in {None, 1}:
        raise InputError("the engine 'inline' is one process: leave out --workers")
    return InlineEngine()
