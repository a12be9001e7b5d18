"""What is measured: a trained network, a batch of data and a loss."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.errors import InputError, first_line
from sharpbench.fitted import Normaliser, fit
from sharpbench.front import AtInputs, Front
from sharpbench.loss import (
    GivenAsLoss,
    Loss,
    PerSampleLoss,
    Reads,
    ScaledLoss,
    Task,
    TokenLoss,
    check_range,
    ignore_index,
    labels_of,
    on_test_data,
    per_sample_loss,
    resolve_loss,
)
from sharpbench.loss_outputs import check_outputs
from sharpbench.measurement import Work
from sharpbench.network import TOGETHER, Network, check_loss_apart
from sharpbench.notebook import facts_table
from sharpbench.outputs import Decisions
from sharpbench.precision import told
from sharpbench.samples import as_tensor, check_fit, cleaned, reading, soft_labels, task_of, telling
from sharpbench.shared import ALONE, Shared

__all__ = [
    "Loss",
    "Splits",
    "Subject",
    "Task",
    "batched_outputs",
    "frozen_statistics",
    "per_sample_loss",
]

_TRIED_LOSSES, _NUMBERS = 64, 1 << 22
"""Targets on which a loss is tried, or as many as take so many numbers of outputs."""


@dataclass(frozen=True)
class Splits:
    """Training and test data. Inputs (N, …) floating; targets int64 for classification, (N,), or (N, T) where
    each of T tokens has a class: outputs are (N, outputs, T) then."""

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

    def __repr__(self) -> str:
        return (
            f"Splits(train={tuple(self.train_inputs.shape)}, test={tuple(self.test_inputs.shape)}, "
            f"outputs={self.outputs}, task={self.task!r})"
        )

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


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode with the data on which it is measured.

    Parameters
    ----------
    model: the network; ``model(inputs)`` gives outputs (N, outputs), or a mapping or an object that has
        them as ``logits``; (N,) is taken for (N, 1). Metrics work on private copies.
    inputs: N inputs, floating point.
    targets: class ids (N,), integers in [0, outputs); or reals of the outputs' shape, where (N,) and
        (N, 1) are the same and nothing else is broadcast; or, for a loss of one's own, what it reads.
        These are the data measured when no split is asked for, or there are no splits.
    loss: one value a sample, ``loss(outputs, targets) -> (N,)``; the training loss is their mean.
        None: cross-entropy for class ids, ½ squared error summed over the outputs for reals. torch's loss
        modules and functions can be given as they are: where they return a mean, that mean is measured.
        Class weights in such a mean divide by the mean weight of all ``targets``, of the test data by that
        of theirs.
    task: what the targets are, where that can't be seen.
    splits: training and test data, where known.
    ignored: how many samples were left out since their target is the loss's ``ignore_index``, -100 for
        the default loss: the figure is that of torch's mean over the others.

    Raises
    ------
    InputError: network, data and loss are unusable or don't fit each other; the message names the fault
        and what would be right. The network is tried on a few samples for it.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Loss | None = None
    task: Task | None = None
    splits: Splits | None = None
    ignored: int = 0
    front: Front | None = field(default=None, repr=False)
    """What calls a network that takes batches; ``inputs`` are then the samples' numbers (N, 1)."""
    initial: nn.Module | None = field(default=None, repr=False)
    """The network before training, for what is measured from there."""
    said: tuple[str, ...] = ()
    """How batches, outputs and loss were read, in sentences."""
    _network: Network = field(init=False, repr=False, compare=False)
    _shared: Shared = field(default=ALONE, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given_splits: Any = self.splits
        if not isinstance(given_splits, (Splits, type(None))):
            raise InputError(
                f"splits must be a sharpbench.Splits, got a {type(given_splits).__name__}: batches of test "
                "data go to Subject.from_batches(model, train, splits={'test': test})"
            )
        task = self.task
        if task is None and self.loss is None and self.splits is not None:
            task = self.splits.task
        given = as_tensor(self.inputs, "inputs"), as_tensor(self.targets, "targets")
        reads = reading(self.loss, task, given[1])
        ignore = ignore_index(self.loss) if self.loss is not None else -100
        inputs, targets, ignored = cleaned(*given, reads, ignore)
        splits = self.splits
        if splits is not None:
            train = cleaned(splits.train_inputs, splits.train_targets, reads, ignore)
            test = cleaned(splits.test_inputs, splits.test_targets, reads, ignore)
            splits = Splits(*train[:2], *test[:2], splits.outputs, splits.task)
        network = Network(self.model, inputs, self.front)
        outputs = network.outputs
        if splits is not None and (
            self.front is not None or splits.test_inputs.shape[1:] != inputs.shape[1:]
        ):
            network.check_runs(splits.test_inputs, "the test data")
        if reads == "anything":
            task = task or task_of(outputs, targets)
        else:
            task = "classification" if reads == "classes" else "regression"
        of_classes: Reads = "classes" if task == "classification" else reads
        if isinstance(self.loss, (TokenLoss, GivenAsLoss)):
            of_classes = "anything"  # fitted already
        for one in [targets] if splits is None else [splits.train_targets, splits.test_targets]:
            check_fit(of_classes, outputs, one, integers=not given[1].is_floating_point())
            check_range(self.loss, one)
        of_outputs = check_outputs(
            self.loss or per_sample_loss(task),
            outputs,
            targets[torch.arange(len(outputs), device=targets.device) % len(targets)],
            network.span,
            sigmoid=network.ends_in_sigmoid,
        )
        every = targets if splits is None else splits.train_targets
        most = min(_TRIED_LOSSES, _NUMBERS // outputs[0].numel(), len(every))
        tried = max(len(outputs), most)
        few = outputs[torch.arange(tried, device=outputs.device) % len(outputs)]
        telling_targets = every[telling(every, tried, len(outputs))]
        loss = resolve_loss(
            self.loss or per_sample_loss(task),
            few,
            telling_targets,
            every,
            None if splits is None else splits.test_targets,
            flat=network.flat,
        )
        if self.loss is not None and not isinstance(loss, GivenAsLoss):
            made: Loss = loss
            check_loss_apart(self.model, self.loss, lambda: made(few, telling_targets))
        said = self.said
        met = (
            f"{TOGETHER}; metrics of all samples take them as one batch" if network.coupled else ""
        )
        taken = soft_labels(targets) if self.loss is None and self.task is None else ""
        of_network = (met, network.of_precision, of_outputs, taken)
        said = (*said, *(one for one in of_network if one and one not in said))
        checked: dict[str, Any] = {
            "said": said,
            "inputs": inputs,
            "targets": targets,
            "loss": loss,
            "task": task,
        }
        checked |= {"splits": splits, "ignored": self.ignored + ignored, "_network": network}
        for key, value in checked.items():
            object.__setattr__(self, key, value)

    def _facts(self) -> dict[str, object]:
        """What it is, in a few words each: no weights and no data."""
        loss = self.loss if isinstance(self.loss, type) else type(self.loss)
        shape = "samples in batches" if self.front is not None else tuple(self.inputs.shape)
        return {
            "model": type(self.model).__name__,
            "parameters": f"{sum(p.numel() for p in self.model.parameters()):,}",
            "samples": f"{len(self.inputs):,}",
            "inputs": shape,
            "loss": getattr(self.loss, "__name__", loss.__name__),
            "task": self.task,
            "dtype": told(self._network.dtypes or (self.dtype,)),
            "device": self.device,
            "splits": self.splits,
            "ignored": self.ignored or None,
        }

    def __repr__(self) -> str:
        told = (f"{k}={v}" for k, v in self._facts().items() if v is not None)
        return f"Subject({', '.join(told)})"

    def _repr_html_(self) -> str:
        return facts_table("Subject", {**self._facts(), "said": " ".join(self.said)})

    @classmethod
    def from_batches(
        cls,
        model: nn.Module,
        batches: Any,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        loss: Any = None,
        normaliser: Normaliser | None = None,
        differentiate: str | nn.Module | None = None,
        targets: str | int | Callable[[Any], Any] | None = None,
        task: Task | None = None,
        splits: Mapping[str, Any] | None = None,
    ) -> Subject:
        """A network on batches of any form; `Subject(model, inputs, targets)` is its one-batch case.

        Parameters
        ----------
        batches: a list of batches, a DataLoader, or a function that returns an iterable of batches. A batch
            is any nest of dicts, tuples, lists, dataclasses and tensors. Every batch is read once and kept,
            so that each pass over the data sees the same samples, whatever a loader shuffles or augments.
            Those of more than 256 MiB together are read anew for each pass, never held at once; one that is
            another then is refused. Their targets are held, what is beyond 256 MiB of them in a temporary
            file (TMPDIR says where). Batches of different sizes weigh by their samples.
        forward: ``forward(model, batch)`` gives the outputs; None: ``model(**batch)`` or ``model(*batch)``
            without the targets, and of what it returns the tensor itself, its ``logits``, or the first.
            It must use the ``model`` it is given, which is a copy.
        targets: the path of the targets in a batch (``"labels"``, ``"0.y"``, ``1``), or a function of the
            batch; None: the last of a tuple, or what a dict has under labels, label, targets, target or y.
            Classes (N,); classes (N, T) with outputs (N, T, C); classes (N, …) with outputs (N, C, …);
            or reals of the outputs' shape.
        loss: as in `Subject`; or ``loss(model, batch)``, told by the name ``model`` of its first argument (or
            by the lack of targets), which returns one value a sample (N,), or one value: then it is the
            mean over the batch's samples, and batches stand where samples stand elsewhere.
        normaliser: what the sum of all losses is divided by: the ``samples`` (the default), the
            ``tokens`` that are not ignored (with class weights: their weights), or nothing (``sum``). Within
            a sample of several labels or outputs a torch loss's own mean stays, but for ``sum``.
        differentiate: what metrics of the input, λ among them, differentiate in: the path of a real tensor
            of the batch, the name of a part of the network (or the part itself), for its output, or
            ``"inputs_embeds"`` for a Hugging Face network's embedded tokens. None: the one real
            tensor of the batches; where there is none these metrics say so.
        splits: ``{"test": batches}`` beside the training data ``batches``.

        Raises
        ------
        InputError: what was found, what was expected and the line to write instead.
        """
        if not isinstance(splits, (Mapping, type(None))):
            raise InputError(
                f"splits must be {{'test': batches}} beside the training data, got a {type(splits).__name__}"
            )
        given = dict(splits or {})
        if "train" in given and batches is None:
            batches = given.pop("train")
        if given.keys() - {"test"}:
            raise InputError(
                f"splits must be {{'test': batches}} beside the training data, got the keys "
                f"{', '.join(map(repr, sorted(map(str, given))))}"
            )
        made = fit(
            model,
            batches,
            given.get("test"),
            forward=forward,
            loss=loss,
            normaliser=normaliser,
            targets=targets,
            differentiate=differentiate,
            task=task,
        )
        n = made.train
        subject = cls(
            model,
            made.inputs[:n],
            made.targets[:n],
            made.loss,
            made.task,
            front=made.front,
            said=made.said,
        )
        if n < len(made.inputs):
            assert subject.task is not None
            data = (made.inputs[:n], made.targets[:n], made.inputs[n:], made.targets[n:])
            subject = dataclasses.replace(
                subject, splits=Splits(*data, subject.outputs, subject.task)
            )
        return subject._summed() if made.summed else subject

    def _summed(self) -> Subject:
        """The subject whose mean loss over the samples that count is the sum of all losses."""
        loss, splits = self.loss, self.splits
        assert loss is not None
        if isinstance(loss, PerSampleLoss):  # what torch's mean divides by, too
            over = "sum" if loss.over_rest == "mean" else loss.over_rest
            loss = dataclasses.replace(loss, over_rest=over, normaliser=1.0, test_normaliser=None)
        of_test = None if splits is None else float(len(splits.test_inputs))
        return dataclasses.replace(self, loss=ScaledLoss(loss, float(len(self.inputs)), of_test))

    @property
    def device(self) -> torch.device:
        return self._network.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that holds the network's weights, float32 at least."""
        return self._network.dtype

    @property
    def weights_in(self) -> tuple[torch.dtype, ...]:
        """The precisions of the network's weights as they are given."""
        return self._network.dtypes

    def judged_model(self) -> tuple[nn.Module, torch.dtype]:
        """A private copy by which the network is judged, and the precision of inputs for it: `dtype` where it
        runs in that, else as it is given."""
        return self._network.judged()

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        """Inputs and targets of ``"train"`` or ``"test"``; the given data where there are no splits."""
        if self.splits is None:
            return self.inputs, self.targets
        if split == "train":
            return self.splits.train_inputs, self.splits.train_targets
        if split == "test":
            return self.splits.test_inputs, self.splits.test_targets
        raise InputError(f"unknown split {split!r}: 'train' or 'test'")

    def on(self, split: str) -> Subject:
        """The subject whose loss is that of a split: where the sum of all losses is divided by something else
        than their number (tokens, weights of classes, nothing), each split has a factor of its own.

        Itself, with the loss of the training data, where it is the same.
        """
        assert self.loss is not None
        if split != "test" or self.splits is None:
            return self
        loss = on_test_data(self.loss)
        if loss is self.loss:
            return self
        made = copy.copy(self)
        object.__setattr__(made, "loss", loss)
        return made.finding_in(self.shared.under("loss of the test data"))

    @property
    def loss_of_samples(self) -> Loss:
        """One value a sample (N,) that is not scaled by a normaliser of all of them."""
        assert self.loss is not None
        loss = self.loss.loss if isinstance(self.loss, ScaledLoss) else self.loss
        return (
            dataclasses.replace(loss, scale=1.0, test_scale=None)
            if isinstance(loss, TokenLoss)
            else loss
        )

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The per-sample loss (N,)."""
        assert self.loss is not None
        return self.loss(outputs, targets)

    def working_model(self, dtype: torch.dtype) -> nn.Module:
        """A private copy of the model in ``dtype`` and evaluation mode, for a metric to work on.

        Its outputs are one tensor (N, outputs). Raises InputError for weights that are not finite.
        """
        return self._network.copy(dtype)

    def at_inputs(self, dtype: torch.dtype) -> AtInputs:
        """A private copy in ``dtype`` as a function of what metrics of the input differentiate in."""
        return AtInputs(self.working_model(dtype), self.front, self.targets)

    @property
    def tokens(self) -> int | None:
        """The target of tokens to be left out, where outputs are (N, C, K), a class for each of K tokens."""
        loss = self.loss.loss if isinstance(self.loss, ScaledLoss) else self.loss
        return loss.ignore if isinstance(loss, TokenLoss) and loss.function is None else None

    @property
    def of_model_and_batch(self) -> bool:
        """Whether the loss is one of model and batch, so that the outputs it reads are not known."""
        return isinstance(self.loss, GivenAsLoss)

    @property
    def outputs(self) -> int:
        """How many classes, or numbers, the network gives a sample (of tokens: each of them)."""
        return self._network.outputs.shape[1]

    def apart_in(self, dtype: torch.dtype) -> float | None:
        """By how much of the largest the outputs of a copy in ``dtype`` are others than the network's, where
        that is more than rounding."""
        return self._network.apart if dtype == torch.float64 else None

    @property
    def few_outputs(self) -> Tensor:
        """The outputs of a few samples, (n, outputs, …), as metrics see them."""
        return self._network.outputs

    @cached_property
    def decisions(self) -> Decisions | str:
        """Where the outputs decide between classes, each sample, each token or each label; or why nowhere."""
        loss = self.loss.loss if isinstance(self.loss, ScaledLoss) else self.loss
        if self.of_model_and_batch:
            return "the loss is one of model and batch, which does not tell what the outputs are"
        if self.tokens is not None:
            return Decisions("token", self.tokens)
        if self.task == "classification":
            return (
                "its loss has several values a sample"
                if isinstance(loss, TokenLoss)
                else Decisions()
            )
        labels = labels_of(loss)
        if labels is None and isinstance(loss, TokenLoss):
            return "the loss is one of your own, which does not tell where its classes are"
        if labels is None:
            return "this is a regression"
        held = [self.targets] if self.splits is None else []
        if self.splits is not None:
            held = [self.splits.train_targets, self.splits.test_targets]
        parts = (part for t in held for part in t.split(4096))
        if any(not bool(torch.isin(t, t.new_tensor(labels)).all()) for t in parts):
            no, yes = labels
            return f"labels are yes or no, and the targets are not {no:g} or {yes:g} throughout"
        return Decisions("label")

    def without_classes(self) -> str | None:
        """Why the outputs tell no class of each sample."""
        decisions = self.decisions
        if isinstance(decisions, str):
            return decisions
        told = {"token": "this has a class for each token", "label": "this has labels, yes or no"}
        return told.get(decisions.each)

    def computes_in(self, dtype: torch.dtype) -> torch.dtype:
        """The least accurate of ``dtype`` and of what the network computes in when it is run in it."""
        return self._network.computes_in(dtype)

    def input_fault(self, dtype: torch.dtype, work: Work) -> str | None:
        """Why derivatives in the inputs are not those of the network's function, or None if they are.

        The passes that finding out takes, over a few samples, are added to ``work``.
        """
        return self.shared.once(
            ("input fault", dtype), lambda: self._network.input_fault(dtype, work), work
        )

    @property
    def detached(self) -> str | None:
        """Why the outputs can't be differentiated in any parameter, or None if they can."""
        if not self._network.detached:
            return None
        return (
            "the outputs depend on no parameter that requires gradients, as far as torch sees: a detach(), "
            "torch.no_grad() or .numpy() stands in the way, or another of the network's results is meant, "
            "which forward=lambda model, batch: model(…)[…] names"
        )

    @property
    def coupled(self) -> bool:
        """Whether a sample's outputs depend on the other samples of its batch."""
        return self._network.coupled

    def fault(self, dtype: torch.dtype) -> str | None:
        """Why network and loss can't be evaluated on a few samples in ``dtype``, or None if they can.

        Raises InputError for weights that are not finite.
        """
        error = self._stops_in(dtype)
        if error is None:
            return None
        found = f"do not run in {told((dtype,))} ({first_line(error.__cause__ or error)})"
        others = [one for one in (torch.float64, torch.float32) if one != dtype]
        runs = next((one for one in others if self._stops_in(one) is None), None)
        why = self._network.stopped_by_a_cast(self.working_model(dtype), dtype)
        if runs is None:
            return f"the network and its loss {found}" + (f"; {why}" if why else "")
        return (
            f"the network and its loss {found}: ask for dtype={told((runs,))!r}, or let them follow the "
            "precision of the inputs" + (f" and weights; {why}" if why else "")
        )

    def _stops_in(self, dtype: torch.dtype) -> Exception | None:
        """What network or loss raise on a few samples in ``dtype``."""
        model = self.working_model(dtype)
        try:
            outputs = self._network.tried(model, dtype)
            few = torch.arange(len(outputs), device=self.targets.device) % len(self.targets)
            targets = self.targets[few]
            self.losses(outputs, targets.to(dtype) if targets.is_floating_point() else targets)
        except Exception as error:
            return error
        return None

    def run_few(self, model: nn.Module) -> Tensor:
        """The outputs of a network like this one for a few of its samples, in the network's precision."""
        return self._network.run_few(model)

    @property
    def shared(self) -> Shared:
        """Where metrics find what others found of this network on these data: only within `sharing`."""
        return self._shared

    @contextmanager
    def sharing(self, shared: Shared) -> Iterator[None]:
        """Inside, what metrics find alike is found once; neither the network nor the data may be changed."""
        before = self._shared
        self.finding_in(shared)
        try:
            yield
        finally:
            self.finding_in(before)

    def finding_in(self, shared: Shared) -> Subject:
        """Itself, its metrics sharing from now on; for a subject that a metric makes of the one measured."""
        object.__setattr__(self, "_shared", shared)
        return self

    def with_model(self, model: nn.Module) -> Subject:
        """The same subject around another network, e.g. a transformed copy; inputs and real targets follow
        its precision, so that ``model(inputs)`` is of one."""
        made = dataclasses.replace(self, model=model)
        takes = made._network.takes
        if takes is None or takes == self._network.takes or self.front is not None:
            return made

        def follow(one: Tensor) -> Tensor:
            return one.to(takes) if one.is_floating_point() else one

        splits = self.splits and dataclasses.replace(
            self.splits,
            train_inputs=follow(self.splits.train_inputs),
            train_targets=follow(self.splits.train_targets),
            test_inputs=follow(self.splits.test_inputs),
            test_targets=follow(self.splits.test_targets),
        )
        return dataclasses.replace(
            made, inputs=follow(self.inputs), targets=follow(self.targets), splits=splits
        )

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
