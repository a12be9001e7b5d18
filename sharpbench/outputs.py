"""What a classifier's outputs say of each decision between classes, without any derivative."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Decisions", "confidence", "decided", "margin", "output_norm", "samples_at_once"]

_AT_ONCE = 1 << 24
"""Numbers of outputs that are held together."""


@dataclass(frozen=True)
class Decisions:
    """Where in a network's outputs classes are decided between.

    ``each``: ``"sample"``, outputs (N, C) and classes (N,); ``"token"`` (or pixel), outputs (N, C, K) and
    classes (N, K), but for those that are ``ignore``; ``"label"``, outputs and targets (N, …), every logit z
    one of yes (a positive target) or no, which is a decision between two classes of the logits (0, z).
    """

    each: Literal["sample", "token", "label"] = "sample"
    ignore: int = -100

    def of(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (M, C) and classes (M,) of the M decisions that count, and to which of the samples each
        belongs (M,): None where each is a sample of its own."""
        if self.each == "sample":
            return outputs, targets, None
        owner = torch.arange(len(targets), device=targets.device)
        if self.each == "token":
            kept = targets != self.ignore
            logits = outputs.movedim(1, -1)[kept]
            return logits, targets[kept], owner.repeat_interleave(kept.sum(1))
        z, yes = outputs.flatten(), (targets > 0).long().flatten()
        logits = torch.stack([torch.zeros_like(z), z], 1)
        return logits, yes, owner.repeat_interleave(len(z) // len(owner))


def decided(
    model: nn.Module, inputs: Tensor, targets: Tensor, decisions: Decisions, *, classes: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """`Decisions.of` the outputs of ``model`` for some samples at a time, without gradients; samples by their
    places among all ``inputs``. ``classes``: of each decision, of which a batch has not too many."""
    size, before = samples_at_once(targets, decisions, classes), 0
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        with torch.no_grad():
            logits, decided_by, owner = decisions.of(model(x), y)
        yield logits, decided_by, None if owner is None else owner + before
        before += len(x)


def samples_at_once(targets: Tensor, decisions: Decisions, classes: int) -> int:
    """How many samples `decided` gives a network together."""
    each = 1 if decisions.each == "sample" else max(targets[0].numel(), 1)
    return max(1, min(1024, _AT_ONCE // (each * classes)))


def output_norm(outputs: Tensor, *, centred: bool = False) -> Tensor:
    """‖z‖₂ of each sample's outputs z (N, …): (N,), in the outputs' unit.

    ``centred``: of z less its mean over the classes, which a constant added to all logits does not move.
    """
    flat = outputs.flatten(1)
    norm: Tensor = (flat - flat.mean(1, keepdim=True) if centred else flat).norm(dim=1)
    return norm


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """z_y − max of the others, from outputs (N, C) and classes (N,): (N,), in the outputs' unit.

    Negative for a wrong prediction.
    """
    own: Tensor = outputs.gather(1, targets.unsqueeze(1)).squeeze(1)
    others = outputs.masked_fill(F.one_hot(targets, outputs.shape[1]).bool(), -math.inf)
    return own - others.max(1).values


def confidence(outputs: Tensor) -> Tensor:
    """The largest predicted probability, from outputs (N, C): (N,)."""
    return outputs.softmax(1).max(1).values
