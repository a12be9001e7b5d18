"""Whether a function stays: of two networks by their outputs, and of changes of single layers by a trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused, first_line
from sharpbench.invariance.recording import example, note_left, note_written, outputs_on
from sharpbench.precision import without_casts

__all__ = ["TOLERANCE", "Part", "change_each", "moved_by", "ordinary_size"]

TOLERANCE = 1e-10
"""Relative change of outputs that rounding is allowed in float64; in other precisions 1e4 of their steps."""

_BEYOND = 1e4
"""Outputs so many times larger than their lower quartile are set apart by a mask."""


@dataclass(frozen=True)
class Part:
    """The change of one layer.

    name: the layer's. change: makes it, in place. tensors: all that it writes into. undo: takes it back, in
    place of writing ``tensors`` as they were. what: which of the layer's weights it is about, for a sentence.
    """

    name: str
    change: Callable[[], None]
    tensors: Sequence[Tensor] = ()
    undo: Callable[[], None] | None = None
    what: str = "it"


def change_each(model: nn.Module, parts: Sequence[Part]) -> None:
    """Make the changes, all of them, or where that moves the outputs on the example those that don't.

    That is how what a layer's units are read by beyond what is seen (another reader, scores that turn with
    the place of a token) leaves this layer alone, which is noted, and not every other one. Without an example
    all are made.

    Raises TransformationRefused where none keeps the function.
    """
    run = example()
    if run is None:
        for part in parts:
            part.change()
        return

    def outputs() -> list[Tensor]:
        return outputs_on(model, run)

    before, _ = without_casts(outputs)
    eps = max((torch.finfo(t.dtype).eps for t in before), default=0.0)
    allowed = TOLERANCE if eps < 1e-15 else 1e4 * eps

    def moved() -> str:
        try:
            after, _ = without_casts(outputs)
            found = max(map(moved_by, before, after), default=0.0)
        except Exception as error:
            return first_line(error)
        return "" if found <= allowed else f"by {found:.0e} of the largest output"

    undone = [_undoing(part) for part in parts]
    for part in parts:
        part.change()
    if not (reason := moved()):
        for part in parts:
            note_written(model, part.tensors)
        return
    for undo in reversed(undone):
        undo()
    made = 0
    for part in parts:
        undo = _undoing(part)
        part.change()
        if reason := moved():
            undo()
            note_left(part.name, f"the function moves when {part.what} is changed, {reason}")
        else:
            made += 1
            note_written(model, part.tensors)
    if not made:
        raise TransformationRefused(
            "no layer can be changed with the function kept: the network uses what its layers make in "
            f"another way than is seen ({parts[-1].name}: {reason})"
        )


def _undoing(part: Part) -> Callable[[], None]:
    if part.undo is not None:
        return part.undo
    saved = [(tensor, tensor.clone()) for tensor in part.tensors]

    def undo() -> None:
        for tensor, before in saved:
            tensor.copy_(before)

    return undo


def moved_by(old: Tensor, new: Tensor) -> float:
    """max |Δ outputs| / max |outputs|; an output that is set apart from the others, as a mask does that puts
    −10⁹ in its place, is held against itself, and the others against the largest of them."""
    if old.shape != new.shape:
        return torch.inf
    apart = torch.where(old == new, 0.0, (new - old).abs())
    return float((apart / old.abs().clamp_min(ordinary_size(old))).max()) if old.numel() else 0.0


def ordinary_size(outputs: Tensor) -> float:
    """The largest output that no mask has set apart."""
    sizes = outputs.abs()
    ordinary = sizes[(sizes > 0) & sizes.isfinite()]
    if not len(ordinary):
        return 1e-300
    limit = _BEYOND * ordinary.kthvalue(1 + len(ordinary) // 4).values
    return float(ordinary[ordinary <= limit].max())
