"""One view of what a suite left, in which every table is computed once."""

from __future__ import annotations

import functools
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from sharpbench.analysis.names import (
    change_in_words,
    changes_in_words,
    titles_of,
    with_short_names,
)
from sharpbench.results.frame import rows_of
from sharpbench.results.keys import content_key
from sharpbench.results.nested import NestedDtype
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.seeds import STREAMS

__all__ = [
    "SEED_COLUMNS",
    "TRAINED",
    "Results",
    "computed_once",
    "error_on_other_directions",
    "error_on_same_points",
    "error_without_random_numbers",
    "random_error",
    "scatter_of_error",
    "seeds",
    "stratum",
    "with_errors",
]

# Each column of our frames stands by itself on purpose (`rows_of`), of which pandas warns whoever adds one.
warnings.filterwarnings("ignore", "DataFrame is highly fragmented", module=r"sharpbench\.")

T = TypeVar("T")

SEED_COLUMNS = tuple(f"seed.{stream}" for stream in STREAMS)
"""The columns of the records that hold the seed of each stream, the data's first."""

TRAINED = frozenset({"subject", "training", "measurement", "evaluation"})
"""The kinds of records of trained networks, of those that failed to train among them."""


class Results:
    """The records of one suite, with what the suite asked for.

    A table of a question is a function of this view, decorated with `computed_once`: however many ask for
    it, it is computed once, when it is first wanted.

    Parameters
    ----------
    frame: a row a figure (`load_records`), with short names (`with_short_names`).
    suite: the suite's name.
    manifest: what the suite asked for when it last ran.
    runs: the provenance of each run by its name.
    store: the folder that all of this comes from, if it comes from one.
    left_out: what is stored there and not believed, in sentences.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        suite: str = "",
        manifest: Mapping[str, Any] | None = None,
        runs: Mapping[str, dict[str, Any]] | None = None,
        store: ResultsStore | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        self.frame = frame
        self.suite = suite
        self.manifest = dict(manifest or {})
        self.runs = dict(runs or {})
        self.store = store
        self.left_out = list(left_out)
        self._tables: dict[Callable[[Results], Any], Any] = {}

    @classmethod
    def load(cls, root: str | Path, suite: str) -> Self:
        """The results of ``suite`` under ``root``. Raises InputError if there are none."""
        store = ResultsStore(Path(root))
        manifest = store.manifest(suite)
        records = load_records(root, suite=suite, read_only=True)
        left_out = [*records.attrs.get("left_out", ()), *map(str, store.damaged_documents())]
        runs = store.documents("runs")
        frame = with_short_names(records)
        return cls(frame, suite=suite, manifest=manifest, runs=runs, store=store, left_out=left_out)

    def once(self, compute: Callable[[Results], T]) -> T:
        """``compute(self)``, from memory if it was asked for before."""
        if compute not in self._tables:
            self._tables[compute] = compute(self)
        found: T = self._tables[compute]
        return found

    @functools.cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of records that there are."""
        return frozenset(self.frame["kind"])

    @functools.cached_property
    def spec(self) -> dict[str, Any]:
        """The suite file, with the title and description of one that it extends."""
        told = {k: self.manifest[k] for k in ("title", "description") if self.manifest.get(k)}
        return {**tomllib.loads(self.manifest.get("suite", "")), **told}

    @property
    def highlight(self) -> frozenset[str]:
        """Names of metrics whose rows stand first in the scorecard."""
        return frozenset(self.manifest.get("highlight", ()))

    @property
    def planned(self) -> int:
        """Networks that the suite asks for."""
        return len(self.manifest.get("subjects", ()))

    @functools.cached_property
    def present(self) -> int:
        """Networks that have run."""
        of_problems = self.frame["kind"].isin(["problem", "calibration"])
        return int(self.frame.loc[~of_problems, "subject"].nunique())

    @functools.cached_property
    def failed(self) -> int:
        """Networks that have run and have no figure: their training, or building them, failed."""
        of_networks = self.frame["subject"].isin(self.manifest.get("subjects", ()))
        failed = (self.frame["kind"] == "subject") & (self.frame["status"] != "ok") & of_networks
        return int(self.frame.loc[failed, "subject"].nunique())

    @functools.cached_property
    def titles(self) -> dict[str, str]:
        """What each metric and evaluated quantity is called, by its name; those not told are missing."""
        return titles_of(self.frame, "name", "title")

    def title(self, name: str) -> str:
        """What a metric or an evaluated quantity is called; in records of older versions its name."""
        return self.titles.get(name) or name.replace("_", " ")

    @functools.cached_property
    def _changes(self) -> dict[str, str]:
        columns = ["transformation", "transformation_name", "transformation_parameters"]
        if not set(columns) <= set(self.frame):
            return {}
        one = self.frame[columns].dropna(subset="transformation").drop_duplicates("transformation")
        return changes_in_words(
            {
                label: (str(name), parameters if isinstance(parameters, dict) else {})
                for label, name, parameters in one.itertuples(index=False)
            }
        )

    def change(self, label: str) -> str:
        """A transformation as it is read, told apart from the others here."""
        return self._changes.get(label) or change_in_words(label)

    @functools.cached_property
    def units(self) -> dict[str, str]:
        """The unit of each metric by its short name; a dimensionless one, or one not told, is missing."""
        return titles_of(self.frame, "metric_short", "unit")

    @functools.cached_property
    def measured(self) -> pd.DataFrame:
        """Successful measurements of trained subjects as they are: one row a subject and metric.

        With the errors that `with_errors` tells.
        """
        return self._measurements(self.frame["transformation"].isna())

    @functools.cached_property
    def transformed(self) -> pd.DataFrame:
        """Successful measurements after a transformation, with the same."""
        return self._measurements(self.frame["transformation"].notna())

    def _measurements(self, chosen: pd.Series) -> pd.DataFrame:
        done = (self.frame["kind"] == "measurement") & (self.frame["status"] == "ok")
        return with_errors(rows_of(self.frame, done & chosen))

    @functools.cached_property
    def evaluated(self) -> pd.DataFrame:
        """Evaluated figures, a row each."""
        evaluated = self.frame["kind"] == "evaluation"
        return rows_of(self.frame, evaluated & (self.frame["status"] == "ok"))

    @functools.cached_property
    def evaluations(self) -> pd.DataFrame:
        """Evaluated figures, one row a subject, one column a quantity."""
        return self.evaluated.pivot_table(
            index="subject", columns="name", values="value", observed=True
        )

    @functools.cached_property
    def protocol(self) -> str:
        """Names what was asked of every metric: the networks and problems, the changes, and what networks are
        judged by. Equal protocols, comparable figures, whatever metrics were asked."""
        changes = self.frame.loc[self.frame["transformation"].notna(), "transformation"]
        judged = self.frame.loc[self.frame["kind"] == "evaluation", "plan_key"]
        asked = {
            "subjects": sorted(self.manifest.get("subjects", ())),
            "problems": sorted(self.manifest.get("problems", ())),
            "changes": sorted(changes.unique()),
            "judged": sorted(judged.unique()),
        }
        return content_key(asked)[:8]

    def mixed_versions(self, kinds: Iterable[str] = ()) -> list[str]:
        """Of each library that figures depend on, its versions, where the records of ``kinds`` (of all, if
        none are named) were computed with several, or with one that their runs no longer tell."""
        if "run" not in self.frame:
            return []
        rows = self.of_kind(*kinds, columns=["run"]) if kinds else self.frame
        figures = rows["run"].replace("", None).value_counts()
        told, unknown = [], "of an unknown version"
        for library in ("torch", "numpy", "scikit-learn"):
            by_version: dict[str, int] = {}
            for run, count in figures.items():
                versions = self.runs.get(str(run), {}).get("versions", {})
                version = versions.get(library, unknown)
                by_version[version] = by_version.get(version, 0) + int(count)
            if len(by_version) > 1 or unknown in by_version:
                parts = [f"{v} ({n:,} figures)" for v, n in sorted(by_version.items())]
                told.append(f"{library} {' and '.join(parts)}")
        return told

    def of_kind(self, *kinds: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The records of these kinds, with those of ``columns`` that there are; None: all."""
        there = None if columns is None else [c for c in columns if c in self.frame]
        return rows_of(self.frame, self.frame["kind"].isin(kinds), there)


def computed_once(compute: Callable[[Results], T]) -> Callable[[Results], T]:
    """Makes a function of `Results` be computed once for each of them.

    Everyone shares what it returns: it is read, never changed in place.
    """

    @functools.wraps(compute)
    def shared(results: Results) -> T:
        return results.once(compute)

    return shared


def stratum(frame: pd.DataFrame) -> pd.Series:
    """The stratum of each row: data set with its label noise, and model.

    Subjects of one stratum differ in recipe and seed alone: their ranks compare without confounding.
    """
    return frame["dataset_short"].astype(object) + " · " + frame["model_short"].astype(object)


def seeds(frame: pd.DataFrame) -> np.ndarray:
    """The seeds of each row's network, (N, streams): the data's first, then those of initialization and
    training; of frames without streams of their own the one seed, (N, 1)."""
    streams = [c for c in SEED_COLUMNS if c in frame.columns and frame[c].notna().all()]
    found: np.ndarray = frame[streams or ["seed"]].to_numpy()
    return found


def random_error(frame: pd.DataFrame) -> pd.Series:
    """The standard error of each figure: 0 of an exact one, NaN where a component's size is not told."""
    return _sum_of_components(frame, _components(frame), _all)


def error_on_same_points(frame: pd.DataFrame) -> pd.Series:
    """`random_error` without the components ``points`` and ``directions``, apart or as one.

    Figures of one seed, by two implementations or before and after a transformation, are measured on
    the same points along the same directions: what these add to the error is the same in both.
    """
    return _sum_of_components(frame, _components(frame), _off_points_and_directions)


def error_on_other_directions(frame: pd.DataFrame) -> pd.Series:
    """`random_error` without the component ``points``, where that of ``directions`` stands beside it.

    A change of the input's units, a rotation above all, meets the same directions with another function
    of them: what they add to the error is not the same before and after. Where they are not told apart from
    the points, whose spread may hold theirs, both count.
    """
    return _sum_of_components(frame, _components(frame), _off_points)


def scatter_of_error(frame: pd.DataFrame, error: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    """How uncertain each ``error`` (one of the functions above) is itself, for `statistics.beyond`: Σ
    size⁴/(degrees of freedom) over its components, 0 where all are known. Of several errors these add up."""
    return _scatter(frame, _components(frame), _CHOSEN[error])


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with ``own_error`` (`error_on_same_points`) and ``turned_error``
    (`error_on_other_directions`), and the `scatter_of_error` of each: ``own_scatter``, ``turned_scatter``."""
    parts = _components(frame)
    found = {}
    for name, chosen in (("own", _off_points_and_directions), ("turned", _off_points)):
        found[f"{name}_error"] = _sum_of_components(frame, parts, chosen)
        found[f"{name}_scatter"] = _scatter(frame, parts, chosen)
    return pd.DataFrame({**frame, **found}, copy=False)


def error_without_random_numbers(frame: pd.DataFrame) -> pd.Series:
    """What of an error is left where the random numbers are the same: rounding, and what isn't told.

    0 where there are no components: a standard error that is stated whole is one of random numbers.
    """
    parts = _components(frame)
    left = _sum_of_components(frame, parts, _off_random_numbers)
    told = np.bincount(parts["row"], minlength=len(frame)) > 0
    return left.where(told, 0 * left if "errors" not in frame else 0.0)


_PLACES = {"points", "directions", "points and directions"}
"""Sources of error that are the same where points and directions are."""

_Chosen = Callable[[pd.DataFrame], pd.Series]
"""Which of the `_components` count."""


def _all(parts: pd.DataFrame) -> pd.Series:
    return pd.Series(True, index=parts.index)


def _off_points(parts: pd.DataFrame) -> pd.Series:
    apart = parts["row"].isin(parts.loc[parts["source"] == "directions", "row"])
    return ~apart | (parts["source"] != "points")


def _off_points_and_directions(parts: pd.DataFrame) -> pd.Series:
    return ~parts["source"].isin(_PLACES)


def _off_random_numbers(parts: pd.DataFrame) -> pd.Series:
    return ~parts["source"].isin(_PLACES | {"probes", "draws"})


_CHOSEN: dict[Callable[[pd.DataFrame], pd.Series], _Chosen] = {
    random_error: _all,
    error_on_same_points: _off_points_and_directions,
    error_on_other_directions: _off_points,
}


def _scatter(frame: pd.DataFrame, parts: pd.DataFrame, chosen: _Chosen) -> pd.Series:
    kept = parts[chosen(parts) & (parts["degrees_of_freedom"] > 0)]
    each = kept["size"].fillna(0) ** 4 / kept["degrees_of_freedom"]
    return pd.Series(
        np.bincount(kept["row"], weights=each, minlength=len(frame)), index=frame.index
    )


def _components(frame: pd.DataFrame) -> pd.DataFrame:
    """Every component of every error: ``row`` (its place in ``frame``), ``source``, ``size`` and
    ``degrees_of_freedom``, NaN where they are not told."""
    if "errors" not in frame:
        rows, found = (
            np.zeros(0, np.intp),
            {name: pa.array([], type_) for name, type_ in _FIELDS.items()},
        )
    else:
        rows, found = frame["errors"].astype(NestedDtype()).array.members(_FIELDS)
    return pd.DataFrame({"row": rows, **{name: v.to_pandas() for name, v in found.items()}})


_FIELDS = {"source": pa.string(), "size": pa.float64(), "degrees_of_freedom": pa.float64()}


def _sum_of_components(frame: pd.DataFrame, parts: pd.DataFrame, chosen: _Chosen) -> pd.Series:
    """√Σ size², of a single component its size; where none is told the standard error."""
    total = frame["standard_error"].astype(float).fillna(0).to_numpy(copy=True)
    kept = parts[chosen(parts)]
    count = len(frame)
    alone = np.bincount(kept["row"], minlength=count) == 1
    sizes = np.bincount(kept["row"], weights=kept["size"].abs(), minlength=count)
    squares = np.bincount(kept["row"], weights=kept["size"] ** 2, minlength=count)
    told = np.bincount(parts["row"], minlength=count) > 0
    total[told] = np.where(alone, sizes, np.sqrt(squares))[told]
    return pd.Series(total, index=frame.index)
