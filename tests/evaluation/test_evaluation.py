import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import nn

from sharpbench.errors import InputError
from sharpbench.evaluation.calibration import (
    _gaps,
    brier_score,
    calibrated_floor,
    debiased_calibration_error,
    expected_calibration_error,
)
from sharpbench.evaluation.classification import FIGURES, decision_map, evaluate
from sharpbench.seeds import numpy_generator
from sharpbench.subject import Splits


@pytest.mark.parametrize("bins", [10, 15])
def test_ece_equals_scikit_learns_bins(bins):
    """Σ n_b/N |accuracy − confidence| put together from calibration_curve, an independent binning."""
    rng = numpy_generator(0)
    confidence = rng.uniform(0.05, 1, 3000)
    correct = rng.uniform(size=3000) < confidence**2
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=bins)
    counts = np.histogram(confidence, np.linspace(0, 1, bins + 1))[0]
    expected = np.sum(counts[counts > 0] / 3000 * np.abs(accuracy - mean_confidence))
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(
        expected, rel=1e-12
    )


def test_ece_by_hand_and_at_the_edges():
    # One bin: |3/4 − 0.9|; certainty of exactly 1 belongs to the last bin and is not lost.
    sure = np.full(4, 0.9)
    right = np.array([True, True, True, False])
    assert expected_calibration_error(sure, right, 10) == pytest.approx(0.15)
    assert expected_calibration_error(np.ones(4), right, 15) == pytest.approx(0.25)
    # 0.2 is the upper edge of the bin (0.1, 0.2].
    edge = expected_calibration_error(np.array([0.2, 0.15]), np.array([True, False]), 10)
    assert edge == pytest.approx(abs(1 - 0.35) / 2)


def test_the_floor_of_a_thousand_confident_points():
    """Accuracy 97%, most confidences near 1: what the paper's networks on MNIST look like."""
    confidence = 1 - 0.5 * ((np.arange(1000) + 0.5) / 1000) ** 19
    mean, spread = calibrated_floor(confidence, 10, rng=numpy_generator(0))
    assert mean == pytest.approx(0.0075, abs=4e-4)
    assert spread == pytest.approx(0.0027, abs=2e-4)


def test_the_floor_of_one_bin_is_the_mean_absolute_deviation_of_a_binomial():
    n, c = 50, 0.9
    k = np.arange(n + 1)
    exact = np.sum(stats.binom.pmf(k, n, c) * np.abs(k / n - c))
    mean, spread = calibrated_floor(np.full(n, c), 15, rng=numpy_generator(1))
    assert mean == pytest.approx(exact, abs=4 * spread / 1000**0.5)
    assert spread == pytest.approx(np.sqrt(c * (1 - c) / n - exact**2), rel=0.1)


def _calibration_errors(overconfidence: float, n: int, networks: int = 300) -> np.ndarray:
    """Plain and debiased ECE, its error and the true one, of networks that are overconfident by so much."""
    rng = numpy_generator(2)
    rows = []
    for _ in range(networks):
        confidence = rng.uniform(0.6, 1, n)
        correct = rng.uniform(size=n) < confidence - overconfidence
        plain = expected_calibration_error(confidence, correct, 10)
        rows.append([plain, *debiased_calibration_error(confidence, correct, 10, rng=rng)])
    return np.array(rows)


@pytest.mark.parametrize(
    ("overconfidence", "allowed"), [(0.0, 0.3), (0.02, 0.45), (0.05, 0.45), (0.1, 0.1), (0.3, 0.1)]
)
def test_the_debiased_error_has_less_bias_and_covers(overconfidence, allowed):
    floor = _calibration_errors(0.0, 1000)[:, 0].mean()
    _, debiased, error = _calibration_errors(overconfidence, 1000).T
    bias = debiased.mean() - overconfidence
    assert abs(bias) < allowed * floor
    assert np.sqrt(np.mean((debiased - overconfidence) ** 2)) == pytest.approx(
        error.mean(), rel=0.2
    )
    covered = np.mean(np.abs(debiased - overconfidence) < 1.96 * error)
    assert covered > (0.85 if overconfidence in (0.02, 0.05) else 0.92)


def test_a_bins_gap_and_its_deviation_by_hand():
    """Two samples off by 0.4 and −0.8: the sum −0.4 has the variance 2·0.72; one alone has 0.3·0.7."""
    confidence, correct = np.array([0.6, 0.8, 0.3]), np.array([True, False, True])
    gap, deviation = _gaps(confidence, correct, 2)
    assert gap == pytest.approx([0.7 / 3, -0.4 / 3])
    assert deviation == pytest.approx([math.sqrt(0.21) / 3, 1.2 / 3])


def test_a_bin_of_one_sample_and_certainty_are_no_trouble():
    one = debiased_calibration_error(
        np.array([0.7, 1.0]), np.array([True, True]), 10, rng=numpy_generator(0)
    )
    assert np.isfinite(one).all()
    sure = debiased_calibration_error(np.ones(9), np.ones(9, bool), 10, rng=numpy_generator(0))
    assert sure == (0.0, 0.0)
    assert calibrated_floor(np.ones(9), 10, rng=numpy_generator(0)) == (0.0, 0.0)


def test_brier_score_equals_scikit_learns():
    rng = numpy_generator(1)
    p = rng.uniform(size=500)
    y = (rng.uniform(size=500) < p).astype(int)
    ours = brier_score(np.column_stack([1 - p, p]), y).mean()
    assert ours == pytest.approx(2 * brier_score_loss(y, p))  # theirs counts one class


@pytest.fixture
def evaluated(trained_mlp):
    return evaluate(trained_mlp.model, trained_mlp.splits, seed=0), trained_mlp


def test_figures_against_scikit_learn(evaluated):
    figures, subject = evaluated
    splits = subject.splits
    with torch.no_grad():
        logits = subject.model(splits.test_inputs).double()
    probabilities, labels = logits.softmax(1).numpy(), splits.test_targets.numpy()
    predicted = probabilities.argmax(1)
    assert figures["test_error"].value == pytest.approx(1 - accuracy_score(labels, predicted))
    assert figures["test_loss"].value == pytest.approx(log_loss(labels, probabilities), rel=1e-9)
    assert figures["gap"].value == pytest.approx(
        figures["test_error"].value - figures["train_error"].value
    )
    order = np.argsort(probabilities.max(1), kind="stable")[: round(0.2 * len(labels))]
    hard = accuracy_score(labels[order], predicted[order])
    assert figures["hard_accuracy"].value == pytest.approx(hard)
    assert figures["hard_accuracy"].samples == len(order)
    rows = np.arange(len(labels))
    others = np.delete(logits.numpy(), rows * logits.shape[1] + labels).reshape(len(labels), -1)
    margins = logits.numpy()[rows, labels] - others.max(1)
    assert figures["margin"].value == pytest.approx(margins.mean())


def _of_margins(train, test, offset):
    """Two classes whose logits are (margin + offset, offset), the first one true throughout."""

    def split(margins):
        margins = torch.tensor(margins, dtype=torch.float64)
        logits = torch.stack([margins, torch.zeros_like(margins)], 1) + offset
        return logits, torch.zeros(len(margins), dtype=torch.long)

    splits = Splits(*split(train), *split(test), 2, "classification")
    return evaluate(nn.Identity(), splits, seed=0)


def test_the_figures_of_four_points_a_split_by_hand():
    """Errors ½ and ¼ have the standard errors √(1/12) and ¼; a loss is log(1 + exp(−margin))."""
    train, test = [3.0, 1.0, -2.0, -1.0], [1.0, -1.0, 2.0, 0.5]
    figures = _of_margins(train, test, 5.0)
    assert figures["train_error"].value == 0.5
    assert figures["test_error"].value == 0.25
    assert figures["gap"].value == -0.25
    assert figures["train_error"].standard_error == pytest.approx(math.sqrt(1 / 12))
    assert figures["test_error"].standard_error == pytest.approx(1 / 4)
    assert figures["gap"].standard_error == pytest.approx(math.sqrt(1 / 12 + 1 / 16))
    losses = [np.array([math.log1p(math.exp(-m)) for m in margins]) for margins in (train, test)]
    assert figures["loss_gap"].value == pytest.approx(losses[1].mean() - losses[0].mean())
    assert figures["loss_gap"].value < 0
    errors = [loss.std(ddof=1) / 2 for loss in losses]
    assert figures["loss_gap"].standard_error == pytest.approx(math.hypot(*errors))
    assert figures["margin"].value == pytest.approx(sum(test) / 4)
    # Centred, (m, 0) becomes ±m/2: the norm is |m|/√2, whatever is added to both logits.
    assert figures["logit_norm"].value == pytest.approx(4.5 / 4 / math.sqrt(2))
    sure = [1 / (1 + math.exp(-abs(m))) for m in test]
    assert figures["mean_confidence"].value == pytest.approx(np.mean(sure))


def test_every_announced_figure_is_given(evaluated):
    assert set(evaluated[0]) == set(FIGURES)


def test_standard_errors_are_those_of_proportions(evaluated):
    figures, _ = evaluated
    error = figures["test_error"]
    expected = np.sqrt(error.value * (1 - error.value) / (error.samples - 1))
    assert error.standard_error == pytest.approx(expected)
    assert all(f.standard_error >= 0 for f in figures.values())
    assert 0 < figures["ece"].standard_error < 0.05


def test_evaluation_depends_on_its_seed_alone(evaluated):
    figures, subject = evaluated
    torch.manual_seed(99)
    assert evaluate(subject.model, subject.splits, seed=0) == figures


def test_a_decision_map_is_drawn_for_planes_alone(tiny, trained_mlp):
    drawn = decision_map(tiny.model, tiny.splits, cells=16)
    grid = np.array(drawn["probability"])
    assert grid.shape == (16, 16)
    # The first row is the lowest y; its first cell the lowest x.
    corner = torch.tensor([[drawn["x_range"][0], drawn["y_range"][0]]])
    with torch.no_grad():
        assert grid[0, 0] == pytest.approx(tiny.model(corner).softmax(1)[0, 1].item(), abs=1e-3)
    right = torch.tensor([[drawn["x_range"][1], drawn["y_range"][0]]])
    with torch.no_grad():
        assert grid[0, -1] == pytest.approx(tiny.model(right).softmax(1)[0, 1].item(), abs=1e-3)
    assert decision_map(trained_mlp.model, trained_mlp.splits) is None


def test_regression_is_refused():
    x, y = torch.randn(5, 2), torch.randn(5, 1)
    with pytest.raises(InputError):
        evaluate(nn.Linear(2, 1), Splits(x, y, x, y, 1, "regression"), seed=0)
