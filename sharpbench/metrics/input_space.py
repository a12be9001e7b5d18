"""Input-space metrics that λ has to beat: Jacobian norm, normalised curvature, gradient change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharpbench.change import SAME_FUNCTION, Change
from sharpbench.curvature.block_norms import BlockNorms, block_norms
from sharpbench.curvature.input_operator import InputHessianOperator
from sharpbench.curvature.krylov import failure_probability
from sharpbench.curvature.product_check import Checks
from sharpbench.front import AtInputs
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    torch_dtype,
    unit_of_task,
)
from sharpbench.metrics.mean_over_points import mean_over_points
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import Known, KnownDerivatives, KnownInputHessian, Truth

__all__ = ["InputCurvature", "InputGradientChange", "InputJacobianNorm"]

_CHUNK = 256

_KRYLOV_NUMBERS = 1 << 24
"""Numbers in the Krylov vectors of all points of a chunk."""


@dataclass(frozen=True)
class _InputMetric(Metric):
    version = 4
    space = "input"
    by_at_inputs = True
    invariant_under = SAME_FUNCTION | {"input_isometry", "logit_shift"}

    samples: Count = 512
    split: Literal["train", "test"] = "test"
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    def _population(self, subject: Subject) -> int:
        return len(subject.data(self.split)[0])


@metrics.register
@dataclass(frozen=True)
class InputJacobianNorm(_InputMetric):
    """Mean Frobenius norm of the input Jacobian, E‖∂f/∂x‖_F, exact: one gradient an output.

    Parameters: ``output`` f: the ``softmax`` probabilities (as Novak et al.) or the ``logits``;
    ``samples`` points drawn from ``split``.
    """

    name = "input_jacobian_norm"
    title = "input Jacobian norm"
    unit = "1/[input]"
    reference = "arXiv:1802.08760"

    output: Literal["softmax", "logits"] = "softmax"

    def unit_on(self, subject: Subject) -> str:
        unit = "1/[input]" if self.output == "softmax" else "[output]/[input]"
        return unit_of_task(unit, subject.task)

    def expected_after(self, change: Change, before: float) -> float | None:
        scale, temperature = change.input_scale, change.temperature
        if scale is None or (temperature != 1 and self.output == "softmax"):
            return None
        factor = scale * temperature
        return None if factor == 1 else before / factor

    def unsupported(self, subject: Subject) -> str | None:
        if self.output == "softmax" and (reason := subject.without_classes()):
            return f"softmax needs classes, and {reason}; take output 'logits'"
        return subject.without_classes() if subject.of_model_and_batch else None

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        if not isinstance(truth, KnownDerivatives) or self.output != "logits":
            return None
        return Known(expected=float(truth.log_derivatives(subject, 1)[1].exp().mean()))

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model, work = subject.at_inputs(dtype), Work()
        inputs, context = model.of(
            *measured_points(subject, self.split, self.samples, dtype, seed=seed)
        )
        pairs = zip(inputs.split(_CHUNK), context.split(_CHUNK), strict=True)
        norms = torch.cat([self._norms(model, x, c, work) for x, c in pairs])
        return mean_over_points(norms, self._population(subject), work)

    def _norms(self, model: AtInputs, x: Tensor, context: Tensor, work: Work) -> Tensor:
        x = x.clone().requires_grad_()
        outputs: Tensor = model(x, context)
        if self.output == "softmax":
            outputs = outputs.softmax(1)
        work.forward += len(x)
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for column in outputs.flatten(1).unbind(1):
            (gradient,) = torch.autograd.grad(
                column.sum(), x, retain_graph=True, materialize_grads=True
            )
            work.add_backward(len(x))
            total += gradient.square().flatten(1).sum(1)
        return total.sqrt()


@metrics.register
@dataclass(frozen=True)
class InputCurvature(_InputMetric):
    """Mean normalised curvature E[‖∇²ℓ‖₂ / (‖∇ℓ‖₂ + ε)] of each point's loss in its input.

    The spectral norms come from a Lanczos iteration in each point, all in step: one Hessian-vector
    product serves them all. log of the figure is λ between the orders 1 and 2, with the worst direction
    for a random one. The norms found are lower bounds, and ``error_bound`` says by how much the figure
    over the same points may be larger: wrong with ``failure_probability`` (in the details) at most, over
    the random starts. ``converged``: it is at most ``tolerance`` times the value. Exact where the loss is
    linear in the input, or its Hessian of a rank below the number of products.

    Points at which the gradient almost vanishes can outweigh many: an interval from so few points that none
    of these is among them is too narrow (of 400 points, one of 20 times their mean, 95% intervals from 24
    held in 85% of draws, from 100 in 90%).

    Parameters: ``iterations``: products at most; ``tolerance``; ``epsilon``, in units of the gradient;
    ``samples`` points drawn from ``split``.
    """

    name = "input_curvature"
    title = "normalised input curvature"
    version = 5
    unit = "1/[input]"
    reference = "arXiv:2206.07144"

    iterations: int = 50
    tolerance: float = 1e-3
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not (self.tolerance > 0 and self.epsilon > 0):
            raise ValueError("tolerance and epsilon must be positive")

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        if not isinstance(truth, KnownInputHessian):
            return None
        gradients, hessians = truth.input_norms(subject)
        return Known(expected=float((hessians / (gradients + self.epsilon)).mean()))

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model, work = subject.at_inputs(dtype), Work()
        inputs, targets = model.of(
            *measured_points(subject, self.split, self.samples, dtype, seed=seed)
        )
        generator = torch_generator(derive_seed(seed, "directions"))
        checks: Checks = {}
        functions: set[str] = set()
        parts = [
            self._ratios(
                subject, model, x, y, work, generator, len(x) / len(inputs), checks, functions
            )
            for x, y in zip(*(t.split(self._chunk(inputs)) for t in (inputs, targets)), strict=True)
        ]
        ratios, bounds = torch.cat([r for r, _, _ in parts]), torch.cat([b for _, b, _ in parts])
        found = [norms for _, _, norms in parts]
        bound = float(bounds.mean())
        return mean_over_points(
            ratios,
            self._population(subject),
            work,
            converged=bound <= self.tolerance * float(ratios.mean()),
            error_bound=bound or None,
            details={
                "products": max(norms.products for norms in found),
                "failure_probability": sum(norms.failure_probability for norms in found),
                "checks": {**checks, "symmetry": max(norms.asymmetry for norms in found)},
            },
        )

    def _chunk(self, inputs: Tensor) -> int:
        """Points at once, so that their Krylov vectors fit the memory."""
        size = inputs[0].numel()
        return max(1, min(_CHUNK, _KRYLOV_NUMBERS // (size * (min(self.iterations, size) + 1))))

    def _ratios(
        self,
        subject: Subject,
        model: AtInputs,
        x: Tensor,
        y: Tensor,
        work: Work,
        generator: torch.Generator,
        part: float,
        checks: Checks,
        functions: set[str],
    ) -> tuple[Tensor, Tensor, BlockNorms]:
        """Of a ``part`` of the points the ratios (n,), by how much they may be larger, and the norms.

        The first part verifies the operator's products and adds to ``checks`` what it found; one for which
        an autograd.Function runs that none had before, which is added to ``functions``, verifies it.
        """
        assert subject.loss is not None
        operator = InputHessianOperator(
            model, subject.loss, x, y, work=work, verify=not checks, functions=functions
        )
        checks |= operator.checks
        weights = 1 / (operator.gradient.flatten(1).norm(dim=1).double().cpu() + self.epsilon)
        found = block_norms(
            operator,
            len(x),
            tolerance=self.tolerance,
            max_products=self.iterations,
            generator=generator,
            weights=weights,
            chance=part * failure_probability(self.tolerance),
        )
        return weights * found.norms, weights * found.error_bounds, found


@metrics.register
@dataclass(frozen=True)
class InputGradientChange(_InputMetric):
    """E‖∇ℓ(x + h z) − ∇ℓ(x)‖₂ along the unit vector z of the gradient's signs (CURE).

    Parameters: ``step`` h in units of the input; ``samples`` points drawn from ``split``.
    """

    name = "input_gradient_change"
    title = "input gradient change (CURE)"
    unit = "[loss]/[input]"
    invariant_under = SAME_FUNCTION | {"logit_shift"}  # the signs of a gradient have axes
    reference = "arXiv:1811.09716"

    step: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0:
            raise ValueError(f"step must be positive, got {self.step}")

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model, work = subject.at_inputs(dtype), Work()
        inputs, targets = model.of(
            *measured_points(subject, self.split, self.samples, dtype, seed=seed)
        )

        def gradient(x: Tensor, y: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            loss = subject.losses(model(x, y), model.targets(y)).sum()
            work.gradient += len(x)
            return torch.autograd.grad(loss, x, materialize_grads=True)[0]

        changes = []
        for x, y in zip(inputs.split(_CHUNK), targets.split(_CHUNK), strict=True):
            here = gradient(x, y)
            signs = here.sign()
            length = signs.flatten(1).norm(dim=1).clamp_min(1).view(-1, *[1] * (x.ndim - 1))
            there = gradient(x + self.step * signs / length, y)
            changes.append((there - here).flatten(1).norm(dim=1))
        return mean_over_points(torch.cat(changes), self._population(subject), work)
