"""What torch needs to be told before a network is differentiated more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from sharpbench.formulas import log_softmax

__all__ = ["embedding_bag", "plain_checkpoints", "repeatedly_differentiable"]


@contextmanager
def repeatedly_differentiable() -> Iterator[None]:
    """Within it a network's derivatives of any order are right.

    - Attention runs by its defining matrix products: the fused kernels have no second derivative.
    - Layer norm, instance norm and batch norm without running statistics run by their formula:
      torch's own are silently wrong from the third derivative on in nested reverse mode and from the
      second on in nested forward mode (torch 2.13; found by finite differences, kept by a test).
      So does group norm, whose batched products raise, and weight norm, whose second derivative takes
      the norms for constants.
    - Hardsigmoid, distances by ``cdist`` and embedding bags run by their formulas: torch's own have
      one derivative alone.
    - Cross-entropy and the losses like it keep the relative precision of confident points.
    - What a reentrant checkpoint wraps runs as if it wasn't: its parameters would get no gradient.
    """
    with sdpa_kernel(SDPBackend.MATH), _ByFormula(), plain_checkpoints():
        yield


class _ByFormula(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        replacement = _REPLACEMENTS.get(func, func)
        return replacement(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,  # noqa: A002 - torch's own name, given by keyword
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


def _instance_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats or running_mean is not None:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    return _affine(_standardized(input, tuple(range(2, input.ndim)), eps), weight, bias)


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or running_mean is not None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _affine(_standardized(input, (0, *range(2, input.ndim)), eps), weight, bias)


def _group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    return _affine(_standardized(grouped, (2,), eps).reshape(input.shape), weight, bias)


def _rms_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    normalized = input * (input.square().mean(axes, keepdim=True) + floor).rsqrt()
    return normalized if weight is None else normalized * weight


def _norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:  # noqa: A002
    """The norm of each slice of ``v`` along ``dim``, kept as axes of one; of all of it for −1."""
    axes = list(range(v.ndim)) if dim == -1 else [axis for axis in range(v.ndim) if axis != dim]
    if not axes:
        return v.abs()
    norm: Tensor = torch.linalg.vector_norm(v, pow, axes, keepdim=dim != -1)
    return norm


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / _norm_except_dim(v, 2, dim))


def _weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    return _weight_norm(v, g, dim), _norm_except_dim(v, 2, dim)


def _log_softmax(
    input: Tensor,  # noqa: A002
    dim: int,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return log_softmax.log_softmax(input, dim, dtype=dtype)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Scale and shift by channel, the second axis."""
    channels = (-1, *[1] * (x.ndim - 2))
    if weight is not None:
        x = x * weight.view(channels)
    return x if bias is None else x + bias.view(channels)


def _standardized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    if inplace:
        return input.div_(6).add_(0.5).clamp_(0, 1)
    return (input / 6 + 0.5).clamp(0, 1)


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)
    return distances


def embedding_bag(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """By formula for bags of one length, (N, bag); torch's own for the others."""
    if input.ndim != 2 or max_norm is not None or padding_idx is not None or mode == "max":
        return F.embedding_bag(
            input,
            weight,
            offsets,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            per_sample_weights,
            include_last_offset,
            padding_idx,
        )
    rows = F.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(2)
    return rows.mean(1) if mode == "mean" else rows.sum(1)


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    torch._weight_norm: _weight_norm,
    torch._weight_norm_interface: _weight_norm_interface,
    torch.norm_except_dim: _norm_except_dim,
    F.hardsigmoid: _hardsigmoid,
    torch.cdist: _cdist,
    F.embedding_bag: embedding_bag,
    F.log_softmax: log_softmax.log_softmax,
    torch.log_softmax: _log_softmax,
    Tensor.log_softmax: _log_softmax,
    F.cross_entropy: log_softmax.cross_entropy,
    F.logsigmoid: log_softmax.logsigmoid,
    F.binary_cross_entropy_with_logits: log_softmax.binary_cross_entropy_with_logits,
}


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """`torch.utils.checkpoint(use_reentrant=True)` calls its function and keeps the graph."""
    if "apply" in vars(CheckpointFunction):  # an outer context
        yield
        return

    def run(function: Callable[..., Any], preserve_random_state: bool, *args: Any) -> Any:
        return function(*args)

    CheckpointFunction.apply = staticmethod(run)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del CheckpointFunction.apply
