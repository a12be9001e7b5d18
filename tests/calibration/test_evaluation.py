"""The standard errors of evaluated figures on a population of labelled points that is known."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from sharpbench.evaluation.classification import FIGURES, evaluate
from sharpbench.seeds import torch_generator
from sharpbench.subject import Splits
from tests.calibration.coverage import assert_covers, share_covered

_POPULATION, _TEST, _TRAIN = 200_000, 500, 800
_SHIFTED = {"overconfident": 2.0, "calibrated": 1.0}


def network() -> nn.Module:
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch_generator(0)))
    return model


def points(model: nn.Module, n: int, temperature: float, generator: torch.Generator) -> tuple:
    """Normal inputs; classes drawn from the network's own probabilities at that temperature."""
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        p = (model(x) / temperature).softmax(1)
    return x, torch.multinomial(p, 1, generator=generator).squeeze(1)


@functools.cache
def simulated(kind: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Figures of the population, and value and interval over 200 draws of both splits."""
    model, temperature = network(), _SHIFTED[kind]
    x, y = points(model, _POPULATION, temperature, torch_generator(1))
    truth = {k: f.value for k, f in evaluate(model, Splits(x, y, x, y, 3), seed=0).items()}
    generator = torch_generator(2)
    rows: dict[str, list] = {name: [] for name in FIGURES}
    for draw in range(200):
        train = points(model, _TRAIN, temperature, generator)
        test = points(model, _TEST, temperature, generator)
        for name, figure in evaluate(model, Splits(*train, *test, 3), seed=draw).items():
            half = 1.96 * figure.standard_error
            interval = figure.interval or (figure.value - half, figure.value + half)
            rows[name].append((figure.value, figure.standard_error, *interval))
    return truth, {name: np.array(values) for name, values in rows.items()}


def intervals(rows: np.ndarray) -> list[tuple[float, float]]:
    return [(low, high) for low, high in rows[:, 2:]]


@pytest.mark.parametrize(
    "name", [n for n in FIGURES if n not in {"ece", "ece_floor", "ece_debiased"}]
)
def test_means_and_their_differences(name):
    truth, rows = simulated("overconfident")
    assert_covers(intervals(rows[name]), truth[name])


@pytest.mark.parametrize("kind", ["overconfident", "calibrated"])
def test_the_debiased_calibration_error(kind):
    truth, rows = simulated(kind)
    exact = 0.0 if kind == "calibrated" else truth["ece"]
    assert_covers(intervals(rows["ece_debiased"]), exact)
    # Most of what chance adds to the plain one is gone.
    plain, debiased = (rows[name][:, 0].mean() - exact for name in ("ece", "ece_debiased"))
    assert plain > 0
    assert abs(debiased) < 0.5 * plain


def test_the_plain_calibration_error_states_its_spread_and_not_its_bias():
    _, rows = simulated("overconfident")
    values, errors = rows["ece"][:, :2].T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.15)


def test_a_calibrated_network_lies_within_its_floor():
    _, rows = simulated("calibrated")
    value, floor, spread = rows["ece"][:, 0], *rows["ece_floor"][:, :2].T
    share, (low, high) = share_covered([(abs(d), np.inf) for d in (value - floor) / spread], 1.96)
    assert low <= 0.98, share
    assert high >= 0.92, share
