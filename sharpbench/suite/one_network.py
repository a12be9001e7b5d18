"""One network of a user's own into a results folder: the records of a suite, told as they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

import torch

from sharpbench.invariance import Transformation
from sharpbench.metrics import Metric
from sharpbench.plugins import PluginSource
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore
from sharpbench.subject import Subject
from sharpbench.suite.engines.base import Engine
from sharpbench.suite.given import Given, NetworkNamed
from sharpbench.suite.network_run import NetworkRun
from sharpbench.suite.networks import NetworkPlan
from sharpbench.suite.plan import Plan, make_plan
from sharpbench.suite.reference import in_toml
from sharpbench.suite.remaining import Remaining
from sharpbench.suite.run import run_subject
from sharpbench.suite.session import run_plan
from sharpbench.suite.spec import SuiteFile, load_suite
from sharpbench.suite.task import Notify, SubjectOutcome, SubjectTask

__all__ = ["SUITE", "one_network_suite", "recorded"]

SUITE = "measured"
"""What the suite of one network is called."""


def one_network_suite(
    given: Given,
    subject: Subject,
    questions: Sequence[tuple[Metric, Mapping[str, Any]]],
    changes: Sequence[tuple[Transformation, Mapping[str, Any]]],
    plugins: Sequence[str],
    *,
    seed: int,
    path: Path,
) -> SuiteFile:
    """Writes the suite that asks one network what was asked of it on the command line."""
    told = "; ".join([f"{len(subject.inputs)} samples", *subject.said]) + "."
    lines = [
        "# What `sharpbench measure --output` was asked.",
        f"name = {in_toml(SUITE)}",
        f"title = {in_toml(f'Sharpness of {given.model}')}",
        f"description = {in_toml(told)}",
        f"seeds = [{seed}]",
        f"threads = {torch.get_num_threads()}",
    ]
    sources = [vars(type(one)).get("_source") for one in (one for one, _ in (*questions, *changes))]
    places = [s.place for s in sources if isinstance(s, PluginSource)]
    places += [str(Path(p).resolve()) if Path(p).exists() else p for p in plugins]
    if places:
        lines.append(f"plugins = {in_toml(list(dict.fromkeys(places)))}")
    lines += ["", "[cost]", "repeats = 0", "", "[[networks]]", f"model = {in_toml(given.model)}"]
    if given.weights is not None:
        lines.append(f"weights = {in_toml(escape(str(given.weights.resolve())))}")
    named = given.told(*NetworkNamed.model_fields)
    del named["model"]
    named |= {name: str(Path(named[name]).resolve()) for name in given.FILES if name in named}
    lines += [f"{name} = {in_toml(value)}" for name, value in named.items()]
    lines.append(f"seed = {seed}")
    for table, asked in (("metrics", questions), ("transformations", changes)):
        for one, parameters in asked:
            lines += ["", f"[[{table}]]", f"name = {in_toml(one.name)}"]
            lines += [f"{key} = {in_toml(value)}" for key, value in parameters.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_suite(path)


def recorded(
    suite: SuiteFile,
    subject: Subject,
    results: Path,
    *,
    device: str,
    data: Path,
    command: str,
    notify: Notify,
    told: Callable[[Plan, Record], None],
) -> list[str]:
    """Asks ``subject`` the suite's questions with the seed itself, as `sharpbench.measure` takes it.

    Each answer stands in ``results`` before ``told`` hears it; those of an earlier run, of the same network
    on the same data, are told and not measured again. Returns what failed besides measurements.
    """
    plan = make_plan(suite, device=device, data=data)
    (network,) = plan.subjects
    assert isinstance(network, NetworkPlan)
    plan = dataclasses.replace(plan, subjects=(dataclasses.replace(network, seed_itself=True),))
    store = ResultsStore(results)
    engine = _Here(subject, lambda record: told(plan, record))
    with store.locked(wait=False, say=lambda text: None):
        outcomes = run_plan(
            plan,
            plan,
            store,
            data,
            suite_text=suite.text,
            command=command,
            engine=engine,
            notify=notify,
            finished=lambda outcome: None,
        )
    return [p for outcome in outcomes for p in outcome.problems if p not in engine.failures]


class _Here(Engine):
    """In this process, on the subject that it holds."""

    name = "here"
    workers = 1

    def __init__(self, subject: Subject, told: Callable[[Record], None]) -> None:
        self.subject, self.told = subject, told
        self.failures: list[str] = []
        """Of the outcomes' problems those that were told as answers."""

    def run(
        self, tasks: Sequence[SubjectTask], notify: Notify
    ) -> Generator[SubjectOutcome, None, None]:
        for task in tasks:
            yield run_subject(task, notify, network=self._run)

    def _run(self, *arguments: Any) -> NetworkRun:
        return _Told(self, *arguments)


class _Told(NetworkRun):
    """Tells every answer once it is recorded."""

    def __init__(self, here: _Here, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.here = here

    def _subject_built(self) -> Subject:
        return self.here.subject

    def _ask(self, weights: str, left: Remaining, found: Callable[[], Subject | None]) -> None:
        for record in left.answered:
            self.here.told(record)
        super()._ask(weights, left, found)

    def note(self, record: Record) -> None:
        before = len(self.problems)
        super().note(record)
        self.here.failures += self.problems[before:]

    def write(self, records: list[Record]) -> None:
        super().write(records)
        for record in records:
            if record.kind == "measurement":
                self.here.told(record)
