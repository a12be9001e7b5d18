"""The results of a suite as users hold them: the scorecard, the tables and the pictures of its page."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sharpbench.analysis import failures
from sharpbench.analysis import results as analysed
from sharpbench.analysis.scorecard import QUESTIONS
from sharpbench.errors import InputError, nearest_names
from sharpbench.notebook import facts_table, rows_table
from sharpbench.report.card import document
from sharpbench.report.format import count
from sharpbench.report.page import write_page
from sharpbench.report.sections import Picture, Section, sections
from sharpbench.report.sections.scorecard import marked
from sharpbench.report.site import write_index
from sharpbench.report.svg import figure_style
from sharpbench.report.tables import tables
from sharpbench.results import store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sharpbench.suite.prepared import RunSummary

__all__ = ["Results", "load_records", "report"]

_SHOWN = 12
"""Rows of the scorecard that a notebook shows."""


class Results(analysed.Results):
    """What a suite left in a results folder: what `run` returns, or ``Results.load("results", "quick")``.

    >>> results.scorecard()[["right", "invariant", "predictive", "costly"]]
    >>> results.figures().groupby("name")["value"].median()
    >>> results.plot("scatter").savefig("scatter.png")

    ``frame`` holds all that is recorded, with the logs of training; ``suite`` is the suite's name.
    """

    summary: RunSummary | None = None
    """What the run that returned this did."""

    def scorecard(self) -> pd.DataFrame:
        """Which metric can be trusted: a row a metric and implementation, as on the first screen of the page.

        ``right``, ``invariant``, ``predictive`` and ``costly`` hold the verdicts, empty where the suite does
        not answer the question; ``right.figure`` … what each rests on, ``right.value``, ``right.low``,
        ``right.high`` and ``right.n`` … as numbers. ``measured``, ``failed`` … count the figures.
        """
        found = []
        for row in document(self, {})["metrics"]:
            cells = row["cells"]
            line = {"metric": row["name"], "implementation": row["implementation"]}
            line |= {"title": row["title"], **{q: cells[q]["word"] for q in QUESTIONS}}
            for question in QUESTIONS:
                line |= {f"{question}.{key}": cells[question][key] for key in _KEPT}
            line |= {word: row["figures"].get(word, 0) for word in failures.WORDS}
            found.append(line)
        columns = ["metric", "implementation", "title", *QUESTIONS]
        return pd.DataFrame(found, columns=None if found else columns).set_index(columns[:2])

    def figures(self) -> pd.DataFrame:
        """Every measured and evaluated figure of networks and problems as they are at the end, a row each.

        Without those along training, and those after a transformation, which `frame` has.
        """
        kept = (self.frame["status"] == "ok") & self.frame["transformation"].isna()
        return _figures_first(self.frame[kept & self.frame["kind"].isin(_FIGURES)])

    def failures(self) -> pd.DataFrame:
        """Trainings and measurements without a figure, equal ones counted together, with the reason."""
        return failures.failures(self)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the page, by the name that it has in the folder ``tables`` beside it.

        A column of such a table may hold intervals, as mappings with ``value``, ``low``, ``high`` and ``n``.
        """
        found = {}
        for section in self._sections():
            own = section.tables(self)
            for name, rows in tables(self, [section]).items():
                table = own[name.removeprefix(f"{section.name}-")]
                found[name] = table if isinstance(table, pd.DataFrame) else pd.DataFrame(rows)
        return found

    def pictures(self) -> dict[str, str]:
        """The names of the page's pictures, each with what it shows in words."""
        return {picture.name: picture.caption for picture in self._pictures()}

    def plot(self, name: str) -> Figure:
        """The picture of that name (`pictures` lists them) as a matplotlib figure.

        Raises InputError with the nearest names if the page has none of that name.
        """
        from matplotlib import pyplot as plt

        there = {picture.name: picture for picture in self._pictures()}
        if name not in there:
            raise InputError(f"no picture {name!r} here. {nearest_names(name, there)}")
        with figure_style():
            figure = there[name].draw()
        plt.close(figure)  # a notebook would show it twice
        return figure

    def _sections(self) -> Iterator[Section]:
        for name in sections.available():
            section = sections.create(name)
            if name != "scorecard" and section.applies(self):  # that is a frame of its own
                yield section

    def _pictures(self) -> Iterator[Picture]:
        for section in self._sections():
            yield from section.pictures(self)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count(n)} {word}" for word, n in failures.outcomes(self).items() if n)
        return f"Results of {self.suite!r}: {self.present} networks, {counts or 'no figures'}"

    def _repr_html_(self) -> str:
        counts = {word: count(n) for word, n in failures.outcomes(self).items() if n}
        top = facts_table(
            self.spec.get("title") or self.suite, {"networks": self.present or None, **counts}
        )
        card: Any = self.scorecard()
        rows = [
            (_named(row.title, implementation), *(marked(getattr(row, q)) for q in QUESTIONS))
            for (_, implementation), row in zip(card.index, card.itertuples(), strict=True)
        ]
        heads = ("metric", *(f"{question.capitalize()}?" for question in QUESTIONS))
        more = f"<p>and {len(rows) - _SHOWN} more</p>" if len(rows) > _SHOWN else ""
        return f"<div>{top}{rows_table(heads, rows[:_SHOWN])}{more}</div>"


_KEPT = ("figure", "value", "low", "high", "measure", "n", "counted", "tied")
"""What the frame has of a cell."""


def report(
    results: Results | str,
    *,
    folder: str | Path = "results",
    reports: str | Path = "reports",
    fresh: bool = False,
) -> Path:
    """Write the page of a suite, ``reports/<suite>/index.html``, and the index over all; the page's path.

    Parameters
    ----------
    results: what `run` or `rank` returned, or the name of a suite that has run.
    folder: the results folder, where a name is given.
    fresh: read every byte of that suite's records again first.

    Raises
    ------
    InputError: there are no results of that suite.
    """
    if isinstance(results, str):
        if fresh:
            store.load_records(folder, suite=results, columns=["kind"], fresh=True)
        view = Results.load(folder, results)
    else:
        view = results
    page = write_page(view, Path(reports) / view.suite, index=True)
    write_index(Path(reports))
    return page


def load_records(
    path: str | Path,
    *,
    suite: str | None = None,
    columns: Collection[str] | None = None,
    kinds: Collection[str] | None = None,
    fresh: bool = False,
) -> pd.DataFrame:
    """Every figure under a results folder as one long frame, a row a figure.

    Measurements and evaluations stand first, the logs of training last.

    Columns: ``subject`` (key), ``dataset``, ``model``, ``recipe``, ``seed`` (that of the data; those of all
    streams as ``seed.data``, ``seed.initialization``, ``seed.training``), every parameter of the three as
    ``dataset.noise`` …, ``problem`` and ``problem.scale`` … for problems with known answers, the fields of a
    record (``kind``, ``name``, ``label``, ``status``, ``reason``, ``value``, ``standard_error``, …). Costs
    are columns ``cost.median_seconds`` …. A network that could not be trained is a row of
    ``kind="subject"`` with its reason.

    Parameters
    ----------
    path: the results folder.
    suite: keep what this suite asked for when it last ran here.
    columns: only these. None: all.
    kinds: only records of these kinds: measurement, evaluation, problem, calibration, trajectory, training.
        None: all.
    fresh: read every line's bytes again, in place of believing the copy in ``.columns``.

    Raises
    ------
    InputError: there are no results, none of that suite, or no such column.
    """
    asked = None if columns is None else [*columns, *({"kind"} - set(columns))]
    frame = store.load_records(path, suite=suite, columns=asked, kinds=kinds, fresh=fresh)
    found = _figures_first(frame)
    return found if columns is None or "kind" in columns else found.drop(columns="kind")


_FIGURES = ("measurement", "problem", "calibration", "evaluation")
_LAST = ("trajectory", "training", "subject")


def _figures_first(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by their kind, those of one kind in their order."""
    place = {kind: i for i, kind in enumerate((*_FIGURES, "", *_LAST))}
    places = frame["kind"].map(lambda kind: place.get(kind, place[""])).to_numpy(dtype=int)
    found = frame.iloc[np.argsort(places, kind="stable")].reset_index(drop=True)
    found.attrs = frame.attrs
    return found


def _named(title: str, implementation: str) -> str:
    return title if implementation == "native" else f"{title} ({implementation})"
