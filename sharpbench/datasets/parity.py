"""Corners of the hypercube, labelled by the product of two coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset
from sharpbench.seeds import numpy_generator
from sharpbench.subject import Splits

__all__ = ["Parity"]


@datasets.register
@dataclass(frozen=True, kw_only=True)
class Parity(Dataset):
    """Distinct corners x of {−1, 1}^``dimension`` with the real target y = x₁x₂: a regression.

    ``train`` and ``test`` count the points; no point is in both. Two coordinates decide, the others say
    nothing: who knows the training points alone knows nothing of the test points.
    """

    name = "parity"
    reference = "arXiv:2307.11007, section 4 (XOR)"

    dimension: int = 12
    train: int = 100
    test: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_noise:
            raise ValueError("parity has real targets, to which label_noise does not apply")
        if not 2 <= self.dimension <= 60:
            raise ValueError(f"dimension must lie in [2, 60], got {self.dimension}")
        if min(self.train, self.test) < 1 or self.train + self.test > 2**self.dimension:
            raise ValueError(
                f"{self.train} and {self.test} distinct points were asked of the 2^{self.dimension} there are"
            )

    def fingerprint(self, root: Path) -> str:
        return ""

    def clean(self, root: Path, *, seed: int) -> Splits:
        chosen = _distinct(numpy_generator(seed), self.dimension, self.train + self.test)
        bits = (torch.tensor(chosen)[:, None] >> torch.arange(self.dimension)) & 1
        points = 2.0 * bits.float() - 1
        targets = points[:, :1] * points[:, 1:2]
        return Splits(
            points[: self.train],
            targets[: self.train],
            points[self.train :],
            targets[self.train :],
            outputs=1,
            task="regression",
        )


def _distinct(rng: np.random.Generator, dimension: int, count: int) -> list[int]:
    """``count`` different numbers of ``dimension`` bits, in the order drawn."""
    found: dict[int, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(rng.integers(0, 2**dimension, count).tolist()))
    return list(found)[:count]
