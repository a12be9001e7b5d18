"""matplotlib's SVG with the same look in a fraction of the bytes."""

from __future__ import annotations

import base64
import io
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

__all__ = ["KEPT", "compact"]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)

KEPT = "series-"
"""Ids that begin so stay what they are: something is told of the element by them."""

_HREF = f"{{{_XLINK}}}href"

_PLACES = 2
"""Of lengths in points: a hundredth of one is less than a screen shows."""

_GEOMETRY = ("d", "x", "y", "width", "height", "points", "transform")


def compact(text: str, name: str) -> str:
    """The SVG with each style written once, lengths to a hundredth of a point and without what nothing needs.

    It gets the id ``svg-<name>``, styles become classes within it and ids begin with the name, so that
    figures on one page keep apart; images are written with 256 colours.
    """
    root = ElementTree.fromstring(text)
    used = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text)
    ids = {old: f"{name}-{_name(k)}" for k, old in enumerate(dict.fromkeys(used))}
    classes: dict[str, str] = {}
    for element in list(root.iter()):
        if element.tag != f"{{{_SVG}}}text":
            element.text = (element.text or "").strip() or None
        element.tail = None
        own = element.attrib.pop("id", "")
        if own in ids or own.startswith(KEPT):
            element.set("id", ids.get(own, own))
        style = element.attrib.pop("style", None)
        if style:
            element.set("class", classes.setdefault(style, _name(len(classes))))
        for key, value in list(element.attrib.items()):
            if value.startswith("url(#"):
                element.set(key, f"url(#{ids[value[5:-1]]})")
            elif key == _HREF and value.startswith("#"):
                element.set(key, f"#{ids[value[1:]]}")
            elif key == _HREF and value.startswith("data:image/png;base64,"):
                element.set(key, _of_few_colours(value))
            elif key in _GEOMETRY:
                told = _rounded(value, key)
                element.set(key, told) if told else element.attrib.pop(key)
    _unwrap(root)
    scope = f"svg-{name}"
    for sheet in root.iter(f"{{{_SVG}}}style"):
        sheet.text = f"#{scope} {sheet.text}" + "".join(
            f"#{scope} .{short}{{{style}}}" for style, short in classes.items()
        )
    root.set("id", scope)
    return ElementTree.tostring(root, encoding="unicode")


def _name(number: int) -> str:
    """``a``, ``b``, … ``z``, ``ba``, …: the shortest ones."""
    name = chr(97 + number % 26)
    return name if number < 26 else _name(number // 26) + name


def _rounded(value: str, key: str) -> str:
    value = re.sub(r"rotate\(-?0(?:\.0*)? [^)]*\)", "", value)
    if "scale(" not in value and "matrix(" not in value:
        value = re.sub(r"-?\d+\.\d+(?:e-?\d+)?", _shortened, value)
    value = " ".join(value.split())
    return re.sub(r" ?([A-Za-z]) ?", r"\1", value) if key == "d" else value


def _shortened(found: re.Match[str]) -> str:
    told = f"{float(found[0]):.{_PLACES}f}".rstrip("0").rstrip(".")
    return "0" if told == "-0" else told


def _unwrap(element: ElementTree.Element) -> None:
    """Put what groups without any attribute hold in their places."""
    children = []
    for child in list(element):
        _unwrap(child)
        bare = child.tag == f"{{{_SVG}}}g" and not child.attrib
        children += list(child) if bare else [child]
    element[:] = children


def _of_few_colours(href: str) -> str:
    head, _, content = href.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA")
    colours, opacity = image.getcolors(256), dict[str, bytes]()
    if colours is None:
        few = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    else:  # as a scale of colours: each of them as it is
        few, opacity = _indexed(image, [colour for _, colour in colours])
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True, **opacity)
    small = base64.b64encode(buffer.getvalue()).decode()
    return f"{head},{small}" if len(small) < len(content) else href


def _indexed(image: Image.Image, colours: list[Any]) -> tuple[Image.Image, dict[str, bytes]]:
    """The image by the numbers of its colours (256 at most), and how opaque each of them is."""
    table = np.array(colours, dtype=np.uint8)
    places = {colour.tobytes(): place for place, colour in enumerate(table)}
    pixels = np.asarray(image).reshape(-1, 4)
    distinct, inverse = np.unique(pixels, axis=0, return_inverse=True)
    numbers = np.array([places[colour.tobytes()] for colour in distinct], dtype=np.uint8)
    found = Image.fromarray(numbers[inverse.ravel()].reshape(image.height, image.width), "P")
    found.putpalette(table[:, :3].tobytes())
    return found, {"transparency": table[:, 3].tobytes()}
