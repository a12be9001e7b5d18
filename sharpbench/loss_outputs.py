"""Which outputs a loss of torch is defined for: torch takes most others in silence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.errors import InputError
from sharpbench.loss import (
    ScaledLoss,
    TokenLoss,
    as_module,
    ignore_index,
    is_cross_entropy,
    labels_of,
)

__all__ = ["are_probabilities", "check_outputs"]

_OFF_ONE = 0.05
"""By how much ln Σ exp of logarithms of probabilities may miss 0: in bfloat16 they do."""

_IS_ONE = 1e-3
"""By how much the sum of what is told to be probabilities misses 1."""


def check_outputs(
    loss: Any, outputs: Tensor, targets: Tensor, span: tuple[float, float], *, sigmoid: bool
) -> str:
    """What a reader must know of outputs that ``loss`` takes for what they are not, or nothing.

    ``outputs`` (n, …) and ``targets`` of the same samples; ``span``: the least and the most of all outputs
    that are known; ``sigmoid``: whether they come out of one. Told is what can be nothing else: probabilities
    are not negative and sum to 1 over the classes of each sample.

    Raises InputError for outputs that the loss is not defined for: the figure would be that of no such loss.
    """
    if isinstance(loss, ScaledLoss):
        return check_outputs(loss.loss, outputs, targets, span, sigmoid=sigmoid)
    of_tokens = isinstance(loss, TokenLoss) and loss.function is None
    if isinstance(loss, TokenLoss) and not of_tokens:
        loss = loss.original
    loss = as_module(loss)
    entropy = of_tokens or is_cross_entropy(loss)
    if not entropy and not isinstance(loss, nn.Module):
        return ""
    _check_span(loss, *span)
    if isinstance(loss, nn.KLDivLoss):
        told = targets.exp() if loss.log_target else targets
        axes = [
            a
            for a in range(1, outputs.ndim)
            if told.shape == outputs.shape and _sum_to_one(told, a)
        ]
        return _of_logarithms(loss, outputs, axes, "the targets are probabilities; ")
    each = _classes_of(loss, outputs, targets)
    if isinstance(loss, nn.NLLLoss):
        return "" if each is None else _of_logarithms(loss, each, [1], "")
    if not entropy and labels_of(loss) is None:
        return ""
    name = "cross-entropy" if entropy else type(loss).__name__
    if each is not None and are_probabilities(each):
        again = "softmax" if entropy else "sigmoid"
        return (
            "the outputs are probabilities (none is negative, and they sum to 1 over the classes), and "
            f"{name} takes them for logits, of which it takes the {again}: let the network return "
            f"{'their logarithms (log_softmax)' if entropy else 'its logits'}, if that is not meant"
        )
    if sigmoid:
        other = ", or give loss=torch.nn.BCELoss()" * isinstance(loss, nn.BCEWithLogitsLoss)
        return (
            f"the outputs come out of a sigmoid (they go from {span[0]:.3g} to {span[1]:.3g}), and {name} "
            f"takes them for logits: let the network return what it takes the sigmoid of{other}, if that is "
            "not meant"
        )
    return ""


def _check_span(loss: Any, least: float, most: float) -> None:
    """Raises InputError for outputs beyond those that the formula of a loss has an answer for."""
    found = f"and the outputs go from {least:.3g} to {most:.3g}"
    if isinstance(loss, nn.BCELoss) and (least < 0 or most > 1):
        raise InputError(
            f"BCELoss reads probabilities, from 0 to 1, {found}: for logits give "
            "loss=torch.nn.BCEWithLogitsLoss()"
        )
    if isinstance(loss, nn.PoissonNLLLoss) and not loss.log_input and least < 0:
        raise InputError(
            f"PoissonNLLLoss(log_input=False) reads rates, from 0, {found}: for their logarithms give "
            "loss=torch.nn.PoissonNLLLoss()"
        )


def _classes_of(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Outputs (places, classes), without those of padded or ignored tokens; None where there are no two."""
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        return None
    each = outputs.movedim(1, -1)
    ignored = ignore_index(loss)
    if ignored is not None and each.shape[:-1] == targets.shape:
        each = each[targets != ignored]
    return each.reshape(-1, outputs.shape[1]) if each.numel() else None


def _of_logarithms(loss: Any, outputs: Tensor, axes: list[int], since: str) -> str:
    """See `check_outputs`, of a loss whose outputs are logarithms of probabilities along one of ``axes``."""
    if not axes:
        return ""
    name = type(loss).__name__
    sums = [outputs.double().logsumexp(axis) for axis in axes]
    off = min(sums, key=lambda one: float(one.abs().max()))
    if float(off.abs().max()) <= _OFF_ONE:
        same = isinstance(loss, nn.NLLLoss) or (loss.reduction == "batchmean" and 1 in axes)
        other = "; loss=torch.nn.CrossEntropyLoss() has the same derivatives and the Fisher matrix"
        return (
            f"{name} is linear in logarithms of probabilities, so that its Gauss-Newton matrix of these "
            f"outputs is zero, and all that is made of it{other if same else ''}"
        )
    most = float(off.flatten()[off.abs().argmax()].exp())
    found = f"the exponentials of these outputs sum to {most:.3g}"
    if float(off.max()) <= _OFF_ONE:
        return f"{since}{name} reads logarithms of probabilities, and {found}, where 1 is meant"
    logits = "give loss=torch.nn.CrossEntropyLoss()" if isinstance(loss, nn.NLLLoss) else ""
    if any(_sum_to_one(outputs, axis) and float(outputs.min()) >= 0 for axis in axes):
        found = "these outputs are the probabilities themselves"
        line = "let the network return log_softmax where it returns softmax" + (
            f", or the logits, and {logits}" if logits else ""
        )
    else:
        line = (
            f"for logits {logits}" if logits else "let the network return log_softmax of its logits"
        )
    raise InputError(
        f"{since}{name} reads logarithms of probabilities, whose exponentials sum to 1, and {found}: {line}"
    )


def are_probabilities(each: Tensor) -> bool:
    """Whether each row (N, C) can be nothing else: none is negative, and they sum to 1."""
    return float(each.min()) >= 0 and _sum_to_one(each, 1)


def _sum_to_one(values: Tensor, axis: int) -> bool:
    return bool(torch.all((values.double().sum(axis) - 1).abs() <= _IS_ONE))
