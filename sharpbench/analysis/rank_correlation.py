"""Kendall's τ-b within strata, with errors over seeds, and p-values adjusted for asking several times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpbench.analysis.statistics import LEVEL, Estimate, jackknife
from sharpbench.seeds import numpy_generator

__all__ = ["Association", "benjamini_hochberg", "holm", "kendall", "tau_b"]

_PERMUTED = 60
"""Up to so many subjects the null distribution is that of permutations: it has few values there."""

_PERMUTATIONS = 999


@dataclass(frozen=True, kw_only=True)
class Association(Estimate):
    """Kendall's τ-b with its 95% interval over ``n`` subjects of ``blocks`` seeds in ``strata`` strata.

    ``pairs`` neither ties in x nor in y. ``p``: the probability of so large a |τ| without an association;
    ``adjusted``: the same for the largest of all the metrics that were asked (Holm).
    """

    pairs: int
    strata: int
    blocks: int
    p: float
    adjusted: float

    @property
    def clear(self) -> bool:
        """Whether the adjusted p is at most 5%."""
        return self.adjusted <= LEVEL


def kendall(
    x: np.ndarray,
    y: np.ndarray,
    strata: np.ndarray,
    blocks: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> Association | None:
    """Kendall's τ-b over the pairs of subjects within one stratum, pooled over the strata.

    τ-b = (concordant − discordant)/√(pairs untied in x · pairs untied in y), each summed over the strata.
    The interval is τ's jackknife over the ``blocks`` (the seeds; each subject its own if None) on the scale
    artanh τ, with Student's t for their number less one. Where every pair agrees the jackknife sees no
    spread: the interval then ends where the agreement of all blocks has probability 2.5%. ``p`` is the
    jackknife's, and up to 60 subjects at least that of permutations within the strata, so that a
    few pairs are never clear. None if no pair is untied, or with a single block.

    ``blocks`` (N, ways): subjects that share a seed of any stream are alike, so the jackknife is taken over
    each column that tells some apart and the widest interval stands, with the largest p. The first column,
    the data's seeds, must.
    """
    if blocks is None:
        blocks = np.arange(len(x))
    parts = list(_signs(x, y, strata))
    totals = _sums(parts, np.ones((1, len(x)), np.float32))
    tau = float(_tau_b(totals)[0])
    ways = _partitions(blocks)
    if not math.isfinite(tau) or ways[0].max() == 0:
        return None
    pairs = sum(float(np.abs(in_x * in_y).sum(dtype=float)) for _, in_x, in_y in parts) / 2
    ends = []
    for way in ways:
        if way.max() > 0:
            kept = np.arange(way.max() + 1)[:, None] != way  # one block left out
            without = _tau_b(_sums(parts, kept.astype(np.float32)))
            ends.append(jackknife(tau, without, edge=1 - 1 / max(pairs, 2.0)))
    low, high, _ = max(ends, key=lambda end: end[1] - end[0])
    p = max(end[2] for end in ends)
    members = np.concatenate([rows for rows, _, _ in parts])
    if len(members) <= _PERMUTED:
        p = max(p, _permuted(parts, numpy_generator(seed)))
    used = len(np.unique(ways[0][members]))
    return Association(
        value=tau,
        low=low,
        high=high,
        n=len(members),
        pairs=int(pairs),
        strata=len(parts),
        blocks=used,
        p=p,
        adjusted=p,
    )


def tau_b(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> float:
    """Kendall's τ-b within strata, as in `kendall`, alone; NaN without an untied pair."""
    parts = list(_signs(x, y, strata))
    return float(_tau_b(_sums(parts, np.ones((1, len(x)), np.float32)))[0])


def _partitions(blocks: np.ndarray) -> list[np.ndarray]:
    """Each column of ``blocks`` as numbers from 0 in the order of the values, equal ones once."""
    columns = blocks[:, None] if blocks.ndim == 1 else blocks
    found = [pd.factorize(column, sort=True)[0] for column in columns.T]
    return [
        way for i, way in enumerate(found) if not any(np.array_equal(way, w) for w in found[:i])
    ]


_Signs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _sums(parts: list[_Signs], kept: np.ndarray) -> np.ndarray:
    """What `_tau_b` takes (ways, 3), summed over the strata, of the rows that ``kept`` (ways, N) keeps."""
    sums = np.zeros((len(kept), 3))
    for rows, in_x, in_y in parts:
        left = kept[:, rows]
        for i, matrix in enumerate((in_x * in_y, np.abs(in_x), np.abs(in_y))):
            sums[:, i] += ((left @ matrix) * left).sum(1, dtype=float)
    return sums


def _signs(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> Iterator[_Signs]:
    """The rows of each stratum of two subjects or more, with sign(xᵢ − xⱼ) and sign(yᵢ − yⱼ)."""
    for one in pd.unique(strata):
        rows = np.flatnonzero(strata == one)
        if len(rows) > 1:
            a, b = x[rows].astype(float), y[rows].astype(float)
            yield (
                rows,
                np.sign(a[:, None] - a).astype(np.float32),
                np.sign(b[:, None] - b).astype(np.float32),
            )


def _tau_b(sums: np.ndarray) -> np.ndarray:
    """τ-b from concordance and the pairs untied in x and in y (…, 3); NaN without an untied pair."""
    with np.errstate(divide="ignore", invalid="ignore"):
        tau: np.ndarray = sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2])
    return tau


def _permuted(parts: list[_Signs], rng: np.random.Generator) -> float:
    """The share of permutations of x within the strata whose |Σ concordance| is at least the one found."""
    found, drawn = 0.0, np.zeros(_PERMUTATIONS)
    for rows, in_x, in_y in parts:
        found += float((in_x * in_y).sum(dtype=float))
        order = rng.permuted(np.tile(np.arange(len(rows)), (_PERMUTATIONS, 1)), axis=1)
        shuffled = in_x[order[:, :, None], order[:, None, :]]
        drawn += (shuffled * in_y).sum((1, 2), dtype=float)
    return float((1 + (np.abs(drawn) >= abs(found) - 1e-6).sum()) / (1 + _PERMUTATIONS))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for being several (Holm 1979): the family errs at 5% if those ≤ 0.05 are taken."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q-values (Benjamini & Hochberg 1995): of those ≤ 0.05 at most 5% are false on average."""
    order = np.argsort(p)[::-1]
    factors = len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(p[order] * factors), 1.0)
    return adjusted
