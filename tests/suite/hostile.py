"""Plug-ins that do what none should: one dataclass a kind, one fault a name."""

from __future__ import annotations

import ctypes
import decimal
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.measurement import ErrorComponent, Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric
from sharpbench.models import models
from sharpbench.models.base import Model
from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.subject import Splits, Subject
from sharpbench.training import recipes
from sharpbench.training.gradient import Adam

__all__ = ["MEASURES", "PLUGINS"]


class OwnEnd(BaseException):
    """No Exception at all."""


class Unreadable(Exception):
    """Raises where it is read."""

    def __str__(self):
        raise ValueError("no message")


def raising(error: BaseException | type[BaseException]) -> Callable:
    def measure(subject):
        raise error

    return measure


def answering(value: object, **more) -> Callable:
    return lambda subject: Measurement(value, samples=1, **more)


def doing(action: Callable) -> Callable:
    def measure(subject):
        action(subject)
        return Measurement(1.0, samples=1)

    return measure


def recurse(subject):
    return recurse(subject)


def endless() -> list:
    inside: list = []
    inside.append(inside)
    return inside


def swallow(subject):
    try:
        raise KeyboardInterrupt
    except BaseException:
        return Measurement(1.0)


def warn_strictly(subject):
    warnings.simplefilter("error")
    warnings.warn("now an error", stacklevel=1)


def shift_inputs(subject):
    subject.inputs.add_(1)


def shift_by_numpy(subject):
    subject.inputs.numpy()[0] = 7  # torch's counters don't see it


def add_hook(subject):
    subject.model.register_forward_hook(lambda module, inputs, output: output * 2)


def set_grads(subject):
    for parameter in subject.model.parameters():
        parameter.grad = torch.ones_like(parameter)


def replace_parameter(subject):
    module = next(m for m in subject.model.modules() if isinstance(m, nn.Linear))
    module.weight = nn.Parameter(torch.zeros_like(module.weight))


def leave_thread(subject):
    threading.Thread(target=threading.Event().wait, daemon=True).start()


OK, ERROR, FAILED = "ok", "error", "failed"

# ruff: noqa: E501  # a table, read by rows
MEASURES: dict[str, tuple[Callable, str, str]] = {
    # what it raises
    "exit": (raising(SystemExit(0)), ERROR, "it called sys.exit(0)"),
    "interrupt": (raising(KeyboardInterrupt), ERROR, "it raised KeyboardInterrupt"),
    "generator_exit": (raising(GeneratorExit), ERROR, "it raised GeneratorExit"),
    "own_end": (raising(OwnEnd("x")), ERROR, "it raised OwnEnd: x"),
    "stop_iteration": (raising(StopIteration), ERROR, "StopIteration"),
    "memory": (raising(MemoryError), ERROR, "MemoryError"),
    "recursion": (recurse, ERROR, "RecursionError"),
    "unreadable": (raising(Unreadable), ERROR, "(its message can't be read: ValueError)"),
    "surrogate": (raising(ValueError("\ud800")), ERROR, r"ValueError: \ud800"),
    "endless_message": (raising(ValueError("x" * 10**6)), ERROR, "xxx …"),
    "separator": (raising(ValueError("a\u2028b\x85c\x00")), ERROR, "ValueError: a\u2028b\x85c\x00"),
    "os_error": (raising(OSError(28, "No space left on device")), ERROR, "No space left"),
    "swallows": (swallow, OK, ""),
    # what it answers
    "none": (lambda subject: None, ERROR, "must answer with a Measurement, got NoneType"),
    "text": (lambda subject: "12", ERROR, "must answer with a Measurement, got str"),
    "number": (lambda subject: 12.0, ERROR, "must answer with a Measurement, got float"),
    "value_none": (answering(None), ERROR, "value must be a number, got NoneType"),
    "value_text": (answering("12"), ERROR, "value must be a number, got str"),
    "value_complex": (answering(1j), ERROR, "value must be a number, got complex"),
    "value_decimal": (answering(decimal.Decimal(1)), ERROR, "value must be a number, got Decimal"),
    "value_bool": (answering(True), ERROR, "value must be a number, got bool"),
    "value_vector": (answering(torch.ones(2)), ERROR, "value must be a number, got Tensor"),
    "nan": (answering(float("nan")), FAILED, "must be finite, got nan"),
    "tensor_nan": (answering(torch.tensor(torch.nan)), FAILED, "must be finite, got nan"),
    "huge": (answering(10**400), ERROR, "OverflowError"),
    "int64": (answering(np.int64(1)), OK, ""),
    "float32": (answering(np.float32(1), standard_error=np.float32(0.5)), OK, ""),
    "tensor": (answering(torch.tensor(1.0, requires_grad=True)), OK, ""),
    "converged": (answering(1.0, converged=np.bool_(True), error_bound=np.float64(0)), OK, ""),
    "scalars": (answering(1.0, details={"a": (np.int64(1), torch.tensor(2)), "b": {"c": np.True_}}), OK, ""),
    "negative_error": (lambda s: Measurement(1.0, errors=(ErrorComponent("draws", -1.0),)), FAILED, "not negative, got -1.0"),
    "negative_bound": (lambda s: Measurement(1.0, error_bound=-1.0), ERROR, "must not be negative, got -1.0"),
    "negative_samples": (lambda s: Measurement(1.0, samples=-1), ERROR, "samples must count them"),
    "set": (answering(1.0, details={"a": {1}}), FAILED, "can't be stored as JSON"),
    "vector": (answering(1.0, details={"a": torch.ones(3)}), FAILED, "can't be stored as JSON"),
    "nan_inside": (answering(1.0, details={"a": [float("nan")]}), FAILED, "can't be stored as JSON"),
    "surrogate_inside": (answering(1.0, details={"a": "\ud800"}), OK, ""),
    "endless": (lambda s: Measurement(1.0, details={"a": endless()}), ERROR, "RecursionError"),
    "keys": (answering(1.0, details={(1, 2): 3}), FAILED, "can't be stored as JSON"),
    "large": (answering(1.0, details={"a": [1.0] * 10**6}), FAILED, "MiB, a figure's record at most 1:"),
    "list": (lambda s: Measurement(1.0, details=[1]), ERROR, "details must be dict, got list"),
    # what it changes
    "inputs": (doing(shift_inputs), FAILED, "changed the data it was given"),
    "inputs_by_numpy": (doing(shift_by_numpy), FAILED, "changed the data it was given"),
    "targets": (doing(lambda s: s.targets.zero_()), FAILED, "changed the data it was given"),
    "splits": (doing(lambda s: s.splits.test_inputs.data.zero_()), FAILED, "changed the data it was given"),
    "weights": (doing(lambda s: nn.init.zeros_(next(s.model.parameters()))), FAILED, "changed the model it was given"),
    "parameter": (doing(replace_parameter), FAILED, "changed the model it was given"),
    "train_mode": (doing(lambda s: s.model.eval()), FAILED, "changed the model it was given"),
    "gradients": (doing(set_grads), FAILED, "changed the model it was given"),
    "hook": (doing(add_hook), FAILED, "changed the model it was given"),
    "torch_seed": (doing(lambda s: torch.manual_seed(1)), FAILED, "changed torch's global random state"),
    "numpy_seed": (doing(lambda s: np.random.seed(1)), FAILED, "changed numpy's global random state"),  # noqa: NPY002
    "python_seed": (doing(lambda s: random.seed(1)), FAILED, "changed Python's global random state"),
    "default_dtype": (doing(lambda s: torch.set_default_dtype(torch.float64)), FAILED, "default dtype"),
    "default_device": (doing(lambda s: torch.set_default_device("meta")), FAILED, "default device"),
    "no_grad": (doing(lambda s: torch.set_grad_enabled(False)), FAILED, "gradient mode"),
    "threads": (doing(lambda s: torch.set_num_threads(2)), FAILED, "number of threads"),
    "folder": (doing(lambda s: os.chdir("/")), FAILED, "changed the working directory"),
    "environment": (doing(lambda s: os.environ.pop("PATH", None)), FAILED, "changed environment variables"),
    "signals": (doing(lambda s: signal.signal(signal.SIGTERM, signal.SIG_IGN)), FAILED, "signal handlers"),
    "alarm": (doing(lambda s: signal.signal(signal.SIGALRM, signal.SIG_IGN)), FAILED, "signal handlers"),
    "strict_warnings": (doing(lambda s: warnings.simplefilter("error")), FAILED, "becomes of warnings"),
    "warns_strictly": (warn_strictly, ERROR, "UserWarning: now an error"),
    "torch_function": (doing(lambda s: setattr(torch, "relu", abs)), FAILED, "changed functions of torch"),
    "torch_method": (doing(lambda s: setattr(torch.Tensor, "relu", abs)), FAILED, "changed functions of torch"),
    "torch_layer": (doing(lambda s: setattr(nn.Linear, "forward", abs)), FAILED, "changed functions of torch"),
    "streams": (doing(lambda s: setattr(sys, "stdout", None)), FAILED, "standard streams"),
    "recursion_limit": (doing(lambda s: sys.setrecursionlimit(150)), FAILED, "recursion limit"),
    "prints": (doing(lambda s: print("\x00 noise")), OK, ""),
    "thread": (doing(leave_thread), OK, ""),
    "fork": (doing(lambda s: os.fork()), OK, ""),
    # what ends its process
    "abort": (doing(lambda s: os.abort()), ERROR, "worker died by signal 6 while measuring"),
    "segfault": (doing(lambda s: ctypes.string_at(0)), ERROR, "worker died by signal 11 while measuring"),
    "os_exit": (doing(lambda s: os._exit(0)), ERROR, "worker ended itself with exit code 0"),
}  # fmt: skip


@dataclass(frozen=True)
class Hostile(Metric):
    """Does what ``fault`` says when it measures."""

    name, title, unit, space = "hostile", "hostile metric", "", "parameter"
    fault: str = "none"

    def measure(self, subject, *, seed):
        return MEASURES[self.fault][0](subject)


@dataclass(frozen=True)
class Declaring(Metric):
    """Raises where it says what it is."""

    name, unit, space = "declaring", "", "parameter"
    fault: str = ""

    @property
    def title(self):
        if self.fault == "title":
            raise KeyboardInterrupt
        return b"bytes" if self.fault == "bytes" else self.name

    def unsupported(self, subject):
        if self.fault == "unsupported":
            raise SystemExit(1)

    def unit_on(self, subject):
        return {"unit": 7, "no_text": "\ud800"}.get(self.fault, "")

    def notes(self, details):
        if self.fault == "notes":
            raise OwnEnd
        return {"no_list": 3, "set": {1}}.get(self.fault, [])

    def promises(self, change):
        if self.fault == "promises":
            raise KeyboardInterrupt
        return True

    def measure(self, subject, *, seed):
        return Measurement(1.0, samples=1)


@dataclass(frozen=True)
class Wrecking(Transformation):
    """Does what ``fault`` says in place of a change."""

    name, kind, preserves = "wrecking", "permutation", "function"
    fault: str = ""

    def apply(self, model, *, seed, splits=None):
        if self.fault == "exit":
            raise SystemExit(0)
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.fault == "none":
            return None
        if self.fault == "in_place":
            nn.init.zeros_(next(model.parameters()))
        if self.fault == "inputs":
            splits.train_inputs.zero_()
        if self.fault == "seed":
            torch.manual_seed(3)
        if self.fault == "os_exit":
            os._exit(3)
        return super().apply(model, seed=seed) if self.fault != "same" else model

    def change(self, model, *, seed):
        pass


@dataclass(frozen=True, kw_only=True)
class BadData(Dataset):
    """Data that can't be had where ``fault`` says so."""

    name = "bad_data"
    fault: str = ""

    def missing(self, root):
        if self.fault == "missing":
            raise KeyboardInterrupt

    def fingerprint(self, root):
        if self.fault == "fingerprint":
            raise SystemExit(0)
        return ""

    def clean(self, root, *, seed):
        if self.fault == "exit":
            raise SystemExit(0)
        if self.fault == "os_exit":
            os._exit(0)
        if self.fault == "none":
            return None
        x = torch.linspace(-1, 1, 8).unsqueeze(1)
        y = (x.squeeze(1) > 0).long()
        return Splits(x, y, x + 0.1, y, 2)


@dataclass(frozen=True)
class BadModel(Model):
    """A network that can't be built where ``fault`` says so."""

    name = "bad_model"
    fault: str = ""

    def assemble(self, input_shape, outputs):
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.fault == "none":
            return None
        return nn.Sequential(nn.Linear(input_shape[0], 3), nn.Tanh(), nn.Linear(3, outputs))


@dataclass(frozen=True, kw_only=True)
class BadRecipe(Adam):
    """A training that does what ``fault`` says."""

    name = "bad_recipe"
    epochs: int = 1
    fault: str = ""

    def train(self, model, data, *, seed, callbacks=()):
        if self.fault == "exit":
            raise SystemExit(0)
        if self.fault == "segfault":
            ctypes.string_at(0)
        if self.fault == "inputs":
            data.train_inputs.zero_()
        torch.set_default_dtype(torch.float64)  # left behind
        os.chdir("/")
        found = super().train(model, data, seed=seed, callbacks=callbacks)
        return None if self.fault == "none" else found


@dataclass(frozen=True, kw_only=True)
class BadProblem(Problem):
    """A problem that can't be made."""

    name = title = "bad_problem"
    fault: str = ""

    def subject(self, *, seed):
        if self.fault == "exit":
            raise SystemExit(0)
        if self.fault == "none":
            return None
        x, y = torch.ones(3, 2), torch.ones(3, 1)
        splits = Splits(x, y, x.clone(), y.clone(), 1, "regression")
        return Subject(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), x, y, splits=splits)


PLUGINS = [
    (metrics, Hostile),
    (metrics, Declaring),
    (transformations, Wrecking),
    (datasets, BadData),
    (models, BadModel),
    (recipes, BadRecipe),
    (problems, BadProblem),
]
