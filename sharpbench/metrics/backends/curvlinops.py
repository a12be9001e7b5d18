"""curvlinops behind our contract: unpatched, its Hessian operator as its manual uses it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import nn

from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import ErrorComponent, Measurement
from sharpbench.metrics.backends.base import Backend
from sharpbench.seeds import numpy_generator
from sharpbench.subject import per_sample_loss

__all__ = ["Curvlinops"]

_OPERATORS = {"hessian": "HessianLinearOperator", "gauss_newton": "GGNLinearOperator"}
"""curvlinops' names of the matrices."""


def krylov_vectors(tolerance: float, size: int) -> int:
    """The Lanczos size ``ncv`` for ``eigsh`` on ``size`` unknowns: two vectors a decimal digit of tolerance.

    ARPACK asks whether it is done when the space is full, so that SciPy's default of 20 makes 21
    products however loose the tolerance. Where the top eigenvalue stands apart, Lanczos gains a digit in
    about two products. Below 6 vectors ARPACK restarts from a single one, which is slow on every
    spectrum; and a space that proves too small restarts.
    """
    digits = -math.log10(tolerance) if tolerance > 0 else math.inf
    wanted = 20 if digits > 10 else max(6, math.ceil(2 * digits - 1e-9))
    return min(wanted, size)


class Curvlinops(Backend):
    """curvlinops' linear operators of both matrices, under SciPy and its own estimators.

    Its products are counted as they are asked for. It knows torch's loss modules alone: cross-entropy
    and, for ½ squared error, its own ``MSELoss`` whose factor is put right afterwards. It tells no error of
    its probes; of an eigenvalue the bound that ARPACK stopped at.
    """

    title, package, extra = "curvlinops", "curvlinops", "rivals"

    def __init__(self, *points: Any, **settings: Any) -> None:
        super().__init__(*points, **settings)
        self.products = 0

    def top_eigenvalue(self, tolerance: float, max_products: int) -> Measurement:
        """ARPACK's largest algebraic eigenvalue."""
        with self._computation() as (operator, factor):
            scipy = operator.to_scipy()
            ncv = krylov_vectors(tolerance, scipy.shape[0])
            start = numpy_generator(self.seed).standard_normal(scipy.shape[0])
            converged = True
            try:
                values = eigsh(
                    self._counted(scipy),
                    k=1,
                    which="LA",
                    tol=tolerance,
                    v0=start.astype(scipy.dtype),
                    ncv=ncv,
                    # ARPACK counts restarts, which renew about half of the space.
                    maxiter=max(1, 2 * max_products // ncv - 1),
                    return_eigenvectors=False,
                )
            except ArpackNoConvergence as error:
                values, converged = error.eigenvalues, False
                if not len(values):
                    raise MetricFailed(f"eigsh found nothing in {self.products} products") from None
        value = factor * float(values[-1])
        # ARPACK stops when its bound on the residual is at most the tolerance times the value.
        least = torch.finfo(self.inputs.dtype).eps
        return self._measurement(
            value,
            converged,
            {"rule": "ARPACK's, relative to the value", "krylov_vectors": ncv},
            error=() if converged else (ErrorComponent("other", None),),
            error_bound=max(tolerance, least) * abs(value) if converged else None,
        )

    def trace(self, tolerance: float, max_probes: int) -> Measurement:
        """Hutchinson's, of ``max_probes`` probes whatever the tolerance."""
        with self._computation() as (operator, factor):
            from curvlinops import hutchinson_trace

            used = min(max_probes, operator.shape[0] - 1)
            value = float(hutchinson_trace(operator, num_matvecs=used))
        self._count(used)
        return self._measurement(factor * value, True, {"rule": "a fixed number of probes"})

    def frobenius_norm(self, tolerance: float, max_probes: int) -> Measurement:
        """Hutchinson's, of ``max_probes`` probes whatever the tolerance."""
        with self._computation() as (operator, factor):
            from curvlinops import hutchinson_squared_fro

            used = min(max_probes, operator.shape[0] - 1)
            value = float(hutchinson_squared_fro(operator, num_matvecs=used))
        self._count(used)
        return self._measurement(
            factor * math.sqrt(max(value, 0.0)), True, {"rule": "a fixed number of probes"}
        )

    def spectral_density(self, steps: int, probes: int) -> Measurement:
        with self._computation() as (operator, factor):
            from curvlinops import lanczos_approximate_spectrum

            ncv = min(steps, operator.shape[0] - 1)
            grid, density = lanczos_approximate_spectrum(
                operator, ncv=ncv, num_points=512, num_repeats=probes
            )
        self._count(probes * ncv)
        mass = density * np.abs(grid)
        return self._measurement(
            float(mass[grid < 0].sum() / mass.sum()),
            True,
            {"grid": (factor * grid).tolist()[::4], "density": (density / factor).tolist()[::4]},
        )

    @contextmanager
    def _computation(self) -> Iterator[tuple[Any, float]]:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
                import curvlinops
        except ImportError as error:
            raise MetricUnsupported(
                self.missing() or f"curvlinops can't be imported: {error}"
            ) from None
        module, factor = self._loss()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        devices = [self.inputs.device] if self.inputs.is_cuda else []
        try:
            with torch.random.fork_rng(devices=devices), repeatedly_differentiable():
                torch.manual_seed(self.seed)
                state = np.random.get_state()  # noqa: NPY002 - its density draws from numpy's global state
                np.random.seed(self.seed % 2**32)  # noqa: NPY002
                try:
                    yield self._operator(curvlinops, module, parameters), factor
                finally:
                    np.random.set_state(state)  # noqa: NPY002
        except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, MetricFailed):
                raise
            first = str(error).splitlines()[0] if str(error) else ""
            raise MetricUnsupported(
                f"curvlinops failed: {type(error).__name__}: {first}"
            ) from error

    def _operator(self, curvlinops: Any, module: nn.Module, parameters: list[nn.Parameter]) -> Any:
        """Its operator, which asks each number of two equal products to agree in five digits.

        Convolutions on a GPU add up in another order each time unless told not to, so that small numbers
        among large ones lose more; then two products must agree as a whole, to half of the digits of their
        precision: rounding takes a few of the last ones, and a random layer all.
        """
        kind = getattr(curvlinops, _OPERATORS[self.matrix])
        given = self.model, module, parameters, self.batches()
        try:
            return kind(*given)
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            told = error
        operator = kind(*given, check_deterministic=False)
        torch.manual_seed(self.seed)
        v = torch.randn(operator.shape[0]).to(parameters[0])
        one, other = (operator @ v for _ in range(2))
        allowed = math.sqrt(torch.finfo(v.dtype).eps) * float(one.norm())
        if not float((one - other).norm()) <= allowed:
            raise told
        torch.manual_seed(self.seed)
        return operator

    def _loss(self) -> tuple[nn.Module, float]:
        if self.subject.loss is per_sample_loss("classification"):
            return nn.CrossEntropyLoss(reduction="mean"), 1.0
        if self.subject.loss is per_sample_loss("regression"):
            # The mean over samples and outputs of a square: 2/outputs times ours.
            return nn.MSELoss(reduction="mean"), self.targets[0].numel() / 2
        raise MetricUnsupported("curvlinops takes torch's loss modules alone, not a function")

    def _counted(self, operator: Any) -> Any:
        from scipy.sparse.linalg import LinearOperator

        def product(vector: Any) -> Any:
            self._count(1)
            return operator @ vector

        return LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)

    def _count(self, products: int) -> None:
        self.products += products
        # Its products rebuild the gradient: one beside each.
        self.work.gradient += products * self.samples
        self.work.hessian_vector += products * self.samples

    def _measurement(
        self,
        value: float,
        converged: bool,
        details: dict[str, Any],
        *,
        error: tuple[ErrorComponent, ...] = (ErrorComponent("probes", None),),
        error_bound: float | None = None,
    ) -> Measurement:
        return Measurement(
            value=value,
            errors=(*error, *self.points),
            error_bound=error_bound,
            converged=converged,
            samples=self.samples,
            work=self.work,
            details={"products": self.products, **details},
        )
