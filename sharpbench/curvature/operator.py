"""The contract of a symmetric linear operator that is known by its products alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sharpbench.errors import MetricFailed
from sharpbench.measurement import Work

__all__ = ["MatrixOperator", "SymmetricOperator", "coordinates"]


class SymmetricOperator(ABC):
    """A symmetric operator of shape (P, P).

    Vectors come in any precision and leave in the operator's ``dtype``; recurrences over them run in
    float64. ``work`` counts the passes over the model that the products took.
    """

    dimension: int
    dtype: torch.dtype
    device: torch.device
    work: Work
    samples: int
    """Samples that one product passes over."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.dimension, self.dimension

    def matvec(self, vector: Tensor) -> Tensor:
        """A·v for v (P,)."""
        return self.matmat(vector.unsqueeze(1)).squeeze(1)

    @abstractmethod
    def matmat(self, vectors: Tensor) -> Tensor:
        """A·V for a block V (P, K)."""

    def guess(self) -> Tensor | None:
        """A direction (P,) that likely leans on the leading eigenvectors, if one comes cheaply."""
        return None

    def dense(self) -> Tensor:
        """The whole matrix, column by column; for tests and tiny networks."""
        return self.matmat(torch.eye(self.dimension, device=self.device, dtype=self.dtype))

    def check_product(self, product: Tensor) -> Tensor:
        """``product`` itself. Raises MetricFailed if it is not finite."""
        # The sum is finite only where all is; it may overflow where they are.
        if not torch.isfinite(product.sum()) and not torch.isfinite(product).all():
            raise MetricFailed("a product with the operator is not finite")
        return product


class MatrixOperator(SymmetricOperator):
    """A given symmetric matrix (P, P); one product counts as one Hessian-vector product."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.dimension, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device
        self.samples, self.work = 1, Work()

    def matmat(self, vectors: Tensor) -> Tensor:
        self.work.hessian_vector += vectors.shape[1]
        return self.check_product(self.matrix @ vectors.to(self.matrix))


def coordinates(tensor: Tensor) -> Tensor:
    """What is differentiated in: a complex number counts as its two parts.

    torch's gradient of a real loss in a complex number is ∂ℓ/∂Re + i·∂ℓ/∂Im, so that its parts, and those
    of each product, are the real derivatives.
    """
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
