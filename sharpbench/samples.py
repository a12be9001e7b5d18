"""The data of a subject: what its loss reads, cleaned, and checked against the network's outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharpbench.errors import InputError
from sharpbench.loss import Reads, Task, reads
from sharpbench.loss_outputs import are_probabilities
from sharpbench.nest import from_array, unusual

__all__ = [
    "as_tensor",
    "check_fit",
    "cleaned",
    "no_class",
    "reading",
    "soft_labels",
    "task_of",
    "telling",
]

_LOOKED_AT = 1 << 22
"""Numbers among targets that are searched for those that tell."""


def as_tensor(data: Any, what: str) -> Tensor:
    """``data`` as a plain tensor of samples without a graph. Raises InputError."""
    try:
        tensor = torch.as_tensor(from_array(data))
    except Exception as error:
        raise InputError(
            f"{what} must be a tensor or an array, got a {type(data).__name__}: {error}"
        ) from None
    if found := unusual(tensor):
        raise InputError(f"{what} must be a dense tensor with values, and are {found}")
    if tensor.ndim == 0:
        raise InputError(f"{what} must be samples along the first axis, got a single number")
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def reading(loss: Any, task: Task | None, targets: Tensor) -> Reads:
    """What the loss reads as targets; ``loss`` None stands for the one that ``task`` means.

    Raises InputError for targets that could mean different things.
    """
    if task not in (None, "classification", "regression"):
        raise InputError(f"unknown task {task!r}: 'classification' or 'regression'")
    if loss is not None:
        found = reads(loss, targets)
        if found != "anything" and task == _OTHER[found]:
            raise InputError(
                f"the loss {getattr(loss, '__name__', type(loss).__name__)} reads "
                f"{_READ[found]}, and task={task!r} doesn't fit that: leave the task out"
            )
        return found
    if targets.is_complex():
        raise InputError("complex targets need a loss of your own: loss(outputs, targets) -> (N,)")
    if task is not None:
        return "classes" if task == "classification" else "values"
    if not targets.is_floating_point():
        return "classes"
    if _binary(targets):
        raise InputError(
            f"real targets {_shape(targets)} that are all 0 or 1 can mean several things. For labels that "
            "exclude each other give class ids, integers (N,); for yes or no an output "
            "loss=torch.nn.BCEWithLogitsLoss(); for ½ squared error task='regression'"
        )
    return "values"


def cleaned(
    inputs: Tensor, targets: Tensor, reads_: Reads, ignore: int | None
) -> tuple[Tensor, Tensor, int]:
    """Inputs, targets in the form that the loss reads, and how many samples were left out as ignored.

    Raises InputError.
    """
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise InputError(
            f"a subject needs as many targets as inputs and at least one: "
            f"got {len(inputs)} inputs, {len(targets)} targets"
        )
    if not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        real = f"{inputs.abs().dtype}" if inputs.is_complex() else ""
        numbers = (
            f"torch.view_as_real(inputs) for a network of {real}"
            if inputs.is_complex()
            else "inputs.float() for numbers such as pixels"
        )
        raise InputError(
            f"inputs must be floating point, got {kind}: {numbers}; for token ids, or a network that takes "
            "them as they are, write Subject.from_batches(model, [(inputs, targets)])"
        )
    if inputs.numel() == 0:
        raise InputError(f"the inputs are empty: shape {tuple(inputs.shape)}")
    _check_finite(inputs, "inputs")
    if targets.is_floating_point():
        _check_finite(targets, "targets")
    if reads_ == "classes":
        targets = _class_ids(targets)
        kept = targets != (-100 if ignore is None else ignore)
        if ignore is not None and not bool(kept.all()):
            if not bool(kept.any()):
                raise InputError(f"every target is {ignore}, which the loss ignores")
            return inputs[kept], targets[kept], int((~kept).sum())
    elif reads_ == "values":
        if not targets.is_floating_point():
            targets = targets.to(inputs.dtype)
        targets = targets.unsqueeze(1) if targets.ndim == 1 else targets
    return inputs, targets, 0


def task_of(outputs: Tensor, targets: Tensor) -> Task:
    """The task of a loss that reads what only it knows: classes where the targets can be class ids."""
    integers = not (targets.is_floating_point() or targets.is_complex())
    if not integers or targets.ndim != 1 or outputs.ndim != 2 or outputs.shape[1] == 1:
        return "regression"
    if bool((targets == -100).any()):
        raise InputError(
            "targets hold -100, which torch's losses ignore: leave these samples out, or give "
            "loss=torch.nn.CrossEntropyLoss()"
        )
    return "regression" if int(targets.min()) < 0 else "classification"


def check_fit(reads_: Reads, outputs: Tensor, targets: Tensor, *, integers: bool = False) -> None:
    """Whether the network's outputs fit the targets, which were given as ``integers`` or not. Raises
    InputError."""
    if reads_ == "values" and outputs.shape[1:] != targets.shape[1:]:
        hint = ""
        if targets.shape[1:] == (1,) and bool((targets == targets.round()).all()):
            hint = "; if they are class ids, " + (
                "give loss=torch.nn.CrossEntropyLoss()" if integers else "give them as integers"
            )
        elif outputs.shape[1:2] == (1,) and outputs.shape[2:] == targets.shape[1:]:
            hint = ": targets.unsqueeze(1)"
        raise InputError(
            f"real targets must have the outputs' shape, for nothing is broadcast: the network gives "
            f"{_shape(outputs)}, the targets are {_shape(targets)}{hint}"
        )
    if reads_ != "classes":
        return
    if outputs.ndim != 2:
        raise InputError(
            f"class targets (N,) need outputs (N, classes), and the network gives {_shape(outputs)}"
        )
    classes = outputs.shape[1]
    if classes == 1:
        raise InputError(
            "the network has one output, and class targets need one output a class: for the logit of a "
            "binary classifier give loss=torch.nn.BCEWithLogitsLoss(), for a regression task='regression'"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise InputError(no_class(low if low < 0 else high, classes, "outputs"))


def no_class(wrong: int, classes: int, of: str) -> str:
    """What is said of a target that is none of so many classes; ``of``: what the network has of these."""
    return (
        f"the targets hold the class {wrong}, and the network has {classes} {of}: class ids must lie in 0 … "
        f"{classes - 1}; if {wrong} marks what is to be left out, give "
        f"loss=torch.nn.CrossEntropyLoss(ignore_index={wrong})"
    )


def telling(targets: Tensor, count: int, first: int) -> Tensor:
    """Numbers of ``count`` samples whose targets show between them what a loss does with any: the ``first``
    ones, then the first of each class (or id of a token), then some from all over the data; in a circle where
    there are fewer samples."""
    samples = len(targets)
    found = list(range(min(first, samples)))
    rows = _LOOKED_AT // max(targets[0].numel(), 1)
    step = max(1, -(-samples // max(rows, count)))
    if not (targets.is_floating_point() or targets.is_complex()):
        searched = targets[::step].reshape(-(-samples // step), -1)
        values, which = searched.unique(return_inverse=True)
        number = torch.arange(0, samples, step, device=targets.device).unsqueeze(1)
        begin = torch.full_like(values, samples, dtype=torch.long)
        begin = begin.scatter_reduce(0, which.flatten(), number.expand_as(which).flatten(), "amin")
        found += begin[_spread(len(begin), count // 2)].tolist()
    found += _spread(samples, count - 1).tolist()
    each = list(dict.fromkeys(found))[:count]
    return torch.tensor(each, device=targets.device)[torch.arange(count) % len(each)]


def _spread(length: int, count: int) -> Tensor:
    """At most so many numbers below ``length``, evenly."""
    return torch.linspace(0, length - 1, min(length, max(count, 1))).round().long()


def soft_labels(targets: Tensor) -> str:
    """What a reader must know where real targets (N, C), taken as they are, are probabilities of classes."""
    if not targets.is_floating_point() or targets.ndim != 2 or targets.shape[1] < 2:
        return ""
    if not are_probabilities(targets):
        return ""
    return (
        "the targets are probabilities (none is negative, and each sample's sum to 1), and are compared by ½ "
        "squared error: for cross-entropy give loss=torch.nn.CrossEntropyLoss()"
    )


_OTHER: dict[Reads, Task] = {"classes": "regression", "values": "classification"}
_READ: dict[Reads, str] = {
    "classes": "class ids (N,)",
    "values": "real targets of the outputs' shape",
}


def _class_ids(targets: Tensor) -> Tensor:
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if targets.is_floating_point() or targets.is_complex() or targets.ndim != 1:
        hint = "targets.long() if they are class ids"
        if targets.ndim == 2 and _one_hot(targets):
            hint = "targets.argmax(1) for one-hot rows"
        elif targets.ndim > 2 and targets.shape[1] == 1:
            hint = "targets.squeeze(1) for a class a token or pixel"
        elif targets.ndim > 1:
            zero_or_one = bool(((targets == 0) | (targets == 1)).all())
            labels = "loss=torch.nn.BCEWithLogitsLoss() for several labels, yes or no"
            hint = (f"{labels}; " if zero_or_one and targets.ndim == 2 else "") + (
                "for a class a token or pixel write Subject.from_batches(model, [(inputs, targets)]); for "
                "several labels a sample give a loss that returns one value a sample, with task='regression'"
            )
        raise InputError(
            f"class targets must be integers of shape (N,), got {targets.dtype} {_shape(targets)}: {hint}"
        )
    return targets.long()


def _one_hot(targets: Tensor) -> bool:
    zero_or_one = bool(((targets == 0) | (targets == 1)).all())
    return zero_or_one and bool((targets.sum(1) == 1).all())


def _binary(targets: Tensor) -> bool:
    """Whether the targets are zeros and ones, and both occur."""
    ones = targets == 1
    return bool((ones | (targets == 0)).all()) and bool(ones.any()) and not bool(ones.all())


def _check_finite(data: Tensor, what: str) -> None:
    if bool(torch.isfinite(data.sum())):  # one fast pass; a sum can overflow where no entry does
        return
    finite = torch.isfinite(data)
    if not bool(finite.all()):
        bad = ~finite.flatten(1).all(1) if data.ndim > 1 else ~finite
        first = int(bad.nonzero()[0])
        raise InputError(
            f"the {what} hold NaN or infinite values, first in sample {first} ({int(bad.sum())} samples)"
        )


def _shape(tensor: Tensor) -> str:
    rest = ", ".join(map(str, tensor.shape[1:]))
    return f"(N, {rest})" if rest else "(N,)"
