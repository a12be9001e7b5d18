"""The student's way: from ``pip install`` to one's own metric's row beside all others.

``python -m tests.students_way`` goes it in a fresh environment and prints how long each step took.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["go"]

ROOT = Path(__file__).resolve().parents[1]


def go(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """The row of the metric, and of each step the seconds that passed and those of processors; all of it
    happens in ``folder``."""
    took: dict[str, tuple[float, float]] = {}
    binaries = folder / "venv" / "bin"
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SHARPBENCH"))
    }
    environment |= {
        "SHARPBENCH_CACHE": str(folder / "cache"),
        "PATH": f"{binaries}:{os.environ['PATH']}",
    }

    def step(*command: str) -> None:
        start, before = time.monotonic(), _processor_seconds()
        subprocess.run(command, cwd=folder, env=environment, check=True)
        name = " ".join(command).replace(str(ROOT), ".").replace(f"{binaries}/", "")
        took[name] = time.monotonic() - start, _processor_seconds() - before
        _tell(name, *took[name])

    step(sys.executable, "-m", "venv", "venv")
    step("pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), "-e", str(ROOT))
    step("sharpbench", "new", "metric", "my_metric")
    step("sharpbench", "rank", "my_metric.py")
    card = json.loads((folder / "reports" / "rank_my_metric" / "scorecard.json").read_text("utf-8"))
    return card["metrics"][0], took


def _processor_seconds() -> float:
    """Those of all processes that this one started and that are over."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tell(name: str, passed: float, used: float) -> None:
    print(f"{passed / 60:6.1f} min, {used / 60:5.1f} of processors  {name}", flush=True)


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        row, took = go(Path(folder))
    passed, used = map(sum, zip(*took.values(), strict=True))
    _tell("all", passed, used)
    print({question: cell["word"] for question, cell in row["cells"].items()})


if __name__ == "__main__":
    _main()
