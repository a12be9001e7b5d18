"""The input-space curvature rate λ of arXiv:2511.01438."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharpbench.autodiff.directional import directional_derivatives
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Count, Dtype, Metric, check_count, sampled, torch_dtype
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject, per_sample_loss

__all__ = ["CurvatureRate"]


@metrics.register
@dataclass(frozen=True)
class CurvatureRate(Metric):
    """Input-space curvature rate λ: how fast the loss's input derivatives grow with their order.

    For each point x and random direction u (unit ℓ₂ norm) the directional derivatives
    dₙ = Dⁿℓ(x)[u, …, u] of the loss of that point are taken exactly; yₙ is the mean of log|dₙ| over
    points and directions, and λ is the slope of the least-squares line through (n, yₙ). This is
    what the paper's code computes; no factor n! is divided out.

    The unit of λ is 1/order; scaling the input by 1/c adds log c. Since λ is a linear function of
    the log|dₙ|, its standard error is that of the mean of the per-point slopes.

    Parameters: ``orders`` fitted; ``directions`` a point; ``samples`` points drawn from ``split``
    ("all": every one); ``points`` = "all", or "boundary": those whose largest predicted probability lies
    in ``band``, else the ``samples`` points nearest to its centre (recorded in the details);
    ``floor`` puts |dₙ| up to at least this (the paper's code: 1e-12, which biases λ upward for
    confident networks; None: points with a vanishing derivative are dropped and counted).
    """

    name = "curvature_rate"
    title = "curvature rate λ"
    version = 1
    space = "input"
    reference = "arXiv:2511.01438, sections 2.1 and 5.2"
    invariant_under = frozenset({"neuron_rescaling", "neuron_permutation"})

    orders: tuple[int, ...] = (1, 2, 3, 4)
    directions: int = 2
    samples: Count = 512
    split: Literal["train", "test"] = "test"
    points: Literal["all", "boundary"] = "all"
    band: tuple[float, float] = (0.45, 0.65)
    floor: float | None = None
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        if len(set(self.orders)) < 2 or min(self.orders) < 1:
            raise ValueError(
                f"orders needs at least two different orders ≥ 1 to fit a slope, got "
                f"{list(self.orders)}"
            )
        if self.directions < 1:
            raise ValueError(f"directions must be at least 1, got {self.directions}")
        check_count("samples", self.samples)
        if not 0 <= self.band[0] < self.band[1] <= 1:
            raise ValueError(f"band must be two rising probabilities, got {list(self.band)}")
        if self.floor is not None and not self.floor > 0:
            raise ValueError(f"floor must be positive or None, got {self.floor}")

    def unsupported(self, subject: Subject) -> str | None:
        if self.points == "boundary" and subject.task != "classification":
            return "boundary points need predicted probabilities, and this is a regression"
        return None

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model = subject.working_model(dtype)
        work = Work()
        inputs, targets, chosen = self._points(subject, model, dtype, work, seed)
        logs = self._log_derivatives(subject, model, inputs, targets, work, seed)
        kept = torch.isfinite(logs).all(1)
        if not kept.any():
            raise MetricFailed(
                f"no point has finite, non-zero derivatives of all orders {list(self.orders)}: "
                "the loss is flat, saturated or not finite there"
            )
        logs = logs[kept]
        weights = _slope_weights(self.orders).to(logs)
        slopes = logs @ weights
        means = logs.mean(0)
        return Measurement(
            value=float(slopes.mean()),
            standard_error=_standard_error(slopes),
            samples=len(inputs),
            work=work,
            details={
                "orders": list(self.orders),
                "log_derivative": means.tolist(),
                "log_derivative_standard_error": [_standard_error(c) for c in logs.T],
                "residual_rms": _fit_residual(self.orders, means),
                "points_kept": int(kept.sum()),
                "points_dropped": int((~kept).sum()),
                **chosen,
            },
        )

    def _points(
        self, subject: Subject, model: nn.Module, dtype: torch.dtype, work: Work, seed: int
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        inputs, targets = subject.data(self.split)
        inputs = inputs.to(dtype)
        if self.points == "boundary":
            with torch.no_grad():
                confidence = model(inputs).softmax(1).max(1).values
            work.forward += len(inputs)
            inside = (confidence >= self.band[0]) & (confidence <= self.band[1])
            found = int(inside.sum())
            if found:
                inputs, targets = inputs[inside], targets[inside]
            else:
                nearest = (confidence - sum(self.band) / 2).abs().argsort(stable=True)
                nearest = nearest[: len(nearest) if self.samples == "all" else self.samples]
                inputs, targets = inputs[nearest], targets[nearest]
            chosen = {"points_in_band": found, "fallback_to_nearest": found == 0}
        else:
            chosen = {}
        inputs, targets = sampled((inputs, targets), self.samples, seed=derive_seed(seed, "points"))
        if targets.is_floating_point():
            targets = targets.to(dtype)
        return inputs, targets, chosen

    def _log_derivatives(
        self,
        subject: Subject,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        work: Work,
        seed: int,
    ) -> Tensor:
        """log|dₙ| averaged over the directions, (N, orders)."""
        generator = torch_generator(derive_seed(seed, "directions"))
        total = torch.zeros(len(inputs), len(self.orders), dtype=inputs.dtype, device=inputs.device)
        for _ in range(self.directions):
            noise = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
            unit = noise / noise.flatten(1).norm(dim=1).view(-1, *[1] * (noise.ndim - 1))
            derivatives = self._derivatives(subject, model, inputs, targets, unit.to(inputs), work)
            magnitude = derivatives[list(self.orders)].abs()
            if self.floor is not None:
                magnitude = magnitude.clamp_min(self.floor)
            total += magnitude.log().T
        return total / self.directions

    def _derivatives(
        self,
        subject: Subject,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        directions: Tensor,
        work: Work,
    ) -> Tensor:
        chunk = 256
        pieces = []
        for x, y, u in zip(
            inputs.split(chunk), targets.split(chunk), directions.split(chunk), strict=True
        ):

            def loss(points: Tensor, y: Tensor = y) -> Tensor:
                outputs = model(points)
                if subject.loss is per_sample_loss("classification"):
                    return _cross_entropy_of_margins(outputs, y)
                return subject.losses(outputs, y)

            pieces.append(
                directional_derivatives(loss, x, u, max(self.orders), work=work, chunk=chunk)
            )
        return torch.cat(pieces, dim=1)


def _cross_entropy_of_margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy as log(1 + exp m), m = logsumexp over the other classes of z_c − z_y.

    The same function as −log softmax, but its derivatives keep their relative precision for
    confident points: p_y − 1 cancels once the margin exceeds 36 in float64, and λ would then be the
    growth rate of rounding errors.
    """
    classes = outputs.shape[1]
    shift = torch.arange(1, classes, device=outputs.device)
    others = (targets.unsqueeze(1) + shift) % classes
    differences = outputs.gather(1, others) - outputs.gather(1, targets.unsqueeze(1))
    margin = differences.logsumexp(1)
    return torch.logaddexp(margin, torch.zeros_like(margin))


def _slope_weights(orders: tuple[int, ...]) -> Tensor:
    """w with w·y = slope of the least-squares line through (orders, y)."""
    n = torch.tensor(orders, dtype=torch.float64)
    centred = n - n.mean()
    return centred / centred.square().sum()


def _fit_residual(orders: tuple[int, ...], means: Tensor) -> float:
    n = torch.tensor(orders, dtype=torch.float64)
    y = means.double().cpu()
    slope = _slope_weights(orders) @ y
    return float((y - y.mean() - slope * (n - n.mean())).square().mean().sqrt())


def _standard_error(values: Tensor) -> float | None:
    if len(values) < 2:
        return None
    return float(values.double().std() / math.sqrt(len(values)))
