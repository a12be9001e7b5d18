"""What a normal distribution around the weights tells: the evidence, and how many directions are fixed."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from sharpbench.change import Change
from sharpbench.curvature.gauss_newton import gauss_newton_rows, output_curvature
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.lanczos import spectral_density
from sharpbench.curvature.operator import coordinates
from sharpbench.curvature.parameters import named_subset
from sharpbench.curvature.trace import mean_and_standard_error
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.loss import per_sample_loss
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import check_count, torch_dtype
from sharpbench.metrics.curvature import CurvatureMetric, with_checks
from sharpbench.metrics.gauss_newton import gram_where_small
from sharpbench.metrics.hessian import quadrature_error
from sharpbench.metrics.sampling import untold_points
from sharpbench.metrics.surface import complex_parameters
from sharpbench.network import TOGETHER
from sharpbench.registry import added_later
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject, batched_outputs
from sharpbench.truth import Known, KnownHessian, Truth

__all__ = ["EffectiveDimension", "LaplaceEvidence"]

_DENSE = 512
"""Up to so many parameters the whole matrix is formed."""

_SAMPLES = 16
"""Samples of one pass where rows are kept of single parts alone."""

_NUMBERS = 50_000_000
"""Of the rows of all outputs' kernels."""

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
class _Spectra:
    """Those of independent parts, ``of`` so many in all where only some were drawn."""

    parts: list[_Spectrum]
    of: int = 0

    @property
    def _scale(self) -> float:
        return self.of / len(self.parts) if self.of else 1.0

    def total(self, function: Function) -> float:
        """Σ f(l) over all eigenvalues of all parts."""
        return self._scale * sum(part.total(function) for part in self.parts)

    def errors(self, function: Function, scale: float) -> tuple[ErrorComponent, ...]:
        """Of ``scale`` times the total."""
        found = [e for part in self.parts for e in part.errors(function, scale)]
        drawn = len(self.parts)
        if drawn < self.of:
            each = [scale * self.of * part.total(function) for part in self.parts]
            _, error = mean_and_standard_error(each)
            left = None if error is None else error * math.sqrt(1 - drawn / self.of)
            found.append(ErrorComponent("draws", left, max(drawn - 1, 1)))
        return tuple(found)


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
        """The spectrum, as the rule gives it that is wrong to the other side, and what is told of it."""
        population = self._population(subject)
        details: dict[str, Any] = {}
        try:
            model = subject.working_model(torch_dtype(self.dtype))
            data, facts = self._data(subject, seed), self._facts(subject, seed)
            gram = gram_where_small(subject, model, *data, self.parameters_of, work, facts)
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
        density = spectral_density(
            operator,
            probes=self.probes,
            steps=self.steps,
            generator=torch_generator(derive_seed(seed, "probes")),
        )
        full, other = (
            _Spectrum(population * d.nodes.clamp_min(0), d.weights, operator.dimension, exact=False)
            for d in (density, density.radau(operator.dimension))
        )
        return full, other, with_checks(operator, details)


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

    Errors: ``probes``; ``error_bound``: how far off Gauss–Radau quadrature with a node at 0 is. For each
    probe it errs to the other side than Gauss's rule, so that it bounds what more steps can change
    (``converged``: at most ``tolerance`` times the value). ``points``, of untold size, where some of the
    samples are drawn.
    """

    name = "effective_dimension"
    title = "effective dimension"
    unit = ""
    version = 2
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
        full, other, details = self._spectrum(subject, seed, work)
        value = full.total(self._shares)
        bound = abs(value - other.total(self._shares))
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
    the largest evidence, or bound. Cross-entropy is its own likelihood, ½ squared error that of normal noise
    of variance one, 2π included. Of a linear regression at its posterior mean it is the evidence itself. The
    larger, the worse the network with its prior explains the data. With normalisation layers the scale of the
    weights before them is arbitrary, and with it the evidence, which is said.

    ``structure``: of which blocks on the diagonal the determinant is taken. By Fischer's inequality it is the
    larger the smaller they are, so that the figure lies above that of ``full``, from a lower bound of the
    evidence:

    - ``full``: all of N·G;
    - ``samples``: blocks of ``block`` samples that follow one another, of the kernel √Λ·JJᵀ·√Λ over samples ×
      outputs; of ``batches`` of the blocks, drawn at random, their sum is scaled up (Immer et al. 2023's
      stochastic estimate: unbiased of the bound, with the component ``draws``);
    - ``outputs``: one kernel over the samples for each output;
    - ``layers``: a block for the parameters of each module;
    - ``diagonal``: single parameters.

    Exact, or by quadrature of the sum of logarithms, with the errors of ``effective_dimension``. The error of
    the chosen δ is of second order in it.

    Parameters: ``probes`` random starts of ``steps`` Lanczos steps each; ``parameters_of``: the others are
    taken for given.
    """

    name = "laplace_evidence"
    title = "Laplace evidence, negative logarithm per sample"
    unit = "[loss]"
    version = 2
    reference = (
        "MacKay 1992; Immer et al., arXiv:2104.04975; bounds: Immer et al., arXiv:2306.03968; "
        "normalisation: Antorán et al., arXiv:2206.08900"
    )

    prior_precision: float | None = None
    structure: Literal["full", "samples", "outputs", "layers", "diagonal"] = added_later("full")
    block: int = added_later(16)
    batches: int | Literal["all"] = added_later("all")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_precision is not None and not self.prior_precision > 0:
            raise ValueError(
                f"prior_precision must be positive or left out, got {self.prior_precision}"
            )
        if self.block < 1:
            raise ValueError(f"block must be at least 1, got {self.block}")
        check_count("batches", self.batches)
        if self.batches != "all" and self.structure != "samples":
            raise ValueError("batches are drawn where structure is 'samples'")

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        found = super().notes(details)
        if self.structure != "full":
            found.append(f"from a lower bound of the evidence, by parts: {self.structure}")
        if details.get("normalised"):
            found.append(
                "it has normalisation layers: the scale of weights before them is arbitrary, and so is this"
            )
        return found

    def stays_under(self, change: Change) -> bool:
        """Where the parameters' length stays too: a shift of the logits moves them away from the prior.

        The parts of the parameters are those of the network as it was only where their order changes, or
        signs; a part of the data is what it was.
        """
        if self.structure in ("layers", "diagonal"):
            return change.properties >= {"isometry", "homogeneous", "diagonal"}
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
        full, other, details = self._parts(subject, seed, work)
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

        def negative(spectrum: _Spectra, log_precision: float) -> float:
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
        bound = abs(value - negative(other, log))
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

    def _parts(
        self, subject: Subject, seed: int, work: Work
    ) -> tuple[_Spectra, _Spectra, dict[str, Any]]:
        """The spectra of the parts, those by the rule that is wrong to the other side, and what is told."""
        if self.structure == "layers":
            found, others, details = [], [], dict[str, Any]()
            for names in _by_module(
                subject.working_model(torch_dtype(self.dtype)), self.parameters_of
            ):
                own = dataclasses.replace(self, parameters_of=names, structure="full")
                full, other, told = own._spectrum(subject, seed, work)
                found.append(full)
                others.append(other)
                details |= told
            return _Spectra(found), _Spectra(others), {**details, "parts": len(found)}
        if self.structure == "full":
            full, other, details = self._spectrum(subject, seed, work)
            return _Spectra([full]), _Spectra([other]), details
        values, blocks = self._eigenvalues_of_blocks(subject, seed, work)
        exact = _Spectra(
            [_Spectrum(v.unsqueeze(0), torch.ones(1, len(v)), len(v), exact=True) for v in values],
            blocks if self.structure == "samples" else 0,
        )
        return exact, exact, {"parts": blocks}

    def _eigenvalues_of_blocks(
        self, subject: Subject, seed: int, work: Work
    ) -> tuple[list[Tensor], int]:
        """The eigenvalues of the blocks that are taken, and how many blocks there are."""
        inputs, targets = self._data(subject, seed)
        model = subject.working_model(torch_dtype(self.dtype))
        parameters = named_subset(model, self.parameters_of)
        if subject.coupled:
            raise MetricFailed(f"{TOGETHER}, so that no part of them has a kernel of its own")
        assert subject.loss is not None
        loss, scale = subject.loss, self._population(subject) / len(inputs)
        size = self.block if self.structure == "samples" else _SAMPLES
        blocks = list(torch.arange(len(inputs)).split(size))
        count = len(blocks)
        if self.structure == "samples" and self.batches != "all" and self.batches < count:
            order = torch.randperm(count, generator=torch_generator(derive_seed(seed, "batches")))
            blocks = [blocks[i] for i in order[: self.batches].sort().values.tolist()]

        def rows_of(members: Tensor) -> Tensor:
            """√Λ·J (n, C, P), with the symmetric root: one row an output."""
            x, y = inputs[members.to(inputs.device)], targets[members.to(targets.device)]
            rows = gauss_newton_rows(model, loss, x, y, parameters, work=work)
            rows = rows.view(len(x), -1, rows.shape[1])
            with torch.no_grad():
                outputs = model(x)
            work.forward += len(x)
            return output_curvature(loss, outputs, y)[1].double() @ rows

        if self.structure == "samples":
            found = []
            for members in blocks:
                rows = rows_of(members).flatten(0, 1)
                found.append(scale * torch.linalg.eigvalsh(rows @ rows.T))
            return [v.clamp_min(0).cpu() for v in found], count
        if self.structure == "diagonal":
            squares = torch.stack([rows_of(b).square().sum((0, 1)) for b in blocks]).sum(0)
            return [scale * squares.cpu()], len(squares)
        kept: list[Tensor] = []
        few = sum(coordinates(p).numel() for p in parameters) <= len(inputs)
        for members in blocks:
            rows = rows_of(members).transpose(0, 1)  # (C, n, P)
            kept = [sum(kept, rows.mT @ rows)] if few else [*kept, rows]
            if sum(r.numel() for r in kept) > _NUMBERS:
                raise MetricFailed(
                    "the kernels of single outputs are too large: draw fewer samples"
                )
        whole = kept[0] if few else torch.cat(kept, 1)
        grams = whole if few else whole @ whole.mT
        return list(scale * torch.linalg.eigvalsh(grams).clamp_min(0).cpu()), len(grams)


def _by_module(model: nn.Module, patterns: Sequence[str]) -> list[tuple[str, ...]]:
    """The names of the parameters meant, by the module that holds them."""
    meant = {id(p) for p in named_subset(model, patterns)}
    groups: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in meant:
            groups.setdefault(name.rpartition(".")[0], []).append(name)
    return [tuple(names) for names in groups.values()]


_NORMALISING = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
