"""What arXiv:2511.01438 states, beside what measures it and the rule by which it is judged."""

from __future__ import annotations

import math
from typing import Any

from sharpbench.analysis.audit import Claim
from sharpbench.analysis.measures import (
    ADVERSARIAL,
    CORRUPTED,
    ECE,
    TEST_ERROR,
    BetweenDefinitions,
    Correlation,
    Difference,
    GridRank,
    Group,
    Mean,
    Slope,
    TimeRatio,
)
from sharpbench.analysis.rules import Effect, Level, NoEffect, Sign, Within
from sharpbench.analysis.statistics import partial_spearman, pearson, spearman, students
from sharpbench.paper.evidence import (
    GRID,
    GROUND,
    MNIST,
    MOONS,
    QUESTIONED,
    ROBUST,
    SPECTRAL_BIAS,
    TABLE_2,
    Along,
    Change,
    OfProblem,
    Rate,
    rate,
)
from sharpbench.paper.spectral_bias import FarthestFromTheKernel, FirstWhereTheyDiffer, SlowerByRate

__all__ = ["CLAIMS"]

# --- the networks and the definitions of λ that claims and questions speak of ------------------------

TWO_MOONS: dict[str, Any] = {"protocol": "paper_two_moons"}
LAMBDA, ON_MNIST = rate(**TWO_MOONS), rate(protocol="paper_mnist")
RECOMMENDED = rate(protocol="recommended")
ON_GRID = rate(protocol="recommended", samples=256, split="train")
CURE = "input_gradient_change"

NOISE = "dataset.label_noise"
CLEAN, NOISY, NOISIEST = (MOONS.where(dataset__label_noise=noise) for noise in (0.0, 0.3, 0.45))
EVERY_NOISE = (CLEAN, NOISY, NOISIEST)

UNPENALISED = MNIST.where(dataset__label_noise=0.0, recipe="adam", recipe__epochs=15)
TABLE_1 = MNIST.where(dataset__label_noise=0.2, recipe="crr", recipe__epochs=30)
SAM, ADAM = TABLE_2.where(recipe="sam"), TABLE_2.where(recipe="adam")


def up_to(n_max: int) -> tuple[int, ...]:
    """The orders 1 … n_max."""
    return tuple(range(1, n_max + 1))


def _crr(scale: float, **conditions: Any) -> Group:
    """Two Moons at 30% label noise under CRR."""
    return NOISY.but(recipe="crr", recipe__scale=scale, **conditions)


def _labels(noise: float) -> Group:
    """MNIST with label noise, §5.3."""
    return MNIST.where(dataset__label_noise=noise, recipe="adam", recipe__epochs=10)


OF_LABELS = tuple(_labels(noise) for noise in (0.0, 0.2, 0.4))


def _sweep(*scales: float) -> tuple[Group, ...]:
    """MNIST with clean labels under CRR, §5.4."""
    return tuple(UNPENALISED.but(recipe="crr", recipe__scale=scale) for scale in scales)


def _table_1(orders: list[int], scale: float) -> Group:
    return TABLE_1.but(recipe__orders=orders, recipe__scale=scale)


def _crr_of(orders: list[int]) -> Group:
    """CRR of Table 2."""
    return TABLE_2.where(recipe="crr", recipe__orders=orders)


def _pair(first: int, second: int) -> Rate:
    return rate(protocol="paper_table2", pair=(first, second))


def robust(activation: str, **conditions: Any) -> Group:
    """Digits under the eight recipes of `lambda_robustness`."""
    return ROBUST.where(model__activation=activation, **conditions)


def strongest_crr(activation: str) -> Group:
    return robust(activation, recipe="crr", recipe__orders=[1, 2, 3, 4], recipe__scale=20.0)


def strongest_sam(activation: str) -> Group:
    return robust(activation, recipe="sam", recipe__rho=0.5)


def _goes_with(activation: str, error: str) -> Correlation:
    """λ and an error once the clean error is known, about each seed's means."""
    columns = (RECOMMENDED, error, TEST_ERROR)
    return Correlation((robust(activation),), partial_spearman, columns, within="seed")


def wide(activation: str, *, bias: bool, amplitude: float = 1.0) -> Group:
    """Wide networks that each learn one cosine on the circle."""
    return SPECTRAL_BIAS.where(
        model__activation=activation, model__bias=bias, dataset__amplitude=amplitude
    )


# --- closed forms ---------------------------------------------------------------------------------------

_LONG = up_to(30)
_ALL: dict[str, Any] = {"target": 0, "samples": "all"}
_BAND: dict[str, Any] = {**_ALL, "norm": "rms", "directions": 1, "weight_decay": 0.05}
WAVE = rate(**_ALL, norm="rms", directions=1)


def _radius(problem: str, radius: float, orders: tuple[int, ...]) -> OfProblem:
    """The relative error of R̂ = exp(−λ)."""
    fitted = {"normalization": "factorial", "fit": "log_corrected", "weight_decay": 0.02}
    return OfProblem(
        GROUND,
        problem,
        rate(target=0, **fitted, orders=orders),
        lambda value: abs(math.exp(-value) - radius) / radius,
    )


# --- how far a stated number may be off by itself ---------------------------------------------------


def of_percentiles(low: float, high: float, networks: int) -> float:
    """Half the 95% interval of a mean whose networks' 2.5 and 97.5 percentiles are printed."""
    return (high - low) / 2 / math.sqrt(networks)


def of_deviation(deviation: float, networks: int = 3) -> float:
    """Half the 95% interval (Student's t) of a mean stated with its standard deviation."""
    return students(networks - 1) * deviation / math.sqrt(networks)


_SMALL = 0.3
"""Correlations below it leave 91% of the variance unexplained: to be shown for "does not correlate"."""


CLAIMS: tuple[Claim, ...] = (
    # --- the definition, §2, §5.1 ---
    Claim("2.2", "1/(1 − x) has λ = +∞ by the definition (its derivatives grow like n!)",
          "+∞", "",
          OfProblem(GROUND, "power_pole", rate(**_ALL, orders=_LONG), less=rate(**_ALL)),
          Within(0.5, math.inf), "rise of the slope from orders 1–4 to 1–30"),
    Claim("2.2, 5.1", "λ = −log R for analytic functions, by the same definition (1/(1 − x), R = 1)",
          "0", "0, with derivatives divided by n!, which the text does not say",
          OfProblem(GROUND, "power_pole", rate(**_ALL, orders=_LONG)),
          Within(-0.05, 0.05), "λ, orders 1–30, not divided by n!"),
    Claim("5.1", "R̂ within 1% for 1/(1 − x)",
          "< 1%", "R̂ = 1.000000",
          _radius("power_pole", 1.0, tuple(range(2, 61))),
          Within(0, 0.01), "relative error"),
    Claim("5.1", "R̂ within 1% for 1/(1 − 2x)",
          "< 1%", "R̂ = 0.500000",
          _radius("power_pole(scale=2)", 0.5, tuple(range(2, 61))),
          Within(0, 0.01), "relative error"),
    Claim("5.1", "R̂ within 1% for (1 − x³)⁻¹, the function of the text",
          "< 1%", "not computed: the code has (1 − x)⁻³",
          _radius("cubic_pole", 1.0, tuple(range(3, 61, 3))),
          Within(0, 0.01), "relative error"),
    Claim("5.1", "R̂ within 1% for (1 − x)⁻³, the function of the code",
          "< 1%", "1.160%",
          _radius("power_pole(power=3)", 1.0, tuple(range(2, 61))),
          Within(0, 0.01), "relative error"),
    Claim("5.1", "Band edge Ω ≈ 450 estimated as 427",
          "427 (5.1% off)", "427.232520",
          OfProblem(GROUND, "band_limited", rate(**_BAND, orders=tuple(range(31))), math.exp),
          Level(427.23252, 0.01), "Ω̂"),
    Claim("5.1", "… and as 448 with a finite-domain correction",
          "448 (0.5% off)", "448.138122; the correction is a log n regressor",
          OfProblem(GROUND, "band_limited", rate(**_BAND, orders=_LONG, fit="log_corrected"), math.exp),
          Level(448.138122, 0.01), "Ω̂"),
    Claim("5.1", "λ(sin x) = 0, reproduced exactly",
          "0", "prints derivatives at 0; no fit is run",
          OfProblem(GROUND, "sine", WAVE),
          Level(0.0, 0.02), "λ, orders 1–4, 64 points"),
    Claim("2.2", "exp(−x²/2) has λ = 0",
          "0", "",
          OfProblem(GROUND, "gaussian", WAVE),
          Within(-0.05, 0.05), "λ, orders 1–4 (the limit is +∞)"),
    # --- Two Moons, §5.2 ---
    Claim("5.2", "The estimate is robust to the band: 0.48–0.52 for 0.45–0.65",
          "1.608 for 1.627", "−0.019",
          BetweenDefinitions(NOISY, rate(**TWO_MOONS, band=(0.48, 0.52)), LAMBDA),
          Within(-0.1, 0.1), "Δλ"),
    Claim("5.2", "… to the band: 0.40–0.70 for 0.45–0.65",
          "1.605 for 1.627", "−0.022",
          BetweenDefinitions(NOISY, rate(**TWO_MOONS, band=(0.4, 0.7)), LAMBDA),
          Within(-0.1, 0.1), "Δλ"),
    Claim("5.2", "… to the number of directions: 8 for 2",
          "1.633 for 1.627", "+0.006",
          BetweenDefinitions(NOISY, rate(**TWO_MOONS, directions=8), LAMBDA),
          Within(-0.1, 0.1), "Δλ"),
    Claim("5.2", "… while the range of orders moves it: up to 5 for up to 3",
          "1.822 for 1.387", "+0.435",
          BetweenDefinitions(NOISY, rate(**TWO_MOONS, orders=up_to(5)), rate(**TWO_MOONS, orders=up_to(3))),
          Effect(0.435), "Δλ"),
    Claim("5.2", "λ at 30% label noise",
          "1.627 (15 networks)", "1.5865 (40 networks)",
          Mean(NOISY, LAMBDA),
          Level(1.627, 0.05, of_percentiles(1.244, 1.877, 15)), "λ"),
    Claim("5.2", "True and predicted labels give the same λ",
          "r = 0.976", "",
          Correlation((NOISY,), pearson, (LAMBDA, rate(**TWO_MOONS, target="predicted_loss"))),
          Within(0.9, 1.0), "Pearson's r"),
    Claim("5.2", "Loss and largest logit give the same λ",
          "r = 0.966", "",
          Correlation((NOISY,), pearson, (LAMBDA, rate(**TWO_MOONS, target="max_logit"))),
          Within(0.9, 1.0), "Pearson's r"),
    Claim("5.2", "Test error on clean labels",
          "3.42%", "0.0342 [0.0244, 0.0456] (percentiles)",
          Mean(CLEAN, TEST_ERROR),
          Level(0.0342, 0.002, of_percentiles(0.0244, 0.0456, 40)), "error"),
    Claim("5.2", "λ on clean labels",
          "1.98", "1.98 [1.71, 2.27] (percentiles)",
          Mean(CLEAN, LAMBDA),
          Level(1.98, 0.05, of_percentiles(1.71, 2.27, 40)), "λ"),
    Claim("5.2", "On clean labels λ does not correlate with the test error",
          "r = −0.165, p = 0.31", "",
          Correlation((CLEAN,), pearson, (LAMBDA, TEST_ERROR)),
          NoEffect(_SMALL), "Pearson's r"),
    Claim("5.2 (code only)", "At 30% noise λ does not correlate with the test error",
          "not reported", "r = +0.051, p = 0.75",
          Correlation((NOISY,), pearson, (LAMBDA, TEST_ERROR)),
          NoEffect(_SMALL), "Pearson's r"),
    Claim("5.2 (code only)", "At 45% noise λ does not correlate with the test error",
          "not reported", "r = −0.263, p = 0.10",
          Correlation((NOISIEST,), pearson, (LAMBDA, TEST_ERROR)),
          NoEffect(_SMALL), "Pearson's r"),
    Claim("5.2 (code only)", "λ at 45% label noise",
          "not reported", "0.7791 [0.202, 1.288] (percentiles)",
          Mean(NOISIEST, LAMBDA),
          Level(0.7791, 0.05, of_percentiles(0.202, 1.288, 40)), "λ"),
    Claim("5.2", "Each unit of λ goes with 0.29 percentage points higher test error",
          "+0.0029 per unit", "−0.285 per unit, the three noise levels pooled",
          Slope(EVERY_NOISE, LAMBDA, TEST_ERROR),
          Effect(0.0029), "error per unit of λ, pooled"),
    Claim("5.2", "Functional sharpness meaningfully influences generalization (sharper is worse)",
          "positive", "",
          Slope(EVERY_NOISE, LAMBDA, TEST_ERROR, within=NOISE),
          Sign(1), "error per unit of λ, within noise levels"),
    Claim("5.2", "… over a grid of hyperparameters, without label noise (digits, λ of the training loss)",
          "positive", "",
          GridRank(GRID, ON_GRID),
          Sign(1), "granulated τ Ψ"),
    Claim("5.2", "CRR lowers λ: scale 0.003",
          "1.1949 for 1.5865", "−0.392",
          Difference((_crr(3e-3),), NOISY, LAMBDA),
          Effect(-0.3916), "Δλ"),
    Claim("5.2", "CRR lowers λ: scale 0.01",
          "0.9414 for 1.5865", "−0.645",
          Difference((_crr(1e-2),), NOISY, LAMBDA),
          Effect(-0.6451), "Δλ"),
    Claim("5.2", "… and costs no accuracy (scale 0.01)",
          "0.3247 for 0.3225", "+0.0022",
          Difference((_crr(1e-2),), NOISY, TEST_ERROR),
          Within(-0.01, 0.01), "Δ error"),
    Claim("5.2, Figure 1", "The baseline's λ after 50 epochs",
          "1.85", "1.85 [1.418, 2.154]",
          Along(MOONS, "adam", 50),
          Level(1.85, 0.05, of_percentiles(1.418, 2.154, 20)), "λ"),
    Claim("5.2, Figure 1", "The baseline's λ still climbs from epoch 15 to 50",
          "1.36 to 1.85", "+0.49",
          Along(MOONS, "adam", 50, since=15),
          Effect(0.49), "Δλ"),
    Claim("5.2, Figure 1", "CRR (0.003) ends 31% below it",
          "−30.9%", "1.277 for 1.85",
          Along(MOONS, "crr", 50, over="adam"),
          Effect(-0.309), "relative change of the mean λ"),
    Claim("5.2", "The regularised λ settles between 1.2 and 1.5",
          "1.2–1.5", "1.277",
          Along(MOONS, "crr", 50),
          Within(1.2, 1.5), "λ"),
    Claim("5.2, Figure 1", "CRR's final test error is lower",
          "0.310 for 0.314", "−0.0036",
          Difference((_crr(3e-3, recipe__epochs=50),), NOISY.but(recipe__epochs=50), TEST_ERROR),
          Effect(-0.0036), "Δ error"),
    Claim("6, 8", "Two Moons has an intrinsic band of λ, 1.5–2.0",
          "1.5–2.0", "",
          Mean(NOISY, LAMBDA),
          Within(1.5, 2.0), "λ at 30% noise"),
    Claim("6, 8", "… whatever the noise",
          "1.5–2.0", "0.7791 at 45%, not reported",
          Mean(NOISIEST, LAMBDA),
          Within(1.5, 2.0), "λ at 45% noise"),
    Claim("6, 8", "… and the initialization (Xavier, as the code displays it)",
          "1.5–2.0", "",
          Mean(NOISY.but(model__initialization="scaled"), LAMBDA),
          Within(1.5, 2.0), "λ at 30% noise"),
    # --- MNIST, §5.3–5.5 ---
    Claim("5.3", "λ on clean MNIST",
          "≈ −3.0", "−2.951, −3.058, −2.951",
          Mean(_labels(0.0), ON_MNIST),
          Level(-2.987, 0.1, of_deviation(0.062)), "λ"),
    Claim("5.3", "λ at 20% label noise",
          "≈ −3.9", "−3.849, −3.870, −3.838",
          Mean(_labels(0.2), ON_MNIST),
          Level(-3.852, 0.1, of_deviation(0.016)), "λ"),
    Claim("5.3", "λ at 40% label noise",
          "≈ −4.5", "−4.458, −4.644, −4.423",
          Mean(_labels(0.4), ON_MNIST),
          Level(-4.508, 0.1, of_deviation(0.119)), "λ"),
    Claim("5.3", "λ correlates with the test error over the noise levels",
          "r = −0.91", "9 networks",
          Correlation(OF_LABELS, pearson, (ON_MNIST, TEST_ERROR)),
          Effect(-0.91), "Pearson's r, pooled"),
    Claim("5.4", "CRR up to scale 200 keeps the accuracy",
          "97.8 ± 0.3%", "",
          Difference(_sweep(100.0, 200.0), UNPENALISED, TEST_ERROR),
          Within(-0.005, 0.005), "Δ error at scales 100 and 200"),
    Claim("5.4", "ECE falls at scales 0.01 to 1",
          "0.010 for 0.012", "after the author's fix: no gain",
          Difference(_sweep(0.01, 0.1, 1.0), UNPENALISED, ECE),
          Effect(-0.002), "Δ ECE, debiased"),
    Claim("5.4", "ECE falls further at scales 100 and 200",
          "0.008 for 0.012", "after the fix: 0.0118 and 0.0078 for 0.0116",
          Difference(_sweep(100.0, 200.0), UNPENALISED, ECE),
          Effect(-0.004), "Δ ECE, debiased"),
    Claim("5.4", "λ falls at scales 100 and 200",
          "−3.2 for −2.6", "",
          Difference(_sweep(100.0, 200.0), UNPENALISED, ON_MNIST),
          Effect(-0.6), "Δλ"),
    Claim("5.5, Table 1", "λ under orders 2–4, scale 100",
          "−2.74 ± 0.01", "",
          Mean(_table_1([2, 3, 4], 100.0), ON_MNIST),
          Level(-2.74, 0.1, of_deviation(0.01)), "λ"),
    Claim("5.5, Table 1", "λ under orders 2–4, scale 200",
          "−2.76 ± 0.01", "",
          Mean(_table_1([2, 3, 4], 200.0), ON_MNIST),
          Level(-2.76, 0.1, of_deviation(0.01)), "λ"),
    Claim("5.5, Table 1", "λ under order 2, scale 200",
          "−3.05 ± 0.03", "",
          Mean(_table_1([2], 200.0), ON_MNIST),
          Level(-3.05, 0.1, of_deviation(0.03)), "λ"),
    Claim("5.5, Table 1", "λ under orders 1–4, scale 100",
          "−4.13 ± 0.05", "",
          Mean(_table_1([1, 2, 3, 4], 100.0), ON_MNIST),
          Level(-4.13, 0.1, of_deviation(0.05)), "λ"),
    Claim("5.5, Table 1", "λ under orders 1–4, scale 200",
          "−4.62 ± 0.06", "",
          Mean(_table_1([1, 2, 3, 4], 200.0), ON_MNIST),
          Level(-4.62, 0.1, of_deviation(0.06)), "λ"),
    Claim("5.5, Table 1", "λ under order 1, scale 200",
          "−5.49 ± 0.10", "",
          Mean(_table_1([1], 200.0), ON_MNIST),
          Level(-5.49, 0.1, of_deviation(0.10)), "λ"),
    Claim("5.5, Table 1", "Penalising order 1 alone moves λ most (against orders 2–4, scale 200)",
          "−5.49 for −2.76", "",
          Difference((_table_1([1], 200.0),), _table_1([2, 3, 4], 200.0), ON_MNIST),
          Effect(-2.73), "Δλ"),
    Claim("5.5, Table 1", "Orders 2–4 calibrate better than 1–4 (scale 100)",
          "0.0795 for 0.1686", "",
          Difference((_table_1([2, 3, 4], 100.0),), _table_1([1, 2, 3, 4], 100.0), ECE),
          Effect(-0.0891), "Δ ECE, debiased"),
    Claim("5.5, Table 1", "Orders 2–4 have the best accuracy (against 1–4, scale 100)",
          "“best trade-off”", "94.47% for 96.43%: worse",
          Difference((_table_1([2, 3, 4], 100.0),), _table_1([1, 2, 3, 4], 100.0), TEST_ERROR),
          Sign(-1), "Δ error"),
    Claim("6, 8", "Lower λ goes with better calibration",
          "positive", "Table 1: the opposite",
          Correlation((TABLE_1,), spearman, (ON_MNIST, ECE)),
          Sign(1), "Spearman's ρ of λ and debiased ECE, the networks of Table 1"),
    # --- SAM against CRR, §5.6 ---
    Claim("5.6, Table 2", "CRR 1–4 is as accurate as SAM",
          "99.27 for 99.31%", "",
          Difference((_crr_of([1, 2, 3, 4]),), SAM, TEST_ERROR),
          Within(-0.0025, 0.0025), "Δ error"),
    Claim("5.6, Table 2", "CRR 2–4 is as accurate as SAM",
          "99.32 for 99.31%", "",
          Difference((_crr_of([2, 3, 4]),), SAM, TEST_ERROR),
          Within(-0.0025, 0.0025), "Δ error"),
    Claim("5.6, Table 2", "CRR 1–4 calibrates better than SAM",
          "0.0029 for 0.0040", "",
          Difference((_crr_of([1, 2, 3, 4]),), SAM, ECE),
          Effect(-0.0011), "Δ ECE, debiased"),
    Claim("5.6, Table 2", "CRR 2–4 calibrates better than SAM",
          "0.0038 for 0.0040", "",
          Difference((_crr_of([2, 3, 4]),), SAM, ECE),
          Effect(-0.0002), "Δ ECE, debiased"),
    Claim("5.6, Table 2", "CRR 1–4 has a lower λ between 4 and 9 than SAM",
          "−3.28 for −2.37", "13 to 27 points",
          Difference((_crr_of([1, 2, 3, 4]),), SAM, _pair(4, 9)),
          Effect(-0.91), "Δλ"),
    Claim("5.6, Table 2", "… between 3 and 8",
          "−3.51 for −2.65", "5 to 26 points",
          Difference((_crr_of([1, 2, 3, 4]),), SAM, _pair(3, 8)),
          Effect(-0.86), "Δλ"),
    Claim("5.6, Table 2", "… between 6 and 7",
          "−3.71 for −2.29", "2 to 14 points",
          Difference((_crr_of([1, 2, 3, 4]),), SAM, _pair(6, 7)),
          Effect(-1.42), "Δλ"),
    Claim("5.6", "38% less curvature than SAM", "38%", "",
          reason="a ratio of two negative logarithms " "(−3.28 and −2.37): it changes with the unit of the input and has no meaning"),
    Claim("5.6", "CRR 1–4 takes 2.7 times SAM's training time",
          "646 s for 235 s", "NVIDIA L4",
          TimeRatio(_crr_of([1, 2, 3, 4]), SAM),
          Level(2.75, 0.25), "ratio; ours by Taylor mode"),
    Claim("7", "CRR adds 15–20% to training time",
          "15–20%", "2.7 times SAM's, which is itself about twice Adam's",
          TimeRatio(_crr_of([1, 2, 3, 4]), ADAM),
          Within(1.15, 1.2), "ratio to plain Adam; ours by Taylor mode"),
    # --- invariance and the rest, §4, §6–8 ---
    Claim("abstract, 4, 6, 8", "λ is parametrisation-invariant",
          "asserted", "no experiment",
          Change(QUESTIONED, RECOMMENDED, named=("neuron_rescaling", "neuron_permutation")),
          Within(0.0, 1e-6), "largest |Δλ| under rescaling and permutation of neurons"),
    Claim("4", "λ explains the neural tangent kernel's spectral bias: of two cosines that of lower λ is learned first, "
          "where the kernel has it the other way (ReLU without biases on the circle: modes 3 and 5 against 4 and 6)",
          "asserted", "no experiment",
          FirstWhereTheyDiffer(wide("relu", bias=False), WAVE),
          Sign(1), "rate of the lower λ less that of the higher, per unit of training time"),
    Claim("4", "… that the kernel's eigenvalues tell the speed: residuals fall as exp(−eigenvalue × time)",
          "the theory that it refers to", "no experiment",
          FarthestFromTheKernel(wide("relu", bias=False, amplitude=0.1)),
          Within(-0.1, 0.1), "rate/eigenvalue − 1 of the mode that is farthest off, of 0, 1, 2, 4, 6; targets of 0.1"),
    Claim("4", "… that cosines of lower λ are learned faster, with biases (ReLU)",
          "asserted", "no experiment",
          SlowerByRate(wide("relu", bias=True), WAVE),
          Sign(-1), "log of the learning rate per unit of λ, modes 1 to 6"),
    Claim("4", "… with biases (tanh)",
          "asserted", "no experiment",
          SlowerByRate(wide("tanh", bias=True), WAVE),
          Sign(-1), "log of the learning rate per unit of λ, modes 1 to 6"),
    Claim("7, 8", "Lower λ goes with robustness: a lower error under attack, at equal clean error (tanh)",
          "left to future work", "",
          _goes_with("tanh", ADVERSARIAL),
          Sign(1), "partial Spearman's ρ, clean error known, 105 networks of eight recipes"),
    Claim("7, 8", "… under attack (ReLU)",
          "left to future work", "",
          _goes_with("relu", ADVERSARIAL),
          Sign(1), "partial Spearman's ρ, clean error known"),
    Claim("7, 8", "Lower λ goes with out-of-distribution accuracy: a lower error under corruption, at equal "
          "clean error (tanh)", "left to future work", "",
          _goes_with("tanh", CORRUPTED),
          Sign(1), "partial Spearman's ρ, clean error known"),
    Claim("7, 8", "… under corruption (ReLU)",
          "left to future work", "",
          _goes_with("relu", CORRUPTED),
          Sign(1), "partial Spearman's ρ, clean error known"),
    Claim("abstract", "CRR yields flatter input-space geometry than SAM at equal accuracy, each at its strongest: "
          "λ (ReLU, digits)", "asserted", "λ between pairs of classes alone",
          Difference((strongest_crr("relu"),), strongest_sam("relu"), RECOMMENDED),
          Sign(-1), "Δλ"),
    Claim("abstract", "… by a measure that is not λ: change of the loss's gradient in the input (ReLU, digits)",
          "asserted", "not measured",
          Difference((strongest_crr("relu"),), strongest_sam("relu"), CURE),
          Sign(-1), "Δ E‖∇ℓ(x + hz) − ∇ℓ(x)‖"),
    Claim("abstract", "… and the accuracy is equal (ReLU, digits)",
          "asserted", "Table 2, on MNIST",
          Difference((strongest_crr("relu"),), strongest_sam("relu"), TEST_ERROR),
          Within(-0.01, 0.01), "Δ error"),
)  # fmt: skip
