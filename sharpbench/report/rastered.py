"""Marks that are drawn as an image: an image a series, so that the page can hide each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpbench.report.compact import KEPT

__all__ = ["apart", "images_of_series"]

_MOST = 240
"""Images in one figure: each weighs some hundred bytes, however little it shows."""


def apart(tuples: Sequence[tuple[int, ...]], kinds: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Of the ``kinds`` of entries (colours, shapes) those that are kept apart, so that no more images than
    ``_MOST`` are made of marks of the entries ``tuples`` (one for each panel and series): all, or else the
    first kind for which they are few enough, or none."""
    for chosen in (list(kinds), *([kind] for kind in kinds)):
        entries = {entry for kind in chosen for entry in kind}
        if len({(panel, *(e for e in own if e in entries)) for panel, *own in tuples}) <= _MOST:
            return chosen
    return []


class _Image(Artist):
    """Artists that are drawn into one image within a group that has an id."""

    def __init__(self, artists: Sequence[Artist], gid: str) -> None:
        super().__init__()
        self._artists = artists
        self.set_gid(gid)
        self.set_zorder(artists[0].get_zorder())
        self.set_in_layout(False)

    def draw(self, renderer: Any) -> None:
        renderer.open_group("image", gid=self.get_gid())
        renderer.start_rasterizing()
        for artist in self._artists:
            artist.set_visible(True)
            artist.draw(renderer)
            artist.set_visible(False)
        renderer.stop_rasterizing()
        renderer.close_group("image")


@contextmanager
def images_of_series(figure: Figure, kinds: Sequence[Sequence[int]]) -> Iterator[None]:
    """Within it what is rasterized of the entries of a legend is drawn as an image for each series and panel.

    Artists must have the ids that `marks.named_series` gives them; ``kinds``: the entries that stand for
    colours, and those for shapes. Where that would be very many images, those of one kind alone are kept
    apart.
    """
    found = [
        (axes, artist, entries)
        for axes in figure.axes
        for artist in axes.get_children()
        if artist.get_rasterized() and artist.get_visible() and (entries := _entries(artist))
    ]
    places = {axes: number for number, axes in enumerate(figure.axes)}
    chosen = apart([(places[axes], *own) for axes, _, own in found], kinds)
    kept = {entry for kind in chosen for entry in kind}
    together: dict[tuple[Axes, tuple[int, ...]], list[Artist]] = {}
    for axes, artist, own in found:
        if few := tuple(entry for entry in own if entry in kept):
            together.setdefault((axes, few), []).append(artist)
    images = []
    for number, ((axes, own), artists) in enumerate(together.items()):
        image = _Image(artists, f"{KEPT}{number}-{'-'.join(map(str, own))}")
        axes.add_artist(image)
        images.append(image)
    for artist in (a for artists in together.values() for a in artists):
        artist.set_rasterized(False)
        artist.set_visible(False)
    try:
        yield
    finally:
        for image in images:
            image.remove()
        for artist in (a for artists in together.values() for a in artists):
            artist.set_rasterized(True)
            artist.set_visible(True)


def _entries(artist: Artist) -> tuple[int, ...]:
    gid = artist.get_gid() or ""
    return tuple(int(k) for k in gid.split("-")[2:]) if gid.startswith(KEPT) else ()
