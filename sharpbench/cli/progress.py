"""How far a run is: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sharpbench.cli.console import err, escape

if TYPE_CHECKING:
    from sharpbench.suite.plan import Plan
    from sharpbench.suite.task import Notify, SubjectOutcome

__all__ = ["progress"]


@contextmanager
def progress(
    plan: Plan,
) -> Iterator[tuple[Notify, Callable[[SubjectOutcome], None]]]:
    """A bar with an ETA on a terminal, plain lines elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if not err.is_terminal:
        done = 0

        def line(outcome: SubjectOutcome) -> None:
            nonlocal done
            done += 1
            worked = outcome.trained or outcome.measured
            state = "failed" if outcome.problems else "done" if worked else "cached"
            err.print(
                f"[{done}/{len(plan.subjects)}] {outcome.label}: {state}",
                markup=False,
                soft_wrap=True,
            )

        yield lambda text, dealt_with: None, line
        return
    columns = (
        TextColumn("[bold]{task.fields[suite]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.description}"),
    )
    with Progress(*columns, console=err, transient=False) as bar:
        work = {s.key: len(plan.asked(s)) for s in plan.subjects}
        task = bar.add_task("", total=sum(work.values()), suite=plan.name)
        finished = 0

        def notify(text: str, dealt_with: int) -> None:
            if text:
                # Parameters are left out and the rest cut, so that the bar keeps its place.
                plain = re.sub(r"\([^()]*\)", "", text)[: max(err.width - 72, 0)]
                bar.update(task, description=escape(plain))
            bar.advance(task, dealt_with)

        def finish(outcome: SubjectOutcome) -> None:
            nonlocal finished
            finished += work[outcome.key]
            bar.update(task, completed=max(bar.tasks[0].completed, finished))

        yield notify, finish
