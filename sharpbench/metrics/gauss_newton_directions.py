"""What the gradient and its noise are along the leading directions of the Gauss-Newton matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sharpbench.curvature.gauss_newton import gauss_newton_rows
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.lanczos import extreme_eigenvalues
from sharpbench.curvature.operator import coordinates
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import torch_dtype
from sharpbench.metrics.curvature import CurvatureMetric, ProductBudget, with_checks
from sharpbench.metrics.gauss_newton import few_rows
from sharpbench.metrics.sampling import untold_points
from sharpbench.running import as_written
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import Known, Truth

__all__ = ["GaussNewtonDirections"]

_RANK = 1e-12
"""Eigenvalues below this share of the largest are those of directions without curvature."""


@dataclass(frozen=True)
class _Directions:
    """Eigenvalues (K,), falling, with each sample's slope and curvature along its eigenvector, (N, K) each,
    and ‖g‖². ``bound``: the sine of the largest angle by which the space that they span may be off."""

    values: Tensor
    slopes: Tensor
    curvatures: Tensor
    square: float
    bound: float = 0.0


@metrics.register
@dataclass(frozen=True)
class GaussNewtonDirections(ProductBudget, CurvatureMetric):
    """Share of the gradient in the space of the leading Gauss-Newton directions, ‖Pg‖²/‖g‖².

    P projects on the eigenvectors e_k of the ``count`` largest eigenvalues of (1/N) Σ JᵢᵀΛᵢJᵢ, as many as
    there are outputs if None; at most as many as its rank. ``quantity`` ``signal_to_noise``: Σ γ̄_k²/Σ s_k²
    with the mean γ̄_k and the variance s_k², by N − 1, over the samples of the slopes γ_nk = ⟨e_k, ∇ℓₙ⟩.
    Neither depends on the choice of a basis in that space. The details have the shares, signal-to-noise
    ratios and curvatures e_kᵀGe_k, with their spread over the samples, of each direction.

    The e_k come from the Gram matrix where samples × outputs are few, else from Lanczos: then ``error_bound``
    is the sine of the angle by which the space may be off (Davis and Kahan: residual over gap), and
    ``converged`` that it is at most ``tolerance``. Where the last eigenvalue and the next one are equal there
    is no such space, and no answer.

    Parameters: else as those of ``hessian_top_eigenvalue``.
    """

    name = "gauss_newton_directions"
    title = "share of the gradient in the top Gauss–Newton space"
    unit = ""
    reference = "Dangel et al., arXiv:2106.02624 (ViViT); Gur-Ari et al., arXiv:1812.04754"
    gauss_newton = True

    tolerance: float = 0.01
    count: int | None = None
    quantity: Literal["share", "signal_to_noise"] = "share"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1 or left out, got {self.count}")

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        ratio = ["the squared gradient over its variance, in that space"]
        return [*super().notes(details), *(ratio if self.quantity == "signal_to_noise" else [])]

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        return None  # a spectrum alone does not tell it

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError("a spectrum alone does not tell it")

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        work, details = Work(), dict[str, Any]()
        count = self.count or subject.few_outputs[0].numel()
        found = self._of_gram(subject, count, seed, work, details)
        if found is None:
            found = self._of_products(subject, count, seed, work, details)
        if not found.square > 0:
            raise MetricFailed("the gradient is zero: no direction has a share of it")
        samples = len(found.slopes)
        along, noise = found.slopes.mean(0).square(), _variance(found.slopes)
        each = [
            {
                "eigenvalue": float(value),
                "share": float(a) / found.square,
                "signal_to_noise": float(a / n) if float(n) > 0 else None,
                "curvature": float(c),
                "curvature_spread": math.sqrt(float(spread)),
            }
            for value, a, n, c, spread in zip(
                found.values,
                along,
                noise,
                found.curvatures.mean(0),
                _variance(found.curvatures),
                strict=True,
            )
        ]
        over, scale = found.square, 1.0
        if self.quantity == "signal_to_noise":
            over = float(noise.sum())
            if not over > 0:
                raise MetricFailed("no sample's gradient differs from the others' there: no noise")
            scale = found.square / over
        return Measurement(
            value=float(along.sum()) / over,
            errors=untold_points(samples, self._population(subject)),
            error_bound=scale * found.bound or None,
            converged=found.bound <= self.tolerance,
            samples=samples,
            work=work,
            details={**details, "directions": each},
        )

    def _of_gram(
        self, subject: Subject, count: int, seed: int, work: Work, details: dict[str, Any]
    ) -> _Directions | None:
        """From the Gram matrix where that is small: e = Vᵀu/√λ of V = √Λ·J and its eigenvectors u."""
        inputs, targets = self._data(subject, seed)
        model = subject.working_model(torch_dtype(self.dtype))
        parameters = named_subset(model, self.parameters_of)
        if not few_rows(model, inputs, parameters, work):
            return None
        assert subject.loss is not None
        try:
            facts = self._facts(subject, seed)
            rows = gauss_newton_rows(
                model, subject.loss, inputs, targets, parameters, work=work, shared=facts
            )
        except TimeLimitExceeded:
            raise
        except Exception as reason:
            details["why"] = in_words(reason)
            return None
        values, vectors = torch.linalg.eigh(rows @ rows.T / len(inputs))
        values, vectors = values.flip(0), vectors.flip(1)
        rank = _rank(values)
        details |= {"gram_rows": len(rows), "rank": rank}
        count = min(count, rank)
        if count < rank:
            _require_gap(values, count, torch_dtype(self.dtype))
        space = rows.T @ vectors[:, :count]
        space = space / space.norm(dim=0)
        with repeatedly_differentiable(), as_written():
            losses = subject.losses(model(inputs), targets)
            each = [
                torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
                for loss in losses
            ]
        work.gradient += len(inputs) ** 2
        gradients = torch.stack(
            [torch.cat([coordinates(g).reshape(-1) for g in own]) for own in each]
        ).double()
        return _Directions(
            values[:count],
            gradients @ space,
            (rows @ space).square().view(len(inputs), -1, count).sum(1),
            float(gradients.mean(0).square().sum()),
        )

    def _of_products(
        self, subject: Subject, count: int, seed: int, work: Work, details: dict[str, Any]
    ) -> _Directions:
        operator = self._operator(GaussNewtonOperator, subject, seed, work)
        assert isinstance(operator, GaussNewtonOperator)
        count = min(count, operator.dimension)
        more = min(count + 1, operator.dimension)
        result = extreme_eigenvalues(
            operator,
            count=more,
            tolerance=self.tolerance**2,  # of an eigenvalue, of second order in the angle
            max_products=self.max_products,
            generator=torch_generator(derive_seed(seed, "probes")),
            vectors=True,
        )
        assert result.vectors is not None
        values = torch.tensor(result.values, dtype=torch.float64)
        count = min(count, _rank(values))
        space, bound = result.vectors[:, :count], 0.0
        if count < more:
            _require_gap(values, count, operator.dtype)
            gap = result.values[count - 1] - result.values[count] - result.error_bounds[count]
            rest = operator.matmat(space).double() - space * values[:count].to(space)
            bound = min(float(rest.norm()) / gap, 1.0) if gap > 0 else 1.0
        checks = {"sample_slopes": operator.check_slopes(space[:, 0])}
        details |= with_checks(operator, {"products": result.products, "checks": checks})
        return _Directions(
            values[:count],
            torch.stack([operator.sample_slopes(v).double() for v in space.T], 1),
            torch.stack([operator.sample_curvatures(v).double() for v in space.T], 1),
            float(operator.gradient().double().square().sum()),
            bound,
        )


def _rank(values: Tensor) -> int:
    """How many of the eigenvalues, falling, are not zero."""
    if not float(values[0]) > 0:
        raise MetricFailed("the Gauss-Newton matrix is zero: it has no leading directions")
    return int((values > _RANK * values[0]).sum())


def _require_gap(values: Tensor, count: int, dtype: torch.dtype) -> None:
    gap, top = float(values[count - 1] - values[count]), float(values[0])
    if not gap > math.sqrt(torch.finfo(dtype).eps) * top:
        raise MetricFailed(
            "the last eigenvalue of the space asked for equals the next one, so that the space is not "
            "defined: ask for another count"
        )


def _variance(values: Tensor) -> Tensor:
    """Over the samples, (K,)."""
    return values.var(0) if len(values) > 1 else torch.zeros_like(values[0])
