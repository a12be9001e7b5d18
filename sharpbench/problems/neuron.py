"""A single neuron, as a two-layer network of any width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem, normal
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import KnownPathNorm

__all__ = ["OneNeuron"]


@problems.register
@dataclass(frozen=True, kw_only=True)
class OneNeuron(Problem, KnownPathNorm):
    """f(x) = a max(w·x, 0) with |a| ‖w‖₁ = ``norm``, as a two-layer ReLU network of ``width`` units.

    Its Barron norm is at most |a| ‖w‖₁, while it lies in no tangent kernel's space: what two-layer networks
    of bounded norm learn and kernels don't. The units share w in random parts cₖw and (a/m)/cₖ: the
    function, and the path norm of order one, |a| ‖w‖₁, are the same at every width; that of order p is
    |a| ‖w‖_p m^(1/p − 1). The targets are the function's own.
    """

    name = "one_neuron"
    title = "a single ReLU unit"
    reference = "E, Ma & Wu, arXiv:1906.08039 (Barron norm); Liu et al., arXiv:2404.18769"

    width: int = 16
    features: int = 8
    norm: float = 2.0
    points: int = 128

    def __post_init__(self) -> None:
        if min(self.width, self.features, self.points) < 1:
            raise ValueError("width, features and points must be at least 1")
        if not self.norm > 0:
            raise ValueError(f"norm must be positive, got {self.norm}")

    def subject(self, *, seed: int) -> Subject:
        generator = torch_generator(derive_seed(seed, "problem"))
        drawn = normal(generator, self.features)
        w = drawn / drawn.abs().sum()
        shares = 0.5 + torch.rand(self.width, 1, generator=generator, dtype=torch.float64)
        inner = nn.Linear(self.features, self.width, bias=False)
        outer = nn.Linear(self.width, 1, bias=False)
        model = nn.Sequential(inner, nn.ReLU(), outer).double()
        x = normal(generator, self.points, self.features)
        with torch.no_grad():
            inner.weight.copy_(shares * w)
            outer.weight.copy_(self.norm / self.width / shares.T)
            return Subject(model, x, model(x))

    def path_norm(self, subject: Subject, order: float) -> float:
        first = next(subject.model.parameters()).detach().double()[0]
        unit = first / first.abs().sum()
        length = float((unit.abs() ** order).sum()) ** (1 / order)
        return float(self.norm * length * self.width ** (1 / order - 1))
