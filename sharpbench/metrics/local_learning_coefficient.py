"""The local learning coefficient: how much volume of low loss there is around the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    torch_dtype,
)
from sharpbench.metrics.surface import complex_parameters
from sharpbench.running import as_written
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import Known, KnownLearningCoefficient, Truth

__all__ = ["LocalLearningCoefficient", "split_r_hat"]

_BATCH = 1024
_ACCEPTANCE = {"mala": 0.8, "sgld": 0.95}
"""What the step is tuned to. More than the 0.57 that is best for a product of many factors (Roberts &
Rosenthal 1998): singular posteriors have arms that are narrow."""

_SHORTEST = 0.05
"""The shortest step, as a part of the longest: steps of one length enter no arms that are narrower."""


@metrics.register
@dataclass(frozen=True)
class LocalLearningCoefficient(Metric):
    """Local learning coefficient λ̂ = nβ (E[L(w)] − L(w*)) with w ~ exp(−nβ L(w) − ½γ ‖w − w*‖²).

    w* are the network's weights, n the samples of the whole split, whatever ``samples`` of them the loss is
    taken over, and nβ = n/log n; ``localization`` γ. As n grows and γ falls it estimates the learning
    coefficient of singular learning theory, half the number of parameters for a regular model and less for
    a singular one; at given n and γ it is the figure above: of a quadratic loss with eigenvalues h at its
    minimum ½ Σ nβh/(nβh + γ).

    Langevin chains from w*, of whole gradients. ``mala`` accepts or rejects each step (Metropolis), so that
    its length biases nothing: drawn from a twentieth of ``step`` ε, its variance, to ε. ``sgld`` takes all
    steps, of variance ε, which on that quadratic gives ½ Σ nβh/(a (1 − εa/4)), a = nβh + γ. None for ε: it
    is tuned in the first ``burn_in`` steps, which are thrown away, so that 80% would be accepted (sgld: 95%),
    the ``acceptance`` in the details. The weights should be a minimum: where the loss is lower nearby the
    figure may be negative, which is said and not hidden.

    Errors: ``draws``, the standard error over the ``chains``; ``points``, of untold size, where some of the
    samples are drawn. ``converged``: the split R̂ of the loss over the chains, and that of ‖w − w*‖², is at
    most ``largest_r_hat``.

    Parameters: ``draws`` of each chain after ``burn_in``; ``parameters_of``: the others stay (then it is a
    weight-refined coefficient).
    """

    name = "local_learning_coefficient"
    title = "local learning coefficient λ̂"
    unit = ""
    space = "parameter"
    reference = (
        "Lau et al., arXiv:2308.12108; Watanabe 2013 (nβ); Vehtari et al., arXiv:1903.08008 (R̂)"
    )
    invariant_under = frozenset({"isometry"})

    localization: float = 100.0
    sampler: Literal["mala", "sgld"] = "mala"
    chains: int = 4
    draws: int = 1000
    burn_in: int = 300
    step: float | None = None
    largest_r_hat: float = 1.05
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    parameters_of: tuple[str, ...] = ()
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        for key, least in (("chains", 1), ("draws", 4), ("burn_in", 1)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be at least {least}, got {getattr(self, key)}")
        if self.localization < 0:
            raise ValueError(f"localization must not be negative, got {self.localization}")
        if self.step is not None and not self.step > 0:
            raise ValueError(f"step must be positive or left out, got {self.step}")
        if not self.largest_r_hat > 1:
            raise ValueError(f"largest_r_hat must be above 1, got {self.largest_r_hat}")

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        return [*super().notes(details), f"localised by γ = {self.localization:g}"]

    def unsupported(self, subject: Subject) -> str | None:
        if len(subject.data(self.split)[0]) < 2:
            return "nβ = n/log n needs two samples at least"
        return complex_parameters(subject)

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        if not isinstance(truth, KnownLearningCoefficient) or self.parameters_of:
            return None
        return Known(
            expected=truth.localised_coefficient(
                subject, self._inverse_temperature(subject), self.localization
            ),
            limit=truth.learning_coefficient(subject),
        )

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        posterior = _Posterior(self, subject, seed, self._inverse_temperature(subject))
        generator = torch_generator(derive_seed(seed, "draws"))
        chains = [_Chain(posterior, self.sampler) for _ in range(self.chains)]
        step = self._tuned(chains, generator)
        losses = torch.empty(self.chains, self.draws, dtype=torch.float64)
        distances, accepted = losses.clone(), 0.0
        for draw in range(self.draws):
            for number, chain in enumerate(chains):
                accepted += chain.advance(step, generator)
                losses[number, draw] = chain.at.loss
                distances[number, draw] = chain.at.distance
        start = posterior.start.loss
        means = posterior.inverse_temperature * (losses.mean(1) - start)
        value = float(means.mean())
        r_hat = {"loss": split_r_hat(losses), "distance": split_r_hat(distances)}
        details: dict[str, Any] = {
            "r_hat": r_hat,
            "acceptance": accepted / (self.chains * self.draws),
            "step": step,
            "inverse_temperature": posterior.inverse_temperature,
            "lower_losses": float((losses < start).double().mean()),
        }
        if value < 0:
            details["why"] = (
                "negative: the loss is lower nearby, the weights are no minimum of it, and this is no "
                "learning coefficient"
            )
        return Measurement(
            value=value,
            errors=self._errors(means, posterior.samples < len(subject.data(self.split)[0])),
            converged=max(r_hat.values()) <= self.largest_r_hat,
            samples=posterior.samples,
            work=posterior.work,
            details=details,
        )

    def _inverse_temperature(self, subject: Subject) -> float:
        """nβ = n/log n."""
        n = len(subject.data(self.split)[0])
        return n / math.log(n)

    def _errors(self, means: Tensor, drawn: bool) -> tuple[ErrorComponent, ...]:
        chains = len(means)
        size = float(means.std()) / math.sqrt(chains) if chains > 1 else None
        found = [ErrorComponent("draws", size, chains - 1 if chains > 1 else None)]
        return (*found, ErrorComponent("points", None)) if drawn else tuple(found)

    def _tuned(self, chains: list[_Chain], generator: torch.Generator) -> float:
        """Moves the chains away from w*; returns the step: as given, or that of the wanted acceptance."""
        if self.step is not None:
            for _ in range(self.burn_in):
                for chain in chains:
                    chain.advance(self.step, generator)
            return self.step
        log, kept = math.log(chains[0].first_step()), []
        for number in range(self.burn_in):
            chances = [chain.advance(math.exp(log), generator, reject=True) for chain in chains]
            gain = 2.0 / (1 + number) ** 0.6
            log += gain * (sum(chances) / len(chances) - _ACCEPTANCE[self.sampler])
            kept.append(log)
        settled = kept[len(kept) // 2 :]
        return math.exp(sum(settled) / len(settled))


@dataclass(frozen=True)
class _State:
    """A point of the parameters w (P,) with L, ‖w − w*‖², U = nβL + ½γ‖w − w*‖² and its gradient (P,)."""

    weights: Tensor
    loss: float
    distance: float
    energy: float
    slope: Tensor


class _Posterior:
    def __init__(
        self,
        metric: LocalLearningCoefficient,
        subject: Subject,
        seed: int,
        inverse_temperature: float,
    ) -> None:
        dtype = torch_dtype(metric.dtype)
        self._inputs, self._targets = measured_points(
            subject, metric.split, metric.samples, dtype, seed=seed
        )
        self._subject, self._model = subject, subject.working_model(dtype)
        self._parameters = named_subset(self._model, metric.parameters_of)
        meant = {id(p) for p in self._parameters}
        for parameter in self._model.parameters():
            parameter.requires_grad_(id(parameter) in meant)
        self.samples, self.work = len(self._inputs), Work()
        self.inverse_temperature, self._pull = inverse_temperature, metric.localization
        self._centre = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        self.start = self.at(self._centre)
        if not math.isfinite(self.start.energy):
            raise MetricFailed(f"the loss of the weights as they are is {self.start.loss}")

    def at(self, weights: Tensor) -> _State:
        pieces = weights.split([p.numel() for p in self._parameters])
        with torch.no_grad():
            for parameter, piece in zip(self._parameters, pieces, strict=True):
                parameter.copy_(piece.view_as(parameter))
        batch = self.samples if self._subject.coupled else _BATCH
        loss, gradient = 0.0, torch.zeros_like(weights)
        batches = zip(self._inputs.split(batch), self._targets.split(batch), strict=True)
        with repeatedly_differentiable(), as_written():
            for x, y in batches:
                part = self._subject.losses(self._model(x), y).sum() / self.samples
                self.work.gradient += len(x)
                if not part.requires_grad:
                    raise MetricFailed("the loss depends on no parameter that requires gradients")
                found = torch.autograd.grad(part, self._parameters, materialize_grads=True)
                gradient += torch.cat([g.reshape(-1) for g in found])
                loss += float(part.detach())
        moved = weights - self._centre
        distance = float(moved @ moved)
        energy = self.inverse_temperature * loss + 0.5 * self._pull * distance
        slope = self.inverse_temperature * gradient + self._pull * moved
        return _State(weights, loss, distance, energy, slope)


class _Chain:
    """A Langevin chain from w*."""

    def __init__(self, posterior: _Posterior, sampler: str) -> None:
        self._posterior, self._rejects = posterior, sampler == "mala"
        self.at = posterior.start

    def first_step(self) -> float:
        """1/curvature of the energy, seen along a short step down; across all axes where it is flat."""
        slope = self.at.slope
        direction = slope if float(slope.norm()) > 0 else torch.ones_like(slope)
        size = 1e-3 * max(float(self.at.weights.norm()), 1.0) / float(direction.norm())
        there = self._posterior.at(self.at.weights + size * direction)
        curvature = float((there.slope - slope).norm() / (size * direction).norm())
        return 1 / curvature if math.isfinite(curvature) and curvature > 0 else 1e-4

    def advance(
        self, longest: float, generator: torch.Generator, *, reject: bool | None = None
    ) -> float:
        """One step; returns the probability with which Metropolis' rule accepts it.

        ``reject``: whether the rule is followed, where not by the sampler. Raises MetricFailed where it isn't
        and the loss is not finite there.
        """
        here, step = self.at, longest
        if self._rejects:
            step *= _SHORTEST ** float(torch.rand((), generator=generator, dtype=torch.float64))
        noise = torch.randn(len(here.weights), generator=generator, dtype=torch.float64)
        noise = noise.to(here.weights)
        moved = math.sqrt(step) * noise - 0.5 * step * here.slope
        there = self._posterior.at(here.weights + moved)
        chance = 0.0
        if math.isfinite(there.energy) and bool(there.slope.isfinite().all()):
            back = -moved + 0.5 * step * there.slope
            ways = (float(noise @ noise) - float(back @ back) / step) / 2
            chance = math.exp(min(here.energy - there.energy + ways, 0.0))
        elif not (self._rejects if reject is None else reject):
            raise MetricFailed(
                f"a chain left for where the loss is {there.loss}: steps of variance {step:g} are too long "
                "for a sampler that takes them all"
            )
        drawn = float(torch.rand((), generator=generator, dtype=torch.float64))
        if drawn < chance or not (self._rejects if reject is None else reject):
            self.at = there
        return chance


def split_r_hat(draws: Tensor) -> float:
    """R̂ of chains (C, D), each split into halves: the root of the pooled variance over that within halves.

    1 for draws that don't vary.
    """
    half = draws.shape[1] // 2
    parts = torch.cat([draws[:, :half], draws[:, draws.shape[1] - half :]])
    within = float(parts.var(1).mean())
    between = float(parts.mean(1).var())
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((half - 1) / half + between / within)
