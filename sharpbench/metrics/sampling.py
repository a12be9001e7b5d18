"""The component ``points`` of a figure of the training loss that part of the data gives.

The samples drawn are cut at random into groups. What the figure would be without each group tells its
error (the delete-a-group jackknife: Wolter, Introduction to Variance Estimation, 2007, ch. 4), with at
most one degree of freedom less than there are groups; it takes one product with each group in place of
one with each sample. Of N samples n drawn without replacement leave the part 1 − n/N of the variance;
with all of them there is no such error.

An eigenvalue at the edge of the spectrum and a norm are further out for a part of the data than for all,
on average. The figure of the part is left as it is, and the excess, estimated to second order, is added
to the component in quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sharpbench.curvature.lanczos import EigenResult
from sharpbench.curvature.trace import degrees_of_freedom
from sharpbench.measurement import ErrorComponent
from sharpbench.metrics.mean_over_points import Errors
from sharpbench.seeds import derive_seed, torch_generator

__all__ = [
    "eigenvalue_error",
    "frobenius_error",
    "gram_eigenvalue_error",
    "quadratic_form_error",
    "random_groups",
    "sampling_error",
    "trace_error",
    "untold_points",
]

_GROUPS = 32
_PROBES = 8
"""Random signs that tell the groups' traces and norms apart."""

Groups = Sequence[Tensor]


class Grouped(Protocol):
    """A curvature matrix that is a sum over samples."""

    dimension: int
    samples: int
    device: torch.device

    def matmat(self, vectors: Tensor) -> Tensor: ...

    def group_products(self, vectors: Tensor, groups: Groups) -> Iterator[Tensor]: ...


def random_groups(samples: int, *, seed: int) -> list[Tensor]:
    """The numbers 0 … ``samples`` − 1, cut at random into at most 32 groups of nearly equal size."""
    order = torch.randperm(samples, generator=torch_generator(derive_seed(seed, "groups")))
    return list(order.tensor_split(min(samples, _GROUPS)))


def sampling_error(
    shares: Tensor, population: int, *, sizes: Tensor | None = None, scale: float = 1.0
) -> Errors:
    """For ``scale``·Σ shares, to which each group adds its share (G,).

    ``sizes`` (G,): the groups' numbers of samples, one each if None.
    """
    shares = shares.double().cpu().unsqueeze(1)
    sizes = torch.ones(len(shares), dtype=torch.float64) if sizes is None else sizes
    return _component(scale * _linear(shares, sizes), sizes, population)


def untold_points(drawn: int, population: int) -> Errors:
    """For a figure whose sampling error is not estimated: a component of unknown size."""
    return (ErrorComponent("points", None),) if drawn < population else ()


def quadratic_form_error(
    operator: Grouped, vector: Tensor, population: int, *, seed: int, scale: float = 1.0
) -> Errors:
    """For ``scale``·vᵀAv, where v (P,) does not depend on the samples."""
    if operator.samples >= population:
        return ()
    groups = random_groups(operator.samples, seed=seed)
    v = vector.unsqueeze(1).double()
    shares = [float((v * share.double()).sum()) for share in operator.group_products(v, groups)]
    return sampling_error(torch.tensor(shares), population, sizes=_sizes(groups), scale=scale)


def eigenvalue_error(
    operator: Grouped, result: EigenResult, population: int, *, seed: int
) -> Errors:
    """For an eigenvalue θ at the edge of the spectrum, from one product with each group.

    Without group g the matrix is taken as diag(θⱼ) − ssᵀ/s_v in the basis of the Ritz vectors uⱼ,
    where s = Uᵀ A_g v: the Nyström approximation of A_g, exact where it has rank one. Its excess is
    Σⱼ (√(γⱼ² + 4cⱼ²) − γⱼ)/2, with the gaps γⱼ = |θ − θⱼ| and the sampling error cⱼ of uⱼᵀAv:
    second-order perturbation theory, Σ cⱼ²/γⱼ, where the gaps are large.
    """
    if operator.samples >= population:
        return ()
    assert result.ritz_vectors is not None
    groups = random_groups(operator.samples, seed=seed)
    vectors = result.ritz_vectors
    theta = torch.tensor(result.ritz_values, dtype=torch.float64)
    own = int((theta - result.value).abs().argmin())
    along, lengths = [], []
    for share in operator.group_products(vectors[:, own : own + 1], groups):
        h = share[:, 0].double()
        inside = vectors.T @ h
        along.append(inside.cpu())
        lengths.append(float((h - vectors @ inside).square().sum()))
    outside = torch.tensor(lengths, dtype=torch.float64)
    return _eigenvalue_component(
        torch.stack(along), outside, theta, own, _sizes(groups), population
    )


def gram_eigenvalue_error(values: Tensor, vectors: Tensor, samples: int, population: int) -> Errors:
    """As `eigenvalue_error`, from the eigenvalues (R,), rising, and vectors (R, R) of the Gram matrix.

    Its rows are the samples' columns one after the other, R/``samples`` each. Sample i adds
    √(θθⱼ)·Σ αⱼα over its rows to uⱼᵀAv. No product is needed, and every sample is a group.
    """
    if samples >= population:
        return ()
    values = values.clamp_min(0)
    rows = vectors * vectors[:, -1:] * (values * values[-1]).sqrt()
    shares = rows.view(samples, -1, len(values)).sum(1).cpu()
    ones = torch.ones(samples, dtype=torch.float64)
    return _eigenvalue_component(
        shares, torch.zeros_like(ones), values.cpu(), len(values) - 1, ones, population
    )


def trace_error(
    operator: Grouped, population: int, *, seed: int, known: Tensor | None = None
) -> Errors:
    """For tr A, by random signs.

    ``known`` (n,): each sample's own part of the trace beside A's, where it is known exactly.
    """
    if operator.samples >= population:
        return ()
    groups = random_groups(operator.samples, seed=seed)
    v = _signs(operator, seed)
    shares = torch.stack(
        [(v * share.double()).sum(0).cpu() for share in operator.group_products(v, groups)]
    )
    if known is not None:
        own = known.double().cpu() / operator.samples
        shares = shares + torch.stack([own[group].sum() for group in groups]).unsqueeze(1)
    sizes = _sizes(groups)
    return _component(_linear(shares, sizes), sizes, population)


def frobenius_error(operator: Grouped, norm: float, population: int, *, seed: int) -> Errors:
    """For ‖A‖_F, by random signs v: without group g its square is E‖(A − A_g)v‖²/(1 − n_g/n)².

    A part of the data adds E‖dA‖²_F to the square on average.
    """
    if operator.samples >= population or norm == 0:
        return () if operator.samples >= population else (ErrorComponent("points", None),)
    groups = random_groups(operator.samples, seed=seed)
    sizes = _sizes(groups)
    v = _signs(operator, seed)
    image = operator.matmat(v).double()
    without, squares = [], 0.0
    for share, part in zip(
        operator.group_products(v, groups), (sizes / sizes.sum()).tolist(), strict=True
    ):
        h = share.double()
        squares += float((h - part * image).square().sum()) / _PROBES
        if part < 1:
            without.append(((image - h).square().sum(0) / (1 - part) ** 2).cpu())
    if len(groups) < 2:
        return (ErrorComponent("points", None),)
    excess = _left(sizes, population) * len(groups) / (len(groups) - 1) * squares / (2 * norm)
    deviations = _jackknife(torch.stack(without)) / (2 * norm)
    return _component(deviations, sizes, population, excess=excess)


def _eigenvalue_component(
    shares: Tensor, outside: Tensor, theta: Tensor, own: int, sizes: Tensor, population: int
) -> Errors:
    """``shares`` (G, K) of uⱼᵀAv, and the squared length (G,) of what leaves the span of the uⱼ."""
    groups = len(shares)
    if groups < 2:
        return (ErrorComponent("points", None),)
    if (own == int(theta.argmin()) and len(theta) > 1) or (len(theta) == 1 and theta[0] < 0):
        theta, shares = -theta, -shares  # the lower edge is the upper one of −A
    part = sizes / sizes.sum()
    # One more coordinate for what leaves the Krylov space, where the bulk lies, near zero.
    full = torch.cat([shares, outside.sqrt().unsqueeze(1)], 1)
    spectrum = torch.cat([theta, theta.new_zeros(1)])
    without = []
    for share, weight in zip(full, part.tolist(), strict=True):
        if share[own] > 0:
            rest = torch.diag(spectrum) - torch.outer(share, share) / share[own]
            top = float(torch.linalg.eigvalsh(rest)[-1])
        else:  # to first order: a group that bends the other way has no such approximation
            top = float(theta[own] - share[own])
        without.append(top / (1 - weight))
    squares = _linear(shares, sizes).square().sum(0)
    gaps = theta[own] - theta
    excess = _push(gaps, _left(sizes, population) * squares)
    excess[own] = 0
    leaving = groups / (groups - 1) * outside.sum() * _left(sizes, population)
    total = float(excess.sum() + _push(theta[own].abs(), leaving))
    deviations = _jackknife(torch.tensor(without, dtype=torch.float64).unsqueeze(1))
    return _component(deviations, sizes, population, excess=total)


def _linear(shares: Tensor, sizes: Tensor) -> Tensor:
    """Deviations (G, K) of Σ shares (G, K)."""
    groups = len(shares)
    part = (sizes / sizes.sum()).unsqueeze(1)
    return math.sqrt(groups / max(groups - 1, 1)) * (shares - part * shares.sum(0))


def _jackknife(without: Tensor) -> Tensor:
    """Deviations (G, K) of a figure that is ``without`` (G, K) when a group is left out."""
    groups = len(without)
    return math.sqrt((groups - 1) / groups) * (without - without.mean(0))


def _component(
    deviations: Tensor, sizes: Tensor, population: int, *, excess: float = 0.0
) -> Errors:
    """From deviations (G, K) whose squares add up to the variance, by K random probes.

    Skewness counts half of what it does for single values (`degrees_of_freedom`), and as much less as
    samples are taken; not at all beside an ``excess``, which widens the interval already.

    Two probes agree in what the groups add alone: Var(mean) = V + D/K and the mean of the variances is
    V + D, where D comes from the probes.
    """
    groups, probes = deviations.shape
    if sizes.sum() >= population:
        return ()
    if groups < 2:
        return (ErrorComponent("points", None),)
    variance = of_mean = float(deviations.mean(1).square().sum())
    if probes > 1:
        of_each = float(deviations.square().sum(0).mean())
        variance = max((probes * of_mean - of_each) / (probes - 1), 0.0)
    certain = variance / of_mean if of_mean > 0 else 1.0
    size = math.hypot(math.sqrt(variance * _left(sizes, population)), excess)
    free = (groups - 1) * max(certain, 1e-6) ** 2
    if not excess:
        skewed = 1 / degrees_of_freedom(deviations.mean(1)) - 1 / (groups - 1)
        free = 1 / (1 / free + 0.5 * _left(sizes, population) * skewed)
    return (ErrorComponent("points", size, max(free, 1.0)),)


def _left(sizes: Tensor, population: int) -> float:
    return 1 - float(sizes.sum()) / population


def _push(gap: Tensor, square: Tensor) -> Tensor:
    """By how much an eigenvalue moves away from another one at distance ``gap``, coupled by √square."""
    return 0.5 * ((gap.square() + 4 * square).sqrt() - gap)


def _signs(operator: Grouped, seed: int) -> Tensor:
    generator = torch_generator(derive_seed(seed, "spread over points"))
    signs = torch.randint(0, 2, (operator.dimension, _PROBES), generator=generator)
    return (2.0 * signs.double() - 1).to(operator.device)


def _sizes(groups: Groups) -> Tensor:
    return torch.tensor([len(group) for group in groups], dtype=torch.float64)
