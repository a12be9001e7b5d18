"""What a suite costs beside the work it asks for."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import intents
from sharpbench.suite.spec import find_suite, load_suite


class Plan:
    """Parsing and expanding a shipped suite, and finding out that nothing of it is there."""

    params = (["quick", "paper_two_moons", "lambda_ground_truth"],)
    param_names = ("suite",)
    unit = "seconds"

    def setup(self, suite: str) -> None:
        self.file = load_suite(find_suite(suite))

    def track_plan(self, suite: str) -> float:
        start = time.perf_counter()
        plan = make_plan(self.file)
        with tempfile.TemporaryDirectory() as folder:
            intents(plan, Path(folder), Path(folder))
        return time.perf_counter() - start
