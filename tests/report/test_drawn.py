"""A picture is drawn again exactly when something that it depends on has changed."""

from __future__ import annotations

import functools
import os

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from sharpbench.report import drawn
from sharpbench.report.sections import Picture
from sharpbench.report.sections.predictive import _metric_heatmap


@pytest.fixture
def count(monkeypatch):
    """How often something was drawn."""
    drawings = []
    to_svg = drawn.to_svg
    monkeypatch.setattr(drawn, "to_svg", lambda *a, **k: drawings.append(1) or to_svg(*a, **k))
    return lambda: len(drawings)


def agreement(value: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame([[1.0, value], [value, 1.0]], ["one", "other"], ["one", "other"])


def picture(frame: pd.DataFrame, name: str = "metrics", caption: str = "Agreement.") -> Picture:
    return Picture(name, functools.partial(_metric_heatmap, frame), caption)


def test_what_is_the_same_is_drawn_once(tmp_path, count):
    with drawn.drawings(tmp_path) as first:
        svg = first.svg(picture(agreement()))
    with drawn.drawings(tmp_path) as second:
        assert second.svg(picture(agreement())) == svg
    assert count() == 1
    assert "<svg" in svg
    assert svg == drawn.Drawings(tmp_path / "elsewhere").svg(picture(agreement()))


def test_whatever_it_depends_on_has_it_drawn_again(tmp_path, count, monkeypatch):
    drawings = drawn.Drawings(tmp_path)
    drawings.svg(picture(agreement()))
    drawings.svg(picture(agreement(np.nextafter(0.5, 1))))
    drawings.svg(picture(agreement(), name="others"))
    drawings.svg(picture(agreement(), caption="Other words."))
    drawings.svg(picture(agreement().astype(np.float32)))
    with mpl.rc_context({"axes.titlepad": 9.0}):
        drawings.svg(picture(agreement()))
    monkeypatch.setattr(drawn, "_surroundings", lambda: ("another version",))
    drawings.svg(picture(agreement()))
    assert count() == 7
    (tmp_path / next(tmp_path.glob("*.svg")).name).write_text("no digest\n<svg/>")
    for path in tmp_path.glob("*.svg"):
        path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    drawings.svg(picture(agreement()))
    assert count() == 8


def swapped(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def in_place(make):
    def damage(one, other):
        for path in (one, other):
            path.unlink()
            make(path)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        swapped,
        in_place(os.mkfifo),
        in_place(lambda path: (path.mkdir(), (path / "own").touch())),
        in_place(lambda path: path.symlink_to(path)),
        in_place(lambda path: path.write_bytes(b"\xff\n")),
    ],
)
def test_what_is_no_picture_or_another_one_is_never_shown(tmp_path, count, damage):
    with drawn.drawings(tmp_path) as first:
        shown = [first.svg(picture(agreement(value))) for value in (0.5, 0.25)]
    damage(*(tmp_path / ".pictures").iterdir())
    with drawn.drawings(tmp_path) as again:
        assert [again.svg(picture(agreement(value))) for value in (0.5, 0.25)] == shown
    assert count() == 4
    with drawn.drawings(tmp_path):
        pass  # which sweeps what isn't a file


def test_what_others_draw_is_drawn_each_time(tmp_path, count):
    def own():
        return plt.figure()

    for draw in (own, functools.partial(plt.figure), lambda: _metric_heatmap(agreement())):
        for _ in range(2):
            drawn.Drawings(tmp_path).svg(Picture("own", draw, "Of a plug-in."))
    assert count() == 6
    assert not list(tmp_path.iterdir())


def test_what_the_page_shows_no_longer_is_removed(tmp_path):
    with drawn.drawings(tmp_path) as page:
        page.svg(picture(agreement()))
        page.svg(picture(agreement(0.25)))
    assert len(list((tmp_path / ".pictures").iterdir())) == 2
    with drawn.drawings(tmp_path) as page:
        page.svg(picture(agreement(0.25)))
    assert len(list((tmp_path / ".pictures").iterdir())) == 1
