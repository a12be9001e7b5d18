"""Finds the hidden units of a network: which weights make them, which weights read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sharpbench.errors import TransformationRefused

__all__ = ["ELEMENTWISE", "TRANSPARENT", "HiddenUnits", "hidden_units", "traced"]

ELEMENTWISE = (
    nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU,
)  # fmt: skip
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)
TRANSPARENT = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool2d, nn.AvgPool2d,
                nn.AdaptiveAvgPool2d)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_FUNCTIONS = {
    torch.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    F.gelu: nn.GELU, F.silu: nn.SiLU, F.softplus: nn.Softplus,
}  # fmt: skip

Affine = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class HiddenUnits:
    """A layer's units between the affine map that makes them and the one that alone reads them.

    ``repeat`` consecutive input columns of the consumer belong to one unit (flattened feature maps).
    """

    producer: Affine
    norms: tuple[nn.Module, ...]
    activations: tuple[type[nn.Module], ...]
    consumer: Affine
    repeat: int
    max_pooled: bool = False
    """Whether the units pass a max pooling, which does not commute with a change of sign."""

    @property
    def odd(self) -> bool:
        """Whether flipping the pre-activation's sign flips what the consumer reads."""
        return not self.max_pooled and all(a is nn.Tanh for a in self.activations)

    @property
    def size(self) -> int:
        return self.producer.weight.shape[0]

    @property
    def positively_homogeneous(self) -> bool:
        """Whether scaling the pre-activation by α > 0 scales what the consumer reads by α."""
        return all(issubclass(a, _HOMOGENEOUS) for a in self.activations)

    def made_by(self) -> list[Tensor]:
        """Tensors whose first axis runs over the units, in the order in which they are applied."""
        layers: list[nn.Module] = [self.producer, *self.norms]
        return [t for layer in layers for t in _per_unit(layer)]

    def scaled_by(self) -> list[Tensor]:
        """The tensors that must be multiplied by α to scale the units by α."""
        last: nn.Module = self.norms[-1] if self.norms else self.producer
        affine = (last.weight, last.bias)
        if self.norms and last.weight is None:
            raise TransformationRefused("a batch norm without scale and shift can't be rescaled")
        return [t for t in affine if isinstance(t, Tensor)]

    def read_by(self) -> Tensor:
        """A view of the consumer's weight, (out, units, rest)."""
        weight = self.consumer.weight
        return weight.view(weight.shape[0], self.size, -1)


def hidden_units(model: nn.Module) -> list[HiddenUnits]:
    """Every layer of hidden units in ``model``, in order, found in its torch.fx graph.

    A layer counts if its units flow from one Linear or Conv2d through elementwise activations,
    batch norms, pooling, dropout and flattening into exactly one Linear or Conv2d, and neither map
    is used anywhere else. Raises TransformationRefused if the network can't be traced or has none.
    """
    graph, modules, uses = traced(model)
    found = []
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], Affine):
            units = _follow(node, modules)
            if units and uses[id(units.producer)] == uses[id(units.consumer)] == 1:
                found.append(units)
    if not found:
        raise TransformationRefused("the network has no layer of hidden units with a single reader")
    return found


def traced(model: nn.Module) -> tuple[fx.Graph, dict[str, nn.Module], dict[int, int]]:
    """The torch.fx graph, the modules by name, and how often each runs in one pass.

    Raises TransformationRefused if torch.fx can't trace the network.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        raise TransformationRefused(
            f"torch.fx can't trace the network ({type(error).__name__}: {error})"
        ) from error
    modules = dict(model.named_modules())
    uses: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            key = id(modules[str(node.target)])
            uses[key] = uses.get(key, 0) + 1
    return graph, modules, uses


def _follow(start: fx.Node, modules: dict[str, nn.Module]) -> HiddenUnits | None:
    producer = modules[str(start.target)]
    assert isinstance(producer, Affine)
    if isinstance(producer, nn.Conv2d) and producer.groups != 1:
        return None
    norms: list[nn.Module] = []
    activations: list[type[nn.Module]] = []
    node, pooled = start, False
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_module":
            function = _FUNCTIONS.get(node.target)
            if function is None:
                return None
            activations.append(function)
            continue
        layer = modules[str(node.target)]
        if isinstance(layer, Affine):
            return _close(producer, norms, activations, layer, pooled)
        if isinstance(layer, _NORMS):
            if activations:
                return None
            norms.append(layer)
        elif isinstance(layer, ELEMENTWISE):
            activations.append(type(layer))
        elif isinstance(layer, nn.Flatten):
            if layer.start_dim != 1 or layer.end_dim != -1:
                return None
        elif not isinstance(layer, TRANSPARENT):
            return None
        pooled |= isinstance(layer, nn.MaxPool2d)
    return None


def _close(
    producer: Affine,
    norms: list[nn.Module],
    activations: list[type[nn.Module]],
    consumer: Affine,
    pooled: bool,
) -> HiddenUnits | None:
    size, columns = producer.weight.shape[0], consumer.weight.shape[1]
    if isinstance(consumer, nn.Conv2d) and consumer.groups != 1:
        return None
    if columns % size:
        return None
    return HiddenUnits(
        producer, tuple(norms), tuple(activations), consumer, columns // size, pooled
    )


def _per_unit(layer: nn.Module) -> list[Tensor]:
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = (getattr(layer, name, None) for name in names)
    return [t for t in tensors if isinstance(t, Tensor)]
