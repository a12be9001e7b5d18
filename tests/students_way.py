"""The student's way: from ``pip install`` to one's own metric's row beside all others.

``python -m tests.students_way`` goes it in a fresh environment and prints how long each step took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["go"]

ROOT = Path(__file__).resolve().parents[1]


def go(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The row of the metric, and the seconds of each step, all of which happens in ``folder``."""
    took: dict[str, float] = {}
    binaries = folder / "venv" / "bin"
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SHARPBENCH"))
    }
    environment |= {
        "SHARPBENCH_CACHE": str(folder / "cache"),
        "PATH": f"{binaries}:{os.environ['PATH']}",
    }

    def step(*command: str) -> None:
        start = time.monotonic()
        subprocess.run(command, cwd=folder, env=environment, check=True)
        name = " ".join(command).replace(str(ROOT), ".").replace(f"{binaries}/", "")
        took[name] = time.monotonic() - start

    step(sys.executable, "-m", "venv", "venv")
    step("pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), "-e", str(ROOT))
    step("sharpbench", "new", "metric", "my_metric")
    step("sharpbench", "rank", "my_metric.py")
    card = json.loads((folder / "reports" / "rank_my_metric" / "scorecard.json").read_text("utf-8"))
    return card["metrics"][0], took


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        row, took = go(Path(folder))
    for name, seconds in {**took, "all": sum(took.values())}.items():
        print(f"{seconds / 60:6.1f} min  {name}")
    print({question: cell["word"] for question, cell in row["cells"].items()})


if __name__ == "__main__":
    _main()
