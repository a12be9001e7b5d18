"""Symmetries of attention: its heads' order, and changes of basis inside each head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sharpbench import heads
from sharpbench.errors import TransformationRefused
from sharpbench.heads import Attention, Rows
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.keeping import Part, change_each
from sharpbench.invariance.orders import drawn_orders
from sharpbench.invariance.recording import note_left
from sharpbench.invariance.structure import shared_parameters
from sharpbench.seeds import torch_generator

__all__ = [
    "PARTS",
    "Attention",
    "AttentionGL",
    "AttentionRescaling",
    "HeadPermutation",
    "attentions",
    "is_attention",
]

PARTS = ("query", "key", "value", "output")


def attentions(model: nn.Module, left: Callable[[str, str], None] = note_left) -> list[Attention]:
    """`heads.attentions`, groups too, whose weights serve once; of layers that look like one and can't be
    changed ``left`` is told why."""
    every = heads.attentions(model, left, grouped=True)
    used = [id(weight) for layer in every for weight in layer.weights]
    shared = {one for one in used if used.count(one) > 1} | shared_parameters(model)
    found = []
    for layer in every:
        if any(id(weight) in shared for weight in layer.weights):
            left(layer.name, "its weights serve more than once")
        else:
            found.append(layer)
    return found


@dataclass(frozen=True)
class _HeadTransformation(Transformation, ABC):
    """Changes every attention layer (`attentions`)."""

    preserves = "function"
    rest = "no attention layer whose heads are found"

    def change(self, model: nn.Module, *, seed: int) -> None:
        reasons: dict[str, str] = {}

        def left(name: str, reason: str) -> None:
            reasons[name] = reason
            note_left(name, reason)

        found = attentions(model, left)
        if not found:
            each = [f"{name} ({reason})" for name, reason in reasons.items()]
            more = f" and {len(each) - 3} more" if len(each) > 3 else ""
            why = f" that can be changed: {', '.join(each[:3])}{more}" if each else ""
            raise TransformationRefused(
                "the network has no attention layer (a module with linear query, key, value and "
                f"output and a number of heads){why}"
            )
        change_each(model, self.changes(found, torch_generator(seed)))

    @abstractmethod
    def changes(self, layers: list[Attention], generator: torch.Generator) -> list[Part]:
        """What changes these layers in place."""


def _both(
    layer: Attention, of_scores: Callable[[], None], of_values: Callable[[], None]
) -> list[Part]:
    """What changes queries and keys, and what changes values and outputs: each may be free alone."""
    return [
        Part(
            layer.name,
            of_scores,
            (*layer.query, *layer.key),
            what="what makes its queries and keys",
        ),
        Part(
            layer.name,
            of_values,
            (*layer.value, layer.output),
            what="what makes its values and reads them",
        ),
    ]


def is_attention(module: nn.Module) -> bool:
    """Whether a module has linear query, key, value and output and a number of ``heads``."""
    linear = all(isinstance(getattr(module, part, None), nn.Linear) for part in PARTS)
    return linear and isinstance(getattr(module, "heads", None), int)


@transformations.register
@dataclass(frozen=True)
class HeadPermutation(_HeadTransformation):
    """Permutes the heads of every attention layer; the function stays the same."""

    name = "head_permutation"
    version = 2  # the first could draw the heads as they are
    reference = "Hecht-Nielsen (1990), with heads for neurons"
    kind = "permutation"

    def changes(self, layers: list[Attention], generator: torch.Generator) -> list[Part]:
        orders = drawn_orders([(a.name, a.heads) for a in layers], generator, "heads")
        return [
            Part(
                layer.name,
                partial(_reorder, layer, order.to(layer.output.device)),
                (*layer.query, *layer.key, *layer.value, layer.output),
            )
            for layer, order in zip(layers, orders, strict=True)
            if order is not None
        ]


def _reorder(layer: Attention, order: Tensor) -> None:
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

    def changes(self, layers: list[Attention], generator: torch.Generator) -> list[Part]:
        parts = []
        for layer in layers:
            scales = []
            for _ in range(2):
                z = torch.randn(layer.heads, generator=generator, dtype=torch.float64)
                scales.append((self.strength * z).exp().to(layer.output))
            of_scores = partial(_rescale, layer.query, layer.key, scales[0])
            of_values = partial(_rescale, layer.value, [layer.output.transpose(0, 1)], scales[1])
            parts += _both(layer, of_scores, of_values)
        return parts


def _rescale(makers: Rows, readers: Rows, alpha: Tensor) -> None:
    for rows in makers:
        rows.mul_(alpha.view(-1, *[1] * (rows.ndim - 1)))
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

    def changes(self, layers: list[Attention], generator: torch.Generator) -> list[Part]:
        parts = []
        for layer in layers:
            size = layer.query[0].shape[1]
            bases = [
                (self._basis(size, generator), self._basis(size, generator))
                for _ in range(layer.heads)
            ]
            of_scores = partial(_turn_scores, layer, [scores for scores, _ in bases])
            of_values = partial(_turn_values, layer, [values for _, values in bases])
            parts += _both(layer, of_scores, of_values)
        return parts

    def _basis(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        left, right = (
            torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
            for _ in range(2)
        )
        half = 0.5 * torch.log10(torch.tensor(self.condition)).item()
        scales = torch.logspace(-half, half, size, dtype=torch.float64)
        return left * scales @ right.T, right / scales @ left.T


_Bases = list[tuple[Tensor, Tensor]]
"""A matrix and its inverse for each head."""


def _turn_scores(layer: Attention, bases: _Bases) -> None:
    for head, (g, inverse) in enumerate(bases):
        for rows, matrix in ((layer.query, g.T), (layer.key, inverse)):
            for block in rows:
                block[head] = matrix.to(block) @ block[head]


def _turn_values(layer: Attention, bases: _Bases) -> None:
    for head, (matrix, back) in enumerate(bases):
        columns = layer.output[:, head]
        columns.copy_(columns @ back.to(columns))
        for block in layer.value:
            block[head] = matrix.to(block) @ block[head]
