"""What is measured: a trained network, a batch of data and a loss."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.errors import InputError

__all__ = [
    "Loss",
    "Splits",
    "Subject",
    "Task",
    "batched_outputs",
    "frozen_statistics",
    "per_sample_loss",
]

Task = Literal["classification", "regression"]
Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(outputs, targets) -> (N,)``: one value a sample; the training loss is its mean."""


@dataclass(frozen=True)
class Splits:
    """Training and test data. Inputs (N, …) floating; targets (N,) int64 for classification."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    outputs: int
    """Number of classes, or of real outputs."""
    task: Task = "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train_inputs.shape[1:])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Splits:
        """The same data elsewhere; real targets follow ``dtype``, class targets stay int64."""
        target_dtype = dtype if self.task == "regression" else None
        return Splits(
            self.train_inputs.to(device, dtype),
            self.train_targets.to(device, target_dtype),
            self.test_inputs.to(device, dtype),
            self.test_targets.to(device, target_dtype),
            self.outputs,
            self.task,
        )


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """½‖f(x) − y‖² a sample, so that the Hessian of a linear model is XᵀX/N."""
    return 0.5 * (outputs - targets.reshape(outputs.shape)).square().flatten(1).sum(1)


def per_sample_loss(task: Task) -> Loss:
    """Cross-entropy for class targets, ½ squared error for real ones; both return (N,)."""
    return _cross_entropy if task == "classification" else _squared_error


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode with the data on which it is measured.

    Parameters
    ----------
    model: the network; ``model(inputs)`` gives outputs (N, outputs). A metric leaves it bit-identical.
    inputs, targets: the data measured when no split is asked for, or there are no splits.
    loss: per-sample loss; inferred from the targets (integers: cross-entropy, reals: ½ squared error).
    splits: training and test data, where known.

    Raises
    ------
    InputError: empty data, unequal lengths, or a data type for which no loss can be inferred.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Loss | None = None
    task: Task | None = None
    splits: Splits | None = None

    def __post_init__(self) -> None:
        inputs, targets = torch.as_tensor(self.inputs), torch.as_tensor(self.targets)
        if len(inputs) == 0 or len(inputs) != len(targets):
            raise InputError(
                f"a subject needs as many targets as inputs and at least one: "
                f"got {len(inputs)} inputs, {len(targets)} targets"
            )
        if not inputs.is_floating_point():
            raise InputError(f"inputs must be floating point, got {inputs.dtype}")
        task: Task = self.task or (
            "regression" if targets.is_floating_point() else "classification"
        )
        if task == "classification":
            if targets.is_floating_point() or targets.ndim != 1:
                raise InputError(
                    f"class targets must be integers of shape (N,), got {targets.dtype} "
                    f"{tuple(targets.shape)}"
                )
            targets = targets.long()
        elif targets.ndim == 1:
            targets = targets.unsqueeze(1)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "task", task)
        if self.loss is None:
            object.__setattr__(self, "loss", per_sample_loss(task))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        """Inputs and targets of ``"train"`` or ``"test"``; the given data where there are no splits."""
        if self.splits is None:
            return self.inputs, self.targets
        if split == "train":
            return self.splits.train_inputs, self.splits.train_targets
        if split == "test":
            return self.splits.test_inputs, self.splits.test_targets
        raise InputError(f"unknown split {split!r}: 'train' or 'test'")

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The per-sample loss (N,)."""
        assert self.loss is not None
        return self.loss(outputs, targets)

    def working_model(self, dtype: torch.dtype) -> nn.Module:
        """A private copy of the model in ``dtype`` and evaluation mode, for a metric to work on."""
        model = copy.deepcopy(self.model).to(dtype).eval()
        for parameter in model.parameters():
            parameter.grad = None
        return model

    def with_model(self, model: nn.Module) -> Subject:
        """The same subject around another network, e.g. a transformed copy."""
        return Subject(model, self.inputs, self.targets, self.loss, self.task, self.splits)

    def mapped(self, points: Callable[[Tensor], Tensor]) -> Subject:
        """The same network and targets at ``points(inputs)``, in every split."""
        splits = self.splits and dataclasses.replace(
            self.splits,
            train_inputs=points(self.splits.train_inputs),
            test_inputs=points(self.splits.test_inputs),
        )
        return dataclasses.replace(self, inputs=points(self.inputs), splits=splits)


def batched_outputs(model: nn.Module, inputs: Tensor, batch: int = 1024) -> Tensor:
    """``model(inputs)`` without gradients, batch by batch, (N, outputs)."""
    with torch.no_grad():
        return torch.cat([model(x) for x in inputs.split(batch)])


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch-norm layers keep normalising by the batch but don't update their running statistics."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    saved = [layer.momentum for layer in layers]
    counters = [
        None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone()
        for layer in layers
    ]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, counter in zip(layers, saved, counters, strict=True):
            layer.momentum = momentum
            if counter is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(counter)
