"""What is known exactly of a subject, whoever made it: metrics compute from it what they should say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sharpbench.subject import Subject

__all__ = [
    "Known",
    "KnownDerivatives",
    "KnownHessian",
    "KnownInputHessian",
    "KnownLearningCoefficient",
    "KnownPathNorm",
    "KnownTangentKernel",
    "Truth",
]


@dataclass(frozen=True)
class Known:
    """What a metric should say of a subject.

    ``expected``: its definition with exact derivatives, all of the points and every direction: what
    remains is error of the estimator. ``limit``: what the definition tends to as its orders grow, +∞
    or −∞ where it diverges: the difference to ``expected`` is the price of finite orders.
    ``computed``: what the implementation says to compute where that is another figure than the metric's,
    and ``computed_is`` its name: what its own claims are held against.
    """

    expected: float | None = None
    limit: float | None = None
    computed: float | None = None
    computed_is: str = ""


class Truth:
    """A source of subjects; of some kinds of source more is known, as of those below."""


class KnownDerivatives(Truth, ABC):
    """A scalar function (output 0) with every input derivative known."""

    single_index: ClassVar[bool]
    """Whether f(x) = g(w·x): then Dⁿf[u, …, u] = ±‖Dⁿf‖ cosⁿ∠(u, w) for every direction u."""

    @property
    @abstractmethod
    def inputs(self) -> int:
        """The dimension of x."""

    @abstractmethod
    def log_derivatives(self, subject: Subject, order: int) -> Tensor:
        """log ‖Dⁿf(x)‖_F for n = 0 … order at the subject's points, (order + 1, N) in float64.

        −∞ where a derivative vanishes. From closed forms, never by differentiation.
        """

    @abstractmethod
    def limits(self, subject: Subject, *, mean_of_logs: bool) -> tuple[float, float]:
        """Limits of the growth rates of ‖Dⁿf‖ and ‖Dⁿf‖/n!, ±∞ where they diverge.

        ``mean_of_logs``: of the mean of log‖Dⁿf(x)‖ over the points, else of their root mean square.
        """


class KnownHessian(Truth, ABC):
    """A loss whose Hessian in the parameters has a known spectrum."""

    residual_free: ClassVar[bool] = True
    """Whether the Gauss-Newton matrix equals the Hessian."""
    quadratic: ClassVar[bool] = False
    """Whether the loss is quadratic in the parameters: its Hessian is the same everywhere."""

    @abstractmethod
    def eigenvalues(self, subject: Subject) -> Tensor:
        """Every eigenvalue of the mean loss's Hessian, rising, in float64; from closed forms."""

    def limiting_eigenvalues(self, subject: Subject) -> Tensor | None:
        """What they tend to as the network's discretisation grows fine; None where it isn't said."""
        return None


class KnownLearningCoefficient(Truth, ABC):
    """A loss whose learning coefficient at the subject's weights is known."""

    @abstractmethod
    def learning_coefficient(self, subject: Subject) -> float:
        """λ: the free energy of n samples grows as λ log n."""

    @abstractmethod
    def localised_coefficient(
        self, subject: Subject, inverse_temperature: float, localization: float
    ) -> float | None:
        """b (E[L(w)] − L(w*)), w ~ exp(−bL(w) − ½γ‖w − w*‖²), b and γ given; None where it isn't known."""


class KnownPathNorm(Truth, ABC):
    """A network of which the lengths of all paths from the inputs to the outputs are known."""

    @abstractmethod
    def path_norm(self, subject: Subject, order: float) -> float:
        """(Σ over the paths of |the product of their weights|^order)^(1/order), without biases."""


class KnownTangentKernel(Truth, ABC):
    """A network whose tangent kernel Θ = JJᵀ, of the outputs' derivatives in the parameters, is known."""

    @abstractmethod
    def kernel(self, subject: Subject) -> Tensor:
        """Θ (N·C, N·C) of the subject's points in float64, each one's outputs in a row; from closed forms."""

    def kernel_of_infinite_width(self, subject: Subject) -> Tensor | None:
        """What Θ tends to as the network grows wide; None where it isn't said."""
        return None


class KnownInputHessian(Truth, ABC):
    """A loss whose gradient and Hessian in the input are known at each point."""

    @abstractmethod
    def input_norms(self, subject: Subject) -> tuple[Tensor, Tensor]:
        """‖∇ℓ‖₂ and the spectral norm ‖∇²ℓ‖₂ at the subject's points, (N,) each in float64."""
