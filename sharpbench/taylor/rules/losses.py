"""Softmax, losses and attention."""

# ruff: noqa: A001, A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpbench.formulas.log_softmax import reduced
from sharpbench.taylor import series
from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic, elementwise, linear, normalization, selections
from sharpbench.taylor.table import Rule, rule

__all__ = ["loss_rule"]


def _axis(dim: int, x: Jet) -> int:
    return dim - x.primal.ndim if dim >= 0 else dim


def _everything(x: Jet) -> tuple[int, ...]:
    return tuple(range(x.degree + 1))


@rule("softmax", "special_softmax")
def _softmax(
    input: Jet,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Any:
    if dim is None:
        return NotImplemented
    input = input if dtype is None else linear.to(input, dtype)
    p = series.softmax(input.coefficients, input.orders, input.degree, _axis(dim, input))
    return input.like(p, _everything(input))


@rule("logsumexp", "special_logsumexp")
def _logsumexp(input: Jet, dim: Any, keepdim: bool = False) -> Any:
    if not isinstance(dim, int):
        if len(dim) != 1:
            axes = sorted(d % input.primal.ndim for d in dim)
            rest = [d for d in range(input.primal.ndim) if d not in axes]
            out = _logsumexp(input.permute(*rest, *axes).flatten(len(rest)), -1)
            if not keepdim:
                return out
            return out.reshape([1 if i in axes else n for i, n in enumerate(input.shape)])
        dim = dim[0]
    axis = _axis(dim, input)
    out = series.logsumexp(input.coefficients, input.orders, input.degree, axis)
    # A single number has no axis that could be taken away.
    shown = out if keepdim or not input.primal.ndim else out.squeeze(axis)
    return input.like(shown, _everything(input))


@rule("log_softmax", "special_log_softmax")
def _log_softmax(
    input: Jet,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Any:
    if dim is None:
        return NotImplemented
    input = input if dtype is None else linear.to(input, dtype)
    return arithmetic.sub(input, _logsumexp(input, dim, keepdim=True))


@rule("cross_entropy")
def _cross_entropy(
    input: Jet,
    target: Any,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """−log softmax as log(1 + exp m), m = log Σ_{c≠y} exp(z_c − z_y).

    The same function, but its derivatives keep their relative precision for confident points:
    p_y − 1 cancels once the margin exceeds 36 in float64, and the growth of the derivatives would
    then be that of rounding errors.
    """
    if size_average is not None or reduce is not None:
        return NotImplemented
    plain = weight is None and not label_smoothing
    by_class = isinstance(target, Tensor) and not target.is_floating_point()
    if not plain or not by_class or input.primal.ndim != 2 or (target == ignore_index).any():
        return _general_cross_entropy(
            input, target, weight, ignore_index, reduction, label_smoothing
        )
    classes = input.primal.shape[1]
    shift = torch.arange(1, classes, device=target.device)
    others = (target.unsqueeze(1) + shift) % classes
    c = input.coefficients
    differences = c.gather(2, others.expand(len(c), -1, -1)) - c.gather(
        2, target.unsqueeze(1).expand(len(c), -1, -1)
    )
    margin = _logsumexp(input.like(differences), 1)
    return reduced(elementwise.elementwise("softplus", margin, threshold=math.inf), reduction)


def _general_cross_entropy(
    input: Any,
    target: Any,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> Any:
    axis = 0 if input.primal.ndim == 1 else 1
    logs = _log_softmax(input, axis)
    classes = input.shape[axis]
    if isinstance(target, Tensor) and not target.is_floating_point():
        hard = _nll_loss(logs, target, weight, None, ignore_index, None, reduction)
        if not smoothing:
            return hard
        scaled = logs if weight is None else arithmetic.mul(logs, _by_class(weight, axis, logs))
        ignored = target == ignore_index
        uniform = arithmetic.masked_fill(-scaled.sum(axis), ignored, 0.0)
        if reduction == "mean":
            kept = ~ignored
            total = kept.sum() if weight is None else weight[target[kept]].sum()
            uniform = arithmetic.div(uniform.sum(), total)
        else:
            uniform = reduced(uniform, reduction)
        return hard * (1 - smoothing) + uniform * (smoothing / classes)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    if weight is not None:
        logs = arithmetic.mul(logs, _by_class(weight, axis, logs))
    losses = -arithmetic.mul(logs, target).sum(axis)
    if reduction == "mean":
        return losses.sum() / max(input.primal.numel() / classes, 1)
    return reduced(losses, reduction)


def _by_class(weight: Tensor, axis: int, like: Jet) -> Tensor:
    return weight.view(-1, *[1] * (like.primal.ndim - axis - 1))


@rule("nll_loss")
def _nll_loss(
    input: Any,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    if size_average is not None or reduce is not None or not isinstance(input, Jet):
        return NotImplemented
    axis = 0 if input.primal.ndim == 1 else 1
    kept = target != ignore_index
    safe = target.masked_fill(~kept, 0)
    losses = -input.gather(axis, safe.unsqueeze(axis)).squeeze(axis)
    factor = kept.to(input.primal.dtype) if weight is None else weight[safe] * kept
    # Not a product with the mask: an ignored loss may be infinite.
    losses = (
        arithmetic.masked_fill(losses, ~kept, 0.0)
        if weight is None
        else arithmetic.mul(losses, factor)
    )
    return (
        arithmetic.div(losses.sum(), factor.sum())
        if reduction == "mean"
        else reduced(losses, reduction)
    )


def loss_rule(name: str) -> Callable[[Rule], Rule]:
    """Enters a function of single losses as torch's loss ``name``, which reduces them as it is asked."""

    def enter(losses: Rule) -> Rule:
        def answer(
            *args: Any,
            size_average: Any = None,
            reduce: Any = None,
            reduction: str = "mean",
            **options: Any,
        ) -> Any:
            if not isinstance(reduction, str):  # torch's inner functions number them
                return NotImplemented
            found = losses(*args, **options)
            if found is NotImplemented:
                return found
            old_style = size_average is not None or reduce is not None
            if reduction == "batchmean" and name == "kl_div" and not old_style:
                return found.sum() / args[0].shape[0]
            return reduced(found, reduction, size_average, reduce)

        own = inspect.signature(losses)
        ours = [
            p for p in inspect.signature(answer).parameters.values() if p.kind is p.KEYWORD_ONLY
        ]
        # Dispatch asks it which arguments the rule knows.
        answer.__signature__ = own.replace(parameters=[*own.parameters.values(), *ours])  # type: ignore[attr-defined]
        rule(name)(answer)
        return losses

    return enter


@loss_rule("mse_loss")
def _mse_losses(input: Any, target: Any, weight: Any = None) -> Any:
    return (
        NotImplemented if weight is not None else arithmetic.square(arithmetic.sub(input, target))
    )


@rule("scaled_dot_product_attention")
def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    like = next(x for x in (query, key, value, attn_mask) if isinstance(x, Jet))
    query = selections.lifted(query, like)
    scores = linear.matmul(query, key.transpose(-2, -1))
    scores = normalization.scaled(scores, scale)
    if is_causal:
        attn_mask = torch.ones(
            query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device
        ).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = arithmetic.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = arithmetic.add(scores, attn_mask)
    if attn_mask is None:
        return linear.matmul(arithmetic.dropout(_softmax(scores, -1), dropout_p, True), value)
    # A query that may look nowhere: torch gives it zeros.
    nowhere = (scores.primal == -math.inf).all(-1, keepdim=True)
    weights = _softmax(arithmetic.masked_fill(scores, nowhere, 0.0), -1)
    return linear.matmul(
        arithmetic.dropout(arithmetic.masked_fill(weights, nowhere, 0.0), dropout_p, True), value
    )
