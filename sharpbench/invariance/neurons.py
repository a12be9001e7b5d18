"""Symmetries of hidden units: their order, and for positively homogeneous activations their scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.recording import note_left
from sharpbench.invariance.structure import HiddenUnits, hidden_units
from sharpbench.seeds import torch_generator

__all__ = [
    "ChannelPermutation",
    "LayerRescaling",
    "NeuronPermutation",
    "NeuronRescaling",
    "SignFlip",
]


@transformations.register
@dataclass(frozen=True)
class NeuronPermutation(Transformation):
    """Permutes the units (neurons, channels) of every hidden layer; the function stays the same."""

    name = "neuron_permutation"
    kind = "permutation"
    preserves = "function"
    reference = "Hecht-Nielsen (1990)"

    def change(self, model: nn.Module, *, seed: int) -> None:
        _permute(hidden_units(model), seed)


@transformations.register
@dataclass(frozen=True)
class ChannelPermutation(Transformation):
    """Permutes the channels of every hidden convolution alone; the function stays the same."""

    name = "channel_permutation"
    reference = "Hecht-Nielsen (1990)"
    kind = "permutation"
    preserves = "function"

    def change(self, model: nn.Module, *, seed: int) -> None:
        layers = [u for u in hidden_units(model) if isinstance(u.producer, nn.Conv2d)]
        if not layers:
            raise TransformationRefused(
                "the network has no hidden convolution with a single reader"
            )
        _permute(layers, seed)


def _permute(layers: list[HiddenUnits], seed: int) -> None:
    generator = torch_generator(seed)
    for units in layers:
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
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})
    preserves = "function"
    reference = "arXiv:1703.04933, definition 5 and theorem 2"

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        for units in _homogeneous(model):
            z = torch.randn(units.size, generator=generator, dtype=torch.float64)
            _rescale(units, (self.strength * z).exp())


@transformations.register
@dataclass(frozen=True)
class LayerRescaling(Transformation):
    """Multiplies what makes the first hidden layer's units by ``alpha`` and divides what reads them.

    Dinh et al.'s T_α with one number for the layer: the way along which Hessian metrics run off.
    """

    name = "layer_rescaling"
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})
    preserves = "function"
    reference = "arXiv:1703.04933, definition 5 and theorem 2"

    alpha: float = 10.0

    def __post_init__(self) -> None:
        if not 1e-6 <= self.alpha <= 1e6:
            raise ValueError(f"alpha must lie in [1e-6, 1e6], got {self.alpha}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        units = _homogeneous(model)[0]
        _rescale(units, torch.full((units.size,), self.alpha, dtype=torch.float64))


@transformations.register
@dataclass(frozen=True)
class SignFlip(Transformation):
    """Flips the sign of what makes and what reads half of the hidden units, for odd activations (tanh)."""

    name = "sign_flip"
    kind = "linear_gauge"
    traits = frozenset({"isometry", "diagonal"})
    preserves = "function"
    reference = "Chen, Lu & Hecht-Nielsen, Neural Computation 5 (1993)"

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        everything = hidden_units(model)
        layers = [u for u in everything if u.odd]
        for units in everything:
            if not units.odd:
                note_left(units.name, "its activation is not odd, or a max pooling follows")
        if not layers:
            raise TransformationRefused(
                "needs an odd activation (tanh) that no max pooling follows"
            )
        for units in layers:
            signs = 2.0 * torch.randint(0, 2, (units.size,), generator=generator) - 1
            _rescale(units, signs.double())


def _homogeneous(model: nn.Module) -> list[HiddenUnits]:
    everything = hidden_units(model)
    layers = [u for u in everything if u.positively_homogeneous]
    for units in everything:
        if not units.positively_homogeneous:
            note_left(units.name, "its activation is not positively homogeneous")
    if not layers:
        names = sorted({a.__name__ for u in everything for a in u.activations})
        raise TransformationRefused(
            f"needs a positively homogeneous activation (ReLU, leaky ReLU); this network has "
            f"{', '.join(names) or 'none'}"
        )
    return layers


def _rescale(units: HiddenUnits, alpha: Tensor) -> None:
    for tensor in units.scaled_by():
        tensor.mul_(alpha.to(tensor).view(-1, *[1] * (tensor.ndim - 1)))
    read = units.read_by()
    read.div_(alpha.to(read).view(1, -1, 1))
