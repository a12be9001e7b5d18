"""What is said of sharpness, beside the experiment that could show it to be false and the rule that judges it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpbench.analysis.audit import Claim, Evidence, Missing
from sharpbench.analysis.measures import (
    TEST_ERROR,
    Correlation,
    Difference,
    Group,
    Log,
    Mean,
    Slope,
    Source,
    values,
)
from sharpbench.analysis.rules import Level, NoEffect, Sign, Within
from sharpbench.analysis.statistics import Estimate, mean, over_seeds, spearman

__all__ = ["CLAIMS", "SUITES"]

FALSIFICATION = Source(("falsification",))
CURVES = Source(("learning_curves",))
SUITES = (*FALSIFICATION.suites, *CURVES.suites)

TOP, TRACE, FISHER_RAO = "hessian_top_eigenvalue", "hessian_trace", "fisher_rao_norm"
TEST_LOSS = "= test_loss"


# --- figures after a transformation ---------------------------------------------------------------------


def _rescaled(evidence: Evidence, suite: str, name: str) -> pd.Series:
    """The figures of the metric ``name`` after `neuron_rescaling`, by subject."""
    frame = evidence.frame(suite)
    rows = frame[
        (frame["kind"] == "measurement")
        & (frame["status"] == "ok")
        & (frame["name"] == name)
        & (frame["transformation_name"] == "neuron_rescaling")
    ]
    if rows.empty:
        raise Missing(suite)
    return rows.set_index("subject")["value"].astype(float)


@dataclass(frozen=True)
class SizeOfChange:
    """The mean of |log(after/before)| over networks that were rescaled; a seed counts once."""

    group: Group
    metric: str

    @property
    def suites(self) -> tuple[str, ...]:
        return self.group.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        rows = self.group.rows(evidence, suite)
        ratio = _rescaled(evidence, suite, self.metric) / pd.Series(
            values(rows, self.metric), rows.index
        )
        sizes = np.log(ratio).abs().groupby(rows["seed"]).mean().dropna()
        return mean(sizes.to_numpy(float))


@dataclass(frozen=True)
class LossOfRank:
    """The rank correlation with the test error after the networks were rescaled, less that before."""

    groups: tuple[Group, ...]
    metric: str

    @property
    def suites(self) -> tuple[str, ...]:
        return self.groups[0].source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        rows = pd.concat([group.rows(evidence, suite) for group in self.groups])
        told = pd.DataFrame(
            {
                "before": values(rows, self.metric),
                "after": _rescaled(evidence, suite, self.metric).reindex(rows.index),
                "error": rows[TEST_ERROR],
                "seed": rows["seed"],
            }
        ).dropna()
        return over_seeds(
            lambda before, after, error: spearman(after, error) - spearman(before, error),
            *(told[name].to_numpy(float) for name in ("before", "after", "error")),
            seeds=told["seed"].to_numpy(),
        )


# --- the networks -----------------------------------------------------------------------------------------

_SMALL_MLP = FALSIFICATION.where(model="uniform_mlp", model__depth=2)
_PLAIN = _SMALL_MLP.but(recipe="sgd", recipe__stop_loss=0.01)


def _sgd(lr: float, batch: int) -> Group:
    return _PLAIN.but(recipe__lr=lr, recipe__batch_size=batch)


def _sam(batch: int) -> Group:
    return _SMALL_MLP.but(recipe="sam", recipe__batch_size=batch)


def _dropout(share: float) -> Group:
    return _SMALL_MLP.but(recipe="sgd", recipe__epochs=100, model__dropout=share)


def _normalized(normalization: bool) -> Group:
    return FALSIFICATION.where(model="nin", model__normalization=normalization)


_NOISY = tuple(
    FALSIFICATION.where(model="uniform_mlp", model__depth=1, dataset__label_noise=noise)
    for noise in (0.0, 0.1, 0.2, 0.4)
)


def _solution(kind: str) -> Group:
    return FALSIFICATION.where(recipe="parity_solution", recipe__solution=kind)


def _one_pass(smoothness: float) -> Group:
    """Linear models that saw each of their samples once."""
    return CURVES.where(model="linear", dataset__smoothness=smoothness)


_LEARNING = (Log("dataset.train"), Log(TEST_LOSS))


# --- the claims -------------------------------------------------------------------------------------------

_ALIKE = 0.005
"""Half a percentage point of test error."""

_SLIGHT = 0.3
"""Correlations below it leave 91% of the variance unexplained."""

_ROUNDING = 1e-6


KAUR, WEN, DINH, NOISE = "Kaur et al. 2022", "Wen, Li & Ma 2023", "Dinh et al. 2017", "label noise"
BERTHIER = "Berthier et al. 2020"

CLAIMS: tuple[Claim, ...] = (
    # --- arXiv:2206.10654: what moves the largest eigenvalue need not move the error -----------------------
    Claim(KAUR, "A larger learning rate lowers λ_max at a small batch", "lower", "",
          Difference((_sgd(0.2, 16),), _sgd(0.05, 16), Log(TOP)),
          Sign(-1), "Δ log λ_max, learning rate 0.2 for 0.05, batch 16"),
    Claim(KAUR, "… and at a large batch", "lower", "",
          Difference((_sgd(0.2, 256),), _sgd(0.05, 256), Log(TOP)),
          Sign(-1), "Δ log λ_max, learning rate 0.2 for 0.05, batch 256"),
    Claim(KAUR, "It lowers the test error at a small batch", "lower", "",
          Difference((_sgd(0.2, 16),), _sgd(0.05, 16), TEST_ERROR),
          Sign(-1), "Δ test error, learning rate 0.2 for 0.05, batch 16"),
    Claim(KAUR, "… and not at a large batch", "no change", "",
          Difference((_sgd(0.2, 256),), _sgd(0.05, 256), TEST_ERROR),
          NoEffect(_ALIKE), "Δ test error, learning rate 0.2 for 0.05, batch 256"),
    Claim(KAUR, "Batch size and learning rate, both four times as large, lower λ_max", "lower", "",
          Difference((_sgd(0.2, 64),), _sgd(0.05, 16), Log(TOP)),
          Sign(-1), "Δ log λ_max"),
    Claim(KAUR, "… and leave the test error where it is", "no change", "",
          Difference((_sgd(0.2, 64),), _sgd(0.05, 16), TEST_ERROR),
          NoEffect(_ALIKE), "Δ test error"),
    Claim(KAUR, "SAM lowers λ_max at a small batch", "lower", "",
          Difference((_sam(16),), _sgd(0.05, 16), Log(TOP)),
          Sign(-1), "Δ log λ_max, batch 16"),
    Claim(KAUR, "… and at a large batch", "lower", "",
          Difference((_sam(256),), _sgd(0.05, 256), Log(TOP)),
          Sign(-1), "Δ log λ_max, batch 256"),
    Claim(KAUR, "SAM lowers the test error at a small batch", "lower", "",
          Difference((_sam(16),), _sgd(0.05, 16), TEST_ERROR),
          Sign(-1), "Δ test error, batch 16"),
    Claim(KAUR, "… and not at a large batch", "no change", "",
          Difference((_sam(256),), _sgd(0.05, 256), TEST_ERROR),
          NoEffect(_ALIKE), "Δ test error, batch 256"),
    Claim(KAUR, "Much dropout lowers λ_max", "lower", "",
          Difference((_dropout(0.8),), _dropout(0.0), Log(TOP)),
          Sign(-1), "Δ log λ_max, dropout 0.8 for none"),
    Claim(KAUR, "… and raises the test error", "higher", "",
          Difference((_dropout(0.8),), _dropout(0.0), TEST_ERROR),
          Sign(1), "Δ test error, dropout 0.8 for none"),
    Claim(KAUR, "Batch normalisation does not lower λ_max", "not lower", "",
          Difference((_normalized(True),), _normalized(False), Log(TOP)),
          Within(-0.1, math.inf), "Δ log λ_max"),
    Claim(KAUR, "… and lowers the test error", "lower", "",
          Difference((_normalized(True),), _normalized(False), TEST_ERROR),
          Sign(-1), "Δ test error"),
    # --- arXiv:2307.11007: the flattest need not generalize ------------------------------------------------
    Claim(WEN, "A network that memorizes is as flat as one that generalizes", "equal traces", "",
          Difference((_solution("memorizing"),), _solution("generalizing"), Log(TRACE)),
          Within(-_ROUNDING, _ROUNDING), "Δ log trace"),
    Claim(WEN, "… and says nothing of other points", "½", "",
          Mean(_solution("memorizing"), TEST_LOSS),
          Level(0.5, 0.01), "½ squared error; ½ is that of saying 0"),
    Claim(WEN, "… while the other one makes no error", "0", "",
          Mean(_solution("generalizing"), TEST_LOSS),
          Within(0, _ROUNDING), "½ squared error"),
    # --- arXiv:1703.04933: the same function as sharp as one likes -----------------------------------------
    Claim(DINH, "Rescaled units change no function, and the trace by more than a factor of 2", "> 2", "",
          SizeOfChange(_NOISY[0], TRACE),
          Within(math.log(2), math.inf), "mean |log after/before|"),
    Claim(DINH, "… so that it ranks networks by test error less well than before", "lower", "",
          LossOfRank(_NOISY, TRACE),
          Sign(-1), "Δ Spearman's ρ"),
    Claim(DINH, "The Fisher-Rao norm stays where it is", "no change", "",
          SizeOfChange(_NOISY[0], FISHER_RAO),
          NoEffect(_ROUNDING), "mean |log after/before|"),
    # --- Simpson: what raises both makes the rank correlation ----------------------------------------------
    Claim(NOISE, "Over levels of label noise the trace goes with the test error", "positive", "",
          Correlation(_NOISY, spearman, (TRACE, TEST_ERROR)),
          Sign(1), "Spearman's ρ, four levels pooled"),
    Claim(NOISE, "… and within one level it does not", "none", "",
          Correlation(_NOISY, spearman, (TRACE, TEST_ERROR), within="dataset.label_noise"),
          NoEffect(_SLIGHT), "Spearman's ρ within levels"),
    Claim(NOISE, "Nor does the largest eigenvalue, within one level", "none", "",
          Correlation(_NOISY, spearman, (TOP, TEST_ERROR), within="dataset.label_noise"),
          NoEffect(_SLIGHT), "Spearman's ρ within levels"),
    # --- arXiv:2006.08212: the Hessian's spectrum tells the learning curve of one pass ---------------------
    Claim(BERTHIER, "The eigenvalues of a linear model's Hessian fall as those of the features, j^−2", "2", "",
          Mean(_one_pass(1.5).but(dataset__train=4096), "hessian_spectrum_decay"),
          Level(2.0, 0.1), "decay exponent of the five largest, 4096 samples"),
    Claim(BERTHIER, "One pass over n samples leaves a risk ∝ n^−(α + 1), α = ¼ for a target j^−1.5", "−1.25", "",
          Slope((_one_pass(1.5),), *_LEARNING),
          Level(-1.25, 0.1), "slope of log risk, n = 256 to 4096"),
    Claim(BERTHIER, "… where the features limit it, α = ½, however regular the target (j^−4)", "−1.5", "",
          Slope((_one_pass(4.0),), *_LEARNING),
          Level(-1.5, 0.1), "slope of log risk, n = 256 to 4096"),
)  # fmt: skip
