"""What a classifier's outputs say of each sample, without any derivative."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["confidence", "margin", "output_norm"]


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
