"""A network changed by a transformation, with its promise verified."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sharpbench.copies import private_copy, unwrapped
from sharpbench.errors import Meddled, TransformationRefused
from sharpbench.invariance.base import Points, Transformation, changing, verify_promise
from sharpbench.invariance.recording import left_alone, note_rest, noting, running_on
from sharpbench.metrics.base import state_hash
from sharpbench.metrics.untouched import data_of, untouched
from sharpbench.subject import Subject

__all__ = ["Changed", "changed"]

_POINTS = 1024
"""So many samples of each split at most hold a network against its promise."""


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
    with running_on(subject.run_few), changing(subject), noting() as left:
        with untouched(transformation.label, before, data_of(subject), state_hash):
            after = transformation.transform(before, seed=seed, splits=subject.splits)
        if after.model is before:
            raise Meddled(f"{transformation.label} answered with the network it was given")
        note_rest(before, after.model, transformation.rest)
    moved = subject.with_model(after.model)
    if subject.front is None:
        moved = moved.mapped(after.points)
    elif _moves(after.points, subject.data("test")[0][:_POINTS].double()):
        raise TransformationRefused(
            f"{transformation.label} changes what the network is given, and it is given batches"
        )
    old, new = (one.working_model(torch.float64) for one in (subject, moved))
    found: list[float] = []
    for split in ("test", "train"):
        if found and subject.splits is None:
            break  # the same
        inputs, targets = (t[:_POINTS] for t in subject.data(split))
        losses = partial(_losses, subject.on(split), targets)
        found.append(
            verify_promise(
                transformation, old, new, inputs.double(), points=after.points, losses=losses
            )
        )
    return Changed(moved, found[0], left_alone(left) if left else "")


def _losses(subject: Subject, targets: Tensor, outputs: Tensor) -> Tensor:
    return subject.losses(outputs, targets.double() if targets.is_floating_point() else targets)


def _moves(points: Points, numbers: Tensor) -> bool:
    """Whether a map of inputs moves any. Of the ``numbers`` (N, 1) of samples alone a rotation keeps all."""
    wide = numbers.repeat(1, 3) + 1
    return not (torch.equal(points(numbers), numbers) and torch.equal(points(wide), wide))
