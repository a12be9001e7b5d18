"""The symmetry of a residual stream: its coordinates have no order."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sharpbench.copies import copied
from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.attention import PARTS as _PARTS
from sharpbench.invariance.attention import is_attention
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.keeping import Part, change_each
from sharpbench.invariance.orders import drawn_orders
from sharpbench.invariance.recording import note_left, spoken
from sharpbench.invariance.structure import (
    ELEMENTWISE_FUNCTIONS,
    PRODUCTS,
    TRANSPARENT,
    attribute,
    graph_of,
    matrix,
    transposed,
    unit_by_unit,
)
from sharpbench.network import computed
from sharpbench.seeds import torch_generator

__all__ = ["ResidualPermutation"]


@transformations.register
@dataclass(frozen=True)
class ResidualPermutation(Transformation):
    """Permutes the coordinates of every residual stream: of all layers that write to it, all that read
    from it, and the norms on it, together.

    Batch norm treats channels one by one and layer norm sums over all of them, so that both commute with
    a permutation. They do not commute with a rotation of the stream unless their scales are equal, which
    is why there is no ``residual_rotation``. Needs sums of branches that a pass on an
    example, or torch.fx, shows.
    """

    name = "residual_permutation"
    reference = "Ainsworth et al., arXiv:2209.04836 (residual streams)"
    kind = "permutation"
    preserves = "function"
    rest = "on no residual stream that can be permuted"

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        every = _Streams(model)
        streams = every.found()
        if not streams:
            why = f": {'; '.join(every.pinned)}" if every.pinned else ""
            raise TransformationRefused(
                f"the network has no residual stream that can be followed{why}"
            )
        orders = drawn_orders([(s.name, s.size) for s in streams], generator, "coordinates")
        parts = [
            Part(s.name, partial(_reorder, s, order), [tensor for _, tensor in s.tensors])
            for s, order in zip(streams, orders, strict=True)
            if order is not None
        ]
        change_each(model, parts)


def _reorder(stream: _Stream, order: Tensor) -> None:
    each = {(axis, id(tensor)): tensor for axis, tensor in stream.tensors}
    for (axis, _), tensor in each.items():  # tied weights stand there once
        tensor.copy_(tensor.index_select(axis, order.to(tensor.device)))


@dataclass
class _Stream:
    size: int
    tensors: list[tuple[int, Tensor]]
    """Axis and tensor: every axis that runs over the stream's coordinates."""
    summed: bool = False
    free: bool = True
    """Whether everything on it can be permuted: not the input, the output or what isn't understood."""
    why: str = ""
    """What it isn't free for."""

    @property
    def name(self) -> str:
        return f"a residual stream of {self.size} coordinates"


class _Streams:
    """Follows which axis of which tensor runs over the same coordinates."""

    def __init__(self, model: nn.Module) -> None:
        self.norms = {m: axis for m in model.modules() if (axis := _axis_of(m)) is not None}
        """Layers of others' own with a number for each coordinate, and which axis runs over them."""
        whole = {m for m in model.modules() if is_attention(m) or transposed(m) or m in self.norms}
        self.graph = graph_of(model, whole.__contains__)
        self.model, self.modules = model, dict(model.named_modules())
        self.of_node: dict[fx.Node, _Stream] = {}
        self.pinned: list[str] = []
        """Why streams can't be permuted."""

    def found(self) -> list[_Stream]:
        for node in self.graph.nodes:
            stream = self._step(node)
            if stream is not None:
                self.of_node[node] = stream
        self._join()
        streams = {id(s): s for s in self.of_node.values()}
        for stream in streams.values():
            if stream.summed and not stream.free:
                note_left(stream.name, stream.why)
                self.pinned.append(f"of one of {stream.size} coordinates, {stream.why}")
        return [s for s in streams.values() if s.summed and s.free and s.size > 1]

    def _join(self) -> None:
        """Streams that share a tensor have their order in common: an encoder's and a decoder's, by their
        embedding."""
        holders: dict[int, tuple[int, fx.Node]] = {}
        for node in list(self.of_node):
            for axis, tensor in list(self.of_node[node].tensors):
                at, other = holders.setdefault(id(tensor), (axis, node))
                if at == axis and self.of_node[other] is not self.of_node[node]:
                    self._merge(self.of_node[other], self.of_node[node], summed=False)

    def _step(self, node: fx.Node) -> _Stream | None:
        inputs = [self.of_node.get(n) for n in node.all_input_nodes]
        source = inputs[0] if inputs else None
        if node.op == "output":
            self._pin(inputs, "it is the output")
            return None
        if node.op == "get_attr":
            value = attribute(self.model, str(node.target))
            # A parameter added to the stream, such as positions: its last axis.
            if not isinstance(value, Tensor) or value.ndim == 0:
                return None
            return _Stream(value.shape[-1], [(value.ndim - 1, value)])
        if node.op == "call_module":
            return self._module(node, self.modules[str(node.target)], source, inputs)
        together = [s for s in inputs if s is not None]
        if node.target in _SUMS and len(inputs) == 2 and len(together) == 2:
            return self._merge(*together)
        if node.target is torch.cat and len(together) == len(inputs) and _beside(node):
            for other in together[1:]:
                together[0] = self._merge(together[0], other, summed=False)
            return together[0]
        if node.target in PRODUCTS and len(inputs) == len(together) == 2:
            one, other = sorted(together, key=lambda s: s.size, reverse=True)
            return one if other.size == 1 else self._merge(one, other, summed=False)
        if node.target is operator.getitem and source is not None and len(together) == 1:
            given, out = node.all_input_nodes[0].meta.get("shape"), node.meta.get("shape")
            by_tensor = len(inputs) > 1 or len(node.args) < 2
            if by_tensor and given and out and len(given) != 4 and out[-1] == given[-1]:
                return source  # of some tokens
        if node.target is F.embedding and len(together) == 1:
            return together[0]
        if node.target in _BROADCASTING and len(together) == 1 and _alike(node, self.of_node):
            return together[0]
        if node.target in _SUMS and together and not node.meta.get("alone"):
            together[0].summed = True
            self._pin(inputs, "it is added to something that is not followed")
            return together[0]
        if _keeps(node) or (unit_by_unit(node) and len(inputs) == 1):
            return source
        self._pin(inputs, f"it is read by {spoken(node)}")
        return None

    def _module(
        self,
        node: fx.Node,
        layer: Any,
        source: _Stream | None,
        inputs: list[_Stream | None],
    ) -> _Stream | None:
        parts: list[nn.Module] = (
            [getattr(layer, name) for name in _PARTS] if is_attention(layer) else []
        )
        if any(map(computed, [layer, *parts])):
            why = "a layer's weight on it is computed from others"
            self._pin(inputs, why)
            writer = parts[-1] if parts else layer
            if isinstance(writer, nn.Linear | nn.Conv2d):
                return _Stream(writer.weight.shape[0], [], free=False, why=why)
            return None
        if layer in self.norms and source is not None:
            each = [(_long_axis(p), p) for p in layer.parameters()]
            if all(p.shape[axis] == source.size for axis, p in each) and self._lies(node, layer):
                source.tensors += each
                return source
        if _depthwise(layer) and source is not None and layer.weight.shape[0] == source.size:
            source.tensors += [(0, t) for t in (layer.weight, layer.bias) if t is not None]
            return source
        if transposed(layer):
            self._read(matrix(layer), source, 1)
            ends = [(1, layer.weight)] + ([(0, layer.bias)] if layer.bias is not None else [])
            return _Stream(matrix(layer).shape[0], ends)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            self._read(layer.weight, source, getattr(layer, "groups", 1))
            made = [layer.weight] + ([layer.bias] if layer.bias is not None else [])
            return _Stream(layer.weight.shape[0], [(0, t) for t in made])
        if is_attention(layer):
            attention: Any = layer
            for part in (attention.query, attention.key, attention.value):
                self._read(part.weight, source, 1)
            output = attention.output
            made = [output.weight] + ([output.bias] if output.bias is not None else [])
            return _Stream(output.weight.shape[0], [(0, t) for t in made])
        if isinstance(layer, nn.Embedding):
            return _Stream(layer.weight.shape[1], [(1, layer.weight)])
        if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
            if len({id(s) for s in inputs if s is not None}) == 1:
                self._read(layer.in_proj_weight, next(s for s in inputs if s is not None), 1)
                output = layer.out_proj
                made = [output.weight] + ([output.bias] if output.bias is not None else [])
                return _Stream(output.weight.shape[0], [(0, t) for t in made])
        elif isinstance(layer, _NORMS) and source is not None:
            names = ("weight", "bias", "running_mean", "running_var")
            tensors = [t for n in names if isinstance(t := getattr(layer, n, None), Tensor)]
            if all(t.shape == (source.size,) for t in tensors):
                source.tensors += [(0, t) for t in tensors]
                return source
        elif isinstance(layer, TRANSPARENT) or unit_by_unit(layer) or _mean_like(layer):
            return source
        elif isinstance(layer, nn.Flatten) and source is not None:
            return source  # the reader's columns tell whether it fits
        self._pin(inputs, f"it is read by a {type(layer).__name__}")
        return None

    def _lies(self, node: fx.Node, layer: nn.Module) -> bool:
        """Whether the layer's coordinates are the stream's, which lie last, or are those of maps."""
        shape = node.meta.get("shape")
        if shape is None:
            return True
        last = len(shape) - 1
        return len(shape) + self.norms[layer] == (1 if len(shape) == 4 else last)

    def _read(self, weight: Tensor, source: _Stream | None, groups: int) -> None:
        if source is None:
            return
        if groups != 1 or weight.shape[1] != source.size:
            # Flattened maps or grouped channels: not followed.
            source.free, source.why = (
                False,
                "it is read by a layer of grouped or flattened channels",
            )
            return
        source.tensors.append((1, weight))

    def _merge(self, first: _Stream, second: _Stream, *, summed: bool = True) -> _Stream:
        # What is added to itself, as activations do that are written out, is no stream for that.
        first.summed |= second.summed or (summed and first is not second)
        if first is not second:
            if first.size != second.size:
                first.free = second.free = False
                first.why = second.why = "it is added to one of another size"
                return first
            first.tensors += second.tensors
            first.free &= second.free
            first.why = first.why or second.why
            for node, stream in self.of_node.items():
                if stream is second:
                    self.of_node[node] = first
        return first

    @staticmethod
    def _pin(inputs: list[_Stream | None], why: str) -> None:
        for stream in inputs:
            if stream is not None:
                stream.free, stream.why = False, stream.why or why


_NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.RMSNorm
_SUMS: set[Any] = {operator.add, torch.add, "add"}
_KEEPING: set[Callable[..., Any] | str] = {
    torch.relu, F.relu, "relu", torch.tanh, "tanh", F.gelu, F.silu, F.softplus, "contiguous",
}  # fmt: skip


def _keeps(node: fx.Node) -> bool:
    """Whether an operation leaves the coordinates where its reader, or a sum, finds them."""
    if node.op not in {"call_function", "call_method"}:
        return False
    if node.target in _KEEPING or node.target in ELEMENTWISE_FUNCTIONS:
        return True
    into = [n.meta.get("shape") for n in node.all_input_nodes]
    out = node.meta.get("shape")
    if node.target in {"mean", torch.mean}:  # over samples' places, and not over the coordinates
        if not out or not into[0]:  # as torch.fx sees it
            return True
        images = len(into[0]) == 4
        return bool(out[:2] == into[0][:2] if images else len(out) > 1 and out[-1] == into[0][-1])
    if node.meta.get("further"):
        return False
    if out and len(into) == 1 and into[0]:
        if node.target is operator.getitem and len(node.args) < 2:  # by a tensor
            return False
        if node.target is operator.getitem:  # of some tokens, say: the last axis stays whole
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            whole = len(index) < len(into[0]) or index[-1] == slice(None)
            return Ellipsis not in index and None not in index and whole
        if node.target in {"expand", "to", "type", "float", "double", "clone"}:
            return bool(out[-1] == into[0][-1])
        flat = node.target in {"flatten", torch.flatten, "view", "reshape", torch.reshape}
        if flat and len(out) == 2 and out == into[0][:2]:  # (N, C, 1, 1) → (N, C)
            return True
        if flat and len(into[0]) != 4 and len(out) != 4 and out[-1] == into[0][-1]:
            return True  # tokens in one row, and back
    # Patches laid out as tokens: (N, C, h, w) → (N, C, hw) → (N, hw, C).
    return node.target in {"flatten", "transpose", torch.flatten, torch.transpose} and (
        node.args[1:] in {(2,), (1, 2)}
    )


_BROADCASTING: set[Any] = {
    *PRODUCTS, *_SUMS, "sub", "__sub__", torch.sub, "div", "__truediv__", torch.div, "masked_fill",
    torch.where, "where",
}  # fmt: skip


def _alike(node: fx.Node, streams: dict[fx.Node, _Stream]) -> bool:
    """Whether what a stream is multiplied by, or masked by, is the same for all its coordinates."""
    out = node.meta.get("shape")
    if not out:
        return False
    axis = -3 if len(out) == 4 else -1
    others = [n.meta.get("shape") for n in node.all_input_nodes if n not in streams]
    return bool(others) and all(s is not None and (len(s) < -axis or s[axis] == 1) for s in others)


def _depthwise(layer: nn.Module) -> bool:
    """A convolution of each map by itself."""
    return (
        isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1
    )


def _long_axis(parameter: Tensor) -> int:
    return max(range(parameter.ndim), key=lambda axis: parameter.shape[axis])


def _axis_of(module: nn.Module) -> int | None:
    """Along which axis, from behind, a module of somebody's own treats coordinates alike but for parameters
    of one number each (an RMS norm, a scale of a layer); None for what is none, as a trial shows."""
    each = list(module.parameters())
    sizes = {p.numel() for p in each}
    plain = all(p.ndim and max(p.shape) == p.numel() for p in each)
    if len(sizes) != 1 or not plain or max(sizes) < 2 or any(True for _ in module.children()):
        return None
    if type(module).__module__.startswith("torch.nn.") or any(True for _ in module.buffers()):
        return None
    (size,) = sizes
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(size, generator=generator).roll(1)
    for axis, shape in ((-1, (2, 3, size)), (-3, (2, size, 3, 4))):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                one = copied(module).double().cpu()
                for parameter in one.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
                x = torch.randn(shape, generator=generator, dtype=torch.float64)
                y = one(x.clone())
                for parameter in one.parameters():
                    long = _long_axis(parameter)
                    parameter.copy_(parameter.index_select(long, order))
                moved = one(x.index_select(axis, order))
                if y.shape == x.shape and torch.allclose(moved, y.index_select(axis, order)):
                    return axis
        except Exception:
            continue
    return None


def _beside(node: fx.Node) -> bool:
    """Whether tensors are put beside each other along another axis than the last."""
    shapes = [n.meta.get("shape") for n in node.all_input_nodes]
    out = node.meta.get("shape")
    if not out:
        return False
    return all(s and s[-1] == out[-1] for s in shapes)


def _mean_like(layer: nn.Module) -> bool:
    return not list(layer.parameters()) and type(layer).__name__ == "_MeanOverTokens"
