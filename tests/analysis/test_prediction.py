import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, kendalltau

from sharpbench.analysis.prediction import associations
from sharpbench.analysis.rank_correlation import (
    benjamini_hochberg,
    exchanged,
    holm,
    kendall,
    tau_b,
)
from sharpbench.analysis.results import Results, stratum
from sharpbench.analysis.statistics import jackknife
from sharpbench.seeds import numpy_generator


def test_one_stratum_is_kendalls_tau():
    rng = numpy_generator(0)
    x, y = rng.normal(size=40), rng.normal(size=40)
    y += x
    found = kendall(x, y, np.zeros(40))
    assert found.value == pytest.approx(kendalltau(x, y).statistic)
    assert (found.n, found.pairs, found.strata, found.blocks) == (40, 780, 1, 40)
    assert found.low < found.value < found.high
    assert found.clear


def test_ties_are_counted_as_in_tau_b():
    x, y = np.array([1, 1, 2, 3]), np.array([1, 2, 2, 3])
    found = kendall(x, y, np.zeros(4))
    assert found.value == pytest.approx(4 / 5)  # 4 untied pairs; 5 untied in x, 5 in y
    assert found.value == pytest.approx(kendalltau(x, y).statistic)
    assert found.pairs == 4
    rng = numpy_generator(3)
    x, y = rng.integers(0, 5, 50), rng.integers(0, 3, 50)
    assert kendall(x, y, np.zeros(50)).value == pytest.approx(kendalltau(x, y).statistic)
    assert kendall(np.ones(5), np.arange(5), np.zeros(5)) is None


def test_the_jackknife_by_hand():
    """Three seeds of three networks; the three τ without one of them, on the scale of artanh."""
    x = np.arange(9.0)
    y = np.array([3.0, 1.0, 0.0, 2.0, 8.0, 5.0, 7.0, 4.0, 6.0])
    seeds = np.tile(np.arange(3), 3)
    found = kendall(x, y, np.zeros(9), seeds)
    left = np.arctanh([kendalltau(x[seeds != s], y[seeds != s]).statistic for s in range(3)])
    error = np.sqrt(2 / 3 * np.square(left - left.mean()).sum())
    centre, width = np.arctanh(kendalltau(x, y).statistic), 4.302653 * error
    assert (found.low, found.high) == pytest.approx(
        (np.tanh(centre - width), np.tanh(centre + width)), rel=1e-6
    )


@pytest.mark.parametrize("levels", [3, 12, 10**6])
def test_ties_strata_and_blocks_are_those_of_every_pair_looked_at(levels):
    """The sums of τ-b, and those without each block, from the signs of all pairs."""
    rng = numpy_generator(levels)
    x, y, strata, blocks = (rng.integers(0, n, 150) for n in (levels, levels, 6, 8))
    in_x, in_y = (np.sign(v[:, None] - v) * (strata[:, None] == strata) for v in (x, y))
    sums = np.array([in_x * in_y, abs(in_x), abs(in_y)])

    def tau(kept):
        concordance, in_one, in_other = sums[:, kept][:, :, kept].sum((1, 2))
        return concordance / np.sqrt(in_one * in_other)

    found = kendall(x, y, strata, blocks)
    assert found.value == tau(np.full(150, True)) == tau_b(x, y, strata)
    assert found.pairs == abs(in_x * in_y).sum() / 2
    without = np.array([tau(blocks != b) for b in range(8)])
    ends = jackknife(found.value, without, step=2 / found.pairs, correlation=True)
    assert (found.low, found.high, found.p) == ends


def test_strata_are_never_mixed():
    """Within each of two groups y falls with x; between them it rises: Simpson's paradox."""
    x = np.concatenate([np.arange(10), 20 + np.arange(10)]).astype(float)
    y = np.concatenate([10 - np.arange(10), 40 - np.arange(10)]).astype(float)
    strata = np.repeat(["a", "b"], 10)
    assert kendall(x, y, strata).value == -1
    assert kendall(x, y, np.zeros(20)).value > 0


@pytest.mark.parametrize(("seeds", "recipes", "shared"), [(60, 1, 0.0), (10, 3, 0.8), (5, 3, 0.8)])
def test_the_interval_covers_the_truth(seeds, recipes, shared):
    """Bivariate normal with correlation r has Kendall's τ = 2/π·arcsin r, also if seeds are shared."""
    rng, covered, trials = numpy_generator(1), 0, 300
    truth = 2 / np.pi * np.arcsin(0.6)
    mixing = np.linalg.cholesky([[1, 0.6], [0.6, 1]])
    for trial in range(trials):
        common = mixing @ rng.normal(size=(2, seeds, 1))[:, :, 0]
        own = np.einsum("ij,jsr->isr", mixing, rng.normal(size=(2, seeds, recipes)))
        x, y = (np.sqrt(shared) * common[:, :, None] + np.sqrt(1 - shared) * own).reshape(2, -1)
        blocks = np.repeat(np.arange(seeds), recipes)
        found = kendall(x, y, np.zeros(len(x)), blocks, seed=trial)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / trials <= 0.99


@pytest.mark.parametrize(
    ("seeds", "recipes", "strata"),
    [(3, 3, 1), (3, 3, 3), (5, 3, 2), (10, 6, 1), (1, 2, 3), (2, 1, 3)],
)
def test_clear_is_rare_without_an_association(seeds, recipes, strata):
    """What seeds share makes networks alike; that must not pass for an association."""
    rng, trials, hits = numpy_generator(5), 300, 0
    groups = np.repeat(np.arange(strata), seeds * recipes)
    blocks = np.tile(np.repeat(np.arange(seeds), recipes), strata)
    for trial in range(trials):
        common = np.sqrt(0.8) * rng.normal(size=(2, seeds))
        x, y = common[:, blocks] + np.sqrt(0.2) * rng.normal(size=(2, len(groups)))
        found = kendall(x, y, groups, blocks, seed=trial)
        hits += found is not None and found.clear
    assert hits / trials <= 0.08


def test_a_few_pairs_that_agree_are_not_clear():
    x = np.arange(6.0)
    found = kendall(x, x, np.repeat(np.arange(3), 2))
    assert found.value == 1
    assert found.p > 0.25  # all of 3 pairs agree in 2 of 8 cases
    assert not found.clear


def test_agreement_throughout_ends_the_interval_where_a_failure_would_have_shown():
    x = np.arange(20.0)
    found = kendall(x, x, np.zeros(20))
    assert found.high == 1
    assert 0.9 < found.low < 0.97  # of 190 pairs some five or ten might be turned
    assert kendall(x, -x, np.zeros(20)).high == pytest.approx(-found.low)


def test_whole_recipes_and_whole_seeds_change_places():
    strata, recipes, seeds = (a.ravel() for a in np.indices((2, 3, 3)))
    found = exchanged(strata, recipes, seeds)
    assert found.shape == (35, 18)  # 3!·3! orders but for the one that there is
    assert (np.sort(found, axis=1) == np.arange(18)).all()
    assert len(np.unique(found, axis=0)) == 35
    for order in found:
        assert (strata[order] == strata).all()
        for of in (recipes, seeds):  # one stands for the other, everywhere
            assert len({*zip(of, of[order], strict=True)}) == 3
    x = np.random.default_rng(0).normal(size=18)
    assert kendall(x, x, strata, seeds, exchanges=found).p >= 1 / 36
    # Strata of other recipes have an order of their own: 3!·3!·3!; and nobody stands for who is not there.
    other = np.where(strata == 1, 3 + recipes, recipes)
    assert len(exchanged(strata, other, seeds)) == 215
    short = exchanged(strata[1:], recipes[1:], seeds[1:])
    assert ((short == -1).sum(1) <= 1).all()
    assert (short == -1).any()
    many = exchanged(*(a.ravel() for a in np.indices((1, 5, 5))))
    assert many.shape == (999, 25)
    twins = exchanged(np.zeros(4), np.array([0, 0, 1, 1]), np.zeros(4))
    assert twins.tolist() == [[2, 3, 0, 1]]


@pytest.mark.parametrize("alike", ["recipe", "recipe of a stratum", "seed", "network"])
@pytest.mark.parametrize("design", [(8, 3, 3), (1, 3, 10), (2, 6, 4)])
def test_what_recipes_and_seeds_have_in_common_is_no_association(design, alike):
    """A figure and a target, each of its own: a metric that only repeats the recipe is no predictor."""
    rng = numpy_generator(17)
    strata, recipes, seeds = (a.ravel() for a in np.indices(design))
    exchanges = exchanged(strata, recipes, seeds)

    def drawn():
        of = {
            "recipe": rng.normal(size=design[1])[recipes],
            "recipe of a stratum": rng.normal(size=design[:2])[strata, recipes],
            "seed": rng.normal(size=design[2])[seeds],
            "network": 0.0,
        }[alike]
        return 2 * of + 0.3 * rng.normal(size=len(strata))

    trials, hits = 200, 0
    for _ in range(trials):
        found = kendall(drawn(), drawn(), strata, seeds, exchanges=exchanges)
        hits += found.clear
    assert hits / trials <= 0.05 + 1.96 * np.sqrt(0.0475 / trials)


def test_what_goes_with_the_target_in_many_recipes_is_clear():
    rng = numpy_generator(18)
    strata, recipes, seeds = (a.ravel() for a in np.indices((4, 6, 5)))
    exchanges = exchanged(strata, recipes, seeds)
    common = rng.normal(size=6)[recipes] + 0.3 * rng.normal(size=len(recipes))
    found = kendall(common, common + 0.3 * rng.normal(size=len(recipes)), strata, seeds,
                    exchanges=exchanges)  # fmt: skip
    assert found.p < 0.01


def test_holms_adjustment_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).max() == 1.0


def test_false_discovery_rates_are_scipys():
    p = numpy_generator(0).random(20) ** 2
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))


def frame_of(rows):
    """A record frame of one metric and the test error; a network a row, each of its own seed."""
    records = []
    for i, (value, error, group, *rest) in enumerate(rows):
        seed, recipe = rest or (i, "adam")
        common = {
            "subject": str(i), "status": "ok", "transformation": None, "label": "m",
            "dataset_short": group, "model_short": "net", "metric_short": "m",
            "seed": seed, "recipe_short": recipe, "standard_error": None,
        }  # fmt: skip
        records.append({**common, "kind": "measurement", "name": "m", "value": value})
        records.append({**common, "kind": "evaluation", "name": "test_error", "value": error})
    return pd.DataFrame(records)


def test_simpsons_paradox_is_flagged():
    rows = [(float(i), 10.0 - i, "clean") for i in range(10)]
    rows += [(100.0 + i, 1000.0 - i, "noisy") for i in range(10)]
    table = associations(Results(frame_of(rows)))
    (row,) = table.to_dict("records")
    assert row["within"].value == -1
    assert row["pooled"].value > 0
    assert row["simpson"] == (row["pooled"].clear and row["within"].clear)
    rows += [(200.0 + i, 2000.0 - i, "noisier") for i in range(10)]
    (row,) = associations(Results(frame_of(rows))).to_dict("records")
    assert row["simpson"]


def test_pairs_of_one_seed_and_of_one_recipe_are_told_apart():
    """Recipe by recipe the metric rises with the error, seed by seed it falls."""
    rows = [
        (10.0 * r + s, 10.0 * r - s, "data", s, f"recipe {r}") for r in range(3) for s in range(6)
    ]
    (row,) = associations(Results(frame_of(rows))).to_dict("records")
    assert row["between_recipes"].value == 1
    assert row["between_recipes"].pairs == 18
    assert row["between_seeds"].value == -1
    assert row["between_seeds"].pairs == 45
    assert row["within"].blocks == 6


def test_a_stratum_is_one_of_data_and_model():
    """Networks of unlike models are not compared: within each the order is reversed."""
    frame = frame_of([(float(i), float(i // 5 * 20 - i), "d") for i in range(10)])
    frame["model_short"] = ["small" if int(s) < 5 else "large" for s in frame["subject"]]
    assert set(stratum(frame)) == {"d · small", "d · large"}
    (row,) = associations(Results(frame)).to_dict("records")
    assert row["within"].value == -1
    assert row["within"].strata == 2
    assert row["pooled"].value > 0


def test_p_is_adjusted_for_the_number_of_metrics():
    rng = numpy_generator(2)
    errors = rng.normal(size=12)
    frames = []
    for name, noise in (("a", 0.9), ("b", 5.0), ("c", 5.0)):
        values = errors + noise * rng.normal(size=12)
        frame = frame_of([(v, e, "data") for v, e in zip(values, errors, strict=True)])
        measured = frame["kind"] == "measurement"
        frames.append(frame[measured].assign(metric_short=name, label=name, name=name))
    frames.append(frame[~measured])
    rows = associations(Results(pd.concat(frames, ignore_index=True))).set_index("metric")["within"]
    assert rows["a"].adjusted == pytest.approx(3 * rows["a"].p)
    assert rows["a"].adjusted > rows["a"].p


def test_pairs_of_one_seed_share_the_seed_of_every_stream():
    """Two recipes of six networks: two data seeds by three initializations, all of one training seed."""
    rows, streams = [], []
    for seed in (0, 1):
        for initialization in (5, 6, 7):
            for recipe, worse in (("adam", 0.0), ("sam", 0.1)):
                value = 10.0 * seed - initialization + worse
                rows.append((value, worse - 10.0 * seed, "clean", seed, recipe))
                streams += [(seed, initialization, 0)] * 2  # measurement and evaluation
    frame = frame_of(rows)
    for i, name in enumerate(("data", "initialization", "training")):
        frame[f"seed.{name}"] = [s[i] for s in streams]
    (row,) = associations(Results(frame)).to_dict("records")
    assert row["between_recipes"].pairs == 6  # adam and sam, never of two initializations
    assert row["between_recipes"].value == 1
    (alone,) = associations(Results(frame_of(rows))).to_dict("records")
    assert alone["between_recipes"].pairs == 18


def test_networks_that_share_a_seed_of_any_stream_are_alike():
    """Figures that hang on the initialization alone: many data seeds are no independent repetitions."""
    rng = numpy_generator(1)
    data, initial = (a.ravel() for a in np.meshgrid(np.arange(10), np.arange(4), indexing="ij"))
    x = rng.normal(size=4)[initial] + 0.01 * rng.normal(size=40)
    y = rng.normal(size=4)[initial] + 0.01 * rng.normal(size=40)
    strata = np.zeros(40)
    by_data, by_start = kendall(x, y, strata, data), kendall(x, y, strata, initial)
    both = kendall(x, y, strata, np.stack([data, initial, np.zeros(40)], 1))
    assert by_start.high - by_start.low > 3 * (by_data.high - by_data.low)
    assert (both.low, both.high) == (by_start.low, by_start.high)
    assert both.p == max(by_data.p, by_start.p)
    assert both.blocks == 10
    assert kendall(x, y, strata, np.stack([data, data], 1)) == by_data
    assert kendall(x, y, strata, np.stack([np.zeros(40), initial], 1)) is None
