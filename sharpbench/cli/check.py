"""``sharpbench check``."""

from __future__ import annotations

from typing import Annotated

import typer

from sharpbench.cli.console import escape, out
from sharpbench.cli.exits import SOME_FAILED

__all__ = ["check"]


def check(
    metric: Annotated[str, typer.Argument(help="Name of a metric, or package.module:Class.")],
) -> None:
    """Check that a metric keeps its contract: on small trained networks, in a minute.

    It must be deterministic for a seed, leave the model bit-identical, count its work, and stay put
    under the kinds of changes it names in invariant_under.
    """
    from sharpbench.suite.conformance import check_metric

    findings = check_metric(metric)
    for finding in findings:
        mark = "[green]passed[/]" if finding.passed else "[red]failed[/]"
        out.print(f"{mark}  {escape(finding.title)}: {escape(finding.detail)}", soft_wrap=True)
    if not all(f.passed for f in findings):
        raise typer.Exit(SOME_FAILED)
