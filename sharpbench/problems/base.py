"""The contract of a problem: a subject that needs no training and whose answers are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sharpbench.registry import Plugin
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = [
    "DrawnHessian",
    "Known",
    "KnownDerivatives",
    "KnownHessian",
    "Problem",
    "TrapKind",
    "normal",
]


TrapKind = Literal["sign", "stopping", "averaging", "missing_gradient"]
"""``sign``: the largest magnitude is taken for the largest value. ``stopping``: an iteration or a series
of probes ends too early. ``averaging``: parts are weighted wrongly. ``missing_gradient``: a parameter
that the loss doesn't depend on."""


@dataclass(frozen=True)
class Known:
    """What a metric should say of a problem.

    ``expected``: its definition with exact derivatives, all of the points and every direction: what
    remains is error of the estimator. ``limit``: what the definition tends to as its orders grow, +∞
    or −∞ where it diverges: the difference to ``expected`` is the price of finite orders.
    """

    expected: float | None = None
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Problem(Plugin, ABC):
    """A network without training, with data, for which some metric's value is known exactly."""

    title: ClassVar[str]
    """What the report calls it: its formula."""

    @property
    def trap(self) -> str:
        """The wrong answer that implementations are known to give here; empty for most problems."""
        return ""

    @property
    def trap_kind(self) -> TrapKind | None:
        """What goes wrong in the trap; None where there is none."""
        return None

    @property
    def adversarial(self) -> bool:
        """Whether it is made to be hard for estimators, as no trained network is."""
        return False

    @abstractmethod
    def subject(self, *, seed: int) -> Subject:
        """The function as a module in float64, with points (N, …) and targets of zeros."""


@dataclass(frozen=True, kw_only=True)
class KnownDerivatives(Problem, ABC):
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


@dataclass(frozen=True, kw_only=True)
class KnownHessian(Problem, ABC):
    """A loss whose Hessian in the parameters has a known spectrum."""

    residual_free: ClassVar[bool] = True
    """Whether the Gauss-Newton matrix equals the Hessian."""
    quadratic: ClassVar[bool] = False
    """Whether the loss is quadratic in the parameters: its Hessian is the same everywhere."""

    @abstractmethod
    def eigenvalues(self, subject: Subject) -> Tensor:
        """Every eigenvalue of the mean loss's Hessian, rising, in float64; from closed forms."""


@dataclass(frozen=True, kw_only=True)
class DrawnHessian(KnownHessian, ABC):
    """One of ``samples`` points; everything random is drawn from the seed, in float64."""

    samples: int = 256

    def __post_init__(self) -> None:
        for key in ("samples", "features"):
            if getattr(self, key, 2) < 2:
                raise ValueError(f"{key} must be at least 2, got {getattr(self, key)}")

    def subject(self, *, seed: int) -> Subject:
        return self.build(torch_generator(derive_seed(seed, "problem")))

    @abstractmethod
    def build(self, generator: torch.Generator) -> Subject:
        """The subject from random numbers."""


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Independent N(0, 1) entries, float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
