"""A small residual network with batch normalisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS, Activation, Model, image_shape

__all__ = ["ResidualNetwork"]


@models.register
@dataclass(frozen=True)
class ResidualNetwork(Model):
    """Residual network of basic blocks (convolution, batch norm, activation, twice, plus a shortcut).

    One stage a width; each stage after the first halves the resolution. Global average pooling
    before the classifier, so that any image size works.
    """

    name = "resnet"
    reference = "arXiv:1512.03385"

    widths: tuple[int, ...] = (16, 32)
    blocks: int = 1
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.blocks < 1:
            raise ValueError("widths and blocks must be positive")

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        depth, _, _ = image_shape(self.name, input_shape)
        layers: list[nn.Module] = [
            nn.Conv2d(depth, self.widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(self.widths[0]),
            ACTIVATIONS[self.activation](),
        ]
        current = self.widths[0]
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_BasicBlock(current, width, stride, self.activation))
                current = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(current, outputs)]
        return nn.Sequential(*layers)


class _BasicBlock(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(fan_out)
        self.act1 = ACTIVATIONS[activation]()
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.act2 = ACTIVATIONS[activation]()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False), nn.BatchNorm2d(fan_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(inner)) + self.shortcut(x))  # type: ignore[no-any-return]
