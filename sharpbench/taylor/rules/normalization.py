"""Normalisation by layers, groups and batches."""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.formulas import normalization as formulas
from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic, linear
from sharpbench.taylor.table import rule

__all__ = ["scaled"]


def scaled(x: Any, factor: Any) -> Any:
    """``factor`` times what nobody else holds: in place, where that is possible."""
    if not isinstance(x, Jet) or not _may_take(x, factor):
        return x * factor
    return x.like(x.coefficients.mul_(factor))


def _shifted(x: Any, shift: Any) -> Any:
    """What nobody else holds plus ``shift``: in place, where that is possible."""
    if not isinstance(x, Jet) or not _may_take(x, shift):
        return x + shift
    c = x.coefficients
    c[0].add_(shift)
    return x.like(c)


def _may_take(x: Jet, constant: Any) -> bool:
    """Whether a result of x's shape and dtype is that of x and a constant, and may be written into x."""
    if not isinstance(constant, Tensor):
        return isinstance(constant, (int, float)) and not linear.looked_on(x.coefficients)
    if constant.ndim > x.primal.ndim or constant.dtype != x.primal.dtype:
        return False
    if torch.broadcast_shapes(constant.shape, x.primal.shape) != x.primal.shape:
        return False
    return constant.device == x.primal.device and not linear.looked_on(x.coefficients, constant)


def _weighted(x: Any, weight: Any, bias: Any) -> Any:
    """Scale and shift of what a normalisation gave."""
    x = x if weight is None else scaled(x, weight)
    return x if bias is None else _shifted(x, bias)


@rule("layer_norm")
def _layer_norm(
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    return _weighted(formulas.layer_norm(input, normalized_shape, eps=eps), weight, bias)


@rule("rms_norm")
def _rms_norm(
    input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    return _weighted(formulas.rms_norm(input, normalized_shape, eps=eps), weight, None)


rule("group_norm")(formulas.group_norm)


@rule("batch_norm")
def _batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not training:
        return _by_statistics(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None and momentum:
        # The running statistics move as they would for the plain network.
        value = input.primal.detach()
        F.batch_norm(value, running_mean, running_var, None, None, True, momentum, eps)
    return formulas.batch_norm(input, None, None, weight, bias, True, eps=eps)


@rule("instance_norm")
def _instance_norm(
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return _by_statistics(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None:
        value = input.primal.detach()
        F.instance_norm(value, running_mean, running_var, None, None, True, momentum, eps)
    return formulas.instance_norm(input, None, None, weight, bias, True, eps=eps)


def _by_statistics(
    input: Any, mean: Tensor | None, variance: Tensor | None, weight: Any, bias: Any, eps: float
) -> Any:
    """Scale and shift by channel, the second axis."""
    assert mean is not None
    assert variance is not None
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    channels = (-1, *[1] * (input.primal.ndim - 2))
    shift = shift if bias is None else shift + bias
    return _shifted(arithmetic.mul(input, scale.view(channels)), shift.view(channels))
