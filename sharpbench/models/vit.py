"""A small vision transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS, Activation, Model, image_shape

__all__ = ["Block", "VisionTransformer"]


@models.register
@dataclass(frozen=True)
class VisionTransformer(Model):
    """Pre-LayerNorm vision transformer: patches, learned positions, mean pooling over the tokens.

    Queries, keys and values are three separate linear maps, so that transformations can address
    each one.
    """

    name = "vit"
    reference = "arXiv:2010.11929"

    patch: int = 2
    width: int = 32
    depth: int = 2
    heads: int = 4
    mlp_ratio: int = 2
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.heads, self.mlp_ratio) < 1:
            raise ValueError("patch, width, depth, heads and mlp_ratio must be positive")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        depth, height, width = image_shape(self.name, input_shape)
        if height % self.patch or width % self.patch:
            raise InputError(
                f"model 'vit': patch {self.patch} does not divide the image {height}×{width}"
            )
        tokens = (height // self.patch) * (width // self.patch)
        return nn.Sequential(
            _PatchEmbedding(depth, self.patch, self.width, tokens),
            *[
                Block(self.width, self.heads, self.mlp_ratio, self.activation)
                for _ in range(self.depth)
            ],
            nn.LayerNorm(self.width),
            _MeanOverTokens(),
            nn.Linear(self.width, outputs),
        )


class _PatchEmbedding(nn.Module):
    def __init__(self, channels: int, patch: int, width: int, tokens: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2) + self.positions  # type: ignore[no-any-return]


class _MeanOverTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a two-layer network, each behind a layer norm and added to what came in, (N, T, width).

    ``causal``: no token sees the later ones.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: int,
        activation: Activation,
        *,
        causal: bool = False,
    ) -> None:
        super().__init__()
        hidden = mlp_ratio * width
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]
