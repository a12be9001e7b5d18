"""Losses of class probabilities whose derivatives keep their relative precision for confident points.

torch's own form the gradient of cross-entropy as p_y − 1, which cancels: beyond a margin of 17 in float32
and 37 in float64 it is 0, and a curvature of such points comes out at half its value or at none. Here
everything is measured from the largest logit z_m, log p_c = (z_c − z_m) − log(1 + Σ_{j≠m} exp(z_j − z_m)),
so that 1 − p_m appears as the sum of the other probabilities, in each derivative of any order. (The identity
is textbook; that autograd then never subtracts from one is what the form is for.)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "log_softmax",
    "logsigmoid",
    "reduced",
]


def log_softmax(
    input: Tensor,  # noqa: A002 - torch's own names, given by keyword
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`torch.nn.functional.log_softmax` with accurate derivatives."""
    if not _real(input) or dim is None or input.ndim == 0:
        return F.log_softmax(input, dim, _stacklevel, dtype)
    if dtype is not None:
        input = input.to(dtype)  # noqa: A001
    largest = input.detach().argmax(dim, keepdim=True)
    below = input - input.gather(dim, largest)
    is_largest = torch.zeros_like(below, dtype=torch.bool).scatter(dim, largest, True)
    # Constants at the largest logit: differences of it with itself must not enter a derivative.
    others = below.masked_fill(is_largest, -torch.inf).exp().sum(dim, keepdim=True)
    return below.masked_fill(is_largest, 0.0) - others.log1p()


def cross_entropy(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.cross_entropy` with accurate derivatives.

    By torch's own where class weights meet smoothing or targets that are probabilities.
    """
    by_class = not target.is_floating_point()
    old_style = size_average is not None or reduce is not None
    weighted_mixture = weight is not None and (label_smoothing or not by_class)
    if not _real(input) or old_style or weighted_mixture:
        return F.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    axis = 1 if input.ndim > 1 else 0
    uniform = label_smoothing / input.shape[axis]
    if not by_class:
        mixture = (1 - label_smoothing) * target + uniform
        losses = -(mixture * log_softmax(input, axis)).sum(axis)
        return _reduced(losses, torch.tensor(losses.numel()), reduction)
    ignored = target == ignore_index
    safe = target.long().masked_fill(ignored, 0)
    losses = _of_classes(input, safe, axis)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - uniform * log_softmax(input, axis).sum(axis)
    kept = (~ignored).to(losses) if weight is None else weight[safe].masked_fill(ignored, 0.0)
    if weight is not None:
        losses = losses * kept
    return _reduced(losses.masked_fill(ignored, 0.0), kept.sum(), reduction)


def _of_classes(logits: Tensor, target: Tensor, axis: int) -> Tensor:
    """log(1 + Σ_{j≠m} exp(z_j − z_m)) + (z_m − z_y) for class indices, as few passes as torch's."""
    index = target.unsqueeze(axis)
    largest = logits.detach().argmax(axis, keepdim=True)
    top = logits.gather(axis, largest)
    is_largest = torch.zeros_like(logits, dtype=torch.bool).scatter(axis, largest, True)
    others = (logits - top).masked_fill(is_largest, -torch.inf).exp().sum(axis)
    ahead = (top - logits.gather(axis, index)).masked_fill(largest == index, 0.0)
    return others.log1p() + ahead.squeeze(axis)


def reduced(
    losses: Any, reduction: str, size_average: bool | None = None, reduce: bool | None = None
) -> Any:
    """The losses of single samples, a tensor or a series, as torch reduces them.

    ``size_average`` and ``reduce``, which torch deprecated, stand above ``reduction`` as they do there.
    """
    if size_average is not None or reduce is not None:
        whole = size_average is None or size_average
        reduction = "none" if reduce is False else "mean" if whole else "sum"
    if reduction not in {"none", "mean", "sum"}:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _reduced(losses: Tensor, count: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / count.to(losses)


def logsigmoid(input: Tensor) -> Tensor:  # noqa: A002
    """`torch.nn.functional.logsigmoid` with accurate derivatives."""
    if not _real(input):
        return F.logsigmoid(input)
    positive = input > 0
    towards_zero = torch.where(positive, -input, input)
    return input.masked_fill(positive, 0.0) - towards_zero.exp().log1p()


def binary_cross_entropy_with_logits(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.binary_cross_entropy_with_logits` with accurate derivatives."""
    if not _real(input) or size_average is not None or reduce is not None:
        return F.binary_cross_entropy_with_logits(
            input, target, weight, size_average, reduce, reduction, pos_weight
        )
    if target.shape != input.shape:
        raise ValueError(
            f"Target size ({target.shape}) must be the same as input size ({input.shape})"
        )
    positives = target if pos_weight is None else pos_weight * target
    losses = -(positives * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        losses = losses * weight
    found: Tensor = reduced(losses, reduction)
    return found


def _real(tensor: Tensor) -> bool:
    """A tensor of torch itself: a series, or another subclass, brings rules of its own."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point()
