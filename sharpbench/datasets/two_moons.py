"""Two interleaved half circles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset, stratified_split
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits

__all__ = ["TwoMoons"]


@datasets.register
@dataclass(frozen=True, kw_only=True)
class TwoMoons(Dataset):
    """Two interleaved half circles with Gaussian noise (scikit-learn's make_moons), two classes in 2-D.

    The defaults are those of arXiv:2511.01438: 3000 points, noise 0.2, standardised, 70/30 split.
    The scaling is fitted on the training points alone.
    """

    name = "two_moons"
    reference = "scikit-learn make_moons; protocol of arXiv:2511.01438, section 5.2"
    imports = ("sklearn.datasets", "sklearn.model_selection", "sklearn.preprocessing")

    n: int = 3000
    noise: float = 0.2
    standardize: bool = True
    test_fraction: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 10:
            raise ValueError(f"n must be at least 10, got {self.n}")
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction must lie in (0, 1), got {self.test_fraction}")

    def fingerprint(self, root: Path) -> str:
        return ""

    def clean(self, root: Path, *, seed: int) -> Splits:
        from sklearn.datasets import make_moons
        from sklearn.preprocessing import StandardScaler

        inputs, targets = make_moons(
            self.n, noise=self.noise, random_state=derive_seed(seed, "points") % 2**32
        )
        train_x, train_y, test_x, test_y = stratified_split(
            inputs, targets, self.test_fraction, seed=derive_seed(seed, "split")
        )
        if self.standardize:
            scaler = StandardScaler().fit(train_x)
            train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)
        return Splits(
            torch.from_numpy(train_x).float(),
            torch.from_numpy(train_y).long(),
            torch.from_numpy(test_x).float(),
            torch.from_numpy(test_y).long(),
            outputs=2,
        )
