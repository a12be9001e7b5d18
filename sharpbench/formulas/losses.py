"""Losses that torch differentiates once, or with derivatives that vanish too early, by their formulas.

They take torch's arguments, and series as well as tensors.
"""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.formulas.log_softmax import logsigmoid, reduced

__all__ = ["BY_FORMULA", "reducing", "softplus"]


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp βx)/β, with its curvature beyond ``threshold`` where that only saves torch rounding.

    torch returns x itself for βx above the threshold. From 20 on that is the same value to 1e-10, but all
    derivatives beyond the first are 0; a lower threshold is a function of its own, and is kept.
    """
    if threshold < 20 or beta <= 0 or not input.is_floating_point():
        return F.softplus(input, beta, threshold)
    return -logsigmoid(-beta * input) / beta


def reducing(losses: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch's loss of single ``losses``, with the arguments by which it reduces them."""

    def loss(
        *args: Any,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> Tensor:
        found: Tensor = reduced(losses(*args, **options), reduction, size_average, reduce)
        return found

    return loss


def soft_margin_losses(input: Tensor, target: Tensor) -> Tensor:
    return -logsigmoid(target * input)


def multilabel_soft_margin_losses(
    input: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor:
    losses = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        losses = losses * weight
    return losses.mean(-1)


def multi_margin_losses(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Σ_{j≠y} max(0, margin − x_y + x_j)ᵖ/C, times the weight of y."""
    index = target.reshape(-1, 1) if input.ndim > 1 else target.reshape(1)
    short = (margin - input.gather(-1, index) + input).relu()
    costs = short if p == 1 else short * short
    if weight is not None:
        costs = costs * weight[index]
    own = torch.zeros(input.shape, dtype=torch.bool, device=input.device).scatter(-1, index, True)
    return costs.masked_fill(own, 0).sum(-1) / input.shape[-1]


def multilabel_margin_losses(input: Tensor, target: Tensor) -> Tensor:
    """Σ over labels j and others i of max(0, 1 − x_j + x_i)/C; labels end at the first −1."""
    listed = (target >= 0).cumprod(-1).bool()
    index = target.masked_fill(~listed, 0)
    counts = torch.zeros(input.shape, dtype=torch.long, device=input.device)
    is_label = counts.scatter_add(-1, index, listed.long()) > 0
    short = (1 - input.gather(-1, index).unsqueeze(-1) + input.unsqueeze(-2)).relu()
    asked = listed.unsqueeze(-1) & ~is_label.unsqueeze(-2)
    return short.masked_fill(~asked, 0).sum(-1).sum(-1) / input.shape[-1]


BY_FORMULA: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.soft_margin_loss: soft_margin_losses,
    F.multilabel_soft_margin_loss: multilabel_soft_margin_losses,
    F.multi_margin_loss: multi_margin_losses,
    F.multilabel_margin_loss: multilabel_margin_losses,
}
"""torch's losses, and those of single samples that they reduce."""
