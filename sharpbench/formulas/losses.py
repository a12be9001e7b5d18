"""Losses that torch differentiates once, or with derivatives that vanish too early, by their formulas.

Each function has the signature of torch's, and takes a series as well.
"""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.formulas.log_softmax import logsigmoid

__all__ = [
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "softplus",
]


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp βx)/β, with its curvature beyond ``threshold`` where that only saves torch rounding.

    torch returns x itself for βx above the threshold. From 20 on that is the same value to 1e-10, but all
    derivatives beyond the first are 0; a lower threshold is a function of its own, and is kept.
    """
    if threshold < 20 or beta <= 0 or not input.is_floating_point():
        return F.softplus(input, beta, threshold)
    return -logsigmoid(-beta * input) / beta


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    if size_average is not None or reduce is not None:
        return F.soft_margin_loss(input, target, size_average, reduce, reduction)
    return _reduced(-logsigmoid(target * input), reduction)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    if size_average is not None or reduce is not None:
        return F.multilabel_soft_margin_loss(input, target, weight, size_average, reduce, reduction)
    losses = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        losses = losses * weight
    return _reduced(losses.mean(-1), reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Σ_{j≠y} max(0, margin − x_y + x_j)ᵖ/C, times the weight of y."""
    if size_average is not None or reduce is not None:
        return F.multi_margin_loss(
            input, target, p, margin, weight, size_average, reduce, reduction
        )
    index = target.reshape(-1, 1) if input.ndim > 1 else target.reshape(1)
    short = (margin - input.gather(-1, index) + input).relu()
    costs = short if p == 1 else short * short
    if weight is not None:
        costs = costs * weight[index]
    own = torch.zeros(input.shape, dtype=torch.bool, device=input.device).scatter(-1, index, True)
    return _reduced(costs.masked_fill(own, 0).sum(-1) / input.shape[-1], reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Σ over labels j and others i of max(0, 1 − x_j + x_i)/C; labels end at the first −1."""
    if size_average is not None or reduce is not None:
        return F.multilabel_margin_loss(input, target, size_average, reduce, reduction)
    listed = (target >= 0).cumprod(-1).bool()
    index = target.masked_fill(~listed, 0)
    counts = torch.zeros(input.shape, dtype=torch.long, device=input.device)
    is_label = counts.scatter_add(-1, index, listed.long()) > 0
    short = (1 - input.gather(-1, index).unsqueeze(-1) + input.unsqueeze(-2)).relu()
    asked = listed.unsqueeze(-1) & ~is_label.unsqueeze(-2)
    return _reduced(short.masked_fill(~asked, 0).sum(-1).sum(-1) / input.shape[-1], reduction)


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()
