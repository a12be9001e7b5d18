"""Linear targets without noise, of features whose covariance has a spectrum that is a power law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Splits

__all__ = ["PowerLaw"]


@datasets.register
@dataclass(frozen=True, kw_only=True)
class PowerLaw(Dataset):
    """y = θ·x, normal x of the covariance diag(j^−``decay``), θⱼ = j^(−``smoothness``/2): a regression.

    j = 1 … ``dimension``. The Hessian of a linear model's ½ squared error is the covariance of the training
    points. One pass of stochastic gradient descent with a fixed step from zero over n of them leaves a risk
    that falls as n^−(α + 1) with α = min((``smoothness`` − 1)/``decay``, 1 − 1/``decay``), how regular the
    target and how regular the features are (Berthier et al.), until the dimension is felt. ``train`` and
    ``test`` count the points; a larger training set of one seed begins with the smaller one.
    """

    name = "power_law"
    reference = "Berthier, Bach & Gaillard, arXiv:2006.08212 (the noiseless linear model)"

    decay: float = 2.0
    smoothness: float = 1.5
    dimension: int = 256
    train: int = 1024
    test: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_noise:
            raise ValueError("power_law has real targets, to which label_noise does not apply")
        if not 1 < self.decay < math.inf or not 1 < self.smoothness < math.inf:
            raise ValueError(
                "decay and smoothness must be finite and exceed 1, or the features or the target have no "
                f"bound in many dimensions, got {self.decay} and {self.smoothness}"
            )
        if min(self.dimension, self.train, self.test) < 1:
            raise ValueError("dimension, train and test must be at least 1")

    def fingerprint(self, root: Path) -> str:
        return ""

    def clean(self, root: Path, *, seed: int) -> Splits:
        j = torch.arange(1, self.dimension + 1, dtype=torch.float64)
        scales, target = j ** (-self.decay / 2), j ** (-self.smoothness / 2)

        def drawn(split: str, points: int) -> tuple[Tensor, Tensor]:
            generator = torch_generator(derive_seed(seed, split))
            shape = (points, self.dimension)
            x = torch.randn(shape, generator=generator, dtype=torch.float64) * scales
            return x.float(), (x @ target).float().unsqueeze(1)

        return Splits(
            *drawn("train", self.train), *drawn("test", self.test), outputs=1, task="regression"
        )
