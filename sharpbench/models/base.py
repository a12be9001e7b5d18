"""The contract of a model builder, and what builders share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sharpbench.errors import InputError
from sharpbench.registry import Plugin

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Model",
    "check_dropout",
    "check_equal_layers",
    "image_shape",
]

Activation = Literal["tanh", "relu", "gelu", "silu", "softplus"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


@dataclass(frozen=True)
class Model(Plugin, ABC):
    """Builds a network from the shape of one input, the number of outputs and a seed."""

    @abstractmethod
    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """The network; its initial weights are drawn from torch's current generator."""

    def build(self, input_shape: tuple[int, ...], outputs: int, *, seed: int) -> nn.Module:
        """The network with initial weights that depend on ``seed`` alone.

        torch's initialisers draw from the global generator; it is forked here and left untouched.
        Raises InputError if the input shape does not suit the network.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.assemble(input_shape, outputs)


def image_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``input_shape`` as (channels, height, width). Raises InputError for anything else."""
    if len(input_shape) != 3:
        raise InputError(
            f"model {name!r} takes images of shape (channels, height, width); "
            f"this dataset has inputs of shape {input_shape}. Use 'mlp'."
        )
    return input_shape[0], input_shape[1], input_shape[2]


def check_dropout(share: float) -> None:
    """Raises ValueError unless the share of units dropped lies in [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {share}")


def check_equal_layers(width: int, depth: int) -> None:
    """Raises ValueError unless ``depth`` layers of ``width`` units are at least one of each."""
    for key, number in (("width", width), ("depth", depth)):
        if number < 1:
            raise ValueError(f"{key} must be at least 1, got {number}")
