"""The contract of a metric."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sharpbench.change import PROPERTIES, Change, Property
from sharpbench.errors import MetricFailed, MetricUnsupported, TimeLimitExceeded, first_line
from sharpbench.formulas.context import plain_checkpoints
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics.untouched import data_of, untouched
from sharpbench.precision import HALF, told
from sharpbench.registry import Plugin
from sharpbench.running import as_written
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.streamed import cast
from sharpbench.subject import Subject, Task
from sharpbench.truth import Known, Truth

__all__ = [
    "Count",
    "Dtype",
    "Metric",
    "check_count",
    "measured_points",
    "place_of_points",
    "sampled",
    "state_hash",
    "torch_dtype",
    "unit_of_task",
]

Space = Literal["parameter", "input", "function"]
Dtype = Literal["float64", "float32"]
Count = int | Literal["all"]
"""A number of samples; "all" takes every one."""


@dataclass(frozen=True)
class Metric(Plugin, ABC):
    """Measures how sharp a subject is. Subclasses are frozen dataclasses; fields are parameters.

    Class attributes
    ----------------
    title: what the report calls it, with its symbol.
    unit: of the figure, "" for a pure number. "[loss]", "[output]", "[input]", "[weight]" stand for the
        units of these; a loss in classification is in nats, an output is a logit.
    version: raised whenever the figure changes; figures of two versions are never mixed.
    space: where it differentiates: ``parameter``, ``input`` or ``function``.
    invariant_under: the kinds of changes, or traits (`sharpbench.change`), any of which makes theory
        promise the same figure. TypeError for a word that is none.
    """

    title: ClassVar[str]
    unit: ClassVar[str]
    space: ClassVar[Space]
    invariant_under: ClassVar[frozenset[Property]] = frozenset()
    by_at_inputs: ClassVar[bool] = False
    """Whether a metric of the input differentiates in `Subject.at_inputs`, not in the inputs themselves."""

    takes_each_loss: ClassVar[bool] = False
    """Whether a metric of training and test data takes the loss of each from `Subject.on`. One of a single
    split is given a subject with the loss of that."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if unknown := set(cls.invariant_under) - PROPERTIES:
            raise TypeError(
                f"{cls.__name__}: invariant_under names {', '.join(sorted(unknown))}, which is no kind or "
                f"trait of a change; known are {', '.join(sorted(PROPERTIES))}"
            )

    def promises(self, change: Change) -> bool:
        """Whether theory promises the same figure after ``change``: after every part of it."""
        return all(self.stays_under(part) for part in change.parts)

    def stays_under(self, change: Change) -> bool:
        """Whether theory promises the same figure after a ``change`` without parts."""
        return not self.invariant_under.isdisjoint(change.properties)

    def expected_after(self, change: Change, before: float) -> float | None:
        """The figure that theory predicts after a ``change`` that moves it; None where it predicts none."""
        return None

    def unit_on(self, subject: Subject) -> str:
        """The unit of the figure of ``subject`` with these parameters; `unit` in general."""
        return unit_of_task(getattr(self, "unit", ""), subject.task)

    def unsupported(self, subject: Subject) -> str | None:
        """The reason why this metric can't measure ``subject``, or None if it can."""
        return None

    def missing(self) -> str | None:
        """What must be installed before it can be asked, or None."""
        return None

    @abstractmethod
    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        """The figure, random by ``seed`` alone. Raises MetricFailed if it has no answer."""

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        """What this metric should say of a problem whose answer is known; None if it isn't."""
        return None

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        """What a reader must know of a figure with these ``details``: points left out, a method that gave
        way. Never numbers, so that the notes of many figures can be counted."""
        why = details.get("why")
        found = [str(why)] if why else []
        if details.get("ignored_samples"):
            found.append("samples that the loss is told to ignore are left out")
        if "parameters without effect" in details.get("checks", {}):
            found.append("the loss does not depend on some of the parameters (unused, or merged)")
        if given := details.get("weights_in"):
            found.append(
                f"the weights are {given['given']}, and were measured in {given['measured']}"
            )
        if low := details.get("computes_in"):
            found.append(f"a part of the network computes in {low}, whose rounding no error tells")
        return found

    def checked_measure(self, subject: Subject, *, seed: int) -> Measurement:
        """`measure`, after `unsupported`, with the promise checked that the subject stays as it was.

        Raises MetricUnsupported where `unsupported` gives a reason, and for a metric of the input where
        the outputs are not differentiable in it or depend on other samples; MetricFailed for one that
        changed the model's parameters, buffers, gradients, hooks or mode, the data, a global random state
        or another setting of the process (all of which are brought back), and for a network that doesn't
        run in the metric's precision or that torch can't differentiate as often as the metric needs;
        TypeError for an answer that is no Measurement; InputError for weights that are not finite.
        """
        with self.untouched(subject):
            return self.answer(subject, seed=seed)

    def untouched(self, subject: Subject) -> AbstractContextManager[None]:
        """Inside, ``subject`` is measured; afterwards it and all that others share is as it was."""
        return untouched(self.label, subject.model, data_of(subject), state_hash)

    def answer(self, subject: Subject, *, seed: int) -> Measurement:
        """`checked_measure`, `untouched` by the caller."""
        if torch.is_inference_mode_enabled():
            raise MetricFailed(
                "inside torch.inference_mode() nothing can be differentiated: leave it"
            )
        if reason := self.unsupported(subject):
            raise MetricUnsupported(f"{self.name} is not defined here: {reason}")
        if "test" in (given := self.parameters().values()):
            if "train" not in given:
                subject = subject.on("test")
            elif not self.takes_each_loss and subject.on("test") is not subject:
                raise MetricUnsupported(
                    f"{self.name} is not defined here: it reads training and test data, and the mean loss of "
                    "each has a normaliser of its own (subject.on(split) is the subject with it)"
                )
        dtype = torch_dtype(getattr(self, "dtype", None) or "float64")
        try:
            with as_written(), plain_checkpoints(), torch.enable_grad():
                finding = Work()
                if self.space == "input" and subject.front is not None and not self.by_at_inputs:
                    raise MetricUnsupported(
                        f"{self.name} is not defined here: it differentiates in inputs that are one tensor, "
                        "and this network takes batches"
                    )
                if self.space == "input" and (fault := subject.input_fault(dtype, finding)):
                    raise MetricUnsupported(f"{self.name} is not defined here: {fault}")
                measurement = self.measure(subject, seed=seed)
                if not isinstance(measurement, Measurement):
                    raise TypeError(
                        f"{self.name} must answer with a Measurement, got {type(measurement).__name__}"
                    )
                measurement.work.forward += finding.forward
                measurement.work.gradient += finding.gradient
        except NotImplementedError as error:
            raise MetricFailed(f"torch can't differentiate this network: {error}") from error
        except MetricFailed as error:
            if reason := subject.detached:
                raise MetricFailed(reason) from error
            raise
        except TimeLimitExceeded:
            raise
        except Exception as error:
            if reason := subject.fault(dtype):
                raise MetricFailed(reason) from error
            if isinstance(error, RuntimeError) and "by an inplace operation" in str(error):
                raise MetricFailed(
                    "torch can't differentiate this network: it writes into a tensor that a derivative needs "
                    f"({first_line(error)}); let that operation make a new one, x = x + y for x += y"
                ) from error
            raise
        if subject.ignored:
            measurement.details["ignored_samples"] = subject.ignored
        return _with_precision(measurement, subject, dtype)


def _with_precision(measurement: Measurement, subject: Subject, dtype: torch.dtype) -> Measurement:
    """What precision means for a figure: weights that are given in another, and a network that rounds on its
    way. In half precision it rounds by as much as no other component tells; in float32 by what matters where
    there is no other."""
    details, errors = dict(measurement.details), measurement.errors
    given = subject.weights_in
    if len(given) > 1 or set(given) & set(HALF):
        details["weights_in"] = {"given": told(given), "measured": told((dtype,))}
    taken = subject.computes_in(dtype)
    if taken != dtype:
        details["computes_in"] = told((taken,))
        if taken in HALF or not errors:
            errors = (*errors, ErrorComponent("rounding", None))
    if (apart := subject.apart_in(dtype)) is not None:
        details["outputs_apart"] = apart
        errors = (*errors, ErrorComponent("rounding", None))
    if details == measurement.details:
        return measurement
    error = measurement.standard_error if errors == measurement.errors else None
    return dataclasses.replace(measurement, details=details, errors=errors, standard_error=error)


def unit_of_task(unit: str, task: Task | None) -> str:
    """``unit`` with what the task settles: "nats" for [loss] and "logits" for [output] in classification."""
    if task != "classification":
        return unit
    return unit.replace("[loss]", "nats").replace("[output]", "logits")


def torch_dtype(name: Dtype) -> torch.dtype:
    """torch's dtype for its name in a suite file."""
    return {"float64": torch.float64, "float32": torch.float32}[name]


def sampled(data: tuple[Tensor, Tensor], samples: Count, *, seed: int) -> tuple[Tensor, Tensor]:
    """``samples`` points drawn without replacement; all of them, in order, if fewer or "all"."""
    inputs, targets = data
    if samples == "all" or samples >= len(inputs):
        return inputs, targets
    chosen = torch.randperm(len(inputs), generator=torch_generator(seed))[:samples]
    chosen = chosen.sort().values.to(inputs.device)
    return inputs[chosen], targets[chosen]


def measured_points(
    subject: Subject, split: str, samples: Count, dtype: torch.dtype, *, seed: int
) -> tuple[Tensor, Tensor]:
    """The points of ``split`` that a metric measures, in ``dtype``; class targets stay integers.

    Drawn from ``seed``'s stream "points": metrics with one seed and number measure the same ones.
    """
    inputs, targets = sampled(subject.data(split), samples, seed=derive_seed(seed, "points"))
    if not targets.is_floating_point():
        return inputs.to(dtype), targets
    streams = subject.front is not None and subject.front.batches.streamed
    return inputs.to(dtype), cast(targets, dtype) if streams else targets.to(dtype)


def place_of_points(
    subject: Subject, split: str, samples: Count, dtype: torch.dtype, *, seed: int
) -> tuple[Hashable, ...]:
    """By what name `measured_points` with these arguments are the same points, for `sharpbench.shared`."""
    inputs, _ = subject.data(split)
    every = samples == "all" or samples >= len(inputs)
    return ("points", split, None if every else (samples, derive_seed(seed, "points")), dtype)


def check_count(key: str, count: Count) -> None:
    """Raises ValueError unless ``count`` is "all" or at least 1."""
    if count != "all" and count < 1:
        raise ValueError(f'{key} must be at least 1 or "all", got {count}')


def state_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of parameters and buffers, and over extra state."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        _feed(digest, name, value, frozenset())
    return digest.hexdigest()


def _feed(digest: Any, name: str, value: Any, above: frozenset[int]) -> None:
    """Hash any state by its content, never by an address: equal states have equal hashes."""
    if isinstance(value, Tensor):
        for part, tensor in _dense_parts(value):
            flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            digest.update(f"{name}{part}:{flat.dtype}:{tuple(flat.shape)}".encode())
            digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
        return
    digest.update(f"{name}:{type(value).__qualname__}".encode())
    if isinstance(value, (bytes, bytearray)):
        digest.update(value)
    elif value is None or isinstance(value, (bool, int, float, complex, str, torch.dtype)):
        digest.update(repr(value).encode())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype}:{value.shape}".encode() + value.tobytes())
    elif id(value) not in above:
        above |= {id(value)}
        inside: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, Mapping):
            inside = value.items()
        elif isinstance(value, (list, tuple)):
            inside = enumerate(value)
        elif isinstance(value, (set, frozenset)):
            inside = enumerate(sorted(value, key=repr))
        elif hasattr(value, "__dict__"):
            inside = vars(value).items()
        for key, part in inside:
            _feed(digest, f"{name}.{key}", part, above)


def _dense_parts(tensor: Tensor) -> list[tuple[str, Tensor]]:
    """What holds a tensor's content; one without content (uninitialised, on meta) has none."""
    if is_lazy(tensor) or tensor.is_meta:
        return []
    if tensor.is_quantized:
        return [(f":{tensor.qscheme()}", tensor.int_repr()), ("", tensor.dequantize())]
    if tensor.layout == torch.strided:
        return [("", tensor)]
    return [("", tensor.detach().to_dense())]
