"""A results folder of many networks: what it takes to read, to resume, to foretell and to export, and what
the command takes to find that nothing is left to do.

The folder is synthetic and true to form: two small networks are trained and measured for real, and every
other subject gets their records under its own content keys with other values, so that every reader takes
them for what they look like.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sharpbench.results.export import write_table
from sharpbench.results.keys import figure_key, part_of_figure, trajectory_figure_key
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore, load_records, record_pieces
from sharpbench.suite.engines import make_engine
from sharpbench.suite.plan import Plan, SubjectPlan, make_plan
from sharpbench.suite.session import run_plan
from sharpbench.suite.spec import load_suite
from sharpbench.suite.survey import survey

ROWS = 263
"""Of each subject: 8 metrics as they are and after 22 transformations, 16 of the evaluation, 3 along
training, and its log: 6 figures of 10 epochs."""

_RECIPES = 10
_SUITE = """
name = "many"
title = "Many networks"
seeds = {seeds}

[[subjects]]
dataset = {{ name = "two_moons", n = 400, label_noise = {noise} }}
model   = {{ name = "mlp", widths = [16, 16], activation = ["tanh", "relu"] }}
recipe  = [{recipes}]

{metrics}
{transformations}
[trajectory]
metrics = [{{ name = "curvature_rate", protocol = "recommended", samples = 32 }}]
every = 5

[cost]
repeats = 1
"""
_METRICS = (
    'name = "curvature_rate"\nprotocol = "recommended"\nsamples = 32',
    'name = "hessian_top_eigenvalue"\nimplementation = ["native", "pyhessian"]\nsamples = 32',
    'name = "hessian_trace"\nimplementation = ["native", "pyhessian"]\nsamples = 32\nmax_probes = 20',
    'name = "sam_sharpness"',
    'name = "input_jacobian_norm"',
    'name = "margin"',
)
_TRANSFORMATIONS = (
    ("neuron_rescaling", 6),
    ("neuron_permutation", 6),
    ("weight_noise", 6),
    ("sign_flip", 4),
)


def suite_text(subjects: int) -> str:
    """A suite of so many networks (rounded up to whole seeds): two activations by ten recipes by seeds."""
    rates = ", ".join(
        f'{{ name = "adam", lr = {lr}, epochs = 10 }}'
        for lr in (0.01 * (k + 1) / _RECIPES for k in range(_RECIPES))
    )
    return _SUITE.format(
        seeds=-(-subjects // (2 * _RECIPES)),
        noise=0.3,
        recipes=rates,
        metrics="\n".join(f"[[metrics]]\n{text}\n" for text in _METRICS),
        transformations="\n".join(
            f'[[transformations]]\nname = "{name}"\ndraws = {draws}\n'
            for name, draws in _TRANSFORMATIONS
        ),
    )


def plan_of(folder: Path, subjects: int) -> tuple[Plan, str]:
    """The plan of the suite, whose file is written to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "many.toml"
    path.write_text(suite_text(subjects), "utf-8")
    return make_plan(load_suite(path)), str(path)


def build(folder: Path, subjects: int) -> Path:
    """Fill ``folder/results`` with every record that the suite ``folder/many.toml`` asks for."""
    plan, path = plan_of(folder, subjects)
    results = folder / "results"
    trained = [s for s in plan.subjects if isinstance(s, SubjectPlan)]
    templates = {s.model.label: s for s in trained[::-1] if s.seed == 0}
    real = dataclasses.replace(plan, subjects=tuple(templates.values()))
    store = ResultsStore(results)
    run_plan(
        real, plan, store, Path(tempfile.gettempdir()), suite_text=Path(path).read_text("utf-8"),
        command="synthetic", engine=make_engine("inline"), notify=lambda text, dealt_with: None,
        finished=lambda outcome: None,
    )  # fmt: skip
    for subject in trained:
        template = templates[subject.model.label]
        if subject is not template:
            _copy(store, template, subject)
    return results


def _copy(store: ResultsStore, template: SubjectPlan, subject: SubjectPlan) -> None:
    """The records of ``template`` as if they were those of ``subject``, with values of its own."""
    source, target = store.subject(template.key), store.subject(subject.key)
    description = source.read()
    assert description is not None
    rng = random.Random(subject.key)
    size = 1 + 0.3 * rng.gauss(0, 1) ** 2
    records = [_copied(r, subject, description["weights"], size, rng) for r in source.records()]
    target.path.mkdir(parents=True)
    shutil.copy(source.path / "weights.safetensors", target.path)
    target.append(records)
    target.commit(
        {
            **{k: v for k, v in description.items() if k != "sha256"},
            "key": subject.key,
            "label": subject.label,
            "dataset_label": subject.dataset.label,
            "model_label": subject.model.label,
            "recipe_label": subject.recipe.label,
            "identity": subject.identity,
        },
        None,
    )


def _copied(
    record: Record, subject: SubjectPlan, weights: str, size: float, rng: random.Random
) -> Record:
    key = figure_key(subject.key, weights, record.plan_key)
    if record.kind == "trajectory":
        assert record.epoch is not None
        key = trajectory_figure_key(subject.key, record.plan_key, record.epoch)
    elif record.kind != "measurement":
        key = part_of_figure(key, record.name)
    value, error, bound = record.value, record.standard_error, record.error_bound
    factor = size * (1 + 0.01 * rng.random())
    timed = subject.seed == 0 and record.transformation is None
    return dataclasses.replace(
        record, key=key, cost=record.cost if timed else None,
        value=None if value is None else value * factor,
        standard_error=None if error is None else error * size,
        error_bound=None if bound is None else bound * size,
        errors=[{**e, "size": None if e["size"] is None else e["size"] * size} for e in record.errors],
        details={k: _times(v, factor) if k in _PROPORTIONAL else v for k, v in record.details.items()},
    )  # fmt: skip


_PROPORTIONAL = frozenset(
    {"log_derivative", "log_derivative_standard_error", "residual_rms", "largest_ritz_values",
     "smallest_ritz_value", "gauss_newton_trace"}
)  # fmt: skip
"""Details that go with the value: λ is the slope of the logarithms, which are as many times as large."""


def _times(told: float | list[float], factor: float) -> float | list[float]:
    return [one * factor for one in told] if isinstance(told, list) else told * factor


class Folder:
    """What is done with a folder of so many subjects whose columns are there and whose plan is remembered.

    The command: CPU seconds of ``sharpbench run`` where all is done, each in a process of its own: its start,
    what it imports, and, but for a dry run, the comparison of every byte.
    """

    params = ([20, 100],)
    param_names = ("subjects",)
    unit = "seconds"
    timeout = 1200

    def setup_cache(self) -> dict[int, str]:
        folders = {}
        for subjects in self.params[0]:
            folder = Path(tempfile.mkdtemp())
            build(folder, subjects)
            _cpu_seconds(folder, "--no-report", "-q")
            folders[subjects] = str(folder)
        return folders

    def _timed(
        self, act: Callable[[Path], object], folders: dict[int, str], subjects: int
    ) -> float:
        start = time.perf_counter()
        act(Path(folders[subjects]))
        return time.perf_counter() - start

    def track_load(self, folders: dict[int, str], subjects: int) -> float:
        return self._timed(lambda f: load_records(f / "results", suite="many"), folders, subjects)

    def track_survey(self, folders: dict[int, str], subjects: int) -> float:
        """What a run that has nothing to do takes to find it out, with the expansion of the plan."""

        def act(folder: Path) -> None:
            plan, _ = plan_of(folder, subjects)
            found = survey(plan, ResultsStore(folder / "results"), fresh=True)
            assert all(standing.settled for standing in found)

        return self._timed(act, folders, subjects)

    def track_export(self, folders: dict[int, str], subjects: int) -> float:
        def act(folder: Path) -> None:
            write_table(record_pieces(folder / "results"), folder / "all.parquet")

        return self._timed(act, folders, subjects)

    def track_command_dry_run(self, folders: dict[int, str], subjects: int) -> float:
        return _cpu_seconds(Path(folders[subjects]), "--dry-run")

    def track_command_nothing_to_do(self, folders: dict[int, str], subjects: int) -> float:
        return _cpu_seconds(Path(folders[subjects]), "--no-report", "-q")


def _cpu_seconds(folder: Path, *options: str) -> float:
    command = [sys.executable, "-m", "sharpbench", "run", "many.toml", *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} exited with {process.returncode}")
    return used.ru_utime + used.ru_stime
