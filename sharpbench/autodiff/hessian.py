"""The Hessian of the mean loss as a linear operator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sharpbench.autodiff.context import repeatedly_differentiable
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Work
from sharpbench.subject import Loss

__all__ = ["HessianOperator"]

_PROBE = 4
"""Samples used to find out how much memory the gradient graph of one sample takes."""


class HessianOperator:
    """H = ∇²_w (1/N) Σᵢ ℓ(f_w(xᵢ), yᵢ), symmetric, of shape (P, P); P counts the trainable parameters.

    The data is cut into chunks whose gradient graph fits ``memory_budget`` bytes, each weighted by
    its number of samples, so that the sum is the full-data mean exactly. With a single chunk the
    graph is built once and kept; otherwise it is rebuilt at each product.

    Parameters
    ----------
    model: in evaluation mode; it is not changed, its ``.grad`` fields neither.
    loss: per-sample loss (N,).
    inputs, targets: N samples on the model's device.
    work: the passes made are added to it.

    Raises
    ------
    MetricFailed: no parameter requires gradients, the loss is not finite, or it differs between two
        evaluations (dropout left on).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        work: Work,
        memory_budget: int = 1 << 30,
    ) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise MetricFailed("the model has no parameter that requires gradients")
        self.model, self.loss, self.work = model, loss, work
        self.inputs, self.targets = inputs, targets
        self.samples = len(inputs)
        self.dimension = sum(p.numel() for p in self.parameters)
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        self._check_deterministic()
        self.chunk = self._chunk_size(memory_budget)
        self._kept: tuple[Tensor, ...] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.dimension, self.dimension

    def matvec(self, vector: Tensor) -> Tensor:
        """H·v for v (P,), in the operator's dtype."""
        pieces = self._split(vector.to(self.device, self.dtype))
        if self.chunk >= self.samples:
            if self._kept is None:
                self._kept = self._gradient(self.inputs, self.targets)
            return self._product(self._kept, pieces, self.samples, keep=True)
        total = torch.zeros(self.dimension, device=self.device, dtype=self.dtype)
        for x, y in self._chunks():
            total += self._product(self._gradient(x, y), pieces, len(x), keep=False)
        return total

    def gradient(self) -> Tensor:
        """∇_w of the mean loss, (P,)."""
        total = torch.zeros(self.dimension, device=self.device, dtype=self.dtype)
        for x, y in self._chunks():
            total += torch.cat([g.detach().reshape(-1) for g in self._gradient(x, y)])
        return total

    def dense(self) -> Tensor:
        """The whole matrix, column by column; for tests and tiny networks."""
        identity = torch.eye(self.dimension, device=self.device, dtype=self.dtype)
        return torch.stack([self.matvec(column) for column in identity], dim=1)

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.inputs.split(self.chunk), self.targets.split(self.chunk), strict=True)

    def _split(self, vector: Tensor) -> list[Tensor]:
        pieces = vector.split([p.numel() for p in self.parameters])
        return [v.view_as(p) for v, p in zip(pieces, self.parameters, strict=True)]

    def _gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Gradient of this chunk's share of the mean loss, with its graph."""
        with repeatedly_differentiable(), torch.enable_grad():
            share = self.loss(self.model(x), y).sum() / self.samples
            self.work.forward += len(x)
            gradient = torch.autograd.grad(
                share, self.parameters, create_graph=True, materialize_grads=True
            )
        self.work.gradient += len(x)
        return gradient

    def _product(
        self, gradient: tuple[Tensor, ...], pieces: list[Tensor], samples: int, *, keep: bool
    ) -> Tensor:
        active = [(g, v) for g, v in zip(gradient, pieces, strict=True) if g.requires_grad]
        if not active:  # the loss is linear in every parameter
            return torch.zeros(self.dimension, device=self.device, dtype=self.dtype)
        with repeatedly_differentiable():
            product = torch.autograd.grad(
                [g for g, _ in active],
                self.parameters,
                grad_outputs=[v for _, v in active],
                retain_graph=keep,
                materialize_grads=True,
            )
        self.work.hessian_vector += samples
        return torch.cat([p.reshape(-1) for p in product])

    def _check_deterministic(self) -> None:
        x, y = self.inputs[:_PROBE], self.targets[:_PROBE]
        with torch.no_grad():
            first, second = (self.loss(self.model(x), y) for _ in range(2))
        self.work.forward += 2 * len(x)
        if not torch.isfinite(first).all():
            raise MetricFailed("the loss is not finite")
        if not torch.equal(first, second):
            raise MetricFailed(
                "two evaluations of the loss differ: is dropout or another random layer left on?"
            )

    def _chunk_size(self, memory_budget: int) -> int:
        """As many samples as fit the budget, from the tensors that a small gradient graph saves."""
        weights = {p.untyped_storage().data_ptr() for p in self.parameters}
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        probe = min(_PROBE, self.samples)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self._gradient(self.inputs[:probe], self.targets[:probe])
        per_sample = max(sum(saved.values()) // probe, 1)
        return max(1, min(self.samples, memory_budget // per_sample))
