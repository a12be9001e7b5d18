"""The contract of a metric."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.measurement import Measurement
from sharpbench.problems.base import Known, Problem
from sharpbench.registry import Plugin
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = [
    "LINEAR_MAPS",
    "PERMUTATIONS",
    "SAME_FUNCTION",
    "Count",
    "Dtype",
    "Metric",
    "check_count",
    "measured_points",
    "sampled",
    "state_hash",
    "torch_dtype",
]

Space = Literal["parameter", "input", "function"]
Dtype = Literal["float64", "float32"]
Count = int | Literal["all"]
"""A number of samples; "all" takes every one."""


PERMUTATIONS = frozenset(
    {"neuron_permutation", "channel_permutation", "head_permutation", "residual_permutation"}
)
"""Transformations that only reorder parameters."""

LINEAR_MAPS = PERMUTATIONS | {
    "attention_gl",
    "attention_rescaling",
    "layer_rescaling",
    "neuron_rescaling",
    "normalization_rescaling",
    "sign_flip",
}
"""Transformations that are linear in the parameters and keep the function."""

SAME_FUNCTION = LINEAR_MAPS | {
    "identity_layer_insertion",
    "log_scale",
    "neuron_splitting",
    "normalization_folding",
    "weight_normalization",
}
"""Every transformation that keeps the function of the given input: no metric of the function may move."""


@dataclass(frozen=True)
class Metric(Plugin, ABC):
    """Measures how sharp a subject is. Subclasses are frozen dataclasses; fields are parameters.

    Class attributes
    ----------------
    title: what the report calls it, with its symbol.
    version: raised whenever the figure changes; figures of two versions are never mixed.
    space: where it differentiates: ``parameter``, ``input`` or ``function``.
    invariant_under: names of the transformations under which theory promises the same figure.
    """

    title: ClassVar[str]
    space: ClassVar[Space]
    invariant_under: ClassVar[frozenset[str]] = frozenset()

    def promises(self, transformation: Plugin) -> bool:
        """Whether theory promises the same figure after ``transformation``."""
        if transformation.name == "composition":
            return self.invariant_under.issuperset(transformation.parameters()["of"])
        return transformation.name in self.invariant_under

    def expected_after(self, transformation: Plugin, before: float) -> float | None:
        """The figure that theory predicts after ``transformation``; None where it predicts none."""
        return None

    def unsupported(self, subject: Subject) -> str | None:
        """The reason why this metric can't measure ``subject``, or None if it can."""
        return None

    @abstractmethod
    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        """The figure, random by ``seed`` alone. Raises MetricFailed if it has no answer."""

    def known(self, problem: Problem, subject: Subject) -> Known | None:
        """What this metric should say of a problem whose answer is known; None if it isn't."""
        return None

    def checked_measure(self, subject: Subject, *, seed: int) -> Measurement:
        """`measure`, after `unsupported`, with the promise checked that the subject stays as it was.

        Raises MetricUnsupported where `unsupported` gives a reason; MetricFailed for a metric that
        changed the model's parameters, buffers, gradients or mode or the global random state, and
        for a network that torch can't differentiate as often as the metric needs.
        """
        if reason := self.unsupported(subject):
            raise MetricUnsupported(f"{self.name} is not defined here: {reason}")
        before, random_state = _observable_state(subject.model), torch.get_rng_state()
        try:
            measurement = self.measure(subject, seed=seed)
        except NotImplementedError as error:
            raise MetricFailed(f"torch can't differentiate this network: {error}") from error
        if _observable_state(subject.model) != before:
            raise MetricFailed(f"{self.label} changed the model it measured")
        if not torch.equal(torch.get_rng_state(), random_state):
            torch.set_rng_state(random_state)
            raise MetricFailed(f"{self.label} drew from torch's global random state")
        return measurement


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
    return inputs.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets


def check_count(key: str, count: Count) -> None:
    """Raises ValueError unless ``count`` is "all" or at least 1."""
    if count != "all" and count < 1:
        raise ValueError(f'{key} must be at least 1 or "all", got {count}')


def state_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{flat.dtype}:{tuple(flat.shape)}".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _observable_state(model: nn.Module) -> tuple[str, tuple[bool, ...], tuple[bool, ...]]:
    return (
        state_hash(model),
        tuple(module.training for module in model.modules()),
        tuple(p.grad is None for p in model.parameters()),
    )
