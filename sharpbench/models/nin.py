"""The network in network of the large studies of generalization measures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.models.base import (
    ACTIVATIONS,
    Activation,
    Model,
    check_dropout,
    check_equal_layers,
    image_shape,
)

__all__ = ["NetworkInNetwork"]


@models.register
@dataclass(frozen=True)
class NetworkInNetwork(Model):
    """``depth`` blocks of a 3×3 and two 1×1 convolutions, a 1×1 one to the classes, and the mean over space.

    The 3×3 convolution of each block has stride 2 while the image is larger than 4 pixels. After each block
    follow batch normalisation (``normalization``) and dropout. ``width``: channels of every layer.
    """

    name = "nin"
    reference = "arXiv:1312.4400, as in arXiv:1912.02178, appendix A"

    width: int = 96
    depth: int = 2
    activation: Activation = "relu"
    dropout: float = 0.0
    normalization: bool = True

    def __post_init__(self) -> None:
        check_equal_layers(self.width, self.depth)
        check_dropout(self.dropout)

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        channels, *size = image_shape(self.name, input_shape)
        if min(size) < 3:
            raise InputError(f"model 'nin' needs images of at least 3×3, got {size[0]}×{size[1]}")
        layers: list[nn.Module] = []
        for _ in range(self.depth):
            stride = 2 if min(size) > 4 else 1
            size = [(length + stride - 1) // stride for length in size]
            for kernel in (3, 1, 1):
                convolution = nn.Conv2d(
                    channels, self.width, kernel, stride if kernel == 3 else 1, kernel // 2
                )
                layers += [convolution, ACTIVATIONS[self.activation]()]
                channels = self.width
            if self.normalization:
                layers.append(nn.BatchNorm2d(self.width))
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        layers += [nn.Conv2d(channels, outputs, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers)
