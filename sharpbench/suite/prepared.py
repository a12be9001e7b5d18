"""A suite as it is to be run here: found, read, expanded, and carried out."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sharpbench.datasets.files import data_root
from sharpbench.device import check_device
from sharpbench.plugins import KINDS, load_plugins, registry_of
from sharpbench.results.store import ResultsStore
from sharpbench.suite.engines.base import Engine
from sharpbench.suite.forecast import Expected, forecast
from sharpbench.suite.outline import AnyPlan
from sharpbench.suite.remembered import Memory, Unproven, outline_of, warnings_as_doubts
from sharpbench.suite.session import require_data, run_plan
from sharpbench.suite.spec import SuiteFile, find_suite, load_suite
from sharpbench.suite.survey import survey
from sharpbench.suite.task import Notify, SubjectOutcome

if TYPE_CHECKING:
    from sharpbench.suite.plan import Plan

__all__ = ["Prepared", "RunSummary", "Watching", "prepare"]

Watching = Callable[
    [AnyPlan, Sequence[Expected]],
    AbstractContextManager[tuple[Notify, Callable[[SubjectOutcome], None]]],
]
"""Shows how far a run of a plan is; of each subject it is told what it is expected to take."""


def _nobody_watches(
    plan: AnyPlan, expected: Sequence[Expected]
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
    def of(cls, plan: AnyPlan, outcomes: Sequence[SubjectOutcome]) -> RunSummary:
        """The sum of what was done for each subject of a plan."""
        kinds = {subject.key: subject.kind for subject in plan.subjects}
        counts = Counter(kinds[outcome.key] for outcome in outcomes)
        trained = sum(outcome.trained for outcome in outcomes)
        untrained = sum(
            kinds[o.key] == "trained"
            and not o.trained
            and any(told.startswith(f"{o.label}: ") for told in o.problems)
            for o in outcomes
        )
        return cls(
            subjects=len(outcomes),
            trained=trained,
            cached=counts["trained"] - trained - untrained,
            untrained=untrained,
            own=counts["own"],
            problems=counts["problem"],
            records=sum(outcome.measured for outcome in outcomes),
            failed=tuple(problem for outcome in outcomes for problem in outcome.problems),
            mended=tuple(text for outcome in outcomes for text in outcome.mended),
            unproven=sum(outcome.unproven for outcome in outcomes),
        )


class Prepared:
    """A suite file with what is to be done of it.

    Attributes
    ----------
    file: the suite. data: where the files of datasets are.
    known: what is known of the plan, or of the part of it that is asked for: itself, or its outline.
    """

    def __init__(
        self,
        file: SuiteFile,
        data: Path,
        *,
        device: str,
        only: Iterable[str] = (),
        memory: Memory | None = None,
    ) -> None:
        self.file, self.data = file, data
        self._device, self._only, self._memory = device, tuple(only), memory
        self._doubts: list[str] = []
        self._outline = memory.recall() if memory else None
        self.known: AnyPlan = self._outline.only(self._only) if self._outline else self.plan

    @cached_property
    def whole(self) -> Plan:
        """The plan of the whole suite, which is made when it is first asked for."""
        from sharpbench.suite.plan import make_plan  # not above: an outline may be enough

        with warnings_as_doubts(self._doubts):
            return make_plan(self.file, device=self._device, data=self.data, doubts=self._doubts)

    @cached_property
    def plan(self) -> Plan:
        """The part of it that is asked for."""
        return self.whole.only(self._only)

    def not_installed(self) -> list[str]:
        """What is asked and nobody can answer here, known before anything is run: a sentence an
        installation."""
        plan = self.known
        networks = [subject for subject in plan.subjects if subject.kind != "problem"]
        asked = [(question, len(networks)) for s in networks[:1] for question in plan.asked(s)]
        for subject in plan.subjects:
            if subject.kind == "problem":
                asked += [(question, 1) for question in plan.asked(subject)]
        waiting: Counter[str] = Counter()
        for question, number in asked:
            if reason := question.missing():
                waiting[reason] += number
        total = f"{sum(number for _, number in asked):,}"
        return [
            f"{number:,} of {total} measurements: {reason}" for reason, number in waiting.items()
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
        require_data(self.known, self.data)
        store = ResultsStore(results)
        with store.locked(wait=wait, say=say):
            standings = survey(self.known, store, fresh=True)
            if not all(standing.settled for standing in standings) and not self._make():
                standings = survey(self.known, store, fresh=True)
            self.remember()
            with watch(self.known, forecast(self.known, store, standings)) as (notify, finish):
                outcomes = run_plan(
                    self.known,
                    self._outline or self.whole,
                    store,
                    self.data,
                    suite_text=self.file.text,
                    command=_command(),
                    engine=engine,
                    notify=notify,
                    finished=finish,
                    standings=standings,
                )
        return RunSummary.of(self.known, outcomes)

    def remember(self) -> None:
        """Let the results folder remember the plan, if this process made it and it can be told what it
        depends on."""
        if self._memory and not self._outline:
            self._memory.keep(self.whole, self.data, self._doubts)

    def _make(self) -> bool:
        """Make the plan, for there is work to do; whether what was known of it is what it says."""
        outline, self._outline, self.known = self._outline, None, self.plan
        if outline is None:
            return True
        with suppress(Unproven):
            return not self._doubts and outline_of(self.whole, self.data) == outline
        return False


def prepare(
    suite: str | Path | SuiteFile,
    *,
    device: str = "cpu",
    here: bool = True,
    only: Iterable[str] = (),
    plugins: Iterable[str | Path] = (),
    data: Path | None = None,
    remembered_in: Path | None = None,
) -> Prepared:
    """Read a suite, given by the name of a shipped one or by its file, and expand it.

    ``here``: whether the device is one of this machine; ``only``: subjects whose label contains one of these
    texts; ``plugins``: files and modules whose plug-ins can be named; ``data``: where the files of datasets
    are; ``remembered_in``: a results folder that may remember the plan. Raises InputError for whatever is
    wrong.
    """
    if here:
        check_device(device)
    own = [load_plugins(place) for place in plugins]
    file = suite if isinstance(suite, SuiteFile) else load_suite(find_suite(str(suite)))
    for kind in KINDS:
        if kind != "section":  # those are the report's
            registry_of(kind).names()  # announces plug-ins whose name is taken
    memory = None
    if remembered_in is not None and not own:
        memory = Memory(remembered_in, file, device=device)
    return Prepared(file, data or data_root(), device=device, only=only, memory=memory)


def _command() -> str:
    """What this process was asked, for the provenance."""
    program = Path(sys.argv[0] or "python").name
    return shlex.join(["sharpbench" if program == "__main__.py" else program, *sys.argv[1:]])
