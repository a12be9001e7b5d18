"""``sharpbench check``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import PluginOption, metric_names, parse_parameters
from sharpbench.console import escape, out

if TYPE_CHECKING:
    from sharpbench.suite.conformance import Finding

__all__ = ["check", "tell"]


def check(
    metric: Annotated[
        str,
        typer.Argument(
            help="Name of a metric, file.py:Class, or package.module:Class.",
            autocompletion=metric_names,
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of the metric, VALUE as in TOML; may stand several times."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Check that a metric keeps its contract, on three small trained networks.

    It must be deterministic for a seed, leave the model bit-identical, count its work, and stay put under
    the kinds of changes that it names in invariant_under. It is asked some hundred times: seconds for a cheap
    metric, minutes for one that takes many products.

    [bold]Examples[/bold]

      sharpbench check my_metric.py

      sharpbench check hessian_trace --param max_probes=200
    """
    from sharpbench.plugins import load_plugins, plugin_name
    from sharpbench.suite.conformance import check_metric

    for place in plugin or []:
        load_plugins(place)
    name = plugin_name("metric", metric)
    findings = check_metric(name, parse_parameters(param or []))
    tell(findings, name)
    if not all(f.passed for f in findings):
        raise typer.Exit(SOME_FAILED)


def tell(findings: Sequence[Finding], name: str, *, brief: bool = False) -> None:
    """Print what was found, with ``brief`` only what failed, and at the end what to do about it."""
    failed = [finding for finding in findings if not finding.passed]
    for finding in failed if brief else findings:
        mark = "[green]passed[/]" if finding.passed else "[red]failed[/]"
        out.print(f"{mark}  {escape(finding.title)}: {escape(finding.detail)}", soft_wrap=True)
    if not brief:
        out.print()
    if not failed:
        out.print(
            escape(f"{name} keeps its contract: {len(findings)} checks passed"), soft_wrap=True
        )
        return
    out.print(escape(f"{name}: {len(failed)} of {len(findings)} checks failed"), soft_wrap=True)
    for mend in dict.fromkeys(finding.mend for finding in failed if finding.mend):
        out.print(f"  → {escape(mend)}", soft_wrap=True)
