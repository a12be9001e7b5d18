"""Seeds by stream, on networks that are really trained."""

import pandas as pd
import pytest

from sharpbench.results.store import ResultsStore, load_records
from tests.suite.test_run import run

SUITE = """
name = "streams"
title = "Seeds by stream"
seeds = { data = [0, 1], initialization = [0, 1], training = [0, 1] }

[[subjects]]
dataset = { name = "two_moons", n = 100, label_noise = 0.2 }
model   = { name = "mlp", widths = [4] }
recipe  = [{ name = "sgd", epochs = 1, lr = 1e-300 }, { name = "adam", epochs = 1 }]

[[metrics]]
name = "margin"
samples = 20

[cost]
repeats = 1
"""
STREAMS = ["data", "initialization", "training"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pd.DataFrame:
    """A row a network with its weights' hash, its seeds and its figures."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "streams.toml").write_text(SUITE)
    outcomes, _ = run(folder / "streams.toml", folder / "results")
    assert all(o.trained for o in outcomes)
    frame = load_records(folder / "results", suite="streams")
    rows = frame.drop_duplicates("subject").set_index("subject")
    rows = rows[["recipe", "seed", *(f"seed.{s}" for s in STREAMS)]]
    described = [s.read() for s in ResultsStore(folder / "results").subjects()]
    weights = {d["key"]: d["weights"] for d in described}
    figures = frame[frame["kind"].isin(["evaluation", "measurement"]) & frame["value"].notna()]
    timed = frame[frame["cost.median_seconds"].notna()].groupby("subject").size()
    return rows.assign(
        weights=rows.index.map(weights),
        test_loss=figures[figures["name"] == "test_loss"].set_index("subject")["value"],
        points=figures[figures["label"] == "margin(samples=20)"].set_index("subject")["value"],
        timed=timed.reindex(rows.index).fillna(0),
    )


def decided_by(rows: pd.DataFrame, column: str) -> set[str]:
    """The streams whose seed changes a column where the two others stay."""
    found = set()
    for stream in STREAMS:
        others = [f"seed.{s}" for s in STREAMS if s != stream]
        counts = rows.groupby(others)[column].nunique()
        assert set(counts) <= {1, 2}
        found |= {stream} if (counts == 2).all() else set()
    return found


def test_each_stream_decides_what_is_its_own(trained):
    # A learning rate of 1e-300 leaves the initial weights as they are.
    untrained = trained[trained["recipe"] == "sgd"]
    assert len(untrained) == 8
    assert decided_by(untrained, "weights") == {"initialization"}
    assert decided_by(untrained, "test_loss") == {"data", "initialization"}
    assert decided_by(untrained, "points") == {"data", "initialization"}
    adam = trained[trained["recipe"] == "adam"]
    assert decided_by(adam, "weights") == {"data", "initialization", "training"}


def test_records_carry_every_seed_and_are_blocked_by_that_of_the_data(trained):
    assert (trained["seed"] == trained["seed.data"]).all()
    assert len(trained.drop_duplicates([f"seed.{s}" for s in STREAMS])) == 8
    # Networks of the lowest seeds alone are timed.
    timed = trained[trained["timed"] > 0]
    assert (timed[[f"seed.{s}" for s in STREAMS]] == 0).all().all()
    assert len(timed) == 2
