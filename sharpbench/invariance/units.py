"""Changes of units: of the input, where the function of the raw data stays, and of the logits."""

from __future__ import annotations

import operator
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.recording import spoken
from sharpbench.invariance.structure import PRODUCTS, graph_of, shared_parameters
from sharpbench.network import computed
from sharpbench.seeds import derive_seed, torch_generator

__all__ = ["InputRescaling", "InputRotation", "LogitShift", "LogitTemperature"]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@transformations.register
@dataclass(frozen=True)
class InputRescaling(Transformation):
    """Gives the input in another unit: x → ``factor``·x, the first layer's weights divided by it.

    The function of the raw data and every decision stay; a derivative of order n in the input is
    divided by factorⁿ, so that λ falls by log ``factor``.
    """

    name = "input_rescaling"
    reference = "the chain rule, f(x) = f̃(ax)"
    kind = "units"
    traits = frozenset({"diagonal", "homogeneous"})
    preserves = "function"
    rest = "only what reads the input is changed"

    factor: float = 2.0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be positive, got {self.factor}")

    @property
    def input_scale(self) -> float:
        return self.factor

    def change(self, model: nn.Module, *, seed: int) -> None:
        for layer in _readers(model):
            layer.weight.div_(self.factor)

    def points(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


@transformations.register
@dataclass(frozen=True)
class InputRotation(Transformation):
    """Rotates the input, x → Qx with a random orthogonal Q, and the first linear layer's weights back.

    Function of the raw data and decisions stay; a norm of derivatives in all directions does too. Needs a
    linear first layer: a convolution sees neighbours, which a rotation has not.
    """

    name = "input_rotation"
    reference = "the chain rule, f(x) = f̃(Qx)"
    kind = "units"
    traits = frozenset({"isometry", "homogeneous"})
    preserves = "function"
    rest = "only what reads the input is changed"

    angle_seed: int = 0

    @property
    def input_scale(self) -> float:
        return 1.0

    def change(self, model: nn.Module, *, seed: int) -> None:
        layers = _readers(model, whole=True)
        if not all(isinstance(layer, nn.Linear) for layer in layers):
            raise TransformationRefused("the first layer with weights is not linear")
        for layer in layers:
            weight = layer.weight
            weight.copy_(weight @ self._rotation(weight.shape[1]).to(weight).T)

    def points(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return (flat @ self._rotation(flat.shape[1]).to(flat).T).view_as(inputs)

    def _rotation(self, size: int) -> Tensor:
        generator = torch_generator(derive_seed(self.angle_seed, "rotation", size))
        square = torch.randn(size, size, generator=generator, dtype=torch.float64)
        rotation: Tensor = torch.linalg.qr(square).Q
        return rotation


@transformations.register
@dataclass(frozen=True)
class LogitShift(Transformation):
    """Adds ``shift`` to every logit through the last bias: the softmax, and with it the loss, stays."""

    name = "logit_shift"
    reference = "softmax(z + c1) = softmax(z)"
    kind = "decision"
    traits = frozenset({"isometry", "logit_shift"})
    preserves = "loss"
    rest = "only the last layer's bias is changed"

    shift: float = 5.0

    def change(self, model: nn.Module, *, seed: int) -> None:
        last = _last(model)
        if last is None or "bias" not in last._parameters or last.bias is None:
            raise TransformationRefused("the network doesn't end in a linear layer with a bias")
        last.bias.add_(self.shift)


@transformations.register
@dataclass(frozen=True)
class LogitTemperature(Transformation):
    """Divides the logits by ``temperature``: decisions stay, confidence changes, below 1 it rises.

    The last linear layer's weights and biases are divided. A metric of the loss moves; one of a
    logit's growth must not.
    """

    name = "logit_temperature"
    reference = "Guo et al., arXiv:1706.04599 (temperature scaling)"
    kind = "decision"
    preserves = "nothing"
    rest = "only the last layer is changed"

    temperature: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.temperature == 1:
            raise ValueError(f"temperature must be positive and not 1, got {self.temperature}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        last = _last(model)
        if last is None:
            raise TransformationRefused("the network doesn't end in a linear layer")
        if computed(last):
            raise TransformationRefused("the last layer's weight is computed from others")
        if any(id(p) in shared_parameters(model) for p in last.parameters()):
            raise TransformationRefused("the last layer's weight is that of another layer, too")
        for parameter in last.parameters():
            parameter.div_(self.temperature)


_PASSING = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten, nn.Unflatten)
_MOVING = {
    "view", "reshape", "flatten", "unflatten", "contiguous", "clone", "detach", "to", "float", "double",
    "type", "squeeze", "unsqueeze", torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, F.dropout,
}  # fmt: skip
"""What gives all numbers of an input on as they are."""
_PARTING = {
    "transpose", "permute", "movedim", "chunk", "split", "unbind", "expand", "repeat", "flip", "unfold",
    "select", torch.transpose, torch.permute, torch.movedim, torch.chunk, torch.split, torch.unbind,
    torch.cat, torch.stack, operator.getitem, F.pad, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d,
}  # fmt: skip
"""What gives them on in other places, some of them, or linear in them."""


def _readers(model: nn.Module, *, whole: bool = False) -> list[_Layer]:
    """The linear and convolutional layers that read the input, each once, where nothing else does.

    ``whole``: each reads all numbers of a sample in a row. As far as that is seen; of a network that can't be
    followed the layer that stands first.

    Raises TransformationRefused where something else reads the input, or where writing into a weight does
    more, or changes nothing that stays.
    """
    if not any(isinstance(m, _WEIGHTED) for m in model.modules()):
        raise TransformationRefused("no linear or convolutional layer takes the input")
    graph = None
    with suppress(TransformationRefused):
        graph = graph_of(model)
    given = [] if graph is None else [n for n in graph.nodes if n.op == "placeholder"]
    if graph is None or not given:
        found = [m for m in model.modules() if isinstance(m, _WEIGHTED)][:1]
    else:
        found = _reading(model, graph, given, whole)
    if not found:
        raise TransformationRefused("no linear or convolutional layer takes the input")
    if any(map(computed, found)):
        raise TransformationRefused("the first layer's weight is computed from others")
    return found


def _reading(model: nn.Module, graph: fx.Graph, given: list[fx.Node], whole: bool) -> list[_Layer]:
    modules = dict(model.named_modules())
    heard: set[fx.Node] = set()  # what the outputs depend on
    for node in reversed(graph.nodes):
        if node.op == "output" or any(user in heard for user in node.users):
            heard.add(node)
    raw, found = set(given), {}
    for node in graph.nodes:
        reads = [n in raw for n in node.all_input_nodes]
        layer = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(layer, _WEIGHTED) and id(layer) in found and not any(reads):
            raise TransformationRefused(
                f"the layer that reads the input, {node.target}, reads more"
            )
        if node not in heard or not any(reads):
            continue
        passes = isinstance(layer, _PASSING) if layer is not None else node.target in _MOVING
        passes |= _is_multiple(node)
        parts = node.target in _PARTING or isinstance(layer, _POOLS)
        if isinstance(layer, _WEIGHTED):
            shape = node.all_input_nodes[0].meta.get("shape")
            if whole and shape is not None and len(shape) != 2:
                raise TransformationRefused(
                    "the first layer with weights reads an input part by part"
                )
            found[id(layer)] = layer
        elif all(reads) and (passes or (parts and not whole)):
            raw.add(node)
        else:
            name = spoken(node) if layer is None else f"a {type(layer).__name__}"
            raise TransformationRefused(
                f"the input is read by {name}, and not by layers with weights alone"
            )
    return list(found.values())


def _is_multiple(node: fx.Node) -> bool:
    """Whether a node is a number times its one input."""
    numbers = [a for a in node.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    fits = len(node.args) == 2 and len(numbers) == 1 and not node.kwargs
    divides = node.target in {operator.truediv, torch.div, "div", "__truediv__"}
    return fits and (node.target in PRODUCTS or (divides and node.args[1] is numbers[0]))


_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d)


def _last(model: nn.Module) -> nn.Linear | None:
    """The last layer that has parameters, if it is linear."""
    layers = []
    for name, module in model.named_modules():
        inside = ".parametrizations" in f".{name}"
        if not inside and (module._parameters or parametrize.is_parametrized(module)):
            layers.append(module)
    return layers[-1] if layers and isinstance(layers[-1], nn.Linear) else None
