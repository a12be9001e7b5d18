"""A page that stays light: what weighs most and stands beside it as JSON is left out, and said to be."""

from __future__ import annotations

import html
import json
import re

__all__ = ["MOST_BYTES", "lightened"]

MOST_BYTES = 3_000_000
"""Of a page: more takes long to open, and no host of a site likes it."""

_FIGURE = re.compile(r"<figure\b.*?</figure>", re.DOTALL)
_VALUES = re.compile(r"<metadata>(.*?)</metadata>", re.DOTALL)
_TABLE = re.compile(r'<div class="(?:tall|scroll)">\s*<table\b.*?</table>\s*</div>', re.DOTALL)


def lightened(page: str, most: int = MOST_BYTES) -> str:
    """``page`` with no more than ``most`` bytes, if that can be had.

    First the values of marks are left out, of the picture that has most of them first (its series are still
    hidden by their names), then the longest tables. Each says so in its place.
    """
    for part, lighter in ((_FIGURE, _without_values), (_TABLE, _without_rows)):
        for found in sorted(part.findall(page), key=lambda text: -_weight(text)):
            if _size(page) <= most:
                return page
            page = page.replace(found, lighter(found), 1)
    return page


def _size(text: str) -> int:
    return len(text.encode())


def _weight(text: str) -> int:
    values = _VALUES.search(text)
    return _size(values[1]) if values else 0 if text.startswith("<figure") else _size(text)


def _without_values(figure: str) -> str:
    found = _VALUES.search(figure)
    if found is None:
        return figure
    told = {**json.loads(html.unescape(found[1])), "panels": []}
    kept = html.escape(json.dumps(told, ensure_ascii=False, separators=(",", ":")), quote=False)
    figure = figure.replace(found[0], f"<metadata>{kept}</metadata>")
    said = "The values of its marks are left out, for the page's weight."
    return figure.replace("</figcaption>", f" {said}</figcaption>", 1)


def _without_rows(table: str) -> str:
    rows = table.partition("<tbody")[2].count("<tr")
    return (
        f'<p class="quiet">{rows:,} rows are left out, for the page\'s weight: they stand in '
        "<code>tables/</code> beside this page, as JSON.</p>"
    )
