"""Every trained network: its figures beside what it is judged by, its calibration, its decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.failures import outcome_of
from sharpbench.analysis.results import Results, computed_once, stratum
from sharpbench.analysis.statistics import mean_and_error

__all__ = ["JUDGED", "decision_maps", "every_figure", "notes", "over_seeds", "reliability"]

JUDGED = ("test_error", "gap", "ece", "ece_debiased", "ece_floor")
"""Evaluated quantities that stand beside each figure."""


@computed_once
def every_figure(results: Results) -> list[dict[str, Any]]:
    """A row a metric and network: ``metric``, ``dataset``, ``model``, ``recipe``, ``seed``, ``status``,
    ``outcome`` (of `failures.WORDS`), ``reason``, the figure's fields, and ``judged``: (value, standard
    error) by the names of `JUDGED`."""
    evaluated = results.of_kind(
        "evaluation", columns=["subject", "name", "value", "standard_error"]
    )
    evaluated = evaluated[evaluated["name"].isin(JUDGED)]
    judged: dict[str, dict[str, tuple[float, float]]] = {}
    columns = (evaluated[c] for c in ("subject", "name", "value", "standard_error"))
    for subject, name, value, error in zip(*columns, strict=True):
        judged.setdefault(subject, {})[name] = (value, error)
    shown = ["metric_short", "dataset_short", "model_short", "recipe_short", "seed", "status", "reason",
               "value", "standard_error", "errors", "error_bound", "notes", "converged", "samples",
               "gradient_equivalents", "subject"]  # fmt: skip
    rows = results.of_kind("measurement", columns=[*shown, "transformation"])
    rows = rows[rows["transformation"].isna()]
    return [
        {
            "metric": row["metric_short"],
            "dataset": row["dataset_short"],
            "model": row["model_short"],
            "recipe": row["recipe_short"],
            "seed": int(row["seed"]),
            "status": row["status"],
            "outcome": outcome_of(row["status"], row["reason"]),
            "reason": row["reason"],
            "value": row["value"],
            "standard_error": row["standard_error"],
            "errors": row["errors"],
            "error_bound": row["error_bound"],
            "notes": _told(row["notes"]),
            "converged": bool(row["converged"]) if row["status"] == "ok" else None,
            "samples": row["samples"],
            "gradients": row["gradient_equivalents"],
            "judged": judged.get(row["subject"], {}),
        }
        for row in rows.to_dict("records")
    ]


def over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `every_figure` as means over the seeds with their standard errors; ``seed`` counts them."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("metric", "dataset", "model", "recipe", "outcome"))
        groups.setdefault(key, []).append(row)
    found = []
    for group in groups.values():
        first = group[0]
        judged = {}
        for name in first["judged"]:
            values = [row["judged"][name][0] for row in group if name in row["judged"]]
            judged[name] = mean_and_error(values)
        shown = {**first, "seed": len(group), "judged": judged}
        shown |= {"errors": None, "error_bound": None}  # the spread over seeds holds them all
        shown["notes"] = list(dict.fromkeys(note for row in group for note in row["notes"]))
        if first["status"] == "ok":
            value, error = mean_and_error([row["value"] for row in group])
            converged = all(row["converged"] for row in group)
            shown |= {"value": value, "standard_error": error, "converged": converged}
            for column in ("samples", "gradients"):
                shown[column] = float(np.median([row[column] for row in group]))
        found.append(shown)
    return found


@computed_once
def notes(results: Results) -> pd.DataFrame:
    """What metrics say of how their figures came about, before and after transformations: a row a metric and
    note, with the ``networks`` and ``figures`` it stands beside."""
    rows = results.of_kind("measurement", columns=["metric_short", "subject", "notes"])
    rows = rows.assign(note=rows["notes"].map(_told))
    rows = rows[rows["note"].map(bool)].explode("note")
    grouped = rows.groupby(["metric_short", "note"], sort=False)
    counted = grouped.agg(networks=("subject", "nunique"), figures=("subject", "size"))
    return counted.reset_index(names=["metric", "note"])


def _told(found: Any) -> list[str]:
    """The notes of a record; those of older versions have none."""
    return found if isinstance(found, list) else []


@computed_once
def reliability(results: Results) -> pd.DataFrame:
    """The reliability diagrams, a row a bin of a network: ``stratum``, ``recipe``, ``confidence``,
    ``accuracy``, ``count``, ``bin``."""
    shown = ["dataset_short", "model_short", "recipe_short", "details"]
    rows = results.of_kind("reliability", columns=shown)
    rows = rows.assign(stratum=stratum(rows))
    return pd.DataFrame(
        {
            "stratum": row["stratum"],
            "recipe": row["recipe_short"],
            "confidence": confidence,
            "accuracy": accuracy,
            "count": count,
            "bin": number,
        }
        for row in rows.to_dict("records")
        for number, confidence, accuracy, count in zip(
            *(row["details"][k] for k in ("bin", "confidence", "accuracy", "count")), strict=True
        )
    )


@computed_once
def decision_maps(results: Results) -> list[dict[str, Any]]:
    """Decision maps of the networks of the lowest seed: ``dataset``, ``model``, ``recipe``, the map's
    ``details``, and (value, standard error) of the suite's first ``metric`` as ``figure`` and of the
    ``test_error``, each None where it is missing."""
    shown = ["dataset_short", "model_short", "recipe_short", "seed", "subject", "details"]
    rows = results.of_kind("decision_map", columns=shown)
    if rows.empty:
        return []
    rows = rows[rows["seed"] == rows["seed"].min()]
    values, judged = results.measured, results.evaluated
    metric = values["metric_short"].iloc[0] if len(values) else None
    pairs = {}
    for name, found in (
        ("figure", values[values["metric_short"] == metric]),
        ("test_error", judged[judged["name"] == "test_error"]),
    ):
        columns = (found[c] for c in ("subject", "value", "standard_error"))
        pairs[name] = {s: (value, error) for s, value, error in zip(*columns, strict=True)}
    return [
        {
            **{part: row[f"{part}_short"] for part in ("dataset", "model", "recipe")},
            "details": row["details"],
            "metric": metric,
            **{name: of_subject.get(row["subject"]) for name, of_subject in pairs.items()},
        }
        for row in rows.to_dict("records")
    ]
