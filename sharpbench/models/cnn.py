"""The two-convolution network of arXiv:2511.01438."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS, Activation, Model, check_dropout, image_shape

__all__ = ["ConvolutionalNetwork"]


@models.register
@dataclass(frozen=True)
class ConvolutionalNetwork(Model):
    """Two 3×3 convolutions, one 2×2 max-pooling, one hidden fully connected layer.

    The defaults are the network of the paper's MNIST experiments: 32 and 64 channels, 128 hidden
    units, ReLU, dropout ½ after the pooling and after the hidden layer; 1 199 882 parameters on 28×28.
    """

    name = "cnn"
    reference = "arXiv:2511.01438, section 5.3"

    channels: tuple[int, int] = (32, 64)
    hidden: int = 128
    activation: Activation = "relu"
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if min(*self.channels, self.hidden) < 1:
            raise ValueError("channels and hidden must be positive")

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        depth, height, width = image_shape(self.name, input_shape)
        if min(height, width) < 6:
            raise InputError(f"model 'cnn' needs images of at least 6×6, got {height}×{width}")
        first, second = self.channels
        features = second * ((height - 4) // 2) * ((width - 4) // 2)
        activation = ACTIVATIONS[self.activation]
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(depth, first, 3),
                act1=activation(),
                conv2=nn.Conv2d(first, second, 3),
                act2=activation(),
                pool=nn.MaxPool2d(2),
                drop1=nn.Dropout(self.dropout),
                flatten=nn.Flatten(),
                hidden=nn.Linear(features, self.hidden),
                act3=activation(),
                drop2=nn.Dropout(self.dropout),
                output=nn.Linear(self.hidden, outputs),
            )
        )
