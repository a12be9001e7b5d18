"""Symmetries of attention: its heads' order, and changes of basis inside each head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench import heads
from sharpbench.errors import TransformationRefused
from sharpbench.heads import Attention
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.recording import note_left
from sharpbench.seeds import torch_generator

__all__ = [
    "Attention",
    "AttentionGL",
    "AttentionRescaling",
    "HeadPermutation",
    "attentions",
    "is_attention",
]

_PARTS = ("query", "key", "value", "output")


def attentions(model: nn.Module) -> list[Attention]:
    """`heads.attentions`; of layers that look like one and can't be changed it is noted why (`noting`)."""
    return heads.attentions(model, note_left)


@dataclass(frozen=True)
class _HeadTransformation(Transformation, ABC):
    """Changes every attention layer (`attentions`)."""

    preserves = "function"

    def change(self, model: nn.Module, *, seed: int) -> None:
        found = attentions(model)
        if not found:
            raise TransformationRefused(
                "the network has no attention layer (a module with linear query, key, value and "
                "output and a number of heads)"
            )
        generator = torch_generator(seed)
        for layer in found:
            self.change_layer(layer, generator)

    @abstractmethod
    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        """Change one attention layer in place."""


def is_attention(module: nn.Module) -> bool:
    """Whether a module has linear query, key, value and output and a number of ``heads``."""
    linear = all(isinstance(getattr(module, part, None), nn.Linear) for part in _PARTS)
    return linear and isinstance(getattr(module, "heads", None), int)


@transformations.register
@dataclass(frozen=True)
class HeadPermutation(_HeadTransformation):
    """Permutes the heads of every attention layer; the function stays the same."""

    name = "head_permutation"
    reference = "Hecht-Nielsen (1990), with heads for neurons"
    kind = "permutation"

    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        order = torch.randperm(layer.heads, generator=generator).to(layer.output.device)
        for rows in (*layer.query, *layer.key, *layer.value):
            rows.copy_(rows[order].clone())
        layer.output.copy_(layer.output[:, order].clone())


@transformations.register
@dataclass(frozen=True)
class AttentionRescaling(_HeadTransformation):
    """Multiplies each head's queries by α and divides its keys; the same for values and outputs by β.

    log α and log β are ``strength`` times a standard normal number a head.
    """

    name = "attention_rescaling"
    reference = "da Silva, Dangel & Oore, arXiv:2505.05409 (scalars among their matrices)"
    kind = "linear_gauge"
    traits = frozenset({"diagonal", "head_gauge"})

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        for makers, readers in ((layer.query, layer.key), (layer.value, None)):
            z = torch.randn(layer.heads, generator=generator, dtype=torch.float64)
            alpha = (self.strength * z).exp().to(layer.output)
            for rows in makers:
                rows.mul_(alpha.view(-1, *[1] * (rows.ndim - 1)))
            if readers is None:
                layer.output.div_(alpha.view(1, -1, 1))
                continue
            for rows in readers:
                rows.div_(alpha.view(-1, *[1] * (rows.ndim - 1)))


@transformations.register
@dataclass(frozen=True)
class AttentionGL(_HeadTransformation):
    """Another basis in each head: Gᵀ on queries, G⁻¹ on keys, M on values, M⁻¹ on the outputs.

    qᵀk and the mixed values' contribution stay. G and M are random with condition number ``condition``.
    """

    name = "attention_gl"
    kind = "linear_gauge"
    traits = frozenset({"head_gauge"})
    reference = "da Silva, Dangel & Oore, arXiv:2505.05409 (the symmetry)"

    condition: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.condition <= 1e4:
            raise ValueError(f"condition must lie in [1, 1e4], got {self.condition}")

    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        size = layer.query[0].shape[1]
        for head in range(layer.heads):
            g, inverse = self._basis(size, generator)
            for rows, matrix in ((layer.query, g.T), (layer.key, inverse), (layer.value, None)):
                if matrix is None:
                    matrix, back = self._basis(size, generator)
                    columns = layer.output[:, head]
                    columns.copy_(columns @ back.to(columns))
                for block in rows:
                    block[head] = matrix.to(block) @ block[head]

    def _basis(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        left, right = (
            torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
            for _ in range(2)
        )
        half = 0.5 * torch.log10(torch.tensor(self.condition)).item()
        scales = torch.logspace(-half, half, size, dtype=torch.float64)
        return left * scales @ right.T, right / scales @ left.T
