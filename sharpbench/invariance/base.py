"""The contract of a transformation, and the check of its promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sharpbench.change import Change
from sharpbench.copies import copied
from sharpbench.errors import TransformationRefused
from sharpbench.invariance.keeping import TOLERANCE, moved_by, ordinary_size
from sharpbench.invariance.recording import Example, running_on
from sharpbench.precision import without_casts
from sharpbench.subject import Splits, Subject, batched_outputs

__all__ = [
    "Changed",
    "Points",
    "Transformation",
    "changing",
    "subject_at_hand",
    "verify_promise",
]

Points = Callable[[Tensor], Tensor]

_FEW = 3


@dataclass(frozen=True)
class Changed:
    """A changed network with what it is given in place of the inputs."""

    model: nn.Module
    points: Points


@dataclass(frozen=True)
class Transformation(Change, ABC):
    """Changes a network's parameters; what it is and what it keeps, it declares as a `Change`.

    rest: what the layers are that it leaves without a word about each.
    """

    rest: ClassVar[str] = "it is none that is changed"

    def transform(self, model: nn.Module, *, seed: int, splits: Splits | None = None) -> Changed:
        """`apply`, with the map of the inputs that belongs to what was done to this network."""
        return Changed(self.apply(model, seed=seed, splits=splits), self.points)

    def apply(self, model: nn.Module, *, seed: int, splits: Splits | None = None) -> nn.Module:
        """A changed copy; ``model`` stays as it is. ``splits``: its data, which few changes need.

        Raises TransformationRefused with the reason if it does not apply to this network.
        """
        changed = copied(model)
        with torch.no_grad(), running_on(_first_of(splits)):
            self.change(changed, seed=seed)
        return changed

    @abstractmethod
    def change(self, model: nn.Module, *, seed: int) -> None:
        """Change ``model`` in place; called on a copy, without gradients."""

    def points(self, inputs: Tensor) -> Tensor:
        """What the changed network is given in place of ``inputs``; the same, unless units change."""
        return inputs


_SUBJECT: ContextVar[Subject | None] = ContextVar("subject", default=None)


@contextmanager
def changing(subject: Subject) -> Iterator[None]:
    """Within it the network of this subject is changed."""
    token = _SUBJECT.set(subject)
    try:
        yield
    finally:
        _SUBJECT.reset(token)


def subject_at_hand() -> Subject | None:
    """Whose network is changed, where that is known: changes that need no data do without."""
    return _SUBJECT.get()


def _first_of(splits: Splits | None) -> Example | None:
    """How a network is run to see its structure: on the first of its data."""
    if splits is None:
        return None
    few = splits.train_inputs[:_FEW]

    def run(model: nn.Module) -> object:
        real = next((p for p in model.parameters() if p.is_floating_point()), few)
        return model(few.to(real.device, real.dtype))

    return run


def verify_promise(
    transformation: Transformation,
    before: nn.Module,
    after: nn.Module,
    inputs: Tensor,
    *,
    points: Points | None = None,
    losses: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """How far the logits moved over ``inputs`` between two float64 networks, see `moved_by`.

    ``points``: what ``after`` is given in place of them, where it isn't the transformation's own.
    ``losses``: of the outputs for ``inputs``; the cross-entropy of every class, where it is not known.

    Raises TransformationRefused if a transformation that promises the function moved it by more than
    1e-10 (of a network that casts to float32: without its casts), if one that promises the loss moved that
    of a sample, if one that divides the logits by a temperature did something else, or if one that promises
    nothing left them where they were.
    """
    given = (points or transformation.points)(inputs.double())

    def outputs() -> tuple[Tensor, Tensor]:
        return batched_outputs(before, inputs.double()), batched_outputs(after, given)

    (old, new), casts = without_casts(outputs)
    apart = change = moved_by(old, new)
    if casts:
        change = moved_by(*outputs())
    if transformation.preserves == "function" and not apart <= TOLERANCE:
        raise TransformationRefused(
            f"{transformation.label} promises to preserve the function but moved the logits by "
            f"{apart:.1e} of their largest value: the network uses its layers in another way than is seen"
        )
    if transformation.preserves == "loss":
        told = "a sample's loss" if losses is not None else "a log-probability"
        one, other = ((losses or _log_probabilities)(outputs) for outputs in (old, new))
        moved = (other - one).abs().max()
        if not float(moved) <= TOLERANCE * max(float(one.abs().max()), ordinary_size(old), 1.0):
            raise TransformationRefused(
                f"{transformation.label} promises to preserve the loss but moved {told} by "
                f"{float(moved):.1e}"
            )
    divided = transformation.temperature
    if divided != 1 and not moved_by(old / divided, new) <= TOLERANCE:
        raise TransformationRefused(
            f"{transformation.label} promises to divide the logits by {divided:g} but did something else: "
            "more stands behind the last layer, or beside it"
        )
    if transformation.preserves == "nothing" and not apart > TOLERANCE:
        raise TransformationRefused(
            f"{transformation.label} is a control that must change the function, but didn't"
        )
    return change


def _log_probabilities(outputs: Tensor) -> Tensor:
    return outputs.log_softmax(1)
