"""One self-contained HTML page from the records of a suite."""

from __future__ import annotations

import base64
import datetime
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

import sharpbench
from sharpbench.analysis import (
    calibration,
    correctness,
    cost,
    invariance,
    prediction,
    problems,
    rate_fit,
    summary,
    trajectory,
)
from sharpbench.analysis.audit import Evidence, claims_table, with_first_rules
from sharpbench.analysis.estimates import Estimate
from sharpbench.analysis.frames import measured, stratum, with_short_names
from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.paper.claims import CLAIMS
from sharpbench.paper.evidence import SUITES as PAPER_SUITES
from sharpbench.paper.figures import figure_one
from sharpbench.paper.questions import QUESTIONS
from sharpbench.problems import problems as problem_registry
from sharpbench.registry import Registry
from sharpbench.report import figures, rate_figures
from sharpbench.report.format import figure as told
from sharpbench.report.svg import figure_style, to_svg
from sharpbench.results.store import ResultsStore, load_records

__all__ = ["write_report"]


@dataclass(frozen=True)
class _Picture:
    """A drawn figure with what a reader needs to read it."""

    name: str
    svg: Markup
    caption: str


def write_report(results: Path, suite: str, folder: Path) -> Path:
    """Write ``folder/index.html`` from the records of ``suite`` under ``results``; returns its path.

    The page asks nothing of any other host. Raises InputError if the suite has no results there.
    """
    store = ResultsStore(results)
    manifest = store.manifest(suite)
    titles = {**_titles(metrics), **_titles(problem_registry)}
    frame = with_short_names(load_records(results, suite=suite), titles)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            **_content(frame, manifest, store.documents("runs"), suite),
            **_paper(store, suite),
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    partial = path.with_suffix(".partial")
    partial.write_text(page, "utf-8")
    partial.replace(path)
    return path


def _content(
    frame: pd.DataFrame, manifest: dict[str, Any], runs: dict[str, dict[str, Any]], suite: str
) -> dict[str, Any]:
    spec = tomllib.loads(manifest["suite"])
    table = prediction.associations(frame) if _any_evaluated(frame) else _no_associations()
    costs = cost.cost_table(frame)
    swept = cost.sweeps(frame)
    growth = cost.scaling(swept)
    pairs = correctness.implementation_pairs(frame)
    agreement = correctness.implementation_agreement(pairs)
    matrix = invariance.invariance_matrix(frame)
    truths, others = problems.solved(frame), problems.accuracy(frame)
    covered = calibration.coverage(frame)
    networks = frame[frame["kind"] != "problem"]
    used = sorted(set(frame["run"].dropna())) if "run" in frame else []
    return {
        "title": spec.get("title") or suite,
        "description": spec.get("description", ""),
        "suite": suite,
        "suite_text": manifest["suite"],
        "version": sharpbench.__version__,
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "planned": len(manifest["subjects"]),
        "present": networks["subject"].nunique(),
        "figures_total": int(frame["kind"].isin(_FIGURE_KINDS).sum()),
        "findings": summary.findings(
            frame,
            agreement=agreement,
            matrix=matrix,
            associations=table,
            costs=costs,
            growth=growth,
            truths=problems.sentences(truths, others) + calibration.sentences(covered),
        ),
        "problems": summary.problems(frame).to_dict("records"),
        "unconverged": int((~measured(frame)["converged"].astype(bool)).sum()),
        "agreement": agreement.to_dict("records"),
        "definitions": problems.definitions(truths),
        "answers": _answers(truths),
        "accuracy": others.to_dict("records"),
        "coverage": covered.to_dict("records"),
        "stated_band": calibration.BAND,
        "traps": problems.traps(frame, _known_traps(frame)),
        "answered": int(frame["kind"].isin(["problem", "calibration"]).sum()),
        "matrix": matrix.to_dict("records"),
        "reachable": invariance.reachable(frame).to_dict("records"),
        "ranking": invariance.ranking_survival(frame).to_dict("records"),
        "matrix_metrics": list(dict.fromkeys(matrix["metric"])) if len(matrix) else [],
        "transformations": list(dict.fromkeys(matrix["transformation"])) if len(matrix) else [],
        "associations": table.to_dict("records"),
        "costs": costs.to_dict("records"),
        "scaling": growth.to_dict("records"),
        "device_ratios": cost.device_ratios(swept).to_dict("records"),
        **_metric_table(frame),
        "pictures": _pictures(frame, pairs, table, costs, truths, swept, covered),
        "runs": {name: runs[name] for name in used if name in runs},
        "last_run": runs.get(manifest["run"], {}),
        "css": _asset("report.css"),
        "script": _asset("report.js"),
        "icon": base64.b64encode(_asset("icon.svg").encode()).decode(),
    }


def _pictures(
    frame: pd.DataFrame,
    pairs: pd.DataFrame,
    associations: pd.DataFrame,
    costs: pd.DataFrame,
    truths: pd.DataFrame,
    swept: pd.DataFrame,
    covered: pd.DataFrame,
) -> dict[str, _Picture]:
    drawn: dict[str, _Picture] = {}

    def add(name: str, draw: Callable[[], Figure], caption: str) -> None:
        with figure_style():
            drawn[name] = _Picture(name, to_svg(draw(), name=name, alt=caption), caption)

    growth = problems.by_orders(truths)
    if len(growth):
        add(
            "growth",
            lambda: rate_figures.growth_figure(growth),
            "λ against the highest order fitted, from order 1 on. Dashed: the limit, where there is one "
            "(a line that never levels off has none). Dotted: order 4, where the paper stops.",
        )
    dimensions, errors = problems.by_dimension(truths), problems.estimation_error(truths)
    if len(dimensions) or len(errors):
        add(
            "estimation",
            lambda: rate_figures.estimation_figure(dimensions, errors),
            "One tanh unit in ever more dimensions under each law of directions (unit directions lose "
            "½ log d a order), and the root mean square error over seeds of λ against directions and "
            "points.",
        )
    if len(covered) and (covered["n"] > 0).any():
        add(
            "coverage",
            lambda: figures.coverage_figure(
                covered, calibration.BAND, calibration.STATED, _titles(metrics)
            ),
            "Share of the 95% intervals that hold the truth, a mark a metric and problem, with its own 95% "
            "binomial interval. Left of the band errors are told too small, right of it too large.",
        )
    others = problems.accuracy(frame)
    for number, (name, group) in enumerate(
        others.groupby("name", sort=False) if len(others) else ()
    ):
        if group["metric"].nunique() < 2:
            continue  # a single setting has nothing to be compared with
        add(
            f"truth{number}",
            lambda group=group: figures.error_against_cost_figure(group),  # type: ignore[misc]
            f"{_titles(metrics).get(str(name), str(name))}: true error against cost. A large mark "
            "is the median over the problems of one setting (its tolerance or number of probes), a hollow "
            "one did not claim to have converged every time; faint marks are the problems (medians over "
            "seeds). Lower and further left is better; dashed: the Pareto front. Errors below 1e-16 are "
            "drawn there.",
        )
    orders = rate_fit.fitted_orders(frame)
    if len(orders) > 0 and orders["stratum"].nunique() <= _MOST_STRATA:
        add(
            "fit",
            lambda: rate_figures.fit_figure(orders),
            f"What {orders['metric'].iloc[0]} is fitted to: the mean of log |dₙ| over points and "
            "directions by order, mean over seeds with their full range; λ is the slope of the line.",
        )
    diagrams = _reliability(frame)
    if diagrams and len({d["stratum"] for d in diagrams}) <= _MOST_STRATA:
        add(
            "reliability",
            lambda: rate_figures.reliability_figure(diagrams),
            "Accuracy against confidence on test data in the bins of the ECE, all seeds together; area "
            "shows how many samples a bin holds. On the dashed line a network is calibrated.",
        )
    points = _points(frame)
    if len(points):
        add(
            "scatter",
            lambda: figures.scatter_figure(points),
            f"Each metric against the test error, a point a trained network (n = "
            f"{points['subject'].nunique()}). Bars are standard errors; colour is data and model, "
            "shape the recipe. Compare points of one colour: other differences are not the metric's.",
        )
    if len(associations):
        add(
            "associations",
            lambda: figures.association_heatmap(associations),
            "Rank correlation (Kendall's τ) of each metric with what a network is judged by. Left: "
            "all networks pooled; right: only pairs of equal data and model. A star: p ≤ 5% after Holm's "
            "adjustment for the number of metrics, with errors over seeds.",
        )
        agreement = prediction.metric_agreement(frame)
        side_by_side, names = _side_by_side(frame)
        if 1 < len(names) <= _MOST_IN_PAIRS:
            add(
                "pairs",
                lambda: figures.pairs_figure(side_by_side, names),
                "Metrics against each other, a point a network; other implementations of a metric are "
                "left out.",
            )
        if len(agreement) > 1:
            add(
                "metrics",
                lambda: figures.metric_heatmap(agreement),
                "Rank correlation between metrics, within equal data and model: metrics that rank "
                "networks alike.",
            )
    orbits = invariance.gauge_orbits(frame)
    if len(orbits):
        add(
            "gauge",
            lambda: figures.gauge_figure(orbits),
            "Gauge orbits: each metric along layer rescaling, the same function throughout, against α "
            f"(line: median over {orbits['subject'].nunique()} networks, band: full range). A metric of "
            "the function is flat; one that runs off can be made any size without changing what the "
            "network does.",
        )
    changes = invariance.changes(frame)
    if len(changes):
        add(
            "invariance",
            lambda: figures.invariance_figure(changes),
            "Relative change of each metric, a point a network, same random seeds before and after. "
            "Crosses move by more than 2% and three standard errors of the random numbers that the two "
            "figures do not share; changes below 1e-16 are drawn there.",
        )
    if len(pairs):
        add(
            "agreement",
            lambda: figures.agreement_figure(pairs),
            "Difference of each other implementation from the native one, a point a network "
            f"(n = {pairs['subject'].nunique()}).",
        )
    if len(costs):
        add(
            "cost",
            lambda: figures.cost_figure(costs),
            "Wall time and peak memory of one measurement against its work, medians; bars are the "
            "interquartile range over the repeats.",
        )
    if len(swept):
        add(
            "scaling",
            lambda: figures.scaling_figure(swept, cost.AXES),
            "Wall time and peak memory of one measurement against size, one axis varied at a time "
            "(medians over the repeats; a dashed line is a GPU; a hollow point ran beside other work).",
        )
    along = trajectory.trajectories(frame)
    for number, (metric, rows) in enumerate(along.groupby("metric", sort=False)):
        add(
            f"trajectory{number}",
            lambda rows=rows: figures.trajectory_figure(rows),  # type: ignore[misc]
            f"{metric} and test error along training. Lines are means over the seeds, bands the full "
            f"range ({rows['seed'].nunique()} seeds).",
        )
    maps = _decision_maps(frame)
    if maps:
        add(
            "boundaries",
            lambda: figures.boundary_figure(maps),
            "Decision boundaries (black line) of the networks of the lowest seed over some of the "
            "test points (● class 0, ▲ class 1), with their figures.",
        )
    return drawn


_FIGURE_KINDS = ["measurement", "evaluation", "trajectory", "problem", "calibration"]

_MOST_STRATA = 12
"""Beyond this many data sets and models a figure with a panel for each is no longer readable."""

_FIGURE_ONE = {"adam": "Adam", "crr": "CRR, scale 0.003"}


def _paper(store: ResultsStore, suite: str) -> dict[str, Any]:
    """The audit of arXiv:2511.01438, from every suite of it that has run in this results folder."""
    if suite not in PAPER_SUITES:
        return {"claims": [], "questions": [], "verdicts": {}, "figure_one": None}
    frames = Evidence.of(store, PAPER_SUITES).frames
    table = claims_table(frames, CLAIMS)
    return {
        "claims": with_first_rules(store, "paper", table.to_dict("records")),
        "verdicts": table["verdict"].value_counts().to_dict(),
        "questions": claims_table(frames, QUESTIONS).to_dict("records"),
        "figure_one": _figure_one(frames.get("paper_two_moons")),
    }


def _figure_one(frame: pd.DataFrame | None) -> _Picture | None:
    if frame is None:
        return None
    rows = frame[(frame["kind"] == "trajectory") & (frame["recipe.epochs"] == 50)]
    rows = rows[rows["status"] == "ok"].assign(recipe=lambda f: f["recipe"].map(_FIGURE_ONE))
    if rows.empty:
        return None
    caption = (
        "λ along 50 epochs at 30% label noise. Left: the values that arXiv:2511.01438 states for its "
        "Figure 1 (means, with the 2.5–97.5 percentiles at the end); right: mean and the same "
        "percentiles over the seeds here."
    )
    with figure_style():
        svg = to_svg(figure_one(rows), name="figure_one", alt=caption)
    return _Picture("figure_one", svg, caption)


def _known_traps(frame: pd.DataFrame) -> dict[str, str]:
    """Problem label to the wrong answer it is known to provoke, for those that do."""
    if "problem" not in frame or frame["problem"].isna().all():
        return {}
    rows = frame[frame["problem"].notna()].drop_duplicates("problem_label")
    found = {}
    for row in rows.to_dict("records"):
        prefix = "problem."
        parameters = {
            key.removeprefix(prefix): value
            for key, value in row.items()
            if key.startswith(prefix) and not _missing(value)
        }
        text = problem_registry.create(row["problem"], _whole_numbers(parameters)).trap
        if text:
            found[row["problem_label"]] = text
    return found


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _whole_numbers(parameters: dict[str, Any]) -> dict[str, Any]:
    """A column with gaps turns whole numbers to reals: back again."""
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in parameters.items()
    }


def _answers(truths: pd.DataFrame) -> list[dict[str, Any]]:
    """Every answer to a problem: a row a problem, metric and seed."""
    if truths.empty:
        return []
    return [
        {
            **{k: row[k] for k in ("problem", "seed", "value", "standard_error", "expected")},
            "definition": _definition(row),
            "limit": row["diverges"] if isinstance(row["diverges"], str) else row["limit"],
        }
        for row in truths.to_dict("records")
    ]


def _definition(row: dict[str, Any]) -> str:
    """λ's definition in a few words."""
    raw = "raw" if row["normalization"] == "none" else "factorial"
    orders = f"{row['steps']} orders {row['first_order']}–{row['last_order']}"
    many = f"{row['directions']} {row['direction_law']} direction" + "s" * (row["directions"] > 1)
    points = "all points" if row["samples"] == "all" else f"{row['samples']} points"
    words = [raw, orders, row["norm"].replace("_", " "), many, points]
    if row["fit"] != "least_squares":
        words.append(row["fit"].replace("_", " "))
    if row["weight_decay"]:
        words.append(f"weights 1/(1 + {row['weight_decay']:g} n)")
    return ", ".join(words)


def _reliability(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = frame[frame["kind"] == "reliability"]
    if rows.empty:
        return []
    rows = rows.assign(stratum=stratum(rows))
    return [
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
    ]


def _points(frame: pd.DataFrame) -> pd.DataFrame:
    """Measurements joined to the test error of their subject."""
    values = measured(frame)
    errors = frame[(frame["kind"] == "evaluation") & (frame["name"] == "test_error")]
    joined = values.merge(
        errors[["subject", "value", "standard_error"]], on="subject", suffixes=("", "_test")
    )
    return pd.DataFrame(
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


def _side_by_side(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One row a subject, one column a metric (its native implementation), and ``stratum``."""
    values = measured(frame)
    native = values["parameters"].map(lambda p: p.get("implementation", "native") == "native")
    values = values[native].assign(stratum=stratum(values[native]))
    table = values.pivot_table(index=["subject", "stratum"], columns="metric_short", values="value")
    # In the order of the other figures, so that a stratum keeps its colour.
    ordered = table.reset_index("stratum").loc[list(dict.fromkeys(values["subject"]))]
    return ordered, list(table.columns)


_MOST_IN_PAIRS = 8
"""Beyond this many metrics a panel for each pair is no longer readable; the heat map remains."""


_MOST_ROWS = 3000
"""Beyond this many figures the table would be most of a page that no one can scroll through."""


def _metric_table(frame: pd.DataFrame) -> dict[str, Any]:
    """``rows`` of the main table, and how many figures they are the means of, or None."""
    rows = _metric_rows(frame)
    if len(rows) <= _MOST_ROWS:
        return {"rows": rows, "rows_stand_for": None}
    return {"rows": _over_seeds(rows), "rows_stand_for": len(rows)}


def _over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds with their standard errors; ``seed`` counts them."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("metric", "dataset", "model", "recipe", "status"))
        groups.setdefault(key, []).append(row)
    found = []
    for group in groups.values():
        first = group[0]
        judged = {}
        for figure in first["judged"]:
            values = [row["judged"][figure][0] for row in group if figure in row["judged"]]
            judged[figure] = _mean_and_error(values)
        shown = {**first, "seed": len(group), "judged": judged}
        shown |= {"errors": None, "error_bound": None}  # the spread over seeds holds them all
        if first["status"] == "ok":
            value, error = _mean_and_error([row["value"] for row in group])
            converged = all(row["converged"] for row in group)
            shown |= {"value": value, "standard_error": error, "converged": converged}
            for column in ("samples", "gradients"):
                shown[column] = float(np.median([row[column] for row in group]))
        found.append(shown)
    return found


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error; of a single value that error is unknown (NaN)."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def _metric_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The main table: a row a metric and subject."""
    wanted = frame["name"].isin(["test_error", "gap", "ece", "ece_debiased", "ece_floor"])
    judged = frame[(frame["kind"] == "evaluation") & wanted]
    figures_of: dict[str, dict[str, tuple[float, float]]] = {}
    columns = (judged[c] for c in ("subject", "name", "value", "standard_error"))
    for subject, name, value, error in zip(*columns, strict=True):
        figures_of.setdefault(subject, {})[name] = (value, error)
    rows = frame[(frame["kind"] == "measurement") & frame["transformation"].isna()]
    return [
        {
            "metric": row["metric_short"],
            "dataset": row["dataset_short"],
            "model": row["model_short"],
            "recipe": row["recipe_short"],
            "seed": int(row["seed"]),
            "status": row["status"],
            "reason": row["reason"],
            "value": row["value"],
            "standard_error": row["standard_error"],
            "errors": row["errors"],
            "error_bound": row["error_bound"],
            "converged": bool(row["converged"]) if row["status"] == "ok" else None,
            "samples": row["samples"],
            "gradients": row["gradient_equivalents"],
            "judged": figures_of.get(row["subject"], {}),
        }
        for row in rows.to_dict("records")
    ]


def _decision_maps(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = frame[frame["kind"] == "decision_map"]
    if rows.empty:
        return []
    rows = rows[rows["seed"] == rows["seed"].min()].head(16)
    values = measured(frame)
    errors = frame[(frame["kind"] == "evaluation") & (frame["name"] == "test_error")]
    error_of = errors.set_index("subject")[["value", "standard_error"]]
    maps = []
    for row in rows.to_dict("records"):
        own = values[values["subject"] == row["subject"]]
        rate = own[own["name"] == "curvature_rate"].head(1)
        parts = []
        if len(rate):
            parts.append(f"λ = {told(rate['value'].iloc[0], rate['standard_error'].iloc[0])}")
        if row["subject"] in error_of.index:
            parts.append(f"error {_percent_with_error(*error_of.loc[row['subject']])}")
        name = f"{row['dataset_short']}\n{row['model_short']} · {row['recipe_short']}"
        maps.append({"title": name, "caption": ", ".join(parts), "details": row["details"]})
    return maps


def _titles(registry: Registry[Any]) -> dict[str, str]:
    """What each installed plug-in is called; one that can't be imported keeps its name."""
    titles = {}
    for name in registry:
        try:
            titles[name] = getattr(registry.get(name), "title", name)
        except InputError:
            continue
    return titles


def _any_evaluated(frame: pd.DataFrame) -> bool:
    return bool((frame["kind"] == "evaluation").any() and len(measured(frame)))


def _no_associations() -> pd.DataFrame:
    return pd.DataFrame(columns=["metric", "target", *prediction.KINDS, "simpson"])


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sharpbench.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        figure=told,
        percent_figure=_percent_with_error,
        number=_number,
        interval=_interval,
        percent=_percent,
        bytes=_bytes,
        seconds=_seconds,
    )
    return environment


def _asset(name: str) -> Markup:
    return Markup((resources.files("sharpbench.report") / "static" / name).read_text("utf-8"))


def _percent_with_error(value: float | None, error: float | None) -> str:
    """``3.9 ± 0.6%``."""
    if value is None or math.isnan(value):
        return "–"
    if error is None or math.isnan(error):
        return f"{100 * value:.1f}%"
    places = 2 if error < 1e-3 else 1
    return f"{100 * value:.{places}f} ± {100 * error:.{places}f}%"


def _number(value: float | None, digits: int = 4) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}g}"


def _interval(estimate: Estimate) -> str:
    """``0.87 [0.81, 0.94]``: to the digit that the interval can tell; exact figures to four."""
    width = estimate.high - estimate.low
    if width == 0:
        return _number(estimate.value)
    places = max(0, 1 - math.floor(math.log10(width)))
    if places > 6:
        return f"{estimate.value:.2g} [{estimate.low:.2g}, {estimate.high:.2g}]"
    return " ".join(
        (
            f"{estimate.value:.{places}f}",
            f"[{estimate.low:.{places}f}, {estimate.high:.{places}f}]",
        )
    )


def _percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "\u2212∞"
    if value != 0 and abs(value) < 1e-4:
        return f"{100 * value:.0e}%"
    return f"{value:.1%}" if abs(value) < 10 else f"{100 * value:,.0f}%"


def _bytes(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value / 2**20:.1f} MiB"


def _seconds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{1000 * value:.2f} ms" if value < 1 else f"{value:.2f} s"
