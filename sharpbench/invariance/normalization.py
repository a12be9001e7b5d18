"""Symmetries of normalisation: the scale of what feeds a norm, and the norm folded away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.structure import traced
from sharpbench.seeds import torch_generator

__all__ = ["NormalizationFolding", "NormalizationRescaling"]


@transformations.register
@dataclass(frozen=True)
class NormalizationRescaling(Transformation):
    """Scales the weights that feed a norm by c > 0; the norm takes the scale out again.

    Batch norm, by its running statistics: c a channel, μ → cμ and σ² → c²(σ² + ε) − ε, so that ε is
    handled exactly. Layer norm: c for the layer, ε → c²ε. log c is ``strength`` times a standard normal
    number, raised where σ² would fall below 0.
    """

    name = "normalization_rescaling"
    reference = "van Laarhoven, arXiv:1706.05350"
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})
    preserves = "function"

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        pairs = list(_fed_norms(model))
        if not pairs:
            raise TransformationRefused("no linear or convolutional layer feeds a norm alone")
        for producer, norm in pairs:
            size = producer.weight.shape[0]
            z = torch.randn(size, generator=generator, dtype=torch.float64)
            scale = (self.strength * z).exp().to(producer.weight)
            if isinstance(norm, nn.LayerNorm):
                scale = scale[:1].expand(size)
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

    def change(self, model: nn.Module, *, seed: int) -> None:
        pairs = [(p, n) for p, n in _fed_norms(model) if not isinstance(n, nn.LayerNorm)]
        if not pairs:
            raise TransformationRefused("no linear or convolutional layer feeds a batch norm alone")
        for producer, norm in pairs:
            weight, bias = folded(producer, norm)
            producer.weight.copy_(weight)
            producer.bias = nn.Parameter(bias)
            for parent in model.modules():
                for key, child in parent.named_children():
                    if child is norm:
                        setattr(parent, key, nn.Identity())


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


Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm


def _fed_norms(model: nn.Module) -> Iterator[tuple[nn.Linear | nn.Conv2d, Norm]]:
    """Layers whose output goes into one norm and nowhere else."""
    graph, modules, uses = traced(model)
    for node in graph.nodes:
        producer = _called(node, modules)
        if not isinstance(producer, nn.Linear | nn.Conv2d) or len(node.users) != 1:
            continue
        norm = _called(next(iter(node.users)), modules)
        if not isinstance(norm, Norm) or uses[id(producer)] != 1 or uses[id(norm)] != 1:
            continue
        if isinstance(norm, nn.LayerNorm):
            if norm.normalized_shape == (producer.weight.shape[0],):
                yield producer, norm
        elif norm.running_var is not None:
            yield producer, norm


def _called(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None
