"""Predicts generalization? Metrics over a grid of networks, beside oracles, rivals and controls."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpbench.analysis.generalization import Grid, Score, grid, scores, work
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.analysis.statistics import Estimate
from sharpbench.report.drawing import (
    DIVERGING,
    explain,
    explain_beside,
    legend,
    plain_log_ticks,
)
from sharpbench.report.format import count, fixed, interval, number, percent
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Generalization", "joined"]

_COLOURS = {"oracle": 7, "rival": 3, "metric": 0, "control": 1, "chance": 7}
"""Of the colour-blind-safe palette."""

_KINDS = {
    "oracle": "oracles and chance",
    "rival": "the hyperparameters alone",
    "metric": "metrics",
    "control": "controls",
}


@dataclass(frozen=True)
class Generalization(Section):
    """Does a metric predict which network of a grid generalizes, and more than the hyperparameters do?"""

    name, title, link, place = "generalization", "Predicts generalization?", "Generalization", 42
    needs = TRAINED

    def applies(self, results: Results) -> bool:
        return bool(self.needs & results.kinds) and grid(results) is not None

    def subtitle(self, results: Results) -> str:
        return "over a grid of hyperparameters, and beyond them"

    def sentences(self, results: Results) -> list[str]:
        found = grid(results)
        return [] if found is None else generalization_sentences(found, scores(results), results)

    def tables(self, results: Results) -> Mapping[str, Any]:
        found = grid(results)
        assert found is not None  # else the section isn't there
        titles = {s.target: results.title(s.target) for s in scores(results)}
        return {
            "population": population_sentence(found),
            "axes": found.population.axes,
            "scores": [
                {
                    "title": titles[target],
                    "rows": [s for s in scores(results) if s.target == target],
                }
                for target in titles
            ],
        }

    def pictures(self, results: Results) -> Iterable[Picture]:
        found, table = grid(results), scores(results)
        if found is None or not table:
            return
        target = table[0].target
        rows = [s for s in table if s.target == target]
        title = results.title(target)
        yield Picture(
            "generalization",
            functools.partial(_scores_figure, rows),
            f"How well each figure predicts the {title} (n = {count(found.population.size)}). Ψ: mean over "
            "the axes of Kendall's τ between networks that differ in one setting alone; K: information on "
            "the sign of a difference that any two settings don't give already; the share of pairs ranked "
            "wrongly on average (bar) and in the worst environment (cross); regret of the network that it "
            "picks. Lines are 95% intervals over the seeds; dashed: a figure that knows nothing.",
        )
        yield Picture(
            "generalization-axes",
            functools.partial(_axes_figure, found.population.axes, rows),
            f"ψ by axis for the {title}: Kendall's τ between networks that differ in that setting alone, all "
            "seeds equal. One colour throughout a row: the figure ranks alike whatever is changed.",
        )
        if len(ranked := _ranked(rows)) > 2:
            yield Picture(
                "generalization-groups",
                functools.partial(_groups_figure, ranked),
                f"Figures by falling Ψ for the {title}, with 95% intervals over the seeds. Each line at the "
                "right joins neighbours of which no two are told apart (p ≤ 5% after Holm's adjustment for "
                "all pairs).",
            )
        taken = work(results)
        if sum(s.row in taken for s in rows) > 1:
            yield Picture(
                "generalization-cost",
                functools.partial(_cost_figure, rows, taken),
                f"Prediction against cost: Ψ for the {title} over the work of one figure in gradients of the "
                "training loss, median over the networks. Ringed: no cheaper figure has a larger Ψ. Dashed: "
                "the hyperparameters alone, which cost nothing.",
            )


def population_sentence(found: Grid) -> str:
    """``240 networks: 48 configurations on 5 axes (…), 5 seeds.``, and what was dropped."""
    population = found.population
    axes = ", ".join(
        f"{axis} {len(levels)}" for axis, levels in zip(population.axes, found.levels, strict=True)
    )
    told = (
        f"{count(population.size)} networks: {population.configurations.max() + 1} configurations on "
        f"{len(population.axes)} axes (values: {axes}), {len(np.unique(population.seeds[:, 0]))} seeds."
    )
    if found.dropped:
        parts = [f"{count} ({reason})" for reason, count in found.dropped.items()]
        told += f" Dropped: {', '.join(parts)}."
    if found.stopped:
        told += " All were trained down to a stated training loss."
    return told


def generalization_sentences(found: Grid, table: list[Score], results: Results) -> list[str]:
    """What the scores say of the first target, each sentence from the table."""
    if not table:
        return []
    target = table[0].target
    title = results.title(target)
    rows = [s for s in table if s.target == target]
    metrics = [s for s in rows if s.kind == "metric" and s.mean]
    rival = next(s for s in rows if s.kind == "rival")
    if not metrics or rival.mean is None:
        return []
    best = metrics[0]
    assert best.mean is not None
    n = f"On {count(found.population.size)} networks"
    tied = [s.row for s in metrics if s.tied and s.row != best.row]
    also = f" (not told apart from it: {_first(tied)})" if tied else ""
    first = (
        f"{best.row} ranks the {title} best of all metrics:"
        if best.mean.stars
        else f"no metric is shown to rank the {title}; {best.row} has the largest"
    )
    sentences = [
        f"{n} that differ in one setting at a time, {first} Ψ {interval(best.mean, 2, sign=True)}{also}; the "
        f"hyperparameters alone have {interval(rival.mean, 2, sign=True)}."
    ]
    better = [s for s in metrics if s.beyond and s.beyond.stars and s.beyond.value > 0]
    if better:
        listed = _first(
            [f"{s.row} by {interval(s.beyond, 2, sign=True)}" for s in better if s.beyond]
        )
        sentences.append(f"Better than the hyperparameters alone (difference of Ψ): {listed}.")
    else:
        most = max(s.beyond.high for s in metrics if s.beyond)
        more = f", and none does by more than {fixed(most, 2)} in Ψ" if most < 2 else ""
        if most < 0:
            more = f"; each ranks it worse, by at least {fixed(-most, 2)} in Ψ"
        sentences.append(
            f"{n} no sharpness metric is shown to rank the {title} better than the hyperparameters alone"
            f"{more}."
        )
    adding = [s for s in metrics if s.added and s.added.stars]
    if adding:
        listed = _first(
            [
                f"{s.row} {_shares(s.added.share)}"
                for s in sorted(adding, key=lambda s: -s.added.share.value if s.added else 0.0)
                if s.added
            ]
        )
        sentences.append(
            f"Adds to the hyperparameters (share of what they leave unexplained of the rank of the {title}): "
            f"{listed}."
        )
    else:
        noisy = next((s for s in rows if s.kind == "oracle" and s.row != "target itself"), None)
        power = ""
        if noisy and noisy.added:
            power = (
                f" (of what they leave unexplained of its rank the {noisy.row} explains "
                f"{_shares(noisy.added.share)} here)"
            )
        sentences.append(
            f"No metric is shown to add to what the hyperparameters tell of the {title}{power}."
        )
    reversed_ = [s for s in metrics if s.error and s.error.worst > 0.5]
    if reversed_:
        listed = _first(
            [
                f"{s.row} when only {s.worst} ({percent(s.error.worst)} of pairs wrong)"
                for s in reversed_
                if s.error
            ]
        )
        sentences.append(f"Ranks backwards in some environment: {listed}.")
    steady = [s.row for s in metrics if s.error and s.error.worst <= 0.5]
    if steady:
        sentences.append(f"No worse than a coin in every environment: {', '.join(steady)}.")
    chance = next((s for s in rows if s.kind == "chance"), None)
    if chance is not None and chance.choice and best.choice:
        sentences.append(
            f"Who picks the network with the least {best.row} loses "
            f"{percent(best.choice.regret.value)} of the range from the best to the worst {title}; a random "
            f"pick loses {percent(chance.choice.regret.value)}."
        )
    return sentences


_MOST_NAMED = 6
"""So many metrics are named in one sentence; the table has all."""


def _first(parts: list[str]) -> str:
    more = f"; and {len(parts) - _MOST_NAMED} more" if len(parts) > _MOST_NAMED else ""
    return "; ".join(parts[:_MOST_NAMED]) + more


def _shares(found: Estimate) -> str:
    return f"{percent(found.value)} [{percent(found.low)}, {percent(found.high)}]"


def _scores_figure(rows: list[Score]) -> Figure:
    """Ψ, K, the worst environment and regret: a panel each, a line a figure."""
    names = [s.row + (" =" if s.tied else "") for s in rows]
    figure, axes = plt.subplots(1, 4, figsize=(11.5, 1.7 + 0.27 * len(rows)), sharey=True)
    palette = sns.color_palette("colorblind")
    chance = next((s for s in rows if s.kind == "chance"), None)
    for place, score in enumerate(rows):
        colour = palette[_COLOURS[score.kind]]
        asked = score.kind in {"metric", "control"}
        star = score.mean.stars if asked and score.mean else ""
        _mark(axes[0], place, score.mean, colour, star)
        _mark(axes[1], place, score.information, colour)
        if score.error:
            _mark(axes[2], place, score.error.mean, colour, marker="|")
            axes[2].plot(score.error.worst, place, "X", color=colour, markersize=6)
        if score.choice:
            _mark(axes[3], place, score.choice.regret, colour)
    axes[0].axvline(0, color="grey", linestyle="--", linewidth=0.8)
    axes[2].axvline(0.5, color="grey", linestyle="--", linewidth=0.8)
    if chance is not None and chance.choice:
        axes[3].axvline(chance.choice.regret.value, color="grey", linestyle="--", linewidth=0.8)
    for axis, label, low, high in (
        (axes[0], "Ψ", -1.05, 1.05),
        (axes[1], "K", -0.02, 1.02),
        (axes[2], "sign error: mean |, worst ✕", -0.03, 1.03),
        (axes[3], "regret", -0.03, 1.03),
    ):
        axis.set_xlabel(label)
        axis.set_xlim(low, high)
        axis.set_xticks([-1, -0.5, 0, 0.5, 1] if low < -1 else [0, 0.25, 0.5, 0.75, 1])
        axis.xaxis.set_major_formatter(lambda value, _: number(value))
        axis.grid(axis="y", linewidth=0.3)
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].set_ylim(len(rows) - 0.3, -1)
    _explained(figure, rows)
    return figure


def _explained(figure: Figure, rows: Sequence[Score]) -> None:
    """What the colours stand for."""
    palette = sns.color_palette("colorblind")
    told = {
        _KINDS[kind]: palette[_COLOURS[kind]]
        for kind in _KINDS
        if any(s.kind == kind for s in rows)
    }
    explain(figure, legend(told, {}), most=4)


def _mark(
    axis: Axes, place: int, found: Estimate | None, colour: Any, star: str = "", marker: str = "o"
) -> None:
    if found is None:
        return
    low, high = axis.get_xlim() if not np.isfinite([found.low, found.high]).all() else (-1.05, 1.05)
    ends = np.clip([found.low, found.high], min(low, -1.05), max(high, 1.05))
    beyond = np.maximum([[found.value - ends[0]], [ends[1] - found.value]], 0)
    axis.errorbar(
        found.value, place, xerr=beyond, fmt=marker, color=colour, elinewidth=1.4,
        markersize=8 if marker == "|" else 5,
    )  # fmt: skip
    if star:
        axis.annotate(
            star, (found.value, place), (0, 1), textcoords="offset points", ha="center", fontsize=11
        )


def _cost_figure(rows: list[Score], taken: Mapping[str, float]) -> Figure:
    """Ψ of each figure over its work, with the Pareto front ringed."""
    shown = [s for s in rows if s.row in taken and s.mean]
    figure, axis = plt.subplots(figsize=(8.5, 4.6))
    palette = sns.color_palette("colorblind")
    cheapest_first = sorted(shown, key=lambda s: (taken[s.row], -_psi(s)))
    best = -np.inf
    for place, score in enumerate(cheapest_first, 1):
        x, y, colour = taken[score.row], _psi(score), palette[_COLOURS[score.kind]]
        axis.plot(x, y, "o", color=colour, markersize=6, label=f"{place} {score.row}")
        if y > best:
            axis.plot(x, y, "o", color=colour, markersize=13, fillstyle="none")
            best = y
    rival = next((s for s in rows if s.kind == "rival" and s.mean), None)
    if rival is not None:
        axis.axhline(_psi(rival), color=palette[_COLOURS["rival"]], linestyle="--", linewidth=1)
    axis.set_xscale("log")
    plain_log_ticks(axis.xaxis)
    axis.set(xlabel="gradients of the training loss", ylabel="Ψ")
    explain_beside(figure, *axis.get_legend_handles_labels())
    figure.draw_without_rendering()  # until then nobody knows which marks lie on each other
    places = axis.transData.transform([(taken[s.row], _psi(s)) for s in cheapest_first])
    for near in _near(places * 72 / figure.dpi):
        score = cheapest_first[near[0]]
        axis.annotate(
            ", ".join(str(k + 1) for k in near),
            (taken[score.row], _psi(score)),
            (6, 4),
            textcoords="offset points",
            fontsize=9,
        )
    return figure


def _near(places: np.ndarray) -> list[list[int]]:
    """The numbers of marks, those together whose own would lie on each other: ``places`` (N, 2) in points."""
    found: list[list[int]] = []
    for k, place in enumerate(places):
        for others in found:
            if (np.abs(places[others[0]] - place) < (12, 9)).all():
                others.append(k)
                break
        else:
            found.append([k])
    return found


def _ranked(rows: Sequence[Score]) -> list[Score]:
    """Rival, metrics and controls by falling Ψ."""
    asked = [s for s in rows if s.kind in {"rival", "metric", "control"} and s.mean]
    return sorted(asked, key=_psi, reverse=True)


def joined(ranked: Sequence[Score]) -> list[tuple[int, int]]:
    """The longest runs of neighbours, first and last, of which no two are told apart; of two at least."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranked)):
        last = first
        while last + 1 < len(ranked) and not any(
            ranked[last + 1].row in s.apart for s in ranked[first : last + 1]
        ):
            last += 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _groups_figure(ranked: Sequence[Score]) -> Figure:
    """Ψ of each figure, and beside it the runs that are not told apart."""
    groups = joined(ranked)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.5, 1.5 + 0.24 * len(ranked)), sharey=True,
        width_ratios=[5, max(0.6, 0.22 * len(groups))],
    )  # fmt: skip
    palette = sns.color_palette("colorblind")
    for place, score in enumerate(ranked):
        _mark(left, place, score.mean, palette[_COLOURS[score.kind]])
    left.axvline(0, color="grey", linestyle="--", linewidth=0.8)
    left.set(xlabel="Ψ", xlim=(-1.05, 1.05))
    left.set_yticks(range(len(ranked)), [s.row for s in ranked])
    left.grid(axis="y", linewidth=0.3)
    left.set_ylim(len(ranked) - 0.4, -0.6)
    for column, (first, last) in enumerate(groups):
        right.plot([column, column], [first - 0.2, last + 0.2], color="0.35", linewidth=2.5)
    right.set(xlim=(-0.7, len(groups) - 0.3), xticks=[], xlabel="not told\napart")
    _explained(figure, ranked)
    right.tick_params(axis="y", length=0)
    for side in right.spines.values():
        side.set_visible(False)
    return figure


def _psi(score: Score) -> float:
    return score.mean.value if score.mean else float("nan")


def _axes_figure(names: Sequence[str], rows: list[Score]) -> Figure:
    """ψ of each figure (rows) by axis, and Ψ beside it."""
    shown = [s for s in rows if any(s.axes)]
    # On an axis along which no two networks differ in that setting alone nothing is told.
    told = [j for j in range(len(names)) if any(s.axes[j] is not None for s in shown)]
    axes = [*(names[j] for j in told), "", "mean Ψ"]
    values = np.full((len(shown), len(axes)), np.nan)
    for i, score in enumerate(shown):
        for j, one in enumerate([*(score.axes[j] for j in told), None, score.mean]):
            if one is not None:
                values[i, j] = one.value
    marks = np.array(
        [[fixed(v, 2, sign=True) if np.isfinite(v) else "" for v in r] for r in values]
    )
    figure, axis = plt.subplots(figsize=(4.2 + 0.8 * len(axes), 1.4 + 0.3 * len(shown)))
    sns.heatmap(
        values, ax=axis, annot=marks, fmt="", cmap=DIVERGING, vmin=-1, vmax=1, linewidths=0.5,
        linecolor="none", annot_kws={"size": 9}, cbar_kws={"label": "Kendall's τ"},
        xticklabels=axes, yticklabels=[s.row for s in shown],
    )  # fmt: skip
    axis.grid(visible=False)  # it would show in the empty column
    axis.tick_params(axis="x", rotation=30, length=0)
    axis.tick_params(axis="y", rotation=0, length=0)
    return figure
