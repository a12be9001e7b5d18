"""Layers that torch differentiates once, or in too low a precision, by their formulas.

Each function has the signature of torch's, and takes a series as well.
"""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "cdist",
    "celu",
    "celu_",
    "embedding",
    "embedding_bag",
    "gelu",
    "hardsigmoid",
    "native_channel_shuffle",
    "pdist",
]


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    if inplace:
        return F.hardtanh_(input.div_(6).add_(0.5), 0, 1)
    return F.hardtanh(input / 6 + 0.5, 0, 1)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """torch's own rounds 1/α to single precision in its derivative."""
    found = F.elu(input / alpha) * alpha
    return input.copy_(found) if inplace else found


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    return celu(input, alpha, True)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """torch's third derivative of the form with tanh is not a number for |x| of 45 and more."""
    if approximate != "tanh":
        return F.gelu(input, approximate=approximate)
    inner = math.sqrt(2 / math.pi) * (input + 0.044715 * input**3)
    return 0.5 * input * (1 + inner.tanh())


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)
    return distances


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The distances of all pairs of rows, the first with each later one first."""
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    distances: Tensor = torch.linalg.vector_norm(input[first] - input[second], p, dim=-1)
    return distances


def native_channel_shuffle(input: Tensor, groups: int) -> Tensor:
    return F.channel_shuffle(input, groups)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of ``weight``, with the derivative of that: dense, and not scaled by how often a row is taken."""
    return F.embedding(input, weight, padding_idx, max_norm, norm_type)


def embedding_bag(
    input: Tensor,
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
    """By torch's own where it renormalises the table in place (``max_norm``)."""
    if max_norm is not None:
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
    kept = None
    if input.ndim == 1:
        assert offsets is not None
        input, kept, places = _bags(input, offsets, include_last_offset)  # noqa: A001
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights[places]
    if padding_idx is not None:
        counts = input != padding_idx % len(weight)
        kept = counts if kept is None else kept & counts
    rows = F.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(2)
    if mode == "max":
        if kept is None:
            return rows.max(1).values
        nothing = ~kept.any(1, keepdim=True)
        return (
            rows.masked_fill(~kept.unsqueeze(2), -torch.inf).max(1).values.masked_fill(nothing, 0)
        )
    if kept is None:
        return rows.mean(1) if mode == "mean" else rows.sum(1)
    total = rows.masked_fill(~kept.unsqueeze(2), 0).sum(1)
    return total / kept.sum(1, keepdim=True).clamp_min(1) if mode == "mean" else total


def _bags(tokens: Tensor, offsets: Tensor, last_is_end: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Bags one after the other as rows of the longest one's length, which of it counts, and places."""
    end = offsets.new_tensor([len(tokens)])
    bounds = offsets if last_is_end else torch.cat([offsets, end])
    lengths = bounds.diff()
    along = torch.arange(max(int(lengths.max()) if len(lengths) else 0, 1), device=tokens.device)
    kept = along < lengths.unsqueeze(1)
    places = (bounds[:-1].unsqueeze(1) + along).masked_fill(~kept, 0)
    return tokens[places], kept, places
