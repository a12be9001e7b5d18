"""What all code of a process shares, and a plug-in must leave as it was."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Surroundings", "restored", "seeded"]


class _Part(NamedTuple):
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    same: Callable[[Any, Any], bool] = lambda before, now: bool(before == now)


class Surroundings:
    """How the shared state is now: random states, torch's and numpy's settings, folder, handlers.

    Variables that are added to the environment are let be, since libraries do that when they are imported.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._before = [(part, part.read()) for part in [*_random(device), *_PARTS]]

    def restore(self) -> list[str]:
        """Bring back what is not as it was; what that is, in words."""
        changed = []
        for part, before in self._before:
            if not part.same(before, part.read()):
                part.write(before)
                changed.append(part.name)
        return changed


@contextmanager
def restored() -> Iterator[None]:
    """Whatever is changed inside is as it was afterwards."""
    surroundings = Surroundings()
    try:
        yield
    finally:
        surroundings.restore()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random states of torch, numpy and Python begin at ``seed``, and are as they were afterwards.

    Each process seeds them anew: what draws from them would have other numbers in every run.
    """
    before = [(part, part.read()) for part in _random(device)]
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002  (the state that others draw from)
    random.seed(seed)
    try:
        yield
    finally:
        for part, state in before:
            part.write(state)


def _random(device: torch.device | None) -> list[_Part]:
    """The global random states, of a GPU too if that is the device."""
    if device is None or device.type != "cuda":
        return _RANDOM
    return [
        *_RANDOM,
        _Part(
            "torch's global random state on the GPU",
            lambda: torch.cuda.get_rng_state(device),
            lambda state: torch.cuda.set_rng_state(state, device),
            torch.equal,
        ),
    ]


def _same_numpy_state(before: Any, now: Any) -> bool:
    return bool(before[2:] == now[2:]) and bool(np.array_equal(before[1], now[1]))


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _go_back(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _set_environment(before: dict[str, str]) -> None:
    os.environ.update(before)


def _kept_environment(before: dict[str, str], now: dict[str, str]) -> bool:
    return all(now.get(name) == value for name, value in before.items())


_SIGNALS = [
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGCHLD", "SIGPIPE")
    if (number := getattr(signal, name, None)) is not None
]


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(before: list[Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in zip(_SIGNALS, before, strict=True):
            if handler is not None:  # None: set outside Python
                signal.signal(number, handler)


def _strict_warnings() -> list[Any]:
    return [one for one in warnings.filters if one[0] == "error"]


def _drop_strict_warnings(before: list[Any]) -> None:
    kept = [one for one in warnings.filters if one[0] != "error" or one in before]
    warnings.resetwarnings()
    warnings.filters[:] = kept  # type: ignore[index]


def _set_device(before: torch.device) -> None:
    torch.set_default_device(None if before.type == "cpu" else before)


def _set_streams(before: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = before


def _computing(space: Any) -> list[str]:
    """Names in a part of torch of functions that compute: others a library may wrap when it is imported."""
    inherited = dir(space) if isinstance(space, type) else vars(space)
    found = [name for name in inherited if callable(getattr(space, name, None))]
    if space is nn.Module:  # torch.compile notes by these two what it has compiled
        return [name for name in found if name not in ("__init__", "__setstate__")]
    if space is not torch:
        return found
    return [name for name in found if isinstance(getattr(torch, name), BuiltinFunctionType)]


_SPACES = (
    torch,
    torch.linalg,
    torch.special,
    F,
    torch.autograd,
    torch.func,
    torch.Tensor,
    nn.Module,
)
_LAYERS = [one for one in vars(nn).values() if isinstance(one, type) and "forward" in vars(one)]
_FUNCTIONS = [(space, _computing(space)) for space in _SPACES] + [
    (layer, ["forward"]) for layer in _LAYERS
]


def _functions() -> list[list[Any]]:
    """Each function where it stands; None where a class has its parent's."""
    return [list(map(vars(space).get, names)) for space, names in _FUNCTIONS]


def _set_functions(before: list[list[Any]]) -> None:
    for (space, names), functions in zip(_FUNCTIONS, before, strict=True):
        there = vars(space)
        for name, function in zip(names, functions, strict=True):
            if there.get(name) is function:
                continue
            if function is None:
                delattr(space, name)
            else:
                setattr(space, name, function)


_RANDOM = [
    _Part(
        "torch's global random state",
        torch.get_rng_state,
        torch.set_rng_state,
        torch.equal,
    ),
    _Part(
        "numpy's global random state", np.random.get_state, np.random.set_state, _same_numpy_state
    ),
    _Part("Python's global random state", random.getstate, random.setstate),
]

_PARTS = [
    _Part("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Part("torch's default device", torch.get_default_device, _set_device),
    _Part("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Part("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Part(
        "torch's deterministic mode",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda before: torch.use_deterministic_algorithms(before[0], warn_only=before[1]),
    ),
    _Part(
        "torch's precision of matrix products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _Part("torch's anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    _Part(
        "torch's autocast",
        lambda: torch.is_autocast_enabled("cpu"),
        lambda before: torch.set_autocast_enabled("cpu", before),
    ),
    _Part("functions of torch", _functions, _set_functions),
    _Part("numpy's floating-point errors", np.geterr, lambda before: np.seterr(**before)),
    _Part("the working directory", _folder, _go_back),
    _Part("environment variables", lambda: dict(os.environ), _set_environment, _kept_environment),
    _Part("signal handlers", _handlers, _set_handlers),
    _Part(
        "what becomes of warnings",
        _strict_warnings,
        _drop_strict_warnings,
        lambda before, now: all(one in before for one in now),
    ),
    _Part(
        "the standard streams",
        lambda: (sys.stdin, sys.stdout, sys.stderr),
        _set_streams,
        lambda before, now: all(a is b for a, b in zip(before, now, strict=True)),
    ),
    _Part("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    _Part("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
]
