"""Input-space metrics that λ has to beat: Jacobian norm, normalised curvature, gradient change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sharpbench.autodiff.loss_operators import InputHessianOperator
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    SAME_FUNCTION,
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    torch_dtype,
)
from sharpbench.metrics.mean_over_points import mean_over_points
from sharpbench.registry import Plugin
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = ["InputCurvature", "InputGradientChange", "InputJacobianNorm"]

_CHUNK = 256


@dataclass(frozen=True)
class _InputMetric(Metric):
    version = 2
    space = "input"
    invariant_under = SAME_FUNCTION | {"input_rotation", "logit_shift"}

    samples: Count = 512
    split: Literal["train", "test"] = "test"
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)


@metrics.register
@dataclass(frozen=True)
class InputJacobianNorm(_InputMetric):
    """Mean Frobenius norm of the input Jacobian, E‖∂f/∂x‖_F, exact: one gradient an output.

    Parameters: ``output`` f: the ``softmax`` probabilities (as Novak et al.) or the ``logits``;
    ``samples`` points drawn from ``split``.
    """

    name = "input_jacobian_norm"
    title = "input Jacobian norm"
    reference = "arXiv:1802.08760"

    output: Literal["softmax", "logits"] = "softmax"

    def expected_after(self, transformation: Plugin, before: float) -> float | None:
        if transformation.name == "input_rescaling":
            return before / float(transformation.parameters()["factor"])
        if transformation.name == "logit_temperature" and self.output == "logits":
            return before / float(transformation.parameters()["temperature"])
        return None

    def unsupported(self, subject: Subject) -> str | None:
        if self.output == "softmax" and subject.task != "classification":
            return "softmax needs classes, and this is a regression; take output 'logits'"
        return None

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model, work = subject.working_model(dtype), Work()
        inputs, _ = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        norms = torch.cat([self._norms(model, x, work) for x in inputs.split(_CHUNK)])
        return mean_over_points(norms, work)

    def _norms(self, model: nn.Module, x: Tensor, work: Work) -> Tensor:
        x = x.clone().requires_grad_()
        outputs = model(x)
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

    The spectral norm comes from power iteration with Hessian-vector products, for all points at
    once. log of it is λ between the orders 1 and 2, with the worst direction for a random one.

    Parameters: ``iterations`` at most; stops when the mean changes by less than ``tolerance``
    relatively; ``epsilon``; ``samples`` points drawn from ``split``.
    """

    name = "input_curvature"
    title = "normalised input curvature"
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

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model, work = subject.working_model(dtype), Work()
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        generator = torch_generator(derive_seed(seed, "directions"))
        start = torch.randn(inputs.shape, generator=generator, dtype=torch.float64).to(inputs)
        ratios, converged = [], True
        parts = (t.split(_CHUNK) for t in (inputs, targets, start))
        for x, y, v in zip(*parts, strict=True):
            ratio, done = self._ratios(subject, model, x, y, v, work)
            ratios.append(ratio)
            converged &= done
        return mean_over_points(torch.cat(ratios), work, converged=converged)

    def _ratios(
        self, subject: Subject, model: nn.Module, x: Tensor, y: Tensor, v: Tensor, work: Work
    ) -> tuple[Tensor, bool]:
        assert subject.loss is not None
        operator = InputHessianOperator(model, subject.loss, x, y, work=work)
        size = operator.gradient.flatten(1).norm(dim=1)
        norm, done, v = torch.zeros_like(size), operator.linear, v.flatten(1)
        for _ in range(0 if done else self.iterations):
            v = v / v.norm(dim=1, keepdim=True).clamp_min(1e-300)
            v = operator.matvec(v.reshape(-1)).view_as(v)
            before, norm = norm, v.norm(dim=1)
            if (norm - before).abs().sum() <= self.tolerance * norm.sum():
                done = True
                break
        return norm / (size + self.epsilon), done


@metrics.register
@dataclass(frozen=True)
class InputGradientChange(_InputMetric):
    """E‖∇ℓ(x + h z) − ∇ℓ(x)‖₂ along the unit vector z of the gradient's signs (CURE).

    Parameters: ``step`` h in units of the input; ``samples`` points drawn from ``split``.
    """

    name = "input_gradient_change"
    title = "input gradient change (CURE)"
    invariant_under = SAME_FUNCTION | {"logit_shift"}  # the signs of a gradient have axes
    reference = "arXiv:1811.09716"

    step: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0:
            raise ValueError(f"step must be positive, got {self.step}")

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model, work = subject.working_model(dtype), Work()
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)

        def gradient(x: Tensor, y: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            loss = subject.losses(model(x), y).sum()
            work.gradient += len(x)
            return torch.autograd.grad(loss, x, materialize_grads=True)[0]

        changes = []
        for x, y in zip(inputs.split(_CHUNK), targets.split(_CHUNK), strict=True):
            here = gradient(x, y)
            signs = here.sign()
            length = signs.flatten(1).norm(dim=1).clamp_min(1).view(-1, *[1] * (x.ndim - 1))
            there = gradient(x + self.step * signs / length, y)
            changes.append((there - here).flatten(1).norm(dim=1))
        return mean_over_points(torch.cat(changes), work)
