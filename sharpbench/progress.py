"""How far a run is: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sharpbench.console import aside, escape, print_line, verbose

if TYPE_CHECKING:
    from sharpbench.suite.forecast import Expected
    from sharpbench.suite.outline import AnyPlan
    from sharpbench.suite.task import Notify, SubjectOutcome

__all__ = ["counted", "progress"]


@contextmanager
def progress(
    plan: AnyPlan, expected: Sequence[Expected]
) -> Iterator[tuple[Notify, Callable[[SubjectOutcome], None]]]:
    """A bar with an ETA on a terminal and in a notebook, plain lines elsewhere.

    The bar measures work by what each subject is ``expected`` to take; measurements of which nothing is
    recorded count as the others' average.
    """
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    done = 0

    def line(outcome: SubjectOutcome, *, shown: bool = True) -> None:
        nonlocal done
        done += 1
        worked = outcome.trained or outcome.measured
        state = "failed" if outcome.problems else "done" if worked else "cached"
        print_line(f"[{done}/{len(plan.subjects)}] {outcome.label}: {state}", shown=shown)

    if not (aside.is_terminal or aside.is_jupyter) or aside.quiet:
        yield lambda text, dealt_with: None, line
        return
    columns = (
        TextColumn("[bold]{task.fields[suite]}"),
        BarColumn(),
        TextColumn("{task.fields[dealt]}/{task.fields[asked]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.description}"),
    )
    with Progress(*columns, console=aside, transient=False) as bar:
        asked = {s.key: len(plan.asked(s)) for s in plan.subjects}
        work = _work(plan, expected)
        task = bar.add_task(
            "", total=sum(work.values()), suite=plan.name, dealt=0, asked=sum(asked.values())
        )
        dealt, finished, left = 0, 0.0, dict(work)

        def notify(text: str, dealt_with: int) -> None:
            nonlocal dealt
            if text:
                # Parameters are left out and the rest cut, so that the bar keeps its place.
                plain = re.sub(r"\([^()]*\)", "", text)[: max(aside.width - 72, 0)]
                bar.update(task, description=escape(plain))
            dealt = min(dealt + dealt_with, sum(asked.values()))
            if dealt_with and left:
                each = sum(left.values()) / max(sum(asked[key] for key in left), 1)
                bar.advance(task, min(dealt_with * each, bar.tasks[0].remaining or 0.0))
                bar.update(task, dealt=dealt)

        def finish(outcome: SubjectOutcome) -> None:
            nonlocal dealt, finished
            line(outcome, shown=verbose())
            finished += left.pop(outcome.key)
            dealt = max(dealt, sum(n for key, n in asked.items() if key not in left))
            bar.update(task, completed=max(bar.tasks[0].completed, finished), dealt=dealt)

        yield notify, finish


@contextmanager
def counted(total: int) -> Iterator[Notify]:
    """A bar of ``total`` steps on a terminal, nothing elsewhere. What is printed meanwhile stands above
    it, or goes where it is piped to."""
    if not aside.is_terminal or aside.quiet:
        yield lambda text, done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.description}"),
    )
    into = sys.stdout.isatty()
    with Progress(*columns, console=aside, transient=True, redirect_stdout=into) as bar:
        task = bar.add_task("", total=total)

        def notify(text: str, done: int) -> None:
            if text:
                bar.update(task, description=escape(text[: max(aside.width - 50, 0)]))
            bar.advance(task, done)

        yield notify


def _work(plan: AnyPlan, expected: Sequence[Expected]) -> dict[str, float]:
    """The work of each subject by its key, in seconds where any are known; 1 each where nothing is left."""
    seconds = sum(e.seconds for e in expected)
    known = sum(e.measurements - e.unlike for e in expected)
    each = seconds / known if seconds and known else 1.0
    work = {
        s.key: e.seconds + each * e.unlike for s, e in zip(plan.subjects, expected, strict=True)
    }
    return work if sum(work.values()) else dict.fromkeys(work, 1.0)
