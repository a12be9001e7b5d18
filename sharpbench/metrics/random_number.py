"""A control that knows nothing at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric, state_hash
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = ["RandomNumber"]


@metrics.register
@dataclass(frozen=True)
class RandomNumber(Metric):
    """A standard normal number drawn from the seed and the weights' hash: a control that knows nothing.

    Another network has another one, the same network always the same: what it predicts it predicts by chance.
    """

    name = "random_number"
    title = "random number"
    unit = ""
    space = "parameter"
    reference = "control"

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        generator = torch_generator(derive_seed(seed, "random number", state_hash(subject.model)))
        value = torch.randn((), generator=generator, dtype=torch.float64)
        return Measurement(float(value), samples=len(subject.inputs))
