"""Which version of sharpbench this is: that of the installed package, built from git's tags."""

from __future__ import annotations

import importlib.metadata
import re

__all__ = ["RELEASE", "__version__"]

try:
    __version__ = importlib.metadata.version("sharpbench")
except importlib.metadata.PackageNotFoundError:  # run from its sources, which are not installed
    __version__ = "0+unknown"

_numbers = re.match(r"[\d.]*\d", __version__)
RELEASE = _numbers[0] if _numbers else __version__
"""The numbers alone, which commits between two releases share."""
