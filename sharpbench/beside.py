"""A file is written beside the place that it is meant for, and takes it whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["written_beside"]


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path of nobody else's to write to, which is ``path`` when the block has ended well, and gone if not.

    Several processes may do so at once: the last one's file stays. What a killed one left ends in
    ``.<32 hexadecimal digits>.partial``.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
