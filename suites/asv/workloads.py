"""The workloads of the speed goals, trained once a process, and the rivals' settings for an equal error.

asv runs setup before every call; what is costly is therefore made once and kept here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sharpbench.allocator import keep_freed_memory
from sharpbench.datasets import datasets
from sharpbench.datasets.files import FILE_SETS, data_root
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.models import models
from sharpbench.subject import Subject
from sharpbench.training import recipes

WORKLOADS = {
    "digits_mlp_26k": ("digits", "mlp", {"widths": [128, 128]}, {"epochs": 20, "lr": 2e-3}),
    "digits_mlp_gelu_26k": (
        "digits",
        "mlp",
        {"widths": [128, 128], "activation": "gelu"},
        {"epochs": 20, "lr": 2e-3},
    ),
    "digits_mlp_1200k": ("digits", "mlp", {"widths": [1024, 1024]}, {"epochs": 10, "lr": 1e-3}),
    "mnist_cnn_26k": (
        "mnist",
        "cnn",
        {"channels": [8, 8], "hidden": 20, "dropout": 0.0},
        {"epochs": 5, "lr": 2e-3},
    ),
    "mnist_cnn_1200k": ("mnist", "cnn", {"dropout": 0.0}, {"epochs": 3, "lr": 1e-3}),
}
SAMPLES = {"digits": "all", "mnist": 500}


def clock() -> float:
    """Seconds: of the processor, which other work on the machine hardly moves, where there is no GPU whose
    work must be waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def as_in_a_suite() -> None:
    """One thread and the allocator of a suite's run."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    keep_freed_memory()


@functools.lru_cache(maxsize=2)
def subject(name: str, device: str = "cpu") -> Subject:
    """The trained network. NotImplementedError, which asv shows as n/a, without its data or device."""
    as_in_a_suite()
    dataset, model, parameters, training = WORKLOADS[name]
    if device == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device is available here")
    root = data_root()
    if dataset in FILE_SETS and FILE_SETS[dataset].missing(root):
        raise NotImplementedError(f"sharpbench data prepare {dataset}")
    size = {"train_size": 2000, "test_size": 100} if dataset == "mnist" else {}
    splits = datasets.create(dataset, size).load(Path(root), seed=0)
    network = models.create(model, parameters).build(splits.input_shape, splits.outputs, seed=1)
    recipes.create("adam", training).train(network, splits, seed=2)
    splits = splits.to(device)
    inputs, targets = splits.train_inputs, splits.train_targets
    return Subject(network.to(device).eval(), inputs, targets, splits=splits)


def samples(name: str) -> int | str:
    """On how many of its training samples a workload is measured."""
    return SAMPLES[WORKLOADS[name][0]]


@dataclass(frozen=True)
class Timed:
    """An answer, its relative true error and the best time of its rounds."""

    measurement: Measurement
    error: float
    seconds: float


@functools.lru_cache(maxsize=8)
def truth(name: str, device: str = "cpu") -> float:
    """The top eigenvalue by the native Lanczos iteration in float64, to 1e-5."""
    metric = metrics.create(
        "hessian_top_eigenvalue",
        {"samples": samples(name), "tolerance": 1e-5, "max_products": 400},
    )
    found = metric.measure(subject(name, device), seed=0)
    assert found.converged
    return found.value


def top_eigenvalue(
    name: str, implementation: str, tolerance: float, *, device: str = "cpu"
) -> Callable[[], Measurement]:
    """One measurement in float32 at a stated tolerance, the same for every implementation."""
    metric = metrics.create(
        "hessian_top_eigenvalue",
        {
            "implementation": implementation,
            "samples": samples(name),
            "tolerance": tolerance,
            "max_products": 1000,
            "dtype": "float32",
        },
    )
    measured = subject(name, device)
    return lambda: metric.measure(measured, seed=0)


def side_by_side(
    calls: dict[str, Callable[[], Measurement]], true: float, *, rounds: int = 3
) -> dict[str, Timed]:
    """Each call's answer and best time, in rounds of all of them in turn: other load hits all alike."""
    found: dict[str, Timed] = {}
    for _ in range(rounds):
        for who, call in calls.items():
            start = clock()
            answer = call()
            seconds = clock() - start
            if who in found:
                seconds = min(seconds, found[who].seconds)
            found[who] = Timed(answer, abs(answer.value / true - 1), seconds)
    return found


def best(call: Callable[[], object], rounds: int) -> float:
    """The best of several calls, seconds."""
    found = float("inf")
    for _ in range(rounds):
        start = clock()
        call()
        found = min(found, clock() - start)
    return found


@functools.lru_cache(maxsize=8)
def trace_within(name: str, method: str, implementation: str, error: float) -> Timed | None:
    """The trace to a standard error of ``error``: PyHessian is given probes until it gets there."""
    parameters = {
        "implementation": implementation,
        "samples": samples(name),
        "dtype": "float32",
        "tolerance": error,
        "max_probes": 4000,
    }
    if implementation == "native":
        parameters["method"] = method
    else:  # its own rule says nothing of the error: as many probes as Hutchinson's rule takes
        parameters |= {"tolerance": 0.0, "max_probes": _hutchinson_probes(name, error)}
    metric = metrics.create("hessian_trace", parameters)
    try:
        start = clock()
        found = metric.measure(subject(name), seed=0)
    except MetricFailed:
        return None
    seconds = clock() - start
    return Timed(found, (found.standard_error or 0.0) / abs(found.value), seconds)


@functools.lru_cache(maxsize=8)
def _hutchinson_probes(name: str, error: float) -> int:
    """Probes for a standard error of ``error``, from the spread of the first 64."""
    metric = metrics.create(
        "hessian_trace",
        {
            "samples": samples(name),
            "method": "hutchinson",
            "tolerance": 0.0,
            "max_probes": 64,
            "dtype": "float32",
        },
    )
    found = metric.measure(subject(name), seed=1)
    assert found.standard_error is not None
    return max(int(64 * (found.standard_error / (error * abs(found.value))) ** 2), 8)
