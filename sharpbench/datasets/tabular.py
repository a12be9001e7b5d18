"""Small real tables that scikit-learn ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset, stratified_split
from sharpbench.seeds import numpy_generator
from sharpbench.subject import Splits

__all__ = ["Tabular"]


@datasets.register
@dataclass(frozen=True, kw_only=True)
class Tabular(Dataset):
    """A real table that scikit-learn ships: 569 × 30 ``breast_cancer``, ``wine``, ``iris`` or ``diabetes``.

    Breast cancer has two classes, 178 × 13 wine and 150 × 4 iris three; 442 × 10 diabetes is a regression.
    Each column, and the target of diabetes, is standardised by mean and standard deviation of the whole
    table: the scale of the inputs, on which every input-space metric depends, does not change with the split.
    """

    name = "tabular"
    reference = "UCI ML repository; diabetes: Efron, Hastie, Johnstone & Tibshirani (2004)"

    table: Literal["breast_cancer", "wine", "iris", "diabetes"] = "breast_cancer"
    test_fraction: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction must lie in (0, 1), got {self.test_fraction}")
        if self.label_noise and self.table == "diabetes":
            raise ValueError("diabetes has real targets, to which label_noise does not apply")

    def fingerprint(self, root: Path) -> str:
        return ""

    def clean(self, root: Path, *, seed: int) -> Splits:
        import sklearn.datasets

        bunch = getattr(sklearn.datasets, f"load_{self.table}")()
        inputs = _standardised(bunch.data)
        if self.table == "diabetes":
            order = numpy_generator(seed).permutation(len(inputs))
            held = round(self.test_fraction * len(inputs))
            x, y = inputs[order], _standardised(bunch.target[:, None])[order]
            parts = (x[held:], y[held:], x[:held], y[:held])
            a, b, c, d = (torch.from_numpy(part).float() for part in parts)
            return Splits(a, b, c, d, outputs=1, task="regression")
        train_x, train_y, test_x, test_y = stratified_split(
            inputs, bunch.target, self.test_fraction, seed=seed
        )
        return Splits(
            torch.from_numpy(train_x).float(),
            torch.from_numpy(train_y).long(),
            torch.from_numpy(test_x).float(),
            torch.from_numpy(test_y).long(),
            outputs=len(bunch.target_names),
        )


def _standardised(columns: np.ndarray) -> np.ndarray:
    return np.asarray((columns - columns.mean(0)) / columns.std(0))
