"""A metric along the path of an adversarial attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sharpbench.change import SAME_FUNCTION, Change
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.attack import Attack
from sharpbench.metrics.base import Count, Metric, check_count, measured_points
from sharpbench.metrics.sampling import untold_points
from sharpbench.network import TOGETHER
from sharpbench.running import as_written
from sharpbench.subject import Subject

__all__ = ["AttackTrajectory"]

_BATCH = 1024


@metrics.register
@dataclass(frozen=True)
class AttackTrajectory(Metric):
    """What an attack does to a metric: its figure on the attacked points over that on the points themselves.

    Projected gradient ascent of each point's loss in its input, from the point itself, with the true targets.
    The metric ``of``, with ``of_parameters``, is asked of the network on the points as they stand at
    ``stops`` steps evenly along the way; the figure is the last of them over the first. ``path`` in the
    details has all of them, and the share of wrong answers there. Below 1 the attack ends where the network
    is flatter, in the sense of that metric: adversarial points often lie in flat regions, confidently wrong.

    Errors: those of both figures, as if they were independent, and ``points``, of untold size, where some of
    the samples are drawn. There is no answer where the metric is not positive on the points themselves.

    Parameters: ``norm`` and ``radius`` of the ball, in the inputs' units; ``steps``; ``samples`` of ``split``
    drawn without replacement.
    """

    name = "attack_trajectory"
    title = "ratio of a metric on attacked points to that on the points"
    unit = ""
    space = "input"
    reference = "Walter et al., arXiv:2510.14231; Madry et al., arXiv:1706.06083 (the attack)"

    of: str = "relative_flatness"
    of_parameters: dict[str, Any] = field(default_factory=dict)
    norm: Literal["l2", "linf"] = "l2"
    radius: float = 1.0
    steps: int = 12
    stops: int = 4
    split: Literal["train", "test"] = "test"
    samples: Count = 256

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        if not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if not 1 <= self.stops <= self.steps:
            raise ValueError(f"stops must lie in [1, steps], got {self.stops} of {self.steps}")
        if self.of == self.name:
            raise ValueError("of must be another metric")
        if "samples" in self.of_parameters or "split" in self.of_parameters:
            raise ValueError(f"split and samples are those of {self.name} itself")
        self._inner()

    def _inner(self) -> Metric:
        return metrics.create(self.of, self.of_parameters)

    def stays_under(self, change: Change) -> bool:
        """Where the metric stays, and the path: it follows the function, and turns with the inputs."""
        kept = {*SAME_FUNCTION, "logit_shift"} | (
            {"input_isometry"} if self.norm == "l2" else set()
        )
        return self._inner().stays_under(change) and not kept.isdisjoint(change.properties)

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        return [*super().notes(details), f"of {self._inner().title}"]

    def unsupported(self, subject: Subject) -> str | None:
        return self._inner().unsupported(subject)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        if subject.coupled:
            raise MetricUnsupported(f"{TOGETHER}, so that no point has an attack of its own")
        work, dtype = Work(), torch.float64
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        model = subject.working_model(dtype)
        attack = Attack(self.norm, self.radius, self.steps)
        marks = [round(self.steps * k / self.stops) for k in range(self.stops + 1)]
        moved, found, path = torch.zeros_like(inputs), [], []
        for step in range(self.steps + 1):
            outputs, gradient = self._slopes(subject, model, inputs + moved, targets, work)
            if step in marks:
                there = dataclasses.replace(
                    subject.with_model(subject.working_model(dtype)),
                    inputs=inputs + moved,
                    targets=targets,
                    splits=None,
                    ignored=0,
                )
                found.append(self._asked(there, seed))
                wrong = None
                if subject.without_classes() is None:
                    wrong = float((outputs.argmax(1) != targets).double().mean())
                path.append({"step": step, "value": found[-1].value, "wrong": wrong})
            moved = attack.step(moved, gradient)
        first, last = found[0], found[-1]
        if not first.value > 0:
            raise MetricFailed(
                f"{self.of} is {first.value:.3g} on the points themselves: no ratio is taken to that"
            )
        ratio = last.value / first.value
        for each in found:
            for name in ("forward", "gradient", "hessian_vector", "higher"):
                setattr(work, name, getattr(work, name) + getattr(each.work, name))
        bounds = [(each.error_bound or 0.0) for each in (first, last)]
        bound = (bounds[1] + abs(ratio) * bounds[0]) / first.value
        return Measurement(
            value=ratio,
            errors=(
                *_scaled(last.errors, 1 / first.value),
                *_scaled(first.errors, abs(ratio) / first.value),
                *untold_points(len(inputs), len(subject.data(self.split)[0])),
            ),
            error_bound=bound or None,
            converged=all(each.converged for each in found),
            samples=len(inputs),
            work=work,
            details={"path": path},
        )

    def _asked(self, subject: Subject, seed: int) -> Measurement:
        inner = self._inner()
        if reason := inner.unsupported(subject):
            raise MetricUnsupported(f"{self.of} is not defined here: {reason}")
        if "samples" in {f.name for f in dataclasses.fields(inner)}:
            inner = metrics.create(self.of, {**self.of_parameters, "samples": "all"})
        try:
            return inner.measure(subject, seed=seed)
        except MetricUnsupported as refusal:  # whose words may be of its own parameters
            raise MetricUnsupported(f"{self.of} (by of_parameters): {refusal}") from refusal

    def _slopes(
        self, subject: Subject, model: torch.nn.Module, points: Tensor, targets: Tensor, work: Work
    ) -> tuple[Tensor, Tensor]:
        """Outputs and each point's gradient of its loss in its input."""
        outputs, gradients = [], []
        for x, y in zip(points.split(_BATCH), targets.split(_BATCH), strict=True):
            free = x.detach().requires_grad_()
            with repeatedly_differentiable(), as_written(), torch.enable_grad():
                out = model(free)
                loss = subject.losses(out, y).sum()
                (slope,) = torch.autograd.grad(loss, free, materialize_grads=True)
            outputs.append(out.detach())
            gradients.append(slope.detach())
        work.gradient += len(points)
        return torch.cat(outputs), torch.cat(gradients)


def _scaled(errors: tuple[ErrorComponent, ...], factor: float) -> tuple[ErrorComponent, ...]:
    return tuple(
        dataclasses.replace(e, size=None if e.size is None else factor * e.size) for e in errors
    )
