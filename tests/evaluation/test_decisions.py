"""Figures of networks that decide on each token, pixel or label, against flattened decisions and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import nn

import sharpbench as sb
from sharpbench.evaluation.calibration import (
    debiased_calibration_error,
    expected_calibration_error,
    gaps_of_samples,
)
from sharpbench.evaluation.classification import FIGURES, evaluate, reliability_diagram
from sharpbench.outputs import Decisions
from sharpbench.seeds import numpy_generator
from sharpbench.subject import Splits, Subject

IGNORED = -100


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def tokens(n: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (n, 4, length) and classes, of which those behind a sentence's end are ignored."""
    outputs = 1.5 * drawn(n, 4, length, seed=seed) + drawn(n, 4, 1, seed=seed + 1)
    noisy = outputs + drawn(n, 4, length, seed=seed + 2)
    ends = torch.arange(n) % (length + 1)  # one sample has none
    targets = noisy.argmax(1)
    targets[torch.arange(length) >= ends.unsqueeze(1)] = IGNORED
    return outputs, targets


@pytest.fixture(scope="module")
def token_splits() -> Splits:
    return Splits(*tokens(25, 6, 1), *tokens(40, 6, 4), 4)


def by_sample(values: np.ndarray, owner: np.ndarray) -> float:
    """The standard error of a mean over samples of unequal size, term by term."""
    there = sorted(set(owner))
    mean, m = values.mean(), len(there)
    squares = sum(((values[owner == i] - mean).sum()) ** 2 for i in there)
    return math.sqrt(m / (m - 1) * squares) / len(values)


def test_figures_of_tokens_are_those_of_scikit_learn_on_the_flattened_ones(token_splits):
    splits = token_splits
    figures = evaluate(nn.Identity(), splits, decisions=Decisions("token", IGNORED), seed=0)
    assert set(figures) == set(FIGURES)
    kept = splits.test_targets != IGNORED
    logits = splits.test_inputs.movedim(1, -1)[kept]
    labels = splits.test_targets[kept].numpy()
    probabilities = logits.softmax(1).numpy()
    owner = kept.nonzero()[:, 0].numpy()
    predicted, sure = probabilities.argmax(1), probabilities.max(1)
    right = predicted == labels
    assert figures["test_error"].value == pytest.approx(1 - accuracy_score(labels, predicted))
    assert figures["test_loss"].value == pytest.approx(log_loss(labels, probabilities), rel=1e-12)
    brier = sum(brier_score_loss(labels == c, probabilities[:, c]) for c in range(4))
    assert figures["brier_score"].value == pytest.approx(brier)
    accuracy, confident = calibration_curve(right, sure, n_bins=15)
    counts = np.histogram(sure, np.linspace(0, 1, 16))[0]
    ece = np.sum(counts[counts > 0] / len(sure) * np.abs(accuracy - confident))
    assert figures["ece"].value == pytest.approx(ece)
    told = reliability_diagram(
        nn.Identity(), splits, decisions=Decisions("token", IGNORED), bins=15
    )
    assert told["count"] == counts[counts > 0].tolist()
    assert told["accuracy"] == pytest.approx(accuracy)
    rows = np.arange(len(labels))
    others = np.where(np.arange(4) == labels[:, None], -np.inf, logits.numpy())
    margins = logits.numpy()[rows, labels] - others.max(1)
    assert figures["margin"].value == pytest.approx(margins.mean())
    assert figures["margin"].standard_error == pytest.approx(by_sample(margins, owner))
    losses = -np.log(probabilities[rows, labels])
    assert figures["test_loss"].standard_error == pytest.approx(by_sample(losses, owner))
    assert figures["mean_confidence"].standard_error == pytest.approx(by_sample(sure, owner))
    assert {f.samples for name, f in figures.items() if "test" in name} == {len(set(owner))}
    hardest = np.argsort(sure, kind="stable")[: round(0.2 * len(sure))]
    assert figures["hard_accuracy"].value == pytest.approx(right[hardest].mean())
    assert figures["hard_accuracy"].samples == len(set(owner[hardest]))


def test_two_sentences_by_hand():
    """Margins 2, −1 of one and 3 of the other: of log(1 + exp(−margin)) the mean, and (s₁ − 2μ, s₂ − μ)."""
    margins = torch.tensor([[2.0, -1.0], [3.0, 9.0]]).double()
    outputs = torch.stack([margins, torch.zeros_like(margins)], 1)
    targets = torch.tensor([[0, 0], [0, IGNORED]])
    splits = Splits(outputs, targets, outputs, targets, 2)
    figures = evaluate(nn.Identity(), splits, decisions=Decisions("token"), seed=0)
    losses = [math.log1p(math.exp(-m)) for m in (2.0, -1.0, 3.0)]
    mean = sum(losses) / 3
    assert figures["train_loss"].value == pytest.approx(mean)
    apart = abs(losses[2] - mean)  # the two residuals are opposite: √2·r ÷ (√2·3/2)
    assert figures["train_loss"].standard_error == pytest.approx(apart / 1.5)
    assert figures["margin"].value == pytest.approx(4 / 3)
    assert figures["test_error"].value == pytest.approx(1 / 3)
    assert figures["test_error"].samples == 2
    # Errors ½ of a sentence and 0 of the other: residuals ±1/3, a variance of the mean of 4/81, so that
    # (2/9) ÷ (4/81) = 4.5 decisions are more than there are: 3 count.
    assert figures["test_error"].standard_error == pytest.approx(math.sqrt(3 / 7 * 4 / 7 / 7))


def test_what_a_sample_says_again_counts_once():
    """Every token five times: the figures and errors of one token a sample, but for √(m/(m − 1))."""
    outputs, targets = drawn(60, 3, 1, seed=2), torch.arange(60).unsqueeze(1) % 3
    outputs.scatter_add_(1, targets.unsqueeze(1), drawn(60, 1, 1, seed=3).abs())
    once = Splits(outputs, targets, outputs, targets, 3)
    again = Splits(outputs.expand(-1, -1, 5), targets.expand(-1, 5), *[outputs.expand(-1, -1, 5)],
                   targets.expand(-1, 5), 3)  # fmt: skip
    one, two = (
        evaluate(nn.Identity(), splits, decisions=Decisions("token"), seed=0)
        for splits in (once, again)
    )
    flat = Splits(outputs[:, :, 0], targets[:, 0], outputs[:, :, 0], targets[:, 0], 3)
    assert evaluate(nn.Identity(), flat, seed=0) == one  # one token a sample is a class a sample
    for name, figure in one.items():
        if name == "ece_floor":  # by other draws
            assert two[name].value == pytest.approx(figure.value, rel=0.1)
        elif name.startswith("ece"):
            assert two[name].value == pytest.approx(figure.value, rel=0.05)
            assert two[name].standard_error == pytest.approx(figure.standard_error, rel=0.2)
        elif name != "hard_accuracy":
            assert two[name].value == pytest.approx(figure.value)
            assert two[name].standard_error == pytest.approx(figure.standard_error)
        assert two[name].samples == figure.samples


def test_a_logit_is_a_decision_between_two_classes():
    """Yes with the logit z is the class 1 of (0, z), to the last digit; and so is each of several labels."""
    z, yes = 2 * drawn(80, 1, seed=5), (drawn(80, 1, seed=6) > 0).double()
    one = Splits(z, yes, z.flip(0), yes, 1, "regression")
    figures = evaluate(nn.Identity(), one, decisions=Decisions("label"), seed=3)
    pairs = torch.cat([torch.zeros_like(z), z], 1)
    two = Splits(pairs, yes[:, 0].long(), pairs.flip(0), yes[:, 0].long(), 2)
    assert evaluate(nn.Identity(), two, seed=3) == figures
    labels = Splits(
        z.view(20, 4), yes.view(20, 4), z.flip(0).view(20, 4), yes.view(20, 4), 4, "regression"
    )
    together = evaluate(nn.Identity(), labels, decisions=Decisions("label"), seed=3)
    for name in ("test_loss", "test_error", "brier_score", "margin", "ece", "train_loss"):
        assert together[name].value == pytest.approx(figures[name].value)
    assert together["test_loss"].samples == 20
    bce = nn.functional.binary_cross_entropy_with_logits(labels.test_inputs, labels.test_targets)
    assert together["test_loss"].value == pytest.approx(float(bce))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.BCEWithLogitsLoss(), (drawn(30, 3, seed=8) > 0).float()),
        (nn.functional.binary_cross_entropy_with_logits, (drawn(30, 3, seed=8) > 0).long()),
        (nn.MultiLabelSoftMarginLoss(), (drawn(30, 3, seed=8) > 0).float()),
        (nn.SoftMarginLoss(), (drawn(30, 3, seed=8) > 0).float() * 2 - 1),
    ],
    ids=["BCE", "function", "MultiLabelSoftMargin", "SoftMargin"],
)
def test_margins_of_labels(loss, targets):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), drawn(30, 4, seed=7).float()
    z = model.double()(x.double()).detach()
    model.float()
    subject = Subject(model, x, targets, loss=loss)
    signed = torch.where(targets > 0, z, -z)
    assert sb.measure(subject, "margin").value == pytest.approx(float(signed.mean()))
    sure = torch.maximum(z.sigmoid(), 1 - z.sigmoid())
    assert sb.measure(subject, "mean_confidence").value == pytest.approx(float(sure.mean()))
    assert sb.measure(subject, "logit_norm").value == pytest.approx(float(z.norm(dim=1).mean()))
    part = sb.measure(subject, "margin", samples=12)
    (error,) = part.errors
    assert part.samples == 12
    assert 0 < error.size < 2 * float(signed.mean(1).std()) / math.sqrt(12)


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (nn.BCEWithLogitsLoss(), torch.full((6, 2), 0.9), "not 0 or 1 throughout"),
        (nn.MSELoss(), torch.zeros(6, 2), "this is a regression"),
        (lambda f, y: (f - y).square().sum(1), torch.zeros(6, 2), "this is a regression"),
    ],
)
def test_where_no_class_is_decided_it_is_said(loss, targets, message):
    subject = Subject(nn.Linear(3, 2), drawn(6, 3).float(), targets, loss=loss)
    with pytest.raises(sb.MetricFailed, match=message):
        sb.measure(subject, "margin")
    with pytest.raises(sb.MetricFailed, match=message):
        sb.measure(subject, "inverse_margin")


class Rows(nn.Module):
    """Outputs (N, K, C) that stand in a table, by the tokens."""

    def __init__(self, outputs: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(outputs.movedim(1, -1).flatten(0, 1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids)


def test_the_margin_that_most_tokens_exceed(token_splits):
    outputs = token_splits.test_inputs
    ids = torch.arange(40 * 6).view(40, 6)
    targets = outputs.argmax(1)  # right everywhere: the margin is that to the second
    targets[token_splits.test_targets == IGNORED] = IGNORED
    subject = Subject.from_batches(Rows(outputs), [(ids, targets)])
    best = outputs.movedim(1, -1)[targets != IGNORED].topk(2, dim=1).values
    gamma = float((best[:, 0] - best[:, 1]).quantile(0.25))
    whole = sb.measure(subject, "inverse_margin", percentile=25)
    assert whole.value == pytest.approx(gamma**-2)
    assert whole.exact
    part = sb.measure(subject, "inverse_margin", percentile=25, samples=30)
    assert part.errors[0].size > 0


def test_nothing_but_ignored_targets_is_said():
    outputs, targets = tokens(5, 3, 0)
    splits = Splits(outputs, targets, outputs, torch.full_like(targets, IGNORED), 4)
    with pytest.raises(ValueError, match="every target of these data"):
        evaluate(nn.Identity(), splits, decisions=Decisions("token"), seed=0)
    ids = torch.arange(15).view(5, 3)
    lone = targets.clone()
    lone[1:] = IGNORED
    lone[0, 0] = 1
    subject = Subject.from_batches(Rows(outputs), [(ids, lone)])
    with pytest.raises(sb.MetricFailed, match="every target of the samples drawn"):
        sb.measure(subject, "margin", samples=1, seed=1)


def sentences(rng, m: int, length: int, over: float, together: float):
    """Confidences and what is right, which the tokens of a sentence share a part of."""
    shift = rng.normal(0, together, (m, 1))
    z = np.abs(rng.normal(1, 1, (m, length)) + rng.normal(0, 0.5, (m, 1)))
    right = rng.random((m, length)) < 1 / (1 + np.exp(-over * z - shift))
    owner = np.repeat(np.arange(m), length)
    return (1 / (1 + np.exp(-z))).ravel(), right.ravel().astype(float), owner


def test_the_interval_of_the_ece_covers_where_tokens_go_together():
    """Of 100 draws of 30 sentences: 95 of the intervals should hold the ECE of all sentences; those of as
    many independent tokens are half too narrow, and hold it in two of three draws at most."""
    rng = numpy_generator(0)
    truth = expected_calibration_error(*sentences(rng, 20000, 50, 0.7, 1.0)[:2])
    held = dict.fromkeys(("samples", "tokens"), 0)
    for _ in range(100):
        sure, right, owner = sentences(rng, 30, 50, 0.7, 1.0)
        gaps = gaps_of_samples(sure, right, owner)
        effects = {"design_effect": gaps.design_effect, "effect_on_sum": gaps.effect_on_sum}
        for name, given in (("samples", effects), ("tokens", {})):
            found = debiased_calibration_error(sure, right, **given)
            held[name] += found.low <= truth <= found.high
    assert held["samples"] >= 88
    assert held["tokens"] <= 67


def test_losses_of_a_regression_are_those_of_its_own_loss():
    x, y = drawn(9, 2, seed=1), drawn(9, 2, seed=2)
    splits = Splits(x, x + 1, x, y, 2, "regression")

    def own(outputs, targets):
        return (outputs - targets).abs().sum(1)

    figures = evaluate(nn.Identity(), splits, loss=own, seed=0)
    assert set(figures) == {"train_loss", "test_loss", "loss_gap"}
    assert figures["train_loss"].value == pytest.approx(2)
    assert figures["test_loss"].value == pytest.approx(float((x - y).abs().sum(1).mean()))


def test_test_data_of_another_number_of_tokens_have_a_normaliser_of_their_own():
    """Two tokens a sample to train on and three to test on."""
    table, ids = drawn(10, 4, 3, seed=9), torch.arange(30).view(10, 3)
    targets = torch.arange(30).view(10, 3) % 4
    fewer = targets[:6].clone()
    fewer[:, 2] = IGNORED
    subject = Subject.from_batches(
        Rows(table).requires_grad_(),
        [(ids[:6], fewer)],
        normaliser="tokens",
        splits={"test": [(ids[6:], targets[6:])]},
    )
    lines = table[:6, :, :2].movedim(1, -1).flatten(0, 1)
    mean = nn.functional.cross_entropy(lines, fewer[:, :2].flatten())
    outputs = subject.working_model(torch.float64)(subject.inputs)
    losses = subject.losses(outputs.detach(), subject.targets)
    assert float(losses.mean()) == pytest.approx(float(mean))
    of_test = table[6:].movedim(1, -1).flatten(0, 1)
    own = of_test.gather(1, targets[6:].flatten().unsqueeze(1)).mean()
    assert sb.measure(subject, "margin").value < float(own)
    assert sb.measure(subject, "hessian_trace").value > 0
    lines = table[6:].movedim(1, -1).flatten(0, 1)
    mean = nn.functional.cross_entropy(lines, targets[6:].flatten())
    there = subject.on("test")
    losses = there.losses(outputs.new_tensor(table[6:]), there.data("test")[1])
    assert float(losses.mean()) == pytest.approx(float(mean))
