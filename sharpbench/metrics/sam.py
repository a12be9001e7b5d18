"""Sharpness as the rise of the loss under perturbed weights: worst case and average case."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharpbench.change import Change
from sharpbench.curvature.trace import degrees_of_freedom, mean_and_standard_error
from sharpbench.errors import MetricFailed
from sharpbench.measurement import ErrorComponent, Measurement, Source, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    torch_dtype,
)
from sharpbench.metrics.surface import (
    Pieces,
    Surface,
    complex_parameters,
    facts_of_batches,
    length_of,
    moved_alone,
    random_batches,
)
from sharpbench.registry import added_later
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.shared import Shared
from sharpbench.subject import Subject
from sharpbench.truth import Known, KnownHessian, Truth

__all__ = ["SamSharpness", "errors_of_batches"]

Ball = Literal["l2", "linf"]

_MOMENTUM = 0.75
_FIRST_CHECK, _LESS, _LEAST = 0.22, 0.03, 0.06
"""Auto-PGD's momentum and checkpoints, as fractions of the steps (arXiv:2003.01690, §3)."""

_SKEWED = 0.7
"""Degrees of freedom that a pair of draws is worth: a rise is near a quadratic form in ε, whose law is
skewed. With r eigenvalues that count its excess kurtosis is 12/r, which for r of about 10 leaves so much of
those of four normal pairs; a single batch has too few pairs to tell the kurtosis itself."""


@metrics.register
@dataclass(frozen=True)
class SamSharpness(Metric):
    """SAM sharpness: rise of the loss in a ball of radius ρ, max L(w + Tε) − L(w) over ‖ε‖ ≤ ρ.

    ``case`` ``worst`` with ``attack``: ``gradient`` of one step is SAM's own ascent point
    ρ T∇L/‖T∇L‖; of several ``steps`` it is projected ascent with steps of 2.5ρ/steps; ``auto_pgd`` is
    Auto-PGD with momentum and halved steps. The best point met counts, so that more steps never give
    less; it is a lower bound of the maximum. ``average``: the mean rise over ``draws`` random ε of length ρ
    (l2: uniform on the sphere, linf: uniform in the cube), so that ρ is the ball's radius in both cases;
    in pairs ±ε, in which the slope cancels, so that an odd number of draws is rounded up.

    ``adaptive`` sets T, by which a perturbation follows the scale of each weight: ``none`` (1), ``asam``
    (|w| + η for weights, 1 for biases and norms, after ASAM) or ``elementwise`` (|w| throughout, after
    Andriushchenko et al. 2023: invariant under elementwise positive rescaling).
    ``normalize_logits`` divides the centred logits of a sample by their norm before the loss.

    Taken on batches of ``m`` samples (m-sharpness: the gradient and both losses of a batch are its
    own) and averaged over all full batches of a random partition; ``m = "all"`` takes all samples as one
    batch. In the units of the loss (nats for cross-entropy).

    Errors: the average case has ``draws``, from the spread over the pairs within the batches, and
    ``points`` where some of the samples are drawn, from the samples' own rises, with the factor √(1 − n/N).
    The worst case has those of the mean over the batches, as much of it ``points`` as samples are left
    out, the rest ``draws`` of the partition; where most samples are taken this covers more than it says, for
    batches that share out the samples differ less in the mean than batches drawn apart. A single batch of
    drawn samples does not tell its error: the ascent follows the very samples that the rise is taken on, so
    that it lies above that of all of them, many times above for a network at its minimum, and where the
    loss is curved in the ball the point found depends on the samples more than their rises there tell.
    (Danskin's error at the given point, with the excess that an ascent on each half shows on the other,
    covers 95% where the gradient stands out of the samples' noise, and down to none where it doesn't.)
    With a smaller ``m`` there are batches to compare.

    Parameters: ``rho`` the radius; ``ball`` l2 or linf; ``eta`` of asam; ``samples`` of ``split`` drawn
    without replacement; ``parameters_of``: names or shell patterns of the parameters that are moved, all if
    empty (ε is then in their space alone, and the others stay).
    """

    name = "sam_sharpness"
    title = "SAM sharpness"
    unit = "[loss]"
    version = 5
    space = "parameter"
    reference = "arXiv:2010.01412, equations 1-3; arXiv:2102.11600; arXiv:2302.07011"
    invariant_under = frozenset({"isometry"})

    rho: float = 0.05
    ball: Ball = "l2"
    case: Literal["worst", "average"] = "worst"
    attack: Literal["gradient", "auto_pgd"] = "gradient"
    steps: int = 1
    draws: int = 8
    adaptive: Literal["none", "asam", "elementwise"] = "none"
    eta: float = 0.01
    normalize_logits: bool = False
    m: Count = 128
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    dtype: Dtype = "float64"
    parameters_of: tuple[str, ...] = added_later(())

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"rho must be positive, got {self.rho}")
        if self.steps < 1 or self.draws < 1 or not self.eta >= 0:
            raise ValueError("steps and draws must be at least 1, eta at least 0")
        if self.attack == "auto_pgd" and self.steps < 5:
            raise ValueError(f"auto_pgd needs steps of at least 5, got {self.steps}")
        check_count("m", self.m)
        check_count("samples", self.samples)

    def stays_under(self, change: Change) -> bool:
        kept = change.properties
        if self.adaptive == "elementwise":  # |w| follows what each parameter is multiplied by
            return "diagonal" in kept
        if (
            self.ball == "linf" or self.adaptive == "asam"
        ):  # a sphere has no axes, a cube and |w| have
            return "isometry" in kept and not kept.isdisjoint({"diagonal", "logit_shift"})
        return super().stays_under(change)

    def unsupported(self, subject: Subject) -> str | None:
        if self.normalize_logits and (reason := subject.without_classes()):
            return f"normalize_logits needs classes, and {reason}"
        return complex_parameters(subject)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        model = subject.working_model(dtype)
        moved_alone(model, self.parameters_of)
        generator = torch_generator(derive_seed(seed, "perturbations"))
        work = Work()
        scale = self._scale(model)
        rises: list[_Rise] = []
        taken = 0
        of = subject, self.split, self.samples, self.m, dtype, self.parameters_of
        facts = facts_of_batches(*of, seed=seed)
        facts = facts.under("normalized logits" if self.normalize_logits else "logits")
        for i, (x, y) in enumerate(random_batches(inputs, targets, self.m, seed=seed)):
            taken += len(x)
            losses = partial(self._losses, subject, model, x, y)
            surface = Surface(model, losses, scale, len(x), work)
            rises.append(
                self._average_rise(surface, generator)
                if self.case == "average"
                else self._worst_rise(surface, facts.under(i))
            )
        details: dict[str, Any] = {
            "batches": len(rises),
            "batch_size": taken // len(rises),
            "samples_left_out": len(inputs) - taken,
        }
        left_out = max(0.0, 1 - taken / len(subject.data(self.split)[0]))
        if self.case == "worst" and len(rises) == 1 and left_out > 0:
            details["why"] = (
                "one batch of drawn samples does not tell its error, and its own maximum lies above that "
                "of all of them; a smaller m gives batches to compare"
            )
        elif self.case == "worst":
            details["lower_bound"] = True
        return Measurement(
            value=statistics.fmean(rise.value for rise in rises),
            errors=self._errors(rises, left_out),
            samples=taken,
            work=work,
            details=details,
        )

    def _errors(self, rises: list[_Rise], left_out: float) -> tuple[ErrorComponent, ...]:
        """The components of the mean over the batches; ``left_out``: the share of samples not taken."""
        batches, by_pair = len(rises), len(rises[0].pairs)
        if self.case == "average" and (by_pair > 1 or batches == 1):
            square = sum(statistics.variance(r.pairs) if by_pair > 1 else 0.0 for r in rises)
            size = math.sqrt(square / by_pair) / batches if by_pair > 1 else None
            free = max(_SKEWED * batches * (by_pair - 1), 1)
            found = [ErrorComponent("draws", size, free)]
            return (*found, *self._of_points(rises, left_out))
        return errors_of_batches([rise.value for rise in rises], left_out)

    def _of_points(self, rises: list[_Rise], left_out: float) -> tuple[ErrorComponent, ...]:
        """The error of having drawn samples, from the mean rises of each within its batch."""
        if left_out <= 0:
            return ()
        own = torch.cat([rise.each - rise.each.mean() for rise in rises]).double()
        free = len(own) - len(rises)
        if free < 1:
            return (ErrorComponent("points", None),)
        size = math.sqrt(left_out * float(own.square().sum()) / free / len(own))
        return (ErrorComponent("points", size, min(degrees_of_freedom(own), free)),)

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        """The average rise of a quadratic loss: ½ tr H times the mean square of a perturbation's entry."""
        if not isinstance(truth, KnownHessian) or not truth.quadratic or self.parameters_of:
            return None
        if self.case != "average" or self.adaptive != "none" or self.normalize_logits:
            return None
        eigenvalues = truth.eigenvalues(subject)
        square = self.rho**2 / (len(eigenvalues) if self.ball == "l2" else 3)
        return Known(expected=0.5 * square * float(eigenvalues.sum()))

    def _losses(self, subject: Subject, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        outputs = model(x)
        if self.normalize_logits:
            centred = outputs - outputs.mean(1, keepdim=True)
            outputs = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return subject.losses(outputs, y)

    def _scale(self, model: nn.Module) -> Pieces | None:
        """T as one tensor a parameter; None for the identity."""
        if self.adaptive == "none":
            return None
        scales = []
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            size = parameter.detach().abs()
            if self.adaptive == "asam":
                size = size + self.eta if parameter.ndim > 1 else torch.ones_like(size)
            scales.append(size)
        return scales

    def _worst_rise(self, surface: Surface, facts: Shared) -> _Rise:
        start = [torch.zeros_like(p) for p in surface.parameters]
        base, gradient = surface.slope_here(facts)
        if self.attack == "auto_pgd":
            return _Rise(self._auto_pgd(surface, start, base, gradient) - base)
        length = self.rho if self.steps == 1 else 2.5 * self.rho / self.steps
        # One step is SAM's own figure, which may be negative; several can stay where they are.
        best = -math.inf if self.steps == 1 else base
        point = start
        for step in range(self.steps):
            point = self._project(_moved(point, self._direction(gradient), length))
            if step + 1 == self.steps:
                height = surface.height(point)
            else:
                height, gradient = surface.slope(point)
            best = max(best, height)
        return _Rise(best - base)

    def _auto_pgd(self, surface: Surface, start: Pieces, base: float, gradient: Pieces) -> float:
        """The highest loss met by Auto-PGD (Croce & Hein, arXiv:2003.01690, algorithm 1)."""
        length, checks = 2 * self.rho, _checkpoints(self.steps)
        previous, point = start, start
        best, best_point, best_gradient, height = base, start, gradient, base
        rises, last_check, best_before, length_before = 0, 0, base, length
        for step in range(1, self.steps + 1):
            ahead = self._project(_moved(point, self._direction(gradient), length))
            weight = 1.0 if step == 1 else _MOMENTUM
            mixed = self._project(
                [
                    p + weight * (a - p) + (1 - weight) * (p - q)
                    for p, a, q in zip(point, ahead, previous, strict=True)
                ]
            )
            previous, point = point, mixed
            before = height
            height, gradient = surface.slope(point)
            rises += height > before
            if height > best:
                best, best_point, best_gradient = height, point, gradient
            if step in checks:
                stuck = length_before == length and best_before == best
                if rises < 0.75 * (step - last_check) or stuck:
                    length_before, length = length, length / 2
                    previous = point = best_point
                    gradient, height = best_gradient, best
                else:
                    length_before = length
                rises, last_check, best_before = 0, step, best
        return best

    def _average_rise(self, surface: Surface, generator: torch.Generator) -> _Rise:
        base = surface.height(None)
        each = -surface.each
        pairs, count = [], -(-self.draws // 2)
        for _ in range(count):
            noise = [
                torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
                if self.ball == "l2"
                else (2 * torch.rand(p.shape, generator=generator, dtype=torch.float64) - 1).to(p)
                for p in surface.parameters
            ]
            length = self.rho / length_of(noise) if self.ball == "l2" else self.rho
            both = 0.0
            for sign in (1, -1):
                both += 0.5 * surface.height([sign * length * n for n in noise])
                each = each + surface.each / (2 * count)
            pairs.append(both - base)
        return _Rise(statistics.fmean(pairs), tuple(pairs), each)

    def _direction(self, gradient: Pieces) -> Pieces:
        """The steepest direction of length 1 in the ball's norm."""
        norm = length_of(gradient)
        if not norm > 0 or norm == float("inf"):
            raise MetricFailed(
                f"the gradient's norm on a batch is {norm}: the ascent direction is not defined"
            )
        if self.ball == "linf":
            return [g.sign() for g in gradient]
        return [g / norm for g in gradient]

    def _project(self, point: Pieces) -> Pieces:
        if self.ball == "linf":
            return [p.clamp(-self.rho, self.rho) for p in point]
        norm = length_of(point)
        if not math.isfinite(norm):
            raise MetricFailed(
                f"the length of a perturbation must be finite: radius {self.rho:g} overflows"
            )
        return point if norm <= self.rho else [p * (self.rho / norm) for p in point]


def errors_of_batches(rises: list[float], left_out: float) -> tuple[ErrorComponent, ...]:
    """Those of the mean over the batches of a partition; ``left_out``: the share of samples not taken."""
    batches = len(rises)
    if batches == 1:
        return (ErrorComponent("points", None),) if left_out > 0 else ()
    _, error = mean_and_standard_error(rises)
    assert error is not None
    # Both parts are known from the same spread: together they have its degrees of freedom.
    free = (batches - 1) * (left_out**2 + (1 - left_out) ** 2)
    parts: tuple[tuple[Source, float], ...] = (("points", left_out), ("draws", 1 - left_out))
    return tuple(
        ErrorComponent(source, error * math.sqrt(share), free)
        for source, share in parts
        if share > 0
    )


@dataclass(frozen=True)
class _Rise:
    """The rise of a batch's loss; of the average case those of each pair ±ε and of each sample (m,)."""

    value: float
    pairs: tuple[float, ...] = ()
    each: Tensor = field(default_factory=lambda: torch.empty(0))


def _moved(point: Pieces, direction: Pieces, length: float) -> Pieces:
    return [p + length * d for p, d in zip(point, direction, strict=True)]


def _checkpoints(steps: int) -> set[int]:
    """The steps at which Auto-PGD may halve its step length."""
    places, gap = [0.0, _FIRST_CHECK], _FIRST_CHECK
    while places[-1] < 1:
        gap = max(places[-1] - places[-2] - _LESS, _LEAST)
        places.append(places[-1] + gap)
    return {int(-(-p * steps // 1)) for p in places[1:] if p <= 1}
