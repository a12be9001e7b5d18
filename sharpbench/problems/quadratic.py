"""Losses whose Hessian in the parameters is known with its whole spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import DrawnHessian, TrapKind, normal
from sharpbench.subject import Subject

__all__ = ["DeepLinear", "LeastSquares", "Quadratic", "SoftmaxRegression"]


def _orthogonal(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    basis: Tensor = torch.linalg.qr(normal(generator, rows, columns)).Q
    return basis


@problems.register
@dataclass(frozen=True, kw_only=True)
class LeastSquares(DrawnHessian):
    """Noiseless linear regression on features with a power-law spectrum: H = XᵀX/N.

    The eigenvalues are k^−``decay`` for k = 1 … ``features``, by construction of X.
    """

    name = "least_squares"
    title = "least squares"
    reference = "H = XᵀX/N for ½(xᵀw − y)²"
    quadratic = True

    features: int = 64
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < self.features:
            raise ValueError(f"samples must be at least features ({self.features})")

    def build(self, generator: torch.Generator) -> Subject:
        left = _orthogonal(generator, self.samples, self.features)
        right = _orthogonal(generator, self.features, self.features)
        x = left @ torch.diag((self._spectrum() * self.samples).sqrt()) @ right.T
        model = nn.Linear(self.features, 1, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(normal(generator, 1, self.features))
        return Subject(model, x, x @ normal(generator, self.features, 1))

    def _spectrum(self) -> Tensor:
        return torch.arange(1, self.features + 1, dtype=torch.float64) ** -self.decay

    def eigenvalues(self, subject: Subject) -> Tensor:
        return self._spectrum().flip(0)


@problems.register
@dataclass(frozen=True, kw_only=True)
class SoftmaxRegression(DrawnHessian):
    """Linear softmax regression: H = (1/N) Σ (diag p − ppᵀ) ⊗ xxᵀ, with one zero a feature."""

    name = "softmax_regression"
    title = "softmax regression"
    reference = "Böhning, Annals of the Institute of Statistical Mathematics 44 (1992)"

    features: int = 20
    classes: int = 5

    def build(self, generator: torch.Generator) -> Subject:
        model = nn.Linear(self.features, self.classes, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(normal(generator, self.classes, self.features))
        x = normal(generator, self.samples, self.features)
        return Subject(model, x, torch.randint(self.classes, (self.samples,), generator=generator))

    def eigenvalues(self, subject: Subject) -> Tensor:
        x = subject.inputs.double()
        with torch.no_grad():
            p = subject.model.double()(x).softmax(1)
        inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        size = self.classes * self.features
        hessian = torch.einsum("nab,ni,nj->aibj", inner, x, x).reshape(size, size) / len(x)
        values: Tensor = torch.linalg.eigvalsh(hessian)
        return values


@problems.register
@dataclass(frozen=True, kw_only=True)
class DeepLinear(DrawnHessian):
    """Two linear layers fitted without residual: H = JᵀJ/N, J = [W₂ ⊗ xᵀ, I ⊗ (W₁x)ᵀ]."""

    name = "deep_linear"
    title = "deep linear network"
    reference = "Saxe et al., arXiv:1312.6120 (the model)"

    features: int = 10
    width: int = 8
    outputs: int = 4

    def build(self, generator: torch.Generator) -> Subject:
        model = nn.Sequential(
            nn.Linear(self.features, self.width, bias=False),
            nn.Linear(self.width, self.outputs, bias=False),
        ).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(normal(generator, *parameter.shape) / parameter.shape[1] ** 0.5)
            x = normal(generator, self.samples, self.features)
            return Subject(model, x, model(x))

    def eigenvalues(self, subject: Subject) -> Tensor:
        first, second = (p.detach().double() for p in subject.model.parameters())
        x = subject.inputs.double()
        to_first = torch.einsum("ow,ni->nowi", second, x).flatten(2)
        eye = torch.eye(self.outputs, dtype=torch.float64)
        to_second = torch.einsum("op,nw->nopw", eye, x @ first.T).flatten(2)
        jacobian = torch.cat([to_first, to_second], 2).flatten(0, 1)
        values: Tensor = torch.linalg.eigvalsh(jacobian.T @ jacobian / len(x))
        return values


@problems.register
@dataclass(frozen=True, kw_only=True)
class Quadratic(DrawnHessian):
    """A quadratic loss ½wᵀAw with a spectrum that is hard for one method or another.

    ``clustered``: five eigenvalues within 1% at the top; ``indefinite``: the one of largest magnitude is
    negative; ``ill_conditioned``: from 1 down to 1e-8, evenly in the logarithm; ``negative``: from −0.01
    to −1; ``multiple``: 1 three times at the top; ``crowded``: half of them 1, below a single 1.1.
    """

    name = "quadratic"
    title = "quadratic"
    reference = "Parlett, The Symmetric Eigenvalue Problem (1998), chapters 4 and 13"
    quadratic = True

    features: int = 200
    spectrum: Literal[
        "clustered", "indefinite", "ill_conditioned", "negative", "multiple", "crowded"
    ] = "clustered"
    samples: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 10:
            raise ValueError(f"features must be at least 10, got {self.features}")

    @property
    def trap(self) -> str:
        return _TRAPS.get(self.spectrum, "")

    @property
    def trap_kind(self) -> TrapKind | None:
        if not self.trap:
            return None
        return "sign" if self.spectrum == "indefinite" else "stopping"

    @property
    def adversarial(self) -> bool:
        return True

    def build(self, generator: torch.Generator) -> Subject:
        basis = _orthogonal(generator, self.features, self.features)
        spectrum = self._spectrum()
        model = _Bowl(
            spectrum.abs().sqrt().unsqueeze(1) * basis.T, normal(generator, self.features)
        )
        # Unequal samples, mean square 1: what weights batches wrongly is found out.
        x = torch.linspace(0.5, 1.5, self.samples, dtype=torch.float64).sqrt().unsqueeze(1)
        signs = spectrum.sign()

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return 0.5 * (outputs.square() @ signs.to(outputs))

        return Subject(model, x, torch.zeros(self.samples, 1, dtype=torch.float64), loss=loss)

    def _spectrum(self) -> Tensor:
        rest = torch.linspace(0.0, 0.9, self.features - 5, dtype=torch.float64)
        if self.spectrum == "clustered":
            return torch.cat(
                [rest, torch.tensor([0.99, 0.9925, 0.995, 0.9975, 1.0], dtype=torch.float64)]
            )
        if self.spectrum == "indefinite":
            return torch.cat(
                [rest - 0.2, torch.tensor([-2.0, -1.5, 0.8, 0.9, 1.0], dtype=torch.float64)]
            )
        if self.spectrum == "negative":
            return -torch.linspace(0.01, 1, self.features, dtype=torch.float64)
        if self.spectrum == "multiple":
            return torch.cat([rest, torch.tensor([0.95, 0.98, 1, 1, 1], dtype=torch.float64)])
        if self.spectrum == "crowded":
            half = self.features // 2
            crowd = torch.ones(half, dtype=torch.float64)
            return torch.cat(
                [rest[: self.features - half - 1], crowd, torch.tensor([1.1], dtype=torch.float64)]
            )
        return torch.logspace(-8, 0, self.features, dtype=torch.float64)

    def eigenvalues(self, subject: Subject) -> Tensor:
        return self._spectrum().sort().values


_TRAPS = {
    "indefinite": "power iteration finds −2, the eigenvalue of largest magnitude, for the top one",
    "negative": "a stopping rule relative to the trace, not to its size, stops at two probes",
    "crowded": "an iteration rests on the many eigenvalues 1 before it sees the single one above",
    "clustered": "successive iterates agree long before the eigenvalue is found",
}


class _Bowl(nn.Module):
    root: Tensor

    def __init__(self, root: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("root", root)
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = x * (self.root @ self.weight)
        return outputs
