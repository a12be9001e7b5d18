"""Symmetries of hidden units: their order, and for positively homogeneous activations their scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.structure import hidden_units
from sharpbench.seeds import torch_generator

__all__ = ["NeuronPermutation", "NeuronRescaling"]


@transformations.register
@dataclass(frozen=True)
class NeuronPermutation(Transformation):
    """Permutes the units (neurons, channels) of every hidden layer; the function stays the same."""

    name = "neuron_permutation"
    preserves = "function"
    reference = "Hecht-Nielsen (1990)"

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        for units in hidden_units(model):
            order = torch.randperm(units.size, generator=generator)
            for tensor in units.made_by():
                tensor.copy_(tensor[order.to(tensor.device)].clone())
            read = units.read_by()
            read.copy_(read[:, order.to(read.device)].clone())


@transformations.register
@dataclass(frozen=True)
class NeuronRescaling(Transformation):
    """Multiplies what makes a hidden unit by α and divides what reads it by α (Dinh et al. 2017).

    α = exp(``strength``·z) with z standard normal, drawn for each unit. Keeps the function where the
    activation is positively homogeneous, φ(αx) = αφ(x) for α > 0: ReLU, leaky ReLU; refused
    elsewhere. Behind a batch norm it is the norm's scale and shift that are multiplied.
    """

    name = "neuron_rescaling"
    preserves = "function"
    reference = "arXiv:1703.04933, definition 5 and theorem 2"

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        layers = [u for u in hidden_units(model) if u.positively_homogeneous]
        if not layers:
            names = sorted({a.__name__ for u in hidden_units(model) for a in u.activations})
            raise TransformationRefused(
                f"needs a positively homogeneous activation (ReLU, leaky ReLU); this network has "
                f"{', '.join(names) or 'none'}"
            )
        for units in layers:
            z = torch.randn(units.size, generator=generator, dtype=torch.float64)
            alpha = (self.strength * z).exp()
            for tensor in units.scaled_by():
                tensor.mul_(alpha.to(tensor).view(-1, *[1] * (tensor.ndim - 1)))
            read = units.read_by()
            read.div_(alpha.to(read).view(1, -1, 1))
