"""Means that divide by something else than the number of samples, each split by its own, against torch's
value of the whole split in one batch and dense Hessians of it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricUnsupported
from sharpbench.loss import on_test_data
from sharpbench.measurement import Measurement
from sharpbench.metrics.base import Metric
from sharpbench.subject import Splits, Subject
from tests.test_from_batches import dense

WEIGHTS = torch.tensor([1.0, 3.0, 0.25])
G = torch.Generator().manual_seed(8)
X, TEST_X = torch.randn(13, 4, generator=G), torch.randn(7, 4, generator=G)
Y = torch.tensor([0, 1, 0, 2, 0, 1, 0, 0, 2, 0, 0, 1, 0])
TEST_Y = torch.tensor([1, 2, 1, 1, 2, 1, 0])
LABELS, TEST_LABELS = ((torch.randn(n, 3, generator=G) > 0).float() for n in (13, 7))


def logits():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def log_probabilities():
    return nn.Sequential(*logits(), nn.LogSoftmax(1))


CASES = {
    "cross-entropy": (logits, nn.CrossEntropyLoss(WEIGHTS), Y, TEST_Y),
    "smoothed": (logits, nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2), Y, TEST_Y),
    "ignored": (logits, nn.CrossEntropyLoss(WEIGHTS, ignore_index=2), Y, TEST_Y),
    "ignored and smoothed": (
        logits,
        nn.CrossEntropyLoss(WEIGHTS, ignore_index=0, label_smoothing=0.1),
        Y,
        TEST_Y,
    ),
    "nll": (log_probabilities, nn.NLLLoss(WEIGHTS), Y, TEST_Y),
    "nll, ignored": (log_probabilities, nn.NLLLoss(WEIGHTS, ignore_index=1), Y, TEST_Y),
    "no weight of a class": (
        logits,
        nn.CrossEntropyLoss(torch.tensor([0.0, 1.0, 2.0])),
        Y,
        TEST_Y,
    ),
    "positive labels": (logits, nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), LABELS, TEST_LABELS),
    "labels": (
        logits,
        nn.BCEWithLogitsLoss(WEIGHTS, pos_weight=2 * WEIGHTS),
        LABELS,
        TEST_LABELS,
    ),
    "probabilities": (
        lambda: nn.Sequential(*logits(), nn.Sigmoid()),
        nn.BCELoss(WEIGHTS),
        LABELS,
        TEST_LABELS,
    ),
}


def of_splits(model, loss, y, test_y):
    splits = Splits(
        X, y, TEST_X, test_y, 3, "regression" if y.is_floating_point() else "classification"
    )
    return Subject(model, X, y, loss=loss, splits=splits)


def of_batches(model, loss, y, test_y):
    """Of unequal size, and of classes that they have unequally many of."""
    return Subject.from_batches(
        model,
        [(X[:2], y[:2]), (X[2:9], y[2:9]), (X[9:], y[9:])],
        loss=loss,
        splits={"test": [(TEST_X[:5], test_y[:5]), (TEST_X[5:], test_y[5:])]},
    )


def of_loader(model, loss, y, test_y):
    data = torch.utils.data.TensorDataset(X, y)
    test = torch.utils.data.TensorDataset(TEST_X, test_y)
    loaders = (torch.utils.data.DataLoader(d, batch_size=4) for d in (data, test))
    train, test = loaders
    return Subject.from_batches(model, train, loss=loss, splits={"test": test})


@pytest.mark.parametrize("made", [of_splits, of_batches, of_loader])
@pytest.mark.parametrize("name", CASES)
def test_each_split_has_the_mean_that_torch_has_of_it_in_one_batch(name, made):
    build, loss, y, test_y = CASES[name]
    model = build()
    subject = made(model, loss, y, test_y)
    wide = copy.deepcopy(loss).double()
    for split, x, targets in (("train", X, y), ("test", TEST_X, test_y)):
        real = targets.double() if targets.is_floating_point() else targets

        def total(net, x=x, real=real):
            return wide(net(x.double()), real)

        expected = dense(model, total)
        there = subject.on(split)
        with torch.no_grad():
            inputs, held = there.data(split)
            held = held.double() if held.is_floating_point() else held
            losses = there.losses(there.working_model(torch.float64)(inputs.double()), held)
            mean = float(total(copy.deepcopy(model).double()))
        assert float(losses.mean()) == pytest.approx(mean, rel=1e-12)
        found = sb.measure(
            subject, "hessian_trace", split=split, method="unit_vectors", max_probes=99
        )
        assert found.value == pytest.approx(float(expected.trace()), rel=1e-8)
        found = sb.measure(subject, "hessian_top_eigenvalue", split=split, tolerance=1e-8)
        assert found.value == pytest.approx(float(torch.linalg.eigvalsh(expected)[-1]), rel=1e-6)


@pytest.mark.parametrize("made", [of_splits, of_batches])
def test_every_metric_of_a_split_takes_its_loss(made):
    """Beside a subject of the test data alone."""
    build, loss, y, test_y = CASES["cross-entropy"]
    model = build()
    both, alone = made(model, loss, y, test_y), Subject(model, TEST_X, test_y, loss=loss)
    for name in (
        "sam_sharpness",
        "gauss_newton_trace",
        "fisher_rao_norm",
        "gradient_norm",
        "hessian_frobenius_norm",
        "critical_sharpness",
        "attack_trajectory",
    ):
        found = sb.measure(both, name, split="test").value
        assert found == pytest.approx(sb.measure(alone, name).value, rel=1e-9), name


def test_two_splits_in_one_metric_have_each_its_own():
    """The way down the test loss: the rise of the training loss is the same for any factor of the former,
    and 2/η_c is in proportion to it."""
    build, loss, y, test_y = CASES["cross-entropy"]
    subject = of_splits(build(), loss, y, test_y)
    fixed = dataclasses.replace(subject.loss, test_normaliser=1.0)
    other = dataclasses.replace(subject, loss=fixed)
    asked = {"gradient_of": "test", "split": "train"}
    one, two = (sb.measure(s, "critical_sharpness", **asked).value for s in (subject, other))
    assert one == pytest.approx(two / subject.loss.test_normaliser, rel=5e-3)


def test_a_metric_of_both_splits_that_takes_one_loss_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Gap(Metric):
        """Of two splits."""

        name, title, space, unit, reference = "gap_of_a_test", "gap", "parameter", "", "none"
        one: str = "train"
        two: str = "test"

        def measure(self, subject, *, seed):
            return Measurement(0.0)

    build, loss, y, test_y = CASES["cross-entropy"]
    subject = of_splits(build(), loss, y, test_y)
    with pytest.raises(MetricUnsupported, match=r"normaliser of its own \(subject\.on\(split\)"):
        Gap().checked_measure(subject, seed=0)
    plain = of_splits(build(), None, y, test_y)
    assert Gap().checked_measure(plain, seed=0).value == 0


def test_drawn_samples_keep_the_normaliser_of_all():
    build, loss, y, test_y = CASES["cross-entropy"]
    subject = of_splits(build(), loss, y, test_y)
    few = subject.with_model(subject.model)
    assert few.loss.normaliser == pytest.approx(float(WEIGHTS[Y].mean()))
    drawn = dataclasses.replace(subject, inputs=X[:3], targets=Y[:3], splits=None)
    assert drawn.loss.normaliser == subject.loss.normaliser
    assert on_test_data(subject.loss).normaliser == pytest.approx(float(WEIGHTS[TEST_Y].mean()))
    assert on_test_data(on_test_data(subject.loss)).normaliser == pytest.approx(
        float(WEIGHTS[TEST_Y].mean())
    )


def test_targets_without_weight_are_refused():
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 0.0, 0.0]))
    with pytest.raises(InputError, match="weights of the test targets add up to nothing"):
        of_splits(logits(), loss, Y, torch.tensor([1, 2, 1, 1, 2, 1, 1]))


TOKENS = torch.randint(0, 9, (8, 5), generator=G)
CLASSES = torch.randint(0, 3, (8, 5), generator=G)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.words, self.out = nn.Embedding(9, 3), nn.Linear(3, 3)

    def forward(self, ids):
        return self.out(torch.tanh(self.words(ids)))


@pytest.mark.parametrize("normaliser", ["tokens", "sum"])
def test_tokens_of_each_split_are_counted_or_weighed_in_it(normaliser):
    targets = CLASSES.clone()
    targets[:5, 2:] = -100
    reduction = "mean" if normaliser == "tokens" else "sum"
    for given in (nn.CrossEntropyLoss(WEIGHTS), None):
        loss = given
        subject = Subject.from_batches(
            Tagger(),
            [(TOKENS[:1], targets[:1]), (TOKENS[1:5], targets[1:5])],
            loss=loss,
            normaliser=normaliser,
            splits={"test": [(TOKENS[5:], targets[5:])]},
        )
        weight = None if given is None else WEIGHTS.double()
        for split, part in (("train", slice(0, 5)), ("test", slice(5, 8))):

            def total(net, part=part, weight=weight):
                outputs = net(TOKENS[part]).flatten(0, 1)
                return F.cross_entropy(
                    outputs, targets[part].flatten(), weight=weight, reduction=reduction
                )

            expected = float(dense(Tagger(), total).trace())
            found = sb.measure(
                subject, "hessian_trace", split=split, method="unit_vectors", max_probes=99
            )
            assert found.value == pytest.approx(expected, rel=1e-8)


def test_a_sum_over_samples_of_each_split():
    subject = Subject.from_batches(
        logits(), [(X, Y)], normaliser="sum", splits={"test": [(TEST_X, TEST_Y)]}
    )
    for split, x, y in (("train", X, Y), ("test", TEST_X, TEST_Y)):

        def total(net, x=x, y=y):
            return F.cross_entropy(net(x.double()), y, reduction="sum")

        expected = float(dense(logits(), total).trace())
        found = sb.measure(
            subject, "hessian_trace", split=split, method="unit_vectors", max_probes=99
        )
        assert found.value == pytest.approx(expected, rel=1e-8)
