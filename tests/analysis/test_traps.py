"""What counts as falling into a trap, to either side of what is allowed."""

import pandas as pd
import pytest

from sharpbench.analysis.problems import traps
from sharpbench.analysis.results import Results

TRAP = "the mean of two runs stops at the wrong eigenvalue"


def verdict(value, error, *, converged=True, status="ok", free=None):
    """Of an answer where 200 is right."""
    asked = {
        "kind": "problem", "status": status, "problem_label": "hard", "problem_short": "hard",
        "metric_short": "m", "name": "m", "expected": 200.0, "value": value, "seed": 0,
        "standard_error": error, "converged": converged, "reason": None,
        "errors": [{"source": "probes", "size": error, "degrees_of_freedom": free}],
        "trap": TRAP, "trap_kind": "two runs", "parameters": {},
    }  # fmt: skip
    (row,) = traps(Results(pd.DataFrame([asked])))
    assert row["trap"] == TRAP
    return row["verdict"]


@pytest.mark.parametrize(
    ("value", "error", "right"),
    [
        (201.9, float("nan"), True),  # 1% of 200
        (202.1, float("nan"), False),
        (197.9, 0.1, False),
        (208.9, 3.0, True),  # three standard errors
        (209.1, 3.0, False),
        (191.1, 3.0, True),
    ],
)
def test_right_is_within_three_standard_errors_or_one_percent(value, error, right):
    assert verdict(value, error) == ("right" if right else "wrong, and says converged")
    assert verdict(value, error, converged=False) == ("right" if right else "wrong")


def test_an_error_from_three_probes_excuses_twenty_times_its_size():
    """Student's t of two degrees of freedom is exceeded at 19.2 as seldom as a known error at 3."""
    assert verdict(200 + 19.1 * 3, 3.0, free=2) == "right"
    assert verdict(200 + 19.3 * 3, 3.0, free=2) == "wrong, and says converged"


def test_an_error_as_wide_as_the_answer_is_no_merit():
    """Were 0 right as well, nothing is shown, however near 200 it came; what is wrong stays wrong."""
    assert verdict(201, 200 / 3 - 0.1) == "right"
    assert verdict(201, 200 / 3 + 0.1) == "can't tell"
    assert verdict(210, 12.0, free=2) == "can't tell"
    assert verdict(601, 200 / 3 + 0.1) == "wrong, and says converged"


def test_no_answer_is_neither_right_nor_wrong():
    assert verdict(None, None, status="failed") == "no answer"


def test_every_seed_counts():
    asked = {
        "kind": "problem", "status": "ok", "problem_label": "hard", "problem_short": "hard",
        "metric_short": "m", "name": "m", "expected": 200.0, "standard_error": None, "converged": True,
        "reason": None, "errors": [], "trap": TRAP, "trap_kind": "two runs", "parameters": {},
    }  # fmt: skip
    values = [200.0, 201.0, 150.0, 190.0, 200.5]
    rows = [{**asked, "seed": seed, "value": value} for seed, value in enumerate(values)]
    rows.append({**asked, "seed": 5, "value": None, "status": "failed", "reason": "none"})
    (row,) = traps(Results(pd.DataFrame(rows)))
    assert (row["asked"], row["answered"], row["wrong"], row["claimed"]) == (6, 5, 2, 2)
    assert row["verdict"] == "sometimes wrong, and says converged"
    assert row["value"] == 150
    rows[1] |= {"value": 0.0, "converged": False}
    (row,) = traps(Results(pd.DataFrame(rows)))
    assert (row["wrong"], row["claimed"], row["value"]) == (3, 2, 0)
    assert row["verdict"] == "wrong, and says converged"
