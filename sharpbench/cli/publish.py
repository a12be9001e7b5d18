"""``sharpbench publish``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from sharpbench.cli.options import OpenOption, ran_suites
from sharpbench.cli.report import opened
from sharpbench.console import aside, escape, out
from sharpbench.errors import InputError, nearest_names

__all__ = ["publish"]


def publish(
    site: Annotated[Path, typer.Argument(help="The folder that becomes the site.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results folders, bundles, reports, or folders of reports. Default: results."
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this suite; may stand several times. Default: all there are.",
            autocompletion=ran_suites,
        ),
    ] = None,
    open_: OpenOption = False,
) -> None:
    """Write a static site: a page for each suite, an index, and a leaderboard of all metrics.

    Each metric and protocol is told with its version, and versions are not mixed: what does not go together
    is named, and nothing is written. JSON stands beside every table. No page asks another host for anything:
    any web server, or a file system, will do.

    [bold]Examples[/bold]

      sharpbench publish site

      sharpbench publish site results colleague.zip reports/rank_my_metric --suite quick --suite invariance
    """
    from sharpbench.analysis.results import Results
    from sharpbench.report.leaderboard import publish as written
    from sharpbench.results.bundle import is_bundle
    from sharpbench.results.bundle import opened as unpacked

    views, reports = [], []
    there: set[str] = set()
    with ExitStack() as stack:
        for source in sources or [Path("results")]:
            if not source.exists():
                raise InputError(f"there is no {source}")
            found = _reports_in(source)
            for folder in found:
                there.add(folder.name)
                if not suite or folder.name in suite:
                    reports.append(folder)
            if found:
                continue
            if source.is_file() and not is_bundle(source):
                raise InputError(
                    f"{source} is neither a results folder, nor a bundle, nor a report"
                )
            store = stack.enter_context(unpacked(source))
            names = sorted(store.documents("suites"))
            if not names:
                raise InputError(f"no suite has run in {source}, and it holds no report")
            for name in names:
                there.add(name)
                if not suite or name in suite:
                    with aside.status(escape(f"{name} …")):
                        views.append(Results.load(store.root, name))
        for name in suite or []:
            if name not in there:
                raise InputError(
                    f"no suite {name!r} in what is given. {nearest_names(name, there)}"
                )
        with aside.status("writing the site"):
            page = written(site, views, reports)
    out.print(escape(f"site: {page}, {page.with_name('leaderboard.html')}"), soft_wrap=True)
    if open_:
        opened(page)


def _reports_in(source: Path) -> list[Path]:
    """The reports that a folder is, or holds."""
    if (source / "scorecard.json").is_file():
        return [source]
    return [path.parent for path in sorted(source.glob("*/scorecard.json"))]
