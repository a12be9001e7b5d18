"""Predictive? Rank correlation of metrics with what a trained network is judged by.

Pooling unlike subjects invites Simpson's paradox (label noise moves both λ and the test error), so
every correlation is given twice: pooled, and within strata of equal data and model, where subjects
differ in recipe and seed alone. Networks of one seed share the split of the data, the label noise and
the initial weights: the seeds, not the networks, are what was repeated, and errors are taken over them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.estimates import jackknife
from sharpbench.analysis.frames import evaluations, measured, stratum
from sharpbench.seeds import numpy_generator

__all__ = ["KINDS", "TARGETS", "Association", "associations", "holm", "kendall", "metric_agreement"]

TARGETS = ("test_error", "gap", "test_loss", "loss_gap", "ece", "brier_score")
"""Evaluated quantities that a sharpness metric is asked to rank; larger is worse in each."""

KINDS = ("pooled", "within", "between_recipes", "between_seeds")
"""The kinds of pairs of networks that a rank correlation is taken over; see `associations`."""

_LEVEL = 0.05

_PERMUTED = 60
"""Up to so many subjects the null distribution is that of permutations: it has few values there."""

_PERMUTATIONS = 999


@dataclass(frozen=True)
class Association:
    """Kendall's τ-b with its 95% interval over ``n`` subjects of ``blocks`` seeds in ``strata`` strata.

    ``pairs`` neither ties in x nor in y. ``p``: the probability of so large a |τ| without an association;
    ``adjusted``: the same for the largest of all the metrics that were asked (Holm).
    """

    tau: float
    low: float
    high: float
    n: int
    pairs: int
    strata: int
    blocks: int
    p: float
    adjusted: float

    @property
    def clear(self) -> bool:
        """Whether the adjusted p is at most 5%."""
        return self.adjusted <= _LEVEL


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
    """
    if blocks is None:
        blocks = np.arange(len(x))
    parts = list(_signs(x, y, strata))
    names = np.unique(blocks)
    kept = np.stack([blocks != name for name in names]).astype(np.float32)  # one block left out
    totals, without = np.zeros(3), np.zeros((len(names), 3))
    for rows, in_x, in_y in parts:
        left = kept[:, rows]
        for i, matrix in enumerate((in_x * in_y, np.abs(in_x), np.abs(in_y))):
            totals[i] += matrix.sum(dtype=float)
            without[:, i] += ((left @ matrix) * left).sum(1, dtype=float)
    tau = float(_tau_b(totals))
    if not math.isfinite(tau) or len(names) < 2:
        return None
    pairs = sum(float(np.abs(in_x * in_y).sum(dtype=float)) for _, in_x, in_y in parts) / 2
    low, high, p = jackknife(tau, _tau_b(without), edge=1 - 1 / max(pairs, 2.0))
    members = np.concatenate([rows for rows, _, _ in parts])
    if len(members) <= _PERMUTED:
        p = max(p, _permuted(parts, numpy_generator(seed)))
    used = len(np.unique(blocks[members]))
    return Association(tau, low, high, len(members), int(pairs), len(parts), used, p, p)


Signs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _signs(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> Iterator[Signs]:
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


def _permuted(parts: list[Signs], rng: np.random.Generator) -> float:
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


def associations(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a metric and target with its rank correlation over four kinds of pairs.

    Columns: ``metric``, ``target``; each an `Association` or None: ``pooled`` over all networks; ``within``
    over those of equal data and model; of these, ``between_recipes`` over the pairs of one seed and
    ``between_seeds`` over the pairs of one recipe. p is adjusted over the metrics of each target and kind.
    ``simpson``: pooled and within are both clear of zero and of opposite sign.
    """
    values = measured(frame)
    judged = evaluations(frame)
    rows = []
    for metric, group in values.groupby("metric_short"):
        joined = group.merge(judged, left_on="subject", right_index=True)
        for target in TARGETS:
            if target not in judged.columns:
                continue
            complete = joined.dropna(subset=["value", target])
            x, y = complete["value"].to_numpy(float), complete[target].to_numpy(float)
            seeds = complete["seed"].to_numpy()
            row: dict[str, Any] = {"metric": metric, "target": target}
            for kind, strata in _kinds(complete).items():
                row[kind] = kendall(x, y, strata, seeds)
            rows.append(row)
    for kind in KINDS:
        for target in TARGETS:
            asked = [row for row in rows if row["target"] == target and row[kind] is not None]
            for row, p in zip(asked, holm(np.array([r[kind].p for r in asked])), strict=True):
                row[kind] = dataclasses.replace(row[kind], adjusted=float(p))
    for row in rows:
        a, b = row["pooled"], row["within"]
        row["simpson"] = bool(a and b and a.clear and b.clear and a.tau * b.tau < 0)
    return pd.DataFrame(rows, columns=["metric", "target", *KINDS, "simpson"])


def _kinds(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """For each kind of pairs a label of each row: pairs of equal label count."""
    equal = stratum(rows)
    labels = {
        "pooled": np.zeros(len(rows)),
        "within": equal,
        "between_recipes": equal + " · " + rows["seed"].astype(str),
        "between_seeds": equal + " · " + rows["recipe_short"].astype(str),
    }
    return {kind: np.asarray(label) for kind, label in labels.items()}


def metric_agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """Kendall's τ within strata between every two metrics, as a symmetric frame with ones."""
    values = measured(frame)
    table = values.pivot_table(index="subject", columns="metric_short", values="value")
    first = values.drop_duplicates("subject").set_index("subject")
    groups = stratum(first).reindex(table.index).to_numpy()
    result = pd.DataFrame(np.eye(len(table.columns)), table.columns, table.columns)
    for a, b in itertools.combinations(table.columns, 2):
        both = table[[a, b]].notna().all(axis=1).to_numpy()
        x, y = (table[name].to_numpy(float)[both] for name in (a, b))
        sums = np.zeros(3)
        for _, in_x, in_y in _signs(x, y, groups[both]):
            sums += [float(m.sum(dtype=float)) for m in (in_x * in_y, np.abs(in_x), np.abs(in_y))]
        result.loc[a, b] = result.loc[b, a] = _tau_b(sums)
    return result
