"""A metric along training beside the test error of the same epoch."""

import pandas as pd

from sharpbench.analysis.results import Results
from sharpbench.analysis.trajectory import trajectories

NAMES = {"dataset_short": "data", "model_short": "net", "recipe_short": "adam", "status": "ok"}


def frame_of(subject, epochs):
    """λ = 10·epoch and the test error 1/epoch of one network."""
    rows = []
    for epoch in epochs:
        common = {**NAMES, "subject": subject, "seed": 0, "epoch": epoch, "standard_error": 0.5}
        rows.append({**common, "kind": "trajectory", "name": "m", "metric_short": "λ",
                     "value": 10.0 * epoch})  # fmt: skip
        rows.append({**common, "kind": "training", "name": "test_error", "value": 1 / epoch})
        rows.append({**common, "kind": "training", "name": "seconds", "value": 99.0})
    return pd.DataFrame(rows)


def test_each_value_stands_beside_the_error_of_its_own_epoch():
    frame = pd.concat([frame_of("a", [1, 2, 5]), frame_of("b", [1, 4])], ignore_index=True)
    found = trajectories(Results(frame))
    assert found["epoch"].tolist() == [1, 2, 5, 1, 4]
    assert found["value"].tolist() == [10, 20, 50, 10, 40]
    assert found["test_error"].tolist() == [1, 1 / 2, 1 / 5, 1, 1 / 4]
    assert set(found["stratum"]) == {"data · net"}
    assert set(found["standard_error"]) == {0.5}


def test_an_epoch_without_an_error_keeps_its_value():
    frame = frame_of("a", [1, 2])
    kept = frame[(frame["kind"] != "training") | (frame["epoch"] == 1)]
    found = trajectories(Results(kept))
    assert found["value"].tolist() == [10, 20]
    assert found["test_error"].isna().tolist() == [False, True]
    assert trajectories(Results(frame[frame["kind"] == "training"])).empty
