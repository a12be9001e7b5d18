"""Finds the hidden units of a network: which weights make them, which weights read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance.recording import example, note_left, recorded

__all__ = [
    "ELEMENTWISE",
    "ELEMENTWISE_FUNCTIONS",
    "TRANSPARENT",
    "HiddenUnits",
    "graph_of",
    "hidden_units",
    "matrix",
    "spoken",
    "traced",
    "transposed",
]

ELEMENTWISE = (
    nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU,
)  # fmt: skip
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)
TRANSPARENT = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool2d, nn.AvgPool2d,
                nn.AdaptiveAvgPool2d)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_FUNCTIONS = {
    torch.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU, torch.relu_: nn.ReLU,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    F.gelu: nn.GELU, F.silu: nn.SiLU, F.softplus: nn.Softplus, F.elu: nn.ELU,
    F.leaky_relu: nn.LeakyReLU,
}  # fmt: skip
_POOLS = {F.max_pool2d: True, torch.max_pool2d: True, F.avg_pool2d: False, F.adaptive_avg_pool2d: False,
          F.dropout: False, F.dropout2d: False}  # fmt: skip
"""Functions that keep the units where they are, and whether they take a maximum."""
ELEMENTWISE_FUNCTIONS = frozenset({*_FUNCTIONS, *_POOLS})
"""What leaves every unit where it is, as torch.fx names it."""
_RESHAPING = {"view", "reshape", "flatten", torch.flatten, torch.reshape}


def transposed(module: nn.Module) -> bool:
    """Whether it is Hugging Face's Conv1D, of GPT-2: a linear layer whose weight is (in, out)."""
    weight = getattr(module, "weight", None)
    named = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return named and isinstance(weight, Tensor) and weight.ndim == 2


def is_affine(module: nn.Module) -> bool:
    """A layer whose outputs are units: linear, or a convolution of images."""
    return isinstance(module, (nn.Linear, nn.Conv2d)) or transposed(module)


def matrix(layer: nn.Module) -> Tensor:
    """An affine layer's weight, (out, in, …), or a view of it."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.transpose(0, 1) if transposed(layer) else weight


def _elementwise(module: nn.Module) -> type[nn.Module] | None:
    """What an activation of another's own is like: ReLU if it keeps scales, Tanh if it is odd, else GELU.

    None for a module that has parameters or parts, and for what mixes numbers or draws some, as a trial
    shows. Whether the change that it allows keeps the function is checked for every network.
    """
    held = (*module.parameters(), *module.buffers(), *module.children())
    if held or type(module).__module__.startswith("torch.nn."):
        return None
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            y = module(x.clone())
            alone = torch.stack([module(row.clone()) for row in x.T]).T
            fits = isinstance(y, Tensor) and y.shape == x.shape and torch.allclose(y, alone)
            if not fits or not torch.allclose(module(x.flip(0, 1)).flip(0, 1), y):
                return None
            scales = all(torch.allclose(module(a * x), a * y, atol=1e-12) for a in (0.25, 8.0))
            odd = torch.allclose(module(-x), -y, atol=1e-12)
    except Exception:
        return None
    return nn.ReLU if scales and not odd else nn.Tanh if odd else nn.GELU


@dataclass(frozen=True)
class HiddenUnits:
    """A layer's units between the affine map that makes them and the one that alone reads them.

    ``repeat`` consecutive input columns of the consumer belong to one unit (flattened feature maps).
    """

    producer: nn.Module
    norms: tuple[nn.Module, ...]
    activations: tuple[type[nn.Module], ...]
    consumer: nn.Module
    repeat: int
    max_pooled: bool = False
    """Whether the units pass a max pooling, which does not commute with a change of sign."""
    name: str = ""
    """The producer's."""

    @property
    def odd(self) -> bool:
        """Whether flipping the pre-activation's sign flips what the consumer reads."""
        return not self.max_pooled and all(a is nn.Tanh for a in self.activations)

    @property
    def size(self) -> int:
        return len(matrix(self.producer))

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
        affine = (matrix(last) if last is self.producer else last.weight, last.bias)
        if self.norms and last.weight is None:
            raise TransformationRefused("a batch norm without scale and shift can't be rescaled")
        return [t for t in affine if isinstance(t, Tensor)]

    def read_by(self) -> Tensor:
        """A view of the consumer's weight, (out, units, rest)."""
        weight = matrix(self.consumer)
        if transposed(self.consumer):
            turned: Tensor = weight.unflatten(1, (self.size, -1))
            return turned
        return weight.view(weight.shape[0], self.size, -1)


def hidden_units(model: nn.Module) -> list[HiddenUnits]:
    """Every layer of hidden units in ``model``, in order, found in its torch.fx graph.

    A layer counts if its units flow from one Linear or Conv2d through elementwise activations,
    batch norms, pooling, dropout and flattening into exactly one Linear or Conv2d, and neither map
    is used anywhere else; of the others is noted why they don't (`noting`). The graph is that of a pass
    on an example where there is one, else torch.fx's. Raises TransformationRefused if the network can't be
    followed or has none.
    """
    graph, modules, uses = traced(model)
    found = []
    shared = _shared(model)
    for node in graph.nodes:
        if node.op == "call_module" and is_affine(modules[str(node.target)]):
            units = _follow(node, modules)
            if isinstance(units, str):
                note_left(str(node.target), units)
            elif not uses[id(units.producer)] == uses[id(units.consumer)] == 1:
                note_left(str(node.target), "it or its reader runs several times")
            elif shared & {id(units.producer.weight), id(units.consumer.weight)}:
                note_left(
                    str(node.target), "its weight or its reader's is that of another layer, too"
                )
            else:
                found.append(units)
    if not found:
        raise TransformationRefused("the network has no layer of hidden units with a single reader")
    return found


def traced(model: nn.Module) -> tuple[fx.Graph, dict[str, nn.Module], dict[int, int]]:
    """The graph, the modules by name, and how often each runs in one pass.

    Raises TransformationRefused if the network can't be followed.
    """
    # Tried before: within torch.fx a module can't be called.
    whole = {m for m in model.modules() if transposed(m) or _elementwise(m) is not None}
    graph = graph_of(model, whole.__contains__)
    modules = dict(model.named_modules())
    uses: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            key = id(modules[str(node.target)])
            uses[key] = uses.get(key, 0) + 1
    return graph, modules, uses


def graph_of(
    model: nn.Module, is_leaf: Callable[[nn.Module], bool] = lambda module: False
) -> fx.Graph:
    """That of one pass on an example where there is one, else torch.fx's; ``is_leaf``: layers beside torch's.

    Raises TransformationRefused if the network can't be followed.
    """
    if (run := example()) is not None:
        return recorded(model, run, is_leaf)
    try:
        return _Tracer(is_leaf).trace(model)
    except Exception as error:
        raise TransformationRefused(
            f"torch.fx can't trace the network ({type(error).__name__}: {error})"
        ) from error


class _Tracer(fx.Tracer):
    def __init__(self, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_leaf = is_leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._is_leaf(m) or super().is_leaf_module(m, module_qualified_name)


def _shared(model: nn.Module) -> set[int]:
    """Ids of the weights that several layers have in common."""
    layers = [m for m in model.modules() if isinstance(getattr(m, "weight", None), Tensor)]
    ids = [id(layer.weight) for layer in layers]
    return {one for one in ids if ids.count(one) > 1}


def _follow(start: fx.Node, modules: dict[str, nn.Module]) -> HiddenUnits | str:
    """The units that a layer makes, or why they are none that can be changed."""
    producer = modules[str(start.target)]
    if isinstance(producer, nn.Conv2d) and producer.groups != 1:
        return "a grouped convolution"
    norms: list[nn.Module] = []
    activations: list[type[nn.Module]] = []
    node, pooled = start, False
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if node.op == "output":
            return "its units are the outputs"
        if node.op != "call_module":
            if node.target in _FUNCTIONS:
                activations.append(_FUNCTIONS[node.target])
            elif node.target in _POOLS:
                pooled |= _POOLS[node.target]
            elif not _flattens(node, before, producer):
                return f"its units are read by {spoken(node)}"
            continue
        layer = modules[str(node.target)]
        if is_affine(layer):
            return _close(producer, norms, activations, layer, pooled, str(start.target))
        if isinstance(layer, _NORMS):
            if activations:
                return "a batch norm stands behind the activation"
            norms.append(layer)
        elif isinstance(layer, ELEMENTWISE):
            activations.append(type(layer))
        elif (like := _elementwise(layer)) is not None:
            activations.append(like)
        elif isinstance(layer, nn.Flatten):
            if layer.start_dim != 1 or layer.end_dim != -1:
                return "they are flattened together with samples, or in part"
        elif not isinstance(layer, TRANSPARENT):
            return f"its units are read by a {type(layer).__name__}"
        pooled |= isinstance(layer, nn.MaxPool2d)
    if not node.users:
        return "its units are the outputs"
    return f"its units are read in {len(node.users)} places"


def _flattens(node: fx.Node, before: fx.Node, producer: nn.Module) -> bool:
    """Whether an operation lays each sample's feature maps out one after the other, (N, C, …) → (N, C·…)."""
    into, out = before.meta.get("shape"), node.meta.get("shape")
    if node.target not in _RESHAPING or into is None or out is None:
        return False
    whole = len(out) == 2 and out[0] == into[0]
    return into == out or (whole and (isinstance(producer, nn.Conv2d) or len(into) == 2))


def spoken(node: fx.Node) -> str:
    """What an operation is called."""
    return getattr(node.target, "__name__", str(node.target)).strip("_")


def _close(
    producer: nn.Module,
    norms: list[nn.Module],
    activations: list[type[nn.Module]],
    consumer: nn.Module,
    pooled: bool,
    name: str,
) -> HiddenUnits | str:
    size, columns = len(matrix(producer)), matrix(consumer).shape[1]
    if isinstance(consumer, nn.Conv2d) and consumer.groups != 1:
        return "its units are read by a grouped convolution"
    if columns % size:
        return "its units are no whole share of what its reader takes"
    return HiddenUnits(
        producer, tuple(norms), tuple(activations), consumer, columns // size, pooled, name
    )


def _per_unit(layer: nn.Module) -> list[Tensor]:
    names = ("bias", "running_mean", "running_var")
    weight = matrix(layer) if transposed(layer) else getattr(layer, "weight", None)
    tensors = (weight, *(getattr(layer, name, None) for name in names))
    return [t for t in tensors if isinstance(t, Tensor)]
