"""Right? Metrics against known answers, against each other, and against the errors that they state."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis import calibration, problems
from sharpbench.analysis.calibration import stated_errors
from sharpbench.analysis.correctness import (
    convergence,
    implementation_agreement,
    implementation_pairs,
)
from sharpbench.analysis.rate_fit import fitted_orders
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report.drawing import MOST_PANELS
from sharpbench.report.format import count, fixed, number, percent
from sharpbench.report.sections import right_figures as figures
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Right", "stated_error_sentences"]


@dataclass(frozen=True)
class Right(Section):
    """How far metrics are from answers that are known, whether they say so truly, and whether their
    implementations agree."""

    name, title, place = "right", "Right?", 20
    needs = TRAINED | {"problem", "calibration"}

    def applies(self, results: Results) -> bool:
        known = (problems.solved(results), problems.accuracy(results), stated_errors(results))
        return bool(results.planned) or any(len(table) for table in known)

    def subtitle(self, results: Results) -> str:
        if problems.definitions(results):
            return "λ against the truth"
        if len(problems.accuracy(results)) or len(stated_errors(results)):
            return "against known answers"
        return "do implementations of one metric agree"

    def sentences(self, results: Results) -> list[str]:
        return [
            *_of_the_rate(results),
            *_of_others(problems.accuracy(results)),
            *stated_error_sentences(stated_errors(results)),
            *_of_implementations(results),
        ]

    def tables(self, results: Results) -> Mapping[str, Any]:
        measured = results.measured
        return {
            "planned": results.planned,
            "definitions": problems.definitions(results),
            "answers": problems.answers(results),
            "accuracy": problems.accuracy(results),
            "coverage": stated_errors(results),
            "stated_band": calibration.BAND,
            "traps": problems.traps(results),
            "agreement": implementation_agreement(results),
            "unconverged": int((~measured["converged"].astype(bool)).sum()),
        }

    def pictures(self, results: Results) -> Iterable[Picture]:
        growth = problems.by_orders(results)
        if len(growth):
            yield Picture(
                "growth",
                functools.partial(figures.growth_figure, growth),
                "λ against the highest order fitted, from order 1 on. Dashed: the limit, where there is one "
                "(a line that never levels off has none). Dotted: order 4, where the paper stops.",
            )
        dimensions, errors = problems.by_dimension(results), problems.estimation_error(results)
        if len(dimensions) or len(errors):
            yield Picture(
                "estimation",
                functools.partial(figures.estimation_figure, dimensions, errors),
                "One tanh unit in ever more dimensions under each law of directions (unit directions lose "
                "½ log d a order), and the root mean square error over seeds of λ against directions and "
                "points.",
            )
        covered = stated_errors(results)
        if len(covered) and (covered["n"] > 0).any():
            yield Picture(
                "coverage",
                functools.partial(
                    figures.coverage_figure,
                    covered,
                    calibration.BAND,
                    calibration.STATED,
                    results.titles,
                ),
                "Share of the 95% intervals that hold the truth, a mark a metric and problem, with its own "
                "95% binomial interval. Left of the band errors are told too small; right of it intervals "
                "cover more than they say.",
            )
        yield from _against_cost(results)
        pairs = implementation_pairs(results)
        if len(pairs):
            yield Picture(
                "agreement",
                functools.partial(figures.agreement_figure, pairs),
                "Difference of each other implementation from the native one, a point a network "
                f"(n = {count(pairs['subject'].nunique())}).",
            )
        orders = fitted_orders(results)
        if len(orders) > 0 and orders["stratum"].nunique() <= MOST_PANELS:
            yield Picture(
                "fit",
                functools.partial(figures.fit_figure, orders),
                f"What {orders['metric'].iloc[0]} is fitted to: the mean of log |dₙ| over points and "
                "directions by order, mean over seeds with their full range; λ is the slope of the line.",
            )


def _against_cost(results: Results) -> Iterable[Picture]:
    others = problems.accuracy(results)
    groups = others.groupby("name", sort=False) if len(others) else ()
    for place, (name, group) in enumerate(groups):
        if group["metric"].nunique() < 2:
            continue  # a single setting has nothing to be compared with
        yield Picture(
            f"truth{place}",
            functools.partial(figures.error_against_cost_figure, group),
            f"{results.title(str(name))}: true error against cost. A large "
            "mark is the median over the problems of one setting (its tolerance or number of probes), a "
            "hollow one did not claim to have converged every time; faint marks are the problems (medians "
            "over seeds). Lower and further left is better; dashed: the Pareto front. Errors below 10⁻¹⁶ "
            "are drawn there.",
        )


def _of_implementations(results: Results) -> list[str]:
    sentences = []
    for row in implementation_agreement(results).itertuples():
        text = (
            f"{row.b} differs from {row.a} by {percent(row.median_difference)} in the median and "
            f"{percent(row.largest_difference)} at most (n = {count(row.n)} networks)"
        )
        if row.beyond_3_errors == row.beyond_3_errors:
            text += (
                f"; on {percent(row.beyond_3_errors)} of them beyond three combined standard errors, or as "
                "many more as few random numbers excuse"
            )
        sentences.append(text + ".")
    for row in convergence(results).itertuples():
        if row.converged < row.n:
            sentences.append(
                f"{row.metric} met its tolerance on {row.converged} of {row.n} networks; the other "
                "figures are marked."
            )
    return sentences


def _of_others(others: pd.DataFrame) -> list[str]:
    """One sentence a metric and implementation, at its setting with the smallest median error."""
    found: list[str] = []
    if others.empty:
        return found
    for _, group in others.groupby(["name", "family"], sort=False):
        medians = group.groupby("metric", sort=False)["error"].median()
        best = group[group["metric"] == medians.idxmin()]
        worst = best.loc[best["worst"].idxmax()]
        text = (
            f"{worst['metric']} is {number(best['error'].median(), 2)} (relative) off the exact value in the "
            f"median over {len(best)} problems, {number(worst['worst'], 2)} at worst ({worst['problem']})"
        )
        wrong = group[(group["worst"] > 0.5) & (group["converged"] == 1)]
        if len(wrong):
            places = ", ".join(dict.fromkeys(wrong["problem"]))
            text += f"; wrong by more than half on {places}, and says it converged"
        found.append(text + ".")
    return found


def _of_the_rate(results: Results) -> list[str]:
    rows = problems.solved(results)
    if rows.empty:
        return []
    exact = rows[(rows["norm"] == "geometric_mean") & (rows["dimension"] == 1)]
    off = (exact["value"] - exact["expected"]).abs().dropna()
    found = []
    if len(off):
        found.append(
            f"On problems of one variable λ differs from its value by exact derivatives by at most "
            f"{number(off.max(), 1)} ({len(off)} answers, orders up to {exact['last_order'].max()})."
        )
    table = problems.definitions(results)
    for key, name in (("none", "λ raw"), ("factorial", "λ with factorials divided out")):
        diverging = [row["problem"] for row in table if row.get(key, {}).get("diverges")]
        if diverging:
            found.append(f"{name} has no limit on {', '.join(diverging)}.")
    limited = [
        abs(row[key]["at_four"] - row[key]["limit"])
        for row in table
        for key in ("none", "factorial")
        if key in row and not row[key]["diverges"] and row[key]["at_four"] is not None
    ]
    if limited:
        found.append(
            f"Where there is a limit, orders 1 to 4 miss it by {number(np.median(limited), 2)} in the median "
            f"and {number(max(limited), 2)} at most."
        )
    return found


def stated_error_sentences(table: pd.DataFrame) -> list[str]:
    """How many of the stated errors and claims in `calibration.coverage` hold, in words."""
    if table.empty:
        return []
    found = []
    low, high = calibration.BAND
    stated = table[table["n"] > 0]
    if len(stated):
        held = stated["verdict"].isin(["holds"])
        text = (
            f"Of {len(stated)} stated errors {int(held.sum())} hold: their 95% intervals cover the truth in "
            f"{_share(low)} to {_share(high)} of {int(np.median(stated['n']))} repetitions"
        )
        words = {"too small": "are too small", calibration.WIDE: "cover more than they say"}
        for verdict, word in {**words, "can't tell": "can't be told"}.items():
            some = stated[stated["verdict"] == verdict]
            if len(some):
                worst = some.loc[(some["covered"] - calibration.STATED).abs().idxmax()]
                text += (
                    f"; {len(some)} {word} "
                    f"({worst['metric']} on {worst['problem']}: {_share(worst['covered'])})"
                )
        found.append(text + ".")
    none = table[table["verdict"] == "states none"]
    if len(none):
        names = ", ".join(dict.fromkeys(none["metric"]))
        several = "answers are" if len(none) > 1 else "answer is"
        found.append(f"{len(none)} {several} by chance, without an error stated ({names}).")
    claimed = table[table["claim_verdict"] != ""]
    if len(claimed):
        kept = (claimed["claim_verdict"] == "holds").sum()
        text = (
            f"Of {len(claimed)} claims to have converged {kept} hold ({int(claimed['false'].sum())} of "
            f"{int(claimed['claims'].sum())} answers were false)"
        )
        broken = claimed[claimed["claim_verdict"] != "holds"]
        if len(broken):
            worst = broken.loc[(broken["false"] / broken["claims"]).idxmax()]
            text += (
                f"; worst: {worst['metric']} on {worst['problem']}, {worst['false']} of "
                f"{worst['claims']}"
            )
        found.append(text + ".")
    return found


def _share(value: float) -> str:
    return f"{fixed(100 * value, 0)}%"
