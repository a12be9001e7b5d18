"""One network of a user's own into a results folder: the records of a suite, told as they are made."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from glob import escape
from pathlib import Path
from typing import Any

import torch

from sharpbench.cost import Cost
from sharpbench.datasets import datasets
from sharpbench.errors import InputError
from sharpbench.invariance import Transformation
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.plugins import PluginSource
from sharpbench.results.disk import write_atomically
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore
from sharpbench.subject import Subject
from sharpbench.suite.asking import Draft
from sharpbench.suite.engines.base import Engine
from sharpbench.suite.given import Given, NetworkNamed
from sharpbench.suite.network_run import NetworkRun
from sharpbench.suite.networks import NetworkPlan
from sharpbench.suite.plan import Plan, make_plan
from sharpbench.suite.reference import in_toml
from sharpbench.suite.remaining import Remaining
from sharpbench.suite.run import run_subject
from sharpbench.suite.session import run_plan
from sharpbench.suite.spec import load_suite
from sharpbench.suite.task import Notify, Step, SubjectOutcome, SubjectTask

__all__ = ["SUITE", "check_folder", "one_network_suite", "recorded"]

SUITE = "measured"
"""What the suite of one network is called."""

_WRITTEN = (
    *("index.html", "measurements.jsonl", "measurements.csv", "layers.csv", "layers.svg"),
    *("scorecard.json", "scorecard.md", "tables"),
)
"""What is written into the folder beside the suite and its results, anew each time."""

_SUITE_FILE = "suite.toml"

_HEAD = "# What `sharpbench measure --output` was asked."
"""The first line of the suite file, by which a folder is known."""


def one_network_suite(
    given: Given,
    subject: Subject,
    questions: Sequence[tuple[Metric, Mapping[str, Any]]],
    changes: Sequence[tuple[Transformation, Mapping[str, Any]]],
    plugins: Sequence[str],
    *,
    seed: int,
) -> str:
    """The suite that asks one network what was asked of it on the command line."""
    told = "; ".join([f"{len(subject.inputs)} samples", *subject.said]) + "."
    lines = [
        _HEAD,
        f"name = {in_toml(SUITE)}",
        f"title = {in_toml(f'Sharpness of {given.model}')}",
        f"description = {in_toml(told)}",
        f"seeds = [{seed}]",
        f"threads = {torch.get_num_threads()}",
    ]
    classes: list[type] = [type(one) for one, _ in (*questions, *changes)]
    if given.dataset is not None:
        classes.append(datasets.get(given.dataset["name"]))
    sources = [vars(cls).get("_source") for cls in classes]
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
    return "\n".join(lines) + "\n"


def check_folder(folder: Path) -> None:
    """Raises InputError for what is no folder, and for one with files that `recorded` and who calls it would
    write anew and that are not theirs."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {str(folder)!r} is a file: name a folder")
    with suppress(OSError):
        if (folder / _SUITE_FILE).read_bytes().startswith(_HEAD.encode()):
            return
    if found := [name for name in (_SUITE_FILE, *_WRITTEN) if (folder / name).exists()]:
        raise InputError(
            f"--output {str(folder)!r} holds {', '.join(found)}, which this command didn't write and would "
            "write over: name another folder"
        )


def recorded(
    text: str,
    subject: Subject,
    folder: Path,
    *,
    device: str,
    data: Path,
    command: str,
    notify: Notify,
    told: Callable[[Plan, Record, InputError | None], None],
) -> list[str]:
    """Asks ``subject`` what a suite's ``text`` asks, with the seed itself, as `sharpbench.measure` does.

    The suite and its results are kept in ``folder``, each answer before ``told`` hears it, beside what was
    wrong with the input; those of an earlier run, of the same network on the same data, are told and not
    measured again. Returns what failed besides measurements.
    """
    store = ResultsStore(folder / "results")
    with store.locked(wait=False, say=lambda text: None):
        write_atomically(folder / _SUITE_FILE, text.encode())
        suite = load_suite(folder / _SUITE_FILE)
        plan = make_plan(suite, device=device, data=data)
        (network,) = plan.subjects
        assert isinstance(network, NetworkPlan)
        own = dataclasses.replace(network, seed_itself=True)
        plan = dataclasses.replace(plan, subjects=(own,))
        engine = _Here(subject, lambda record, fault: told(plan, record, fault))
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

    def __init__(self, subject: Subject, told: Callable[[Record, InputError | None], None]) -> None:
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
        self._fault: InputError | None = None
        """What was wrong with the input of the question that was asked last."""

    def _subject_built(self) -> Subject:
        return self.here.subject

    def _ask(self, weights: str, left: Remaining, found: Callable[[], Subject | None]) -> None:
        for record in left.answered:
            self.here.told(record, None)
        super()._ask(weights, left, found)

    def note(self, record: Record) -> None:
        before = len(self.problems)
        super().note(record)
        self.here.failures += self.problems[before:]

    def write(self, records: list[Record]) -> None:
        super().write(records)
        for record in records:
            if record.kind == "measurement":
                self.here.told(record, self._fault)

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """What a plug-in prints isn't our output."""
        with redirect_stdout(sys.stderr), super().step(step):
            yield

    def attempt(
        self,
        metric: Metric,
        base: Record,
        ask: Callable[[Draft], tuple[Measurement, Cost | None]],
    ) -> Record:
        self._fault = None

        def asked(draft: Draft) -> tuple[Measurement, Cost | None]:
            try:
                return ask(draft)
            except InputError as error:
                self._fault = error
                raise

        return super().attempt(metric, base, asked)
