"""What an idiom is: a small network, the data it is measured on, and what may be refused of it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["IDIOMS", "Idiom", "idiom"]

CLASSES = 3


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """½‖f − y‖² a sample, with outputs and targets of one shape or not at all."""
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)}")
    return 0.5 * (outputs - targets).square().flatten(1).sum(1)


@dataclass(frozen=True)
class Idiom:
    """``build`` gives the network (its docstring says what is meant), the same at each call.

    ``twin``: a plain network of the same function and parameters, where the derivatives that torch takes
    of the idiom itself are wrong or of another parametrisation; ``input_twin``: the same for derivatives
    in the input. ``may_refuse``: beginnings of the names of metrics to a part of the reason that is
    expected; "" stands for all of them.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    outputs: int = CLASSES
    targets: Literal["classes", "real"] = "classes"
    points: Callable[[Tensor], Tensor] | None = None
    labels: Callable[[Tensor], Tensor] | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    reference_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    twin: Callable[[], nn.Module] | None = None
    input_twin: Callable[[], nn.Module] | None = None
    may_refuse: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    """Another one where a point lies too near a kink for the references."""

    def network(self, build: Callable[[], nn.Module] | None = None) -> nn.Module:
        """In float64 and evaluation mode at a generic point: no zero bias, no unit scale or variance."""
        with _seeded(f"{self.name} {self.seed}"):
            model = (build or self.build)().double().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
                    real += 0.15 * torch.randn_like(real)
                for name, buffer in model.named_buffers():
                    if name.endswith("running_mean"):
                        buffer += 0.3 * torch.randn_like(buffer)
                    if name.endswith("running_var"):
                        buffer *= 0.7 + torch.rand_like(buffer)
        return model

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, of one number of samples."""
        with _seeded(f"{self.name} {self.seed} data"):
            x = torch.randn(self.shape, dtype=torch.float64)
            if self.targets == "real":
                y = torch.randn(self.shape[0], self.outputs, dtype=torch.float64)
            else:
                y = torch.randint(0, self.outputs, (self.shape[0],))
        if self.points is not None:
            x = self.points(x)
        return x, y if self.labels is None else self.labels(y)

    @property
    def true_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The per-sample loss of the references."""
        default = cross_entropy if self.targets == "classes" else squared_error
        return self.reference_loss or self.loss or default

    def allowed_reason(self, metric: str) -> str | None:
        """A part of the reason for which ``metric`` may refuse; None where it may not."""
        for start, reason in self.may_refuse.items():
            if metric.startswith(start):
                return reason
        return None


IDIOMS: dict[str, Idiom] = {}


def idiom(
    *shape: int, **options: object
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Makes a function that builds a network, or its class, an idiom measured on inputs of ``shape``."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert build.__doc__, build
        name = re.sub("(?<=[a-z])(?=[A-Z])", "_", build.__name__).lower()
        assert name not in IDIOMS, name
        IDIOMS[name] = Idiom(name, build, shape, **options)  # type: ignore[arg-type]
        return build

    return register


@contextmanager
def _seeded(name: str) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield
