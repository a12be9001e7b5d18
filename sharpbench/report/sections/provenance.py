"""Where the figures come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.results import Results
from sharpbench.report.sections.base import Section
from sharpbench.version import __version__

__all__ = ["Provenance"]


@dataclass(frozen=True)
class Provenance(Section):
    """The command, commit, machine and versions of every run, and the suite file."""

    name, title, place = "provenance", "Provenance", 90

    def tables(self, results: Results) -> Mapping[str, Any]:
        known = "run" in results.frame
        used = sorted(set(results.frame["run"].dropna())) if known else []
        return {
            "version": __version__,
            "last_run": results.runs.get(results.manifest["run"], {}),
            "runs": {name: results.runs[name] for name in used if name in results.runs},
            "suite_text": results.manifest["suite"],
        }
