"""Controls: changes that a metric ought to notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from sharpbench.copies import copied
from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation, subject_at_hand
from sharpbench.loss import Task
from sharpbench.seeds import torch_generator
from sharpbench.subject import Splits, Subject, per_sample_loss

__all__ = ["FurtherTraining", "WeightNoise"]


@transformations.register
@dataclass(frozen=True)
class WeightNoise(Transformation):
    """Control that changes the function: adds Gaussian noise to every parameter tensor.

    The noise's standard deviation is ``strength`` times the tensor's root mean square. A metric
    that does not move here measures nothing.
    """

    name = "weight_noise"
    reference = "a control of this benchmark's own"
    kind = "control"
    preserves = "nothing"
    rest = "all its numbers are zero"

    strength: float = 0.1

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise ValueError(f"strength must be positive, got {self.strength}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = self.strength * parameter.double().square().mean().sqrt()
            parameter.add_((noise.to(parameter.device) * scale).to(parameter.dtype))


@transformations.register
@dataclass(frozen=True)
class FurtherTraining(Transformation):
    """Control that changes the function as training does: ``steps`` more of SGD on the training data."""

    name = "further_training"
    reference = "a control of this benchmark's own"
    kind = "control"
    preserves = "nothing"
    rest = "frozen, or without a gradient"

    steps: int = 50
    lr: float = 0.05
    batch: int = 128

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.lr > 0:
            raise ValueError("steps and batch must be at least 1, lr positive")

    def apply(self, model: nn.Module, *, seed: int, splits: Splits | None = None) -> nn.Module:
        subject = subject_at_hand()
        if subject is not None and (splits is None or subject.front or not _plain(subject.loss)):
            return self._trained_by(subject, model, seed)
        if splits is None:
            raise TransformationRefused("needs the training data, which is not known here")
        changed = copied(model)
        loss = per_sample_loss(splits.task)
        generator, dtype = torch_generator(seed), next(changed.parameters()).dtype
        optimizer = torch.optim.SGD(changed.parameters(), lr=self.lr)
        with torch.enable_grad():
            for _ in range(self.steps):
                rows = torch.randint(len(splits.train_inputs), (self.batch,), generator=generator)
                rows = rows.to(splits.train_inputs.device)
                y = splits.train_targets[rows]
                optimizer.zero_grad()
                outputs = changed(splits.train_inputs[rows].to(dtype))
                loss(outputs, y.to(dtype) if y.is_floating_point() else y).mean().backward()
                optimizer.step()
        optimizer.zero_grad()
        self._check_finite(changed)
        return changed

    def _trained_by(self, subject: Subject, model: nn.Module, seed: int) -> nn.Module:
        """On a subject's own batches, by its own loss."""
        dtype = next(model.parameters()).dtype
        trained = subject.with_model(model).working_model(dtype)
        inputs, targets = subject.data("train")
        if targets.is_floating_point():
            targets = targets.to(dtype)
        generator = torch_generator(seed)
        free = [p for p in trained.parameters() if p.requires_grad]
        if not free:
            raise TransformationRefused("no parameter requires a gradient")
        optimizer = torch.optim.SGD(free, lr=self.lr)
        with torch.enable_grad():
            for _ in range(self.steps):
                rows = torch.randint(len(inputs), (self.batch,), generator=generator)
                rows = rows.to(inputs.device)
                optimizer.zero_grad()
                outputs = trained(inputs[rows].to(dtype))
                subject.losses(outputs, targets[rows]).mean().backward()
                optimizer.step()
        self._check_finite(trained)
        changed = copied(model)
        with torch.no_grad():
            for after, there in zip(changed.parameters(), trained.parameters(), strict=True):
                after.copy_(there)
        return changed

    def _check_finite(self, model: nn.Module) -> None:
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise TransformationRefused(
                f"training diverged within {self.steps} steps of learning rate {self.lr:g}"
            )

    def change(self, model: nn.Module, *, seed: int) -> None:
        raise TransformationRefused("needs the training data, which is not known here")


def _plain(loss: object) -> bool:
    """Whether it is what a task has where none is given."""
    return any(loss is per_sample_loss(task) for task in get_args(Task))
