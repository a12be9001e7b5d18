"""What was found, in words; every sentence is computed from the tables by the rules written here."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sharpbench.analysis.correctness import convergence

__all__ = ["findings", "problems"]


_VERDICTS = {
    "invariant": "unmoved:",
    "equivariant": "moved by the predicted amount:",
    "moves": "moved (median change):",
    "mixed": "moved on some networks:",
    "unclear": "can't tell:",
}


_KEPT = {"invariant", "equivariant"}


def findings(
    frame: pd.DataFrame,
    *,
    agreement: pd.DataFrame,
    matrix: pd.DataFrame,
    associations: pd.DataFrame,
    costs: pd.DataFrame,
    growth: pd.DataFrame,
    truths: list[str],
) -> dict[str, list[str]]:
    """Sentences by question: ``right``, ``invariant``, ``predictive``, ``costly``.

    The tables are those of `correctness.implementation_agreement`, `invariance.invariance_matrix`,
    `prediction.associations`, `cost.cost_table` and `cost.scaling`; ``truths`` those of `problems.sentences`.
    """
    return {
        "right": _right(frame, agreement, truths),
        "invariant": _invariant(matrix),
        "predictive": _predictive(associations),
        "costly": _growth(growth) + (_costly(costs) if len(costs) or growth.empty else []),
    }


def problems(frame: pd.DataFrame) -> pd.DataFrame:
    """Trainings and measurements without a figure, equal ones counted together.

    Columns: ``what``, ``transformation``, ``status``, ``reason``, ``n``, ``example`` (a subject).
    """
    rows = frame[frame["status"] != "ok"]
    if rows.empty:
        return pd.DataFrame(columns=["what", "transformation", "status", "reason", "n", "example"])
    grouped = rows.fillna({"transformation": "", "reason": ""}).groupby(
        ["label", "transformation", "status", "reason"], sort=True
    )
    table = grouped.agg(n=("subject", "size"), example=("subject_label", "first")).reset_index()
    return table.rename(columns={"label": "what"})


def _right(frame: pd.DataFrame, agreement: pd.DataFrame, truths: list[str]) -> list[str]:
    sentences = list(truths)
    for row in agreement.itertuples():
        text = (
            f"{row.b} differs from {row.a} by {row.median_difference:.2%} in the median and "
            f"{row.largest_difference:.1%} at most (n = {row.n} networks)"
        )
        if row.beyond_3_errors == row.beyond_3_errors:
            text += f"; beyond three combined standard errors on {row.beyond_3_errors:.0%} of them"
        sentences.append(text + ".")
    for row in convergence(frame).itertuples():
        if row.converged < row.n:
            sentences.append(
                f"{row.metric} met its tolerance on {row.converged} of {row.n} networks; the other "
                "figures are marked."
            )
    return sentences or ["Each metric has a single implementation here, so none could be compared."]


def _invariant(matrix: pd.DataFrame) -> list[str]:
    if matrix.empty:
        return ["No transformation was asked for."]
    sentences = []
    for name, every in matrix.groupby("transformation_name", sort=False):
        # Of several strengths of one transformation the one that moves most speaks for it.
        strength = every.groupby("transformation")["median_change"].max().fillna(-1).idxmax()
        group = every[every["transformation"] == strength]
        transformation = strength if len(set(every["transformation"])) > 1 else str(name)
        applied = group[group["n"] > 0]
        if applied.empty:
            sentences.append(f"{transformation} applied to none of the networks.")
            continue
        change = applied["function_change"].max()
        kept = "keeps the function" if change < 1e-10 else f"moves the logits by up to {change:.0%}"
        parts = []
        for verdict, what in _VERDICTS.items():
            names = [
                row.metric
                + (
                    ""
                    if verdict in {"invariant", "equivariant"}
                    else f" ({_size(row.median_change)})"
                )
                for row in applied[applied["verdict"] == verdict].itertuples()
            ]
            if names:
                parts.append(f"{what} {', '.join(names)}")
        sentences.append(
            f"{transformation.replace('_', ' ')} {kept} (n = {applied['n'].max()}). "
            + _capitalised("; ".join(parts))
            + "."
        )
    for row in matrix[matrix["disagrees"] != ""].itertuples():
        sentences.append(
            f"Theory and measurement disagree: {row.metric} under "
            f"{row.transformation.replace('_', ' ')} ({row.disagrees}; n = {row.n})."
        )
    return sentences


def _predictive(table: pd.DataFrame) -> list[str]:
    rows = table[table["target"] == "test_error"]
    rows = rows[rows["within"].notna()]
    if rows.empty:
        return ["Too few networks to rank."]
    clear = sorted(
        (r for r in rows.itertuples() if r.within.clear), key=lambda r: -abs(r.within.tau)
    )
    sentences = []
    for direction, sign in (("higher", 1), ("lower", -1)):
        group = [r for r in clear if r.within.tau * sign > 0]
        if group:
            listed = "; ".join(
                f"{r.metric} {r.within.tau:+.2f} [{r.within.low:+.2f}, {r.within.high:+.2f}]"
                for r in group
            )
            sentences.append(
                f"Among networks of the same data and model ({_networks(group)}) the sharper one has the "
                f"{direction} test error, by (Kendall's τ, 95% interval): {listed}."
            )
    unclear = [r.metric for r in rows.itertuples() if not r.within.clear]
    if unclear:
        sentences.append(
            f"No clear rank correlation with the test error within data and model: {', '.join(unclear)}."
        )
    reversed_ = [
        f"{r.metric} with the {r.target.replace('_', ' ')} {r.pooled.tau:+.2f}, but {r.within.tau:+.2f}"
        for r in table[table["simpson"]].itertuples()
    ]
    if reversed_:
        sentences.append(
            "Simpson's paradox, τ over all networks, but within data and model: "
            f"{'; '.join(reversed_)}."
        )
    apparent = [
        r
        for r in rows.itertuples()
        if r.pooled is not None and r.pooled.clear and not r.within.clear
    ]
    if apparent:
        listed = "; ".join(
            f"{r.metric} {r.pooled.tau:+.2f}, but {r.within.tau:+.2f} "
            f"[{r.within.low:+.2f}, {r.within.high:+.2f}]"
            for r in apparent
        )
        sentences.append(
            "Seems to rank the test error over all networks, but does not within data and model (τ): "
            f"{listed}."
        )
    return sentences


def _networks(rows: list[Any]) -> str:
    """``n = 640`` or the range."""
    fewest, most = min(r.within.n for r in rows), max(r.within.n for r in rows)
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def _growth(table: pd.DataFrame) -> list[str]:
    """One sentence a size: how time grows with it, from the fitted exponents."""
    if table.empty:
        return []
    found = []
    for axis, group in table.groupby("axis", sort=False):
        parts = [
            f"{row['metric']} {row['time'][0]:.2f} [{row['time'][1]:.2f}, {row['time'][2]:.2f}]"
            for row in group.to_dict("records")
            if row["time"] is not None
        ]
        if parts:
            found.append(f"Time grows with the {axis} to the power: {'; '.join(parts)}.")
    return found


def _costly(costs: pd.DataFrame) -> list[str]:
    if costs.empty:
        return ["No measurement was timed."]
    by_metric = costs.groupby("metric")["gradients"].median().sort_values()
    parts = [f"{metric} {value:.0f}" if value >= 10 else f"{metric} {value:.1f}"
             for metric, value in by_metric.items()]  # fmt: skip
    sentences = [f"Work in gradients over the measured samples (median): {', '.join(parts)}."]
    if costs["shared"].any():
        sentences.append(
            "Other subjects ran beside these measurements: their times are marked and not comparable."
        )
    return sentences


def _size(change: float) -> str:
    return f"{change:.0%}" if change < 2 else f"{change:.3g} times its value"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
