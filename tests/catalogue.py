"""Every metric in one table, from the registry: ``python -m tests.catalogue docs/metrics.md``.

``--measure`` first counts what those take on one network that ``tests/metric_costs.json`` doesn't hold;
``--predict RESULTS SUITE`` first takes what each predicts from a grid of networks, into
``tests/metric_predictions.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import itertools
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpbench.change import Kind
from sharpbench.errors import MetricFailed
from sharpbench.invariance import transformations
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric
from sharpbench.models import models
from sharpbench.problems import problems
from sharpbench.registry import Registry
from sharpbench.subject import Subject
from sharpbench.training import recipes

COSTS = Path(__file__).with_name("metric_costs.json")
PREDICTIONS = Path(__file__).with_name("metric_predictions.json")

NOT_ASKED = {
    "invariance": {
        "local_learning_coefficient": "its chains take minutes a network and change, and scatter more than "
        "what a promise is held to",
    },
    "cost": {
        "inverse_margin": "labels drawn at random leave no margin; it takes the pass of `margin`"
    },
    "generalization_quick": {
        "local_learning_coefficient": "its chains would take longer than all other metrics together",
    },
}
"""Why a metric has no row in a suite that asks all others; in `cost` those have none that take no pass."""

NOT_BY_PARTS = {
    "path_norm": "a path runs through every layer",
    "random_number": "it knows nothing of any",
}
"""Why a metric of the parameters takes no ``parameters_of``."""

HEAD = """\
# Every metric

Made by `python -m tests.catalogue docs/metrics.md` from the registry, and held to it by a test. `sharpbench
show metric NAME` prints a metric's whole documentation and its parameters.

- *Known answers*: the problems (`sharpbench list problems`) of which theory says what the metric should give,
  with the parameters that it takes where they aren't the default. In its tests every metric is held to closed
  forms or dense references besides.
- *Stays under*: the changes under which theory promises the same figure, with default parameters; a kind
  stands for all of its transformations. The suite `invariance` checks the promises.
- *Parts*: every metric of the parameters can be asked of some of them, by name (`parameters_of`), but:
  {parts}.
- *Also by*: other libraries that compute it, for comparison.
- *Prediction*: Ψ of the test error on the {networks} trained networks of the suite `generalization_quick`
  with its 95% interval (the rank correlation of networks that differ in one setting, averaged over the
  settings: 0 tells nothing, 1 all), with the parameters that the suite asks where there are several; "–":
  not asked there, or in a version that has changed since. There the hyperparameters alone have {alone}, an
  oracle with noise of the size of the target's own spread {oracle}, and a metric whose interval holds 0 has
  shown nothing. `tests/metric_predictions.json` names the version of each metric that was measured.
- *Cost*: work with default parameters in gradients over the samples measured, counted on a ReLU network of
  2410 parameters on digits; "–" for none. Derivatives of higher order and products are converted as
  `sharpbench.measurement.Work` says.

The suites `invariance`, `cost` (what takes a pass over the data) and `generalization_quick` ask every metric,
but:

{but}
"""


def table() -> str:
    """The page in Markdown."""
    costs = json.loads(COSTS.read_text("utf-8"))
    told = json.loads(PREDICTIONS.read_text("utf-8"))
    columns = (
        "metric",
        "definition",
        "unit",
        "known answers",
        "stays under",
        "also by",
        "prediction",
        "cost",
    )
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name in builtin(metrics):
        metric = metrics.create(name)
        cells = (
            f"`{name}`",
            f"{definition(metric)} ({metric.reference})",
            metric.unit or "1",
            "; ".join(known_answers(name)) or "–",
            ", ".join(promised(metric)) or "nothing",
            ", ".join(others(name)) or "–",
            prediction(of_this_version(metric, told["metrics"])),
            costs[name],
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    head = HEAD.format(
        networks=told["networks"],
        alone=prediction([told["hyperparameters alone"]]),
        oracle=prediction([told["oracle"]]),
        but=_not_asked(),
        parts="; ".join(f"`{name}` ({why})" for name, why in NOT_BY_PARTS.items()),
    )
    return f"{head}\n" + "\n".join(lines) + "\n"


def _not_asked() -> str:
    """What is left out where, and why."""
    left_out = [
        f"- `{name}` not in `{suite}`: {why}"
        for suite, of in NOT_ASKED.items()
        for name, why in of.items()
    ]
    return ".\n".join(left_out) + "."


def of_this_version(metric: Metric, told: dict[str, Any]) -> list[dict[str, Any]]:
    """What the metric as it is now predicted; nothing where its figures have changed since."""
    found = told.get(metric.name, {})
    rows: list[dict[str, Any]] = found["rows"] if found.get("version") == metric.version else []
    return rows


def prediction(rows: list[dict[str, Any]]) -> str:
    """Ψ with its interval, of each of the ``rows``."""
    found = []
    for row in rows:
        psi, low, high = (f"{row[key]:+.2f}".replace("-", "−") for key in ("psi", "low", "high"))
        asked = f" ({row['asked']})" if row.get("asked") else ""
        found.append(f"{psi} [{low}, {high}]{asked}")
    return "; ".join(found) or "–"


def predicted(root: Path, suite: str) -> dict[str, Any]:
    """Ψ of the test error by metric, of figures of the metrics' present versions."""
    from sharpbench.analysis.generalization import grid, scores
    from sharpbench.analysis.results import Results

    results = Results.load(root, suite)
    population = grid(results)
    assert population is not None, "no grid of networks"
    rows = results.measured
    of = rows.drop_duplicates("metric_short").set_index("metric_short")
    kept: dict[str, dict[str, Any]] = {}
    others: dict[str, dict[str, Any]] = {}
    for score in scores(results):
        if score.target != "test_error" or score.mean is None:
            continue
        told = {
            key: getattr(score.mean, at)
            for key, at in (("psi", "value"), ("low", "low"), ("high", "high"))
        }
        if score.row not in of.index:
            others[score.row] = told
            continue
        name, title = str(of["name"][score.row]), str(of["title"][score.row])
        version = metrics.get(name).version
        if int(of["version"][score.row]) != version:
            continue
        asked = score.row.removeprefix(title).strip(" ()")
        kept.setdefault(name, {"version": version, "rows": []})["rows"].append(
            {"asked": asked, **told}
        )
    return {
        "suite": suite,
        "networks": len(population.subjects),
        "hyperparameters alone": others["hyperparameters alone"],
        "oracle": others["target + 1 sd of noise"],
        "metrics": {name: kept[name] for name in builtin(metrics) if name in kept},
    }


def builtin(registry: Registry[Any]) -> list[str]:
    """The names that are sharpbench's own, whoever else has registered some here."""
    return [name for name in registry if registry.origin(name).startswith("sharpbench.")]


def definition(metric: Metric) -> str:
    """The first paragraph of the documentation, in one line."""
    text = inspect.cleandoc(type(metric).__doc__ or "").split("\n\n")[0]
    return " ".join(text.replace("``", "`").replace("*", "\\*").split())


def known_answers(name: str) -> list[str]:
    """The problems whose answer the metric knows, by the parameters that it takes."""
    wanted, found = dict(_problems()), []
    for parameters in variants(name):
        metric = metrics.create(name, parameters)
        own = [p for p, (truth, subject) in wanted.items() if metric.known(truth, subject)]
        told = ", ".join(f"{key} = {value}" for key, value in parameters.items())
        names = ", ".join(f"`{problem}`" for problem in own)
        found += [f"{names} ({told})" if told else names] if own else []
        wanted = {problem: made for problem, made in wanted.items() if problem not in own}
    return found


def variants(name: str) -> Iterator[dict[str, Any]]:
    """The default parameters, and with one or two choices made otherwise; the first output for an integer."""
    yield {}
    defaults, choices = metrics.create(name).parameters(), []
    for key, annotation in metrics.parameter_types(name).items():
        parts = typing.get_args(annotation)
        own = [c for part in (annotation, *parts) for c in _literals(part)]
        if own and int in parts:
            own.append(0)
        if key != "implementation":
            choices += [(key, choice) for choice in own if choice != defaults[key]]
    for count in (1, 2):
        for chosen in itertools.combinations(choices, count):
            with contextlib.suppress(ValueError):  # some ask for another parameter too
                metrics.create(name, dict(chosen))
                yield dict(chosen)


def _literals(annotation: Any) -> tuple[Any, ...]:
    literal = typing.get_origin(annotation) is typing.Literal
    return typing.get_args(annotation) if literal else ()


@functools.cache
def _problems() -> dict[str, tuple[Any, Subject]]:
    made = ((name, problems.create(name)) for name in builtin(problems) if name != "workload")
    return {name: (problem, problem.subject(seed=0)) for name, problem in made}


def promised(metric: Metric) -> list[str]:
    """The transformations that the metric stays under, a kind where they are all of it."""
    found = []
    singles = [t for t in map(transformations.create, builtin(transformations)) if t.parts == (t,)]
    for kind in typing.get_args(Kind):
        of_kind = [t for t in singles if t.kind == kind]
        kept = [t.name for t in of_kind if metric.promises(t)]
        every = len(kept) == len(of_kind) > 1
        found += [f"every {kind.replace('_', ' ')}"] if every else [f"`{name}`" for name in kept]
    return found


def others(name: str) -> list[str]:
    """Other libraries that compute it: they answer on a regression."""
    _, subject = _problems()["least_squares"]
    found = []
    for choice in _literals(metrics.parameter_types(name).get("implementation")):
        with contextlib.suppress(MetricFailed, ValueError):
            metrics.create(name, {"implementation": choice}).checked_measure(subject, seed=0)
            found.append(choice)
    return [choice for choice in found if choice != "native"]


def measured(found: dict[str, str]) -> dict[str, str]:
    """What each metric takes on one network, in gradients; those that were ``found`` already as they are."""
    from sharpbench.datasets import datasets

    data = datasets.create("digits").load(Path(), seed=0)
    parameters = {"widths": (32,), "activation": "relu"}
    network, initial = (
        models.create("mlp", parameters).build(data.input_shape, data.outputs, seed=1)
        for _ in range(2)
    )
    recipes.create("adam", {"epochs": 30, "lr": 5e-3}).train(network, data, seed=0)
    subject = Subject(network, data.train_inputs, data.train_targets, splits=data, initial=initial)
    for name in builtin(metrics):
        if name in found:
            continue
        try:
            measurement = metrics.create(name).checked_measure(subject, seed=0)
        except MetricFailed as reason:
            found[name] = f"no answer there: {reason}"
            continue
        gradients = measurement.work.gradient_equivalents(measurement.samples)
        found[name] = f"{gradients:,.3g}" if 0 < gradients < 1000 else f"{gradients:,.0f}"
        found[name] = found[name] if gradients else "–"
        print(name, found[name], flush=True)
    return {name: found[name] for name in builtin(metrics)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.catalogue", description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--predict", nargs=2, metavar=("RESULTS", "SUITE"))
    asked = parser.parse_args()
    if asked.predict:
        figures = predicted(Path(asked.predict[0]), asked.predict[1])
        PREDICTIONS.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if asked.measure:
        known = json.loads(COSTS.read_text("utf-8")) if COSTS.exists() else {}
        COSTS.write_text(json.dumps(measured(known), indent=1, ensure_ascii=False) + "\n", "utf-8")
    asked.page.write_text(table(), "utf-8")
