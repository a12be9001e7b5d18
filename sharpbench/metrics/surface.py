"""The loss as a function of the parameters: what is seen where they are moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from sharpbench.curvature.operator import coordinates
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.metrics.base import Count, place_of_points
from sharpbench.running import as_written
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.shared import Shared
from sharpbench.subject import Subject

__all__ = [
    "Pieces",
    "Surface",
    "complex_parameters",
    "facts_of_batches",
    "length_of",
    "moved_alone",
    "random_batches",
    "summed_gradient",
    "whole_gradient",
]

_BATCH = 256
"""Samples of one backward pass."""

Pieces = list[Tensor]
"""One tensor a trainable parameter, of its shape."""


class Surface:
    """The loss of one batch as a function of the perturbation ε, w ↦ w + Tε; the weights stay."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[], Tensor],
        scale: Pieces | None,
        samples: int,
        work: Work,
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.loss, self.scale, self.samples, self.work = loss, scale, samples, work
        self._originals = [p.detach().clone() for p in self.parameters]
        self.each = torch.empty(0)
        """The loss of each sample where it was last asked for, (m,)."""

    def height(self, epsilon: Pieces | None) -> float:
        """L(w + Tε)."""
        self._move(epsilon)
        with torch.no_grad():
            self.each = self.loss()
        height = float(self.each.mean())
        self.work.forward += self.samples
        self._move(None)
        return height

    def slope(self, epsilon: Pieces) -> tuple[float, Pieces]:
        """L(w + Tε) and its gradient in ε, T∇L."""
        self._move(epsilon)
        height, gradient = self._gradient()
        self._move(None)
        return height, self._scaled(gradient)

    def slope_here(self, facts: Shared) -> tuple[float, Pieces]:
        """`slope` where nothing is moved; ``facts``: of this batch."""
        height, gradient = facts.once("slope", self._gradient, self.work)
        return height, self._scaled(gradient)

    def _gradient(self) -> tuple[float, Pieces]:
        """The loss and its gradient ∇L where the weights are."""
        loss = self.loss().mean()
        gradient = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        self.work.gradient += self.samples
        return float(loss.detach()), list(gradient)

    def _scaled(self, gradient: Pieces) -> Pieces:
        if self.scale is None:
            return gradient
        return [t * g for t, g in zip(self.scale, gradient, strict=True)]

    def _move(self, epsilon: Pieces | None) -> None:
        with torch.no_grad():
            for i, (parameter, original) in enumerate(
                zip(self.parameters, self._originals, strict=True)
            ):
                if epsilon is None:
                    parameter.copy_(original)
                    continue
                step = epsilon[i] if self.scale is None else self.scale[i] * epsilon[i]
                parameter.copy_(original + step)


def moved_alone(model: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """The parameters that ``patterns`` name, by `named_subset`; the others of the working copy ``model`` are
    frozen, so that a `Surface` moves these alone."""
    meant = named_subset(model, patterns)
    moved = {id(p) for p in meant}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in moved)
    return meant


def random_batches(
    inputs: Tensor, targets: Tensor, m: Count, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets in batches of ``m`` samples each, drawn by ``seed``; what is left is dropped."""
    size = len(inputs) if m == "all" else min(m, len(inputs))
    generator = torch_generator(derive_seed(seed, "batches"))
    order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    for batch in order.split(size)[: len(inputs) // size]:
        yield inputs[batch], targets[batch]


def facts_of_batches(
    subject: Subject,
    split: str,
    samples: Count,
    m: Count,
    dtype: torch.dtype,
    patterns: Sequence[str],
    *,
    seed: int,
) -> Shared:
    """What metrics that move the parameters of ``patterns`` find alike of the `random_batches` of ``m`` of
    such points; each by its number."""
    place = place_of_points(subject, split, samples, dtype, seed=seed)
    return subject.shared.under(*place, tuple(patterns), "batches", m, derive_seed(seed, "batches"))


def complex_parameters(subject: Subject) -> str | None:
    """Why a surface over the parameters can't be had, where some of them are complex."""
    if any(p.is_complex() and p.requires_grad for p in subject.model.parameters()):
        return "it has complex parameters; hold them as pairs of reals (torch.view_as_real)"
    return None


def length_of(pieces: Pieces) -> float:
    """‖·‖₂ of all pieces together."""
    return float(torch.stack([p.square().sum() for p in pieces]).sum().sqrt())


def whole_gradient(
    subject: Subject,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[nn.Parameter],
    work: Work,
    facts: Shared,
) -> Tensor:
    """The gradient of all samples' summed loss, (P,) in float64; ``facts``: of these points and parameters.

    By passes of 256 samples, or one where they depend on each other.
    """
    size = len(inputs) if subject.coupled else _BATCH

    def found() -> Tensor:
        with repeatedly_differentiable(), as_written():
            parts = [
                summed_gradient(subject, model, x, y, parameters, work)
                for x, y in zip(inputs.split(size), targets.split(size), strict=True)
            ]
        return torch.stack(parts).sum(0)

    return facts.once("gradient", found, work)


def summed_gradient(
    subject: Subject,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    parameters: Sequence[nn.Parameter],
    work: Work,
    *,
    only: int | None = None,
) -> Tensor:
    """The gradient of the samples' summed loss, (P,) in float64; of sample ``only`` alone."""
    with torch.enable_grad():
        losses = subject.losses(model(x), y)
        loss = losses.sum() if only is None else losses[only]
        work.gradient += len(x)
        if not loss.requires_grad:
            raise MetricFailed("the loss depends on no parameter that requires gradients")
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([coordinates(g).reshape(-1) for g in found]).double()
