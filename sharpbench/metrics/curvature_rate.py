"""The input-space curvature rate λ of arXiv:2511.01438, in each of its definitions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import digamma, gammaln
from torch import Tensor, nn

from sharpbench.change import SAME_FUNCTION, Change
from sharpbench.errors import MetricFailed
from sharpbench.front import AtInputs
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    sampled,
    torch_dtype,
)
from sharpbench.metrics.mean_over_points import (
    Errors,
    jackknife_in_two_stages,
    sizes_in_two_stages,
)
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.taylor.directional import directional_derivatives
from sharpbench.taylor.expansion import is_piecewise_linear, log_factorials, signed_sums, taylor
from sharpbench.taylor.growth import Fit, growth_rate
from sharpbench.taylor.series_check import BENT, check_reverse_mode, check_series, check_values
from sharpbench.truth import Known, KnownDerivatives, Truth

__all__ = ["PROTOCOLS", "CurvatureRate"]

Target = Literal["loss", "predicted_loss", "max_logit", "margin"]
Protocol = Literal["custom", "paper_two_moons", "paper_mnist", "paper_table2", "recommended"]

PROTOCOLS: dict[str, dict[str, Any]] = {
    # arXiv:2511.01438 §5.2 with its code: the loss near the boundary, two unit directions.
    "paper_two_moons": {
        "points": "boundary",
        "band": (0.45, 0.65),
        "samples": "all",
        "floor": 1e-12,
    },
    # §5.3–5.5 with its code (which fits orders 1–4, not the 2–4 of the text).
    "paper_mnist": {"samples": 1000, "floor": 1e-12},
    # §5.6, Table 2: a third estimator, the slope of each point between the outer orders.
    "paper_table2": {
        "points": "class_pair",
        "band": (0.3, 0.7),
        "samples": "all",
        "directions": 1,
        "fit": "endpoints",
        "smallest_gradient": 1e-8,
    },
    # Directions whose length doesn't shrink with the dimension, no floor, more of both.
    "recommended": {"direction_law": "gaussian", "directions": 4, "samples": 1000},
}

_CHUNK = 256

_NESTED = 6
"""The highest order by nested reverse mode, where each order doubles the cost."""

Coefficients = Callable[
    [Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, Tensor, int, Work], Tensor
]
"""Normalised coefficients (order + 1, N) from scalar, inputs, targets, directions and order."""


@metrics.register
@dataclass(frozen=True)
class CurvatureRate(Metric):
    """Input-space curvature rate λ: how fast the input derivatives grow with their order.

    For a point x and a random direction u, dₙ = Dⁿf(x)[u, …, u] of a scalar f (by default the loss
    of that point) are taken exactly, all orders in one Taylor-mode pass. yₙ is the logarithm of a
    mean of |dₙ| over points and directions; λ is the slope of a line through (n, yₙ). A network that
    Taylor mode can't follow is differentiated by nested reverse mode instead, up to order 6 (``why`` in the
    details). Either is checked on a few of the points (``checks``).

    The unit of λ is 1/order: with the input scaled by 1/c it grows by log c. It depends on the range
    of orders: for analytic networks the raw slope grows without bound with it, since the derivatives
    grow like n!. The error has the components ``points`` (none where all of the split's, or of those
    chosen in it, are measured) and ``directions`` (none where they are not random: the gradient's, and
    unit directions of one input), by jackknives over the points and over the directions of each one. One
    direction a point does not tell the two apart: they are ``points and directions`` then, and of all
    points ``directions``, whose size holds the spread of the points too. Degrees of freedom fall where few
    points carry the mean and skew it, as with the norms ``rms`` and ``frobenius``.

    Parameters:
    ``protocol`` sets the others together: ``paper_two_moons``, ``paper_mnist``, ``paper_table2`` are
    the three estimators in the paper's code, ``recommended`` is dimension-free. A parameter that you
    set wins over the protocol, be it to its default.
    ``orders`` fitted.
    ``target`` f: ``loss``, ``predicted_loss`` (the cross-entropy of the predicted class),
    ``max_logit``, ``margin`` (z_y − max of the others), or the number of a logit.
    ``points``: ``all``; ``boundary``: those whose largest predicted probability lies in ``band``,
    else the ``nearest`` many to its centre (recorded); ``class_pair``: in the band and with a label
    in ``pair``. ``samples`` of them, drawn from ``split``.
    ``directions`` a point, by ``direction_law``: ``sphere`` (unit length, as the paper),
    ``gaussian`` (N(0, 1) entries: no −½ log d), ``gradient`` (the unit gradient of f).
    ``norm``: ``geometric_mean`` (the mean of log|dₙ|, as the paper's code), ``rms``, or
    ``frobenius``: independent directions of mean square 1 an entry in the n slots, so that
    E(Dⁿf[u₁, …, uₙ])² = ‖Dⁿf‖²_F under either law.
    ``normalization`` ``factorial`` divides dₙ by n!: then λ → −log R, R the radius of convergence.
    ``fit``: ``least_squares``, weighted by 1/(1 + ``weight_decay`` n); ``endpoints``: the outer orders alone;
    ``log_corrected``: α of β + αn + κ log n.
    ``floor`` puts |dₙ| up to at least this (the paper: 1e-12, which biases λ upward for confident
    networks). ``smallest_gradient`` drops points with a smaller |d₁|. Points with a vanishing
    derivative have no logarithm: dropped and counted.
    """

    name = "curvature_rate"
    title = "curvature rate λ"
    unit = "log 1/[input]"
    version = 7
    space = "input"
    by_at_inputs = True
    reference = "arXiv:2511.01438, sections 2.1 and 5.2"
    invariant_under = SAME_FUNCTION | {"logit_shift", "input_isometry"}

    orders: tuple[int, ...] = (1, 2, 3, 4)
    target: Target | int = "loss"
    directions: int = 2
    direction_law: Literal["sphere", "gaussian", "gradient"] = "sphere"
    norm: Literal["geometric_mean", "rms", "frobenius"] = "geometric_mean"
    normalization: Literal["none", "factorial"] = "none"
    fit: Fit = "least_squares"
    weight_decay: float = 0.0
    samples: Count = 512
    split: Literal["train", "test"] = "test"
    points: Literal["all", "boundary", "class_pair"] = "all"
    band: tuple[float, float] = (0.45, 0.65)
    pair: tuple[int, int] = (0, 1)
    nearest: int = 600
    floor: float | None = None
    smallest_gradient: float = 0.0
    dtype: Dtype = "float64"
    protocol: Protocol = "custom"

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Remembers for `__post_init__` which parameters are given: a protocol sets the others."""
        self = super().__new__(cls)
        if args or given:  # neither when a copy is unpickled
            names = [field.name for field in dataclasses.fields(cls)]
            self.__dict__["_given"] = {*names[: len(args)], *given}
        return self

    def __post_init__(self) -> None:
        given = self.__dict__.pop("_given", frozenset())
        for key, value in PROTOCOLS.get(self.protocol, {}).items():
            if key not in given:
                object.__setattr__(self, key, value)
        needed = 3 if self.fit == "log_corrected" else 2
        lowest = 1 if self.fit == "log_corrected" or self.norm == "frobenius" else 0
        if len(set(self.orders)) < needed or min(self.orders) < lowest:
            raise ValueError(
                f"orders needs at least {needed} different orders ≥ {lowest} for the fit {self.fit!r}, got "
                f"{list(self.orders)}"
            )
        for key in ("directions", "nearest"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        check_count("samples", self.samples)
        if not 0 <= self.band[0] < self.band[1] <= 1:
            raise ValueError(f"band must be two rising probabilities, got {list(self.band)}")
        if self.floor is not None and not self.floor > 0:
            raise ValueError(f"floor must be positive or None, got {self.floor}")
        if self.weight_decay < 0 or self.smallest_gradient < 0:
            raise ValueError("weight_decay and smallest_gradient must not be negative")
        if isinstance(self.target, int) and self.target < 0:
            raise ValueError(f"a logit is named by its number from 0, got {self.target}")
        if self.norm == "frobenius" and max(self.orders) > 8:
            raise ValueError("norm 'frobenius' takes 2ⁿ⁻¹ passes for order n: at most order 8")
        if self.norm == "frobenius" and self.direction_law == "gradient":
            raise ValueError("norm 'frobenius' needs random directions, not the gradient's")

    @property
    def label(self) -> str:
        """As for every plug-in, but what the protocol sets is not told again."""
        if self.protocol == "custom":
            return super().label
        usual = self._defaults() | PROTOCOLS[self.protocol] | {"protocol": self.protocol}
        return self._labelled(usual, (f"protocol={self.protocol}",))

    def unsupported(self, subject: Subject) -> str | None:
        if reason := subject.without_classes():
            if self.points != "all":
                return f"{self.points} points need predicted probabilities, and {reason}"
            if self.target in {"predicted_loss", "max_logit", "margin"}:
                return f"the target {self.target!r} needs classes, and {reason}"
            if self.target != "loss" and (subject.of_model_and_batch or subject.tokens is not None):
                return f"the target {self.target!r} needs one row of outputs a sample, and {reason}"
        of_outputs = self.target not in {"loss", "predicted_loss"} and self.floor is None
        if not of_outputs or max(self.orders) == 1:
            return None
        model = subject.at_inputs(subject.dtype)
        if subject.front is not None and subject.front.varied is None:
            return None  # what stands in the way is told by others
        point, context = model.of(subject.inputs[:1].to(subject.dtype), subject.targets[:1])
        if is_piecewise_linear(partial(_of_points, model, context), point):
            return "the network is piecewise linear: every derivative of its outputs above order 1 is zero"
        return None

    def stays_under(self, change: Change) -> bool:
        if change.temperature != 1:  # a logit's growth has no temperature
            return self.target not in {"loss", "predicted_loss"} and self.floor is None
        return super().stays_under(change)

    def expected_after(self, change: Change, before: float) -> float | None:
        """x → cx divides a derivative of order n by cⁿ: λ falls by log c, unless a floor holds it up."""
        scale = change.input_scale
        if scale is None or scale == 1 or self.floor is not None:
            return None
        return before - math.log(scale)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model = subject.at_inputs(dtype)
        work = Work()
        inputs, targets, population, chosen = self._points(subject, model.model, dtype, work, seed)
        inputs, targets = model.of(inputs, targets)
        scalar = self._scalar(subject, model)
        coefficients: Coefficients
        arguments = (subject, model, inputs, targets, seed)
        try:
            checks = self._checks(*arguments, work)
        except NotImplementedError as reason:
            if max(self.orders) > _NESTED:
                raise
            try:
                checks = self._checks(*arguments, work, series=False)
            except MetricFailed as more:
                raise MetricFailed(f"{reason}; {more}") from reason
            coefficients = _by_reverse_mode
            chosen["why"] = f"by nested reverse mode: {reason}"
        else:
            coefficients = _with_values_checked(_by_taylor_mode, checks, seed)
        logs = self._log_derivatives(scalar, inputs, targets, work, seed, coefficients)
        if torch.isnan(logs).any() or torch.isposinf(logs).any():
            bad = (torch.isnan(logs) | torch.isposinf(logs)).any(1).any(0)
            first = next(n for n, b in zip(self.orders, bad, strict=True) if b)
            raise MetricFailed(f"the derivative of order {first} is not finite")
        kept = torch.ones(len(logs), dtype=torch.bool, device=logs.device)
        if self.norm == "geometric_mean":
            kept &= torch.isfinite(logs).all(2).all(1)
        if self.smallest_gradient and 1 in self.orders:
            first_order = logs[:, :, self.orders.index(1)]
            kept &= (first_order > math.log(self.smallest_gradient)).all(1)
        if not kept.any() or not torch.isfinite(logs[kept]).any(1).any(0).all():
            raise MetricFailed(
                f"no point has finite, non-zero derivatives of all orders {list(self.orders)}: "
                "the loss is flat, saturated or not finite there"
            )
        logs = logs[kept].double().cpu()
        points = self._over_directions(logs)
        if self.normalization == "factorial":
            points -= log_factorials(max(self.orders))[list(self.orders)]
        one = torch.ones(1, len(points), dtype=torch.float64) / len(points)
        y = self._over_points(points, one)
        slope, residual = growth_rate(self.orders, y, self.fit, self.weight_decay)
        left = 1 - len(inputs) / population
        errors, by_order = self._errors(logs, inputs[0].numel(), left)
        return Measurement(
            value=float(slope),
            errors=errors,
            samples=len(inputs),
            work=work,
            details={
                "orders": list(self.orders),
                "log_derivative": y[0].tolist(),
                "log_derivative_standard_error": by_order,
                "residual_rms": float(residual),
                "points_kept": int(kept.sum()),
                "points_dropped": int((~kept).sum()),
                "piecewise_linear": is_piecewise_linear(
                    partial(_of_points, model, targets[:1]), inputs[:1]
                ),
                "checks": checks,
                **chosen,
            },
        )

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        found = super().notes(details)
        if details.get("points_dropped"):
            found.append("points whose derivatives are zero or not finite are left out")
        if details.get("fallback_to_nearest"):
            found.append("no point lies in the band of confidence: the nearest ones were taken")
        if BENT in details.get("checks", {}):
            found.append(
                "the network is bent where points stand (several largest entries, a unit at its kink): "
                "derivatives there are those of one side"
            )
        return found

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        """λ by this definition from the exact derivatives, and the limit as the orders grow.

        None for what a problem doesn't know: other targets than its output, a choice of points, a
        floor, or one direction at a time of a function that varies in many.
        """
        plain = self.points == "all" and self.floor is None and not self.smallest_gradient
        if not isinstance(truth, KnownDerivatives) or self.target != 0 or not plain:
            return None
        one_direction = truth.single_index or truth.inputs == 1
        if self.norm != "frobenius" and not one_direction:
            return None
        n = np.array(self.orders, dtype=float)
        logs = truth.log_derivatives(subject, max(self.orders))[list(self.orders)].T
        logs = logs + torch.from_numpy(self._log_cosine(n, truth.inputs))
        factorial = self.normalization == "factorial"
        if factorial:
            logs -= log_factorials(max(self.orders))[list(self.orders)]
        geometric = self.norm == "geometric_mean"
        if geometric:
            logs = logs[torch.isfinite(logs).all(1)]  # as the estimator drops them
        expected = None
        if len(logs):
            y = self._over_points(logs, torch.ones(1, len(logs), dtype=torch.float64) / len(logs))
            if torch.isfinite(y).all():
                expected = float(growth_rate(self.orders, y, self.fit, self.weight_decay)[0])
        limits = truth.limits(subject, mean_of_logs=geometric)
        shift = self._cosine_rate(truth.inputs)
        return Known(expected, None if shift is None else limits[factorial] + shift)

    def _log_cosine(self, n: np.ndarray, inputs: int) -> np.ndarray:
        """What directions add to log‖Dⁿf‖ of a single-index function: the mean of |ŵ·u|ⁿ's logarithm.

        For ``rms`` half the logarithm of E(ŵ·u)²ⁿ; u on the unit sphere or N(0, I), ŵ a unit vector.
        """
        if self.norm == "frobenius" or self.direction_law == "gradient":
            return 0.0 * n
        if self.norm == "geometric_mean":
            rate = self._cosine_rate(inputs)
            assert rate is not None
            return n * rate
        moment = gammaln(n + 0.5) - gammaln(0.5)
        if self.direction_law == "gaussian":
            moment += n * math.log(2)
        else:
            moment += gammaln(inputs / 2) - gammaln(n + inputs / 2)
        return np.asarray(0.5 * moment)

    def _cosine_rate(self, inputs: int) -> float | None:
        """The rate that directions add in the limit; None where it grows without bound."""
        if self.norm == "frobenius" or self.direction_law == "gradient":
            return 0.0
        if self.norm == "rms":
            return None if self.direction_law == "gaussian" else 0.0
        other = -math.log(2) if self.direction_law == "gaussian" else digamma(inputs / 2)
        return 0.5 * float(digamma(0.5) - other)

    # --- where ----------------------------------------------------------------------------------

    def _points(
        self, subject: Subject, model: nn.Module, dtype: torch.dtype, work: Work, seed: int
    ) -> tuple[Tensor, Tensor, int, dict[str, Any]]:
        """Points and targets, of how many they are drawn, and how these were chosen."""
        inputs, targets = subject.data(self.split)
        chosen: dict[str, Any] = {}
        if self.points != "all":
            with torch.no_grad():
                confidence = torch.cat(
                    [model(x.to(dtype)).softmax(1).max(1).values for x in inputs.split(1024)]
                )
            work.forward += len(inputs)
            inside = (confidence >= self.band[0]) & (confidence <= self.band[1])
            if self.points == "class_pair":
                inside &= (targets == self.pair[0]) | (targets == self.pair[1])
                if not inside.any():
                    raise MetricFailed(
                        f"no point of the classes {list(self.pair)} has its largest probability in "
                        f"{list(self.band)}"
                    )
            found = int(inside.sum())
            if found:
                inputs, targets = inputs[inside], targets[inside]
            else:
                nearest = (confidence - sum(self.band) / 2).abs().argsort(stable=True)
                inputs, targets = inputs[nearest[: self.nearest]], targets[nearest[: self.nearest]]
            chosen = {"points_in_band": found, "fallback_to_nearest": found == 0}
        population = len(inputs)
        inputs, targets = sampled((inputs, targets), self.samples, seed=derive_seed(seed, "points"))
        if targets.is_floating_point():
            targets = targets.to(dtype)
        return inputs.to(dtype), targets, population, chosen

    # --- what -----------------------------------------------------------------------------------

    def _scalar(self, subject: Subject, model: AtInputs) -> Callable[[Tensor, Tensor], Tensor]:
        """The scalar of a point that is differentiated, (N,), from points and their context."""

        return lambda x, y: self._of_outputs(subject, model(x, y), model.targets(y))

    def _of_outputs(self, subject: Subject, outputs: Tensor, y: Tensor) -> Tensor:
        """The target of each point from its outputs, (N,)."""
        if self.target == "loss":
            return subject.losses(outputs, y)
        if isinstance(self.target, int):
            if self.target >= outputs.shape[1]:
                raise MetricFailed(
                    f"the network has no output {self.target}, it has {outputs.shape[1]}"
                )
            return outputs[:, self.target]
        best = outputs.argmax(1)
        if self.target == "predicted_loss":
            return F.cross_entropy(outputs, best, reduction="none")
        if self.target == "max_logit":
            return outputs.gather(1, best.unsqueeze(1)).squeeze(1)
        own = outputs.gather(1, y.unsqueeze(1))
        mask = F.one_hot(y, outputs.shape[1]).bool()
        return own.squeeze(1) - outputs.masked_fill(mask, -math.inf).max(1).values

    def _checks(
        self,
        subject: Subject,
        model: AtInputs,
        inputs: Tensor,
        targets: Tensor,
        seed: int,
        work: Work,
        *,
        series: bool = True,
    ) -> dict[str, float | str]:
        """Outputs and target of a few points by Taylor mode against other means; see `check_series`.

        ``series`` False: by nested reverse mode.
        """
        generator = torch_generator(derive_seed(seed, "checks"))
        rows = torch.randperm(len(inputs), generator=generator)[:2].to(inputs.device)
        points, context = inputs[rows], targets[rows]
        drawn = torch.randn(points.shape, generator=generator, dtype=torch.float64)
        along = drawn / drawn.flatten(1).norm(dim=1).view(-1, *[1] * (drawn.ndim - 1))

        def both(x: Tensor) -> Tensor:
            outputs = model(x, context)
            scalar = self._of_outputs(subject, outputs, model.targets(context))
            return torch.cat([outputs.reshape(len(x), -1), scalar.unsqueeze(1)], 1)

        check = check_series if series else check_reverse_mode
        return check(both, points, along.to(inputs), max(self.orders), work=work)

    def _log_derivatives(
        self,
        scalar: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        work: Work,
        seed: int,
        coefficients: Coefficients,
    ) -> Tensor:
        """log|dₙ|, (N, directions, orders)."""
        generator = torch_generator(derive_seed(seed, "directions"))
        shifts = log_factorials(max(self.orders)).to(inputs)[list(self.orders)]
        repeats = 1 if self.direction_law == "gradient" else self.directions
        collected = []
        for _ in range(repeats):
            if self.norm == "frobenius":
                logs = self._log_mixed(scalar, inputs, targets, work, generator, coefficients)
            else:
                u = self._direction(scalar, inputs, targets, work, generator)
                c = coefficients(scalar, inputs, targets, u, max(self.orders), work)
                logs = c[list(self.orders)].abs().log().T + shifts
            collected.append(logs)
        stacked = torch.stack(collected, 1)
        return stacked if self.floor is None else stacked.clamp_min(math.log(self.floor))

    def _direction(
        self,
        scalar: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        work: Work,
        generator: torch.Generator,
    ) -> Tensor:
        if self.direction_law == "gradient":
            x = inputs.clone().requires_grad_()
            (drawn,) = torch.autograd.grad(scalar(x, targets).sum(), x)
            work.gradient += len(x)
        else:
            drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
            if self.direction_law == "gaussian":
                return drawn.to(inputs)
        unit: Tensor = drawn / drawn.flatten(1).norm(dim=1).view(-1, *[1] * (drawn.ndim - 1))
        return unit.to(inputs)

    def _log_mixed(
        self,
        scalar: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        work: Work,
        generator: torch.Generator,
        coefficients: Coefficients,
    ) -> Tensor:
        """log|Dⁿf[u₁, …, uₙ]| with independent uᵢ, (N, orders)."""
        draws = torch.stack(
            [
                self._direction(scalar, inputs, targets, work, generator)
                for _ in range(max(self.orders))
            ]
        )
        columns = []
        for n in self.orders:
            total = torch.zeros(len(inputs), dtype=inputs.dtype, device=inputs.device)
            for sign, u in signed_sums(draws[:n]):
                total += sign * coefficients(scalar, inputs, targets, u, n, work)[n]
            # Unit vectors have E uuᵀ = I/d: without the factor d^(n/2) the norm would be too small.
            unit = 0.5 * n * math.log(inputs[0].numel()) if self.direction_law == "sphere" else 0.0
            columns.append((total / 2 ** (n - 1)).abs().log() + unit)
        return torch.stack(columns, 1)

    # --- the means and their slope ----------------------------------------------------------------

    def _over_directions(self, logs: Tensor) -> Tensor:
        if self.norm == "geometric_mean":
            return logs.mean(1)
        return 0.5 * (torch.logsumexp(2 * logs, 1) - math.log(logs.shape[1]))

    def _over_points(self, points: Tensor, weights: Tensor) -> Tensor:
        """yₙ for each row of weights (B, N) over the points, (B, orders)."""
        if self.norm == "geometric_mean":
            return weights @ points
        top = points.max(0).values
        return 0.5 * (weights @ (2 * (points - top)).exp()).log() + top

    def _errors(self, logs: Tensor, size: int, left: float) -> tuple[Errors, list[float] | None]:
        """The components of λ's error, and the standard error of each yₙ, from log|dₙ| (N, D, orders).

        ``size`` of an input; ``left``: the share of the points meant that is not measured.
        """
        without, others = self._without_each(logs)
        certain = self.direction_law == "gradient" or (self.direction_law == "sphere" and size == 1)
        inside = None if certain else others

        def slope(y: Tensor) -> Tensor:
            return growth_rate(self.orders, y, self.fit, self.weight_decay)[0]

        along = None if inside is None else slope(inside)
        errors = jackknife_in_two_stages(slope(without), along, left=left)
        return errors, sizes_in_two_stages(without, inside, left=left)

    def _without_each(self, logs: Tensor) -> tuple[Tensor, Tensor]:
        """yₙ up to a constant from log|dₙ| (N, D, orders): without each point (N, orders), and without each
        direction of each point (N, D, orders), or (N, 0, orders) where D is 1."""
        points, directions = logs.shape[:2]
        geometric = self.norm == "geometric_mean"
        top = logs.amax((0, 1))
        values = logs if geometric else (2 * (logs - top)).exp()
        own = values.mean(1)
        without = (own.sum(0) - own) / max(points - 1, 1)
        others = values[:, : 0 if directions == 1 else directions]
        others = (directions * own.unsqueeze(1) - others) / max(directions - 1, 1)
        inside = ((own.sum(0) - own).unsqueeze(1) + others) / points
        if geometric:
            return without, inside
        without, inside = (0.5 * v.clamp_min(0).log() + top for v in (without, inside))
        return without, inside


def _with_values_checked(
    coefficients: Coefficients, checks: dict[str, float | str], seed: int
) -> Coefficients:
    """The same, but what the first series begin with is compared with the function itself, at a random
    sixty-fourth of the points and two more; ``checks`` takes the largest deviation."""
    checked = False

    def compared(
        scalar: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        directions: Tensor,
        order: int,
        work: Work,
    ) -> Tensor:
        nonlocal checked
        found = coefficients(scalar, inputs, targets, directions, order, work)
        if not checked:
            generator = torch_generator(derive_seed(seed, "checks"))
            rows = torch.randperm(len(inputs), generator=generator)[: 2 + len(inputs) // 64]
            rows = rows.to(inputs.device)
            more = check_values(
                partial(_at, scalar, targets[rows]), inputs[rows], found[0, rows], work=work
            )
            for name, deviation in more.items():
                checks[name] = max(checks[name], deviation)
            checked = True
        return found

    return compared


def _by_taylor_mode(
    scalar: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    directions: Tensor,
    order: int,
    work: Work,
) -> Tensor:
    """Normalised coefficients (order + 1, N), chunk by chunk."""
    parts = (t.split(_CHUNK) for t in (inputs, targets, directions))
    with torch.no_grad():
        return torch.cat(
            [
                taylor(partial(_at, scalar, y), x, u, order, work=work)
                for x, y, u in zip(*parts, strict=True)
            ],
            dim=1,
        )


def _by_reverse_mode(
    scalar: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    directions: Tensor,
    order: int,
    work: Work,
) -> Tensor:
    """The same by `directional_derivatives`, for networks that Taylor mode can't follow."""
    parts = (t.split(_CHUNK) for t in (inputs, targets, directions))
    found = torch.cat(
        [
            directional_derivatives(partial(_at, scalar, y), x, u, order, work=work)
            for x, y, u in zip(*parts, strict=True)
        ],
        dim=1,
    )
    return found / log_factorials(order).exp().to(found).unsqueeze(1)


def _of_points(model: AtInputs, context: Tensor, points: Tensor) -> Tensor:
    outputs: Tensor = model(points, context)
    return outputs


def _at(scalar: Callable[[Tensor, Tensor], Tensor], targets: Tensor, points: Tensor) -> Tensor:
    return scalar(points, targets)
