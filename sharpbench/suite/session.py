"""A run of a plan over a results folder: provenance, manifest, tasks, outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sharpbench.results import provenance
from sharpbench.results.record import FINAL, content_key
from sharpbench.results.store import ResultsStore
from sharpbench.suite.execute import execute
from sharpbench.suite.plan import Plan, ProblemPlan, SubjectPlan
from sharpbench.suite.run import Notify, SubjectOutcome, SubjectTask

__all__ = ["Intent", "intents", "run_plan"]


def run_plan(
    plan: Plan,
    full_plan: Plan,
    store: ResultsStore,
    data: Path,
    *,
    suite_text: str,
    command: str,
    workers: int,
    notify: Notify,
    finished: Callable[[SubjectOutcome], None],
) -> list[SubjectOutcome]:
    """Bring the results folder, which the caller holds, up to ``plan``.

    The manifest, from which the report knows what belongs to the suite, is that of ``full_plan``:
    with ``--only`` the other subjects keep their place.
    """
    run = provenance.new_run_id()
    device = plan.subjects[0].device
    found = provenance.collect(command, device=device, workers=workers, threads=plan.threads)
    store.write_document("runs", run, found)
    store.write_document(
        "suites",
        plan.name,
        {
            "suite": suite_text,
            "subjects": [s.key for s in full_plan.subjects if isinstance(s, SubjectPlan)],
            "problems": [s.key for s in full_plan.subjects if isinstance(s, ProblemPlan)],
            "plan_keys": sorted(full_plan.record_keys()),
            "run": run,
        },
    )
    lowest_seed = min(s.seed for s in full_plan.subjects)
    tasks = [
        SubjectTask(
            plan=plan,
            subject=subject,
            results=store.root.resolve(),
            data=data,
            run=run,
            time_costs=subject.seed == lowest_seed,
            shared_machine=min(workers, len(plan.subjects)) > 1,
        )
        for subject in plan.subjects
    ]
    outcomes = []
    for outcome in execute(tasks, workers=workers, notify=notify):
        finished(outcome)
        outcomes.append(outcome)
    return outcomes


@dataclass(frozen=True)
class Intent:
    """What a run would do for one subject."""

    subject: SubjectPlan | ProblemPlan
    training: str
    """``cached``, or why it would be trained; ``none`` for a problem."""
    to_measure: int
    measurements: int
    """All that belong to it."""


def intents(plan: Plan, results: Path, data: Path) -> list[Intent]:
    """What a run of ``plan`` would do; reads the results folder, writes nothing, loads no data."""
    store = ResultsStore(results)
    return [_intent(plan, subject, store, data) for subject in plan.subjects]


def _intent(
    plan: Plan, subject: SubjectPlan | ProblemPlan, store: ResultsStore, data: Path
) -> Intent:
    asked = plan.asked(subject)
    everything = len(asked)
    intent = partial(Intent, subject, measurements=everything)
    if reason := subject.missing(data):
        return intent(f"can't: {reason}", everything)
    folder = store.subject(subject.key)
    description = folder.read()
    of_problem = isinstance(subject, ProblemPlan)
    if description is None:
        return intent("none" if of_problem else "new", everything)
    if description["status"] == "diverged":
        return intent("cached", 0)
    if description["status"] not in {"trained", "known"}:
        return intent(f"again: {description['reason']}", everything)
    done = {r.key for r in folder.records() if r.status in FINAL}
    keys = (content_key([subject.key, description["weights"], m.key]) for m in asked)
    to_measure = sum(key not in done for key in keys)
    if of_problem:
        return intent("none", to_measure)
    along = {plan.trajectory.metric_key(m) for m in plan.trajectory.metrics}
    if not along <= set(description["trajectories"]):
        return intent("again: to measure along the way", to_measure)
    return intent("cached", to_measure)
