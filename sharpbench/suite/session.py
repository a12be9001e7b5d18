"""A run of a plan over a results folder: provenance, manifest, tasks, outcomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sharpbench.errors import InputError
from sharpbench.results import provenance
from sharpbench.results.store import ResultsStore
from sharpbench.suite.engines.base import Engine
from sharpbench.suite.forecast import Expected, forecast
from sharpbench.suite.outline import AnyPlan, SubjectLike
from sharpbench.suite.remaining import Remaining
from sharpbench.suite.survey import Standing, survey
from sharpbench.suite.task import Notify, SubjectOutcome, SubjectTask

__all__ = ["Intent", "intents", "require_data", "run_plan"]


def run_plan(
    plan: AnyPlan,
    full_plan: AnyPlan,
    store: ResultsStore,
    data: Path,
    *,
    suite_text: str,
    command: str,
    engine: Engine,
    notify: Notify,
    finished: Callable[[SubjectOutcome], None],
    standings: Sequence[Standing] | None = None,
) -> list[SubjectOutcome]:
    """Bring the results folder, which the caller holds, up to ``plan``.

    The manifest, from which the report knows what belongs to the suite, is that of ``full_plan``:
    with ``--only`` the other subjects keep their place. ``standings``: of the plan's subjects, by a fresh
    `survey`, if the caller has made one. Where all is settled the outline of a plan is enough.

    Raises InputError, also when all is done, if what a subject recorded was taken away meanwhile.
    """
    with closing(engine):
        run = provenance.new_run_id()
        standings = standings or survey(plan, store, fresh=True)
        found = provenance.collect(
            command,
            device=plan.subjects[0].device,
            workers=engine.workers,
            threads=plan.threads,
            computes=not all(standing.settled for standing in standings),
        )
        store.write_document("runs", run, found)
        store.write_document(
            "suites",
            plan.name,
            {
                "suite": suite_text,
                "subjects": [s.key for s in full_plan.subjects if s.kind != "problem"],
                "problems": [s.key for s in full_plan.subjects if s.kind == "problem"],
                "plan_keys": sorted(full_plan.record_keys()),
                "title": full_plan.title,
                "description": full_plan.description,
                "highlight": list(full_plan.highlight),
                "expects_nothing": list(full_plan.expects_nothing),
                "run": run,
            },
        )
        outcomes = []
        waiting = []
        for subject, standing in zip(plan.subjects, standings, strict=True):
            if standing.settled:
                done = SubjectOutcome(
                    subject.key, subject.label, trained=False, measured=0, problems=standing.problems,
                    unproven=standing.unproven, recorded=store.subject(subject.key).recorded() or 0,
                )  # fmt: skip
                finished(done)
                outcomes.append(done)
            else:
                waiting.append(subject)
        tasks = _tasks(plan, full_plan, waiting, store, data, run, engine) if waiting else []
        if tasks:
            with closing(engine.run(tasks, notify)) as run_one:
                for outcome in run_one:
                    store.check_held()
                    finished(outcome)
                    outcomes.append(outcome)
        store.check_held()
        store.check_recorded({o.key: o.recorded for o in outcomes if o.recorded is not None})
        return outcomes


def _tasks(
    plan: AnyPlan,
    full_plan: AnyPlan,
    waiting: Sequence[SubjectLike],
    store: ResultsStore,
    data: Path,
    run: str,
    engine: Engine,
) -> list[SubjectTask]:
    from sharpbench.suite.plan import Plan  # not above: what is left is told without plug-ins

    if not isinstance(plan, Plan) or not isinstance(full_plan, Plan):
        raise TypeError("there is work to do, for which the plan itself is needed")
    alone = dataclasses.replace(plan, subjects=())  # each task is sent by itself
    return [
        SubjectTask(
            plan=alone,
            subject=subject,  # type: ignore[arg-type]
            results=store.root.resolve(),
            data=data,
            run=run,
            time_costs=full_plan.timed(subject),  # type: ignore[arg-type]
            shared_machine=min(engine.workers, len(plan.subjects)) > 1,
        )
        for subject in waiting
    ]


@dataclass(frozen=True)
class Intent:
    """What a run would do for one subject."""

    subject: SubjectLike
    training: str
    """``cached``, or why it would be trained or can't be; ``none`` for a problem."""
    to_measure: int
    measurements: int
    """All that belong to it."""
    to_evaluate: bool
    expected: Expected


def intents(plan: AnyPlan, results: Path, data: Path) -> list[Intent]:
    """What a run of ``plan`` would do; reads the results folder and loads no data.

    Writes nothing but the columns beside the records, where there are some.
    """
    store = ResultsStore(results)
    standings = survey(plan, store)
    expected = forecast(plan, store, standings)
    return [
        _intent(plan, subject, standing.left, data, seconds)
        for subject, standing, seconds in zip(plan.subjects, standings, expected, strict=True)
    ]


def _intent(
    plan: AnyPlan,
    subject: SubjectLike,
    left: Remaining,
    data: Path,
    expected: Expected,
) -> Intent:
    training = left.training or ("cached" if subject.kind == "trained" else "none")
    if reason := subject.missing(data):
        training = f"can't: {reason}"
    everything = len(plan.asked(subject))
    return Intent(subject, training, len(left.questions), everything, left.evaluation, expected)


def require_data(plan: AnyPlan, root: Path) -> None:
    """Raises InputError with the command that brings it, if a dataset's files are not under ``root``."""
    trained = [s for s in plan.subjects if s.kind == "trained"]
    missing = {s.dataset_name: reason for s in trained if (reason := s.missing(root))}
    if missing:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in missing.items())
        raise InputError(
            f"data is missing; nothing was trained.\n{lines}\n"
            f"Run: sharpbench data prepare {' '.join(missing)}"
        )
