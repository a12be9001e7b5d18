"""Predictive? Rank correlation of metrics with what a trained network is judged by.

Pooling unlike subjects invites Simpson's paradox (label noise moves both λ and the test error), so
every correlation is given twice: pooled, and within strata of equal data and model, where subjects
differ in recipe and seed alone. Networks of one seed share the split of the data, the label noise and
the initial weights: the seeds, not the networks, are what was repeated, and errors are taken over them,
over those of each stream where data, initialization and training have seeds of their own.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.names import in_reading_order, reading_order
from sharpbench.analysis.rank_correlation import FEWEST, exchanged, holm, kendall, tau_b
from sharpbench.analysis.results import SEED_COLUMNS, Results, computed_once, seeds, stratum

__all__ = ["KINDS", "TARGETS", "associations", "metric_agreement", "points", "side_by_side"]

TARGETS = ("test_error", "gap", "test_loss", "loss_gap", "ece", "brier_score")
"""Evaluated quantities that a sharpness metric is asked to rank; larger is worse in each."""

KINDS = ("pooled", "within", "between_recipes", "between_seeds")
"""The kinds of pairs of networks that a rank correlation is taken over; see `associations`."""


@computed_once
def associations(results: Results) -> pd.DataFrame:
    """One row a metric and target with its rank correlation over four kinds of pairs.

    Columns: ``metric``, ``target``, ``target_title``; each an `Association` or None: ``pooled`` over all
    networks; ``within`` over those of equal data and model; of these, ``between_recipes`` over the pairs of
    equal seeds and ``between_seeds`` over the pairs of one recipe; none over fewer than `FEWEST` networks.
    p is adjusted over the metrics of each target and kind.
    ``simpson``: pooled and within are both clear of zero and of opposite sign.
    """
    values, judged = _narrow(results.measured), results.evaluations
    rows = []
    drawn: dict[bytes, np.ndarray] = {}
    for metric, group in values.groupby("metric_short"):
        joined = group.merge(judged, left_on="subject", right_index=True)
        kinds, blocks, x = _kinds(joined), seeds(joined), joined["value"].to_numpy(float)
        equal, recipes = _numbered([stratum(joined)]), _numbered([joined["recipe_short"]])
        for target in TARGETS:
            if target not in judged.columns:
                continue
            y = joined[target].to_numpy(float)
            there = ~(np.isnan(x) | np.isnan(y))
            row: dict[str, Any] = {
                "metric": metric,
                "target": target,
                "target_title": results.title(target),
            }
            for kind, strata in kinds.items():
                told = x[there], y[there], strata[there]
                if (
                    kind == "pooled"
                ):  # of these data and models: no others are claimed to be like them
                    found = kendall(*told, blocks[there])
                else:
                    key = np.column_stack([equal, recipes, _coded(blocks)])[there].tobytes()
                    if key not in drawn:
                        drawn[key] = exchanged(equal[there], recipes[there], blocks[there])
                    found = kendall(*told, blocks[there], exchanges=drawn[key])
                row[kind] = found if found is not None and found.n >= FEWEST else None
            rows.append(row)
    for kind in KINDS:
        for target in TARGETS:
            asked = [row for row in rows if row["target"] == target and row[kind] is not None]
            for row, p in zip(asked, holm(np.array([r[kind].p for r in asked])), strict=True):
                row[kind] = dataclasses.replace(row[kind], adjusted=float(p))
    for row in rows:
        a, b = row["pooled"], row["within"]
        row["simpson"] = bool(a and b and a.clear and b.clear and a.value * b.value < 0)
    found = pd.DataFrame(rows, columns=["metric", "target", "target_title", *KINDS, "simpson"])
    return in_reading_order(found, "metric")


def _kinds(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """For each kind of pairs a label of each row: pairs of equal label count."""
    equal = stratum(rows)
    labels = {
        "pooled": [np.zeros(len(rows))],
        "within": [equal],
        "between_recipes": [equal, *seeds(rows).T],
        "between_seeds": [equal, rows["recipe_short"]],
    }
    return {kind: _numbered(parts) for kind, parts in labels.items()}


def _coded(columns: np.ndarray) -> np.ndarray:
    """Each column as whole numbers."""
    return np.column_stack([_numbered([column]) for column in columns.T])


def _numbered(parts: list[Any]) -> np.ndarray:
    """One number for rows that are equal in every part, in the order in which they come."""
    found = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        number = pd.factorize(np.asarray(part, dtype=object), use_na_sentinel=False)[0]
        found = pd.factorize(found * (number.max(initial=0) + 1) + number)[0]
    return found


@computed_once
def metric_agreement(results: Results) -> pd.DataFrame:
    """Kendall's τ within strata between every two metrics, as a symmetric frame with ones."""
    values = _narrow(results.measured)
    figures = values.pivot_table(index="subject", columns="metric_short", values="value")
    figures = figures[reading_order(figures.columns)]
    first = values.drop_duplicates("subject").set_index("subject")
    groups = stratum(first).reindex(figures.index).to_numpy()
    found = pd.DataFrame(np.eye(len(figures.columns)), figures.columns, figures.columns)
    for a, b in itertools.combinations(figures.columns, 2):
        both = figures[[a, b]].notna().all(axis=1).to_numpy()
        x, y = (figures[name].to_numpy(float)[both] for name in (a, b))
        found.loc[a, b] = found.loc[b, a] = tau_b(x, y, groups[both])
    return found


def _narrow(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that tell a network and its figure: groups and merges of all would copy them."""
    columns = ("subject", "metric_short", "value", "standard_error", "dataset_short", "model_short",
               "recipe_short", "seed", *SEED_COLUMNS)  # fmt: skip
    return rows[[c for c in columns if c in rows.columns]]


@computed_once
def points(results: Results) -> pd.DataFrame:
    """Measurements joined to the test error of their subject: ``subject``, ``metric``, ``value``,
    ``standard_error``, ``test_error``, ``test_error_standard_error``, ``stratum``, ``recipe``."""
    judged = results.evaluated
    errors = judged.loc[judged["name"] == "test_error", ["subject", "value", "standard_error"]]
    joined = _narrow(results.measured).merge(errors, on="subject", suffixes=("", "_test"))
    found = pd.DataFrame(
        {
            "subject": joined["subject"],
            "metric": joined["metric_short"],
            "value": joined["value"],
            "standard_error": joined["standard_error"].astype(float),
            "test_error": joined["value_test"],
            "test_error_standard_error": joined["standard_error_test"],
            "stratum": stratum(joined),
            "recipe": joined["recipe_short"],
        }
    )
    return in_reading_order(found, "metric")


@computed_once
def side_by_side(results: Results) -> pd.DataFrame:
    """One row a subject, one column a metric (its native implementation), and ``stratum``."""
    values = results.measured
    native = values["parameters"].map(lambda p: p.get("implementation", "native") == "native")
    values = values[native.astype(bool)]
    values = _narrow(values)
    values = values.assign(stratum=stratum(values))
    figures = values.pivot_table(
        index=["subject", "stratum"], columns="metric_short", values="value"
    )
    figures = figures[reading_order(figures.columns)]
    # In the order of the other figures, so that a stratum keeps its colour.
    return figures.reset_index("stratum").loc[list(dict.fromkeys(values["subject"]))]
