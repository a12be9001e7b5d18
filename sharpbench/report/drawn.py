"""Pictures beside the page as they were drawn: one of which nothing has changed isn't drawn again."""

from __future__ import annotations

import functools
import hashlib
import pickle
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.font_manager import FontProperties, findfont

from sharpbench.beside import written_beside
from sharpbench.report.sections import Picture
from sharpbench.report.svg import figure_style, to_svg
from sharpbench.results.disk import read_file

__all__ = ["Drawings", "drawings"]

_ROOT = Path(__file__).resolve().parents[1]
"""All of sharpbench."""

_DRAWN_BY = (
    "matplotlib",
    "seaborn",
    "numpy",
    "pandas",
    "scipy",
    "pillow",
    "contourpy",
    "kiwisolver",
)
"""What decides, beside our own code, how a picture of given data looks."""


class Drawings:
    """SVGs in a folder, each under a key of all that it depends on.

    That is the function that draws it with its arguments, to the last digit, its name and caption, every line
    of sharpbench, the versions of the libraries that draw, and matplotlib's settings. A picture that is drawn
    otherwise than by a function of sharpbench from its arguments (`functools.partial`) is drawn each time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def svg(self, picture: Picture) -> Markup:
        """The picture, drawn if it has to be."""
        with figure_style():
            key = _key(picture)
            known = self._read(key) if key else None
            if known is not None:
                return known
            svg = to_svg(picture.draw(), name=picture.name, alt=picture.caption)
        if key:
            self._write(key, svg)
        return svg

    def sweep(self) -> None:
        """Remove what nobody has asked for."""
        for path in [*self._folder.glob("*.svg"), *self._folder.glob("*.partial")]:
            if path.stem not in self._used:
                with suppress(OSError):  # it is none of ours
                    path.unlink(missing_ok=True)

    def _read(self, key: str) -> Markup | None:
        self._used.add(key)
        try:
            content = read_file(self._folder / f"{key}.svg") or b""
            digest, _, text = content.decode().partition("\n")
        except (OSError, ValueError):
            return None
        return Markup(text) if digest == _sha256(key + text) else None

    def _write(self, key: str, svg: Markup) -> None:
        with suppress(OSError):  # it is drawn again
            self._folder.mkdir(parents=True, exist_ok=True)
            with written_beside(self._folder / f"{key}.svg") as partial:
                partial.write_text(f"{_sha256(key + svg)}\n{svg}", "utf-8")


@contextmanager
def drawings(folder: Path) -> Iterator[Drawings]:
    """Those of the page in ``folder``; what it no longer shows is removed at the end."""
    found = Drawings(folder / ".pictures")
    yield found
    found.sweep()


def _key(picture: Picture) -> str | None:
    """Names the picture by all that it depends on; None where that can't be told."""
    draw: Any = picture.draw
    if not isinstance(draw, functools.partial) or not _ours(draw.func):
        return None
    what = (draw.func.__module__, draw.func.__qualname__, draw.args, draw.keywords)
    of_data = _Digest()
    pickler = pickle.Pickler(of_data, 5)
    pickler.fast = True  # equal entries are written out again, whether they are one object or two
    try:
        pickler.dump((picture.name, picture.caption, what))
    except Exception:  # of something that can't be written down
        return None
    settings = sorted(mpl.rcParams.items())
    font = findfont(FontProperties())  # that of the settings
    return _sha256(repr((of_data.told(), _surroundings(), settings, font)))[:40]


class _Digest:
    """A file that keeps no more than the SHA-256 of what is written to it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, content: Any) -> int:
        self._hash.update(content)
        return memoryview(content).nbytes

    def told(self) -> str:
        return self._hash.hexdigest()


def _ours(function: Callable[..., Any]) -> bool:
    """Whether it is a function of a module of sharpbench, and by its name no other."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    name = getattr(function, "__qualname__", "")
    return (
        module is not None
        and module.__name__.startswith(f"{_ROOT.name}.")
        and getattr(module, name, None) is function
    )


@functools.cache
def _surroundings() -> tuple[Any, ...]:
    code = hashlib.sha256()
    for path in sorted(_ROOT.rglob("*.py")):
        code.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    libraries = [(name, version(name)) for name in _DRAWN_BY]
    return (code.hexdigest(), libraries, sys.version, platform.machine())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
