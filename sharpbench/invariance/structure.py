"""Finds the hidden units of a network: which weights make them, which weights read them."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance.recording import THE_NETWORK, example, note_left, recorded, spoken
from sharpbench.network import computed

__all__ = [
    "COMPUTED",
    "ELEMENTWISE",
    "ELEMENTWISE_FUNCTIONS",
    "PRODUCTS",
    "TRANSPARENT",
    "HiddenUnits",
    "attribute",
    "graph_of",
    "hidden_units",
    "matrix",
    "note_uncalled",
    "read_directly",
    "shared_parameters",
    "traced",
    "transposed",
    "unit_by_unit",
]

ELEMENTWISE = (
    nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU,
)  # fmt: skip
TRANSPARENT = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool2d, nn.AvgPool2d,
                nn.AdaptiveAvgPool2d)  # fmt: skip
_POOLS_OF_IMAGES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NORMS = (*_BATCH_NORMS, nn.LayerNorm, nn.RMSNorm)
_FUNCTIONS = {
    torch.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU, torch.relu_: nn.ReLU,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    F.gelu: nn.GELU, F.silu: nn.SiLU, F.softplus: nn.Softplus, F.elu: nn.ELU,
    F.leaky_relu: nn.LeakyReLU,
}  # fmt: skip
_POOLS: dict[Any, bool] = {
    F.max_pool2d: True, torch.max_pool2d: True, F.avg_pool2d: False, F.adaptive_avg_pool2d: False,
    F.dropout: False, F.dropout2d: False,
}  # fmt: skip
"""Functions that keep the units where they are, and whether they take a maximum."""
ELEMENTWISE_FUNCTIONS = frozenset({*_FUNCTIONS, *_POOLS})
"""What leaves every unit where it is, as torch.fx names it."""
_RESHAPING = {"view", "reshape", "flatten", "unflatten", torch.flatten, torch.reshape}
_TRANSPOSING = {"transpose", torch.transpose, "swapaxes", torch.swapaxes}
_MEANS = {"mean", torch.mean}
PRODUCTS = {operator.mul, torch.mul, "mul", "__mul__", "__rmul__", "mul_", "__imul__"}

COMPUTED = (
    "its weight or its reader's is computed from others (weight norm, pruning, a parametrisation)"
)
"""Why a layer that is not changed by writing into its weight is left."""


@dataclass(frozen=True)
class Activation:
    """What a function of each unit alone commutes with."""

    name: str
    homogeneous: bool
    """Scaling by a positive number."""
    odd: bool
    """A change of sign."""


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


def _elementwise(module: nn.Module) -> Activation | None:
    """What an activation, torch's or another's own, is like; None for a module that has parameters or parts,
    and for what a trial shows to be none (`_tried`)."""
    held = (*module.parameters(), *module.buffers(), *module.children())
    return None if held else _tried(type(module).__name__, module)


def _called_alone(node: fx.Node) -> Activation | None:
    """The same of a function that is given one tensor, and numbers: ``F.mish(x)``, ``x.clamp(min=0)``."""
    if not node.meta.get("alone", list(node.args[:1]) == list(node.all_input_nodes)):
        return None
    further, named = node.args[1:], dict(node.kwargs)

    def called(x: Tensor) -> Any:
        function = getattr(x, str(node.target)) if node.op == "call_method" else None
        if function is not None:
            return function(*further, **named)
        assert callable(node.target)
        return node.target(x, *further, **named)

    return _tried(spoken(node), called)


def _tried(name: str, function: Callable[[Tensor], Any]) -> Activation | None:
    """None for what mixes numbers or draws some, as a trial on numbers of every size shows.

    Whether the change that it allows keeps the function is checked for every network.
    """
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            y = function(x.clone())
            alone = torch.stack([function(row.clone()) for row in x.T]).T
            fits = isinstance(y, Tensor) and y.shape == x.shape and torch.allclose(y, alone)
            if not fits or not torch.allclose(function(x.flip(0, 1)).flip(0, 1), y):
                return None
            # To the size of a clip that no data reach, and below that of a threshold.
            scales = all(
                torch.allclose(function(a * x), a * y, rtol=1e-9, atol=1e-12 * a)
                for a in (2.0**-40, 0.25, 8.0, 2.0**40)
            )
            odd = all(
                torch.allclose(function(-a * x), -function(a * x), rtol=1e-9, atol=1e-12 * a)
                for a in (1.0, 2.0**40)
            )
    except Exception:
        return None
    return Activation(name, scales, odd)


@dataclass(frozen=True)
class HiddenUnits:
    """A layer's units between the affine map that makes them and the one that alone reads them.

    A unit's columns in the consumer: those of it in each of ``before`` blocks, ``repeat`` consecutive ones
    (flattened tokens, flattened feature maps).
    """

    producer: nn.Module
    norms: tuple[nn.Module, ...]
    """What scales each unit alone on its way: norms, and convolutions of each map by itself."""
    slopes: tuple[nn.PReLU, ...]
    """Activations with a parameter for each unit."""
    activations: tuple[Activation, ...]
    """Those behind the last of ``norms``."""
    consumer: nn.Module
    before: int
    repeat: int
    max_pooled: bool = False
    """Whether the units pass a max pooling behind these, which does not commute with a change of sign."""
    name: str = ""
    """The producer's."""
    gates: tuple[nn.Module, ...] = ()
    """Layers whose units these are multiplied by, each by its own (SwiGLU): they have the same order, and
    scales of their own."""
    gate_names: tuple[str, ...] = ()

    @property
    def odd(self) -> bool:
        """Whether flipping the pre-activation's sign flips what the consumer reads."""
        return not self.max_pooled and all(a.odd for a in self.activations)

    @property
    def size(self) -> int:
        return len(matrix(self.producer))

    @property
    def positively_homogeneous(self) -> bool:
        """Whether scaling the pre-activation by α > 0 scales what the consumer reads by α."""
        return all(a.homogeneous for a in self.activations)

    @property
    def unscalable(self) -> str | None:
        """Why what the units are multiplied by can't be a parameter, or None."""
        bare = self.norms and self.norms[-1].weight is None
        return "a norm without scale and shift stands behind it" if bare else None

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        return (self.producer, *self.gates, *self.norms, *self.slopes, self.consumer)

    def made_by(self) -> list[Tensor]:
        """Tensors whose first axis runs over the units, in the order in which they are applied."""
        return [t for layer in self.layers[:-1] for t in _per_unit(layer)]

    def scaled_by(self) -> list[Tensor]:
        """The tensors that must be multiplied by α to scale the units by α; see `unscalable`."""
        last: nn.Module = self.norms[-1] if self.norms else self.producer
        weight = matrix(last) if last is self.producer else last.weight
        return [t for t in (weight, getattr(last, "bias", None)) if isinstance(t, Tensor)]

    def read_by(self) -> Tensor:
        """A view of the consumer's weight, (out, units, before, repeat, …)."""
        split: Tensor = matrix(self.consumer).unflatten(1, (self.before, self.size, self.repeat))
        return split.movedim(2, 1)


def hidden_units(model: nn.Module) -> list[HiddenUnits]:
    """Every layer of hidden units in ``model``, in order, found in its torch.fx graph.

    A layer counts if its units flow from one Linear or Conv2d through elementwise activations,
    norms, pooling, dropout and changes of shape into exactly one Linear or Conv2d, and neither map
    is used anywhere else; of the others is noted why they don't (`noting`). The graph is that of a pass
    on an example where there is one, else torch.fx's. Raises TransformationRefused if the network can't be
    followed or has none.
    """
    graph, modules, uses = traced(model)
    found, reasons = [], {}
    shared, direct = shared_parameters(model), read_directly(model, graph)
    for node in graph.nodes:
        if node.op == "call_module" and is_affine(modules[str(node.target)]):
            units = _follow(node, modules)
            if isinstance(units, HiddenUnits):
                owned = {id(p) for layer in units.layers for p in layer.parameters(recurse=False)}
                if any(map(computed, units.layers)):
                    units = COMPUTED
                elif any(uses[id(layer)] != 1 for layer in units.layers):
                    units = "it or its reader runs several times"
                elif owned & shared:
                    units = "its weight or its reader's is that of another layer, too"
                elif owned & direct:
                    units = "its weight or its reader's is used elsewhere, too"
            if isinstance(units, str):
                reasons[str(node.target)] = units
            else:
                found.append(units)
    found = _each_once(found)
    between = {id(layer) for units in found for layer in units.norms}
    for name, reason in reasons.items():
        if id(modules[name]) not in between:
            note_left(name, reason)
    reasons |= note_uncalled(modules, graph)
    if not found:
        each = [f"{name or THE_NETWORK} ({reason})" for name, reason in reasons.items()]
        more = f" and {len(each) - 3} more" if len(each) > 3 else ""
        why = f": {', '.join(each[:3])}{more}" if each else ""
        raise TransformationRefused(
            f"the network has no layer of hidden units with a single reader{why}"
        )
    return found


def _each_once(found: list[HiddenUnits]) -> list[HiddenUnits]:
    """Of units that are multiplied by each other those that can be scaled, or whose sign can be flipped."""
    taken: dict[str, HiddenUnits] = {}
    for units in found:
        names = sorted((units.name, *units.gate_names))
        key = " ".join(names)
        best = taken.get(key)
        if best is None or (units.positively_homogeneous, units.odd) > (
            best.positively_homogeneous,
            best.odd,
        ):
            taken[key] = units
    return [units for units in found if any(units is one for one in taken.values())]


def note_uncalled(modules: Mapping[str, nn.Module], graph: fx.Graph) -> dict[str, str]:
    """Linear layers and convolutions that the graph doesn't show, of which that is noted."""
    seen = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    reason = (
        "on the samples that show the structure it is not called, or has a forward pass of its own"
    )
    found = {
        name: reason for name, module in modules.items() if is_affine(module) and name not in seen
    }
    for name in found:
        note_left(name, reason)
    return found


def traced(model: nn.Module) -> tuple[fx.Graph, dict[str, nn.Module], dict[int, int]]:
    """The graph, the modules by name, and how often each runs in one pass.

    Raises TransformationRefused if the network can't be followed.
    """
    # Tried before: within torch.fx a module can't be called.
    whole = {
        m
        for m in model.modules()
        if not isinstance(m, torch.jit.ScriptModule)
        and (transposed(m) or (not _of_torch(m) and _elementwise(m) is not None))
    }
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
    if isinstance(model, torch.jit.ScriptModule):
        raise TransformationRefused(
            "the layers of TorchScript are not seen: give the module that was scripted"
        )
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


def shared_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that several layers have in common."""
    held = (p for m in model.modules() for p in m._parameters.values() if p is not None)
    return {one for one, count in Counter(map(id, held)).items() if count > 1}


def read_directly(model: nn.Module, graph: fx.Graph) -> set[int]:
    """Ids of the tensors that a forward pass uses itself, and not by calling the layer that holds them."""
    found = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            found.add(id(attribute(model, str(node.target))))
    return found


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def attribute(model: nn.Module, name: str) -> Any:
    """What a ``get_attr`` node stands for."""
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    return value


@dataclass(frozen=True)
class _Place:
    """Along which axis units lie: it runs over ``before`` × units × ``after`` numbers."""

    axis: int
    before: int = 1
    after: int = 1

    @property
    def whole(self) -> bool:
        return self.before == self.after == 1


def _follow(start: fx.Node, modules: dict[str, nn.Module]) -> HiddenUnits | str:
    """The units that a layer makes, or why they are none that can be changed."""
    producer = modules[str(start.target)]
    if isinstance(producer, nn.Conv2d) and producer.groups != 1:
        return "a grouped convolution"
    size = len(matrix(producer))
    norms: list[nn.Module] = []
    slopes: list[nn.PReLU] = []
    activations: list[Activation] = []
    gates: list[fx.Node] = []
    node, pooled = start, False
    shape = start.meta.get("shape")  # unknown to torch.fx
    place = None
    if shape is not None:
        place = _Place(len(shape) - (3 if isinstance(producer, nn.Conv2d) else 1))
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if node.op == "output":
            return "its units are the outputs"
        into, out = before.meta.get("shape"), node.meta.get("shape")
        layer = modules[str(node.target)] if node.op == "call_module" else None
        told = spoken(node) if layer is None else f"a {type(layer).__name__}"
        read = f"its units are read by {told}"
        if layer is not None and is_affine(layer) and not _depthwise(layer, place, into, size):
            blocks = _blocks(layer, place, into, size, producer)
            if isinstance(blocks, str):
                return blocks
            each = tuple(norms), tuple(slopes), tuple(activations)
            names = tuple(str(gate.target) for gate in gates)
            of_gates = tuple(modules[name] for name in names)
            own = str(start.target)
            return HiddenUnits(producer, *each, layer, *blocks, pooled, own, of_gates, names)
        if isinstance(layer, (*_NORMS, nn.Conv2d)):
            if isinstance(layer, _NORMS) and not _one_a_unit(layer, place, into, size, producer):
                return f"{told} treats its units together, or along another axis"
            norms.append(layer)
            activations, pooled = [], False  # a scale is given behind them
        elif isinstance(layer, nn.PReLU):
            if layer.num_parameters != 1:
                if place not in (None, _Place(1)) or layer.num_parameters != size:
                    return f"{told} treats its units together, or along another axis"
                slopes.append(layer)
            activations.append(Activation("PReLU", True, False))
        elif type(layer) in TRANSPARENT or (layer is None and node.target in _POOLS):
            images = type(layer) in _POOLS_OF_IMAGES or "pool" in told
            if images and place is not None and (into is None or place.axis >= len(into) - 2):
                return f"{told} mixes its units, which lie along another axis"
            pooled |= isinstance(layer, nn.MaxPool2d) or _POOLS.get(node.target, False)
        elif (moved := _moved(node, layer, place, into, out, size)) is not None:
            place = moved if isinstance(moved, _Place) else None
        elif (gate := _gate(node, before, start, modules)) is not None:
            if norms or pooled or slopes or gates:
                return read
            gates.append(gate)
        elif (activation := _activation(node, layer)) is None or into != out:
            return read
        else:
            activations.append(activation)
    if not node.users:
        return "nothing that is seen reads its units (compiled code, numbers outside torch, or nothing does)"
    return f"its units are read in {len(node.users)} places"


def _gate(
    node: fx.Node, before: fx.Node, start: fx.Node, modules: dict[str, nn.Module]
) -> fx.Node | None:
    """The layer whose units, behind activations, those of ``start`` are multiplied by; None for what is no
    such product."""
    others = [n for n in node.all_input_nodes if n is not before]
    if node.op == "call_module" or node.target not in PRODUCTS or len(others) != 1:
        return None
    (other,) = others
    shape = node.meta.get("shape")
    while len(other.users) == 1 and other.meta.get("shape") == shape == before.meta.get("shape"):
        layer = modules[str(other.target)] if other.op == "call_module" else None
        if layer is not None and is_affine(layer):
            alike = type(layer) is type(modules[str(start.target)])
            fits = getattr(layer, "groups", 1) == 1 and other.meta.get("shape") == start.meta.get(
                "shape"
            )
            return other if alike and fits and shape is not None else None
        if len(other.all_input_nodes) != 1 or not unit_by_unit(
            layer if layer is not None else other
        ):
            return None
        (other,) = other.all_input_nodes
    return None


def unit_by_unit(what: fx.Node | nn.Module) -> bool:
    """Whether a layer, or a function's call, treats every number alone."""
    if isinstance(what, nn.Module):
        return type(what) in ELEMENTWISE or _elementwise(what) is not None
    return what.op != "get_attr" and _activation(what, None) is not None


def _activation(node: fx.Node, layer: nn.Module | None) -> Activation | None:
    if layer is None:
        known = _FUNCTIONS.get(node.target)
    else:
        known = type(layer) if type(layer) in ELEMENTWISE else None
    if known is not None:
        homogeneous = known in (nn.ReLU, nn.LeakyReLU)
        return Activation(known.__name__, homogeneous, known is nn.Tanh)
    return _called_alone(node) if layer is None else _elementwise(layer)


def _moved(
    node: fx.Node, layer: nn.Module | None, place: _Place | None, into: Any, out: Any, size: int
) -> _Place | bool | None:
    """Where an operation that changes a shape puts the units; None for one that doesn't, or where that
    isn't known."""
    if place is None or into is None or out is None:
        whole = isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1)
        return True if whole else None
    if isinstance(layer, (nn.Flatten, nn.Unflatten)) or (
        layer is None and node.target in _RESHAPING
    ):
        return _reshaped(place, into, out, size)
    if layer is not None:
        return None
    numbers: list[Any] = [a for a in node.args[1:] if isinstance(a, (int, tuple, list))]
    if node.target in _TRANSPOSING and len(numbers) == 2 and not node.kwargs:
        one, other = (int(n) % len(into) for n in numbers)
        swapped = {one: other, other: one}
        return _Place(swapped.get(place.axis, place.axis), place.before, place.after)
    if node.target in {"permute", torch.permute} and numbers and not node.kwargs:
        order = numbers[0] if isinstance(numbers[0], (tuple, list)) else numbers
        dims = [int(n) % len(into) for n in order]
        return _Place(dims.index(place.axis), place.before, place.after)
    if node.target in _MEANS and (numbers or "dim" in node.kwargs):
        told: Any = node.kwargs.get("dim", numbers[0] if numbers else None)
        gone = {int(n) % len(into) for n in (told if isinstance(told, (tuple, list)) else [told])}
        if place.axis in gone:
            return None
        kept = len(out) == len(into)
        axis = place.axis if kept else place.axis - sum(g < place.axis for g in gone)
        return _Place(axis, place.before, place.after)
    return None


def _reshaped(
    place: _Place, into: tuple[int, ...], out: tuple[int, ...], size: int
) -> _Place | None:
    """Where units are after a change of shape that leaves the order of all numbers."""
    ahead = math.prod(into[: place.axis]) * place.before
    behind = math.prod(into[place.axis + 1 :]) * place.after
    for axis, length in enumerate(out):
        first, last = math.prod(out[:axis]), math.prod(out[axis + 1 :])
        if first and last and not (ahead % first or behind % last):
            before, after = ahead // first, behind // last
            if length == before * size * after and out[0] == into[0]:
                return _Place(axis, before, after)
            if length == size and before == after == 1:  # samples and tokens in one row
                return _Place(axis)
    return None


def _depthwise(layer: nn.Module, place: _Place | None, into: Any, size: int) -> bool:
    """Whether it is a convolution of each of the units' maps by itself."""
    if not isinstance(layer, nn.Conv2d) or not layer.groups == layer.in_channels == size > 1:
        return False
    at = place is None or (into is not None and place == _Place(len(into) - 3))
    return at and layer.out_channels == size


def _one_a_unit(
    norm: nn.Module, place: _Place | None, into: Any, size: int, producer: nn.Module
) -> bool:
    """Whether a norm has a scale for each unit (and divides all alike, if it is none of a batch)."""
    if isinstance(norm, _BATCH_NORMS):
        return norm.num_features == size and place in (None, _Place(1))
    assert isinstance(norm, (nn.LayerNorm, nn.RMSNorm))
    last = not isinstance(producer, nn.Conv2d) if place is None else place == _Place(len(into) - 1)
    return last and tuple(norm.normalized_shape) == (size,)


def _blocks(
    reader: nn.Module, place: _Place | None, into: Any, size: int, producer: nn.Module
) -> tuple[int, int] | str:
    """How a reader's columns are laid out, (before, repeat), or why its units can't be told."""
    columns = matrix(reader).shape[1]
    if isinstance(reader, nn.Conv2d) and reader.groups != 1:
        return "its units are read by a grouped convolution"
    if place is None or into is None:
        images = isinstance(producer, nn.Conv2d)
        if columns % size or (columns != size and not images):
            return "its units are no whole share of what its reader takes"
        return 1, columns // size
    if place.axis != len(into) - (3 if isinstance(reader, nn.Conv2d) else 1):
        return "its units lie along another axis than its reader reads"
    if isinstance(reader, nn.Conv2d) and not place.whole:
        return "its units are no whole share of what its reader takes"
    return place.before, place.after


def _per_unit(layer: nn.Module) -> list[Tensor]:
    names = ("bias", "running_mean", "running_var")
    weight = matrix(layer) if transposed(layer) else getattr(layer, "weight", None)
    tensors = (weight, *(getattr(layer, name, None) for name in names))
    return [t for t in tensors if isinstance(t, Tensor)]
