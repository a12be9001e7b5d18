"""What a normal distribution around the weights tells: the evidence, and how many directions are fixed."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from sharpbench.change import Change
from sharpbench.curvature.lanczos import spectral_density
from sharpbench.curvature.loss_operators import GaussNewtonOperator, named_subset
from sharpbench.errors import TimeLimitExceeded, in_words
from sharpbench.loss import per_sample_loss
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import torch_dtype
from sharpbench.metrics.curvature import CurvatureMetric, with_checks
from sharpbench.metrics.gauss_newton import gram_where_small
from sharpbench.metrics.hessian import quadrature_error
from sharpbench.metrics.sampling import untold_points
from sharpbench.metrics.surface import complex_parameters
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject, batched_outputs
from sharpbench.truth import Known, KnownHessian, Truth

__all__ = ["EffectiveDimension", "LaplaceEvidence"]

_DENSE = 512
"""Up to so many parameters the whole matrix is formed."""

_LOG_PRECISIONS = (-20.0, 20.0)

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Spectrum:
    """Eigenvalues of N·G, G the Gauss-Newton matrix, as nodes and weights (probes, steps) of sums over them.

    ``dimension`` P. Exact: one row of weights 1, whatever is left out being zeros; else by quadrature.
    """

    nodes: Tensor
    weights: Tensor
    dimension: int
    exact: bool

    def total(self, function: Function) -> float:
        """Σ f(l) over all P eigenvalues, f(0) = 0."""
        return float((self.weights * function(self.nodes)).sum(1).mean()) * (
            1 if self.exact else self.dimension
        )

    def errors(self, function: Function, scale: float) -> tuple[ErrorComponent, ...]:
        """Of ``scale`` times the total."""
        if self.exact:
            return ()
        values = function(self.nodes)
        apart = scale * self.dimension * (values - self.total(function) / self.dimension)
        return (quadrature_error(self.weights, apart, self.dimension),)


@dataclass(frozen=True)
class _OfSpectrum(CurvatureMetric, ABC):
    """A sum over the eigenvalues of N·G: exact where its Gram matrix or G is small, else by quadrature."""

    gauss_newton = True

    probes: int = 4
    steps: int = 64
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probes < 1 or self.steps < 4:
            raise ValueError("probes must be at least 1, steps at least 4")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {self.tolerance}")

    def _spectrum(
        self, subject: Subject, seed: int, work: Work
    ) -> tuple[_Spectrum, _Spectrum, dict[str, Any]]:
        """The spectrum, the same from half the steps, and what is told of it."""
        population = self._population(subject)
        details: dict[str, Any] = {}
        try:
            model = subject.working_model(torch_dtype(self.dtype))
            gram = gram_where_small(
                subject, model, *self._data(subject, seed), self.parameters_of, work
            )
            if gram is not None:
                return *_whole(population * gram), {"gram_rows": len(gram)}
        except TimeLimitExceeded:
            raise
        except Exception as reason:
            details["why"] = in_words(reason)
        operator = self._operator(GaussNewtonOperator, subject, seed, work)
        if operator.dimension <= _DENSE:
            unit = torch.eye(operator.dimension, dtype=operator.dtype, device=operator.device)
            whole = operator.matmat(unit).double().cpu()
            return *_whole(population * 0.5 * (whole + whole.T)), with_checks(operator, details)
        found = []
        for steps in (self.steps, self.steps // 2):  # from the same starts
            density = spectral_density(
                operator,
                probes=self.probes,
                steps=steps,
                generator=torch_generator(derive_seed(seed, "probes")),
            )
            nodes = population * density.nodes.clamp_min(0)
            found.append(_Spectrum(nodes, density.weights, operator.dimension, exact=False))
        full, half = found
        return full, half, with_checks(operator, details)


def _whole(matrix: Tensor) -> tuple[_Spectrum, _Spectrum]:
    values = torch.linalg.eigvalsh(matrix).clamp_min(0).cpu().unsqueeze(0)
    found = _Spectrum(values, torch.ones_like(values), values.shape[1], exact=True)
    return found, found


@metrics.register
@dataclass(frozen=True)
class EffectiveDimension(_OfSpectrum):
    """Effective dimension Σ l/(l + α) over the eigenvalues l of N·G: how many directions the data determine.

    G is the Gauss-Newton matrix of the mean loss, N the samples of the split, α = ``prior_precision`` what a
    weight is held by without data: a normal prior of variance 1/α. Twice what the local learning coefficient
    of a quadratic loss is, localised by γ = α at the inverse temperature N.

    Exact where samples × outputs are few (by their Gram matrix) or the parameters at most 512; else by
    stochastic Lanczos quadrature of ``steps`` from ``probes`` random starts.

    Errors: ``probes``; ``error_bound``: how far half the steps are off (``converged``: at most ``tolerance``
    times the value); ``points``, of untold size, where some of the samples are drawn.
    """

    name = "effective_dimension"
    title = "effective dimension"
    unit = ""
    reference = "MacKay 1992; Maddox, Benton & Wilson, arXiv:2003.02139"

    prior_precision: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prior_precision > 0:
            raise ValueError(f"prior_precision must be positive, got {self.prior_precision}")

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        if not isinstance(truth, KnownHessian) or not truth.residual_free or self.parameters_of:
            return None
        values = self._population(subject) * truth.eigenvalues(subject)
        return (
            Known(expected=float(self._shares(values).sum()))
            if bool(values.min() > -1e-9)
            else None
        )

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError("it takes the number of samples")

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        work = Work()
        full, half, details = self._spectrum(subject, seed, work)
        value = full.total(self._shares)
        bound = abs(value - half.total(self._shares))
        samples = len(self._data(subject, seed)[0])
        return Measurement(
            value=value,
            errors=(
                *full.errors(self._shares, 1.0),
                *untold_points(samples, self._population(subject)),
            ),
            error_bound=bound or None,
            converged=bound <= self.tolerance * value,
            samples=samples,
            work=work,
            details=details,
        )

    def _shares(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues / (eigenvalues + self.prior_precision)


@metrics.register
@dataclass(frozen=True)
class LaplaceEvidence(_OfSpectrum):
    """Negative log evidence per sample of a Laplace approximation, −(1/N) log q(D).

    log q(D) = log p(D | w) − ½δ‖w‖² − ½ Σ log(1 + l/δ), l the eigenvalues of N·G, G the Gauss-Newton matrix
    of the mean loss, N the samples of the split, δ = ``prior_precision`` of a normal prior; None: the δ of
    the largest evidence. Cross-entropy is its own likelihood, ½ squared error that of normal noise of
    variance one, 2π included. Of a linear regression at its posterior mean it is the evidence itself. The
    larger, the worse the network with its prior explains the data. With normalisation layers the scale of the
    weights before them is arbitrary, and with it the evidence, which is said.

    Exact, or by quadrature of the sum of logarithms, with the errors of ``effective_dimension``. The error of
    the chosen δ is of second order in it.

    Parameters: ``probes`` random starts of ``steps`` Lanczos steps each; ``parameters_of``: the others are
    taken for given.
    """

    name = "laplace_evidence"
    title = "Laplace evidence, negative logarithm per sample"
    unit = "[loss]"
    reference = "MacKay 1992; Immer et al., arXiv:2104.04975; normalisation: Antorán et al., arXiv:2206.08900"

    prior_precision: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_precision is not None and not self.prior_precision > 0:
            raise ValueError(
                f"prior_precision must be positive or left out, got {self.prior_precision}"
            )

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        found = super().notes(details)
        if details.get("normalised"):
            found.append(
                "it has normalisation layers: the scale of weights before them is arbitrary, and so is this"
            )
        return found

    def stays_under(self, change: Change) -> bool:
        """Where the parameters' length stays too: a shift of the logits moves them away from the prior."""
        return change.properties >= {"isometry", "homogeneous"}

    def unsupported(self, subject: Subject) -> str | None:
        if subject.task is None or subject.loss is not per_sample_loss(subject.task):
            return "the likelihood is known of cross-entropy and of ½ squared error alone"
        return super().unsupported(subject) or complex_parameters(subject)

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        return None  # a spectrum alone does not tell it

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError("a spectrum alone does not tell it")

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        work, dtype = Work(), torch_dtype(self.dtype)
        full, half, details = self._spectrum(subject, seed, work)
        model = subject.working_model(dtype)
        inputs, targets = self._data(subject, seed)
        batch = len(inputs) if subject.coupled else 1024
        loss = subject.losses(batched_outputs(model, inputs, batch), targets).double()
        work.forward += len(inputs)
        fit = float(loss.mean())
        if subject.task == "regression":
            fit += 0.5 * math.log(2 * math.pi) * targets[0].numel()
        length = sum(
            float(p.detach().double().square().sum())
            for p in named_subset(model, self.parameters_of)
        )
        n = self._population(subject)

        def negative(spectrum: _Spectrum, log_precision: float) -> float:
            precision = math.exp(log_precision)
            volume = spectrum.total(lambda values: (values / precision).log1p())
            return fit + 0.5 * (precision * length + volume) / n

        if self.prior_precision is None:
            found = minimize_scalar(
                lambda log: negative(full, log), bounds=_LOG_PRECISIONS, method="bounded"
            )
            log = float(found.x)
        else:
            log = math.log(self.prior_precision)
        value, precision = negative(full, log), math.exp(log)
        bound = abs(value - negative(half, log))
        return Measurement(
            value=value,
            errors=(
                *full.errors(lambda values: (values / precision).log1p(), 0.5 / n),
                *untold_points(len(inputs), n),
            ),
            error_bound=bound or None,
            converged=bound <= self.tolerance * abs(value),
            samples=len(inputs),
            work=work,
            details={
                **details,
                "prior_precision": precision,
                "log_likelihood": -fit,
                "normalised": any(isinstance(m, _NORMALISING) for m in model.modules()),
            },
        )


_NORMALISING = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
