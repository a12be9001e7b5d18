"""A graph convolution on a proximity graph, which answers for points that are none of its nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS, Activation, Model, check_equal_layers

__all__ = ["GraphConvolution", "GraphNetwork", "ProximityGraph", "circle", "two_moons"]

Geometry = Literal["two_moons", "circle"]

_SMOOTHEST = 0.9
"""Of 1 − ½(frequency·length)² so much may be gone: eigenvectors of what is left are rounding and noise."""


def two_moons(count: int, noise: float, generator: torch.Generator | None = None) -> Tensor:
    """Points of two half circles with normal noise, each coordinate of mean 0 and variance 1, (count, 2)."""
    turn = math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    upper = torch.rand(count, generator=generator, dtype=torch.float64) < 0.5
    x = torch.where(upper, turn.cos(), 1 - turn.cos())
    y = torch.where(upper, turn.sin(), 0.5 - turn.sin())
    jitter = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    points = torch.stack([x - 0.5, y - 0.25], 1) + noise * jitter
    variance = points.new_tensor([0.75, 0.5625 - 1 / math.pi]) + noise**2
    return points / variance.sqrt()


def circle(count: int, radius: float) -> Tensor:
    """Points evenly around the circle, (count, 2)."""
    angles = 2 * math.pi / count * torch.arange(count, dtype=torch.float64)
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


class ProximityGraph(nn.Module):
    """The lowest eigenfunctions of a proximity graph's Laplacian, at its nodes and anywhere else.

    Weights exp(−‖xᵢ − xⱼ‖²/2ℓ²) of all pairs, P = D⁻¹W their random walk: (2/ℓ²)(1 − P) tends to the
    Laplacian of the nodes' density as the nodes grow many and the ``length`` ℓ small. Kept are the
    eigenfunctions φₖ whose eigenvalue κₖ is at most ``cutoff``²: of frequency √κₖ, normalised to
    Σ πᵢ φₖ(i)² = 1 with the walk's stationary π. Elsewhere they are Nyström's extension
    φₖ(x) = Σⱼ p(x, xⱼ) φₖ(j)/(1 − κₖℓ²/2), which is φₖ itself at the nodes; p(x, ·) is the step of a walker
    from x, a softmax.

    Raises ValueError where the cutoff is too high for the length.
    """

    nodes: Tensor
    waves: Tensor
    frequencies: Tensor
    stationary: Tensor

    def __init__(self, nodes: Tensor, length: float, cutoff: float) -> None:
        super().__init__()
        if not 0.5 * (cutoff * length) ** 2 <= _SMOOTHEST:
            raise ValueError(
                f"a length of {length:g} resolves frequencies up to "
                f"{math.sqrt(2 * _SMOOTHEST) / length:.3g}, and cutoff is {cutoff:g}"
            )
        self.length, self.cutoff = length, cutoff
        nodes = nodes.double()
        weights = (-0.5 * torch.cdist(nodes, nodes).square() / length**2).exp()
        degree = weights.sum(1)
        kept, waves = torch.linalg.eigh(weights / degree.sqrt() / degree.sqrt()[:, None])
        squared = 2 / length**2 * (1 - kept)
        low = squared <= cutoff**2
        waves = waves[:, low] * (degree.sum() / degree).sqrt()[:, None]
        self.register_buffer("nodes", nodes)
        self.register_buffer("waves", waves)
        self.register_buffer("frequencies", squared[low].clamp_min(0).sqrt())
        self.register_buffer("stationary", degree / degree.sum())

    def forward(self, x: Tensor) -> Tensor:
        """The eigenfunctions at ``x`` (N, d), (N, K)."""
        apart = x @ self.nodes.T - 0.5 * self.nodes.square().sum(
            1
        )  # up to ½‖x‖², the same for all nodes
        step = (apart / self.length**2).softmax(1)
        kept = 1 - 0.5 * (self.frequencies * self.length).square()
        extended: Tensor = step @ (self.waves / kept)
        return extended

    def transformed(self, values: Tensor) -> Tensor:
        """The coefficients (K, F) of values at the nodes (n, F)."""
        coefficients: Tensor = (self.waves * self.stationary[:, None]).T @ values
        return coefficients

    def extra_repr(self) -> str:
        nodes, waves = self.waves.shape
        return (
            f"{nodes} nodes, {waves} eigenfunctions, length {self.length:g}, cutoff {self.cutoff:g}"
        )


class _Filter(nn.Module):
    """A linear map of features for each frequency, a polynomial in its square, and a bias.

    Times 1 − κ/cutoff²: a frequency that another mesh moves across the cutoff changes nothing at once.
    """

    def __init__(self, inputs: int, outputs: int, degree: int) -> None:
        super().__init__()
        spread = (2 / (inputs * (degree + 1))) ** 0.5
        self.coefficients = nn.Parameter(spread * torch.randn(degree + 1, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, coefficients: Tensor, frequencies: Tensor, cutoff: float) -> Tensor:
        """Chebyshev polynomials of κ between 0 and cutoff²."""
        at = (2 * (frequencies / cutoff).square() - 1).unsqueeze(1)
        earlier, now = torch.ones_like(at), at
        coefficients = coefficients * (1 - (frequencies / cutoff).square()).unsqueeze(1)
        found = coefficients @ self.coefficients[0]
        for weights in self.coefficients[1:]:
            found = found + now * (coefficients @ weights)
            earlier, now = now, 2 * at * now - earlier
        return found


class GraphNetwork(nn.Module):
    """Filters on a `ProximityGraph` with an activation between them; of points (N, d) its outputs (N, C).

    The features at the nodes begin as their coordinates. ``draw(count, generator)`` gives other nodes of the
    same law, for another graph of the same network: no parameter belongs to a node or an eigenfunction.
    """

    def __init__(
        self,
        graph: ProximityGraph,
        widths: list[int],
        degree: int,
        activation: Callable[[], nn.Module],
        draw: Callable[[int, torch.Generator | None], Tensor],
    ) -> None:
        super().__init__()
        self.graph, self.draw = graph, draw
        self.filters = nn.ModuleList(_Filter(a, b, degree) for a, b in pairwise(widths))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        waves, graph = self.graph(x), self.graph
        values = graph.nodes
        for i, each in enumerate(self.filters):
            found = each(graph.transformed(values), graph.frequencies, graph.cutoff)
            if i == len(self.filters) - 1:
                break
            values = self.activation(graph.waves @ found + each.bias)
        outputs: Tensor = waves @ found + self.filters[-1].bias
        return outputs

    def on_other_nodes(self, count: int, generator: torch.Generator | None) -> None:
        """The same filters on the graph of ``count`` other nodes."""
        old = self.graph
        graph = ProximityGraph(self.draw(count, generator), old.length, old.cutoff)
        self.graph = graph.to(old.nodes)


@dataclass(frozen=True)
class _Law:
    """Where nodes come from."""

    geometry: Geometry
    noise: float

    def __call__(self, count: int, generator: torch.Generator | None) -> Tensor:
        if self.geometry == "circle":
            return circle(count, math.sqrt(2))
        return two_moons(count, self.noise, generator)


@models.register
@dataclass(frozen=True)
class GraphConvolution(Model):
    """Spectral graph convolutions on a proximity graph, below a frequency ``cutoff``.

    ``nodes`` points without labels, drawn once from the law of the data (`two_moons` of that ``noise``,
    standardised, or evenly on the `circle`), carry a graph with Gaussian weights of ``length``. ``depth``
    hidden layers of ``width`` features each multiply the coefficients of its Laplacian's eigenfunctions by a
    polynomial of ``degree`` in the squared frequency, which falls to zero at the cutoff. At the nodes it is
    the usual network of a graph; at any other point the eigenfunctions are Nyström's, so that each output
    depends on its own input alone. No parameter belongs to a node: on more nodes it is the same network
    (`mesh_refinement`).
    """

    name = "graph_convolution"
    reference = "Defferrard et al., arXiv:1606.09375; arXiv:2601.06025 (proximity graphs, cutoff)"

    geometry: Geometry = "two_moons"
    nodes: int = 128
    noise: float = 0.2
    length: float = 0.3
    cutoff: float = 4.0
    width: int = 16
    depth: int = 1
    degree: int = 3
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        check_equal_layers(self.width, self.depth)
        if self.nodes < 2 or self.degree < 0 or not 0 <= self.noise < math.inf:
            raise ValueError("nodes must be at least 2, degree and noise not negative")
        if not self.length > 0 or not self.cutoff > 0:
            raise ValueError("length and cutoff must be positive")
        ProximityGraph(torch.zeros(2, 2), self.length, self.cutoff)

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if input_shape != (2,):
            raise InputError(
                f"model 'graph_convolution' takes points of the plane, (2,); this dataset has inputs of "
                f"shape {input_shape}"
            )
        law = _Law(self.geometry, self.noise)
        graph = ProximityGraph(law(self.nodes, None), self.length, self.cutoff)
        widths = [2, *[self.width] * self.depth, outputs]
        network = GraphNetwork(graph, widths, self.degree, ACTIVATIONS[self.activation], law)
        return network.to(torch.get_default_dtype())
