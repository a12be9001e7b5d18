"""Networks of any size on random data, to see how cost grows; nothing about them is known or trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = ["Workload"]


@problems.register
@dataclass(frozen=True, kw_only=True)
class Workload(Problem):
    """A two-hidden-layer network, or the paper's kind of convolutional one, on Gaussian inputs.

    ``width`` of the hidden layers, ``inputs`` values a sample (a square image for ``cnn``), ``classes``,
    ``samples``; float32 weights with the layers' usual spread. Another network of the same kind stands for
    its beginning.
    """

    name = "workload"
    reference = "arXiv:2511.01438, section 5.3 (the convolutional network)"
    title = "workload"

    kind: Literal["mlp", "cnn"] = "mlp"
    activation: Literal["tanh", "relu"] = "tanh"
    width: int = 128
    inputs: int = 64
    classes: int = 10
    samples: int = 512

    def __post_init__(self) -> None:
        for key in ("width", "inputs", "samples"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, got {self.classes}")
        if self.kind == "cnn" and round(self.inputs**0.5) ** 2 != self.inputs:
            raise ValueError(f"inputs of a cnn must be a square, got {self.inputs}")

    def subject(self, *, seed: int) -> Subject:
        generator = torch_generator(derive_seed(seed, "problem"))
        model = self._drawn(generator)
        side = round(self.inputs**0.5)
        shape = (1, side, side) if self.kind == "cnn" else (self.inputs,)
        x = torch.randn(self.samples, *shape, generator=generator)
        y = torch.randint(self.classes, (self.samples,), generator=generator)
        return Subject(model, x, y, initial=self._drawn(generator))

    def _drawn(self, generator: torch.Generator) -> nn.Module:
        model = self._network()
        with torch.no_grad():
            for parameter in model.parameters():
                fan = parameter[0].numel() if parameter.ndim > 1 else 1
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (2.0 / fan) ** 0.5 if parameter.ndim > 1 else 0 * noise)
        return model.eval()

    def _network(self) -> nn.Module:
        def act() -> nn.Module:
            return nn.Tanh() if self.activation == "tanh" else nn.ReLU()

        width = self.width
        if self.kind == "mlp":
            return nn.Sequential(
                nn.Linear(self.inputs, width), act(), nn.Linear(width, width), act(),
                nn.Linear(width, self.classes),
            )  # fmt: skip
        side = round(self.inputs**0.5) // 2
        return nn.Sequential(
            nn.Conv2d(1, width // 4 or 1, 3, padding=1), act(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear((width // 4 or 1) * side * side, width), act(), nn.Linear(width, self.classes),
        )  # fmt: skip
