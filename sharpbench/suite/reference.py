"""The reference population: where a metric of one's own stands beside all others.

It is the shipped suite ``reference``, run once and kept in a folder of its own. A metric is ranked by a suite
that extends it: the answers of all others are there, and what is measured is that metric alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpbench.errors import InputError
from sharpbench.metrics import Metric
from sharpbench.plugins import PluginSource
from sharpbench.suite.spec import SuiteFile, find_suite, load_suite
from sharpbench.version import RELEASE

__all__ = ["REFERENCE", "in_toml", "population_folder", "ranking_suite", "reference_suite"]

REFERENCE = "reference"


def reference_suite() -> SuiteFile:
    """The shipped suite that makes the population."""
    return load_suite(find_suite(REFERENCE))


def population_folder(cache: Path) -> Path:
    """The results folder of the population: another one for another suite, sharpbench or torch."""
    told = f"{reference_suite().text}\n{RELEASE}\n{importlib.metadata.version('torch')}"
    return cache / f"reference-{RELEASE}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def ranking_suite(metric: Metric, parameters: Mapping[str, Any]) -> tuple[str, str]:
    """Name and text of the suite that asks ``metric``, with these ``parameters``, of the population.

    A metric that the population has, with the parameters that it has there, is not asked once more.
    """
    name = metric.name
    suite = "rank_" + re.sub(r"[^a-z0-9_]", "_", name.lower())[:90]
    lines = [
        f"# {name} beside all others: the population of the suite {REFERENCE!r}, and one metric more.",
        f"extends = {in_toml(REFERENCE)}",
        f"name = {in_toml(suite)}",
        f"title = {in_toml(f'{_title(metric)} beside all others')}",
        f"highlight = [{in_toml(name)}]",
    ]
    source = vars(type(metric)).get("_source")
    if isinstance(source, PluginSource):
        lines.append(f"plugins = [{in_toml(source.place)}]")
    there = any(block.get("name") == name for block in reference_suite().spec.metrics)
    if parameters or not there:
        lines += ["", "[[metrics]]", f"name = {in_toml(name)}"]
        lines += [f"{key} = {in_toml(value)}" for key, value in parameters.items()]
    return suite, "\n".join(lines) + "\n"


def _title(metric: Metric) -> str:
    title = getattr(metric, "title", "")
    return title if isinstance(title, str) and title else metric.name.replace("_", " ")


def in_toml(value: Any) -> str:
    """A value as TOML writes it. Raises InputError for what it has no way to write."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)) and math.isfinite(value):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(in_toml, value))}]"
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{in_toml(str(k))} = {in_toml(v)}" for k, v in value.items()) + " }"
        )
    raise InputError(f"{value!r} can't stand in a suite file")
