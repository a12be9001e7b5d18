"""What arXiv:2511.01438 did not ask of λ, answered from the same records; questions have no verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

from sharpbench.analysis.audit import Claim
from sharpbench.analysis.measures import (
    ADVERSARIAL,
    CORRUPTED,
    ECE,
    TEST_ERROR,
    Apart,
    BetweenDefinitions,
    Column,
    Correlation,
    Difference,
    GridRank,
    Mean,
    Slope,
)
from sharpbench.analysis.statistics import partial_spearman, pearson, spearman
from sharpbench.paper.claims import (
    ADAM,
    CLEAN,
    CURE,
    EVERY_NOISE,
    LAMBDA,
    NOISE,
    NOISY,
    OF_LABELS,
    ON_GRID,
    ON_MNIST,
    RECOMMENDED,
    SAM,
    TWO_MOONS,
    WAVE,
    robust,
    strongest_crr,
    strongest_sam,
    up_to,
    wide,
)
from sharpbench.paper.evidence import (
    GRID,
    GROUND,
    JACOBIAN,
    QUESTIONED,
    TABLE_2,
    Change,
    OfProblem,
    rate,
)
from sharpbench.paper.spectral_bias import FarthestFromTheKernel

__all__ = ["QUESTIONS"]


def _by_activation() -> tuple[Claim, ...]:
    """Over the networks of one activation at 30% noise, Adam and CRR of every scale, 25 epochs."""
    asked: tuple[tuple[str, str, Callable[..., float], tuple[Column, ...]], ...] = (
        ("How closely does λ follow the input Jacobian's norm?", "Spearman's ρ", spearman, (LAMBDA, JACOBIAN)),
        ("λ and the test error", "Spearman's ρ", spearman, (LAMBDA, TEST_ERROR)),
        ("… once the Jacobian's norm is known", "partial ρ", partial_spearman, (LAMBDA, TEST_ERROR, JACOBIAN)),
        ("The Jacobian's norm and the test error, once λ is known", "partial ρ", partial_spearman,
         (JACOBIAN, TEST_ERROR, LAMBDA)),
    )  # fmt: skip
    found = []
    for activation in ("tanh", "gelu", "relu"):
        groups = tuple(NOISY.but(model__activation=activation, recipe=r) for r in ("adam", "crr"))
        where = f"{activation}, Two Moons, 30% noise"
        found += [
            Claim(where, question, unit=unit, measure=Correlation(groups, statistic, columns))
            for question, unit, statistic, columns in asked
        ]
    return tuple(found)


def _of_the_initialization() -> tuple[Claim, ...]:
    """Xavier (the displayed code) minus PyTorch's default (the printed figures), same seeds."""
    return tuple(
        Claim("initialization", f"Xavier (the displayed code) − PyTorch's default (the printed figures), "
              f"{percent}% noise: {what}", unit=unit,
              measure=Difference((group.but(model__initialization="scaled"),), group, column))
        for percent, group in zip((0, 30, 45), EVERY_NOISE, strict=True)
        for what, unit, column in (("λ", "Δλ", LAMBDA), ("test error", "Δ error", TEST_ERROR))
    )  # fmt: skip


def _of_confidence() -> tuple[Claim, ...]:
    asked = (
        ("loss", RECOMMENDED),
        ("loss with the paper's floor 1e-12", rate(protocol="recommended", floor=1e-12)),
        ("largest logit", rate(protocol="recommended", target="max_logit")),
    )
    return tuple(
        Claim("confidence", f"Logits × {factor}, decisions kept: Δλ of the {name}", unit="Δλ",
              measure=Change(QUESTIONED, column, f"logit_temperature(temperature={1 / factor:g})"))
        for factor in (4, 16)
        for name, column in asked
    )  # fmt: skip


_RIVALS: tuple[tuple[str, Column], ...] = (
    ("λ", RECOMMENDED),
    ("λ of the paper's MNIST code", ON_MNIST),
    ("the input Jacobian's norm", JACOBIAN),
    ("the change of the input gradient (CURE)", CURE),
    ("SAM sharpness", "sam_sharpness"),
    ("the Hessian's top eigenvalue", "hessian_top_eigenvalue(samples=512, tolerance=0.01)"),
    ("mean confidence", "mean_confidence"),
)
_HARM = (("attack", ADVERSARIAL), ("corruption", CORRUPTED))


def _of_robustness() -> tuple[Claim, ...]:
    """λ beside its rivals, and what each tells once the other is known."""
    found = []
    for activation in ("tanh", "relu"):
        group = (robust(activation),)
        for harm, error in _HARM:
            where, unit = f"{activation}, digits, error under {harm}", "partial Spearman's ρ"
            asked: list[tuple[str, tuple[Column, ...]]] = [
                (f"With {name}, clean error known", (column, error, TEST_ERROR))
                for name, column in _RIVALS
            ]
            asked += [
                (
                    "With λ, clean error and the Jacobian's norm known",
                    (RECOMMENDED, error, TEST_ERROR, JACOBIAN),
                ),
                (
                    "With the Jacobian's norm, clean error and λ known",
                    (JACOBIAN, error, TEST_ERROR, RECOMMENDED),
                ),
            ]
            found += [
                Claim(
                    where,
                    question,
                    unit=unit,
                    measure=Correlation(group, partial_spearman, columns, within="seed"),
                )
                for question, columns in asked
            ]
        crr, sam = strongest_crr(activation), strongest_sam(activation)
        found += [
            Claim(
                f"{activation}, digits, CRR − SAM, each at its strongest",
                name,
                unit=unit,
                measure=Difference((crr,), sam, column),
            )
            for name, unit, column in (
                ("λ", "Δλ", RECOMMENDED),
                ("Test error", "Δ error", TEST_ERROR),
                ("Error under attack", "Δ error", ADVERSARIAL),
                ("Error under corruption", "Δ error", CORRUPTED),
                ("Input Jacobian's norm", "Δ", JACOBIAN),
                ("SAM sharpness", "nats", "sam_sharpness"),
            )
        ]
    return tuple(found)  # fmt: skip


_FACTORIAL = {**TWO_MOONS, "normalization": "factorial"}
_CRR = TABLE_2.where(recipe="crr", recipe__orders=[1, 2, 3, 4])

QUESTIONS: tuple[Claim, ...] = (
    *_by_activation(),
    *_of_the_initialization(),
    Claim("Two Moons", "λ and the test error within noise levels (pooled: see §5.2 above)",
          unit="error per unit of λ", measure=Slope(EVERY_NOISE, LAMBDA, TEST_ERROR, within=NOISE)),
    Claim("Grid of hyperparameters (digits)", "Ψ of λ less that of the hyperparameters alone",
          unit="Ψ", measure=GridRank(GRID, ON_GRID, beyond=True)),
    Claim("MNIST", "λ and the test error within noise levels (pooled: r of §5.3 above)",
          unit="Pearson's r", measure=Correlation(OF_LABELS, pearson, (ON_MNIST, TEST_ERROR), within=NOISE)),
    Claim("Two Moons − MNIST", "The “task scale” of λ with unit directions, as the paper has it",
          unit="Δλ", measure=Apart(Mean(CLEAN, LAMBDA), Mean(OF_LABELS[0], ON_MNIST))),
    Claim("Two Moons − MNIST", "… without the dimension: Gaussian directions, all points, no floor",
          unit="Δλ (½ log(784/2) = 2.99)",
          measure=Apart(Mean(CLEAN, RECOMMENDED), Mean(OF_LABELS[0], RECOMMENDED))),
    Claim("orders", "Drift of λ from orders 1–3 to 1–5 with factorials divided out (raw: see §5.2 above)",
          unit="Δλ", measure=BetweenDefinitions(
              NOISY, rate(**_FACTORIAL, orders=up_to(5)), rate(**_FACTORIAL, orders=up_to(3)))),
    Claim("band edge", "Ω̂ (450.38) by the orders 1–4 that the paper uses for networks", unit="Ω̂",
          measure=OfProblem(GROUND, "band_limited", WAVE, math.exp)),
    Claim("unit of the input", "Input measured in units twice as large (x → x/2, function kept): Δλ",
          unit="Δλ (theory: log 2 = 0.693)",
          measure=Change(QUESTIONED, RECOMMENDED, "input_rescaling(factor=0.5)")),
    *_of_confidence(),
    Claim("spectral bias", "Speed of learning a cosine over the kernel's eigenvalue, less 1, of the mode that is "
          "farthest off, targets of size 1: what leaving the kernel does", unit="relative",
          measure=FarthestFromTheKernel(wide("relu", bias=False))),
    *_of_robustness(),
    Claim("SAM − Adam (the row Table 2 lacks)", "Test error", unit="Δ error",
          measure=Difference((SAM,), ADAM, TEST_ERROR)),
    Claim("CRR 1–4 − Adam", "Test error", unit="Δ error", measure=Difference((_CRR,), ADAM, TEST_ERROR)),
    Claim("SAM − Adam", "ECE", unit="Δ ECE, debiased", measure=Difference((SAM,), ADAM, ECE)),
    Claim("CRR 1–4 − Adam", "ECE", unit="Δ ECE, debiased", measure=Difference((_CRR,), ADAM, ECE)),
)  # fmt: skip
