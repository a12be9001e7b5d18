"""A network changed by a transformation, with its promise verified."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpbench.errors import Meddled, TransformationRefused
from sharpbench.invariance.base import Points, Transformation, verify_promise
from sharpbench.invariance.recording import left_alone, noting, running_on
from sharpbench.metrics.base import state_hash
from sharpbench.metrics.untouched import data_of, untouched
from sharpbench.network import private_copy, unwrapped
from sharpbench.subject import Subject

__all__ = ["Changed", "changed"]

_POINTS = 1024
"""So many samples at most hold a network against its promise."""


@dataclass(frozen=True)
class Changed:
    """``function_change``: max |Δ outputs| / max |outputs|; ``left``: which layers were left as they are, and
    why, in a sentence, or nothing."""

    subject: Subject
    function_change: float
    left: str


def changed(subject: Subject, transformation: Transformation, *, seed: int) -> Changed:
    """The subject around a transformed copy of its network, in float64.

    Raises TransformationRefused where the transformation does not apply or breaks its promise, Meddled where
    it changes more than its copy, InputError for a changed network that can't be measured, and what the
    transformation raises.
    """
    before = private_copy(unwrapped(subject.model), torch.float64)
    with running_on(subject.run_few), noting() as left:
        with untouched(transformation.label, before, data_of(subject), state_hash):
            after = transformation.transform(before, seed=seed, splits=subject.splits)
        if after.model is before:
            raise Meddled(f"{transformation.label} answered with the network it was given")
    inputs = subject.data("test")[0][:_POINTS].double()
    moved = subject.with_model(after.model)
    if subject.front is None:
        moved = moved.mapped(after.points)
    elif _moves(after.points, inputs):
        raise TransformationRefused(
            f"{transformation.label} changes what the network is given, and it is given batches"
        )
    found = verify_promise(
        transformation,
        subject.working_model(torch.float64),
        moved.working_model(torch.float64),
        inputs,
        points=after.points,
    )
    return Changed(moved, found, left_alone(left) if left else "")


def _moves(points: Points, numbers: Tensor) -> bool:
    """Whether a map of inputs moves any. Of the ``numbers`` (N, 1) of samples alone a rotation keeps all."""
    wide = numbers.repeat(1, 3) + 1
    return not (torch.equal(points(numbers), numbers) and torch.equal(points(wide), wide))
