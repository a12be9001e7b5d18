"""JSON that carries its own checksum: stored bytes are believed as they were written, or not at all.

The checksum is the last entry of the object, ``"checksum": "89abcdef"``: the CRC-32 of every byte before
the comma that stands in front of it. It tells a failing disk and a slip of the hand, not a forger.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

from pydantic_core import from_json

__all__ = ["Damaged", "json_object", "sealed", "unsealed"]

_ENTRY = b', "checksum": "'
_LENGTH = len(_ENTRY) + 8 + len(b'"}')
_AROUND = b"\0\t\n\r \xef\xbb\xbf"
"""What a crash, an editor or a transfer puts around an object that is whole: it is no part of it."""


class Damaged(ValueError):
    """Stored bytes are not what was written; the message says how that shows."""


def sealed(text: str, *, place: str = "") -> str:
    """``text``, a JSON object that is not empty, with its checksum.

    ``place`` enters the checksum: an object that turns up elsewhere is then no longer right. Half of a
    surrogate pair, which UTF-8 can't hold, becomes a question mark.
    """
    body = text[:-1].rstrip().encode("utf-8", "replace")
    if body == b"{":
        raise ValueError("an empty object has no checksum")
    return f'{body.decode()}{_ENTRY.decode()}{_checksum(body, place):08x}"}}'


def unsealed(content: bytes, *, place: str = "") -> tuple[bytes, bool]:
    """The object in ``content``, and whether a checksum proves it. Raises Damaged for a wrong one."""
    content = content.strip(_AROUND)
    if not (content[-_LENGTH:].startswith(_ENTRY) and content.endswith(b'"}')):
        return content, False
    if content[-10:-2] != b"%08x" % _checksum(content[:-_LENGTH], place):
        raise Damaged("its checksum is not that of its content")
    return content[:-_LENGTH] + b"}", True


def json_object(content: bytes, *, place: str = "") -> tuple[dict[str, Any], bool]:
    """The entries of the object in ``content``, and whether a checksum proves them.

    Raises Damaged for what is no JSON object in UTF-8, holds a number that is not finite, or has a wrong
    checksum.
    """
    body, proven = unsealed(content, place=place)
    if not body:
        raise Damaged("it is empty")
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Damaged(f"it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Damaged("it is not a JSON object")
    if not proven:
        if "checksum" in found:
            raise Damaged("its checksum is not where it was written")
        if not _finite(found):
            raise Damaged("it holds a number that is not finite")
    return found, proven


def _checksum(body: bytes, place: str) -> int:
    return zlib.crc32(body, zlib.crc32(place.encode()))


def _finite(value: Any) -> bool:
    """Whether no number in ``value`` is infinite, as 1e400 is when it is read."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list) or all(map(_finite, value))
