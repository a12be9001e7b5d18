"""Which metric can be trusted? Every metric against the four questions, each verdict with its figure.

Nothing is estimated here: the verdicts are those of the tables of each question, brought together by metric
and implementation.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from sharpbench.analysis.calibration import WIDE, stated_errors
from sharpbench.analysis.correctness import implementation_agreement
from sharpbench.analysis.failures import outcomes_of
from sharpbench.analysis.generalization import scores
from sharpbench.analysis.invariance import changes, invariance_matrix
from sharpbench.analysis.numbers import count, fixed
from sharpbench.analysis.prediction import TARGETS, associations
from sharpbench.analysis.problems import checked, solved
from sharpbench.analysis.rank_correlation import FEWEST
from sharpbench.analysis.results import Results, computed_once, seeds
from sharpbench.analysis.retest import noise_ceilings
from sharpbench.analysis.statistics import LEVEL, Estimate, binomial_interval
from sharpbench.suite.spec import known_suites

__all__ = ["QUESTIONS", "Cell", "Entry", "scorecard", "suites_that_ask"]

QUESTIONS = ("right", "invariant", "predictive", "costly")

_SUITES = {
    "right": ("hessian_ground_truth", "lambda_ground_truth", "calibration"),
    "invariant": ("invariance", "quick"),
    "predictive": ("generalization_quick", "quick"),
    "costly": ("cost", "quick"),
}
"""Shipped suites that answer each question, the one to try first first."""

_NATIVE = "native"
_MEASURED = ("measurement", "problem", "calibration")
_KEY = ["name", "implementation"]
_NEEDED = ("kind", "name", "label", "metric_short", "parameters", "status", "reason", "subject",
           "transformation", "gradient_equivalents", "version", "metric_source")  # fmt: skip

_Key = tuple[str, str]
"""A metric's name and its implementation."""


@dataclass(frozen=True)
class Cell:
    """One question's verdict on one implementation of a metric.

    Attributes
    ----------
    word: the verdict; empty where the suite does not answer the question.
    value, low, high: the figure with its interval (of work its range over the networks); NaN where there is
        none.
    measure: what the figure is: ``share`` of checks that hold, ``difference`` from another implementation,
        ``transformations`` that leave the metric where it was (a share), ``psi`` or ``tau`` with the target,
        ``gradients``.
    n: how many ``counted`` it is of.
    parts: how many of them hold, where the figure is a share.
    told: what else there is to say: where it went wrong, of which setting the figure is.
    evidence: the section of the report that shows it.
    tied: not told apart from the best of all metrics, which has a verdict: the intervals overlap, or the
        scores say so; of a share of transformations that it is the same.
    networks: on how many the worst of the changes was tried, where the figure is a share of them.
    """

    word: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    measure: str = ""
    n: int = 0
    counted: str = ""
    parts: int = 0
    told: tuple[str, ...] = ()
    evidence: str = ""
    tied: bool = False
    networks: int = 0


@dataclass(frozen=True)
class Entry:
    """One implementation of a metric.

    ``version``: the metric's, as text, with the first digits of its file's hash where it comes from a user's
    own; ``settings``: in how many ways it was asked; ``cells``: by question; ``figures``: how many were
    *measured, not applicable, not installed, failed, timed out*; ``reasons``: of those that were not
    measured, each once.
    """

    name: str
    title: str
    implementation: str
    version: str
    settings: int
    cells: Mapping[str, Cell]
    figures: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@computed_once
def scorecard(results: Results) -> list[Entry]:
    """Every metric of a suite by its title, the implementations of one together, the native first.

    The rules:

    - right: ``wrong`` if at least half of the answers to one problem are wrong (`problems.checked`) or more
      than 5% of the stated errors and claims do not hold (`calibration.stated_errors`); else ``no limit`` if
      what it estimates has none on some problem; else ``can't tell`` if more than 5% of the checks are open
      (an answer that can't tell, or half of them right by errors with which 0 would be right, too), else
      ``right``.
      Without known answers implementations are compared: they agree ``within errors`` if no more than 5%
      of the networks differ by more than these explain (without errors: if none differs by more than 1%),
      else they ``differ``, or one ``can't tell`` without errors.
    - invariant: under the changes that keep the function `invariance_matrix` says of each; the worst
      stands: ``moves``, ``mixed``, ``can't tell``, ``invariant``.
    - predictive: ``predicts`` or ``ranks backwards`` if the rank correlation differs from 0: Ψ with a star of
      the `scores` where the networks are a grid, else τ within equal data and model, over seeds and recipes
      (`rank_correlation.exchanged`), after Holm's adjustment; of several settings the clearest. How alike it
      ranks the networks when it is asked of them again (`noise_ceilings`) is told beside it.
    - costly: the median work in gradients by its power of ten; ``not counted`` where none was.
    """
    rows = results.of_kind(*_MEASURED, columns=_NEEDED)
    rows = rows[rows["name"].notna() & rows["metric_short"].notna()]
    if rows.empty:
        return []
    implementations = rows["parameters"].map(_implementation)
    rows = rows.drop(columns="parameters").assign(implementation=implementations)
    one = rows.drop_duplicates(["kind", "metric_short"], keep="last")
    short = {
        (kind, metric): (name, implementation)
        for kind, metric, name, implementation in one[["kind", "metric_short", *_KEY]].itertuples(
            index=False
        )
    }
    by_question: dict[str, dict[_Key, Cell]] = {
        "right": _right(results, short),
        "invariant": _invariant(results, short),
        "predictive": _predictive(results, short),
        "costly": _costly(results, rows),
    }
    found = []
    for (name, implementation), own in rows.groupby(_KEY, sort=False):
        outcomes = outcomes_of(own)
        figures = {str(word): int(count) for word, count in outcomes.value_counts().items()}
        if "measured" in figures:
            key = name, implementation
            cells = {q: by_question[q].get(key, Cell()) for q in QUESTIONS}
        else:
            cells = dict.fromkeys(QUESTIONS, Cell(next(iter(figures)), evidence="failed"))
        missing = own.loc[own["status"] != "ok", "reason"].dropna()
        found.append(
            Entry(
                name=name,
                title=results.title(name),
                implementation=implementation,
                version=_version(own),
                settings=int(own.groupby("kind")["label"].nunique().max()),
                cells=cells,
                figures=figures,
                reasons=tuple(dict.fromkeys(missing)),
            )
        )
    found.sort(
        key=lambda e: (e.title.casefold(), e.name, e.implementation != _NATIVE, e.implementation)
    )
    return _with_ties(found)


def suites_that_ask(question: str, metric: str, but: str = "") -> tuple[str, bool]:
    """The shipped suite that answers ``question``, another one than ``but``, and whether it measures
    ``metric`` as it stands."""
    names = [name for name in _SUITES[question] if name != but]
    for name in names:
        if metric in _metrics_in(name):
            return name, True
    return names[0], False


@functools.cache
def _metrics_in(suite: str) -> frozenset[str]:
    """The names of the metrics that a shipped suite asks for, of networks and of problems; none of one that
    does not come with this installation."""
    path = known_suites().get(suite)
    if path is None:
        return frozenset()
    spec = tomllib.loads(path.read_text("utf-8"))
    found: set[str] = set()
    for block in (spec, *spec.get("problems", ())):
        asked = block.get("metrics", ())
        found |= {m["name"] for m in ([asked] if isinstance(asked, dict) else asked)}
    return frozenset(found)


def _version(rows: pd.DataFrame) -> str:
    """What tells a metric's figures from those of another version; several are all told, none is empty."""
    if "version" not in rows:
        return ""
    columns = [name for name in ("version", "metric_source") if name in rows]
    if not columns:
        return ""
    each = []
    for row in rows[columns].drop_duplicates().to_dict("records"):
        source = row.get("metric_source")
        each.append(
            f"{row['version']:.0f}" + (f" ({source[:8]})" if isinstance(source, str) else "")
        )
    return " and ".join(sorted(each))


def _implementation(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("implementation", _NATIVE))


# --- right --------------------------------------------------------------------------------------


def _right(results: Results, short: Mapping[tuple[str, str], _Key]) -> dict[_Key, Cell]:
    checks: dict[_Key, list[tuple[str, str]]] = {}
    certain: dict[_Key, list[str]] = {}
    answers = checked(results)
    for (metric, problem), group in answers.groupby(["metric", "problem"], sort=False):
        key = short["problem", metric]
        wrong, open_, wide = (
            (group["verdict"] == v).sum() for v in ("wrong", "can't tell", "too wide")
        )
        untold = wrong or open_ or 2 * wide >= len(group)
        verdict = "wrong" if 2 * wrong >= len(group) else "can't tell" if untold else "right"
        checks.setdefault(key, []).append((verdict, problem))
        if verdict == "wrong":
            certain.setdefault(key, []).append(problem)
    stated: dict[_Key, list[str]] = {}
    for row in stated_errors(results).to_dict("records"):
        key = short["calibration", row["metric"]]
        for verdict in (row["verdict"], row["claim_verdict"]):
            if verdict in {"", "states none"}:
                continue
            told = "right" if verdict in {"holds", WIDE} else "can't tell"
            told = "wrong" if verdict in {"too small", "too many"} else told
            checks.setdefault(key, []).append((told, row["problem"]))
            stated.setdefault(key, []).append(told)
    without = _without_limit(results, short)
    found = {}
    for key, own in checks.items():
        verdicts = [v for v, _ in own]
        total, held = len(own), verdicts.count("right")
        low, high = binomial_interval(held, total)
        errors = stated.get(key, [])
        broken = errors.count("wrong") > LEVEL * len(errors)
        places = certain.get(key, []) + [p for v, p in own if v == "wrong" and broken]
        where = [f"wrong on {_some(places)}"] if places else []
        if not places and "can't tell" in verdicts:
            unclear = [problem for verdict, problem in own if verdict == "can't tell"]
            where = [f"open on {_some(unclear)}"]
        word = "can't tell" if verdicts.count("can't tell") > LEVEL * total else "right"
        word = "wrong" if places else "no limit" if key in without else word
        found[key] = Cell(
            word,
            held / total,
            low,
            high,
            "share",
            total,
            "checks",
            held,
            (*where, *without.get(key, [])),
            evidence="right",
        )
    return _compared(results, short) | found


def _some(places: Iterable[str], most: int = 2) -> str:
    """The first of what is listed, each once, and how many more there are."""
    each = list(dict.fromkeys(places))
    more = f" and {len(each) - most} more" if len(each) > most else ""
    return ", ".join(each[:most]) + more


def _without_limit(
    results: Results, short: Mapping[tuple[str, str], _Key]
) -> dict[_Key, list[str]]:
    """Of metrics that estimate a limit, on how many functions there is none, by definition."""
    rows = solved(results) if "problem" in results.kinds else pd.DataFrame()
    if rows.empty:
        return {}
    diverges = rows["diverges"].notna()
    rows = rows.assign(key=[short["problem", m] for m in rows["metric_short"]], diverges=diverges)
    rows = rows[diverges | rows["limit"].notna()]
    found: dict[_Key, list[str]] = {}
    for (key, definition), own in rows.groupby(["key", "normalization"], sort=False):
        each = own.groupby("function")["diverges"].any()
        if each.any():
            which = "raw" if definition == "none" else definition
            found.setdefault(key, []).append(
                f"{which}: no limit on {int(each.sum())} of {len(each)} functions"
            )
    return found


def _compared(results: Results, short: Mapping[tuple[str, str], _Key]) -> dict[_Key, Cell]:
    """Implementations against each other, where no answer is known."""
    found: dict[_Key, Cell] = {}
    for row in implementation_agreement(results).to_dict("records"):
        keys = [short["measurement", row[side]] for side in ("a", "b")]
        told = not math.isnan(row["beyond_3_errors"])
        apart = row["beyond_3_errors"] > LEVEL if told else row["largest_difference"] > _CLOSE
        word = "within errors" if not apart else "differ" if told else "can't tell"
        for key, other in (keys, keys[::-1]):
            cell = Cell(
                word,
                row["median_difference"],
                high=row["largest_difference"],
                measure="difference",
                n=row["n"],
                counted="networks",
                told=(f"against {other[1]}; no answer is known here",),
                evidence="right",
            )
            before = found.get(key)
            if before is None or _ORDER.index(word) < _ORDER.index(before.word):
                found[key] = cell
    return found


_CLOSE = 0.01
"""Part of a figure by which implementations that state no error may differ and still agree."""

_ORDER = ("differ", "can't tell", "within errors")


# --- invariant ----------------------------------------------------------------------------------

_WORST = ("moves", "mixed", "can't tell", "equivariant", "invariant")


def _invariant(results: Results, short: Mapping[tuple[str, str], _Key]) -> dict[_Key, Cell]:
    matrix = invariance_matrix(results)
    if matrix.empty:
        return {}
    kept = changes(results).groupby("transformation")["keeps_function"].all()
    rows = matrix[matrix["transformation"].isin(kept.index[kept]) & (matrix["n"] > 0)]
    rows = rows.assign(key=[short["measurement", m] for m in rows["metric"]])
    found = {}
    for key, own in rows.groupby("key", sort=False):
        place = own["verdict"].map(_WORST.index)
        # Of equal verdicts the change that moves it furthest speaks for all.
        worst = own[place == place.min()].sort_values("median_change", ascending=False).iloc[0]
        stays = int(own["verdict"].isin(["equivariant", "invariant"]).sum())
        name = results.change(str(worst["transformation"]))
        if worst["verdict"] in {"equivariant", "invariant"}:
            low, high = float(own["lowest_ratio"].min()), float(own["highest_ratio"].max())
            told, word = "after/before", "invariant"
            if (own["verdict"] == "equivariant").any():
                told = "after/before, as theory predicts"
        else:
            low, high = worst["lowest_ratio"], worst["highest_ratio"]
            told, word = name, worst["verdict"]
        broken = own.loc[own["disagrees"] == "promise broken", "transformation"]
        more = (f"promised not to: {_some(map(results.change, broken))}",) if len(broken) else ()
        found[key] = Cell(
            word, stays / len(own), low, high, "transformations", len(own), "changes", stays,
            (told, *more), "invariant", networks=int(worst["n"]),
        )  # fmt: skip
    return found


# --- predictive ---------------------------------------------------------------------------------


def _predictive(results: Results, short: Mapping[tuple[str, str], _Key]) -> dict[_Key, Cell]:
    asked: list[tuple[_Key, Cell]] = []
    of_grid = [s for s in scores(results) if ("measurement", s.row) in short]
    if of_grid:
        target = of_grid[0].target
        for score in (s for s in of_grid if s.target == target):
            if score.mean is None:
                alike = "the same for all networks that differ in one setting alone"
                none = Cell("can't tell", told=(alike,), evidence="generalization")
                asked.append((short["measurement", score.row], none))
                continue
            more = []
            if score.beyond and score.beyond.stars and score.beyond.value > 0:
                more = ["ranks better than the hyperparameters alone"]
            elif score.mean.stars and score.mean.value > 0:
                more = ["not shown to rank better than the hyperparameters alone"]
            cell = _ranked(score.mean, bool(score.mean.stars), "psi", "generalization")
            told = (results.title(target), *more, *_ceiling(results, score.row))
            asked.append(
                (short["measurement", score.row], replace(cell, told=told, tied=score.tied))
            )
    else:
        table = associations(results)
        targets = [t for t in TARGETS if t in set(table["target"])][:1]
        measured = results.measured.drop_duplicates("subject")
        for row in table[table["target"].isin(targets)].to_dict("records"):
            key = short["measurement", row["metric"]]
            if (within := row["within"]) is not None:
                cell = _ranked(within, within.clear, "tau", "predictive")
                more = ["reverses when pooled"] if row["simpson"] else []
                if not within.clear and within.low * within.high > 0:
                    more.append("as often by chance in recipes and seeds, or in so many metrics")
                told = (row["target_title"], *more)
                asked.append((key, replace(cell, told=told + _ceiling(results, row["metric"]))))
            else:
                few = f"fewer than {FEWEST} networks or two seeds that differ in it"
                if len(measured) >= FEWEST and len(set(seeds(measured)[:, 0])) == 1:
                    few = "one seed of the data, and an interval is taken over several of them"
                asked.append((key, Cell("can't tell", told=(few,), evidence="predictive")))
    found = {}
    for key in dict.fromkeys(key for key, _ in asked):
        own = [cell for k, cell in asked if k == key]
        clearest = max(own, key=lambda c: (c.word != "can't tell", c.n > 0, abs(c.value)))
        words = {c.word for c in own} - {"can't tell"}
        if len(own) > 1:
            told = (*clearest.told, f"the clearest of {len(own)} settings")
            clearest = replace(
                clearest, told=told, word="mixed" if len(words) > 1 else clearest.word
            )
        found[key] = clearest
    return found


def _ceiling(results: Results, metric: str) -> tuple[str, ...]:
    """How alike a metric ranks the networks when it is asked twice, where that is known."""
    found = noise_ceilings(results).get(metric)
    if found is None:
        return ()
    return (f"noise ceiling τ {fixed(found.value, 2, sign=True)}, n = {count(found.n)}",)


def _ranked(found: Estimate, clear: bool, measure: str, evidence: str) -> Cell:
    word = "can't tell" if not clear else "predicts" if found.value > 0 else "ranks backwards"
    return Cell(
        word, found.value, found.low, found.high, measure, found.n, "networks", evidence=evidence
    )


# --- costly -------------------------------------------------------------------------------------

_DECADES = ("up to 10", "up to 100", "up to 1,000", "more than 1,000")


def _costly(results: Results, rows: pd.DataFrame) -> dict[_Key, Cell]:
    """Work in gradients, of trained networks where there are some."""
    # Problems of which nothing is known are there for their cost.
    of_problems = "right" if len(checked(results)) or len(stated_errors(results)) else "growth"
    rows = rows[(rows["status"] == "ok") & rows["transformation"].isna()]
    found = {}
    for key, own in rows.groupby(_KEY, sort=False):
        of_networks = own[own["kind"] == "measurement"]
        own = of_networks if len(of_networks) else own
        work = own.get("gradient_equivalents", pd.Series(dtype=float)).astype(float)
        work = work[work > 0]
        n, counted = own["subject"].nunique(), "networks" if len(of_networks) else "problems"
        if work.empty:
            found[key] = Cell("not counted", n=n, counted=counted)
            continue
        median = float(work.median())
        decade = min(max(math.ceil(math.log10(median)), 1), len(_DECADES)) - 1
        evidence = "costly" if len(of_networks) else of_problems
        found[key] = Cell(
            _DECADES[decade], median, float(work.min()), float(work.max()), "gradients", n, counted,
            evidence=evidence,
        )  # fmt: skip
    return found


# --- ties ---------------------------------------------------------------------------------------


def _with_ties(entries: list[Entry]) -> list[Entry]:
    """Every cell that can't be told from the best of its column marked, where that are several; none where
    the largest figure itself can't tell: it is the best of nothing."""
    tied: dict[tuple[str, _Key], bool] = {}
    for question, measure, sign in _BEST:
        own = [
            ((question, (e.name, e.implementation)), c)
            for e in entries
            if (c := e.cells[question]).measure == measure
        ]
        if not own:
            continue
        best = max((c for _, c in own), key=lambda c: sign * c.value)
        if best.word == "can't tell":
            equal = []
        elif measure == "psi":
            equal = [place for place, c in own if c.tied]
        elif measure == "transformations":
            equal = [place for place, c in own if c.value == best.value]
        else:
            equal = [p for p, c in own if c.low <= best.high and best.low <= c.high]
        tied |= {place: len(equal) > 1 and place in equal for place, _ in own}
    return [
        replace(
            e,
            cells={
                q: replace(c, tied=tied.get((q, (e.name, e.implementation)), False))
                for q, c in e.cells.items()
            },
        )
        for e in entries
    ]


_BEST = (
    ("right", "share", 1),
    ("invariant", "transformations", 1),
    ("predictive", "psi", 1),
    ("predictive", "tau", 1),
    ("costly", "gradients", -1),
)
"""What is best in each column, by what its figures are."""
