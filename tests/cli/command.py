"""The command in a real process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["sharpbench"]


def sharpbench(*arguments: str, cwd: Path | None = None, **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "sharpbench", *arguments],
        capture_output=True, text=True, timeout=300, cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment},
    )  # fmt: skip
