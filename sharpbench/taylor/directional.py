"""Directional derivatives of any order by nested reverse mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work

__all__ = ["directional_derivatives"]


def directional_derivatives(
    function: Callable[[Tensor], Tensor],
    points: Tensor,
    directions: Tensor,
    order: int,
    *,
    work: Work,
    chunk: int = 256,
) -> Tensor:
    """Dⁿf(xᵢ)[uᵢ, …, uᵢ] for n = 0 … order.

    Differentiates t ↦ f(x + t·u) in the scalar t, one reverse pass nested in the other, so that no
    derivative tensor is ever formed.

    Parameters
    ----------
    function: maps points (N, …) to one real value each (N,), sample by sample.
    points, directions: (N, …), same shape.
    order: highest order, at least 0.
    work: the passes made are added to it.
    chunk: points differentiated at once; memory grows with it, figures don't depend on it.

    Returns
    -------
    (order + 1, N): plain derivatives, not divided by n!.
    """
    pieces = []
    for x, u in zip(points.split(chunk), directions.split(chunk), strict=True):
        pieces.append(_derivatives_along_line(function, x, u, order, work))
    return torch.cat(pieces, dim=1)


def _derivatives_along_line(
    function: Callable[[Tensor], Tensor], x: Tensor, u: Tensor, order: int, work: Work
) -> Tensor:
    samples = len(x)
    with repeatedly_differentiable(), torch.enable_grad():
        t = torch.zeros(samples, dtype=x.dtype, device=x.device, requires_grad=True)
        value = function(x + t.view(-1, *[1] * (x.ndim - 1)) * u)
        if order == 0 or value.grad_fn is None:  # else counted with the gradient
            work.forward += samples
        derivatives = [value]
        for n in range(1, order + 1):
            previous = derivatives[-1]
            if previous.grad_fn is None:
                # The previous derivative does not depend on t: all higher ones are exactly zero.
                derivatives.append(torch.zeros_like(previous))
                continue
            (derivative,) = torch.autograd.grad(
                previous.sum(), t, create_graph=n < order, materialize_grads=True
            )
            work.add_derivative(n, samples)
            derivatives.append(derivative)
    return torch.stack([d.detach() for d in derivatives])
