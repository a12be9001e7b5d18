"""Each point's Hessian of its loss in its input."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from sharpbench.copies import private_copy
from sharpbench.curvature.differentiation import check_twice_differentiable, second_derivatives
from sharpbench.curvature.loss_operator import PROBE
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.curvature.product_check import (
    Checks,
    check_input_hessian,
    own_functions,
    where_it_runs,
)
from sharpbench.front import AtInputs
from sharpbench.measurement import Work
from sharpbench.subject import Loss

__all__ = ["InputHessianOperator"]


@dataclass
class _Point:
    gradient: Tensor
    inputs: Tensor


class InputHessianOperator(SymmetricOperator):
    """The Hessians ∇²_x ℓ(f(xᵢ), yᵢ) of all points at once: block diagonal, of shape (N·d, N·d).

    ``gradient`` (N, …) is kept beside. ``model``: of inputs alone, or `AtInputs`, whose points and context
    are then ``inputs`` and ``targets``. ``verify``: hold a product of the first points, and of one for which
    an autograd.Function runs that they lack, to differences; ``functions``: those that were held before.

    Raises MetricFailed where the loss is not twice differentiable.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        work: Work,
        verify: bool = True,
        functions: set[str] | None = None,
    ) -> None:
        self.samples, self.work = len(inputs), work
        self.model, self.loss, self.points, self.targets = model, loss, inputs, targets
        self.dimension, self.dtype, self.device = inputs.numel(), inputs.dtype, inputs.device
        x = inputs.clone().requires_grad_()
        with second_derivatives(), torch.enable_grad():
            total = self.losses_at(x).sum()
            (gradient,) = torch.autograd.grad(total, x, create_graph=True, materialize_grads=True)
        work.gradient += len(x)
        check_twice_differentiable((gradient,))
        self._at = _Point(gradient, x)
        self.checks: Checks = check_input_hessian(self) if verify else {}
        if functions is not None:
            self._check_functions(own_functions(total), functions)

    def _check_functions(self, running: set[str], known: set[str]) -> None:
        """The check on a point for each autograd.Function that runs and is not ``known``, to which it is
        added. Raises MetricFailed."""

        def functions(begin: int, end: int) -> set[str]:
            self.work.forward += end - begin
            x = self.points[begin:end].clone().requires_grad_()
            with second_derivatives(), torch.enable_grad():
                return own_functions(self._part(begin, end).losses_at(x))

        if running and self.checks:
            known |= functions(0, min(PROBE, self.samples))
        for name in sorted(running - known):
            known.add(name)
            number = where_it_runs(functions, name, self.samples)
            check_input_hessian(self._part(number, number + 1))

    def _part(self, begin: int, end: int) -> Self:
        """The same of some of the points, to be twinned."""
        made = copy.copy(self)
        made.points, made.targets = self.points[begin:end], self.targets[begin:end]
        made.samples = end - begin
        return made

    def twin(self, samples: int) -> Self:
        """The same of the first ``samples``, in float64 and unchecked, on a copy of the network."""
        return type(self)(
            private_copy(self.model, torch.float64),
            self.loss,
            self.points[:samples].double(),
            _double(self.targets[:samples]),
            work=Work(),
            verify=False,
        )

    def at(self, points: Tensor) -> Self:
        """The same at other points of the same targets."""
        return type(self)(self.model, self.loss, points, self.targets, work=self.work, verify=False)

    def losses_at(self, points: Tensor) -> Tensor:
        """The losses (N,) at other points of the same targets."""
        if isinstance(self.model, AtInputs):
            outputs = self.model(points, self.targets)
            return self.loss(outputs, self.model.targets(self.targets))
        return self.loss(self.model(points), self.targets)

    @property
    def gradient(self) -> Tensor:
        return self._at.gradient.detach()

    @property
    def linear(self) -> bool:
        """Whether the loss is linear in the input, so that every product vanishes."""
        return not self._at.gradient.requires_grad

    def matmat(self, vectors: Tensor) -> Tensor:
        if self.linear:
            return torch.zeros_like(vectors)
        shape = self._at.inputs.shape
        columns = []
        for v in vectors.to(self._at.inputs).unbind(1):
            with second_derivatives():
                (product,) = torch.autograd.grad(
                    self._at.gradient,
                    self._at.inputs,
                    v.reshape(shape),
                    retain_graph=True,
                    materialize_grads=True,
                )
            columns.append(product.reshape(-1))
            self.work.hessian_vector += self.samples
        return self.check_product(torch.stack(columns, 1))


def _double(targets: Tensor) -> Tensor:
    return targets.double() if targets.is_floating_point() else targets
