"""The contract of a dataset, and what datasets share: label noise and stratified subsets."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sharpbench.registry import Plugin
from sharpbench.seeds import derive_seed, numpy_generator
from sharpbench.subject import Splits

__all__ = ["Dataset", "stratified_split", "stratified_subset"]


@dataclass(frozen=True, kw_only=True)
class Dataset(Plugin, ABC):
    """Training and test data as tensors, a function of the parameters and a seed alone.

    ``label_noise`` is the share of labels replaced by another class, drawn uniformly;
    ``noisy_split`` says where: in the training labels, or in all of them (then the noise rate is a
    floor under the test error, as in the Two Moons experiments of arXiv:2511.01438).
    """

    imports: ClassVar[tuple[str, ...]] = ()
    """Modules that `load` imports and the dataset's own doesn't: worker processes are given them at once."""

    label_noise: float = 0.0
    noisy_split: Literal["train", "all"] = "train"

    def __post_init__(self) -> None:
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise must lie in [0, 1], got {self.label_noise}")

    @abstractmethod
    def clean(self, root: Path, *, seed: int) -> Splits:
        """The splits before label noise. Raises DataUnavailable if files are missing or wrong."""

    def fingerprint(self, root: Path) -> str | None:
        """What identifies the data apart from the parameters, without loading it: a part of every key.

        ``""`` for data that the parameters and the seed make. For files under ``root``, their hash or
        version; it must not fail where they are missing. None, where it can't be told: what is loaded is
        then compared by each run with what the network was trained on.
        """
        return None

    def missing(self, root: Path) -> str | None:
        """None if `load` will find its data under ``root``, else what is missing (no hashing)."""
        return None

    def load(self, root: Path, *, seed: int) -> Splits:
        """The splits, label noise included.

        The draw of the split and that of the noise come from separate seeds, so that two noise
        levels of one seed share their points.
        """
        splits = self.clean(root, seed=derive_seed(seed, "split"))
        if self.label_noise == 0:
            return splits
        rng = numpy_generator(derive_seed(seed, "label_noise"))
        changed: dict[str, Any] = {
            "train_targets": self._flip(splits.train_targets, splits.outputs, rng)
        }
        if self.noisy_split == "all":
            changed["test_targets"] = self._flip(splits.test_targets, splits.outputs, rng)
        return dataclasses.replace(splits, **changed)

    def _flip(self, targets: Tensor, classes: int, rng: np.random.Generator) -> Tensor:
        """Exactly round(noise × N) labels move to another class."""
        labels = targets.numpy().reshape(-1).copy()  # of tokens each has its own
        chosen = rng.permutation(len(labels))[: round(self.label_noise * len(labels))]
        labels[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
        return torch.from_numpy(labels).reshape(targets.shape)


def stratified_split(
    inputs: np.ndarray, targets: np.ndarray, test_fraction: float, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """train inputs, train targets, test inputs, test targets; class shares kept (scikit-learn)."""
    # Here and not above: datasets are listed without it.
    from sklearn.model_selection import train_test_split

    train_x, test_x, train_y, test_y = train_test_split(
        inputs, targets, test_size=test_fraction, stratify=targets, random_state=seed % 2**32
    )
    return train_x, train_y, test_x, test_y


def stratified_subset(targets: np.ndarray, size: int | None, *, seed: int) -> np.ndarray:
    """Sorted indices of ``size`` samples, class shares kept; all of them if ``size`` is None.

    Raises ValueError if ``size`` exceeds the number of samples.
    """
    if size is None or size == len(targets):
        return np.arange(len(targets))
    if size > len(targets):
        raise ValueError(f"a subset of {size} was asked of {len(targets)} samples")
    from sklearn.model_selection import train_test_split

    chosen, _ = train_test_split(
        np.arange(len(targets)), train_size=size, stratify=targets, random_state=seed % 2**32
    )
    return np.sort(chosen)
