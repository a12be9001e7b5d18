"""The same network on a finer mesh."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.models.graph import GraphNetwork
from sharpbench.seeds import torch_generator

__all__ = ["MeshRefinement"]


@transformations.register
@dataclass(frozen=True)
class MeshRefinement(Transformation):
    """Control that changes the function: a graph network's filters on ``factor`` times as many other nodes.

    Nothing stays exactly, and everything in the limit: what the filters do is a function of the Laplacian's
    eigenfunctions, which the graph's approach as its nodes grow many. A metric that is one of the network and
    not of its mesh moves the less, the more nodes there were.
    """

    name = "mesh_refinement"
    reference = "arXiv:2601.06025 (graph convolutions on proximity graphs); Singer 2006 (rates)"
    kind = "control"
    preserves = "nothing"

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, got {self.factor}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        found = [m for m in model.modules() if isinstance(m, GraphNetwork)]
        if not found:
            raise TransformationRefused("no graph, and so no mesh to refine")
        for i, network in enumerate(found):
            count = self.factor * len(network.graph.nodes)
            network.on_other_nodes(count, torch_generator(seed + i))
