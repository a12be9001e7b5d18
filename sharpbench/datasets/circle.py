"""One mode of functions on the circle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset
from sharpbench.subject import Splits

__all__ = ["Circle"]


@datasets.register
@dataclass(frozen=True, kw_only=True)
class Circle(Dataset):
    """√2 A cos(``mode``·φ), or A for mode 0, at ``points`` angles φ evenly around the circle: a regression.

    The modes are the eigenfunctions of every kernel that depends on the angle between two points alone, and
    of the Laplacian, with the eigenvalue mode². Inputs are the points (√2 cos φ, √2 sin φ), whose coordinates
    have the mean square 1, as the targets have with the ``amplitude`` A = 1; the smaller A is, the less a
    wide network has to leave its beginning, and the closer it stays to its tangent kernel. The test points
    lie halfway between. Nothing is drawn: each seed has the same data.
    """

    name = "circle"
    reference = "Basri et al., arXiv:1906.00425 (frequencies on the circle)"

    mode: int = 1
    amplitude: float = 1.0
    points: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_noise:
            raise ValueError("circle has real targets, to which label_noise does not apply")
        if not 0 < self.amplitude < math.inf:
            raise ValueError(f"amplitude must be positive, got {self.amplitude}")
        if self.points < 2:
            raise ValueError(f"points must be at least 2, got {self.points}")
        if not 0 <= self.mode < self.points / 2:
            raise ValueError(
                f"mode must lie in [0, points/2), got {self.mode} of {self.points} points: a higher one "
                "can't be told from a lower one there"
            )

    def fingerprint(self, root: Path) -> str:
        return ""

    def clean(self, root: Path, *, seed: int) -> Splits:
        between = 2 * math.pi / self.points
        angles = between * torch.arange(self.points, dtype=torch.float64)
        return Splits(
            *self._at(angles), *self._at(angles + between / 2), outputs=1, task="regression"
        )

    def _at(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        size = math.sqrt(2)
        inputs = size * torch.stack([angles.cos(), angles.sin()], 1)
        targets = self.amplitude * (size if self.mode else 1.0) * (self.mode * angles).cos()
        return inputs.float(), targets.float().unsqueeze(1)
