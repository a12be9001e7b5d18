"""How many parameters a network has, how long they are, and how far training took them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharpbench.change import Change
from sharpbench.copies import unwrapped
from sharpbench.curvature.operator import coordinates
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricUnsupported
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric, torch_dtype
from sharpbench.registry import added_later
from sharpbench.subject import Subject

__all__ = ["DistanceFromInitialization", "ParameterCount", "ParameterNorm", "initial_values"]


@metrics.register
@dataclass(frozen=True)
class ParameterCount(Metric):
    """Number of trainable parameters: a control, which knows nothing of what training found.

    Shared ones count once, a complex one as two. ``parameters_of``: names or shell patterns of those meant;
    all if empty.
    """

    name = "parameter_count"
    title = "number of parameters"
    unit = ""
    space = "parameter"
    reference = "Jiang et al., arXiv:1912.02178, appendix C.1"
    # All but other coordinates and growth, which may bring more of them.
    invariant_under = frozenset({"permutation", "linear_gauge", "units", "decision", "control"})

    parameters_of: tuple[str, ...] = added_later(())

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        model = unwrapped(subject.model)
        trainable = [p for p in model.parameters() if p.requires_grad]
        if self.parameters_of:
            trainable = named_subset(model, self.parameters_of)
        count = sum(coordinates(p).numel() for p in trainable)
        return Measurement(count, samples=len(subject.inputs))


@metrics.register
@dataclass(frozen=True)
class ParameterNorm(Metric):
    """ℓ₂ norm of the trainable parameters, ‖w‖₂ (Jiang et al. report its square).

    ``parameters_of``: names or shell patterns of the parameters meant; all if empty. Exact.
    """

    name = "parameter_norm"
    title = "parameter norm"
    unit = "[weight]"
    space = "parameter"
    reference = "Jiang et al., arXiv:1912.02178, equation 42"

    parameters_of: tuple[str, ...] = ()

    def stays_under(self, change: Change) -> bool:
        # A linear map that keeps distances; a shift keeps them too, and not the distance from 0.
        return change.properties >= {"isometry", "homogeneous"}

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        model = subject.working_model(torch_dtype("float64"))
        weights = _flat(named_subset(model, self.parameters_of))
        return Measurement(float(weights.norm()), samples=len(subject.inputs))


@metrics.register
@dataclass(frozen=True)
class DistanceFromInitialization(Metric):
    """Distance of the trainable parameters from their initial values, ‖w − w₀‖₂.

    ``quantity`` ``relative``: ‖w − w₀‖/‖w₀‖. A suite derives w₀ anew from the seed of the initialization;
    elsewhere it is the subject's ``initial`` network. w₀ stays where it is when the trained network is
    reparameterised, so that the distance moves under every change of the parameters.

    ``parameters_of``: names or shell patterns of the parameters meant; all if empty. Exact.
    """

    name = "distance_from_initialization"
    title = "distance from initialization"
    unit = "[weight]"
    space = "parameter"
    reference = "Nagarajan & Kolter, arXiv:1901.01672; Jiang et al., arXiv:1912.02178, equation 41"

    quantity: Literal["distance", "relative"] = "distance"
    parameters_of: tuple[str, ...] = ()

    def unit_on(self, subject: Subject) -> str:
        return "" if self.quantity == "relative" else super().unit_on(subject)

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        relative = ["divided by the initial parameters' norm"]
        return [*super().notes(details), *(relative if self.quantity == "relative" else [])]

    def unsupported(self, subject: Subject) -> str | None:
        if subject.initial is None:
            return "the initial weights are not known: give them as Subject(..., initial=network)"
        return None

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        model = subject.working_model(torch_dtype("float64"))
        meant = named_subset(model, self.parameters_of)
        origin = _flat(initial_values(subject, model, meant))
        distance = float((_flat(meant) - origin).norm())
        if self.quantity == "relative":
            length = float(origin.norm())
            if length == 0:
                raise MetricUnsupported("the initial parameters are all zero")
            distance /= length
        return Measurement(distance, samples=len(subject.inputs))


def initial_values(
    subject: Subject, model: nn.Module, parameters: Sequence[nn.Parameter]
) -> list[Tensor]:
    """What these parameters of the working copy ``model`` were before training.

    Raises MetricUnsupported where the initial network has none of that name and shape.
    """
    assert subject.initial is not None
    names = {id(p): name for name, p in model.named_parameters()}
    before = dict(unwrapped(subject.initial).named_parameters())
    start = []
    for parameter in parameters:
        name = names[id(parameter)]
        if name not in before or before[name].shape != parameter.shape:
            raise MetricUnsupported(
                f"the initial network has no parameter {name!r} of the shape {tuple(parameter.shape)}"
            )
        start.append(before[name].to(parameter))
    return start


def _flat(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat([coordinates(p.detach()).reshape(-1) for p in parameters]).double()
