"""The scores of prediction, against closed forms, an independent implementation and known truths."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from mbe_eval.comparators import granulated_kendall, jiang_normalized_cmi
from mbe_eval.robust_sign_error import robust_sign_error_environments, robust_sign_error_summary
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge

from sharpbench.analysis.prediction_scores.beyond_hyperparameters import (
    _PENALTIES,
    _Ridge,
    from_hyperparameters,
    increment,
    noisy_oracle,
)
from sharpbench.analysis.prediction_scores.choice import choice, random_choice
from sharpbench.analysis.prediction_scores.conditional_information import conditional_information
from sharpbench.analysis.prediction_scores.granulated_tau import (
    difference_of_tau,
    granulated_tau,
    told_apart,
)
from sharpbench.analysis.prediction_scores.population import Population
from sharpbench.analysis.prediction_scores.sign_error import (
    environments,
    hoeffding_confidence,
    independent_confidence,
    paired_confidence,
    sign_error,
)
from sharpbench.analysis.rank_correlation import benjamini_hochberg
from sharpbench.seeds import numpy_generator
from tests.analysis.populations import effects, grid


def as_frame(population, x, y):
    frame = pd.DataFrame(population.settings, columns=list(population.axes))
    return frame.assign(x=x, y=y, config=population.configurations.astype(str))


# --- against an independent implementation ------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_granulated_tau_and_information_are_those_of_another_implementation(seed):
    rng = numpy_generator(seed)
    population = grid([3, 2, 3, 2])
    y = rng.normal(size=36)
    x = y + rng.normal(size=36)
    frame, axes = as_frame(population, x, y), list(population.axes)
    overall, detail = granulated_kendall(frame, "x", "y", axes)
    each, mean = granulated_tau(population, x, y)
    assert [e.value for e in each] == pytest.approx(detail["granulated_kendall"].tolist())
    assert mean.value == pytest.approx(overall)
    score, _ = jiang_normalized_cmi(frame, "x", "y", axes)
    assert conditional_information(population, x, y).value == pytest.approx(score, rel=1e-10)


def test_sign_errors_are_those_of_another_implementation():
    rng = numpy_generator(4)
    population = grid([3, 2, 2], seeds=6)
    y = 0.3 + 0.05 * effects(population, rng) + 0.02 * rng.normal(size=72)
    x = y + 0.05 * rng.normal(size=72)
    frame = as_frame(population, x, y)
    theirs = robust_sign_error_environments(
        frame, ["x"], list(population.axes), target="y", config_column="config", test_size=1000
    )
    found = environments(population, hoeffding_confidence(y, 1000), of="configurations")
    mine = sign_error(population, found, x, y)
    assert 2 * len(found.axis) == len(theirs) >= 20
    assert sorted(np.repeat(mine.each, 2)) == pytest.approx(sorted(theirs["x"]))
    assert sorted(np.repeat(found.effective, 2)) == pytest.approx(
        sorted(theirs["effective_sample_size"])
    )
    summary = robust_sign_error_summary(theirs, ["x"]).set_index("hyperparameter").loc["all"]
    assert mine.mean.value == pytest.approx(summary["mean_sign_error"])
    assert mine.worst == pytest.approx(summary["max_sign_error"])


def scorer_of_the_competition(settings, x, y):
    """Table by table: two axes, every network with every one and itself, ``>`` or not."""
    least = math.inf
    for one, other in itertools.permutations(range(settings.shape[1]), 2):
        tables = {}
        for i, j in itertools.product(range(len(x)), repeat=2):
            cell = (*settings[i, [one, other]], *settings[j, [one, other]])
            table = tables.setdefault(cell, np.zeros((2, 2)))
            table[int(y[i] > y[j]), int(x[i] > x[j])] += 1
        information, entropy = [], []
        for table in tables.values():
            p = table / table.sum()
            a, b = p.sum(1), p.sum(0)
            entropy.append(-sum(v * math.log2(v) for v in a if v > 0))
            information.append(
                sum(
                    p[i, j] * math.log2(p[i, j] / (a[i] * b[j]))
                    for i, j in itertools.product(range(2), repeat=2)
                    if p[i, j] > 0
                )
            )
        least = min(least, np.mean(information) / np.mean(entropy))
    return least


def test_the_competitions_scorer_with_its_faults():
    rng = numpy_generator(0)
    for levels in ([2, 2, 2, 2], [3, 3, 3]):
        population = grid(levels)
        y = rng.normal(size=population.size)
        for x in (y + rng.normal(size=len(y)), -y, np.round(2 * y)):
            found = conditional_information(population, x, y, protocol="pgdl")
            assert found.value == pytest.approx(
                scorer_of_the_competition(population.settings, x, y)
            )
        # Blind to the sign by definition; the scorer isn't, since a network is paired with itself.
        assert conditional_information(population, -y, y).value == pytest.approx(1.0)
        reversed_ = conditional_information(population, -y, y, protocol="pgdl").value
        assert 0.5 < reversed_ < 0.95
    one = Population(
        ("a", "b"), np.array([[0, 0], [0, 1], [1, 0]]), *np.zeros((3, 3), int)[:, :, None]
    )
    assert conditional_information(one, np.arange(3.0), np.arange(3.0), protocol="pgdl") is None


# --- closed forms -------------------------------------------------------------------------------


def test_information_by_hand():
    """Four networks on one axis, one pair of six out of order: I = ln 2 − h(1/6) without a condition."""
    population = grid([4])
    x, y = np.array([0.0, 1, 2, 3]), np.array([1.0, 0, 2, 3])
    wrong = 1 / 6
    whole = 1 + (wrong * math.log2(wrong) + (1 - wrong) * math.log2(1 - wrong))
    assert conditional_information(population, x, y).value == pytest.approx(whole)
    assert conditional_information(population, np.ones(4), y).value == 0
    assert conditional_information(population, x, np.ones(4)) is None


def test_ties_count_as_ties():
    population = grid([3, 2])
    y = np.arange(6.0)
    x = np.array([0.0, 1, 0, 2, 1, 3])  # along the first axis (0, 0, 1) and (1, 2, 3)
    each, mean = granulated_tau(population, x, y)
    assert each[0].value == pytest.approx((2 / 3 + 1) / 2)
    assert each[1].value == 1
    assert mean.value == pytest.approx((5 / 6 + 1) / 2)
    assert granulated_tau(population, np.ones(6), y) == ([None, None], None)  # it ranks nothing
    found = environments(population, lambda i, j: np.ones(len(i)), least=1)
    assert sign_error(population, found, np.ones(6), y).each == pytest.approx(0.5)


def test_what_applies_to_one_optimizer_alone_is_compared_within_it():
    """SGD with two momenta and Adam, at two rates: Adam is compared with both, momenta among themselves."""
    settings = np.array([[o, m, r] for o, m in ((0, 0), (0, 1), (1, -1)) for r in (0, 1)])
    zeros = np.zeros(6, int)
    population = Population(("optimizer", "momentum", "lr"), settings, zeros[:, None], zeros, zeros)
    pairs = [set(zip(p.left, p.right, strict=True)) for p in population.controlled]
    assert pairs[0] == {(0, 4), (2, 4), (1, 5), (3, 5)}
    assert pairs[1] == {(0, 2), (1, 3)}
    assert pairs[2] == {(0, 1), (2, 3), (4, 5)}


def test_networks_without_a_figure_are_left_out():
    population = grid([3, 2], seeds=2)
    y = np.arange(12.0)
    x = np.where(np.arange(12) == 5, np.nan, y)
    assert granulated_tau(population, x, y)[1].value == 1
    assert conditional_information(population, x, y).n == 11
    assert granulated_tau(population, np.full(12, np.nan), y) == ([None, None], None)
    assert conditional_information(population, np.full(12, np.nan), y) is None


def test_mcnemar_sees_what_hoeffding_throws_away():
    """540 points, error rates of 3.0% and 4.9%: 12 of 14 discordant points fall to one side."""
    rng = numpy_generator(0)
    wrong = np.zeros((2, 540), bool)
    wrong[0, :16] = True
    wrong[1, 2:28] = True
    y = wrong.mean(1)
    apart = np.sqrt(y * (1 - y) / 540)
    i, j = np.array([0]), np.array([1])
    paired = paired_confidence(wrong, np.zeros(2, int), y, apart)(i, j)[0]
    # 12 against 2 of 14 fair coins: p = 2·(1 + 14 + 91)/2¹⁴.
    assert paired == pytest.approx(1 - 2 * 106 / 2**14)
    unpaired = independent_confidence(y, apart)(i, j)[0]
    assert unpaired < 0.95 < paired
    assert hoeffding_confidence(y, 540)(i, j)[0] == 0
    elsewhere = paired_confidence(wrong, np.array([0, 1]), y, apart)(i, j)[0]
    assert elsewhere == unpaired
    assert paired_confidence(wrong, np.full(2, -1), y, apart)(i, j)[0] == unpaired
    same = np.repeat(rng.integers(0, 2, (1, 540)).astype(bool), 2, 0)
    assert paired_confidence(same, np.zeros(2, int), y * 0, apart)(i, j)[0] == 0


def test_the_worst_environment_is_found():
    population = grid([2, 2, 3], seeds=4)
    s = population.settings
    y = s[:, 0] + 2.0 * s[:, 1] + 4.0 * s[:, 2]
    x = s[:, 0] + 2.0 * s[:, 1] - 4.0 * (s[:, 2] == 2)
    found = environments(population, lambda i, j: np.ones(len(i)))
    error = sign_error(population, found, x, y)
    worst = [(found.axis[e], found.low[e], found.high[e]) for e in np.flatnonzero(error.each == 1)]
    assert worst == [(2, 0, 2), (2, 1, 2)]
    assert error.each[(found.axis == 2) & (found.high == 1)] == 0.5  # tied
    assert error.mean.value == pytest.approx((0 + 0 + 0.5 + 1 + 1) / 5)
    assert environments(population, lambda i, j: np.zeros(len(i))).dropped == 5
    assert sign_error(population, environments(population, lambda i, j: i * 0.0), x, y) is None


def test_regret_of_an_oracle_and_of_chance():
    rng = numpy_generator(0)
    population = grid([4, 5], seeds=3)
    y = rng.normal(size=60)
    perfect = choice(population, y, y)
    assert (perfect.regret.value, perfect.hits.value) == (0, 1)
    reversed_ = choice(population, -y, y)
    assert (reversed_.regret.value, reversed_.hits.value) == (1, 0)
    regret, hits = random_choice(population, y)
    constant = choice(population, np.ones(60), y)  # ties by lot
    assert (constant.regret.value, constant.hits.value) == pytest.approx((regret, hits))
    assert hits == pytest.approx(0.2)
    drawn = [choice(population, rng.normal(size=60), y).regret.value for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(regret, abs=0.03)


def test_leaving_a_configuration_out_is_fitting_without_it():
    """In closed form as by scikit-learn, block by block; blocks of unlike sizes."""
    rng = numpy_generator(1)
    features, y = rng.integers(0, 2, (30, 12)).astype(float), rng.normal(size=30)
    blocks = np.sort(rng.integers(0, 8, 30))
    ridge = _Ridge(features, blocks)
    left, number = ridge.left_out(y)
    penalty = _PENALTIES[number]
    refitted = np.empty(30)
    errors = np.zeros(len(_PENALTIES))
    for block in np.unique(blocks):
        out = blocks == block
        for i, alpha in enumerate(_PENALTIES):
            fitted = Ridge(alpha=alpha).fit(features[~out], y[~out])
            off = y[out] - fitted.predict(features[out])
            errors[i] += np.square(off).sum()
            if i == number:
                refitted[out] = off
    assert left == pytest.approx(refitted)
    assert number == errors.argmin()
    whole = Ridge(alpha=penalty).fit(features, y)
    at = rng.normal(size=(5, 12))
    assert ridge.predicted(y, at, number) == pytest.approx(whole.predict(at))


def test_the_hyperparameters_alone_rank_what_they_decide():
    rng = numpy_generator(1)
    population = grid([3, 2, 2], seeds=3)
    y = effects(population, rng) + 0.1 * rng.normal(size=36)
    found = from_hyperparameters(population, y)
    assert kendalltau(found, y).statistic > 0.7
    assert len(np.unique(found.round(9))) == 12  # networks of one configuration are predicted alike
    assert (
        np.isnan(from_hyperparameters(population, np.where(y > 0, y, np.nan))).sum()
        == (y <= 0).sum()
    )


def test_a_noisier_oracle_predicts_less():
    rng = numpy_generator(3)
    population = grid([3, 3, 3], seeds=5)
    y = effects(population, rng) + rng.normal(size=population.size)
    ladder = [noisy_oracle(population, y, size) for size in (0, 0.5, 1, 2)]
    psi = [granulated_tau(population, x, y)[1].value for x in ladder]
    information = [conditional_information(population, x, y).value for x in ladder]
    for scores in (psi, information):
        assert scores[0] == pytest.approx(1)
        assert scores == sorted(scores, reverse=True)
    better = difference_of_tau(population, ladder[0], ladder[3], y)
    assert better.value == pytest.approx(psi[0] - psi[3])
    assert better.low > 0


def test_an_oracle_knows_nothing_where_no_target_is_known():
    """Networks of the last stratum have no target, as regressions have no test error."""
    population = grid([2, 2, 3], seeds=2, model_axes=1)
    last = population.strata == population.strata.max()
    assert 0 < last.sum() < population.size
    y = np.where(last, np.nan, np.arange(population.size, dtype=float))
    found = noisy_oracle(population, y, 0.5)
    assert np.array_equal(np.isnan(found), last)


# --- scenarios of known truth -------------------------------------------------------------------


def scenario(name, rng, seeds=2):
    """A population of 3⁴ configurations, a figure and a target, by what is true of them."""
    population = grid([3, 3, 3, 3], seeds, model_axes=1)
    s = population.settings
    noise = rng.normal(size=(3, population.size))
    design = (s - 1.0) @ np.array([1.0, 0.8, 0.6, 0.4])
    product = 1.0 * (s[:, 2] - 1) * (s[:, 3] - 1)
    hidden = noise[2]
    figure, target = {
        "null": (noise[0], design + 0.5 * noise[1]),
        "design proxy": (design + 0.3 * noise[0], design + 0.5 * noise[1]),
        "interaction proxy": (
            design + product + 0.3 * noise[0],
            design + product + 0.5 * noise[1],
        ),
        "genuine increment": (design + hidden + 0.3 * noise[0], design + hidden + 0.3 * noise[1]),
        "axis specialist": (s[:, 1] + 1e-3 * noise[0], design + 0.2 * noise[1]),
        "sign flip": (
            np.where(s[:, 0] == 0, -1, (s[:, 0] == 1)) * design + 0.3 * noise[0],
            design + 0.5 * noise[1],
        ),
    }[name]
    return population, figure, target


SCENARIOS = {
    # Whether the figure ranks networks that differ in one setting alike; whether it adds to the settings.
    "null": (False, False),
    "design proxy": (True, False),
    "interaction proxy": (True, False),
    "genuine increment": (True, True),
    "axis specialist": (True, False),
    "sign flip": (False, False),
}


def judged(name, repetitions):
    rng = numpy_generator(11)
    psi, information, adds = [], [], []
    for _ in range(repetitions):
        population, x, y = scenario(name, rng)
        psi.append(granulated_tau(population, x, y)[1].value)
        information.append(conditional_information(population, x, y).value)
        adds.append(increment(population, x, y).p <= 0.05)
    return np.mean(psi), np.mean(information), np.mean(adds)


def check_scenario(name, repetitions):
    psi, information, adds = judged(name, repetitions)
    ranks, genuine = SCENARIOS[name]
    assert (psi > 0.2) == ranks
    assert (adds > 0.6) if genuine else (adds <= 0.05 + 1.96 * math.sqrt(0.0475 / repetitions))
    if name == "axis specialist":  # one axis of four, and information on none of the others
        assert psi == pytest.approx(0.25, abs=0.1)
        assert information < 0.1


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_of_known_truth(name):
    check_scenario(name, 5)


@pytest.mark.parametrize("seed", range(6))
def test_a_figure_that_the_hyperparameters_determine_adds_nothing(seed):
    """Numbers of parameters: what is left of them is small where it is fitted, and may be large elsewhere."""
    rng = numpy_generator(seed)
    population = grid([2, 2, 2, 2, 3], 3, model_axes=2)
    known = rng.permutation(np.unique(population.configurations))[:30]
    number = np.array([[650.0, 1386.0], [1290.0, 3402.0]])[tuple(population.settings.T[:2])]
    target = effects(population, rng, seed_sd=0.3) + rng.normal(size=population.size)
    target[~np.isin(population.configurations, known)] = np.nan
    found = increment(population, number, target).share
    assert max(abs(found.low), abs(found.high)) < 0.02


@pytest.mark.endurance
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_of_known_truth_many_times(name):
    check_scenario(name, 100)


def test_pairs_told_apart_are_those_that_differ_in_every_seed():
    """The target itself, twice, is told from its negative; noise of its own size from neither copy alone."""
    rng = numpy_generator(3)
    population = grid([3, 2, 2, 2, 2], 5, model_axes=2)
    y = rng.normal(size=population.size)
    missing = np.where(np.arange(population.size) % 7 == 0, np.nan, y)
    figures = {"y": y, "again": 2 * y + 1, "some": missing, "against": -y}
    found = told_apart(population, figures, y)
    assert found["y"] == found["again"] == found["some"] == {"against"}
    assert found["against"] == {"y", "again", "some"}
    one = difference_of_tau(population, figures["y"], figures["against"], y)
    assert one.value == pytest.approx(2)
    alike = told_apart(population, {str(k): rng.normal(size=len(y)) for k in range(12)}, y)
    assert not any(alike.values())


def null_figures(population, rng, kind, metrics):
    """Figures that know nothing of the target, each with random structure of its own."""
    shape = (metrics, population.size)
    noise = rng.normal(size=shape)
    of_seed = rng.normal(size=(metrics, population.seeds.max() + 1))[:, population.seeds[:, 0]]
    of_configuration = rng.normal(size=(metrics, population.configurations.max() + 1))
    return {
        "noise": noise,
        "of the seed": of_seed + 0.3 * noise,
        "of the configuration": of_configuration[:, population.configurations] + 0.1 * noise,
    }[kind]


def stars(kind, trials, metrics=10, seeds=5):
    """How often any figure gets a star for Ψ, and for the increment, under the null."""
    rng = numpy_generator(21)
    population = grid([3, 2, 2, 2, 2], seeds, model_axes=2)
    found = np.zeros(2)
    for _ in range(trials):
        y = effects(population, rng, seed_sd=1.0) + rng.normal(size=population.size)
        figures = null_figures(population, rng, kind, metrics)
        ranks = np.array([granulated_tau(population, x, y)[1].p for x in figures])
        adds = np.array([increment(population, x, y).p for x in figures])
        found += [(benjamini_hochberg(p) <= 0.05).any() for p in (ranks, adds)]
    return found / trials


@pytest.mark.parametrize("kind", ["noise", "of the seed", "of the configuration"])
def test_stars_are_rare_without_an_association(kind):
    assert (stars(kind, 8, metrics=2) <= 0.25).all()


@pytest.mark.endurance
@pytest.mark.parametrize("kind", ["noise", "of the seed", "of the configuration"])
def test_at_most_a_twentieth_gets_a_star_without_an_association(kind):
    """That of any of ten figures at all: the family errs in at most 5% of populations."""
    trials = 200
    assert (stars(kind, trials) <= 0.05 + 1.96 * math.sqrt(0.0475 / trials)).all()
