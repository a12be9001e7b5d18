"""A metric against itself, asked again: Kendall's τ by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sharpbench.analysis.results import Results
from sharpbench.analysis.retest import noise_ceilings
from sharpbench.analysis.scorecard import scorecard
from tests.analysis.test_invariance import records

TRAINED = {"dataset": "d", "model": "m", "recipe": "r", "dataset_short": "d", "model_short": "m",
           "recipe_short": "r", "reason": None}  # fmt: skip
PERMUTED = {"transformation": "neuron_permutation", "parameters": {}, "kind": "permutation"}


def neighbours_exchanged(networks):
    """Each network changes places with its neighbour: of all pairs one in n − 1 is discordant."""
    first = np.arange(networks) + 1.0
    return list(zip(first, first[np.arange(networks) ^ 1], strict=True))


def test_the_ceiling_is_the_rank_correlation_of_a_metric_with_itself():
    pairs = neighbours_exchanged(40)
    frame = records("hessian_trace", pairs, **PERMUTED, promised=True)
    (found,) = noise_ceilings(Results(frame)).values()
    assert found.value == pytest.approx(1 - 2 / 39)
    assert found.value == pytest.approx(stats.kendalltau(*np.array(pairs).T).statistic)
    assert found.n == 40
    assert found.low < found.value <= found.high


def test_the_scorecard_tells_it_beside_the_rank_correlation():
    frame = records("hessian_trace", neighbours_exchanged(40), **PERMUTED, promised=True)
    judged = [
        {"kind": "evaluation", "status": "ok", "subject": f"s{i}", "name": "test_error", "value": i / 100,
         "title": "test error", "transformation": None, "parameters": {}, "seed": i}
        for i in range(40)
    ]  # fmt: skip
    frame = pd.concat([frame, pd.DataFrame(judged)], ignore_index=True).assign(**TRAINED)
    (entry,) = scorecard(Results(frame))
    cell = entry.cells["predictive"]
    assert (cell.word, cell.measure, cell.value, cell.n) == ("predicts", "tau", 1.0, 40)
    assert cell.told == ("test error", "noise ceiling τ +0.95, n = 40")


def test_of_few_networks_no_rank_correlation_is_told():
    frame = records("hessian_trace", neighbours_exchanged(8), **PERMUTED, promised=True)
    judged = frame[frame["transformation"].isna()].assign(
        kind="evaluation", name="test_error", title="test error"
    )
    frame = pd.concat([frame, judged], ignore_index=True).assign(**TRAINED)
    (entry,) = scorecard(Results(frame))
    cell = entry.cells["predictive"]
    assert (cell.word, cell.measure, cell.n) == ("can't tell", "", 0)
    assert cell.told[0].startswith("fewer than 10 networks")


def test_of_networks_of_one_seed_it_is_told_what_is_missing():
    """A zoo of checkpoints, all judged on the same points."""
    frame = records("hessian_trace", neighbours_exchanged(12), **PERMUTED, promised=True)
    frame = frame.assign(seed=0)
    judged = frame[frame["transformation"].isna()].assign(
        kind="evaluation", name="test_error", title="test error"
    )
    frame = pd.concat([frame, judged], ignore_index=True).assign(**TRAINED)
    (entry,) = scorecard(Results(frame))
    cell = entry.cells["predictive"]
    assert cell.word == "can't tell"
    assert cell.told[0].startswith("one seed of the data")


def test_of_several_permutations_that_of_the_most_networks_counts():
    many = records("hessian_trace", neighbours_exchanged(40), **PERMUTED, promised=True)
    few = records(
        "hessian_trace", [(float(i), -float(i)) for i in range(32)], promised=True,
        **{**PERMUTED, "transformation": "channel_permutation"},
    )  # fmt: skip
    both = pd.concat([many, few[few["transformation"].notna()]], ignore_index=True)
    assert noise_ceilings(Results(both))["hessian_trace"].value > 0.9


@pytest.mark.parametrize(
    ("networks", "changed"),
    [
        (28, {}),
        (40, {"promised": False}),
        (40, {"promised": None}),
        (40, {"kind": "linear_gauge"}),
        (40, {"kind": "control"}),
    ],
)
def test_there_is_none_of_few_networks_or_of_what_is_no_mere_permutation(networks, changed):
    frame = records(
        "hessian_trace",
        neighbours_exchanged(networks),
        **{**PERMUTED, "promised": True, **changed},
    )
    assert noise_ceilings(Results(frame)) == {}
