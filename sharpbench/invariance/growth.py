"""More parameters, the same function: split neurons, inserted identities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.keeping import Part, change_each
from sharpbench.invariance.recording import note_left
from sharpbench.invariance.structure import HiddenUnits, hidden_units, matrix, transposed
from sharpbench.seeds import torch_generator

__all__ = ["IdentityLayerInsertion", "NeuronSplitting"]


@transformations.register
@dataclass(frozen=True)
class NeuronSplitting(Transformation):
    """Gives ``share`` of the units of every hidden layer without a norm a twin; the reader's weights are
    divided between the two at random.

    Any activation: both twins have the same input weights.
    """

    name = "neuron_splitting"
    reference = "Chen, Goodfellow & Shlens, arXiv:1511.05641 (Net2WiderNet)"
    kind = "growth"
    traits = frozenset({"homogeneous"})
    preserves = "function"
    rest = "no linear layer and no convolution of images that is called as one"

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        layers, parts = [], []
        for units in hidden_units(model):
            if units.norms or units.slopes:
                note_left(units.name, "a norm follows it, or an activation with parameters")
            else:
                layers.append(units)
        if not layers:
            raise TransformationRefused("every hidden layer is followed by a norm")
        for units in layers:
            twins = torch.randperm(units.size, generator=generator)
            twins = twins[: max(round(self.share * units.size), 1)]
            part = torch.rand(len(twins), generator=generator, dtype=torch.float64)
            layers_held = [_held(m) for m in (units.producer, *units.gates, units.consumer)]
            undo = partial(_put_back, layers_held)
            parts.append(Part(units.name, partial(_split, units, twins, part), undo=undo))
        change_each(model, parts)


def _split(units: HiddenUnits, twins: Tensor, part: Tensor) -> None:
    consumer = units.consumer
    twins, part = twins.to(matrix(consumer).device), part.to(matrix(consumer))
    read = units.read_by().clone()
    second = read[:, twins] * part.view(1, -1, *[1] * (read.ndim - 2))
    read[:, twins] -= second
    whole = torch.cat([read, second], 1)
    made = [
        (maker, torch.cat([matrix(maker), matrix(maker)[twins]]))
        for maker in (units.producer, *units.gates)
    ]
    _give(consumer, whole.movedim(1, 2).flatten(1, 3))
    for maker, weight in made:
        _give(maker, weight)
        if isinstance(maker.bias, Tensor):
            bias = torch.cat([maker.bias, maker.bias[twins]])
            maker.bias = nn.Parameter(bias, maker.bias.requires_grad)


Held = tuple[nn.Module, dict[str, Any]]


def _held(layer: nn.Module) -> Held:
    """A layer with its weight, its bias and its sizes."""
    names = ("weight", "bias", *_SIZES)
    return layer, {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def _put_back(every: list[Held]) -> None:
    for layer, held in every:
        for name, value in held.items():
            setattr(layer, name, value)


_SIZES = ("nf", "nx", "out_features", "in_features", "out_channels", "in_channels")


def _give(layer: nn.Module, weight: Tensor) -> None:
    """A weight (out, in, …) of another size, which the layer says, too."""
    turned = transposed(layer)
    trained = matrix(layer).requires_grad  # what is frozen stays it
    layer.weight = nn.Parameter((weight.T if turned else weight).contiguous(), trained)
    names = ("nf", "nx") if turned else ("out_features", "in_features")
    if isinstance(layer, nn.Conv2d):
        names = ("out_channels", "in_channels")
    for name, size in zip(names, weight.shape[:2], strict=True):
        setattr(layer, name, size)


@transformations.register
@dataclass(frozen=True)
class IdentityLayerInsertion(Transformation):
    """Puts a linear layer that is the identity before the last linear layer: one more layer to perturb."""

    name = "identity_layer_insertion"
    version = 2  # the first drew random numbers, for which runs took its figures for spoilt
    reference = "Chen, Goodfellow & Shlens, arXiv:1511.05641 (Net2DeeperNet)"
    kind = "growth"
    preserves = "function"
    rest = "only the last linear layer gets one before it"

    def change(self, model: nn.Module, *, seed: int) -> None:
        last = None
        for parent in model.modules():
            for key, child in parent.named_children():
                if isinstance(child, nn.Linear):
                    last = (parent, key, child)
        if last is None or not isinstance(last[0], nn.Sequential):
            raise TransformationRefused("the last linear layer is not part of an nn.Sequential")
        parent, key, layer = last
        size = layer.in_features
        like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        identity = nn.utils.skip_init(nn.Linear, size, size, **like)  # draws no initial weights
        nn.init.eye_(identity.weight)
        nn.init.zeros_(identity.bias)
        grown = nn.Sequential(identity, layer)
        insert, undo = partial(setattr, parent, key, grown), partial(setattr, parent, key, layer)
        change_each(model, [Part("the last linear layer", insert, undo=undo)])
