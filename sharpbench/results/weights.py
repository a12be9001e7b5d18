"""A user's own network from a builder and a weights file."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sharpbench.copies import unwrapped
from sharpbench.errors import (
    InputError,
    InputWarning,
    first_line,
    guarded,
    nearest_names,
    no_file_near,
)
from sharpbench.registry import import_object

__all__ = ["load_network"]

State = dict[str, Any]

_NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
)
"""Under which checkpoints and frameworks keep the weights, the likeliest first."""

_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put into names, at any place."""

_FOREIGN = (
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the file itself: run `git lfs pull`",
    ),
    (b"\x1f\x8b", "is compressed with gzip: unpack it"),
    (b"\x93NUMPY", "is a NumPy array: give a state dict, saved with torch.save"),
    (b"\x89HDF", "is an HDF5 file: convert it into a state dict, saved with torch.save"),
    (b"GGUF", "is a GGUF file: convert it into a state dict, saved with torch.save"),
    (b"<", "is a web page, not the file that was to be downloaded"),
    (
        b"{",
        "is a JSON file (the index of several?): put all weights into one state dict and save that",
    ),
)
"""How files begin that are taken for weights."""

_SAVE = "save model.state_dict() with torch.save, or with safetensors"


def load_network(builder: str, weights: Path | None, *, called: str) -> nn.Module:
    """Call ``package.module:build`` and load ``weights`` into the network it returns.

    ``called``: the builder as whoever named it wrote it.

    Modules in the current folder are found. Weights are safetensors, or what
    ``torch.load(weights_only=True)`` reads, which runs no code from the file; the file's content tells
    which. A checkpoint that holds the state dict among other things will do, as will names with the
    prefix of a wrapper, and a file that holds tied weights once. Raises InputError that says what is
    missing or doesn't fit.
    """
    if ":" not in builder:
        raise InputError(f"{called} must be package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = import_object(builder)
    except ImportError as error:
        raise InputError(f"{called}: {error}") from error
    if not callable(function):
        raise InputError(
            f"{called} is a {type(function).__name__}, not a function that returns a network"
        )
    try:
        with guarded():
            network = function if isinstance(function, nn.Module) else function()
    except Exception as error:
        raise InputError(
            f"{called}, called without arguments, raised {first_line(error)}: name a function "
            "that needs none and returns the network"
        ) from error
    if not isinstance(network, nn.Module):
        if inspect.iscoroutine(network):
            network.close()
        raise InputError(f"{called} returned {type(network).__name__}, not an nn.Module")
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise InputError(
            f"{called} returned a network on the meta device, without values: build it on the CPU"
        )
    if weights is not None:
        _load(unwrapped(network), weights, builder)
    return network


def _load(network: nn.Module, path: Path, builder: str) -> None:
    expected = network.state_dict(keep_vars=True)
    tied = _tied(expected)
    state = _state(_read(path), expected, tied, path)
    missing = [g[0] for g in tied if not any(k in state for k in g) and _needed(g)]
    unknown = [k for k in state if k not in expected]
    if missing or unknown:
        faults = []
        if missing:
            faults.append(f"it lacks {_named(missing)} of the network")
        if unknown:
            faults.append(
                f"the network has no {_named(unknown)}. {nearest_names(unknown[0], expected)}"
            )
        raise InputError(f"{path} doesn't fit {builder}: {' and '.join(faults)}")
    for key, value in state.items():
        if isinstance(expected[key], Tensor) and (fault := _unfit(value, expected[key])):
            raise InputError(f"{path} doesn't fit {builder}: {key!r} {fault}")
    _share_tied(state, tied, path)
    try:
        network.load_state_dict(state)
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise InputError(f"{path} doesn't fit {builder}: {told}") from error


def _needed(names: list[str]) -> bool:
    """Whether a network can't be without a value for these names."""
    return not names[0].endswith("num_batches_tracked")


def _unfit(value: Any, own: Tensor) -> str | None:
    """Why a value of the file isn't one of the network's tensor, said of it; None if it is."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor: {_SAVE}"
    if value.is_quantized or value.layout != torch.strided or value.is_meta:
        kind = "quantized" if value.is_quantized else "sparse"
        kind = "on the meta device, without values" if value.is_meta else kind
        return f"is {kind}: save a dense tensor with its values"
    if not is_lazy(own) and value.shape != own.shape:
        return f"has the shape {tuple(value.shape)}, and the network's has {tuple(own.shape)}"
    told = f"is {str(value.dtype).removeprefix('torch.')}, and the network's is "
    told += str(own.dtype).removeprefix("torch.")
    real = own.is_floating_point() or own.is_complex()
    if value.is_complex() and not own.is_complex():
        return f"{told}: its imaginary part would be lost; save the real weights"
    if real and not (value.is_floating_point() or value.is_complex()):
        return f"{told}: integers stand for weights only with a scale; save the weights themselves"
    taken = value.to(own.dtype)
    if not real and not torch.equal(taken.to(value.dtype), value):
        return f"{told}: it holds values that the network's can't"
    if real and value.dtype.itemsize > own.dtype.itemsize:
        lost = torch.isfinite(value) & ~torch.isfinite(taken)
        if bool(lost.any()):
            return f"{told}: it holds values too large for that"
    return None


def _read(path: Path) -> Any:
    if fault := no_file_near(path):
        raise InputError(f"no weights file: {fault}")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise InputError(f"the weights file {path} is empty: {_SAVE}")
    safetensors = head[8:9] == b"{"  # a length of eight bytes, then JSON
    if not safetensors and not head.startswith((b"PK\x03\x04", b"\x80")):
        foreign = (told for begin, told in _FOREIGN if head.startswith(begin))
        what = f"is neither a safetensors file nor one that torch.save wrote: {_SAVE}"
        raise InputError(f"{path} {next(foreign, what)}")
    try:
        if safetensors:
            return load_file(path)
        if head.startswith(b"PK"):
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols: an error tells it in our words
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"{path} holds more than tensors{f' ({name[1]})' if name else ''}, such as a whole network or "
            "NumPy arrays, or wasn't written by torch.save, and is refused, since loading it could run "
            f"code: {_SAVE}"
        ) from None
    except Exception as error:
        raise InputError(
            f"{path} is damaged or incomplete ({first_line(error)[:160]}): fetch or save it again"
        ) from None


def _check_archive(path: Path) -> None:
    """Raises InputError unless a zip file is one that torch.save wrote, whole: torch checks no sums."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        inner = {entry.filename.rpartition("/")[2] for entry in entries}
        if "data.pkl" not in inner:
            raise InputError(f"{path} is a zip file that torch.save didn't write: {_SAVE}")
        if "constants.pkl" in inner:
            raise InputError(
                f"{path} is a TorchScript archive, which holds code: save "
                f"torch.jit.load({str(path)!r}).state_dict() with torch.save"
            )
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(
                f"{path} was compressed, which torch.save doesn't, so that its size isn't known before it "
                f"is unpacked: {_SAVE}"
            )
        if spoilt := archive.testzip():
            raise InputError(
                f"{path} is damaged (the checksum of {spoilt!r} is another): fetch or save it again"
            )


def _state(content: Any, expected: State, tied: list[list[str]], path: Path) -> State:
    """The state dict in a file's content, under the network's names: itself, or an entry of a checkpoint.

    A prefix of all names that the network needs is taken off. Where several entries or prefixes fit, the one
    with a usual name is taken, with a warning; InputError where there is none.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict: {_SAVE}")
    found = dict(_states(content))
    if not any(inside in name for name in expected for inside in _INSIDE):
        found = {at: {_plain_name(k): v for k, v in inner.items()} for at, inner in found.items()}
    if not found:
        names = _named([str(k) for k in content])
        its = f"its entries are {names}" if names else "it is empty"
        raise InputError(f"{path} holds no state dict: {its}; {_SAVE}")
    options = [
        (entry, prefix, _under(prefix, state))
        for entry, state in found.items()
        for prefix in _prefixes(state, expected)
    ]

    def fit(state: State) -> tuple[bool, int]:
        whole = all(any(k in state for k in names) for names in tied if _needed(names))
        return whole, len(state.keys() & expected.keys())

    best = max(fit(state) for _, _, state in options)
    fitting = {(e, p): state for e, p, state in options if fit(state) == best}
    entry, prefix = _usual(path, list(fitting), whole=best[0])
    state = fitting[entry, prefix]
    left = [k for k in found[entry] if not k.startswith(prefix)] if best[0] else []
    if left and prefix:
        told = f"{path}: taken were the weights under {prefix!r}, and not {_named(left)}"
        warnings.warn(told, InputWarning, stacklevel=2)
    return dict(state)


def _states(
    content: Mapping[Any, Any], at: str = "", depth: int = 3
) -> Iterator[tuple[str, State]]:
    """Every state dict in a checkpoint with its place, the outermost first."""
    if all(isinstance(k, str) for k in content) and any(
        isinstance(v, Tensor) for v in content.values()
    ):
        yield at, dict(content)
    elif depth and "param_groups" not in content:  # an optimizer's state
        for key, inner in content.items():
            if isinstance(inner, Mapping):
                yield from _states(inner, f"{at}.{key}" if at else str(key), depth - 1)


def _plain_name(key: str) -> str:
    for inside in _INSIDE:
        key = key.replace(inside, "")
    return key


def _prefixes(state: State, expected: State) -> list[str]:
    """What stands before the first of the network's names that the state has; "" among them."""
    for name in expected:
        found = {k.removesuffix(name) for k in state if k == name or k.endswith(f".{name}")}
        if found:
            return sorted({"", *found})
    return [""]


def _under(prefix: str, state: State) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _usual(path: Path, places: list[tuple[str, str]], *, whole: bool) -> tuple[str, str]:
    """Which of the places, entry and prefix, that fit equally well is meant."""
    if len(places) == 1 or not whole:
        return places[0]
    for place in places:
        if place == ("", ""):
            return place

    def rank(place: tuple[str, str]) -> int:
        last = ".".join(place).strip(".").rpartition(".")[2]
        return _NESTED.index(last) if last in _NESTED else len(_NESTED)

    names = [f"{entry}[{prefix}…]" if prefix else entry for entry, prefix in places]
    first = min(places, key=rank)
    ranks = sorted(map(rank, places))
    if ranks[0] == ranks[1] or ranks[0] == len(_NESTED):
        raise InputError(
            f"{path} holds several sets of weights that fit the network: {_named(names)}. Save a file with "
            "the one that is meant"
        )
    taken = names[places.index(first)]
    others = _named([name for name in names if name != taken])
    warnings.warn(
        f"{path}: taken were the weights of {taken!r}, and not of {others}",
        InputWarning,
        stacklevel=2,
    )
    return first


def _tied(expected: State) -> list[list[str]]:
    """The names of the network's state, those of one tensor together."""
    groups: dict[int | str, list[str]] = {}
    for key, own in expected.items():
        groups.setdefault(id(own) if isinstance(own, Tensor) else key, []).append(key)
    return list(groups.values())


def _share_tied(state: State, tied: list[list[str]], path: Path) -> None:
    """Give every name of a tied tensor the value that the file holds under one of them."""
    for keys in tied:
        held = [k for k in keys if k in state]
        for other in held[1:]:
            one, two = state[held[0]], state[other]
            if isinstance(one, Tensor) and not (isinstance(two, Tensor) and torch.equal(one, two)):
                raise InputError(
                    f"{path} holds two values for {held[0]!r} and {other!r}, which are one tensor in the "
                    "network: build it with the two apart"
                )
        if held:
            state.update({k: state[held[0]] for k in keys if k not in state})


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(map(repr, keys[:3])) + more
