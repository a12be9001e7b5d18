"""How fast the eigenvalues of the Hessian fall."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.curvature.lanczos import extreme_eigenvalues
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.curvature import CurvatureMetric, ProductBudget, with_checks
from sharpbench.metrics.sampling import untold_points
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = ["HessianSpectrumDecay"]


@metrics.register
@dataclass(frozen=True)
class HessianSpectrumDecay(ProductBudget, CurvatureMetric):
    """Decay exponent of the training-loss Hessian's leading eigenvalues, a of λ_k ∝ k^−a.

    Minus the slope of log λ_k against log k by least squares over the ``count`` largest, k = 1 … ``count``.
    Lanczos's bounds on the eigenvalues add up to ``error_bound``; ``converged``: it is at most ``tolerance``.
    Fails where one of them is not positive.

    Parameters: ``max_products`` Hessian-vector products at most; else as those of ``hessian_top_eigenvalue``.
    """

    name = "hessian_spectrum_decay"
    title = "decay exponent of the Hessian's spectrum"
    unit = ""
    reference = "Xie et al., arXiv:2201.13011 (power laws in the spectrum); Parlett (1998)"

    tolerance: float = 0.05
    count: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.count <= self.max_products:
            raise ValueError(f"count must lie in [2, max_products], got {self.count}")

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        largest = eigenvalues.flip(0)[: self.count]
        if len(largest) < self.count or not bool(largest.min() > 0):
            raise MetricFailed(
                f"not all of the {self.count} largest eigenvalues are positive: there is no power law"
            )
        return float(-(self._weights() * largest.double().cpu().log()).sum())

    def _weights(self) -> Tensor:
        """Those of the slope of y against log k."""
        x = torch.arange(1, self.count + 1, dtype=torch.float64).log()
        centred = x - x.mean()
        return centred / centred.square().sum()

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        operator = self._operator(HessianOperator, subject, seed, Work())
        if operator.dimension < self.count:
            raise MetricFailed(f"{self.count} eigenvalues asked of {operator.dimension} parameters")
        result = extreme_eigenvalues(
            operator,
            count=self.count,
            tolerance=min(0.1 * self.tolerance, 0.5),
            max_products=self.max_products,
            generator=torch_generator(derive_seed(seed, "probes")),
        )
        found = torch.tensor(result.values, dtype=torch.float64)
        value = self.of_spectrum(found.flip(0))
        above = torch.tensor(result.error_bounds, dtype=torch.float64) / found
        bound = float((self._weights().abs() * above.log1p()).sum())
        return Measurement(
            value=value,
            errors=untold_points(operator.samples, self._population(subject)),
            error_bound=bound or None,
            converged=bound <= self.tolerance,
            samples=operator.samples,
            work=operator.work,
            details=with_checks(
                operator,
                {
                    "products": result.products,
                    "eigenvalues": list(result.values),
                    "absolute_tolerance": self.tolerance,
                },
            ),
        )
