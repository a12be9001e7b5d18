"""What a library that computes curvature is asked, and what its answer must state."""

from __future__ import annotations

from abc import ABC
from importlib.util import find_spec
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sharpbench.errors import MetricUnsupported
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics.sampling import untold_points
from sharpbench.subject import Subject

__all__ = ["BATCH", "Backend", "Matrix"]

BATCH = 2048
"""Beyond this many samples a library is given a list of batches, as its manual does for a data set."""

Matrix = Literal["hessian", "gauss_newton"]


class _Rows(nn.Module):
    """Around a network that is called with samples' numbers: a library's hooks see the outputs alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.network(rows)
        return outputs


class Backend(ABC):
    """One computation by another library, on one subject's points.

    A backend overrides the figures that its library has. The answer states what the library does: its
    ``work`` is counted, ``converged`` is what its own stopping rule says (True where it has none), and an
    error that it doesn't tell is a component of unknown size, never left out. No library tells the error
    of a part of the ``population`` of samples: ``points`` is that component.

    ``inputs`` (N, …) and ``targets`` (N, …): the points, the same for every implementation of a metric.
    The model is a copy in ``dtype``; ``seed`` is that of the library's random vectors.
    """

    title: ClassVar[str]
    """The library's own spelling of its name."""

    package: ClassVar[str] = ""
    """What is imported, if anything."""

    extra: ClassVar[str] = ""
    """The extra of sharpbench that installs it; sharpbench itself does, if empty."""

    @classmethod
    def missing(cls) -> str | None:
        """What to install first, or None if it is there."""
        if not cls.package or find_spec(cls.package) is not None:
            return None
        how = f"sharpbench[{cls.extra}]" if cls.extra else cls.package
        return f"{cls.title} is not installed: pip install '{how}'"

    def __init__(
        self,
        subject: Subject,
        dtype: torch.dtype,
        inputs: Tensor,
        targets: Tensor,
        *,
        matrix: Matrix,
        population: int,
        seed: int,
    ) -> None:
        if reason := self.missing():
            raise MetricUnsupported(reason)
        self.subject, self.matrix, self.seed = subject, matrix, seed
        self.inputs, self.targets = inputs, targets
        self.model = subject.working_model(dtype)
        if subject.front is not None:
            self.model = _Rows(self.model)
        self.points = untold_points(len(inputs), population)
        self.work = Work()

    @property
    def samples(self) -> int:
        return len(self.inputs)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.inputs.split(BATCH), self.targets.split(BATCH), strict=True))

    def top_eigenvalue(self, tolerance: float, max_products: int) -> Measurement:
        """The largest eigenvalue, to ``tolerance`` relative to it by the library's own rule."""
        raise self.lacking("top eigenvalue")

    def trace(self, tolerance: float, max_probes: int) -> Measurement:
        """The trace; a library without a stopping rule takes ``max_probes`` whatever the tolerance."""
        raise self.lacking("trace")

    def frobenius_norm(self, tolerance: float, max_probes: int) -> Measurement:
        """The Frobenius norm, its budget as that of `trace`."""
        raise self.lacking("Frobenius norm")

    def spectral_density(self, steps: int, probes: int) -> Measurement:
        """The negative share of the spectrum, by ``probes`` starts of ``steps`` Lanczos steps."""
        raise self.lacking("spectral density")

    def lacking(self, what: str) -> MetricUnsupported:
        """The error that says that the library has no such thing."""
        return MetricUnsupported(f"{self.title} computes no {what}")
