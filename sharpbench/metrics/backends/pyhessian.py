"""PyHessian behind our contract: unpatched, on a private copy of the model, with its own seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.curvature.trace import mean_and_standard_error
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import ErrorComponent, Measurement
from sharpbench.metrics.backends.base import Backend
from sharpbench.subject import Subject

__all__ = ["PyHessian"]


class PyHessian(Backend):
    """PyHessian's Hessian.

    PyHessian writes ``.grad``, changes the mode and draws from the global generator; the copy and
    the forked generator keep all three from the caller. Its products are counted by a hook on the
    network's output: a gradient arrives there once for the gradient and once for each product.
    Its error of a trace is the spread of its probes; of an eigenvalue and a density it tells none.
    """

    title, package = "PyHessian", "pyhessian"

    def __init__(self, subject: Subject, *points: Any, **settings: Any) -> None:
        if subject.device.type not in {"cpu", "cuda"}:
            raise MetricFailed(f"PyHessian knows only cpu and cuda, not {subject.device.type}")
        super().__init__(subject, *points, **settings)
        if self.matrix != "hessian":
            raise self.lacking("Gauss-Newton matrix")
        self._backward_samples = 0

    def top_eigenvalue(self, tolerance: float, max_products: int) -> Measurement:
        with self._computation() as hessian:
            values, _ = hessian.eigenvalues(maxIter=max_products, tol=tolerance, top_n=1)
        products = self._finish()
        return Measurement(
            value=float(values[0]),
            errors=(ErrorComponent("other", None), *self.points),  # its rule bounds no error
            converged=products < max_products,
            samples=self.samples,
            work=self.work,
            details={"products": products, "rule": "successive Rayleigh quotients agree"},
        )

    def trace(self, tolerance: float, max_probes: int) -> Measurement:
        with self._computation() as hessian:
            probes = hessian.trace(maxIter=max_probes, tol=tolerance)
        self._finish()
        mean, error = mean_and_standard_error([float(p) for p in probes])
        return Measurement(
            value=mean,
            errors=(ErrorComponent("probes", error, max(len(probes) - 1, 1)), *self.points),
            converged=error is not None and error <= tolerance * abs(mean),
            samples=self.samples,
            work=self.work,
            details={"probes": len(probes), "rule": "successive running means agree"},
        )

    def spectral_density(self, steps: int, probes: int) -> Measurement:
        """Its density's nodes and weights; raises MetricFailed where torch has no ``eig`` any more."""
        with self._computation() as hessian:
            nodes, weights = hessian.density(iter=steps, n_v=probes)
        self._finish()
        node, weight = (torch.tensor(v, dtype=torch.complex128).real for v in (nodes, weights))
        sizes = weight * node.abs()
        return Measurement(
            value=float((sizes * (node < 0)).sum() / sizes.sum()),
            errors=(ErrorComponent("probes", None), *self.points),
            samples=self.samples,
            work=self.work,
            details={"probes": probes},
        )

    @contextmanager
    def _computation(self) -> Iterator[Any]:
        from pyhessian import hessian

        def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
            return self.subject.losses(outputs, targets).mean()

        batches = self.batches()
        data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
        hook = self.model.register_forward_hook(self._count)
        devices = [self.inputs.device] if self.inputs.is_cuda else []
        try:
            with (
                torch.random.fork_rng(devices=devices),
                repeatedly_differentiable(),
                warnings.catch_warnings(),
            ):
                # torch warns that backward(create_graph=True) leaves a cycle; the copy dies here.
                warnings.filterwarnings("ignore", message=".*create_graph=True.*")
                torch.manual_seed(self.seed)
                yield hessian(self.model, criterion, cuda=self.inputs.is_cuda, **data)
        except (AssertionError, RuntimeError) as error:
            # Recorded as what it can't do, with its own words: nothing of ours went wrong.
            first = str(error).partition("\n")[0]
            raise MetricUnsupported(f"PyHessian failed: {type(error).__name__}: {first}") from error
        finally:
            hook.remove()
            for parameter in self.model.parameters():
                parameter.grad = None

    def _count(self, module: nn.Module, args: object, output: Tensor) -> None:
        self.work.forward += len(output)

        def note(gradient: Tensor) -> None:
            self._backward_samples += len(gradient)

        output.register_hook(note)

    def _finish(self) -> int:
        """Share the backward passes out between gradients and products; the number of products."""
        self.work.gradient, self.work.forward = self.work.forward, 0.0
        self.work.hessian_vector = self._backward_samples - self.work.gradient
        return round(self.work.hessian_vector / self.samples)
