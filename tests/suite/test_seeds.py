"""Seeds by stream, on networks that are really trained."""

import json
import random

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_limits

from sharpbench.datasets import datasets
from sharpbench.metrics import metrics
from sharpbench.problems import problems
from sharpbench.results.store import ResultsStore, load_records
from tests.cli.command import in_process
from tests.suite.test_run import figures, run

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


DRAWING = '''
"""What draws from the generators that a whole process shares."""
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sharpbench.datasets import Dataset
from sharpbench.measurement import Measurement
from sharpbench.metrics.base import Metric
from sharpbench.problems.base import Problem
from sharpbench.subject import Splits, Subject


def network():
    return nn.Linear(3, 2)


def batches():
    return [(torch.randn(6, 3), torch.randint(0, 2, (6,)))]


@dataclass(frozen=True, kw_only=True)
class Drawn(Dataset):
    """Points around zero, from numpy's generator."""
    name = "drawn_globally"

    def clean(self, root, *, seed):
        x = torch.as_tensor(np.random.normal(size=(8, 1)), dtype=torch.float32)
        return Splits(x, 2 * x, x, x, 1, "regression")


@dataclass(frozen=True, kw_only=True)
class Shifted(Problem):
    """A linear function whose shift is from Python's generator."""
    name = title = "shifted_globally"

    def subject(self, *, seed):
        layer = nn.Linear(2, 1)
        nn.init.constant_(layer.bias, random.random())
        return Subject(layer, torch.ones(3, 2), torch.zeros(3, 1))


@dataclass(frozen=True)
class Norm(Metric):
    """Sum of the squared weights and inputs."""
    name, title, unit, space = "norm_of_drawn", "norm", "", "parameter"

    def measure(self, subject, *, seed):
        held = [p.detach() for p in subject.model.parameters()] + [subject.inputs]
        return Measurement(sum(float(p.square().sum()) for p in held), samples=1)
'''

DRAWN_SUITE = """
name = "drawn"
seeds = { data = [0, 1], initialization = [0], training = [0, 1] }
plugins = ["drawing.py"]

[[subjects]]
dataset = { name = "drawn_globally" }
model   = { name = "mlp", widths = [4] }
recipe  = { name = "sgd", epochs = 1, lr = 1e-300 }

[[networks]]
model = "drawing:network"
data = "drawing:batches"
seed = 3

[[problems]]
problem = { name = "shifted_globally" }
metrics = [{ name = "norm_of_drawn" }]
seeds = [0, 1]

[[metrics]]
name = "norm_of_drawn"

[cost]
repeats = 0
"""


@pytest.fixture
def forgotten():
    """Afterwards the plug-ins of this test are unknown again."""
    yield
    datasets.forget("drawn_globally")
    problems.forget("shifted_globally")
    metrics.forget("norm_of_drawn")


def test_what_draws_from_a_global_generator_has_the_same_numbers_in_every_run(
    users_folder, forgotten
):
    folder = users_folder({"drawing.py": DRAWING, "drawn.toml": DRAWN_SUITE})
    suite = folder / "drawn.toml"
    found = []
    for workers, results in ((1, "one"), (2, "two")):
        torch.seed()
        np.random.seed()  # noqa: NPY002  (the state that is asked about)
        random.seed()
        state = torch.get_rng_state(), random.getstate()
        run(suite, folder / results, workers)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert random.getstate() == state[1]
        found.append(figures(folder / results))
    assert found[0] == found[1]
    frame = load_records(folder / "one", suite="drawn")
    asked = frame[frame["label"] == "norm_of_drawn"]
    assert (asked["status"] == "ok").all(), asked["reason"].tolist()
    assert asked.groupby("kind")["value"].nunique().to_dict() == {"measurement": 3, "problem": 2}
    # Networks of one data seed have the same data, whatever else is drawn for them.
    trained = asked[asked["dataset"] == "drawn_globally"]
    assert len(trained) == 4
    assert trained.groupby("seed.data")["value"].nunique().tolist() == [1, 1]
    outcomes, _ = run(suite, folder / "one")
    assert [o.measured for o in outcomes] == [0] * len(outcomes)


def test_a_network_of_ones_own_that_draws_has_the_same_figure_at_every_door(
    users_folder, capsys, monkeypatch
):
    users_folder({"drawing.py": DRAWING})
    asked = ["measure", "--model", "drawing:network", "--data", "drawing:batches"]
    asked += ["--metric", "gradient_norm", "--json"]
    found = []
    for more in ([], [], ["--output", "own"], ["--seed", "1"]):
        torch.seed()
        told = in_process(capsys, monkeypatch, *asked, *more)
        assert told.code == 0, told.err
        found.append(json.loads(told.out.splitlines()[0])["value"])
    assert found[0] == found[1] == found[2] != found[3]


ASKING = '''
"""Asks in how many parts numpy and scipy share out a product of matrices."""
from dataclasses import dataclass

from threadpoolctl import threadpool_info

from sharpbench.measurement import Measurement
from sharpbench.metrics.base import Metric


@dataclass(frozen=True)
class Threads(Metric):
    """The largest number of threads of a library of linear algebra."""
    name, title, unit, space = "threads_of_algebra", "threads", "", "function"

    def measure(self, subject, *, seed):
        found = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        return Measurement(float(max(found)), samples=1)
'''


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_of_linear_algebra_have_the_order_that_the_suite_says(users_folder, threads):
    """Whatever the environment says, a product is shared out among as many threads in every run."""
    text = SUITE.replace("seeds = {", f"threads = {threads}\nseeds = {{").replace("[0, 1]", "[0]")
    text = text.replace('name = "margin"\nsamples = 20', 'name = "threads_of_algebra"')
    text = text.replace("title =", 'plugins = ["asking.py"]\ntitle =')
    folder = users_folder({"asking.py": ASKING, "streams.toml": text})
    try:
        with threadpool_limits(3 - threads, user_api="blas"):
            run(folder / "streams.toml", folder / "results")
        frame = load_records(folder / "results", suite="streams")
        found = frame[frame["label"] == "threads_of_algebra"]["value"]
        assert found.tolist() == [threads] * 2
    finally:
        metrics.forget("threads_of_algebra")
