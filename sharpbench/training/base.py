"""The contract of a training recipe, and the loop that recipes share."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.errors import InputError
from sharpbench.registry import Plugin, added_later
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Splits, batched_outputs, per_sample_loss

__all__ = [
    "Callback",
    "Iterates",
    "LossOfBatch",
    "Recipe",
    "TrainingLog",
    "mean_loss",
    "test_figures",
]

Callback = Callable[[int, nn.Module], None]
"""``callback(epoch, model)`` after each epoch, from 1, with the model in evaluation mode."""


@dataclass
class LossOfBatch:
    """Called: the mean training loss of a batch at the current weights, with its graph.

    ``inputs`` (N, …) and ``targets`` (N,) are the batch, ``step`` counts from 0 over the training,
    ``outputs`` are those of the first call; ``seed`` is the training's, for what a step draws apart from
    the dropout masks.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    step: int
    outputs: Tensor | None = None
    seed: int = 0

    def __call__(self) -> Tensor:
        found = self.model(self.inputs)
        if self.outputs is None:
            self.outputs = found.detach()
        return self.loss(found, self.targets)


class Iterates:
    """What of the iterates of a training the network is, at the end and after each epoch: the last one."""

    def stepped(self) -> None:
        """An update has been made."""

    def settle(self, epoch: int) -> None:
        """``epoch`` has been trained: the model becomes the network that is judged and kept."""

    def resume(self) -> None:
        """Another epoch follows: the model goes on from the iterate that it was."""


_BLOWN_UP = 100.0
"""A mean training loss this many times the initial one is no training any more."""
_FEW, _FIRST = 16, 100
"""Of a batch of fewer samples the initial loss can be anything: it is told by so many, then."""


@dataclass
class TrainingLog:
    """What happened in training: one row an epoch, and why it stopped.

    Rows hold ``epoch``, ``learning_rate``, ``train_loss`` and ``train_error`` (running means over
    the epoch's batches, in training mode), ``test_loss``, ``test_error`` (at its end) and
    ``seconds``.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    stopped: str = "all epochs done"
    diverged: str | None = None
    """Why the run is no trained network, or None."""
    initial_loss: float | None = None
    """Training loss of the first batch, before any step."""

    @property
    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.epochs)


@dataclass
class _Run:
    """What one training goes with."""

    seed: int
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    iterates: Iterates
    order: torch.Generator
    """Of the samples."""
    changes: torch.Generator
    """Of their augmentation."""
    initial: float
    """Training loss before any step, of `_FIRST` samples; 0 where the first batch tells it."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Plugin, ABC):
    """Trains a network in place on mini-batches of the training split.

    Parameters: ``epochs``; ``batch_size``; ``lr``; ``schedule`` of the learning rate over the steps
    (constant, cosine to zero, linear to zero); ``weight_decay``; ``label_smoothing``;
    ``stop_loss``: stop after the first epoch whose mean training loss is at most this (None: never);
    ``stop_on``: that of the epoch's batches as they were trained on, or of the network at its end on all
    training data, in evaluation mode and without label smoothing. ``input_noise``: standard deviation of
    normal noise added to the inputs of each batch; ``shift``: images are moved by up to so many pixels each
    way, uniformly, with their border repeated.
    """

    imports: ClassVar[tuple[str, ...]] = ("torch._dynamo",)
    """Modules that `train` imports and the recipe's own doesn't: worker processes are given them at once.
    The one here torch's optimizers import at their first step."""

    epochs: int = 25
    batch_size: int = 128
    lr: float = 1e-2
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    stop_loss: float | None = None
    stop_on: Literal["running", "evaluated"] = added_later("running")
    input_noise: float = added_later(0.0)
    shift: int = added_later(0)

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        for key in ("input_noise", "shift"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")

    @abstractmethod
    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer whose learning rate the loop schedules."""

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossOfBatch) -> Tensor:
        """One update from one batch; returns the batch's loss before it. Subclasses override this."""
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    def iterates(self, model: nn.Module, data: Splits) -> Iterates:
        """What of the iterates is the network; made once a training."""
        return Iterates()

    def train(
        self, model: nn.Module, data: Splits, *, seed: int, callbacks: Sequence[Callback] = ()
    ) -> TrainingLog:
        """Train ``model`` in place; the order of batches and the dropout masks come from ``seed``.

        Stops at the first non-finite loss, or after an epoch whose mean loss is more than a hundred
        times the first batch's (and, where a batch has fewer than 16, that of a hundred samples), and says
        so in ``TrainingLog.diverged``. Leaves the model in evaluation mode and without gradients; callbacks
        can't disturb the random stream.
        """
        log = TrainingLog()
        _check_tokens(model, data)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = self.optimizer(parameters)
        steps_per_epoch = math.ceil(len(data.train_inputs) / self.batch_size)
        run = _Run(
            seed,
            optimizer,
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, self._schedule(self.epochs * steps_per_epoch)
            ),
            self.iterates(model, data),
            order=torch_generator(derive_seed(seed, "batches")),
            changes=torch_generator(derive_seed(seed, "augmentation")),
            initial=_initial_loss(model, data) if self.batch_size < _FEW else 0.0,
        )
        devices = [data.train_inputs.device] if data.train_inputs.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(seed, "dropout"))
            for epoch in range(1, self.epochs + 1):
                run.iterates.resume()
                row = self._epoch(model, data, run, log)
                model.eval()
                if log.diverged:
                    log.diverged += f" in epoch {epoch} of {self.epochs}"
                    log.stopped = "diverged"
                    break
                with torch.random.fork_rng(devices=devices):
                    run.iterates.settle(epoch)
                row = {"epoch": float(epoch), **row, **test_figures(model, data)}
                reached = row["train_loss"]
                if self.stop_on == "evaluated":
                    reached = row["evaluated_train_loss"] = mean_loss(model, data)
                if fault := next((n for n, v in row.items() if not math.isfinite(v)), None):
                    told = f"{fault.replace('_', ' ')} became {row[fault]} in epoch {epoch} of"
                    log.diverged, log.stopped = f"{told} {self.epochs}", "diverged"
                    break
                log.epochs.append(row)
                with torch.random.fork_rng(devices=devices):
                    for callback in callbacks:
                        callback(epoch, model)
                if self.stop_loss is not None and reached <= self.stop_loss:
                    log.stopped = f"training loss reached {self.stop_loss:g}"
                    break
            else:
                if self.stop_loss is not None:
                    log.stopped = f"training loss never reached {self.stop_loss:g}"
        optimizer.zero_grad(set_to_none=True)
        return log

    def _epoch(
        self, model: nn.Module, data: Splits, run: _Run, log: TrainingLog
    ) -> dict[str, float]:
        model.train()
        start = time.perf_counter()
        learning_rate = float(run.optimizer.param_groups[0]["lr"])
        total, wrong = 0.0, 0.0
        first: float | None = None
        for x, y in self._batches(data, run.order):
            x = self._augmented(x, run.changes)
            step = int(
                run.scheduler.last_epoch
            )  # torch's name; it counts every call, here the steps
            criterion = partial(self._loss, task=data.task)
            loss = LossOfBatch(model, criterion, x, y, step, seed=run.seed)
            value = self.step(model, run.optimizer, loss)
            first = float(value) if first is None else first
            if not torch.isfinite(value):
                log.diverged = f"training loss became {float(value)}"
                return {}
            run.iterates.stepped()
            run.scheduler.step()
            total += float(value) * len(x)
            if data.task == "classification":
                assert loss.outputs is not None
                wrong += float((loss.outputs.argmax(1) != y).sum()) / y[0].numel()
        samples = len(data.train_inputs)
        log.initial_loss = log.initial_loss or first
        initial = max(log.initial_loss or 0.0, run.initial)
        if initial and total / samples > _BLOWN_UP * initial:
            log.diverged = f"training loss rose from {initial:.3g} to {total / samples:.3g}"
            return {}
        row = {
            "learning_rate": learning_rate,
            "train_loss": total / samples,
            "seconds": time.perf_counter() - start,
        }
        if data.task == "classification":
            row["train_error"] = wrong / samples
        return row

    def _batches(self, data: Splits, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        shuffled = torch.randperm(len(data.train_inputs), generator=order)
        for batch in shuffled.to(data.train_inputs.device).split(self.batch_size):
            yield data.train_inputs[batch], data.train_targets[batch]

    def _augmented(self, inputs: Tensor, changes: torch.Generator) -> Tensor:
        if self.shift:
            if inputs.dim() != 4:
                shape = tuple(inputs.shape[1:])
                raise InputError(f"shift moves images (channels, height, width), not {shape}")
            count, (height, width) = len(inputs), inputs.shape[2:]
            by = torch.randint(-self.shift, self.shift + 1, (2, count), generator=changes)
            rows, columns = (
                (torch.arange(length) + move[:, None]).clamp(0, length - 1).to(inputs.device)
                for length, move in zip((height, width), by, strict=True)
            )
            each = torch.arange(count, device=inputs.device)[:, None, None]
            inputs = inputs.movedim(1, -1)[each, rows[:, :, None], columns[:, None]].movedim(-1, 1)
        if self.input_noise:
            noise = torch.randn(inputs.shape, generator=changes, dtype=inputs.dtype)
            inputs = inputs + self.input_noise * noise.to(inputs.device)
        return inputs

    def _loss(self, outputs: Tensor, targets: Tensor, task: str) -> Tensor:
        if task == "classification":
            return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)
        return per_sample_loss("regression")(outputs, targets).mean()

    def _schedule(self, steps: int) -> Callable[[int], float]:
        return {
            "constant": lambda step: 1.0,
            "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))),
            "linear": lambda step: max(1 - step / steps, 0.0),
        }[self.schedule]


def _check_tokens(model: nn.Module, data: Splits) -> None:
    """Raises InputError for classes of tokens, (N, T), and a network that doesn't answer for each of them."""
    if data.task != "classification" or data.train_targets.ndim == 1:
        return
    few = data.train_inputs[:2]
    outputs = batched_outputs(model.eval(), few)
    wanted = (len(few), data.outputs, *data.train_targets.shape[1:])
    if tuple(outputs.shape) != wanted:
        raise InputError(
            f"each of {data.train_targets[0].numel()} tokens has a class, so that the outputs of two samples "
            f"must be of shape {wanted}, and the network gives {tuple(outputs.shape)}"
        )


def _initial_loss(model: nn.Module, data: Splits) -> float:
    """Of the first `_FIRST` samples, in evaluation mode."""
    outputs = batched_outputs(model.eval(), data.train_inputs[:_FIRST])
    return float(per_sample_loss(data.task)(outputs, data.train_targets[:_FIRST]).mean())


def mean_loss(model: nn.Module, data: Splits) -> float:
    """Of all training data."""
    outputs = batched_outputs(model, data.train_inputs)
    return float(per_sample_loss(data.task)(outputs, data.train_targets).mean())


def test_figures(model: nn.Module, data: Splits) -> dict[str, Any]:
    """``test_loss`` and, of a classifier, ``test_error``, as rows of a `TrainingLog` hold them."""
    outputs = batched_outputs(model, data.test_inputs)
    if data.task == "classification":
        return {
            "test_loss": float(F.cross_entropy(outputs, data.test_targets)),
            "test_error": float((outputs.argmax(1) != data.test_targets).double().mean()),
        }
    return {"test_loss": float(per_sample_loss("regression")(outputs, data.test_targets).mean())}
