"""Normalisation layers by their formulas, which torch differentiates wrongly beyond the second derivative.

torch's own are silently wrong from the third derivative on in nested reverse mode and from the second on in
nested forward mode (torch 2.13). Each function has the signature of torch's, and takes a series as well.
"""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "norm_except_dim",
    "rms_norm",
    "weight_norm",
    "weight_norm_interface",
]


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    normalized = _standardized(input, axes, eps)
    if weight is not None:
        normalized = normalized * weight
    return normalized if bias is None else normalized + bias


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    if running_mean is not None:  # they move as they would
        F.instance_norm(input.detach(), running_mean, running_var, None, None, True, momentum, eps)
    return _affine(_standardized(input, tuple(range(2, input.ndim)), eps), weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if running_mean is not None:  # they move as they would
        F.batch_norm(input.detach(), running_mean, running_var, None, None, True, momentum, eps)
    return _affine(_standardized(input, (0, *range(2, input.ndim)), eps), weight, bias)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    return _affine(_standardized(grouped, (2,), eps).reshape(input.shape), weight, bias)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    normalized = input * (input.square().mean(axes, keepdim=True) + floor).rsqrt()
    return normalized if weight is None else normalized * weight


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The norm of each slice of ``v`` along ``dim``, kept as axes of one; of all of it for −1."""
    axes = list(range(v.ndim)) if dim == -1 else [axis for axis in range(v.ndim) if axis != dim]
    if not axes:
        return v.abs()
    norm: Tensor = torch.linalg.vector_norm(v, pow, axes, keepdim=dim != -1)
    return norm


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / norm_except_dim(v, 2, dim))


def weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    return weight_norm(v, g, dim), norm_except_dim(v, 2, dim)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Scale and shift by channel, the second axis."""
    channels = (-1, *[1] * (x.ndim - 2))
    if weight is not None:
        x = x * weight.view(channels)
    return x if bias is None else x + bias.view(channels)


def _standardized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
