"""Predicts generalization? Every metric scored over the grid of a suite's networks, beside its rivals.

A suite whose networks vary along three or more parameters is a population; the parameters that vary are its
axes, as the records tell them. Each figure is scored against each target by `prediction_scores`, as are the
target itself with noise (oracles), a prediction from the hyperparameters alone (the rival) and figures that
should fail (controls).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.numbers import number
from sharpbench.analysis.prediction_scores.beyond_hyperparameters import (
    Increment,
    from_hyperparameters,
    increment,
    noisy_oracle,
)
from sharpbench.analysis.prediction_scores.choice import Choice, choice, random_choice
from sharpbench.analysis.prediction_scores.conditional_information import conditional_information
from sharpbench.analysis.prediction_scores.granulated_tau import (
    difference_of_tau,
    granulated_tau,
    told_apart,
)
from sharpbench.analysis.prediction_scores.population import Population, Tested
from sharpbench.analysis.prediction_scores.sign_error import (
    Confidence,
    Environments,
    SignError,
    environments,
    independent_confidence,
    paired_confidence,
    sign_error,
)
from sharpbench.analysis.rank_correlation import benjamini_hochberg, holm
from sharpbench.analysis.results import SEED_COLUMNS, Results, computed_once, seeds, stratum
from sharpbench.analysis.statistics import LEVEL, Estimate, exactly
from sharpbench.evaluation.outcomes import Outcomes

__all__ = ["GRID_TARGETS", "Grid", "Score", "grid", "scores", "scores_of", "work"]

GRID_TARGETS = ("test_error", "test_loss", "gap", "loss_gap", "ece_debiased", "brier_score",
                "corrupted_error", "adversarial_error")  # fmt: skip
"""What a figure is asked to rank; larger is worse in each."""

_FEWEST_AXES, _FEWEST_NETWORKS, _FEWEST_SEEDS = 3, 24, 3
_LADDER = (0.0, 0.5, 1.0, 2.0)
_PARTS = ("dataset", "model", "recipe")
_CONTROLS = ("train_loss", "mean_confidence")
_ALONE = "no partners that differ in one setting alone, on three axes"
_ROUNDING = 1e-4
"""Part of a stated loss by which float32 misses it."""


@dataclass(frozen=True)
class Grid:
    """The networks of a suite by their settings.

    ``subjects``: their keys; ``levels``: of each axis what its values are called; ``dropped``: how many
    networks were left out, by reason; ``stopped``: whether all were trained to a stated loss.
    """

    population: Population
    subjects: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    dropped: dict[str, int]
    stopped: bool = False

    def step(self, axis: int, low: int, high: int) -> str:
        """``the lr changes from 0.01 to 0.1``."""
        names = self.levels[axis]
        return f"the {self.population.axes[axis]} changes from {names[low]} to {names[high]}"


@dataclass(frozen=True)
class Score:
    """How well one figure predicts one target.

    Attributes
    ----------
    row: what is scored.
    kind: oracle, rival (the hyperparameters alone), metric, control, or chance (a figure that knows nothing).
    axes: ψ of each axis; mean: Ψ; information: K; choice: regret and hits.
    error: the sign error, with the worst environment in words as ``worst``.
    added: what the figure adds to the hyperparameters; that of an oracle tells what can be seen at all.
    beyond: Ψ less that of the hyperparameters alone.
    tied: whether Ψ can't be told from that of the metric with the largest, if that has a star; else it is the
        largest by chance, and nothing is tied with it.
    apart: the rows of metrics, controls and rival whose Ψ is told apart from this one's, of all pairs.
    """

    row: str
    kind: str
    target: str
    axes: tuple[Estimate | None, ...]
    mean: Tested | None
    information: Estimate | None
    error: SignError | None
    worst: str
    added: Increment | None
    choice: Choice | None
    beyond: Tested | None = None
    tied: bool = False
    apart: frozenset[str] = frozenset()


# --- the grid -----------------------------------------------------------------------------------


@computed_once
def grid(results: Results) -> Grid | None:
    """The population of a suite; None for fewer than three axes, 24 networks or three data seeds.

    A network belongs to it if along each of three axes another one differs from it in that setting alone.

    Left out are networks that did not get down to the training loss at which they were to stop: sharper and
    flatter ones are compared at equal loss alone.
    """
    rows = results.evaluated
    if rows.empty:
        return None
    columns = ["subject", "dataset_short", "model_short", "seed", *SEED_COLUMNS, *_PARTS]
    columns += [c for c in rows.columns if c.startswith(tuple(f"{part}." for part in _PARTS))]
    networks = rows[[c for c in columns if c in rows.columns]].drop_duplicates("subject")
    networks = networks.reset_index(drop=True)
    untrained = results.of_kind("subject", columns=["status"])
    dropped = {
        str(status): int(count) for status, count in untrained["status"].value_counts().items()
    }
    if "recipe.stop_loss" in networks:
        loss = results.evaluations["train_loss"].reindex(networks["subject"]).to_numpy(float)
        asked = networks["recipe.stop_loss"].astype(float).to_numpy()
        missed = loss > asked * (1 + _ROUNDING)
        if missed.any():
            dropped["training loss not reached"] = int(missed.sum())
        networks = networks[~missed].reset_index(drop=True)
    while True:
        axes = _axes(networks)
        if len(axes) < _FEWEST_AXES or len(networks) < _FEWEST_NETWORKS:
            return None
        population = _population(networks, axes)
        if len(np.unique(population.seeds[:, 0])) < _FEWEST_SEEDS:
            return None
        # A suite may hold several experiments: what varies in one of them alone is no axis of a grid.
        alone = population.partners < _FEWEST_AXES
        if not alone.any():
            break
        dropped[_ALONE] = dropped.get(_ALONE, 0) + int(alone.sum())
        networks = networks[~alone].reset_index(drop=True)
    levels = tuple(names for _, names in axes.values())
    stopped = "recipe.stop_loss" in networks and bool(networks["recipe.stop_loss"].notna().all())
    return Grid(population, tuple(networks["subject"]), levels, dropped, stopped)


def _population(
    networks: pd.DataFrame, axes: dict[str, tuple[np.ndarray, tuple[str, ...]]]
) -> Population:
    data = networks["dataset_short"].astype(str) + " · " + networks["seed"].astype(str)
    return Population(
        tuple(axes),
        np.column_stack([codes for codes, _ in axes.values()]),
        seeds(networks),
        pd.factorize(stratum(networks))[0],
        pd.factorize(data)[0],
    )


def _axes(networks: pd.DataFrame) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """By name the codes (N,) and the levels of each parameter that varies; −1 where it does not apply.

    Of parameters that always vary together the first stands for all, the kind of data set, model or recipe
    before its parameters.
    """
    found: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
    own = [c for c in networks.columns if c.startswith(tuple(f"{part}." for part in _PARTS))]
    for column in [*_PARTS, *own]:
        codes, levels = _coded(networks, column)
        if codes.max(initial=-1) < 1:
            continue
        if any(_alike(codes, other) for other, _ in found.values()):
            continue
        name = column.rpartition(".")[2].replace("_", " ")
        name = f"{column.partition('.')[0]} {name}" if name in found else name
        found[name] = codes, levels
    return found


def _coded(networks: pd.DataFrame, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    values = [_plain(v) for v in networks[column]]
    part = column.partition(".")[0]
    # A parameter that others of its kind have is there and not set; else it does not apply.
    having = {kind for kind, v in zip(networks[part], values, strict=True) if v is not None}
    texts = [
        (v if v is not None else "none") if kind in having else None
        for kind, v in zip(networks[part], values, strict=True)
    ]
    distinct = {v for v in texts if v is not None}
    order = sorted(distinct, key=lambda v: (isinstance(v, str), v if isinstance(v, str) else 0, v))
    place = {v: i for i, v in enumerate(order)}
    codes = np.array([-1 if v is None else place[v] for v in texts], dtype=np.intp)
    return codes, tuple(v if isinstance(v, str) else number(v, 6) for v in order)


def _plain(value: Any) -> float | str | None:
    """A parameter's value as a number or a text; None where it is missing."""
    if isinstance(value, (list, tuple)):
        return "-".join(str(_plain(v)) for v in value)
    if isinstance(value, (bool, np.bool_)):
        return "on" if value else "off"
    if isinstance(value, (int, float, np.integer, np.floating)):
        return None if math.isnan(value) else float(value)
    return None if value is None or value is pd.NA else str(value)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two axes tell the same networks apart."""
    pairs = len(np.unique(np.column_stack([a, b]), axis=0))
    return pairs == len(np.unique(a)) == len(np.unique(b))


# --- the scores ---------------------------------------------------------------------------------


@computed_once
def scores(results: Results) -> list[Score]:
    """Every figure against every target: oracles, the rival, the metrics and controls by falling Ψ."""
    found = grid(results)
    if found is None:
        return []
    subjects = list(found.subjects)
    judged = results.evaluations.reindex(subjects)
    errors = results.evaluated.pivot_table(
        index="subject", columns="name", values="standard_error", observed=True
    ).reindex(subjects)
    measured = results.measured
    figures: dict[str, tuple[str, np.ndarray]] = {}
    for name, group in measured.groupby("metric_short", sort=False, observed=True):
        values = group.drop_duplicates("subject").set_index("subject")["value"].reindex(subjects)
        of_outputs = "space" in group and (group["space"] == "function").all()
        kind = "control" if of_outputs else "metric"
        figures[str(name)] = kind, values.to_numpy(float)
    for name in _CONTROLS:
        if name in judged:
            figures[results.title(name)] = "control", judged[name].to_numpy(float)
    sizes = results.frame.drop_duplicates("subject").set_index("subject")
    if "network_parameters" in sizes:
        count = sizes["network_parameters"].reindex(subjects).astype(float)
        figures["number of parameters"] = "control", count.to_numpy()
    confidence = _confidence(results, found, judged, errors)
    figures |= {name: ("control", x) for name, x in _along_training(results, subjects).items()}
    # A control that is the same everywhere, as of networks of equal size, controls nothing.
    figures = {
        name: (kind, x) for name, (kind, x) in figures.items() if kind == "metric" or _varies(x)
    }
    targets = {
        name: judged[name].to_numpy(float)
        for name in GRID_TARGETS
        if name in judged and judged[name].max() > judged[name].min()
    }
    return scores_of(found, figures, targets, confidence)


def _varies(x: np.ndarray) -> bool:
    told = x[np.isfinite(x)]
    return bool(len(told) and told.max() > told.min())


def _along_training(results: Results, subjects: list[str]) -> dict[str, np.ndarray]:
    """What the log of a training tells by itself, (N,) each: how many epochs it took (Jiang et al. 2019, the
    steps to a stated loss), and the variance of the steps of ln(training loss) from epoch to epoch."""
    log = results.of_kind("training")
    log = log[(log["name"] == "train_loss") & (log["value"] > 0)]
    if log.empty:
        return {}
    losses = log.pivot_table(index="subject", columns="epoch", values="value", observed=True)
    losses = losses.reindex(index=subjects, columns=sorted(losses.columns))
    steps = np.diff(np.log(losses.to_numpy(float)), axis=1)
    several = np.isfinite(steps).sum(1) > 1
    variance = np.full(len(subjects), math.nan)
    variance[several] = np.nanvar(steps[several], axis=1, ddof=1)
    counted = losses.notna().sum(axis=1)
    epochs = counted.where(counted > 0).to_numpy(float)
    return {"epochs of training": epochs, "variance of the loss along training": variance}


@computed_once
def work(results: Results) -> dict[str, float]:
    """By metric what it takes, the median in passes forwards and backwards over the training data."""
    rows = results.measured
    rows = (
        rows[rows["gradient_equivalents"].notna()] if "gradient_equivalents" in rows else rows[:0]
    )
    grouped = rows.groupby("metric_short", observed=True)
    if not len(rows):
        return {}
    median = grouped["gradient_equivalents"].median()
    return {str(name): float(value) for name, value in median.items() if value > 0}


def _confidence(
    results: Results, found: Grid, judged: pd.DataFrame, errors: pd.DataFrame
) -> dict[str, Confidence]:
    """How sure differences in each target are: from the outcomes on each test point where they are stored."""
    count = len(found.subjects)
    stored: list[Outcomes | None] = [None] * count
    place = {subject: i for i, subject in enumerate(found.subjects)}
    rows = results.of_kind("outcomes", columns=["subject", "details"])
    for subject, details in zip(rows["subject"], rows.get("details", ()), strict=True):
        if subject in place:
            stored[place[subject]] = Outcomes.unpacked(details)
    same = [o.points if o and o.wrong is not None else None for o in stored]
    longest = max((len(o.loss) for o in stored if o), default=0)
    wrong = np.zeros(
        (count, longest), bool
    )  # shorter rows end in zeros, those of equal points alike
    for row, one in zip(wrong, stored, strict=True):
        if one and one.wrong is not None:
            row[: len(one.wrong)] = one.wrong
    points = pd.factorize(np.array(same, dtype=object))[0]
    told: dict[str, Confidence] = {}
    for name in GRID_TARGETS:
        if name not in judged:
            continue
        y = judged[name].to_numpy(float)
        error = errors[name].to_numpy(float) if name in errors else np.full(count, np.nan)
        told[name] = independent_confidence(y, error)
        if name == "test_error":
            told[name] = paired_confidence(wrong, points, y, error)
        elif name == "gap" and "train_error" in judged:
            # Of equal training errors the gaps differ as the test errors do.
            alike = pd.factorize(judged["train_error"])[0] + points * (count + 1)
            told[name] = paired_confidence(wrong, np.where(points < 0, -1, alike), y, error)
    return told


def scores_of(
    found: Grid,
    figures: dict[str, tuple[str, np.ndarray]],
    targets: dict[str, np.ndarray],
    confidence: dict[str, Confidence],
) -> list[Score]:
    """The scores of ``figures``, kind and values (N,) by name, against each of the ``targets`` (N,).

    p is adjusted over all figures and targets.
    """
    told = []
    for target, y in targets.items():
        apart = environments(found.population, confidence[target])
        ladder = [
            _score(found, f"target + {number(size)} sd of noise" if size else "target itself",
                   "oracle", target, noisy_oracle(found.population, y, size), y, apart)
            for size in _LADDER
        ]  # fmt: skip
        ladder[0] = _exact(ladder[0])
        told += ladder
        rival = from_hyperparameters(found.population, y)
        ranking = {row: x for row, (_, x) in figures.items() if _varies(x)}
        others = {"hyperparameters alone": rival, **ranking}
        differ = told_apart(found.population, others, y)
        one = _score(found, "hyperparameters alone", "rival", target, rival, y, apart)
        told.append(dataclasses.replace(one, apart=differ[one.row]))
        asked = []
        for row, (kind, x) in figures.items():
            one = _score(found, row, kind, target, x, y, apart)
            beyond = difference_of_tau(found.population, x, rival, y) if one.mean else None
            asked.append(
                dataclasses.replace(one, beyond=beyond, apart=differ.get(row, frozenset()))
            )
        told += _with_ties(found, asked, figures, y)
        if (chance := random_choice(found.population, y)) is not None:
            drawn = Choice(*(exactly(v) for v in chance))
            nothing = Tested(0.0, 0.0, 0.0, found.population.size, p=1.0, adjusted=1.0)
            told.append(
                Score("a random figure", "chance", target, (None,) * len(found.levels), nothing,
                      None, None, "", None, drawn)
            )  # fmt: skip
    return _adjusted(told)


def _exact(oracle: Score) -> Score:
    """The target itself, whose scores are what they are by definition, for any other seeds, too."""
    mean, known, error, picked = oracle.mean, oracle.information, oracle.error, oracle.choice
    added = oracle.added
    return dataclasses.replace(
        oracle,
        # Below 1 where networks tie: no figure gets more.
        mean=mean
        and dataclasses.replace(mean, low=mean.value, high=mean.value, p=0.0, adjusted=0.0),
        information=known and exactly(known.value, known.n),
        error=error and dataclasses.replace(error, mean=exactly(error.mean.value, error.mean.n)),
        choice=picked and Choice(*(exactly(v.value, v.n) for v in (picked.regret, picked.hits))),
        added=added and dataclasses.replace(added, share=exactly(added.share.value, added.share.n)),
    )


def _score(
    found: Grid, row: str, kind: str, target: str, x: np.ndarray, y: np.ndarray, apart: Environments
) -> Score:
    population = found.population
    axes, mean = granulated_tau(population, x, y)
    error = sign_error(population, apart, x, y)
    worst = ""
    if error is not None:
        step = (int(part[error.where]) for part in (apart.axis, apart.low, apart.high))
        worst = found.step(*step)
    added = increment(population, x, y) if kind != "rival" else None
    information = conditional_information(population, x, y)
    picked = choice(population, x, y)
    return Score(row, kind, target, tuple(axes), mean, information, error, worst, added, picked)


def _with_ties(
    found: Grid, asked: list[Score], figures: dict[str, tuple[str, np.ndarray]], y: np.ndarray
) -> list[Score]:
    """By falling Ψ, those marked that can't be told from the metric with the largest."""
    asked = sorted(asked, key=lambda s: -s.mean.value if s.mean else math.inf)
    metrics = [s for s in asked if s.kind == "metric" and s.mean]
    if not metrics:
        return asked
    best = metrics[0].row
    others = [s.row for s in asked if s.mean and s.row != best]
    apart = [
        difference_of_tau(found.population, figures[best][1], figures[other][1], y)
        for other in others
    ]
    p = holm(np.array([a.p if a else 1.0 for a in apart]))
    tied = {best} | {row for row, each in zip(others, p, strict=True) if each > LEVEL}
    return [dataclasses.replace(s, tied=s.row in tied) for s in asked]


def _adjusted(told: list[Score]) -> list[Score]:
    """With the p of every figure and target adjusted for all of them, and no ties with what has no star."""
    asked = [i for i, s in enumerate(told) if s.kind in {"metric", "control"}]
    for field in ("mean", "added", "beyond"):
        there = [i for i in asked if getattr(told[i], field)]
        p = np.array([getattr(told[i], field).p for i in there])
        for i, adjusted, q in zip(there, holm(p), benjamini_hochberg(p), strict=True):
            found = dataclasses.replace(
                getattr(told[i], field), adjusted=float(adjusted), q=float(q)
            )
            told[i] = dataclasses.replace(told[i], **{field: found})
    best: dict[str, Score] = {}
    for score in (s for s in told if s.kind == "metric" and s.mean):
        best.setdefault(score.target, score)
    without = {target for target, s in best.items() if s.mean and not s.mean.stars}
    return [dataclasses.replace(s, tied=s.tied and s.target not in without) for s in told]
