"""The sharpness that SAM descends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sharpbench.autodiff.trace import mean_and_standard_error
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Count, Dtype, Metric, check_count, measured_points, torch_dtype
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = ["SamSharpness"]


@metrics.register
@dataclass(frozen=True)
class SamSharpness(Metric):
    """SAM sharpness: rise of the loss at SAM's ascent point, L(w + ρ ∇L/‖∇L‖₂) − L(w).

    Taken on batches of ``m`` samples (m-sharpness: the gradient and both losses of a batch are its
    own) and averaged over all full batches of a random partition; the standard error is that of the
    mean over the batches, None with a single one. ``m = "all"`` takes all samples as one batch.
    In the units of the loss (nats for cross-entropy).

    Parameters: ``rho``, the radius ρ in parameter space; ``m``; ``samples`` of ``split`` drawn
    without replacement.
    """

    name = "sam_sharpness"
    title = "SAM sharpness"
    version = 1
    space = "parameter"
    reference = "arXiv:2010.01412, equations 1-3"
    invariant_under = frozenset({"neuron_permutation"})

    rho: float = 0.05
    m: Count = 128
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"rho must be positive, got {self.rho}")
        check_count("m", self.m)
        check_count("samples", self.samples)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        model = subject.working_model(dtype)
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise MetricFailed("the model has no parameter that requires gradients")
        size = len(inputs) if self.m == "all" else min(self.m, len(inputs))
        order = torch.randperm(
            len(inputs), generator=torch_generator(derive_seed(seed, "batches"))
        ).to(inputs.device)
        originals = [p.detach().clone() for p in parameters]
        work = Work()
        rises: list[float] = []
        for batch in order.split(size)[: len(inputs) // size]:
            x, y = inputs[batch], targets[batch]
            loss = subject.losses(model(x), y).mean()
            gradient = torch.autograd.grad(loss, parameters, materialize_grads=True)
            norm = torch.stack([g.square().sum() for g in gradient]).sum().sqrt()
            if not torch.isfinite(norm) or norm == 0:
                raise MetricFailed(
                    f"the gradient's norm on a batch of {size} is {float(norm)}: SAM's ascent "
                    "direction is not defined"
                )
            with torch.no_grad():
                for parameter, g in zip(parameters, gradient, strict=True):
                    parameter.add_(g, alpha=self.rho / float(norm))
                raised = subject.losses(model(x), y).mean()
                for parameter, original in zip(parameters, originals, strict=True):
                    parameter.copy_(original)
            work.forward += 2 * size
            work.gradient += size
            rises.append(float(raised - loss.detach()))
        mean, error = mean_and_standard_error(rises)
        return Measurement(
            value=mean,
            standard_error=error,
            samples=len(rises) * size,
            work=work,
            details={
                "batches": len(rises),
                "batch_size": size,
                "samples_left_out": len(inputs) - len(rises) * size,
            },
        )
