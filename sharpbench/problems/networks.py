"""Small losses on which implementations are known to go wrong, with the right answer beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from sharpbench.problems import problems
from sharpbench.problems.base import DrawnHessian, TrapKind, normal
from sharpbench.subject import Subject

__all__ = ["TinyNetwork", "UnequalBatches", "UnusedParameter"]


@problems.register
@dataclass(frozen=True, kw_only=True)
class TinyNetwork(DrawnHessian):
    """A small tanh or ReLU network whose whole Hessian is formed, by forward over reverse mode.

    With ``training_steps`` of Adam on all samples it learns the classes of a random linear map; without,
    weights and labels are drawn.
    """

    name = "tiny_network"
    title = "tiny network"
    reference = "torch.func.hessian, dense"
    residual_free = False

    features: int = 6
    width: int = 8
    classes: int = 3
    samples: int = 128
    activation: Literal["tanh", "relu"] = "tanh"
    training_steps: int = 0

    def build(self, generator: torch.Generator) -> Subject:
        hidden = nn.Tanh() if self.activation == "tanh" else nn.ReLU()
        model = nn.Sequential(
            nn.Linear(self.features, self.width), hidden, nn.Linear(self.width, self.classes)
        ).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(normal(generator, *parameter.shape) / parameter.shape[-1] ** 0.5)
        x = normal(generator, self.samples, self.features)
        labels = torch.randint(self.classes, (self.samples,), generator=generator)
        if self.training_steps:
            labels = (x @ normal(generator, self.features, self.classes)).argmax(1)
        subject = Subject(model, x, labels)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(self.training_steps):
            optimizer.zero_grad(set_to_none=True)
            subject.losses(model(x), labels).mean().backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return subject

    def eigenvalues(self, subject: Subject) -> Tensor:
        model, x = subject.model.double(), subject.inputs.double()
        shapes = {n: p.shape for n, p in model.named_parameters()}
        flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

        def loss(vector: Tensor) -> Tensor:
            pieces = vector.split([s.numel() for s in shapes.values()])
            weights = {n: v.view(s) for (n, s), v in zip(shapes.items(), pieces, strict=True)}
            return subject.losses(functional_call(model, weights, (x,)), subject.targets).mean()

        values: Tensor = torch.linalg.eigvalsh(hessian(loss)(flat))
        return values


@problems.register
@dataclass(frozen=True, kw_only=True)
class UnequalBatches(DrawnHessian):
    """Least squares whose last samples, a batch of their own, are ten times as long as the others."""

    name = "unequal_batches"
    title = "unequal batches"
    reference = "H = XᵀX/N for ½(xᵀw − y)²"
    quadratic = True

    features: int = 12
    samples: int = 2148

    @property
    def trap(self) -> str:
        return "batches of unequal size averaged without weights"

    @property
    def trap_kind(self) -> TrapKind | None:
        return "averaging"

    def build(self, generator: torch.Generator) -> Subject:
        x = normal(generator, self.samples, self.features)
        x[2048:] *= 10
        model = nn.Linear(self.features, 1, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(normal(generator, 1, self.features))
        return Subject(model, x, normal(generator, self.samples, 1))

    def eigenvalues(self, subject: Subject) -> Tensor:
        x = subject.inputs.double()
        values: Tensor = torch.linalg.eigvalsh(x.T @ x / len(x))
        return values


class _Partial(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.used = nn.Linear(features, 1, bias=False)
        self.unused = nn.Linear(features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.used(x)
        return outputs


@problems.register
@dataclass(frozen=True, kw_only=True)
class UnusedParameter(DrawnHessian):
    """Least squares in a network with a layer that the output does not depend on."""

    name = "unused_parameter"
    title = "unused parameter"
    reference = "H = XᵀX/N beside a block of zeros"
    quadratic = True

    features: int = 12
    samples: int = 200

    @property
    def trap(self) -> str:
        return "a parameter without a gradient is an error instead of a row of zeros"

    @property
    def trap_kind(self) -> TrapKind | None:
        return "missing_gradient"

    def build(self, generator: torch.Generator) -> Subject:
        model = _Partial(self.features).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(normal(generator, *parameter.shape))
        x = normal(generator, self.samples, self.features)
        return Subject(model, x, normal(generator, self.samples, 1))

    def eigenvalues(self, subject: Subject) -> Tensor:
        x = subject.inputs.double()
        values: Tensor = torch.linalg.eigvalsh(x.T @ x / len(x))
        return torch.cat([torch.zeros_like(values), values])
