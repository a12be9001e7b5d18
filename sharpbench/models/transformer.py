"""A small language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.models.base import Activation, Model
from sharpbench.models.vit import Block

__all__ = ["CausalTransformer"]


@models.register
@dataclass(frozen=True)
class CausalTransformer(Model):
    """Pre-LayerNorm transformer decoder: of tokens (N, T, features) logits of each one's class, (N, C, T).

    Tokens are given as vectors, one-hot ones in the data set `characters`: the first linear layer embeds
    them. Positions are learned, and no token sees the later ones. Targets are classes (N, T), one a token.
    """

    name = "causal_transformer"
    reference = "Vaswani et al., arXiv:1706.03762; Radford et al. 2019 (pre-norm decoder)"

    width: int = 32
    depth: int = 1
    heads: int = 2
    mlp_ratio: int = 2
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.mlp_ratio) < 1:
            raise ValueError("width, depth, heads and mlp_ratio must be positive")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(input_shape) != 2:
            raise InputError(
                "model 'causal_transformer' takes tokens as vectors, (tokens, features); this dataset has "
                f"inputs of shape {input_shape}"
            )
        tokens, features = input_shape
        blocks = [
            Block(self.width, self.heads, self.mlp_ratio, self.activation, causal=True)
            for _ in range(self.depth)
        ]
        return nn.Sequential(
            _Embedding(features, self.width, tokens),
            *blocks,
            nn.LayerNorm(self.width),
            nn.Linear(self.width, outputs),
            _ClassesFirst(),
        )


class _Embedding(nn.Module):
    def __init__(self, features: int, width: int, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width, bias=False)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.embed(x) + self.positions
        return embedded


class _ClassesFirst(nn.Module):
    """(N, T, C) to (N, C, T), as torch's losses have it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
