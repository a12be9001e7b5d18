"""Where the verbs print."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

__all__ = ["err", "escape", "out"]

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)
