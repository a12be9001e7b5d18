"""How objects show themselves in a notebook: a small table, whatever they hold written out as text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["facts_table", "rows_table"]

_CELL = "text-align:left;padding:.15em .8em .15em 0;vertical-align:top"
_LONGEST = 300
"""Letters of a cell."""


def facts_table(title: str, facts: Mapping[str, object]) -> str:
    """A heading and a line a fact; those that are None or empty are left out."""
    rows = [(name, told) for name, told in facts.items() if told not in (None, "")]
    return f"<div>{_title(title)}{rows_table((), rows)}</div>"


def rows_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts; the first of each row is its heading."""
    head = "".join(f'<th scope="col" style="{_CELL}">{_text(name)}</th>' for name in heads)
    lines = [
        f'<tr><th scope="row" style="{_CELL}">{_text(row[0])}</th>'
        + "".join(f'<td style="{_CELL}">{_text(one)}</td>' for one in row[1:])
        + "</tr>"
        for row in rows
    ]
    top = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f"<table>{top}<tbody>{''.join(lines)}</tbody></table>"


def _title(text: str) -> str:
    return f"<strong>{_text(text)}</strong>"


def _text(value: object) -> str:
    text = str(value)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 1]}…"
    return html.escape(text)
