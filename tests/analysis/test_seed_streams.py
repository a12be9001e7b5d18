"""What each stream of random numbers adds to the spread over networks."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.results import Results
from sharpbench.analysis.seed_streams import exchanged, spreads
from sharpbench.analysis.statistics import binomial_interval

DATA, INITIALIZATION, TRAINING = range(3)


def grid(data, initialization, training):
    return np.array(list(itertools.product(range(data), range(initialization), range(training))))


def test_pairs_that_differ_in_one_seed_alone_by_hand():
    """Values 0, 2 of one data seed and 10, 16 of another: ½·mean(2², 6²) and ½·mean(10², 14²)."""
    seeds, values = grid(2, 2, 1), np.array([0.0, 2.0, 10.0, 16.0])
    assert exchanged(values, seeds, INITIALIZATION).value == pytest.approx(10**0.5)
    assert exchanged(values, seeds, DATA).value == pytest.approx(74**0.5)
    assert exchanged(values, seeds, TRAINING) is None
    # One by one no seed is ever exchanged alone.
    together = np.repeat(np.arange(4), 3).reshape(4, 3)
    assert [exchanged(values, together, s) for s in range(3)] == [None] * 3


@pytest.mark.parametrize("law", ["normal", "t", "lognormal", "rounded"])
@pytest.mark.parametrize("levels", [(3, 3, 1), (6, 4, 1), (10, 5, 1)])
def test_a_spread_over_few_seeds_is_covered(law, levels):
    """Also of tied and skewed figures: no more than it says, of few seeds, and never less."""
    rng, seeds, trials = np.random.default_rng(3), grid(*levels), 200
    draw = {
        "normal": lambda n: rng.normal(size=n),
        "t": lambda n: rng.standard_t(5, size=n) / math.sqrt(5 / 3),
        "lognormal": lambda n: (
            np.exp(0.5 * rng.normal(size=n)) / math.sqrt(math.expm1(0.25) * math.exp(0.25))
        ),
        "rounded": lambda n: np.round(rng.normal(size=n)) / math.sqrt(13 / 12),
    }[law]
    held = np.zeros(2)
    for _ in range(trials):
        values = sum(draw(n)[seeds[:, i]] for i, n in enumerate(levels[:2]))
        values = values + 0.3 * draw(len(seeds))
        for stream in (0, 1):
            found = exchanged(values, seeds, stream)
            held[stream] += found.low <= math.hypot(1, 0.3) <= found.high
    assert all(binomial_interval(int(k), trials)[1] >= 0.95 for k in held)


def test_pairs_that_are_all_equal_tell_no_end():
    """As errors that are counted on few points may be: no spread is shown, and none excluded."""
    found = exchanged(np.repeat([0.1, 0.2, 0.3], 3), grid(3, 3, 1), INITIALIZATION)
    assert (found.value, found.low, found.high) == (0, 0, np.inf)


def test_each_streams_variance_is_found_and_covered():
    seeds, spread, rng = grid(8, 5, 3), (3.0, 1.0, 0.2), np.random.default_rng(0)
    held, found = np.zeros(3), np.zeros(3)
    trials = 200
    for _ in range(trials):
        values = sum(s * rng.normal(size=8)[seeds[:, i]] for i, s in enumerate(spread))
        values = values + 0.5 * rng.normal(size=len(seeds))  # what belongs to no seed
        for stream, own in enumerate(spread):
            estimate = exchanged(values, seeds, stream)
            found[stream] += estimate.value**2 / trials
            held[stream] += estimate.low <= np.hypot(own, 0.5) <= estimate.high
    assert found == pytest.approx([s**2 + 0.25 for s in spread], rel=0.15)
    assert (held / trials >= 0.92).all()


def test_two_seeds_tell_a_spread_without_a_bound():
    seeds, rng = grid(5, 2, 1), np.random.default_rng(0)
    found = exchanged(rng.normal(size=10), seeds, INITIALIZATION)
    assert found.value > 0
    assert (found.low, found.high) == (0.0, np.inf)


def test_a_table_of_a_suite_with_seeds_by_stream():
    seeds = grid(3, 2, 1)
    rows = [
        {
            "subject": str(i), "kind": kind, "name": name, "status": "ok", "transformation": None,
            "metric_short": "sharpness", "dataset_short": "data", "model_short": "net",
            "recipe_short": "adam", "value": value, "standard_error": 0.0, "seed": d,
            "seed.data": d, "seed.initialization": j, "seed.training": t,
        }
        for i, (d, j, t) in enumerate(seeds)
        for kind, name, value in (
            ("measurement", "m", 10.0 * d + j), ("evaluation", "test_error", 0.5 * j),
        )
    ]  # fmt: skip
    table = spreads(Results(pd.DataFrame(rows))).set_index("figure")
    assert list(table.index) == ["sharpness", "test error"]
    assert table.loc["sharpness", "data"].value == pytest.approx(
        (0.5 * (100 + 100 + 400) / 3) ** 0.5
    )
    assert table.loc["sharpness", "initialization"].value == pytest.approx(0.5**0.5)
    assert table.loc["test error", "data"].value == 0
    assert table.loc["test error", "training"] is None
    same = {f"seed.{stream}": lambda f: f["seed"] for stream in ("initialization", "training")}
    alike = pd.DataFrame(rows).assign(**same)
    assert spreads(Results(alike.drop_duplicates("seed"))).empty
