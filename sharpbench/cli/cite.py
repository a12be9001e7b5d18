"""``sharpbench cite``."""

from __future__ import annotations

from typing import Annotated

import typer

from sharpbench.cli.options import PluginOption, metric_names

__all__ = ["cite"]

_TITLE = "sharpbench: which sharpness metric of a neural network can be trusted?"


def cite(
    metrics: Annotated[
        list[str] | None,
        typer.Argument(help="Metrics whose source is told as well.", autocompletion=metric_names),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Print how to cite this version in BibTeX, and where metrics come from.

    [bold]Example[/bold]

      sharpbench cite hessian_trace sam_sharpness
    """
    from sharpbench.metrics import metrics as registry
    from sharpbench.plugins import load_plugins, plugin_name
    from sharpbench.results.provenance import git_state
    from sharpbench.version import __version__

    for place in plugin or []:
        load_plugins(place)
    asked = [registry.get(plugin_name("metric", name)) for name in metrics or []]
    state = git_state()
    commit = f"commit {state['commit']}" if state else ""
    changed = ", with changes" if state and state["dirty"] else ""
    entry = {
        "author": "{The sharpbench maintainers}",
        "title": f"{{{_TITLE}}}",
        "version": __version__,
        "note": f"{commit}{changed}",
    }
    lines = [f"  {key} = {{{value}}}," for key, value in entry.items() if value]
    print("@software{sharpbench,", *lines, "}", sep="\n")
    for cls in asked:
        print(f"\n{cls.name}, version {cls.version}: {cls.reference or 'no source is told'}")
