"""More parameters, the same function: split neurons, inserted identities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.structure import hidden_units, matrix, transposed
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

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        layers = [u for u in hidden_units(model) if not u.norms]
        if not layers:
            raise TransformationRefused("every hidden layer is followed by a norm")
        for units in layers:
            producer, consumer, size = units.producer, units.consumer, units.size
            twins = torch.randperm(size, generator=generator)[: max(round(self.share * size), 1)]
            twins = twins.to(matrix(producer).device)
            part = torch.rand(len(twins), generator=generator, dtype=torch.float64).to(
                matrix(consumer)
            )
            read = units.read_by()
            second = read[:, twins] * part.view(1, -1, 1)
            read[:, twins] -= second
            whole = torch.cat([read, second], 1)
            kernel = matrix(consumer).shape[2:]
            per_unit = units.repeat
            shape = (whole.shape[0], (size + len(twins)) * per_unit, *kernel)
            made = torch.cat([matrix(producer), matrix(producer)[twins]])
            _give(consumer, whole.reshape(shape))
            _give(producer, made)
            if isinstance(producer.bias, Tensor):
                producer.bias = nn.Parameter(torch.cat([producer.bias, producer.bias[twins]]))


def _give(layer: nn.Module, weight: Tensor) -> None:
    """A weight (out, in, …) of another size, which the layer says, too."""
    turned = transposed(layer)
    layer.weight = nn.Parameter((weight.T if turned else weight).contiguous())
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
        setattr(parent, key, nn.Sequential(identity, layer))
