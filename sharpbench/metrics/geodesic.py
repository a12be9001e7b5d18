"""Sharpness along geodesics of the weights' quotient by the symmetries of attention."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sharpbench.change import Change
from sharpbench.copies import private_copy
from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.heads import Attention, attentions
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    torch_dtype,
)
from sharpbench.metrics.sam import errors_of_batches
from sharpbench.metrics.surface import (
    Pieces,
    Surface,
    complex_parameters,
    moved_alone,
    random_batches,
)
from sharpbench.registry import added_later
from sharpbench.running import as_written
from sharpbench.subject import Subject

__all__ = [
    "GEOMETRIES",
    "GeodesicSharpness",
    "inverse_acceleration",
    "inverse_gradient",
    "mixed_acceleration",
    "mixed_gradient",
]

_CONDITION = 1e12
"""Of a Gram matrix: beyond it a head has directions that it does not use."""


@metrics.register
@dataclass(frozen=True)
class GeodesicSharpness(Metric):
    """Geodesic sharpness: the rise of the loss one geodesic step of length ρ up the Riemannian gradient.

    Of each attention head, queries and keys enter by the product GHᵀ alone, values and outputs too, where G
    (n, h) and H (m, h) are the maps' weights beside their biases: (GA⁻ᵀ, HA) is the same network for every
    invertible A. Lengths are measured such that they are the same for all of these, in one of two metrics

        mix: ‖(ξ, η)‖² = tr(HᵀH ξᵀξ) + tr(GᵀG ηᵀη) ,
        inv: ‖(ξ, η)‖² = tr((GᵀG)⁻¹ ξᵀξ) + tr((HᵀH)⁻¹ ηᵀη) ,

    and for every other weight relative to its size, (ξ/w)², as in adaptive SAM. The gradient of the loss ∇ is
    ∇_G (HᵀH)⁻¹ and ∇_H (GᵀG)⁻¹ in the one, ∇_G GᵀG and ∇_H HᵀH in the other (and w²∇): it leads to other
    networks alone, never along the symmetry. The figure is L(γ(1)) − L(w) with the geodesic γ from w in its
    direction, of length ρ, to second order: w + ξ − ½Γ(ξ, ξ). Without ``second_order`` it is w + ξ. A
    network without attention gives elementwise adaptive SAM (`sam_sharpness`) exactly. One step: a lower
    bound of the maximum over the ball that the source searches by Auto-PGD.

    Heads are found in torch's, Hugging Face's and most other ways to write attention. What stands between a
    head's maps and their product (rotary positions, normalised queries) breaks the symmetry, and with it
    what this metric promises.

    Taken on batches of ``m`` samples and averaged, with the errors of `sam_sharpness` in the worst case.
    Parameters: ``rho`` the length; ``geometry`` the metric; ``samples`` of ``split`` drawn without
    replacement; ``parameters_of``: names or shell patterns of the parameters that are moved, all if empty. A
    pair (G, H) is moved or stays as one: naming a part of it is refused, as one that is partly frozen.
    """

    name = "geodesic_sharpness"
    title = "geodesic sharpness"
    unit = "[loss]"
    space = "parameter"
    reference = "da Silva, Dangel & Oore, arXiv:2505.05409 (formulas rederived)"
    invariant_under = frozenset({"permutation", "head_gauge"})

    rho: float = 0.05
    second_order: bool = True
    geometry: Literal["mix", "inv"] = "mix"
    m: Count = 128
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    dtype: Dtype = "float64"
    parameters_of: tuple[str, ...] = added_later(())

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"rho must be positive, got {self.rho}")
        check_count("m", self.m)
        check_count("samples", self.samples)

    def stays_under(self, change: Change) -> bool:
        # Signs along the axes keep every length in a head's metric as well.
        return super().stays_under(change) or change.properties >= {"isometry", "diagonal"}

    def unsupported(self, subject: Subject) -> str | None:
        return complex_parameters(subject)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype, work = torch_dtype(self.dtype), Work()
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        model = subject.working_model(dtype)
        moved_alone(model, self.parameters_of)
        geometry = _Geometry(model, dtype, GEOMETRIES[self.geometry])
        rises, taken = [], 0
        for x, y in random_batches(inputs, targets, self.m, seed=seed):
            taken += len(x)
            surface = Surface(model, lambda: subject.losses(model(x), y), None, len(x), work)  # noqa: B023
            with repeatedly_differentiable(), as_written():
                base, gradient = surface.slope([torch.zeros_like(p) for p in surface.parameters])
                rises.append(surface.height(self._step(geometry, gradient)) - base)
        left_out = max(0.0, 1 - taken / len(subject.data(self.split)[0]))
        return Measurement(
            value=statistics.fmean(rises),
            errors=errors_of_batches(rises, left_out),
            samples=taken,
            work=work,
            details={"batches": len(rises), "attention_pairs": geometry.count},
        )

    def _step(self, geometry: _Geometry, gradient: Pieces) -> Pieces:
        direction, square = geometry.steepest(gradient)
        if not 0 < square < math.inf:
            raise MetricFailed(
                f"the gradient's squared length on a batch is {square}: the direction is not defined"
            )
        scale = self.rho / math.sqrt(square)
        step = [scale * d for d in direction]
        if not self.second_order:
            return step
        bend = geometry.acceleration(step)
        return [s + 0.5 * b for s, b in zip(step, bend, strict=True)]


def mixed_gradient(g: Tensor, h: Tensor, slope_g: Tensor, slope_h: Tensor) -> tuple[Tensor, Tensor]:
    """The Riemannian gradient in the metric ``mix`` at (G, H), from the Euclidean one; (…, n, h)."""
    return _right_solve(slope_g, h), _right_solve(slope_h, g)


def mixed_acceleration(g: Tensor, h: Tensor, xi: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """−Γ in the metric ``mix`` at (G, H): the second derivative of the geodesic with the velocity (ξ, η).

    From the Lagrangian ½ tr(HᵀH ĠᵀĠ) + ½ tr(GᵀG ḢᵀḢ): G̈ HᵀH = G ḢᵀḢ − Ġ (ḢᵀH + HᵀḢ), and the same
    with G and H exchanged.
    """

    def of(a: Tensor, b: Tensor, va: Tensor, vb: Tensor) -> Tensor:
        turned = vb.mT @ b
        return _right_solve(a @ (vb.mT @ vb) - va @ (turned + turned.mT), b)

    return of(g, h, xi, eta), of(h, g, eta, xi)


def inverse_gradient(
    g: Tensor, h: Tensor, slope_g: Tensor, slope_h: Tensor
) -> tuple[Tensor, Tensor]:
    """`mixed_gradient` in the metric ``inv``."""
    return slope_g @ (g.mT @ g), slope_h @ (h.mT @ h)


def inverse_acceleration(g: Tensor, h: Tensor, xi: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """`mixed_acceleration` in the metric ``inv``, where G and H go their ways alone.

    From the Lagrangian ½ tr(K⁻¹ĠᵀĠ), K = GᵀG: G̈ = Ġ K⁻¹ (ĠᵀG + GᵀĠ) − G K⁻¹ ĠᵀĠ.
    """

    def of(a: Tensor, va: Tensor) -> Tensor:
        turned = va.mT @ a
        return _right_solve(va, a) @ (turned + turned.mT) - _right_solve(a, a) @ (va.mT @ va)

    return of(g, xi), of(h, eta)


def _right_solve(left: Tensor, b: Tensor) -> Tensor:
    """left (BᵀB)⁻¹."""
    gram = b.mT @ b
    found: Tensor = torch.linalg.solve(gram, left.mT).mT
    return found


OfPairs = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

GEOMETRIES: dict[str, tuple[OfPairs, OfPairs]] = {
    "mix": (mixed_gradient, mixed_acceleration),
    "inv": (inverse_gradient, inverse_acceleration),
}
"""Of each metric of pairs the Riemannian gradient and the geodesics' acceleration."""


class _Geometry:
    """The weights of a network as pairs (G, H) of each attention layer, and the rest."""

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, of_pairs: tuple[OfPairs, OfPairs]
    ) -> None:
        self._gradient, self._acceleration = of_pairs
        self._holder = private_copy(model, dtype)
        self._weights = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        self._moved = self._moved_pairs()
        self.count = sum(
            len(g[0])
            for (g, _), moved in zip(
                _pairs(attentions(model, grouped=True)), self._moved, strict=True
            )
            if moved
        )
        """Two a head, of those that are moved."""
        self._others = (
            self._outside() if self.count else [torch.ones_like(w) for w in self._weights]
        )
        self._blocks = self._at(self._weights)
        for g, h in self._blocks:
            for block in (g, h):
                condition = float(torch.linalg.cond(block.mT @ block).max())
                if not condition < _CONDITION:
                    raise MetricFailed(
                        "a head's weights are not of full rank, so that its metric has no inverse "
                        f"(condition {condition:.1e})"
                    )

    def _outside(self) -> Pieces:
        """1 for each weight that is in no pair, else 0. Raises MetricFailed for pairs without geometry."""
        counts = self._holding([torch.zeros_like(w) for w in self._weights])
        with torch.no_grad():
            for pair in self._pairs_of(counts):
                for tensor in (*pair[0], *pair[1]):
                    tensor += 1
        each = [p.detach() for p in counts.parameters() if p.requires_grad]
        if any(bool((c > 1).any()) for c in each):
            raise MetricFailed("attention layers share weights, which have no geometry by heads")
        return [(c == 0).to(c) for c in each]

    def _moved_pairs(self) -> list[bool]:
        """Whether each pair is moved. Raises MetricFailed for one of which a part is."""
        marked = self._holding([torch.ones_like(w) for w in self._weights])
        moved = []
        for pair in _pairs(attentions(marked, grouped=True)):
            marks = torch.cat([t.detach().reshape(-1) for side in pair for t in side]) != 0
            if bool(marks.any()) and not bool(marks.all()):
                raise MetricFailed(
                    "some weights of an attention layer are frozen, which no symmetry keeps, or not named "
                    "in parameters_of: queries with keys, and values with outputs, belong together, with "
                    "their biases"
                )
            moved.append(bool(marks.all()))
        return moved

    def _pairs_of(self, holder: nn.Module) -> list[_Pair]:
        """Those that are moved."""
        pairs = _pairs(attentions(holder, grouped=True))
        return [pair for pair, moved in zip(pairs, self._moved, strict=True) if moved]

    def steepest(self, gradient: Pieces) -> tuple[Pieces, float]:
        """The Riemannian gradient and its squared length."""
        slopes = self._at(gradient)
        found = [
            self._gradient(g, h, a, b) for (g, h), (a, b) in zip(self._blocks, slopes, strict=True)
        ]
        rest = [
            o * w.square() * e
            for o, w, e in zip(self._others, self._weights, gradient, strict=True)
        ]
        direction = self._put(found, rest)
        square = sum(
            float((d.double() * e.double()).sum()) for d, e in zip(direction, gradient, strict=True)
        )
        return direction, square

    def acceleration(self, step: Pieces) -> Pieces:
        """That of the geodesic with this velocity; zero but for the pairs."""
        found = [
            self._acceleration(g, h, xi, eta)
            for (g, h), (xi, eta) in zip(self._blocks, self._at(step), strict=True)
        ]
        return self._put(found, [torch.zeros_like(s) for s in step])

    def _holding(self, pieces: Pieces) -> nn.Module:
        """The network with these in place of its weights: a holder whose heads are found alike."""
        with torch.no_grad():
            rest = iter(pieces)
            for parameter in self._holder.parameters():
                if parameter.requires_grad:
                    parameter.copy_(next(rest))
                else:
                    parameter.zero_()
        return self._holder

    def _at(self, pieces: Pieces) -> list[tuple[Tensor, Tensor]]:
        """The pairs (heads, n, h) and (heads, m, h) among these."""
        if not self.count:
            return []
        with torch.no_grad():
            return [(_joined(g), _joined(h)) for g, h in self._pairs_of(self._holding(pieces))]

    def _put(self, found: Sequence[tuple[Tensor, Tensor]], rest: Pieces) -> Pieces:
        if not self.count:
            return rest
        holder = self._holding(rest)
        with torch.no_grad():
            for places, values in zip(self._pairs_of(holder), found, strict=True):
                for tensors, value in zip(places, values, strict=True):
                    for tensor, part in zip(
                        tensors, value.split([_width(t) for t in tensors], 1), strict=True
                    ):
                        tensor.copy_(part.mT.reshape(tensor.shape))
        return [p.detach().clone() for p in holder.parameters() if p.requires_grad]


_Pair = tuple[list[Tensor], list[Tensor]]


def _pairs(layers: Sequence[Attention]) -> list[_Pair]:
    """Queries with keys and values with outputs, each as views (heads, h, …); of heads that share keys and
    values all queries, and all outputs, of a group."""
    found: list[_Pair] = []
    for layer in layers:
        found.append((list(layer.query), list(layer.key)))
        outputs = [layer.output] if layer.output.ndim == 3 else layer.output.unbind(2)
        found.append((list(layer.value), [columns.permute(1, 2, 0) for columns in outputs]))
    return found


def _width(tensor: Tensor) -> int:
    return tensor.shape[2] if tensor.ndim == 3 else 1


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Views (heads, h, in) and (heads, h) side by side, as (heads, in + 1, h)."""
    return torch.cat([t if t.ndim == 3 else t.unsqueeze(2) for t in tensors], 2).mT
