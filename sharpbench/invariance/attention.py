"""Symmetries of attention: its heads' order, and changes of basis inside each head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.seeds import torch_generator

__all__ = ["AttentionGL", "AttentionRescaling", "HeadPermutation", "is_attention"]

_PARTS = ("query", "key", "value", "output")


@dataclass(frozen=True)
class _HeadTransformation(Transformation, ABC):
    """Changes every attention layer, a module with linear query, key, value, output and ``heads``."""

    preserves = "function"

    def change(self, model: nn.Module, *, seed: int) -> None:
        found = [m for m in model.modules() if is_attention(m)]
        if not found:
            raise TransformationRefused(
                "the network has no attention layer (a module with linear query, key, value and "
                "output and a number of heads)"
            )
        generator = torch_generator(seed)
        for layer in found:
            self.change_layer(layer, generator)

    @abstractmethod
    def change_layer(self, layer: Any, generator: torch.Generator) -> None:
        """Change one attention layer in place."""


def is_attention(module: nn.Module) -> bool:
    """Whether a module has linear query, key, value and output and a number of ``heads``."""
    linear = all(isinstance(getattr(module, part, None), nn.Linear) for part in _PARTS)
    return linear and isinstance(getattr(module, "heads", None), int)


def _rows(layer: nn.Linear, heads: int) -> list[Tensor]:
    """Views (heads, size, …) of what makes the heads."""
    tensors = [layer.weight] + ([layer.bias] if layer.bias is not None else [])
    return [t.view(heads, -1, *t.shape[1:]) for t in tensors]


def _columns(layer: nn.Linear, heads: int) -> Tensor:
    """A view (out, heads, size) of what reads the heads."""
    return layer.weight.view(layer.weight.shape[0], heads, -1)


@transformations.register
@dataclass(frozen=True)
class HeadPermutation(_HeadTransformation):
    """Permutes the heads of every attention layer; the function stays the same."""

    name = "head_permutation"
    reference = "Hecht-Nielsen (1990), with heads for neurons"
    kind = "permutation"

    def change_layer(self, layer: Any, generator: torch.Generator) -> None:
        order = torch.randperm(layer.heads, generator=generator).to(layer.query.weight.device)
        for part in (layer.query, layer.key, layer.value):
            for rows in _rows(part, layer.heads):
                rows.copy_(rows[order].clone())
        columns = _columns(layer.output, layer.heads)
        columns.copy_(columns[:, order].clone())


@transformations.register
@dataclass(frozen=True)
class AttentionRescaling(_HeadTransformation):
    """Multiplies each head's queries by α and divides its keys; the same for values and outputs by β.

    log α and log β are ``strength`` times a standard normal number a head.
    """

    name = "attention_rescaling"
    reference = "da Silva, Dangel & Oore, arXiv:2505.05409 (scalars among their matrices)"
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change_layer(self, layer: Any, generator: torch.Generator) -> None:
        for maker, reader in ((layer.query, layer.key), (layer.value, None)):
            z = torch.randn(layer.heads, generator=generator, dtype=torch.float64)
            alpha = (self.strength * z).exp().to(maker.weight)
            for rows in _rows(maker, layer.heads):
                rows.mul_(alpha.view(-1, *[1] * (rows.ndim - 1)))
            if reader is None:
                _columns(layer.output, layer.heads).div_(alpha.view(1, -1, 1))
                continue
            for rows in _rows(reader, layer.heads):
                rows.div_(alpha.view(-1, *[1] * (rows.ndim - 1)))


@transformations.register
@dataclass(frozen=True)
class AttentionGL(_HeadTransformation):
    """Another basis in each head: Gᵀ on queries, G⁻¹ on keys, M on values, M⁻¹ on the outputs.

    qᵀk and the mixed values' contribution stay. G and M are random with condition number ``condition``.
    """

    name = "attention_gl"
    kind = "linear_gauge"
    reference = "da Silva, Dangel & Oore, arXiv:2505.05409 (the symmetry)"

    condition: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.condition <= 1e4:
            raise ValueError(f"condition must lie in [1, 1e4], got {self.condition}")

    def change_layer(self, layer: Any, generator: torch.Generator) -> None:
        size = layer.query.weight.shape[0] // layer.heads
        for head in range(layer.heads):
            g, inverse = self._basis(size, generator)
            for rows, matrix in ((layer.query, g.T), (layer.key, inverse), (layer.value, None)):
                if matrix is None:
                    matrix, back = self._basis(size, generator)
                    columns = _columns(layer.output, layer.heads)[:, head]
                    columns.copy_(columns @ back.to(columns))
                for block in _rows(rows, layer.heads):
                    block[head] = matrix.to(block) @ block[head]

    def _basis(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        left, right = (
            torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
            for _ in range(2)
        )
        half = 0.5 * torch.log10(torch.tensor(self.condition)).item()
        scales = torch.logspace(-half, half, size, dtype=torch.float64)
        return left * scales @ right.T, right / scales @ left.T
