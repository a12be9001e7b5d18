"""Suites from Python: run one, rank a metric of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpbench.api.results import Results
from sharpbench.console import aside, escape
from sharpbench.datasets.files import data_root
from sharpbench.errors import InputError, MetricFailed
from sharpbench.metrics import Metric, metrics
from sharpbench.plugins import PluginSource, load_plugins, plugin_name
from sharpbench.progress import progress as bar
from sharpbench.results.disk import write_atomically
from sharpbench.results.store import ResultsStore
from sharpbench.suite.conformance import Finding, check_metric
from sharpbench.suite.engines import make_engine
from sharpbench.suite.prepared import Watching, prepare
from sharpbench.suite.reference import population_folder, ranking_suite
from sharpbench.suite.spec import SuiteFile

__all__ = ["population", "rank", "run"]


def run(
    suite: str | Path | SuiteFile,
    *,
    results: str | Path = "results",
    workers: int | None = None,
    engine: str = "process",
    device: str = "cpu",
    only: Iterable[str] = (),
    plugins: Iterable[str | Path] = (),
    data: str | Path | None = None,
    wait: bool = True,
    progress: bool = True,
) -> Results:
    """Run a suite, as ``sharpbench run`` does: train, measure, transform, measure again.

    What is recorded already is not done again, and nothing recorded is lost by an interruption. A figure that
    can't be had is a record with its reason (`Results.failures`), and ends nothing.

    Parameters
    ----------
    suite: the name of a shipped suite, or the path of a suite file.
    results: the results folder; any number of suites can share it.
    workers: subjects run at once; figures are the same for any number. None: one, with ``ray`` all there are.
    engine: ``process``, worker processes of this machine; ``ray``, those of a cluster; ``inline``, this
        process, for a debugger.
    device: ``cpu``, ``cuda`` or ``cuda:N``.
    only: run only subjects whose label contains one of these texts.
    plugins: files and modules whose plug-ins the suite can name.
    data: where the files of datasets are. None: ``$SHARPBENCH_DATA``, else ``~/.cache/sharpbench``.
    wait: for another run that holds the results folder; else InputError is raised.
    progress: show a bar on a terminal and in a notebook, a line a subject elsewhere.

    Raises
    ------
    InputError: the suite, or what it names, is wrong or missing; the message says where.
    """
    chosen = make_engine(engine, workers=workers)
    prepared = prepare(
        suite,
        device=device,
        here=engine != "ray",
        only=only,
        plugins=plugins,
        data=None if data is None else Path(data),
    )
    folder = Path(results)
    how: dict[str, Watching] = {"watch": bar} if progress else {}
    done = prepared.carry_out(folder, engine=chosen, wait=wait, say=_say, **how)
    found = Results.load(folder, prepared.known.name)
    found.summary = done
    return found


def rank(
    metric: str | Metric | type[Metric],
    *,
    parameters: Mapping[str, Any] | None = None,
    reports: str | Path = "reports",
    cache: str | Path | None = None,
    workers: int | None = None,
    plugins: Iterable[str | Path] = (),
    progress: bool = True,
    checked: Callable[[Sequence[Finding]], object] = lambda findings: None,
) -> Results:
    """A metric of one's own beside all others, as ``sharpbench rank`` does it: its row stands first.

    It is checked for its contract, then asked of the reference population: known answers, changes that leave
    the function as it is, networks of known test error. The population is made at the first call, in some
    minutes, and kept with the answers of all other metrics. `report` writes the page.

    Parameters
    ----------
    metric: ``my_metric.py:MyMetric``, ``package.module:MyMetric``, a metric's name, or a class or an instance
        of a module.
    parameters: the metric's, where it is no instance.
    reports: where the suite that asks it is written, in ``rank_<name>``.
    cache: where the population is kept. None: ``~/.cache/sharpbench``.
    workers: subjects measured at once. None: the cores there are, at most eight.
    plugins: files and modules whose plug-ins can be named.
    progress: as in `run`.
    checked: hears what the checks of the contract found, before anything is asked.

    Raises
    ------
    InputError: there is no such metric, or it can't be asked in other processes.
    MetricFailed: it answers on none of the networks of the checks; the message says what was found.
    """
    for place in plugins:
        load_plugins(place)
    name, given = _named(metric, parameters)
    chosen = metrics.create(name, given)
    with aside.status(f"checking {name} …"):
        findings = check_metric(name, given)
    checked(findings)
    if not findings[-1].passed:  # it measures nothing, and would be asked some hundred times
        raise MetricFailed(
            f"{name}: " + "; ".join(f"{f.title}: {f.detail}" for f in findings if not f.passed)
        )
    suite, text = ranking_suite(chosen, given)
    path = Path(reports) / suite / "suite.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())  # another may be ranking the same metric
    return run(path, **population(cache, workers), progress=progress)


def population(cache: str | Path | None = None, workers: int | None = None) -> dict[str, Any]:
    """Where and how the reference population is run: the arguments of `run`.

    Says so where it has to be made first.
    """
    folder = population_folder(data_root() if cache is None else Path(cache))
    if not ResultsStore(folder).subjects():
        _say(f"the reference population is made, once, in {folder}: some minutes on two cores")
    return {"results": folder, "workers": workers or min(_cores(), _MOST_WORKERS)}


_MOST_WORKERS = 8
"""By default: each holds torch and its data."""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _named(
    metric: str | Metric | type[Metric], parameters: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """The name of a metric, which is known from now on, and its parameters."""
    if isinstance(metric, str):
        return plugin_name("metric", metric), dict(parameters or {})
    cls = metric if isinstance(metric, type) else type(metric)
    if not issubclass(cls, Metric):
        raise InputError(f"{metric!r} is no metric: a class derived from sharpbench.metrics.Metric")
    if isinstance(metric, Metric):
        if parameters:
            raise TypeError("parameters go with a metric's name or class, not with an instance")
        usual = type(metric)().parameters()
        parameters = {k: v for k, v in metric.parameters().items() if v != usual[k]}
    if metrics.pointer(getattr(cls, "name", "")) and metrics.get(cls.name) is cls:
        return cls.name, dict(parameters or {})
    if cls.__module__ == "__main__":
        raise InputError(
            f"{cls.__qualname__} stands in a notebook or in the script that runs, and other processes can't "
            f"import it from there: save it in a file and say rank('my_metric.py:{cls.__qualname__}')"
        )
    if isinstance(source := vars(cls).get("_source"), PluginSource):
        return source.register(cls), dict(parameters or {})
    return plugin_name("metric", f"{cls.__module__}:{cls.__qualname__}"), dict(parameters or {})


def _say(text: str) -> None:
    aside.print(escape(text), soft_wrap=True)
