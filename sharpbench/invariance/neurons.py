"""Symmetries of hidden units: their order, and for positively homogeneous activations their scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.keeping import Part, change_each
from sharpbench.invariance.orders import drawn_orders
from sharpbench.invariance.recording import note_left, written_into
from sharpbench.invariance.structure import HiddenUnits, hidden_units
from sharpbench.seeds import torch_generator

__all__ = [
    "ChannelPermutation",
    "LayerRescaling",
    "NeuronPermutation",
    "NeuronRescaling",
    "SignFlip",
]


_REST = "no linear layer and no convolution of images that is called as one"


@transformations.register
@dataclass(frozen=True)
class NeuronPermutation(Transformation):
    """Permutes the units (neurons, channels) of every hidden layer; the function stays the same."""

    name = "neuron_permutation"
    version = 2  # the first left layers behind norms and gates as they were
    kind = "permutation"
    preserves = "function"
    rest = _REST
    reference = "Hecht-Nielsen (1990)"

    def change(self, model: nn.Module, *, seed: int) -> None:
        _permute(model, hidden_units(model), seed)


@transformations.register
@dataclass(frozen=True)
class ChannelPermutation(Transformation):
    """Permutes the channels of every hidden convolution alone; the function stays the same."""

    name = "channel_permutation"
    version = 2
    reference = "Hecht-Nielsen (1990)"
    kind = "permutation"
    preserves = "function"
    rest = "no hidden convolution"

    def change(self, model: nn.Module, *, seed: int) -> None:
        layers = [u for u in hidden_units(model) if isinstance(u.producer, nn.Conv2d)]
        if not layers:
            raise TransformationRefused(
                "the network has no hidden convolution with a single reader"
            )
        _permute(model, layers, seed)


def _permute(model: nn.Module, layers: list[HiddenUnits], seed: int) -> None:
    sizes = [(units.name, units.size) for units in layers]
    orders = drawn_orders(sizes, torch_generator(seed), "units")
    parts = [
        Part(units.name, partial(_reorder, units, order), (*units.made_by(), units.read_by()))
        for units, order in zip(layers, orders, strict=True)
        if order is not None
    ]
    change_each(model, parts)


def _reorder(units: HiddenUnits, order: Tensor) -> None:
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
    version = 2
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})
    preserves = "function"
    rest = _REST
    reference = "arXiv:1703.04933, definition 5 and theorem 2"

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        parts = []
        for units in _homogeneous(model):
            z = torch.randn(units.size, generator=generator, dtype=torch.float64)
            parts.append((units, (self.strength * z).exp()))
        _rescale_each(model, parts)


@transformations.register
@dataclass(frozen=True)
class LayerRescaling(Transformation):
    """Multiplies what makes the first hidden layer's units by ``alpha`` and divides what reads them.

    Dinh et al.'s T_α with one number for the layer: the way along which Hessian metrics run off.
    """

    name = "layer_rescaling"
    version = 2
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})
    preserves = "function"
    rest = _REST
    reference = "arXiv:1703.04933, definition 5 and theorem 2"

    alpha: float = 10.0

    def __post_init__(self) -> None:
        if not 1e-6 <= self.alpha <= 1e6:
            raise ValueError(f"alpha must lie in [1e-6, 1e6], got {self.alpha}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        first, *others = _homogeneous(model)
        for units in others:
            note_left(units.name, "only the first layer is changed")
        alpha = torch.full((first.size,), self.alpha, dtype=torch.float64)
        _rescale_each(model, [(first, alpha)])


@transformations.register
@dataclass(frozen=True)
class SignFlip(Transformation):
    """Flips the sign of what makes and what reads half of the hidden units, for odd activations (tanh)."""

    name = "sign_flip"
    version = 2
    kind = "linear_gauge"
    traits = frozenset({"isometry", "diagonal"})
    preserves = "function"
    rest = _REST
    reference = "Chen, Lu & Hecht-Nielsen, Neural Computation 5 (1993)"

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        everything = hidden_units(model)
        layers = [u for u in everything if u.odd and not u.unscalable]
        for units in everything:
            if not units.odd:
                note_left(units.name, "its activation is not odd, or a max pooling follows")
            elif units.unscalable:
                note_left(units.name, units.unscalable)
        if not layers:
            raise TransformationRefused(
                "needs an odd activation (tanh) that no max pooling follows"
            )
        parts = []
        for units in layers:
            signs = 2.0 * torch.randint(0, 2, (units.size,), generator=generator) - 1
            if bool((signs == 1).all()):
                note_left(units.name, "every sign was drawn as it is")
            else:
                parts.append((units, signs.double()))
        if not parts:
            raise TransformationRefused("every sign was drawn as it is")
        _rescale_each(model, parts)


def _homogeneous(model: nn.Module) -> list[HiddenUnits]:
    everything = hidden_units(model)
    layers = [u for u in everything if u.positively_homogeneous and not u.unscalable]
    for units in everything:
        if not units.positively_homogeneous:
            note_left(units.name, "its activation is not positively homogeneous")
        elif units.unscalable:
            note_left(units.name, units.unscalable)
    if not layers:
        if any(units.positively_homogeneous for units in everything):
            raise TransformationRefused("a batch norm without scale and shift can't be rescaled")
        names = sorted({a.name for u in everything for a in u.activations})
        raise TransformationRefused(
            f"needs a positively homogeneous activation (ReLU, leaky ReLU); this network has "
            f"{', '.join(names) or 'none'}"
        )
    return layers


def _rescale_each(model: nn.Module, parts: Sequence[tuple[HiddenUnits, Tensor]]) -> None:
    """Multiply the units of each layer, and divide what reads them."""
    change_each(model, [_rescaling(units, alpha) for units, alpha in parts])
    for units, _ in parts:
        if units.norms and not written_into(model, units.producer):
            note_left(units.name, "what scales each of its units behind it is changed in its place")


def _rescaling(units: HiddenUnits, alpha: Tensor) -> Part:
    for name in units.gate_names:
        note_left(name, f"it gates the units of {units.name}, which are changed in its place")
    return Part(units.name, partial(_rescale, units, alpha), (*units.scaled_by(), units.read_by()))


def _rescale(units: HiddenUnits, alpha: Tensor) -> None:
    for tensor in units.scaled_by():
        tensor.mul_(alpha.to(tensor).view(-1, *[1] * (tensor.ndim - 1)))
    read = units.read_by()
    read.div_(alpha.to(read).view(1, -1, *[1] * (read.ndim - 2)))
