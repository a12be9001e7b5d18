"""What a metric answers: a value with its uncertainty, and the work that it took."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sharpbench.errors import NotFinite

__all__ = ["Measurement", "Work"]


@dataclass
class Work:
    """Passes over the model, counted in samples by the operators that make them.

    The unit that makes figures comparable across machines is the *gradient-equivalent*: the cost of
    one gradient over ``samples`` samples. The convention is the usual operation count of reverse
    mode (Griewank & Walther 2008, ch. 4): a forward pass is 1/3 of a gradient, a Hessian-vector
    product 2 gradients, and each further nested derivative doubles (order k: 2^(k-1)).
    """

    forward: float = 0.0
    gradient: float = 0.0
    hessian_vector: float = 0.0
    higher: float = 0.0
    """Derivatives of order > 2, already weighted: samples × 2^(k-1)."""

    def gradient_samples(self) -> float:
        """All passes, in samples of one gradient."""
        return self.forward / 3 + self.gradient + 2 * self.hessian_vector + self.higher

    def gradient_equivalents(self, samples: int) -> float:
        """The cost in gradients over ``samples`` samples."""
        return self.gradient_samples() / samples

    def add_derivative(self, order: int, samples: int) -> None:
        """Count one nested reverse pass of ``order`` ≥ 1 over ``samples`` samples."""
        if order == 1:
            self.gradient += samples
        elif order == 2:
            self.hessian_vector += samples
        else:
            self.higher += samples * 2 ** (order - 1)


@dataclass(frozen=True)
class Measurement:
    """One figure of one metric on one subject.

    ``standard_error`` is None when the value carries no sampling error. ``converged`` is False when
    the estimator ran out of budget before it met its tolerance: the value is then its best one.
    ``details`` is small and JSON-able. Raises NotFinite, a MetricFailed, for a non-finite value.
    """

    value: float
    standard_error: float | None = None
    converged: bool = True
    samples: int = 0
    work: Work = field(default_factory=Work)
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise NotFinite(f"a measurement must be finite, got {self.value}")
        if self.standard_error is not None and not math.isfinite(self.standard_error):
            raise NotFinite(f"a standard error must be finite or None, got {self.standard_error}")
