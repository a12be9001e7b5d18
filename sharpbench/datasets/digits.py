"""scikit-learn's 8×8 handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset, stratified_split, stratified_subset
from sharpbench.registry import added_later
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits

__all__ = ["Digits"]

# Mean and standard deviation of all 1797 × 64 pixels / 16; constants, so that the scale of the
# input, on which every input-space metric depends, does not change with the split.
_MEAN, _STD = 0.3053, 0.3760


@datasets.register
@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1797 real handwritten digits of 8×8 pixels in ten classes (UCI, shipped with scikit-learn).

    Inputs have shape (1, 8, 8), pixels / 16 minus the mean 0.3053, divided by 0.3760. ``train_size`` takes a
    seeded stratified subset of the training images; the test images are the same for each.
    """

    name = "digits"
    reference = "UCI ML repository, Optical Recognition of Handwritten Digits (1998)"
    imports = ("sklearn.datasets", "sklearn.model_selection", "sklearn.preprocessing")

    test_fraction: float = 0.3
    train_size: int | None = added_later(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction must lie in (0, 1), got {self.test_fraction}")
        if self.train_size is not None and self.train_size < 10:
            raise ValueError(f"train_size must be at least 10, got {self.train_size}")

    def fingerprint(self, root: Path) -> str:
        return ""

    def clean(self, root: Path, *, seed: int) -> Splits:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        inputs = (bunch.images[:, None] / 16 - _MEAN) / _STD
        train_x, train_y, test_x, test_y = stratified_split(
            inputs, bunch.target, self.test_fraction, seed=seed
        )
        chosen = stratified_subset(train_y, self.train_size, seed=derive_seed(seed, "subset"))
        train_x, train_y = train_x[chosen], train_y[chosen]
        return Splits(
            torch.from_numpy(train_x).float(),
            torch.from_numpy(train_y).long(),
            torch.from_numpy(test_x).float(),
            torch.from_numpy(test_y).long(),
            outputs=10,
        )
