"""A network whose initial scale moves sharpness and test error alike, for a known reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import DrawnHessian, normal
from sharpbench.subject import Splits, Subject

__all__ = ["DiagonalNetwork"]

_STEPS = 10_000
_FITTED = 1e-20
"""Mean squared residual at which gradient descent ends."""


class _Diagonal(nn.Module):
    """x ↦ x·(u² − v²)."""

    def __init__(self, u: Tensor, v: Tensor) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(u), nn.Parameter(v)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = (x @ (self.u.square() - self.v.square())).unsqueeze(1)
        return outputs


@problems.register
@dataclass(frozen=True, kw_only=True)
class DiagonalNetwork(DrawnHessian):
    """f(x) = Σ xᵢ(uᵢ² − vᵢ²) fitted by gradient descent from u = v = ``alpha`` to fewer points than features.

    From a small start it finds nearly the least ℓ₁ norm, and with it the truth, which has ``nonzero`` ones;
    from a large one the least ℓ₂ norm: ``alpha`` moves test error and sharpness alike. H = JᵀJ/N +
    2 diag(g, −g) with J = 2X[diag u, −diag v] and g = Xᵀr/N of the residuals r, whose trace is
    (4/N) Σ ‖Xᵢ‖²(uᵢ² + vᵢ²) at the end. ``test_samples`` points tell the test error.
    """

    name = "diagonal_network"
    title = "diagonal network"
    reference = "Woodworth et al., arXiv:2002.09277; arXiv:2007.08322 (implicit regularization)"
    residual_free = False

    alpha: float = 0.3
    features: int = 40
    nonzero: int = 3
    samples: int = 20
    test_samples: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        if not 1 <= self.nonzero <= self.features or self.test_samples < 1:
            raise ValueError("nonzero must lie in [1, features], test_samples be at least 1")

    def build(self, generator: torch.Generator) -> Subject:
        truth = torch.zeros(self.features, dtype=torch.float64)
        truth[: self.nonzero] = 1.0
        x, unseen = (normal(generator, n, self.features) for n in (self.samples, self.test_samples))
        y = x @ truth
        u = torch.full_like(truth, self.alpha)
        v = u.clone()
        steepest = 8 * float(torch.linalg.matrix_norm(x, 2)) ** 2 / self.samples
        step = 0.5 / (steepest * (self.alpha**2 + 1))
        for _ in range(_STEPS):
            residuals = x @ (u.square() - v.square()) - y
            if float(residuals.square().mean()) < _FITTED:
                break
            slope = x.T @ residuals / self.samples
            u, v = u * (1 - 2 * step * slope), v * (1 + 2 * step * slope)
        splits = Splits(
            x, y.unsqueeze(1), unseen, (unseen @ truth).unsqueeze(1), outputs=1, task="regression"
        )
        return Subject(_Diagonal(u, v), x, y.unsqueeze(1), splits=splits)

    def eigenvalues(self, subject: Subject) -> Tensor:
        u, v = (p.detach().double() for p in subject.model.parameters())
        x, y = subject.inputs.double(), subject.targets.double()[:, 0]
        jacobian = 2 * torch.cat([x * u, -x * v], 1)
        slope = x.T @ (x @ (u.square() - v.square()) - y) / len(x)
        hessian = jacobian.T @ jacobian / len(x) + torch.diag(2 * torch.cat([slope, -slope]))
        values: Tensor = torch.linalg.eigvalsh(hessian)
        return values
