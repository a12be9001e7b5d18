"""The claims of arXiv:2511.01438 with their verdicts as Markdown: ``python -m sharpbench.paper results``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sharpbench.analysis.audit import Evidence, claims_table
from sharpbench.errors import InputError
from sharpbench.paper.claims import CLAIMS
from sharpbench.paper.evidence import SUITES
from sharpbench.paper.table import markdown, read_markdown
from sharpbench.results.store import ResultsStore

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Print the table; an earlier one beside it with ``--before``."""
    parser = argparse.ArgumentParser(prog="python -m sharpbench.paper", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument("--before", type=Path, help="A file that holds an earlier table.")
    asked = parser.parse_args(arguments)
    if not asked.results.is_dir():
        parser.error(f"no results folder {asked.results}")
    before = None
    if asked.before is not None:
        try:
            before = read_markdown(asked.before.read_text("utf-8"))
        except (OSError, ValueError) as error:
            parser.error(f"{asked.before}: {error}")
    try:
        evidence = Evidence.of(ResultsStore(asked.results), SUITES)
    except InputError as error:
        parser.error(str(error))
    rows = claims_table(evidence.frames, CLAIMS).to_dict("records")
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    print(", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items(), key=lambda c: -c[1])))
    print()
    print(markdown(rows, before))


if __name__ == "__main__":
    main()
