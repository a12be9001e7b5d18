import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from sharpbench.analysis.prediction import associations, kendall
from sharpbench.seeds import numpy_generator


def test_one_stratum_is_kendalls_tau():
    rng = numpy_generator(0)
    x, y = rng.normal(size=40), rng.normal(size=40)
    y += x
    found = kendall(x, y, np.zeros(40))
    assert found.tau == pytest.approx(kendalltau(x, y).statistic)
    assert (found.n, found.pairs, found.strata) == (40, 780, 1)
    assert found.low < found.tau < found.high
    assert found.clear


def test_ties_count_for_nothing():
    found = kendall(np.array([1, 1, 2, 3]), np.array([1, 2, 2, 3]), np.zeros(4))
    assert found.tau == 1.0
    assert found.pairs == 4  # of 6, one ties in x and one in y
    assert kendall(np.ones(5), np.arange(5), np.zeros(5)) is None


def test_strata_are_never_mixed():
    """Within each of two groups y falls with x; between them it rises: Simpson's paradox."""
    x = np.concatenate([np.arange(10), 20 + np.arange(10)]).astype(float)
    y = np.concatenate([10 - np.arange(10), 40 - np.arange(10)]).astype(float)
    strata = np.repeat(["a", "b"], 10)
    assert kendall(x, y, strata).tau == -1
    assert kendall(x, y, np.zeros(20)).tau > 0


def test_the_interval_covers_the_truth():
    """Bivariate normal with correlation r has Kendall's τ = 2/π·arcsin r."""
    rng, covered = numpy_generator(1), 0
    truth = 2 / np.pi * np.arcsin(0.6)
    for trial in range(150):
        x = rng.normal(size=60)
        y = 0.6 * x + 0.8 * rng.normal(size=60)
        found = kendall(x, y, np.zeros(60), seed=trial)
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def frame_of(rows):
    """A record frame of one metric and the test error."""
    records = []
    for i, (value, error, group) in enumerate(rows):
        common = {
            "subject": str(i), "status": "ok", "transformation": None, "label": "m",
            "dataset_short": group, "model_short": "net", "metric_short": "m",
        }  # fmt: skip
        records.append({**common, "kind": "measurement", "name": "m", "value": value})
        records.append({**common, "kind": "evaluation", "name": "test_error", "value": error})
    return pd.DataFrame(records)


def test_simpsons_paradox_is_flagged():
    rows = [(float(i), 10.0 - i, "clean") for i in range(10)]
    rows += [(100.0 + i, 1000.0 - i, "noisy") for i in range(10)]
    table = associations(frame_of(rows))
    (row,) = table.to_dict("records")
    assert row["within"].tau == -1
    assert row["pooled"].tau > 0
    assert row["simpson"] == (row["pooled"].clear and row["within"].clear)
    rows += [(200.0 + i, 2000.0 - i, "noisier") for i in range(10)]
    (row,) = associations(frame_of(rows)).to_dict("records")
    assert row["simpson"]
