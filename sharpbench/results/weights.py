"""A user's own network from a builder and a weights file."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sharpbench.errors import InputError

__all__ = ["load_network"]


def load_network(builder: str, weights: Path | None) -> nn.Module:
    """Call ``package.module:build`` and load ``weights`` into the network it returns.

    Modules in the current folder are found. Weights come from safetensors, or through
    ``torch.load(weights_only=True)``, which runs no code from the file. Raises InputError that says
    what is missing or doesn't fit.
    """
    module_name, separator, function_name = builder.partition(":")
    if not separator:
        raise InputError(f"--model {builder!r} must be package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise InputError(f"--model {builder!r}: can't import {module_name!r}: {error}") from None
    except AttributeError:
        raise InputError(f"--model: module {module_name!r} has no {function_name!r}") from None
    network = function()
    if not isinstance(network, nn.Module):
        raise InputError(f"--model {builder!r} returned {type(network).__name__}, not an nn.Module")
    if weights is None:
        return network
    try:
        network.load_state_dict(_read(weights))
    except RuntimeError as error:
        raise InputError(f"{weights} doesn't fit {builder}: {error}") from None
    return network


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and is refused, since loading it could run code: "
            f"{str(error).splitlines()[0]} Save model.state_dict() instead."
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content
