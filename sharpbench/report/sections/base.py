"""The contract of a section: what one part of the page needs, says and shows."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.figure import Figure

from sharpbench.analysis.results import Results
from sharpbench.registry import Plugin

__all__ = ["Picture", "Section"]


@dataclass(frozen=True)
class Picture:
    """A figure with what a reader needs to read it.

    ``name``: the figure's anchor is ``figure-<name>``; ``draw``: draws it, in the page's style, once it is
    needed; ``caption``: in words what is drawn, also for those who don't see it.
    """

    name: str
    draw: Callable[[], Figure]
    caption: str


@dataclass(frozen=True)
class Section(Plugin, ABC):
    """A part of the report. Subclasses are frozen dataclasses; the docstring says what the part answers.

    Every method gets the `Results` of the suite; a table is a function of them that `computed_once`
    decorates, so that sections share it. A section whose method raises is named on the page with the
    reason, and the others are shown.

    Class attributes
    ----------------
    name: the anchor.
    title: the heading.
    link: what the navigation calls it; the title if empty.
    place: where it stands: pages are ordered by it. The scorecard 1, Right? 20,
        Invariant? 30, Predictive? 40, Costly? 50, training 60, all figures 70, what failed 80, provenance 90.
    needs: the kinds of records that call it up, any of them; none: it always stands there.
    """

    title: ClassVar[str]
    link: ClassVar[str] = ""
    place: ClassVar[float] = 65.0
    needs: ClassVar[frozenset[str]] = frozenset()

    def applies(self, results: Results) -> bool:
        """Whether the page of ``results`` has this section."""
        return not self.needs or bool(self.needs & results.kinds)

    def subtitle(self, results: Results) -> str:
        """What stands small beside the heading."""
        return ""

    def sentences(self, results: Results) -> list[str]:
        """What was found, in words, folded under the heading; each computed from the tables."""
        return []

    def tables(self, results: Results) -> Mapping[str, Any]:
        """What the fragment shows, by the names that it uses; frames arrive there as lists of rows."""
        return {}

    def pictures(self, results: Results) -> Iterable[Picture]:
        """The figures; the fragment places each by ``{{ picture("name") }}``."""
        return ()

    def fragment(self) -> str | None:
        """The jinja2 template of what stands under the heading, or None: every table and picture in turn.

        By default the file ``templates/sections/<name>.html`` beside the class's file or one folder above.
        """
        here = Path(inspect.getfile(type(self))).parent
        for folder in (here, here.parent):
            file = folder / "templates" / "sections" / f"{self.name}.html"
            if file.is_file():
                return file.read_text("utf-8")
        return None
