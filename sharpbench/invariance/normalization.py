"""Symmetries of normalisation: the scale of what feeds a norm, and the norm folded away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.keeping import Part, change_each
from sharpbench.invariance.recording import note_left
from sharpbench.invariance.structure import (
    note_uncalled,
    read_directly,
    shared_parameters,
    traced,
)
from sharpbench.network import computed
from sharpbench.seeds import torch_generator

__all__ = ["NormalizationFolding", "NormalizationRescaling"]


@transformations.register
@dataclass(frozen=True)
class NormalizationRescaling(Transformation):
    """Scales the weights that feed a norm by c > 0; the norm takes the scale out again.

    Batch norm, by its running statistics: c a channel, μ → cμ and σ² → c²(σ² + ε) − ε, so that ε is
    handled exactly. Layer, group and RMS norm: c for the layer, ε → c²ε. log c is ``strength`` times a
    standard normal number, raised where σ² would fall below 0.
    """

    name = "normalization_rescaling"
    reference = "van Laarhoven, arXiv:1706.05350"
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})
    preserves = "function"
    rest = "no linear or convolutional layer that feeds a norm"

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        pairs = list(_fed_norms(model))
        if not pairs:
            raise TransformationRefused("no linear or convolutional layer feeds a norm alone")
        parts = []
        for name, producer, norm in pairs:
            size = producer.weight.shape[0]
            z = torch.randn(size, generator=generator, dtype=torch.float64)
            scale = (self.strength * z).exp().to(producer.weight)
            undo = partial(_put_back, _held(producer, norm), norm, norm.eps)
            parts.append(Part(name, partial(_rescale, producer, norm, scale), undo=undo))
        change_each(model, parts)


def _rescale(producer: nn.Linear | nn.Conv2d, norm: Norm, scale: Tensor) -> None:
    if not isinstance(norm, _BATCH):
        assert norm.eps is not None
        scale = scale[:1].expand(len(scale))
        norm.eps = norm.eps * float(scale[0]) ** 2
    else:
        assert norm.running_var is not None and norm.running_mean is not None  # noqa: PT018
        room = norm.running_var + norm.eps
        scale = torch.maximum(scale, 1.01 * (norm.eps / room).sqrt())
        norm.running_mean.mul_(scale)
        norm.running_var.copy_(scale.square() * room - norm.eps)
    for tensor in (producer.weight, producer.bias):
        if tensor is not None:
            tensor.mul_(scale.view(-1, *[1] * (tensor.ndim - 1)))


def _held(producer: nn.Module, norm: nn.Module) -> list[tuple[Tensor, Tensor]]:
    tensors = (producer.weight, producer.bias, *norm.buffers())
    return [(t, t.clone()) for t in tensors if isinstance(t, Tensor)]


def _put_back(held: list[tuple[Tensor, Tensor]], norm: Norm, eps: Any) -> None:
    norm.eps = eps
    for tensor, before in held:
        tensor.copy_(before)


@transformations.register
@dataclass(frozen=True)
class NormalizationFolding(Transformation):
    """Folds every batch norm into the layer before it: the same function with fewer parameters.

    w → wγ/√(σ² + ε), b → (b − μ)γ/√(σ² + ε) + β by the running statistics; the norm becomes an identity.
    """

    name = "normalization_folding"
    kind = "growth"
    preserves = "function"
    reference = "torch.nn.utils.fusion.fuse_conv_bn_eval does the same (compared in a test)"
    rest = "no linear or convolutional layer that feeds a batch norm"

    def change(self, model: nn.Module, *, seed: int) -> None:
        pairs = []
        for name, producer, norm in _fed_norms(model):
            if isinstance(norm, _BATCH):
                pairs.append((name, producer, norm))
            else:
                note_left(name, "what it feeds is no batch norm")
        if not pairs:
            raise TransformationRefused("no linear or convolutional layer feeds a batch norm alone")
        parts = []
        for name, producer, norm in pairs:
            places = [(m, k) for m in model.modules() for k, c in m.named_children() if c is norm]
            held = (producer.weight.clone(), producer.bias)
            undo = partial(_unfold, producer, norm, held, places)
            parts.append(Part(name, partial(_fold, producer, norm, places), undo=undo))
        change_each(model, parts)


_Places = list[tuple[nn.Module, str]]
"""Modules, and under which name they hold a norm."""


def _fold(
    producer: nn.Linear | nn.Conv2d, norm: nn.modules.batchnorm._BatchNorm, places: _Places
) -> None:
    weight, bias = folded(producer, norm)
    producer.weight.copy_(weight)
    # What is frozen stays it.
    producer.bias = nn.Parameter(
        bias, (producer.bias if producer.bias is not None else producer.weight).requires_grad
    )
    for parent, key in places:
        setattr(parent, key, nn.Identity())


def _unfold(
    producer: nn.Linear | nn.Conv2d,
    norm: nn.Module,
    held: tuple[Tensor, Any],
    places: _Places,
) -> None:
    producer.weight.copy_(held[0])
    producer.bias = held[1]
    for parent, key in places:
        setattr(parent, key, norm)


def folded(
    producer: nn.Linear | nn.Conv2d, norm: nn.modules.batchnorm._BatchNorm
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer and the batch norm behind it as one layer."""
    assert norm.running_var is not None and norm.running_mean is not None  # noqa: PT018
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    bias = -norm.running_mean if producer.bias is None else producer.bias - norm.running_mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias
    weight = producer.weight * scale.view(-1, *[1] * (producer.weight.ndim - 1))
    return weight.detach(), bias.detach()


_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d)
_OTHERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Norms that take the scale of a whole sample or token out."""
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm


def _fed_norms(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d, Norm]]:
    """Layers whose output goes into one norm and nowhere else, by their names; of others it is noted why
    they are none (`noting`)."""
    graph, modules, uses = traced(model)
    fixed, direct = shared_parameters(model), read_directly(model, graph)
    for node in graph.nodes:
        producer = _called(node, modules)
        if not isinstance(producer, nn.Linear | nn.Conv2d):
            continue
        norm = _called(next(iter(node.users)), modules) if len(node.users) == 1 else None
        reason = _unfit(producer, norm, node)
        if reason is None:
            assert norm is not None
            owned = {id(p) for m in (producer, norm) for p in m.parameters(recurse=False)}
            if uses[id(producer)] != 1 or uses[id(norm)] != 1:
                reason = "it or its norm runs several times"
            elif owned & (fixed | direct):
                reason = "its weight or its norm's is used elsewhere, too"
        if reason is None:
            yield str(node.target), producer, norm  # type: ignore[misc]
        else:
            note_left(str(node.target), reason)
    note_uncalled(modules, graph)


def _unfit(producer: nn.Linear | nn.Conv2d, norm: nn.Module | None, node: fx.Node) -> str | None:
    if not isinstance(norm, (*_BATCH, *_OTHERS)):
        return "it feeds no norm, or not a norm alone"
    if computed(producer) or computed(norm):
        return "its weight or its norm's is computed from others"
    if isinstance(norm, _BATCH):
        if norm.running_var is None:
            return "its batch norm keeps no statistics"
        shape = node.meta.get("shape")  # unknown to torch.fx
        axis = 1 if shape is None else len(shape) - (1 if isinstance(producer, nn.Linear) else 3)
        if axis != 1 or norm.num_features != producer.weight.shape[0]:
            return "its batch norm is along another axis"
    elif norm.eps is None:
        return "its norm takes the ε of the precision"
    return None


def _called(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None
