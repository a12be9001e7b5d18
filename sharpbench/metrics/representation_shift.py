"""How far each unit of a network has moved since initialization."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricUnsupported
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric, torch_dtype
from sharpbench.metrics.norms import initial_values
from sharpbench.metrics.surface import complex_parameters
from sharpbench.subject import Subject

__all__ = ["RepresentationShift"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@metrics.register
@dataclass(frozen=True)
class RepresentationShift(Metric):
    """Shift of the units since initialization, √(mean over units of ‖θᵢ − θᵢ(0)‖²).

    θᵢ: the weights into a unit, a row of a weight (of a convolution, all into one channel; of an embedding, a
    token's), with its bias where its layer has one of that length. Over a layer's units it bounds the
    2-Wasserstein distance that their distribution has moved by: in the mean-field scaling f = (α/N) Σ, it
    falls as 1/α, and training leaves the features as they were drawn. ``quantity`` ``relative``: divided
    by √(mean ‖θᵢ(0)‖²).

    A suite derives the initial weights anew from the seed of the initialization; elsewhere they are those of
    the subject's ``initial`` network. They stay where they are when the trained network is reparameterised,
    so that the shift moves under every change of the parameters.

    ``parameters_of``: names, of modules too, or shell patterns of the weights whose units are meant; all if
    empty. Exact.
    """

    name = "representation_shift"
    title = "shift of the units"
    unit = "[weight]"
    space = "parameter"
    reference = "Zhu et al., arXiv:2404.12312; Chizat, Oyallon & Bach, arXiv:1812.07956"

    quantity: Literal["distance", "relative"] = "distance"
    parameters_of: tuple[str, ...] = ()

    def unit_on(self, subject: Subject) -> str:
        return "" if self.quantity == "relative" else super().unit_on(subject)

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        relative = ["divided by the initial units' root mean square length"]
        return [*super().notes(details), *(relative if self.quantity == "relative" else [])]

    def unsupported(self, subject: Subject) -> str | None:
        if subject.initial is None:
            return "the initial weights are not known: give them as Subject(..., initial=network)"
        return complex_parameters(subject)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        model = subject.working_model(torch_dtype("float64"))
        moved, lengths, units = 0.0, 0.0, 0
        for weight, bias, count in _units(model, named_subset(model, self.parameters_of)):
            own = [weight] if bias is None else [weight, bias]
            start = initial_values(subject, model, own)
            for now, then in zip(own, start, strict=True):
                moved += float((now.detach() - then.detach()).square().sum())
                lengths += float(then.detach().square().sum())
            units += count
        if not units:
            raise MetricUnsupported("it has no weight whose rows are those of units")
        value = math.sqrt(moved / units)
        if self.quantity == "relative":
            if not lengths > 0:
                raise MetricUnsupported("the initial weights are all zero")
            value = math.sqrt(moved / lengths)
        return Measurement(value, samples=len(subject.inputs), details={"units": units})


def _units(
    model: nn.Module, meant: list[nn.Parameter]
) -> Iterator[tuple[nn.Parameter, nn.Parameter | None, int]]:
    """Each weight of at least two axes, the bias of a layer that has it, and the number of its units."""
    for weight in meant:
        if weight.ndim < 2:
            continue
        count, bias = len(weight), None
        for module in model.modules():
            own = dict(module.named_parameters(recurse=False))
            for name, held in own.items():
                if held is not weight:
                    continue
                if isinstance(module, _TRANSPOSED) and name == "weight":
                    count = weight.shape[1] * module.groups
                beside = own.get(name.replace("weight", "bias"))
                if beside is not None and beside.requires_grad and beside.shape == (count,):
                    bias = beside
        yield weight, bias, count
