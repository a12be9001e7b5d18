"""MNIST and Fashion-MNIST: the real files, 60 000 training and 10 000 test images of 28×28."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from sharpbench.datasets import datasets, files
from sharpbench.datasets.base import Dataset, stratified_subset
from sharpbench.errors import DataUnavailable
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits

__all__ = ["FashionMnist", "Mnist"]


@dataclass(frozen=True, kw_only=True)
class _IdxImages(Dataset, ABC):
    mean: ClassVar[float]
    std: ClassVar[float]

    train_size: int | None = None
    test_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, limit in (("train_size", 60_000), ("test_size", 10_000)):
            size = getattr(self, key)
            if size is not None and not 10 <= size <= limit:
                raise ValueError(f"{key} must lie between 10 and {limit}, got {size}")

    def fingerprint(self, root: Path) -> str:
        return files.FILE_SETS[self.name].fingerprint()

    def missing(self, root: Path) -> str | None:
        return files.FILE_SETS[self.name].missing(root)

    def clean(self, root: Path, *, seed: int) -> Splits:
        folder = files.FILE_SETS[self.name].locate(root)
        if folder is None:
            raise DataUnavailable(files.FILE_SETS[self.name].advice(root))
        train_x, train_y = self._read(folder, "train", self.train_size, seed)
        test_x, test_y = self._read(folder, "t10k", self.test_size, seed)
        return Splits(train_x, train_y, test_x, test_y, outputs=10)

    def _read(
        self, folder: Path, part: str, size: int | None, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images = files.read_idx(folder / f"{part}-images-idx3-ubyte")
        labels = files.read_idx(folder / f"{part}-labels-idx1-ubyte").astype(np.int64)
        chosen = stratified_subset(labels, size, seed=derive_seed(seed, "subset", part))
        pixels = torch.from_numpy(images[chosen]).float().div_(255).unsqueeze(1)
        return pixels.sub_(self.mean).div_(self.std), torch.from_numpy(labels[chosen])


@datasets.register
@dataclass(frozen=True, kw_only=True)
class Mnist(_IdxImages):
    """MNIST handwritten digits, 60 000 / 10 000 images of shape (1, 28, 28), ten classes.

    Pixels / 255, minus 0.1307, divided by 0.3081. ``train_size`` and ``test_size`` take a seeded
    stratified subset.
    """

    name = "mnist"
    reference = "LeCun, Cortes, Burges: The MNIST database of handwritten digits (1998)"
    mean = 0.1307
    std = 0.3081


@datasets.register
@dataclass(frozen=True, kw_only=True)
class FashionMnist(_IdxImages):
    """Fashion-MNIST articles of clothing, 60 000 / 10 000 images of shape (1, 28, 28), ten classes.

    Pixels / 255, minus 0.2860, divided by 0.3530. ``train_size`` and ``test_size`` take a seeded
    stratified subset.
    """

    name = "fashion_mnist"
    reference = "arXiv:1708.07747"
    mean = 0.2860
    std = 0.3530
