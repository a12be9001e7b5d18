"""A filter on the graph of a circle, whose Laplacian is known at every number of nodes, and in the limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.models.graph import ProximityGraph, circle
from sharpbench.problems import problems
from sharpbench.problems.base import Problem, normal
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import KnownHessian

__all__ = ["GraphCircle"]


class _HeatFilter(nn.Module):
    """x ↦ Σ θₖ exp(−``time``·κₖ) φₖ(x) over the eigenfunctions of the graph."""

    def __init__(self, graph: ProximityGraph, time: float, weights: Tensor) -> None:
        super().__init__()
        self.graph, self.time = graph, time
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        damped = (-self.time * self.graph.frequencies.square()).exp() * self.weights
        outputs: Tensor = self.graph(x) @ damped.unsqueeze(1)
        return outputs


@problems.register
@dataclass(frozen=True, kw_only=True)
class GraphCircle(Problem, KnownHessian):
    """f(x) = Σ θₖ exp(−``time``·κₖ) φₖ(x), over the lowest eigenfunctions of a graph on the circle.

    ``nodes`` evenly around the unit circle, with weights of the length ℓ = √(2π/nodes): the eigenfunctions
    are cosines and sines, here of the frequencies up to ``modes``, and κₖ = (2/ℓ²)(1 − ŵₖ/ŵ₀) of the weights'
    Fourier transform ŵ. As the nodes grow many κₖ tends to k², that of the Laplacian, with the error
    −ℓ²(k⁴ − 2k²)/4 = −(π/2)(k⁴ − 2k²)/nodes. Of ½ squared error at the nodes the Hessian's eigenvalues are
    exp(−2·``time``·κₖ), twice each but the first: does a metric converge as the mesh is refined?
    """

    name = "graph_circle"
    title = "filter on the graph of a circle"
    reference = "Belkin & Niyogi 2003; Singer 2006 (rates); arXiv:2601.06025"
    quadratic = True

    nodes: int = 64
    modes: int = 3
    time: float = 0.1

    def __post_init__(self) -> None:
        if self.modes < 0 or not 0 < self.time < math.inf:
            raise ValueError("modes must not be negative, time must be positive")
        if self.nodes < 16 * max(self.modes, 1):
            raise ValueError(
                f"nodes must be at least 16 for each mode, {16 * max(self.modes, 1)}, got {self.nodes}: "
                "their graph has no such eigenfunctions otherwise"
            )

    @property
    def _length(self) -> float:
        return math.sqrt(2 * math.pi / self.nodes)

    def subject(self, *, seed: int) -> Subject:
        generator = torch_generator(derive_seed(seed, "problem"))
        points = circle(self.nodes, 1.0)
        squared = self._squared_frequencies()
        # Between the last mode that is kept and the first that isn't.
        cutoff = math.sqrt(float(squared[self.modes] + squared[self.modes + 1]) / 2)
        graph = ProximityGraph(points, self._length, cutoff)
        model = _HeatFilter(graph, self.time, normal(generator, 2 * self.modes + 1))
        return Subject(model.double(), points, normal(generator, self.nodes, 1))

    def _squared_frequencies(self) -> Tensor:
        """κ of each mode, from the Fourier transform of a row of the weights."""
        angles = 2 * math.pi / self.nodes * torch.arange(self.nodes, dtype=torch.float64)
        weights = ((angles.cos() - 1) / self._length**2).exp()  # of chords, ‖x − y‖² = 2 − 2 cos θ
        transform = torch.fft.rfft(weights).real
        squared: Tensor = 2 / self._length**2 * (1 - transform / transform[0])
        return squared

    def eigenvalues(self, subject: Subject) -> Tensor:
        return self._damped(self._squared_frequencies()[: self.modes + 1])

    def limiting_eigenvalues(self, subject: Subject) -> Tensor:
        return self._damped(torch.arange(self.modes + 1, dtype=torch.float64).square())

    def _damped(self, squared: Tensor) -> Tensor:
        """Rising; each mode but the constant has a cosine and a sine."""
        each = (-2 * self.time * squared).exp()
        both = torch.cat([each, each[1:]])
        values: Tensor = both.sort().values
        return values
