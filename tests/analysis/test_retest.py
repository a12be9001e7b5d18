"""A metric against itself, asked again: Kendall's τ by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sharpbench.analysis.results import Results
from sharpbench.analysis.retest import noise_ceilings
from tests.analysis.test_invariance import records

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
