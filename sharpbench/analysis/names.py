"""Short names for data sets, models, recipes, problems and metrics: no more than tells them apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from sharpbench.analysis.numbers import number

__all__ = [
    "change_in_words",
    "changes_in_words",
    "in_reading_order",
    "names_but_for",
    "of_users",
    "reading_order",
    "short_names",
    "symbol",
    "titles_of",
    "with_short_names",
]


def with_short_names(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with columns ``metric_short`` and ``dataset_short``, ``model_short``, ``recipe_short``,
    ``problem_short``.

    A short name is the title that the records tell (lines of older versions have none: their name) and
    only the parameters that tell entries of this frame apart.
    """
    frame = frame.copy(deep=False)
    metric_titles, problem_titles = (
        titles_of(frame, *columns) for columns in (("name", "title"), ("problem", "problem_title"))
    )
    kinds = frame["kind"].isin(["measurement", "trajectory", "problem", "calibration"])
    metrics = frame.loc[kinds, ["kind", "label", "name", "parameters"]]
    # Along training a metric is often measured on fewer points: told apart within each kind.
    frame["metric_short"] = pd.Series(index=frame.index, dtype=object)
    for kind, rows in metrics.groupby("kind"):
        one = rows.drop_duplicates("label", keep="last")
        found = {
            label: (metric_titles.get(name, name.replace("_", " ")), parameters)
            for label, name, parameters in zip(
                one["label"], one["name"], one["parameters"], strict=True
            )
        }
        of_kind = frame["kind"] == kind
        frame.loc[of_kind, "metric_short"] = frame.loc[of_kind, "label"].map(short_names(found))
    for part in ("dataset", "model", "recipe", "problem"):
        columns = [c for c in frame.columns if c.startswith(f"{part}.")]
        distinct = frame.drop_duplicates(f"{part}_label").dropna(subset=f"{part}_label")
        titles = problem_titles if part == "problem" else {}
        found = {
            row[f"{part}_label"]: (
                titles.get(row[part], row[part]),
                {c.split(".", 1)[1]: row[c] for c in columns},
            )
            for row in distinct.to_dict("records")
        }
        frame[f"{part}_short"] = frame[f"{part}_label"].map(short_names(found))
    return _own_called(frame)


def of_users(frame: pd.DataFrame) -> pd.Series:
    """Whether each row is of a user's own network, which package.module:build names: it was not trained here,
    and its seeds are none of initialization or training."""
    if "model" not in frame:
        return pd.Series(False, index=frame.index)
    return _signed(frame["model"], ":")


def _signed(names: pd.Series, signs: str) -> pd.Series:
    """Which of the names hold one of the ``signs``; no plug-in's does."""
    return names.isin([n for n in names.dropna().unique() if set(signs) & set(str(n))])


def _own_called(frame: pd.DataFrame) -> pd.DataFrame:
    """A user's own networks and data by what the suite calls them: nothing else tells checkpoints apart that
    lie in files of one name.

    A model has its title where all networks of its builder have that one, and no others: what is compared
    within equal models stays together, and apart from the rest.
    """

    own = of_users(frame)
    if "dataset" not in frame or not own.any():
        return frame
    frame.loc[own, "recipe_short"] = frame.loc[own, "recipe_label"]
    files = own & _signed(frame["dataset"], ":./")
    frame.loc[files, "dataset_short"] = frame.loc[files, "dataset_label"]
    models = frame.loc[own, ["model_short", "model_label"]].drop_duplicates()
    alone = ~(models["model_short"].duplicated(False) | models["model_label"].duplicated(False))
    titles = dict(models[alone].itertuples(index=False))
    others = set(frame["model_short"].dropna()) - titles.keys()
    frame.loc[own, "model_short"] = frame.loc[own, "model_short"].map(
        lambda short: titles[short] if short in titles and titles[short] not in others else short
    )
    return frame


def titles_of(frame: pd.DataFrame, name: str, title: str) -> dict[str, str]:
    """What the records call each thing: the entries of column ``title`` by those of ``name``, where told."""
    if title not in frame or name not in frame:
        return {}
    both = frame[[name, title]]
    told = both[both[title].astype(bool) & both[title].notna() & both[name].notna()]
    first = told.drop_duplicates(name)
    return dict(zip(first[name], first[title], strict=True))


def names_but_for(
    left_out: str, labels: pd.Series, titles: pd.Series, parameters: pd.Series
) -> pd.Series:
    """The short name of each row where the parameter ``left_out`` makes no difference: what differs in
    that alone has one name."""
    found = {
        label: (str(title), {k: v for k, v in own.items() if k != left_out})
        for label, title, own in zip(labels, titles, parameters, strict=True)
    }
    return labels.map(short_names(found))


def change_in_words(label: str) -> str:
    """A transformation as it is read: of ``layer_rescaling(alpha=100)`` it is ``layer rescaling (α 100)``."""
    name, _, settings = label.partition("(")
    told = _in_words(name)
    if not settings:
        return told
    inner = re.sub(r"(\w+)=", lambda m: f"{symbol(m[1])} ", settings.removesuffix(")"))
    return f"{told} ({inner.replace('_', ' ')})"


def changes_in_words(entries: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Transformations as they are read, by their labels: of several ones of a name each with the parameters
    in which they differ, also those that a label leaves out because they are the usual ones.

    ``entries``: name and all parameters by label.
    """
    found = {}
    for label, (name, parameters) in entries.items():
        namesakes = [own for other, own in entries.values() if other == name]
        differing = [
            f"{symbol(key)} {_spell(value)}"
            for key, value in parameters.items()
            if any(str(other.get(key)) != str(value) for other in namesakes)
        ]
        told = change_in_words(label)
        if len(namesakes) > 1 and differing:
            told = f"{_in_words(name)} ({', '.join(differing)})"
        found[label] = told
    return found


_WRITTEN = {"gl": "GL"}
"""Parts of a change's name that are no words: the general linear group."""


def _in_words(name: str) -> str:
    return " ".join(_WRITTEN.get(part, part) for part in name.split("_"))


def in_reading_order(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows in the order in which names are looked up: whatever their case, and 3 before 100."""
    return frame.sort_values(list(columns), key=_places, kind="stable", ignore_index=True)


def reading_order(names: Iterable[str]) -> list[str]:
    """Each name once, in the order in which names are looked up."""
    return sorted(dict.fromkeys(names), key=_split)


def _places(names: pd.Series) -> pd.Series:
    return names.map({name: place for place, name in enumerate(reading_order(names))})


def _split(name: str) -> list[tuple[float, str]]:
    """Words and numbers of a name in turn."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name.casefold())
    return [(float(p), "") if k % 2 else (-1.0, p) for k, p in enumerate(parts)]


def symbol(parameter: str) -> str:
    """A parameter in words, or by its Greek letter where it is named after one."""
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {parameter}")
    except KeyError:
        return parameter.replace("_", " ")


_SAYS_NOTHING = {"all", "none", "auto", "default"}
"""Words that need the parameter's name beside them."""

_MANY = 5
"""From so many variants of one thing on, a name tells only what differs from most of them."""


def short_names(entries: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Label to name plus the parameters in which entries of that name differ."""
    short = {}
    for label, (name, parameters) in entries.items():
        protocol = parameters.get("protocol", "custom")
        namesakes = [p for n, p in entries.values() if n == name]
        # What a protocol sets need not be told: told apart among those of one protocol.
        rivals = [p for p in namesakes if p.get("protocol", "custom") == protocol]
        differing = [
            _setting(key, value)
            for key, value in parameters.items()
            if not _usual(value, [rival.get(key) for rival in rivals])
        ]
        if protocol != "custom" and len(namesakes) > 1:
            differing.insert(0, protocol.replace("_", " "))
        short[label] = f"{name} ({', '.join(differing)})" if differing else name
    return short


def _setting(key: str, value: Any) -> str:
    """A parameter as it tells things apart: a word says by itself what it is, a number needs its key."""
    if value is None:
        return f"no {symbol(key)}"
    if isinstance(value, str) and value not in _SAYS_NOTHING:
        return value
    return f"{symbol(key)} {_spell(value)}"


def _usual(value: Any, others: list[Any]) -> bool:
    """Whether a value goes without saying: all have it, or most of many."""
    same = sum(str(other) == str(value) for other in others)
    return same == len(others) or (len(others) >= _MANY and 2 * same > len(others))


_MIB = 2**20
"""Whole numbers of them are bytes."""


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_spell(v)}" for k, v in value.items())
    if isinstance(value, float):
        return number(value, 6)
    if isinstance(value, int) and value >= _MIB and value % _MIB == 0:
        return f"{value // 2**30} GiB" if value % 2**30 == 0 else f"{value // _MIB} MiB"
    if isinstance(value, list):
        if len(value) > 4 and value == list(range(value[0], value[0] + len(value))):
            return f"{value[0]}–{value[-1]}"
        return "-".join(_spell(v) for v in value)
    return str(value)
