"""The grid of a suite's networks, as the records tell it, and the table of scores over it."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.generalization import _along_training, _confidence, grid, scores
from sharpbench.analysis.results import Results
from sharpbench.evaluation.outcomes import Outcomes
from sharpbench.seeds import numpy_generator

OPTIMIZERS = (("sgd", 0.0), ("sgd", 0.9), ("adam", None))


def population(*, outcomes=False, seeds=4, missed=()):
    """Networks of 2 widths × 2 rates × 3 optimizers, the test error theirs and of something hidden.

    The metric ``knows`` sees what is hidden, ``proxy`` the settings, ``noise`` nothing; of networks whose
    number is in ``missed`` the training loss is above the one at which they stop.
    """
    rng = numpy_generator(5)
    records = []
    grid_of = itertools.product((16, 64), (0.01, 0.1), OPTIMIZERS, range(seeds))
    for i, (width, lr, (optimizer, momentum), seed) in enumerate(grid_of):
        hidden = rng.normal()
        design = (width == 16) + 0.5 * (lr == 0.1) + (optimizer == "adam")
        error = 0.05 + 0.02 * design + 0.02 * hidden + 0.002 * rng.normal()
        common = {
            "subject": f"s{i}", "status": "ok", "transformation": None, "reason": None,
            "dataset": "digits", "model": "mlp", "recipe": optimizer, "seed": seed,
            "dataset_short": "digits", "model_short": f"mlp (width {width})", "recipe_short": optimizer,
            "model.width": width, "recipe.lr": lr, "recipe.momentum": momentum,
            "recipe.stop_loss": 0.01, "recipe.epochs": 100, "network_parameters": 100 * width,
            "errors": None,
        }  # fmt: skip
        for name, value in (
            ("knows", hidden + 0.2 * rng.normal()),
            ("proxy", design + 0.1 * rng.normal()),
            ("noise", rng.normal()),
        ):
            records.append(
                {**common, "kind": "measurement", "name": name, "metric_short": name, "value": value,
                 "space": "parameter", "standard_error": None, "gradient_equivalents": len(name)}
            )  # fmt: skip
        reached = 0.02 if i in missed else 0.00999 + 1e-7 * (i % 2)
        judged = {"test_error": error, "train_loss": reached, "test_loss": 3 * error}
        for name, value in judged.items():
            records.append(
                {**common, "kind": "evaluation", "name": name, "value": value,
                 "standard_error": 0.01, "title": name.replace("_", " ")}
            )  # fmt: skip
        if outcomes:
            wrong = numpy_generator(seed).permutation(500) < 500 * error
            packed = Outcomes(wrong.astype(float), wrong, f"points {seed}").packed()
            records.append(
                {**common, "kind": "outcomes", "name": "test", "value": None, "details": packed}
            )
    return Results(pd.DataFrame(records))


def test_axes_are_what_varies_in_the_records():
    found = grid(population(missed={3, 8}))
    assert found.population.axes == ("recipe", "width", "lr", "momentum")
    assert found.levels == (("adam", "sgd"), ("16", "64"), ("0.01", "0.1"), ("0", "0.9"))
    momentum = found.population.settings[:, 3]
    assert set(momentum[found.population.settings[:, 0] == 0]) == {-1}  # adam has none
    assert found.population.size == 46
    assert found.dropped == {"training loss not reached": 2}
    assert found.step(2, 0, 1) == "the lr changes from 0.01 to 0.1"


def test_a_few_networks_or_seeds_are_no_population():
    assert grid(population(seeds=2)) is None
    frame = population().frame
    alike = frame[(frame["model.width"] == 16) & (frame["recipe.lr"] == 0.1)]
    assert grid(Results(alike)) is None
    assert scores(Results(alike)) == []
    assert grid(Results(frame.iloc[:0])) is None


def test_experiments_side_by_side_are_no_grid():
    """What varies in one of them alone makes no pairs along three axes for anybody."""
    frame = population(seeds=4).frame
    sgd = frame["recipe.momentum"].eq(0.9)
    apart = frame[
        (frame["model.width"].eq(16) & frame["recipe.lr"].eq(0.1) & ~sgd)
        | (frame["model.width"].eq(64) & frame["recipe.lr"].eq(0.01))
        | (frame["recipe"].eq("adam") & frame["recipe.lr"].eq(0.01))
    ]
    assert apart["subject"].nunique() >= 24
    assert grid(Results(apart)) is None
    beside = frame[frame["recipe.lr"].eq(0.1)].assign(**{"recipe.lr": 0.5, "recipe.epochs": 7})
    beside = beside[beside["model.width"].eq(16) & beside["recipe"].eq("adam")]
    beside = beside.assign(subject="t" + beside["subject"])
    both = Results(pd.concat([frame, beside], ignore_index=True))
    found, alone = grid(both), grid(Results(frame))
    assert found.subjects == alone.subjects
    assert found.population.axes == alone.population.axes
    (reason,) = found.dropped
    assert reason.startswith("no partners")
    assert found.dropped[reason] == 4


@pytest.fixture(scope="module")
def table():
    return scores(population(outcomes=True, seeds=8))


def test_the_rows_are_rivals_and_controls_and_metrics(table):
    rows = [s for s in table if s.target == "test_error"]
    kinds = [s.kind for s in rows]
    assert kinds[:5] == ["oracle"] * 4 + ["rival"]
    assert kinds[-1] == "chance"
    asked = {s.row: s for s in rows if s.kind in {"metric", "control"}}
    assert {s.row for s in asked.values() if s.kind == "control"} == {
        "train loss",
        "number of parameters",
    }
    values = [s.mean.value for s in asked.values()]
    assert values == sorted(values, reverse=True)
    oracle = rows[0]
    assert (oracle.mean.value, oracle.information.value) == (1, pytest.approx(1))
    assert (oracle.error.worst, oracle.choice.regret.value, oracle.choice.hits.value) == (0, 0, 1)


def test_the_target_itself_is_exact_and_what_never_changes_ranks_nothing():
    frame = population().frame
    constant = frame["name"].isin(["noise", "train_loss"])
    table = scores(Results(frame.assign(value=frame["value"].where(~constant, 0.01))))
    rows = {s.row: s for s in table if s.target == "test_error"}
    assert "train loss" not in rows  # a control that controls nothing
    assert (rows["noise"].mean, rows["noise"].beyond, rows["noise"].kind) == (None, None, "metric")
    oracle = rows["target itself"]
    for found in (oracle.mean, oracle.information, oracle.error.mean, oracle.added.share):
        assert found.low == found.value == found.high
    assert not any("noise" in s.apart for s in rows.values())


def test_what_knows_more_than_the_hyperparameters_is_told_from_their_proxy(table):
    rows = {s.row: s for s in table if s.target == "test_error"}
    assert rows["knows"].added.stars
    assert rows["knows"].added.share.low > 0.3
    assert not rows["proxy"].added.stars
    assert not rows["noise"].added.stars
    assert not rows["noise"].mean.stars
    assert rows["knows"].information.value > 5 * rows["noise"].information.value
    assert rows["noise"].mean.adjusted >= rows["noise"].mean.p
    assert rows["noise"].mean.p <= rows["noise"].mean.q <= rows["noise"].mean.adjusted


def test_the_worst_environment_is_named(table):
    rows = {s.row: s for s in table if s.target == "test_error"}
    parameters = rows["number of parameters"]
    assert parameters.error.worst > 0.6  # wider networks have fewer errors here
    assert parameters.worst == "the width changes from 16 to 64"
    assert all(s.worst.startswith("the ") for s in rows.values() if s.error)


def test_what_the_log_of_a_training_tells():
    """Steps of ln ℓ: −1, −1, of variance 0; −1, −3, of variance 2; one alone; no log at all."""
    logs = {"even": [0, -1, -2], "uneven": [0, -1, -4], "short": [0, -1]}
    rows = [
        {"subject": who, "kind": "training", "name": name, "epoch": epoch + 1.0, "value": value}
        for who, log in logs.items()
        for epoch, power in enumerate(log)
        for name, value in (("train_loss", math.exp(power)), ("test_loss", 7.0))
    ]
    asked = ["uneven", "none", "short", "even"]
    found = _along_training(Results(pd.DataFrame(rows)), asked)
    assert found["epochs of training"] == pytest.approx([3, math.nan, 2, 3], nan_ok=True)
    variance = found["variance of the loss along training"]
    assert variance == pytest.approx([2, math.nan, math.nan, 0], abs=1e-12, nan_ok=True)
    assert _along_training(Results(pd.DataFrame(rows[1:2])), asked) == {}


def test_outcomes_on_the_same_points_keep_more_pairs():
    kept = {}
    for outcomes in (False, True):
        results = population(outcomes=outcomes)
        found, judged = grid(results), results.evaluations
        y = judged.reindex(list(found.subjects))["test_error"].to_numpy()
        errors = judged * 0 + 0.01
        confidence = _confidence(results, found, judged.reindex(list(found.subjects)), errors)
        pairs = found.population.coupled[1]
        same = found.population.seeds[pairs.left, 0] == found.population.seeds[pairs.right, 0]
        weight = confidence["test_error"](pairs.left[same], pairs.right[same])
        assert np.isfinite(y).all()
        kept[outcomes] = (weight > 0.95).mean()
    assert kept[True] > kept[False] + 0.1


def test_gaps_are_paired_where_training_errors_are_equal():
    frame = population(outcomes=True).frame
    errors = frame[frame["name"] == "test_error"]
    wide = errors["model.width"] == 64
    train = errors.assign(name="train_error", value=np.where(wide, 0.0, 0.01))
    gap = errors.assign(name="gap", value=errors["value"] - train["value"])
    results = Results(pd.concat([frame, train, gap], ignore_index=True))
    found = grid(results)
    judged = results.evaluations.reindex(list(found.subjects))
    confidence = _confidence(results, found, judged, judged * 0 + 0.01)
    width, lr = (found.population.axes.index(name) for name in ("width", "lr"))
    for axis, paired in ((lr, True), (width, False)):
        pairs = found.population.coupled[axis]
        of_gap = confidence["gap"](pairs.left, pairs.right)
        of_error = confidence["test_error"](pairs.left, pairs.right)
        assert np.allclose(of_gap, of_error) == paired
