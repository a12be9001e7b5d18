"""A suite as it is to be run here: found, read, expanded, and carried out."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharpbench.datasets.files import data_root
from sharpbench.device import check_device
from sharpbench.errors import guarded
from sharpbench.plugins import KINDS, load_plugins, registry_of
from sharpbench.results.store import ResultsStore
from sharpbench.suite.engines import Engine
from sharpbench.suite.forecast import Expected, forecast
from sharpbench.suite.plan import NetworkPlan, Plan, ProblemPlan, SubjectPlan, make_plan
from sharpbench.suite.session import require_data, run_plan
from sharpbench.suite.spec import SuiteFile, find_suite, load_suite
from sharpbench.suite.survey import survey
from sharpbench.suite.task import Notify, SubjectOutcome

if TYPE_CHECKING:
    from sharpbench.metrics import Metric

__all__ = ["Prepared", "RunSummary", "Watching", "prepare"]

Watching = Callable[
    [Plan, Sequence[Expected]],
    AbstractContextManager[tuple[Notify, Callable[[SubjectOutcome], None]]],
]
"""Shows how far a run of a plan is; of each subject it is told what it is expected to take."""


def _nobody_watches(
    plan: Plan, expected: Sequence[Expected]
) -> AbstractContextManager[tuple[Notify, Callable[[SubjectOutcome], None]]]:
    return nullcontext((lambda text, dealt_with: None, lambda outcome: None))


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    ``subjects``: all that were dealt with; ``trained``: networks; ``cached``: those that were trained before;
    ``untrained``: those whose training failed; ``own``: networks of the user's own;
    ``problems``; ``records`` that were written; ``failed``: trainings and measurements, by label with the
    reason; ``mended``: what was damaged in the results folder, and where it was moved to; ``unproven``:
    records of an older version, which wrote no checksums.
    """

    subjects: int
    trained: int
    cached: int
    untrained: int
    own: int
    problems: int
    records: int
    failed: tuple[str, ...]
    mended: tuple[str, ...]
    unproven: int

    @classmethod
    def of(cls, plan: Plan, outcomes: Sequence[SubjectOutcome]) -> RunSummary:
        """The sum of what was done for each subject of a plan."""
        kinds = {subject.key: type(subject) for subject in plan.subjects}
        counts = Counter(kinds[outcome.key] for outcome in outcomes)
        trained = sum(outcome.trained for outcome in outcomes)
        untrained = sum(
            kinds[o.key] is SubjectPlan
            and not o.trained
            and any(told.startswith(f"{o.label}: ") for told in o.problems)
            for o in outcomes
        )
        return cls(
            subjects=len(outcomes),
            trained=trained,
            cached=counts[SubjectPlan] - trained - untrained,
            untrained=untrained,
            own=counts[NetworkPlan],
            problems=counts[ProblemPlan],
            records=sum(outcome.measured for outcome in outcomes),
            failed=tuple(problem for outcome in outcomes for problem in outcome.problems),
            mended=tuple(text for outcome in outcomes for text in outcome.mended),
            unproven=sum(outcome.unproven for outcome in outcomes),
        )


@dataclass(frozen=True)
class Prepared:
    """A suite file with what is to be done of it: ``plan``, a part of the ``whole`` or all of it."""

    file: SuiteFile
    plan: Plan
    whole: Plan
    data: Path
    """Where the files of datasets are."""

    def not_installed(self) -> list[str]:
        """What is asked and nobody can answer here, known before anything is run: a sentence an
        installation."""
        networks = sum(not isinstance(subject, ProblemPlan) for subject in self.plan.subjects)
        asked = [(question.metric, networks) for question in self.plan.measurements]
        for subject in self.plan.subjects:
            if isinstance(subject, ProblemPlan):
                asked += [(question.metric, 1) for question in subject.measurements]
        each = {id(metric): metric for metric, _ in asked}
        known = {key: _missing(metric) for key, metric in each.items()}
        waiting: Counter[str] = Counter()
        for metric, number in asked:
            if reason := known[id(metric)]:
                waiting[reason] += number
        total = f"{sum(number for _, number in asked):,}"
        return [
            f"{number:,} of {total} measurements: {reason}"
            for reason, number in waiting.items()
            if number
        ]

    def carry_out(
        self,
        results: Path,
        *,
        engine: Engine,
        watch: Watching = _nobody_watches,
        say: Callable[[str], None] = lambda text: None,
        wait: bool = True,
    ) -> RunSummary:
        """Bring a results folder up to the plan; what was done for it.

        ``say`` is told who holds the folder meanwhile. Raises InputError where data are missing, or, unless
        ``wait``, another run holds the folder. What is recorded when it is interrupted stays.
        """
        require_data(self.plan, self.data)
        store = ResultsStore(results)
        with store.locked(wait=wait, say=say):
            standings = survey(self.plan, store, fresh=True)
            with watch(self.plan, forecast(self.plan, store, standings)) as (notify, finish):
                outcomes = run_plan(
                    self.plan,
                    self.whole,
                    store,
                    self.data,
                    suite_text=self.file.text,
                    command=_command(),
                    engine=engine,
                    notify=notify,
                    finished=finish,
                    standings=standings,
                )
        return RunSummary.of(self.plan, outcomes)


def prepare(
    suite: str | Path | SuiteFile,
    *,
    device: str = "cpu",
    here: bool = True,
    only: Iterable[str] = (),
    plugins: Iterable[str | Path] = (),
    data: Path | None = None,
) -> Prepared:
    """Read a suite, given by the name of a shipped one or by its file, and expand it.

    ``here``: whether the device is one of this machine; ``only``: subjects whose label contains one of these
    texts; ``plugins``: files and modules whose plug-ins can be named; ``data``: where the files of datasets
    are. Raises InputError for whatever is wrong.
    """
    if here:
        check_device(device)
    for place in plugins:
        load_plugins(place)
    file = suite if isinstance(suite, SuiteFile) else load_suite(find_suite(str(suite)))
    for kind in KINDS:
        if kind != "section":  # those are the report's
            registry_of(kind).names()  # announces plug-ins whose name is taken
    root = data or data_root()
    whole = make_plan(file, device=device, data=root)
    return Prepared(file, whole.only(only), whole, root)


def _command() -> str:
    """What this process was asked, for the provenance."""
    program = Path(sys.argv[0] or "python").name
    return shlex.join(["sharpbench" if program == "__main__.py" else program, *sys.argv[1:]])


def _missing(metric: Metric) -> str | None:
    try:
        with guarded():
            return metric.missing()
    except Exception:  # to be asked raises it as well, and is recorded
        return None
