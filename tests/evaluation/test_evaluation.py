import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import nn

from sharpbench.analysis.statistics import binomial_interval
from sharpbench.evaluation.calibration import (
    _bins,
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


SURE = 1 - 1e-6


def drawn_confidences(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Evenly from 0.6 to 1; most of them near 1, as on MNIST; or all of them (1 − 10⁻⁶)."""
    if kind == "even":
        return rng.uniform(0.6, 1, n)
    return 1 - 0.5 * rng.uniform(size=n) ** 19 if kind == "confident" else np.full(n, SURE)


def simulated(kind: str, overconfidence: float, n: int, networks: int = 400) -> np.ndarray:
    """Plain and debiased ECE and the latter's interval, of networks that are overconfident by so much."""
    rng = numpy_generator(2)
    rows = []
    for _ in range(networks):
        confidence = drawn_confidences(kind, n, rng)
        correct = rng.uniform(size=n) < confidence - overconfidence
        plain = expected_calibration_error(confidence, correct, 10)
        found = debiased_calibration_error(confidence, correct, 10)
        rows.append([plain, found.value, found.low, found.high, found.standard_error])
    return np.array(rows)


@pytest.mark.parametrize(
    ("overconfidence", "allowed"), [(0.0, 0.3), (0.02, 0.45), (0.05, 0.45), (0.1, 0.1), (0.3, 0.1)]
)
def test_the_debiased_error_has_less_bias(overconfidence, allowed):
    floor = simulated("even", 0.0, 1000)[:, 0].mean()
    debiased = simulated("even", overconfidence, 1000)[:, 1]
    assert abs(debiased.mean() - overconfidence) < allowed * floor


@pytest.mark.parametrize(
    ("kind", "n", "overconfidence"),
    [("even", 1000, e) for e in (0.0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3)]
    + [("even", 200, 0.03), ("even", 5000, 0.015)]
    + [("confident", 1000, e) for e in (0.0, 0.003, 0.01, 0.05)]
    + [("sure", 1000, 0.01), ("sure", 3000, 0.003)],
)
def test_the_interval_of_the_debiased_error_covers(kind, n, overconfidence):
    _, value, low, high, error = simulated(kind, overconfidence, n).T
    covered = (low <= overconfidence) & (overconfidence <= high)
    least, most = binomial_interval(int(covered.sum()), len(covered))
    assert most >= 0.92
    assert least <= (0.98 if kind == "even" else 1.0)
    # The standard error's symmetric interval holds the other one.
    assert (value - 1.96 * error <= low + 1e-6).all()
    assert (high - 1e-6 <= value + 1.96 * error).all()
    assert (low >= 0).all()


def test_right_every_time_is_no_certainty():
    """Of 100 answers none wrong: Wilson's upper end of the share of wrong ones is z²/(n + z²)."""
    found = debiased_calibration_error(np.full(100, SURE), np.ones(100, bool), 10)
    assert found.value == pytest.approx(0, abs=1e-4)
    assert (found.low, found.high) == (0.0, pytest.approx(1.96**2 / (100 + 1.96**2), rel=0.02))


def test_the_interval_of_one_bin_is_that_of_its_gap():
    """Far from calibrated the figure is |d|: ±1.96 of the share of right answers, √(0.5²/400)."""
    confidence, correct = np.full(400, 0.95), np.arange(400) % 2 == 0
    found = debiased_calibration_error(confidence, correct, 10)
    assert found.value == pytest.approx(0.45)
    assert (found.low, found.high) == pytest.approx((0.45 - 0.049, 0.45 + 0.049), abs=2e-3)
    assert found.standard_error == pytest.approx(0.025, rel=0.05)


def test_a_bins_gap_and_its_deviation_by_hand():
    """(0.5, 1] holds c = 0.6 and 0.8, one right: d = −0.2 within chance's √(0.4/4), so that s is that of
    p = 0.7. Of 0.05 nine times, right three: 0.283 of the 1/3 stands out from 0.0726."""
    confidence = np.concatenate([[0.6, 0.8], np.full(9, 0.05)])
    correct = np.concatenate([[True, False], np.arange(9) % 3 == 0])
    found = _bins(confidence, correct, 2)
    likely = 0.05 + math.sqrt((1 / 3 - 0.05) ** 2 - 0.05 * 0.95 / 9)
    assert found.gap == pytest.approx([(3 - 0.45) / 11, -0.4 / 11])
    expected = [math.sqrt(9 * likely * (1 - likely)) / 11, math.sqrt(2 * 0.7 * 0.3) / 11]
    assert found.deviation == pytest.approx(expected)
    assert found.share == pytest.approx([9 / 11, 2 / 11])


def test_a_bin_of_one_sample_and_certainty_are_no_trouble():
    one = debiased_calibration_error(np.array([0.7, 1.0]), np.array([True, True]), 10)
    assert 0 <= one.low <= one.high <= 1
    sure = debiased_calibration_error(np.ones(9), np.ones(9, bool), 10)
    assert (sure.value, sure.low) == (0.0, 0.0)
    assert sure.high > 0.1
    wrong = debiased_calibration_error(np.ones(9), np.zeros(9, bool), 10)
    assert (wrong.value, wrong.high) == (1.0, 1.0)
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
    """Errors 2 and 1 of 4, as 4 and 3 of 8: √(1/4 ÷ 8), √(15/64 ÷ 8); a loss is log(1 + exp(−margin))."""
    train, test = [3.0, 1.0, -2.0, -1.0], [1.0, -1.0, 2.0, 0.5]
    figures = _of_margins(train, test, 5.0)
    assert figures["train_error"].value == 0.5
    assert figures["test_error"].value == 0.25
    assert figures["gap"].value == -0.25
    assert figures["train_error"].standard_error == pytest.approx(math.sqrt(1 / 32))
    assert figures["test_error"].standard_error == pytest.approx(math.sqrt(15 / 512))
    assert figures["gap"].standard_error == pytest.approx(math.sqrt(1 / 32 + 15 / 512))
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


def test_a_shares_standard_error_counts_two_more_of_either_kind(evaluated):
    figures, _ = evaluated
    error = figures["test_error"]
    likely = (error.value * error.samples + 2) / (error.samples + 4)
    expected = np.sqrt(likely * (1 - likely) / (error.samples + 4))
    assert error.standard_error == pytest.approx(expected)
    assert all(f.standard_error >= 0 for f in figures.values())
    assert 0 < figures["ece"].standard_error < 0.05
    debiased = figures["ece_debiased"]
    low, high = debiased.interval
    assert 0 <= low < high
    assert debiased.standard_error == pytest.approx(
        max(high - debiased.value, debiased.value - low) / 1.96, rel=1e-4
    )


def test_the_error_of_a_single_sample_is_not_told():
    model = nn.Linear(2, 3).double()
    x, y = torch.randn(1, 2).double(), torch.tensor([1])
    figures = evaluate(model, Splits(x, y, x, y, 3), seed=0)
    untold = {name for name, f in figures.items() if f.standard_error is None}
    assert untold == {
        "train_loss", "test_loss", "brier_score", "mean_confidence", "logit_norm", "margin",
        "loss_gap", "ece",
    }  # fmt: skip


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


def test_a_regression_has_losses_alone():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    model = nn.Linear(1, 2, bias=False)
    nn.init.ones_(model.weight)
    targets = torch.cat([x + 1, x - 2], 1)  # off by 1 and 2: a loss of (1 + 4)/2 at every point
    figures = evaluate(model, Splits(x, torch.cat([x, x], 1), x, targets, 2, "regression"), seed=0)
    told = {name: (f.value, f.standard_error, f.samples) for name, f in figures.items()}
    assert told == {
        "train_loss": (0.0, 0.0, 3),
        "test_loss": (2.5, 0.0, 3),
        "loss_gap": (2.5, 0.0, 3),
    }
