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
from sharpbench.truth import KnownHessian, Truth

__all__ = ["DrawnHessian", "Problem", "TrapKind", "normal"]


TrapKind = Literal["sign", "stopping", "averaging", "missing_gradient"]
"""``sign``: the largest magnitude is taken for the largest value. ``stopping``: an iteration or a series
of probes ends too early. ``averaging``: parts are weighted wrongly. ``missing_gradient``: a parameter
that the loss doesn't depend on."""


@dataclass(frozen=True, kw_only=True)
class Problem(Plugin, Truth, ABC):
    """A network without training, with data. One of which something is known, so that some metric's value
    is, derives from `sharpbench.truth.KnownDerivatives` or `KnownHessian` too."""

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
class DrawnHessian(Problem, KnownHessian, ABC):
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
