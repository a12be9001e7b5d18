"""How long a user waits before anything happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import sharpbench

_REPEATS = 5
_CHILD = "import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"


class Import:
    """In a fresh process, from the files of the commit that is measured, not from what is installed."""

    timeout = 120
    unit = "seconds"

    def track_command_line(self) -> float:
        """The command line alone: `sharpbench --help` must not wait for torch."""
        return _seconds("import sharpbench.cli")

    def track_package(self) -> float:
        return _seconds("import sharpbench")

    def track_metrics(self) -> float:
        return _seconds("from sharpbench.metrics import metrics; [metrics.get(n) for n in metrics]")


def _seconds(code: str) -> float:
    """The least of several, since whatever else the machine does only adds to it."""
    source = Path(sharpbench.__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", _CHILD.format(code=code)]
    told = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(_REPEATS)
    ]
    return min(map(float, told))
