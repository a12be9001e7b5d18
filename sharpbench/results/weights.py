"""A user's own network from a builder and a weights file."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sharpbench.errors import InputError, first_line, nearest_names
from sharpbench.network import unwrapped
from sharpbench.registry import import_object

__all__ = ["load_network"]

State = dict[str, Any]

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
"""Names under which checkpoints keep the weights, the likeliest first."""

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What wrappers (DataParallel, torch.compile, a training framework's module) put before each name."""


def load_network(builder: str, weights: Path | None) -> nn.Module:
    """Call ``package.module:build`` and load ``weights`` into the network it returns.

    Modules in the current folder are found. Weights are safetensors, or what
    ``torch.load(weights_only=True)`` reads, which runs no code from the file; the file's content tells
    which. A checkpoint that holds the state dict among other things will do, as will names with the
    prefix of a wrapper, and a file that holds tied weights once. Raises InputError that says what is
    missing or doesn't fit.
    """
    if ":" not in builder:
        raise InputError(f"--model {builder!r} must be package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = import_object(builder)
    except ImportError as error:
        raise InputError(f"--model {builder!r}: {error}") from error
    if not callable(function):
        raise InputError(
            f"--model {builder!r} is a {type(function).__name__}, not a function that returns a network"
        )
    try:
        network = function if isinstance(function, nn.Module) else function()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"--model {builder!r}, called without arguments, raised {first_line(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"--model {builder!r} returned {type(network).__name__}, not an nn.Module")
    if weights is not None:
        _load(unwrapped(network), weights, builder)
    return network


def _load(network: nn.Module, path: Path, builder: str) -> None:
    expected = network.state_dict(keep_vars=True)
    state = _fitted(_state(_read(path), expected, path), expected)
    _share_tied(state, expected, path)
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in expected]
    if missing or unknown:
        faults = []
        if missing:
            faults.append(f"it lacks {_named(missing)}")
        if unknown:
            faults.append(
                f"the network has no {_named(unknown)}. {nearest_names(unknown[0], expected)}"
            )
        raise InputError(f"{path} doesn't fit {builder}: {' and '.join(faults)}")
    for key, value in state.items():
        own = expected[key]
        if isinstance(own, Tensor) and not is_lazy(own):
            if not isinstance(value, Tensor):
                raise InputError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor")
            if value.shape != own.shape:
                raise InputError(
                    f"{path} doesn't fit {builder}: {key!r} has the shape {tuple(value.shape)}, and the "
                    f"network's has {tuple(own.shape)}"
                )
    try:
        network.load_state_dict(state)
    except Exception as error:
        raise InputError(f"{path} doesn't fit {builder}: {first_line(error)}") from error


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no weights file {path}" + (" (a folder)" if path.is_dir() else ""))
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise InputError(f"the weights file {path} is empty")
    safetensors = head[8:] == b"{"  # a length of eight bytes, then JSON
    if not safetensors and not head.startswith((b"PK\x03\x04", b"\x80")):
        raise InputError(
            f"{path} is neither a safetensors file nor one that torch.save wrote: save "
            "model.state_dict() with torch.save, or with safetensors"
        )
    try:
        if safetensors:
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors, such as a whole network, and is refused, since loading it "
            "could run code: save model.state_dict() instead"
        ) from None
    except Exception as error:
        raise InputError(f"{path} is damaged or incomplete: {first_line(error)}") from None


def _state(content: Any, expected: State, path: Path) -> State:
    """The state dict in a file's content: itself, or the entry of a checkpoint."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()"
        )
    if _is_state(content) and any(k in expected for k in content):
        return dict(content)
    names = sorted(content, key=lambda k: _NESTED.index(k) if k in _NESTED else len(_NESTED))
    inner = {str(k): dict(content[k]) for k in names if _is_state(content[k])}
    if inner:

        def fit(name: str) -> int:
            return len(_fitted(inner[name], expected).keys() & expected.keys())

        return inner[max(inner, key=fit)]  # the first of those that fit best
    if not _is_state(content):
        raise InputError(
            f"{path} holds no state dict: its entries are {_named([str(k) for k in content])}"
        )
    return dict(content)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and all(isinstance(k, str) for k in content)
        and any(isinstance(v, Tensor) for v in content.values())
    )


def _fitted(state: State, expected: State) -> State:
    """``state`` with the prefix of a wrapper taken off, where its names fit better without."""
    best = state
    current = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    while True:
        if len(current.keys() & expected.keys()) > len(best.keys() & expected.keys()):
            best = current
        prefix = next((p for p in _WRAPPERS if all(k.startswith(p) for k in current)), None)
        if prefix is None or not current:
            return best
        current = {key.removeprefix(prefix): value for key, value in current.items()}


def _share_tied(state: State, expected: State, path: Path) -> None:
    """Give every name of a tied tensor the value that the file holds under one of them."""
    groups: dict[int, list[str]] = {}
    for key, own in expected.items():
        if isinstance(own, Tensor):
            groups.setdefault(id(own), []).append(key)
    for keys in groups.values():
        held = [k for k in keys if k in state]
        for other in held[1:]:
            one, two = state[held[0]], state[other]
            if isinstance(one, Tensor) and not (isinstance(two, Tensor) and torch.equal(one, two)):
                raise InputError(
                    f"{path} holds two values for {held[0]!r} and {other!r}, which are one tensor in the "
                    "network"
                )
        if held:
            state.update({k: state[held[0]] for k in keys if k not in state})


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(map(repr, keys[:3])) + more
