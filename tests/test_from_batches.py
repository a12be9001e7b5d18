"""Networks on batches of any form, against dense Hessians of the loss as a user writes it, in float64."""

from __future__ import annotations

import collections
import copy
import dataclasses
import itertools
import warnings
from collections import UserDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import sharpbench as sb
from sharpbench.errors import InputError, MetricUnsupported
from sharpbench.subject import Subject

FAST = {"tolerance": 1e-7, "max_products": 400}


def dense(model, total):
    """The Hessian of ``total(model)`` in the trainable parameters, column by column by torch alone."""
    model = copy.deepcopy(model).double().eval()
    free = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}

    def call(*args, **kwargs):
        return functional_call(model, free, args, kwargs)

    gradient = torch.autograd.grad(total(call), list(free.values()), create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = [
        torch.autograd.grad(g, list(free.values()), retain_graph=True, materialize_grads=True)
        for g in flat
    ]
    return torch.stack([torch.cat([p.reshape(-1) for p in row]) for row in rows])


def check(subject, hessian, *, metrics=("eigenvalue", "trace", "frobenius")):
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    found = sb.measure(subject, "hessian_top_eigenvalue", **FAST)
    assert found.value == pytest.approx(largest, rel=1e-5)
    if "trace" in metrics:
        exact = sb.measure(subject, "hessian_trace", method="unit_vectors", max_probes=4000)
        assert exact.value == pytest.approx(float(hessian.trace()), rel=1e-8, abs=1e-12)
    if "frobenius" in metrics:
        found = sb.measure(subject, "hessian_frobenius_norm", tolerance=0.1)
        assert abs(found.value - float(hessian.norm())) <= 5 * found.standard_error


def seeded(build):
    torch.manual_seed(3)
    return build()


def ids(*shape, high=9):
    return torch.randint(1, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


def reals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


X, Y = reals(4, 3), torch.arange(4) % 2


class Encoder(nn.Module):
    """Embedded tokens, a mask, mean pooling; its result stands under ``logits``."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.body = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, input_ids, attention_mask):
        hidden = torch.tanh(self.body(self.embedding(input_ids)))
        kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * kept).sum(1) / kept.sum(1)
        return {"logits": self.head(pooled), "hidden": hidden}


def encoder_batches():
    """Three batches of 4, 3 and 1 sentences, padded to different lengths."""
    found = []
    for n, length in ((4, 5), (3, 7), (1, 5)):
        mask = (torch.arange(length) < torch.arange(2, 2 + n).unsqueeze(1)).long()
        found.append(
            {"input_ids": ids(n, length), "attention_mask": mask, "labels": torch.arange(n) % 3}
        )
    return found


def encoder_loss(model, batches):
    losses = [
        F.cross_entropy(
            model(input_ids=b["input_ids"], attention_mask=b["attention_mask"])["logits"],
            b["labels"],
            reduction="sum",
        )
        for b in batches
    ]
    return sum(losses) / sum(len(b["labels"]) for b in batches)


def test_dicts_of_tokens_padded_to_different_lengths():
    model, batches = seeded(Encoder), encoder_batches()
    subject = Subject.from_batches(model, batches)
    assert subject.task == "classification"
    assert "logits" in subject.said[0]
    hessian = dense(model, lambda call: encoder_loss(call, batches))
    check(subject, hessian)
    chunked = sb.measure(subject, "hessian_trace", method="unit_vectors", memory_budget=1 << 20)
    assert chunked.value == pytest.approx(float(hessian.trace()), rel=1e-8)


@dataclasses.dataclass
class Pair:
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


Named = collections.namedtuple("Named", ["input_ids", "attention_mask", "labels"])


@pytest.mark.parametrize(
    "form",
    [
        lambda b: UserDict(b),
        lambda b: ({k: b[k] for k in ("input_ids", "attention_mask")}, b["labels"]),
        lambda b: [(b["input_ids"], b["attention_mask"]), b["labels"]],
        lambda b: (b["input_ids"], b["attention_mask"], b["labels"]),
        lambda b: Named(**b),
        lambda b: {k: v.numpy() for k, v in b.items()},
    ],
)
def test_every_form_of_a_batch_is_the_same_subject(form):
    model, batches = seeded(Encoder), encoder_batches()
    plain = Subject.from_batches(model, batches)
    other = Subject.from_batches(model, [form(b) for b in batches])
    one, two = (sb.measure(s, "hessian_top_eigenvalue", **FAST).value for s in (plain, other))
    assert one == two


def test_a_dataclass_and_a_function_of_the_batch():
    model, batches = seeded(Encoder), encoder_batches()
    subject = Subject.from_batches(
        model,
        lambda: (Pair(**b) for b in batches),
        forward=lambda model, b: model(b.input_ids, b.attention_mask)["logits"],
        targets=lambda b: b.labels,
    )
    plain = Subject.from_batches(model, batches)
    one, two = (sb.measure(s, "hessian_trace").value for s in (plain, subject))
    assert one == pytest.approx(two, rel=1e-12)


class Bag:
    """A batch of attributes, which is no container."""

    def __init__(self, batch):
        self.ids, self.mask, self.labels = (
            batch[k] for k in ("input_ids", "attention_mask", "labels")
        )


def test_objects_and_words_are_carried_along():
    model, batches = seeded(Encoder), encoder_batches()
    plain = sb.measure(Subject.from_batches(model, batches), "hessian_trace").value
    bags = Subject.from_batches(
        model, [Bag(b) for b in batches], forward=lambda model, b: model(b.ids, b.mask)
    )
    assert sb.measure(bags, "hessian_trace").value == plain
    names, seen = iter("abcdefgh"), []

    def forward(model, b):
        seen.append([*b["names"]])
        return model(b["input_ids"], b["attention_mask"])

    worded = [{**b, "names": [next(names) for _ in b["labels"]], "kind": "test"} for b in batches]
    subject = Subject.from_batches(model, worded, forward=forward)
    assert sb.measure(subject, "hessian_trace").value == plain
    assert {name for one in seen for name in one} == set("abcdefgh")


@pytest.mark.parametrize("normaliser", ["tokens", "samples"])
def test_a_batch_without_any_target_counts_nothing_wherever_it_stands(normaliser):
    class Labels(nn.Module):
        """As Hugging Face's: its own loss of a batch without targets is NaN."""

        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 3), nn.Linear(3, 4)

        def forward(self, input_ids, labels=None):
            logits = self.head(torch.tanh(self.embedding(input_ids)))
            return {"loss": F.cross_entropy(logits.mT, labels), "logits": logits}

    model = seeded(Labels)
    x, y = ids(9, 5), ids(9, 5) % 4
    y[:3] = -100
    y[5, 2:] = -100
    hessian = dense(
        model,
        lambda call: (
            F.cross_entropy(
                call(x, y)["logits"].mT, y, reduction="mean" if normaliser == "tokens" else "sum"
            )
            / (1 if normaliser == "tokens" else 9)
        ),
    )
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        batches = [
            {"input_ids": x[3 * i : 3 * i + 3], "labels": y[3 * i : 3 * i + 3]} for i in order
        ]
        check(Subject.from_batches(model, batches, normaliser=normaliser), hessian, metrics=())


def test_the_last_layer_of_batches_of_different_lengths_is_found():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, tokens):
            return self.head(self.embedding(tokens).mean(1))

    model = seeded(Pooled)
    batches = [(ids(4, 5), torch.arange(4) % 3), (ids(3, 7), torch.arange(3) % 3)]
    closed = sb.measure(Subject.from_batches(model, batches), "relative_flatness")
    apart = [sb.measure(Subject.from_batches(model, [b]), "relative_flatness") for b in batches]
    mean = (4 * apart[0].value + 3 * apart[1].value) / 7
    assert closed.value == pytest.approx(mean, rel=1e-10)


def test_the_row_for_padding_takes_no_part():
    class Bow(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 2)
            nn.init.normal_(self.embedding.weight)

        def forward(self, tokens):
            return self.head(torch.tanh(self.embedding(tokens)).mean(1))

    model = seeded(Bow)
    x, y = torch.tensor([[0, 1, 2], [3, 0, 4], [1, 1, 0]]), torch.tensor([0, 1, 1])
    hessian = dense(model, lambda call: F.cross_entropy(call(x), y))
    assert not hessian[:3].any()
    check(Subject.from_batches(model, [(x, y)]), hessian)


def test_one_batch_of_tensors_is_the_plain_subject():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    x, y = reals(10, 4), torch.arange(10) % 3
    plain = Subject(model, x, y)
    batched = Subject.from_batches(model, [(x[:7], y[:7]), (x[7:], y[7:])])
    assert batched.front is None
    for metric in ("hessian_trace", "sam_sharpness", "curvature_rate", "margin"):
        assert sb.measure(plain, metric).value == sb.measure(batched, metric).value
    loader = DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True)
    shuffled = Subject.from_batches(model, loader)
    one, two = (sb.measure(s, "hessian_trace").value for s in (plain, shuffled))
    assert one == pytest.approx(two, rel=1e-12)


# --- one class a token or a pixel ---------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.lstm = nn.LSTM(3, 3, batch_first=True)
        self.head = nn.Linear(3, 4)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


def tagged():
    """Batches of two lengths; every third token, and all after a sentence's end, are ignored."""
    found = []
    for n, length in ((3, 5), (2, 6)):
        tags = ids(n, length + 1, high=4)[:, :length].clone()
        tags[:, ::3] = -100
        found.append((ids(n, length), tags))
    return found


@pytest.mark.parametrize("normaliser", ["samples", "tokens", "sum"])
def test_an_lstm_tagger_by_each_normaliser(normaliser):
    model, batches = seeded(Tagger), tagged()
    divided = {
        "samples": sum(len(y) for _, y in batches),
        "tokens": sum(int((y != -100).sum()) for _, y in batches),
        "sum": 1,
    }[normaliser]

    def total(call):
        each = [F.cross_entropy(call(x).movedim(-1, 1), y, reduction="sum") for x, y in batches]
        return sum(each) / divided

    subject = Subject.from_batches(model, batches, normaliser=normaliser)
    hessian = dense(model, total)
    check(subject, hessian, metrics=("trace",))
    rate = sb.measure(
        subject, "sam_sharpness", case="average", rho=1e-3, draws=40, m="all"
    )  # ½ρ² tr H/P
    expected = 0.5 * 1e-6 * float(hessian.trace()) / len(hessian)
    assert abs(rate.value - expected) <= 5 * rate.standard_error + 1e-3 * abs(expected)


def test_margins_and_confidences_are_those_of_the_tokens_that_count():
    model, batches = seeded(Tagger), tagged()
    subject = Subject.from_batches(model, batches)
    with torch.no_grad():
        double = copy.deepcopy(model).double().eval()
        lines = torch.cat([double(x)[y != -100] for x, y in batches])
        tags = torch.cat([y[y != -100] for _, y in batches])
    own = lines.gather(1, tags.unsqueeze(1)).squeeze(1)
    others = lines.scatter(1, tags.unsqueeze(1), -torch.inf).max(1).values
    assert sb.measure(subject, "margin").value == pytest.approx(float((own - others).mean()))
    confident = lines.softmax(1).max(1).values.mean()
    found = sb.measure(subject, "mean_confidence")
    assert found.value == pytest.approx(float(confident))
    assert found.samples == 5
    norms = sb.measure(subject, "logit_norm").value
    assert norms == pytest.approx(float(lines.norm(dim=1).mean()))


def test_a_loss_module_on_tokens_needs_a_word_on_its_mean():
    model, batches = seeded(Tagger), tagged()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]), label_smoothing=0.0)
    with pytest.raises(InputError, match="normaliser='tokens'"):
        Subject.from_batches(model, batches, loss=loss)
    subject = Subject.from_batches(model, batches[:1], loss=loss, normaliser="tokens")
    x, y = batches[0]
    weighted = copy.deepcopy(loss).double()
    hessian = dense(model, lambda call: weighted(call(x).movedim(-1, 1), y))
    check(subject, hessian, metrics=("trace",))


def test_a_segmenting_network_has_a_class_a_pixel():
    def build():
        return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1))

    model = seeded(build)
    x, y = reals(3, 1, 4, 4), ids(3, 4, 4, high=3)
    y[0, 0] = 255
    loss = nn.CrossEntropyLoss(ignore_index=255)
    subject = Subject.from_batches(model, [(x, y)], loss=loss, normaliser="tokens")
    hessian = dense(model, lambda call: loss(call(x.double()), y))
    check(subject, hessian)
    rate = sb.measure(subject, "input_gradient_change")
    assert (
        rate.value > 0
    )  # the images are real: metrics of the input have something to differentiate in


# --- other tasks --------------------------------------------------------------------------------------


def test_several_labels_a_sample():
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(8, 3))
    )
    x, y = reals(6, 1, 4, 4), (reals(6, 3) > 0).float()
    with pytest.raises(InputError, match="BCEWithLogitsLoss"):
        Subject.from_batches(model, [(x, y)])
    subject = Subject.from_batches(
        model, [(x[:4], y[:4]), (x[4:], y[4:])], loss=nn.BCEWithLogitsLoss()
    )
    bce = F.binary_cross_entropy_with_logits
    check(subject, dense(model, lambda call: bce(call(x.double()), y.double())))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(), torch.tensor([0, 1, -100, 2, 1])),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5])), torch.tensor([0, 1, 1, 2, 0])),
        (nn.BCEWithLogitsLoss(), (reals(5, 3) > 0).float()),
        (nn.MSELoss(), reals(5, 3)),
    ],
)
def test_a_sum_is_what_torch_sums(loss, targets):
    model, x = (
        seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))),
        reals(5, 4),
    )
    subject = Subject.from_batches(model, [(x, targets)], loss=loss, normaliser="sum")
    summed = copy.deepcopy(loss).double()
    summed.reduction = "sum"
    y = targets.double() if targets.is_floating_point() else targets
    check(subject, dense(model, lambda call: summed(call(x.double()), y)), metrics=("trace",))


class OneLogit(nn.Module):
    """A yes-or-no classifier of sentences whose output is (N,)."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 1)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)).mean(1)).squeeze(-1)


@pytest.mark.parametrize("targets", [torch.arange(5) % 2, (torch.arange(5) % 2).float()])
def test_a_classifier_with_one_logit(targets):
    model, x = seeded(OneLogit), ids(5, 4)
    subject = Subject.from_batches(model, [(x, targets)], loss=nn.BCEWithLogitsLoss())
    bce = F.binary_cross_entropy_with_logits
    check(subject, dense(model, lambda call: bce(call(x), targets.double())))
    own = Subject.from_batches(
        model,
        [(x, targets.float())],
        loss=lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction="none"),
        task="regression",
    )
    one, two = (sb.measure(s, "hessian_trace").value for s in (subject, own))
    assert one == pytest.approx(two)


def test_an_autoencoder():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 2), nn.Softplus(), nn.Linear(2, 4)))
    x = reals(7, 4)
    with pytest.raises(InputError, match=r"\[\(x, x\)\]"):
        Subject.from_batches(model, [x])
    subject = Subject.from_batches(model, [(x, x)], loss=nn.MSELoss())
    check(subject, dense(model, lambda call: F.mse_loss(call(x.double()), x.double())))


def pinn_loss(model, batch):
    """u'' = −u inside, u = 1 at the ends, by torch.autograd.grad within the loss."""
    x = batch["inside"].clone().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return (bend + u).square().mean() + (model(batch["ends"]) - 1).square().mean()


def test_a_network_of_physics_with_a_loss_of_model_and_batch():
    model = seeded(lambda: nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)))
    batch = {"inside": reals(8, 1), "ends": torch.tensor([[0.0], [1.0]])}
    subject = Subject.from_batches(model, [batch], loss=pinn_loss)
    assert "one value a batch" in subject.said[0]
    given = {k: v.double() for k, v in batch.items()}
    hessian = dense(model, lambda call: pinn_loss(call, given))
    check(subject, hessian)
    auto = sb.measure(subject, "hessian_trace")
    assert auto.value == pytest.approx(float(hessian.trace()), rel=1e-8)
    assert sb.measure(subject, "sam_sharpness").value > 0
    for metric in ("gauss_newton_trace", "fisher_rao_norm", "margin", "logit_norm"):
        with pytest.raises(MetricUnsupported, match="model and batch"):
            sb.measure(subject, metric)
    with pytest.raises(MetricUnsupported, match="none has an input of its own"):
        sb.measure(subject, "curvature_rate")
    with pytest.raises(InputError, match="no sample has an input of its own"):
        Subject.from_batches(model, [batch], loss=pinn_loss, differentiate="inside")


def test_losses_of_batches_weigh_by_their_samples():
    model = seeded(lambda: nn.Linear(3, 2))
    x, y = reals(7, 3), torch.arange(7) % 2
    batches = [{"x": x[:5], "y": y[:5]}, {"x": x[5:], "y": y[5:]}]
    subject = Subject.from_batches(
        model, batches, loss=lambda model, b: F.cross_entropy(model(b["x"]), b["y"])
    )
    hessian = dense(model, lambda call: F.cross_entropy(call(x.double()), y))
    check(subject, hessian, metrics=("trace",))
    each = Subject.from_batches(
        model,
        batches,
        loss=lambda model, b: F.cross_entropy(model(b["x"]), b["y"], reduction="none"),
        normaliser="sum",
    )
    check(each, 7 * hessian, metrics=("trace",))


def test_a_contrastive_loss_stays_that_of_its_batches():
    model = seeded(lambda: nn.Linear(3, 2))
    x = reals(7, 3)

    def contrast(model, b):
        z = model(b["x"])
        return F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")

    subject = Subject.from_batches(model, [{"x": x[:4]}, {"x": x[4:]}], loss=contrast)
    assert "depends on the others" in subject.said[0]
    halves = [{"x": part.double()} for part in (x[:4], x[4:])]
    hessian = dense(model, lambda call: sum(contrast(call, b).sum() for b in halves) / 7)
    check(subject, hessian, metrics=("trace",))

    summed = Subject.from_batches(
        model, [{"x": x[:4]}, {"x": x[4:]}], loss=contrast, normaliser="sum"
    )
    check(summed, 7 * hessian, metrics=("trace",))


def test_what_tells_samples_apart_is_looked_for_in_the_largest_batch():
    model, x = seeded(lambda: nn.Linear(3, 2)), reals(7, 3)

    def contrast(model, b):
        z = model(b["x"])
        return 1e-9 * F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")

    subject = Subject.from_batches(model, [{"x": x[:1]}, {"x": x[1:]}], loss=contrast)
    assert "depends on the others" in subject.said[0]
    assert subject.said[1] == "batches weigh by their samples: 1, 6"


class Focal(nn.Module):
    """Each token's loss weighed by how wrong it is; its mean is over the tokens that are not ``ignore``."""

    def __init__(self, reduction="mean", ignore=-100):
        super().__init__()
        self.reduction, self.ignore = reduction, ignore

    def forward(self, f, t):
        losses = F.cross_entropy(f.movedim(-1, 1), t, reduction="none", ignore_index=self.ignore)
        losses = (1 - torch.exp(-losses)) ** 2 * losses
        if self.reduction == "none":
            return losses
        return losses.sum() / (t != self.ignore).sum()


@pytest.mark.parametrize("ignore", [-100, 0])
@pytest.mark.parametrize("form", ["mean", "none", "function"])
def test_a_loss_of_ones_own_counts_the_tokens_that_it_does_not_leave_out(form, ignore):
    """In the first samples there is none to leave out."""
    model, tokens = seeded(Words), ids(8, 5)
    labels = tokens % 2 + 1
    labels[4:, 2:] = ignore
    given = Focal("none" if form == "none" else "mean", ignore)
    loss = Focal("none", ignore).forward if form == "function" else given
    subject = Subject.from_batches(model, [(tokens, labels)], loss=loss, normaliser="tokens")
    assert f"whose target is not {ignore}" in subject.said[0]
    with pytest.raises(MetricUnsupported, match="does not tell where its classes are"):
        sb.measure(subject, "margin")
    mean = Focal("mean", ignore)
    check(subject, dense(model, lambda call: mean(call(tokens), labels)), metrics=("trace",))
    total = Subject.from_batches(model, [(tokens, labels)], loss=loss, normaliser="sum")
    each = Focal("none", ignore)
    check(total, dense(model, lambda call: each(call(tokens), labels).sum()), metrics=("trace",))
    if form == "mean":
        with pytest.raises(InputError, match="normaliser='tokens' for a mean over tokens"):
            Subject.from_batches(model, [(tokens, labels)], loss=loss)


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss()])
@pytest.mark.parametrize("order", [1, -1])
def test_as_many_tokens_as_classes_in_the_first_batch_are_told_by_another(loss, order):
    model = seeded(Words)
    batches = [(ids(4, 3), ids(4, 3) % 3), (ids(6, 5), ids(6, 5) % 3)][::order]
    subject = Subject.from_batches(model, batches, loss=loss, normaliser="tokens")

    def total(call):
        return sum(F.cross_entropy(call(x).mT, y, reduction="sum") for x, y in batches) / 42

    check(subject, dense(model, total), metrics=("trace",))
    with pytest.raises(InputError, match="classes on axis 1 or on the last"):
        Subject.from_batches(model, [(ids(4, 3), ids(4, 3) % 3)])
    alone = Subject.from_batches(
        model, [(ids(4, 3), ids(4, 3) % 3)], loss=nn.CrossEntropyLoss(), normaliser="tokens"
    )
    assert (
        alone.said[0]
        == "the outputs (N, 3, 3) have their classes on axis 1, where torch's loss has them"
    )


def test_what_a_loss_leaves_out_is_found_among_many_words():
    """Padding in one sample of many, of a vocabulary of which few words can be tried."""
    words = 3000

    class Speaker(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(words, 2), nn.Linear(2, words)

        def forward(self, tokens):
            return self.head(torch.tanh(self.embedding(tokens)))

    tokens = torch.randint(1, words, (150, 24), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[97, 3:] = 0

    def loss(f, t):
        return F.cross_entropy(f.mT, t, ignore_index=0, reduction="none")

    model = seeded(Speaker)
    subject = Subject.from_batches(model, [(tokens, labels)], loss=loss, normaliser="tokens")
    assert "whose target is not 0" in subject.said[0]
    assert subject.loss.scale == pytest.approx(150 / (150 * 24 - 21))
    with pytest.raises(InputError, match="can't be evaluated"):
        Subject.from_batches(
            model, [(tokens, labels)], loss=lambda f, t: f.missing, normaliser="tokens"
        )


def test_a_sum_of_torch_needs_the_word_sum():
    model, tokens = seeded(Words), ids(8, 5)
    labels, loss = tokens % 3, nn.CrossEntropyLoss(reduction="sum")
    with pytest.raises(InputError, match="gives the sum over tokens: say normaliser='sum'"):
        Subject.from_batches(model, [(tokens, labels)], loss=loss)
    subject = Subject.from_batches(model, [(tokens, labels)], loss=loss, normaliser="sum")
    check(subject, dense(model, lambda call: loss(call(tokens).movedim(-1, 1), labels)))
    net, weighed = seeded(lambda: nn.Linear(3, 2)), torch.tensor([1.0, 3.0])
    loss = nn.CrossEntropyLoss(weighed.double(), reduction="sum")
    of_samples = Subject.from_batches(net, [(X, Y)], loss=loss, normaliser="sum")
    check(of_samples, dense(net, lambda call: loss(call(X.double()), Y)))
    with pytest.raises(InputError, match="sums over the samples"):
        Subject.from_batches(net, [(X, Y)], loss=loss)


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("function", [False, True])
def test_batches_may_be_written_into_one_memory_after_another(function, array):
    model, x, y = seeded(lambda: nn.Linear(3, 2)), reals(9, 3), torch.arange(9) % 2

    def batches():
        place, labels = torch.empty(3, 3), [0] * 3
        for begin in (0, 3, 6):
            place.copy_(x[begin : begin + 3])
            labels[:] = y[begin : begin + 3].tolist()
            yield place.numpy() if array else place, labels

    subject = Subject.from_batches(model, batches if function else batches())
    check(subject, dense(model, lambda call: F.cross_entropy(call(x.double()), y)))


class Words(nn.Module):
    """A class a token, of its own embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 2), nn.Linear(2, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


class Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, frames):
        return self.head(self.rnn(frames)[0]).log_softmax(-1)


def test_a_recogniser_with_ctc_says_that_torch_has_no_second_derivative():
    model = seeded(Recogniser)
    batch = {"frames": reals(3, 6, 2), "labels": torch.tensor([[1, 2], [2, 1], [1, 1]])}

    def ctc(model, b):
        lengths = torch.full((len(b["labels"]),), 6)
        sizes = torch.full((len(b["labels"]),), 2)
        z = model(b["frames"]).transpose(0, 1)
        return F.ctc_loss(z, b["labels"], lengths, sizes, reduction="none")

    subject = Subject.from_batches(model, [batch], loss=ctc)
    assert sb.measure(subject, "sam_sharpness", m="all").value > 0
    with pytest.raises(sb.MetricFailed, match=r"twice differentiable|ctc"):
        sb.measure(subject, "hessian_trace")


class Adapted(nn.Module):
    """A frozen layer with a trainable change of rank one."""

    def __init__(self):
        super().__init__()
        self.base = Encoder()
        for parameter in self.base.parameters():
            parameter.requires_grad_(False)
        self.a, self.b = nn.Parameter(reals(4, 1)), nn.Parameter(reals(1, 5))

    def forward(self, input_ids, attention_mask):
        embedded = self.base.embedding(input_ids)
        hidden = torch.tanh(self.base.body(embedded) + embedded @ self.a @ self.b)
        return self.base.head(hidden.mean(1))


def test_an_adapted_encoder_has_the_parameters_that_it_trains():
    model, batches = seeded(Adapted), encoder_batches()[:1]
    subject = Subject.from_batches(model, batches)

    def total(call):
        b = batches[0]
        return F.cross_entropy(call(b["input_ids"], b["attention_mask"]), b["labels"])

    hessian = dense(model, total)
    assert len(hessian) == 9
    check(subject, hessian)


# --- in the input -------------------------------------------------------------------------------------


def test_metrics_of_the_input_differentiate_in_what_is_named():
    model, batches = seeded(Encoder), encoder_batches()[:1]
    silent = Subject.from_batches(model, batches)
    with pytest.raises(MetricUnsupported, match="differentiate='embedding'"):
        sb.measure(silent, "curvature_rate")
    named = Subject.from_batches(model, batches, differentiate="embedding")

    class Behind(nn.Module):
        """The same from the embedded tokens on, the mask packed beside them by hand."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            kept = batches[0]["attention_mask"].unsqueeze(-1).to(x.dtype)
            kept = kept[: len(x)] if len(x) <= 4 else kept
            hidden = torch.tanh(self.inner.body(x))
            return self.inner.head((hidden * kept).sum(1) / kept.sum(1))

    assert named.front is not None
    view = named.at_inputs(torch.float64)
    x, context = view.of(named.inputs, named.targets)
    assert x.shape == (4, 5, 4)
    free = x.clone().requires_grad_()
    losses = named.losses(view(free, context), view.targets(context))
    (gradient,) = torch.autograd.grad(losses.sum(), free)
    double = Behind().double()
    twin = x.clone().requires_grad_()
    expected = F.cross_entropy(double(twin), batches[0]["labels"], reduction="sum")
    (theirs,) = torch.autograd.grad(expected, twin)
    assert torch.allclose(gradient, theirs, atol=1e-12)
    rate = sb.measure(named, "curvature_rate", samples="all")
    jacobian = sb.measure(named, "input_jacobian_norm", output="logits")
    rows = [
        torch.autograd.grad(double(twin)[i, c], twin)[0][i].square().sum()
        for i in range(4)
        for c in range(3)
    ]
    norms = torch.stack(rows).view(4, 3).sum(1).sqrt()
    assert jacobian.value == pytest.approx(float(norms.mean()))
    assert rate.details["checks"]["coefficient 0"] < 1e-10
    curved = sb.measure(named, "input_curvature")
    blocks = []
    for i in range(4):
        at = x[i : i + 1].clone()

        def loss(flat, i=i):
            view_at = view(flat.view(1, 5, 4), context[i : i + 1])
            return named.losses(view_at, batches[0]["labels"][i : i + 1]).sum()

        h = torch.autograd.functional.hessian(loss, at.flatten())
        g = gradient[i].norm()
        blocks.append(float(torch.linalg.eigvalsh(h).abs().max() / (g + 1e-6)))
    assert curved.value == pytest.approx(sum(blocks) / 4, rel=1e-3)


@pytest.mark.parametrize("part", ["0", "2", "4"])
def test_what_is_differentiated_in_may_be_written_into(part):
    """An activation in place would otherwise be what is differentiated in, and may be kinked."""

    def made(inplace):
        return nn.Sequential(
            nn.Linear(3, 4),
            nn.ELU(inplace=inplace),
            nn.Linear(4, 4),
            nn.ReLU(inplace),
            nn.Linear(4, 2),
        )

    figures = []
    for inplace in (False, True):
        subject = Subject.from_batches(
            seeded(lambda inplace=inplace: made(inplace)), [(X, Y)], differentiate=part
        )
        figures.append(
            [
                sb.measure(subject, "input_jacobian_norm", output="logits").value,
                sb.measure(subject, "input_curvature").value,
                sb.measure(subject, "curvature_rate", directions=1).value,
            ]
        )
    assert figures[1] == pytest.approx(figures[0], rel=1e-9)
    if part == "4":  # the outputs themselves
        assert figures[0][0] == pytest.approx(2**0.5)


def test_a_class_that_notes_its_heirs_hears_of_none():
    heirs = []

    class Registered(nn.Linear):
        def __init_subclass__(cls, *, label, **kwargs):
            super().__init_subclass__(**kwargs)
            heirs.append((label, cls))

    class Own(Registered, label="own"):
        pass

    model = seeded(lambda: Own(3, 2))
    subject = Subject.from_batches(model, [{"features": X, "y": Y}])
    check(subject, dense(model, lambda call: F.cross_entropy(call(X.double()), Y)))
    assert heirs == [("own", Own)]
    assert type(model) is Own


class Overwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h += 1
        return self.last(h)


def test_a_network_that_writes_into_what_its_derivative_needs_is_refused_in_a_sentence():
    subject = Subject.from_batches(seeded(Overwritten), [(X, Y)])
    for metric in ("hessian_trace", "gradient_norm", "curvature_rate"):
        with pytest.raises(sb.MetricFailed, match="writes into a tensor that a derivative needs"):
            sb.measure(subject, metric)


def test_samples_of_different_shapes_have_no_common_directions():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            return self.head(torch.tanh(x)).mean(1)

    batches = [(reals(3, 4, 2), Y[:3]), (reals(1, 6, 2), Y[:1])]
    subject = Subject.from_batches(seeded(Bag), batches)
    assert sb.measure(subject, "hessian_trace").value > 0
    with pytest.raises(MetricUnsupported, match="pad all batches to one length"):
        sb.measure(subject, "curvature_rate")
    for where in ("0", "head"):
        with pytest.raises(InputError, match="pad all batches to one length"):
            Subject.from_batches(seeded(Bag), batches, differentiate=where)
    layer = nn.Linear(2, 2)
    twice = nn.Sequential(collections.OrderedDict(part=layer, again=layer))
    several = Subject.from_batches(twice, [(reals(4, 2), Y)], differentiate="part")
    with pytest.raises(MetricUnsupported, match="runs 2 times"):
        sb.measure(several, "curvature_rate")


def test_a_real_tensor_of_the_batch_among_others():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, pixels, scale, steps):
            return self.head(torch.tanh(pixels) * scale) / steps.unsqueeze(1)

    model = seeded(Two)
    x, y = reals(4, 3), torch.arange(4) % 2
    scale, steps = 1 + reals(4, 3).abs(), torch.arange(1, 5)
    batch = {"pixels": x, "scale": scale, "steps": steps, "labels": y}
    with pytest.raises(MetricUnsupported, match=r"pixels, scale"):
        sb.measure(Subject.from_batches(model, [batch]), "curvature_rate")
    subject = Subject.from_batches(model, [batch], differentiate="pixels")
    found = sb.measure(subject, "input_jacobian_norm", output="logits")
    weight = model.head.weight.detach().double()
    slope = (1 - torch.tanh(x.double()) ** 2) * scale.double()
    jacobians = weight.unsqueeze(0) * slope.unsqueeze(1) / steps.view(-1, 1, 1)
    assert found.value == pytest.approx(float(jacobians.flatten(1).norm(dim=1).mean()))


# --- what bad input gets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "hold no batch"),
        (X, {}, r"write \[batch\]"),
        ((X, Y), {}, r"\[\(inputs, targets\)\]"),
        ({"x": X}, {}, r"write \[batch\]"),
        (3, {}, "must be a list of batches"),
        ([{"x": X}], {}, "hold no targets"),
        (
            [{"x": X, "id": Y, "labels": Y}],
            {},
            r"doesn't run on a batch .*x float32.*forward=lambda model, batch: model\(batch\['x'\]\)",
        ),
        ([{"input": X, "labels": Y}, {"labels": Y}], {}, "batch 1 holds other things"),
        ([(X, Y)], {"targets": "labels"}, "is not in a batch"),
        ([(X, Y)], {"normaliser": "token"}, "unknown normaliser"),
        ([(X, X)], {"normaliser": "tokens"}, "needs one class a token"),
        ([(X, Y)], {"differentiate": "wieght"}, "neither a tensor of the batch nor a part"),
        ([(X.long(), Y)], {}, "doesn't run on a batch"),
        ([(X * torch.nan, Y)], {}, "NaN"),
        ([(X, Y)], {"forward": lambda model, b: 3}, "returned a int"),
        (TensorDataset(X, Y), {}, r"DataLoader\(dataset"),
        ([{"x": X, "o": object(), "labels": Y}], {}, "o is a object, which can't be cut"),
        (
            [{"input": X, "k": [1], "labels": Y}, {"input": X, "k": [2], "labels": Y}],
            {},
            "k has no",
        ),
        (
            [{"x": X, "labels": Y}],
            {"loss": lambda m, b: m(b["x"]).mean()},
            "name of its first argument, model",
        ),
        ([(X, Y)], {"splits": {"validation": [(X, Y)]}}, "splits must be"),
        ([(X, Y)], {"loss": lambda model, b: 3.0}, "returned a float"),
        (itertools.cycle([(X, Y)]), {}, "never end"),
        ([(X, torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]]))], {}, "BCEWithLogitsLoss.*yes or no"),
        (list(zip(X, Y, strict=True)), {}, r"a single sample.*DataLoader\(samples"),
        ([(X.tolist(), Y.tolist())], {}, r"hold no tensor or array.*torch\.tensor"),
        (
            [(X[:3].tolist(), [0, 1, 0]), (X.tolist(), [0] * 4)],
            {},
            r"tuple of 2 list.*of the targets",
        ),
        (["train.pt", "test.pt"], {}, r"hold no tensor or array \(str\)"),
        ((X.numpy(), Y.numpy()), {}, r"a tuple of tensors.*\[\(inputs, targets\)\]"),
        (X.numpy(), {}, r"for one batch write \[batch\]"),
        ([DataLoader(TensorDataset(X, Y))], {}, "hold a DataLoader.*give the loader itself"),
        ([TensorDataset(X, Y)], {}, r"hold a TensorDataset.*give DataLoader\(dataset"),
        ([{"input": X, "id": Y, "y": Y}], {}, r"model\(input=batch\['input'\]\)"),
        ([(X, Y)], {"differentiate": 1}, "names int64.*give differentiate='0'"),
        ([(X, Y)], {"targets": 2}, "Known names: 0, 1"),
        ([(["a", "b"], Y[:2])], {}, "a list of 2 str"),
        ([(X > 0, Y)], {}, r"model\(batch\[0\]\.to\(.*\)\), if bool is no number"),
        ([(X.to_sparse(), Y)], {}, "'0' of the batch must be a dense tensor.*sparse"),
        ([(torch.nested.nested_tensor([X[0], X[1]]), Y[:2])], {}, "and is a nested tensor"),
        ([(X, {"boxes": X})], {}, "targets must be tensors.*loss=lambda model, batch"),
        ([(X, ["cat"] * 4)], {}, "targets must be tensors, got a list of 4 str"),
        ([(X, None)], {}, "hold no targets"),
        ([(X, Y * torch.nan)], {}, "'1' of the batch holds NaN values, first in sample 0"),
        ([(X, Y + 1)], {}, "hold the class 2, and the network has 2 outputs"),
        ([(X, Y - 1)], {}, "hold the class -1"),
        ([(X, torch.full((4,), -100))], {}, "every target is -100"),
        ([(X[:2], Y[:2]), (X[:0], Y[:0])], {}, "batch 1 has no sample"),
        ([(X, Y[:3])], {}, r"returned the shape \(4, 2\) for targets \(3,\)"),
        ([{"x": X, "labels": Y}], {"targets": "label"}, "Did you mean 'labels'"),
        ([(X, Y)], {"forward": "mine"}, "forward must be a function of model and batch"),
        ([(X, Y)], {"forward": lambda b: b}, "takes 1 positional argument"),
        ([(X, Y)], {"differentiate": ["weight"]}, "a name or a part of the network, got a list"),
        ([(X, Y)], {"splits": [(X, Y)]}, r"splits must be \{'test': batches\}.*got a list"),
        ([(X, Y)], {"splits": {"test": []}}, "test batches hold no batch"),
        ([(X, Y)], {"splits": {"test": [(X[:, :2], Y)]}}, r"the test data: .*0 float32 \(1, 2\)"),
        ([(X, Y)], {"splits": {"test": [{"x": X, "y": Y}]}}, "batch 1 holds other things"),
        ([(X, Y)], {"loss": "cross_entropy"}, "loss must be callable"),
        ([(X, Y)], {"loss": nn.CrossEntropyLoss}, "is the class CrossEntropyLoss"),
        ([(X, Y)], {"loss": nn.CrossEntropyLoss(reduction="sum")}, "sums over the samples"),
        ([(X, Y)], {"loss": lambda f, y: f[0, 0]}, "must return one value a sample"),
        ([(X, Y)], {"loss": nn.CTCLoss()}, "can't be evaluated on outputs"),
        (
            [{"x": X, "labels": Y}],
            {"loss": lambda m, b: m(b["x"]).mean(1)},
            r"called as loss\(outputs, targets\).*first argument, model",
        ),
        ([(X, 2.0 * X[:, :2].sign())], {"loss": nn.BCEWithLogitsLoss()}, "from 0 to 1, .* -2 to 2"),
        ([(X, X[:, :2].sign().relu())], {"loss": nn.SoftMarginLoss()}, r"-1 and 1.*2 \* targets"),
        ([(X, X[:, :2])], {"loss": nn.CrossEntropyLoss()}, "real targets are probabilities"),
    ],
)
def test_a_refusal_names_what_was_found_and_what_to_write(batches, options, message):
    with pytest.raises(InputError, match=message):
        Subject.from_batches(nn.Linear(3, 2), batches, **options)


class Whole(nn.Module):
    """Takes a batch itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, batch):
        return self.inner(batch["x"])


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])


def stacked(model, batch):
    return model(torch.stack(batch[0]))


@pytest.mark.parametrize(
    ("build", "batches", "options", "message"),
    [
        (Whole, [{"x": X, "y": Y}], {}, r"batch: model\(batch\)"),
        (Whole, [{"x": X, "z": X, "y": Y}], {}, r"batch: model\(batch\)"),
        (TimeFirst, [(reals(5, 4, 2), Y)], {}, r"model\(batch\[0\]\.transpose\(0, 1\)\)"),
        (
            TimeFirst,
            [(reals(5, 4, 2), Y), (reals(5, 2, 2), Y[:2])],
            {},
            r"no entry a sample.*put batch\[0\]\.transpose\(0, 1\) into the batches",
        ),
        (
            lambda: nn.Linear(3, 2),
            [(list(X), Y)],
            {"forward": stacked},
            r"0 is a list of 4 tensors: put torch\.stack\(batch\[0\]\)",
        ),
        (
            lambda: nn.Linear(3, 2),
            [(list(X), Y), (list(X[:3]), Y[:3])],
            {"forward": stacked},
            r"a list of one tensor a sample is torch\.stack",
        ),
        (
            lambda: Returns(lambda z: z[[3, 2, 1, 0]]),
            [(X, Y)],
            {"differentiate": "0"},
            "can't be cut into samples",
        ),
    ],
)
def test_what_is_not_cut_is_told_with_the_line_to_write(build, batches, options, message):
    with pytest.raises(InputError, match=message):
        Subject.from_batches(seeded(build), batches, **options)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, list(y)),
        lambda x, y: (x, tuple(y)),
        lambda x, y: (x.numpy()[::-1].copy()[::-1], y.numpy()[::-1].copy()[::-1]),
        lambda x, y: (frozen(x), frozen(y)),
        lambda x, y: {"x": x, "of": np.array([f"row {i}" for i in y]), "y": y},
        lambda x, y: Unwritable(x=x, y=y, on=torch.device("cpu")),
        lambda x, y: [x.as_subclass(Marked), y],
        lambda x, y: (nn.Parameter(x), y),
    ],
)
def test_arrays_and_lists_of_numbers_are_taken_as_they_are(form):
    model, x, y = seeded(lambda: nn.Linear(3, 2)), reals(7, 3), torch.arange(7) % 2
    batches = [form(x[:3], y[:3]), form(x[3:], y[3:])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        subject = Subject.from_batches(
            model,
            batches,
            forward=lambda model, batch: model(batch["x"] if isinstance(batch, dict) else batch[0]),
        )
    check(subject, dense(model, lambda call: F.cross_entropy(call(x.double()), y)))


class Unwritable(dict):
    def __setitem__(self, key, value):
        raise TypeError("it is read only")


class Marked(torch.Tensor):
    pass


def frozen(tensor):
    array = tensor.numpy().copy()
    array.setflags(write=False)
    return array


@dataclasses.dataclass
class Scored:
    scores: torch.Tensor
    features: torch.Tensor


class Returns(nn.Module):
    """A linear layer of which ``what`` is returned."""

    def __init__(self, what):
        super().__init__()
        self.inner, self.what = nn.Linear(3, 2), what

    def forward(self, x):
        return self.what(self.inner(x))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda z: None, "returned None"),
        (lambda z: "logits", "returned a str, which has no derivatives"),
        (lambda z: z.detach().numpy(), "returned a ndarray, which has no derivatives"),
        (lambda z: z.argmax(1), "predicted classes"),
        (lambda z: {"a": z, "b": z}, r"a float32 \(4, 2\), b float32.*forward=lambda"),
        (lambda z: {"size": z.sum(), "a": z, "b": z}, r"model\(…\)\['a'\]"),
        (lambda z: ((z.sum(), z), z), r"model\(…\)\[0\]\[1\]"),
        (
            lambda z: {"loss": z.mean()},
            r"no outputs: give a loss of the model.*model\(…\)\['loss'\]",
        ),
        (lambda z: Scored(z, z), r"model\(…\)\.scores, or another"),
        (lambda z: z.mT, r"\(2, 4\) for targets \(4,\)"),
        (lambda z: z.mean(), r"the shape \(\) for targets"),
        (lambda z: z.to(torch.complex64), "must be real floating-point"),
        (lambda z: z + np.random.rand(), "gives other outputs when it is called again"),  # noqa: NPY002
        (lambda z: z[..., None, None], r"need outputs \(N, classes\)"),
    ],
)
def test_a_result_that_is_no_outputs_is_told(what, message):
    with pytest.raises(InputError, match=message):
        Subject.from_batches(Returns(what), [(X, Y)])


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (lambda z: {"regulariser": z.sum(), "scores": z}, "its 'scores' is taken"),
        (lambda z: (z.sum(), z, (z, z)), "the first tensor is taken"),
    ],
)
def test_the_one_tensor_beside_scalars_is_taken(what, told):
    model = seeded(lambda: Returns(what))
    subject = Subject.from_batches(model, [(X, Y)])
    assert told in subject.said[0]
    net = model.inner
    check(subject, dense(net, lambda call: F.cross_entropy(call(X.double()), Y)))


class Causal(nn.Module):
    """Returns its loss beside the logits, in a tuple or a dict, of the next token or of each token's own."""

    def __init__(self, form, shift, words=9):
        super().__init__()
        self.embedding, self.head = nn.Embedding(words, 3), nn.Linear(3, words)
        self.form, self.shift = form, shift

    def forward(self, tokens, labels=None):
        z = self.head(torch.tanh(self.embedding(tokens)))
        if labels is None:
            return z
        ahead = (z[:, :-1], labels[:, 1:]) if self.shift else (z, labels)
        loss = F.cross_entropy(*(part.flatten(0, 1) for part in ahead))
        return {"dict": {"loss": loss, "logits": z}, "first": (loss, z), "last": (z, loss)}[
            self.form
        ]


@pytest.mark.parametrize("form", ["dict", "first", "last"])
@pytest.mark.parametrize("shift", [False, True])
def test_the_loss_that_a_network_returns_tells_which_tokens_it_predicts(form, shift):
    model, x = seeded(lambda: Causal(form, shift)), ids(5, 6)
    subject = Subject.from_batches(model, [{"tokens": x, "labels": x}], normaliser="tokens")
    assert any("targets are shifted" in sentence for sentence in subject.said) == shift
    own = seeded(lambda: Causal("first", shift))
    check(subject, dense(own, lambda call: call(x, x)[0]), metrics=("trace",))


@pytest.mark.parametrize("shift", [False, True])
def test_the_two_losses_of_an_untrained_network_are_told_apart(shift):
    """Both are within a thousandth of ln V."""
    model, x = seeded(lambda: Causal("dict", shift, 400)), ids(5, 6, high=400)
    with torch.no_grad():
        model.head.weight.mul_(0.05)
        model.head.bias.mul_(0.05)
    subject = Subject.from_batches(model, [{"tokens": x, "labels": x}], normaliser="tokens")
    assert any("targets are shifted" in sentence for sentence in subject.said) == shift
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    with pytest.raises(InputError, match=r"can be either mean cross-entropy.*\['loss'\]"):
        Subject.from_batches(model, [{"tokens": x, "labels": x}], normaliser="tokens")


def test_a_number_in_a_tuple_is_a_loss_where_the_network_has_the_targets():
    model, x = seeded(lambda: Causal("first", shift=False)), ids(5, 6)
    batch = {"tokens": x, "labels": x}

    def doubled(model, batch):
        loss, z = model(**batch)
        return 2 * loss, z

    told = Subject.from_batches(model, [batch], forward=doubled, normaliser="tokens")
    assert "beside the outputs is not taken for a loss" in told.said[1]
    model.register_forward_hook(lambda _, args, output: (2 * output[0], output[1]))
    with pytest.raises(InputError, match=r"is not the mean cross-entropy.*model\(\*\*batch\)\[0\]"):
        Subject.from_batches(model, [batch], normaliser="tokens")


def test_targets_may_be_counted_from_the_end():
    model = seeded(lambda: nn.Linear(3, 2))
    subject = Subject.from_batches(model, [(Y, X)], targets=-2)
    check(subject, dense(model, lambda call: F.cross_entropy(call(X.double()), Y)))


def test_the_fault_in_a_worker_process_is_told():
    """As torch hands it on."""

    def batches():
        try:
            raise ValueError("file 0 is broken")
        except ValueError:
            torch._utils.ExceptionWrapper(where="in DataLoader worker process 0").reraise()
        yield

    with pytest.raises(InputError, match="can't be read: ValueError: file 0 is broken"):
        Subject.from_batches(nn.Linear(3, 2), batches())


@pytest.mark.parametrize(
    ("what", "metric", "message"),
    [
        (lambda z: z.detach(), "hessian_trace", "depend on no parameter"),
        (lambda z: z * torch.nan, "margin", "of 4 of 4 points"),
        (lambda z: F.dropout(z, training=True), "hessian_trace", "two evaluations"),
    ],
)
def test_what_a_metric_cannot_do_is_told_by_its_cause(what, metric, message):
    subject = Subject.from_batches(Returns(what), [(X, Y)])
    with pytest.raises(sb.MetricFailed, match=message):
        sb.measure(subject, metric)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: x.flatten(0, 1), r"model\(…\)\.unflatten\(0, \(-1, T\)\)"),
        (lambda x: x.transpose(0, 1), r"model\(…\)\.transpose\(0, 1\)"),
    ],
)
def test_tokens_in_another_order_are_told_how_to_turn(build, message):
    tagger = seeded(Tagger)
    with pytest.raises(InputError, match=message):
        Subject.from_batches(
            tagger, [(ids(3, 5), ids(3, 5) % 4)], forward=lambda model, b: build(model(b[0]))
        )
    with pytest.raises(InputError, match="integers go from 20 to"):
        Subject.from_batches(tagger, [(20 + ids(3, 5) % 2, ids(3, 5) % 4)])


def test_everyday_forms_are_taken_and_said():
    model = seeded(lambda: nn.Linear(3, 2))
    expected = sb.measure(Subject(model, X, Y), "hessian_trace").value

    def one_pass():
        yield from ((X[i : i + 2], Y[i : i + 2]) for i in (0, 2))

    forms = [
        (one_pass(), {}),
        ([{"image": X, "label": Y}], {}),
        ([UserDict(input=X, labels=Y)], {}),
        ([(X.numpy(), Y.tolist())], {}),
        ([(X, Y.int().unsqueeze(1))], {}),
        ([(X, None, Y)], {"forward": lambda model, b: model(b[0])}),
        ([(X, Y)], {"loss": F.cross_entropy}),
        (DataLoader([{"input": x, "labels": int(y)} for x, y in zip(X, Y, strict=True)], 3), {}),
        ([(X, Y)], {"forward": lambda model, b: {"loss": 0, "scores": model(b[0])}}),
    ]
    for batches, options in forms:
        subject = Subject.from_batches(model, batches, **options)
        assert sb.measure(subject, "hessian_trace").value == pytest.approx(expected, rel=1e-6)
    named = Subject.from_batches(model, [{"image": X, "label": Y}])
    assert "'image' of a batch by its position" in named.said[0]
    tagger, x, y = seeded(Tagger), ids(3, 5), ids(3, 5) % 4
    one, two = (
        sb.measure(
            Subject.from_batches(tagger, [(x, y)], loss=loss, normaliser="tokens"), "hessian_trace"
        )
        for loss in (None, F.cross_entropy)
    )
    assert one.value == two.value


def test_numbers_that_nothing_is_computed_in_and_losses_that_differentiate_are_told():
    def backward(model, batch):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    with pytest.raises(InputError, match=r"calls backward\(\) itself"):
        Subject.from_batches(nn.Linear(3, 2), [(X, Y)], loss=backward)
    small = nn.Linear(3, 2)
    small.weight = nn.Parameter(small.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(InputError, match="'weight' is float8_e4m3fn"):
        Subject.from_batches(small, [(X, Y)])
    sparse = nn.Linear(3, 2)
    sparse.register_buffer("links", torch.eye(3).to_sparse())
    assert sb.measure(Subject.from_batches(sparse, [(X, Y)]), "margin").exact
    sparse.register_parameter("more", nn.Parameter(torch.eye(3).to_sparse()))
    with pytest.raises(InputError, match=r"'more' is torch\.sparse_coo"):
        Subject.from_batches(sparse, [(X, Y)])


def test_samples_that_meet_in_the_network_are_told():
    """A recurrent layer that takes the batch for time."""

    class Mixed(Tagger):
        def __init__(self):
            super().__init__()
            self.lstm.batch_first = False

    alone = Subject.from_batches(seeded(Tagger), tagged()[:1])
    mixed = Subject.from_batches(seeded(Mixed), tagged()[:1])
    assert not any("other samples" in sentence for sentence in alone.said)
    assert "a recurrent layer without batch_first" in mixed.said[-1]


def test_inside_inference_mode_nothing_is_measured():
    subject = Subject(nn.Linear(3, 2), X, Y)
    with torch.inference_mode():
        with pytest.raises(InputError, match="inference_mode"):
            Subject(nn.Linear(3, 2), X, Y)
        with pytest.raises(sb.MetricFailed, match="inference_mode"):
            sb.measure(subject, "hessian_trace")
    with torch.no_grad():
        assert sb.measure(subject, "hessian_trace").value > 0


def test_what_cannot_be_differentiated_is_refused_by_name():
    lazy = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(InputError, match="lazy"):
        Subject.from_batches(lazy, [(X, Y)])
    with pytest.raises(InputError, match="meta"):
        Subject.from_batches(nn.Linear(3, 2, device="meta"), [(X, Y)])
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear})
    for build in (Subject.from_batches, lambda m, b: Subject(m, *b[0])):
        with pytest.raises(InputError, match="quantised"):
            build(quantised, [(X, Y)])
    closed = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"splits must be a sharpbench\.Splits, got a dict"):
        Subject(nn.Linear(3, 2), X, Y, splits={"test": [(X, Y)]})
    masks = [(reals(2, 1, 3, 3), reals(2, 3, 3).sign().relu())]
    with pytest.raises(InputError, match=r"targets\.unsqueeze\(1\)"):
        Subject.from_batches(nn.Conv2d(1, 1, 1), masks, loss=nn.BCEWithLogitsLoss())
    for kind in (nn.Linear, lambda x: x):
        with pytest.raises(
            InputError, match=r"is the class Linear|a torch\.nn\.Module, got a func"
        ):
            Subject.from_batches(kind, [(X, Y)])
    with pytest.raises(InputError, match="another way"):
        Subject.from_batches(closed, [{"x": X, "y": Y}], forward=lambda model, b: closed(b["x"]))


def test_a_compiled_network_and_one_in_data_parallel_are_taken_off_their_wrappers():
    model = seeded(Encoder)
    expected = sb.measure(Subject.from_batches(model, encoder_batches()), "hessian_trace").value
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        subject = Subject.from_batches(wrapped, encoder_batches())
        assert sb.measure(subject, "hessian_trace").value == expected


def test_training_and_test_batches():
    model, batches = seeded(Encoder), encoder_batches()
    subject = Subject.from_batches(model, batches[:1], splits={"test": batches[1:]})
    train = Subject.from_batches(model, batches[:1])
    test = Subject.from_batches(model, batches[1:])
    for metric in ("hessian_trace", "sam_sharpness"):
        assert sb.measure(subject, metric).value == sb.measure(train, metric).value
    assert sb.measure(subject, "margin").value == pytest.approx(sb.measure(test, "margin").value)


def test_the_network_and_the_batches_stay_as_they_are():
    model, batches = seeded(Encoder), encoder_batches()
    before = copy.deepcopy((model.state_dict(), batches))
    model.train()
    subject = Subject.from_batches(model, batches)
    sb.measure(subject, "hessian_trace")
    assert model.training
    assert type(model) is Encoder
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[0][name])
    for batch, old in zip(batches, before[1], strict=True):
        assert all(torch.equal(batch[k], old[k]) for k in batch)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, packed):
        return self.out(self.cell(packed)[1][0][-1])


def test_packed_sequences_are_packed_in_forward_or_summed_over():
    """A refusal with the line to write, and the figures of that line."""
    pack = nn.utils.rnn.pack_padded_sequence
    how = {"batch_first": True, "enforce_sorted": False}
    sequences, lengths = torch.randn(5, 4, 3), torch.tensor([4, 2, 3, 1, 4])
    labels = torch.arange(5) % 2
    parts = (slice(0, 2), slice(2, 5))
    packed = [(pack(sequences[p], lengths[p], **how), labels[p]) for p in parts]
    model = seeded(Recurrent)
    with pytest.raises(
        InputError, match=r"0 is a PackedSequence.*pack_padded_sequence\(batch\[0\]"
    ):
        Subject.from_batches(model, packed)

    def summed(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def total(net):
        return sum(summed(net, (p.to(torch.float64), y)) for p, y in packed)

    expected = dense(model, total)
    of_sums = Subject.from_batches(model, packed, loss=summed, normaliser="sum")
    check(of_sums, expected, metrics=("eigenvalue", "trace"))
    padded = Subject.from_batches(
        model,
        [(sequences[p], lengths[p], labels[p]) for p in parts],
        forward=lambda model, batch: model(pack(batch[0], batch[1].cpu(), **how)),
        normaliser="sum",
    )
    check(padded, expected, metrics=("eigenvalue", "trace"))


def test_what_is_proposed_to_differentiate_in_is_there():
    triplet = nn.TripletMarginLoss(reduction="none")
    three = {"one": X, "two": X.flip(0), "three": X.roll(1, 0)}

    def loss(model, batch):
        return triplet(model(batch["one"]), model(batch["two"]), model(batch["three"]))

    asked = Subject.from_batches(nn.Linear(3, 2), [three], loss=loss)
    with pytest.raises(MetricUnsupported, match="give differentiate='one'"):
        sb.measure(asked, "curvature_rate")
    named = Subject.from_batches(nn.Linear(3, 2), [three], loss=loss, differentiate="one")
    assert sb.measure(named, "input_curvature").samples == len(X)
    bag = seeded(lambda: nn.Sequential(nn.EmbeddingBag(9, 3), nn.Linear(3, 2)))
    words = [(ids(5, 4), torch.arange(5) % 2)]
    with pytest.raises(MetricUnsupported, match="give differentiate='0'"):
        sb.measure(Subject.from_batches(bag, words), "curvature_rate")
    named = Subject.from_batches(bag, words, differentiate="0")  # the batch has one, of integers
    assert sb.measure(named, "input_curvature").samples == 5


def test_the_entry_that_holds_what_the_network_takes_is_proposed():
    @dataclasses.dataclass
    class Inside:
        first: torch.Tensor
        second: torch.Tensor

    @dataclasses.dataclass
    class Outside:
        x: Inside
        y: torch.Tensor

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 2)

        def forward(self, inside):
            return self.out(inside.first + inside.second)

    batch = Outside(Inside(X, X.flip(0)), Y)
    with pytest.raises(InputError, match=r"give forward=lambda model, batch: model\(batch\.x\)"):
        Subject.from_batches(Sum(), [batch])
    assert (
        Subject.from_batches(Sum(), [batch], forward=lambda model, batch: model(batch.x)).outputs
        == 2
    )


def test_weights_of_samples_belong_in_the_batches():
    weight = torch.rand(len(X), 1)
    model, labels = seeded(lambda: nn.Linear(3, 1)), (Y > 0).float().unsqueeze(1)
    with pytest.raises(
        InputError, match=r"its weight .* goes with one batch alone.*batch\['weight'\]"
    ):
        Subject(model, X, labels, loss=nn.BCEWithLogitsLoss(weight))

    def loss(model, batch):
        losses = F.binary_cross_entropy_with_logits(model(batch["x"]), batch["y"], reduction="none")
        return (batch["weight"] * losses).flatten(1).mean(1)

    subject = Subject.from_batches(model, [{"x": X, "weight": weight, "y": labels}], loss=loss)
    wide = X.double(), labels.double(), weight.double()
    expected = dense(
        model, lambda net: F.binary_cross_entropy_with_logits(net(wide[0]), wide[1], wide[2])
    )
    check(subject, expected, metrics=("eigenvalue", "trace"))


def test_the_lines_that_refusals_name_run_in_every_precision():
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 4, (5, 2, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(5) % 2
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 2)))
    line = r"lambda model, batch: model\(batch\[0\]\.to\(next\(model\.parameters\(\)\)\.dtype\)\)"
    with pytest.raises(InputError, match=line):
        Subject.from_batches(model, [(pixels, labels)])
    subject = Subject.from_batches(
        model,
        [(pixels, labels)],
        forward=lambda model, batch: model(batch[0].to(next(model.parameters()).dtype)),
    )
    check(subject, dense(model, lambda net: F.cross_entropy(net(pixels.double()), labels)))
    for dtype in ("float32", "float64"):
        assert sb.measure(subject, "hessian_top_eigenvalue", dtype=dtype).value > 0

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return {"main": self.main(x), "aux": self.aux(x)}

    with pytest.raises(InputError, match=r"model\(…\)\['main'\], or another of it"):
        Subject.from_batches(Two(), [(X, Y)])
    with pytest.raises(
        InputError, match="takes more than outputs and targets is loss=lambda model, batch"
    ):
        Subject.from_batches(nn.Linear(3, 1), [(X, X[:, :1])], loss=nn.GaussianNLLLoss())
    with pytest.raises(InputError, match="whose number is the mean over its batch"):
        Subject.from_batches(
            nn.Linear(3, 2), [(X, Y)], loss=lambda outputs, y: F.cross_entropy(outputs, y)
        )


class Late(nn.Module):
    """A recurrent layer whose samples stand on axis 1, given batches with samples on axis 0."""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

    def forward(self, words):
        return self.head(self.cells(words)[0][-1])


@pytest.mark.parametrize("named", [False, True])
def test_samples_on_another_axis_of_a_recurrent_layer_are_told_with_the_line_to_write(named):
    x, y = torch.randn(6, 5, 3), torch.arange(6) % 2
    batch = {"words": x, "labels": y} if named else (x, y)
    place = "batch['words']" if named else "batch[0]"
    line = f"forward=lambda model, batch: model({place}.transpose(0, 1))"
    with pytest.raises(InputError, match="cells is a LSTM without batch_first=True") as refused:
        Subject.from_batches(Late(), [batch])
    assert str(refused.value).endswith(line)
    subject = Subject.from_batches(Late(), [batch], forward=eval(line.removeprefix("forward=")))
    assert sb.measure(subject, "gradient_norm").samples == 6


class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x, noise=None):
        mean, spread = self.inner(x).chunk(2, 1)
        noise = torch.randn_like(mean) if noise is None else noise
        return self.outer(mean + noise * spread.exp()), mean, spread


def test_a_loss_that_draws_is_told_as_one_and_not_as_one_of_whole_batches():
    def loss(model, batch):
        again, mean, spread = model(*batch)
        return (again - batch[0]).square().sum(1) + (mean**2 + spread.exp() - spread).sum(1)

    x = torch.randn(10, 4)
    told = Subject.from_batches(Variational(), [(x,)], loss=loss).said
    assert "another one when it is evaluated again" in told[0]
    assert not any("depends on the others" in sentence for sentence in told)
    held = Subject.from_batches(Variational(), [(x, torch.randn(10, 2))], loss=loss)
    assert held.said == ()
    assert sb.measure(held, "gradient_norm").samples == 10


class Segments(nn.Module):
    """Its outputs beside those of a head that helps in training, which come first."""

    def __init__(self):
        super().__init__()
        self.body, self.helper = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)

    def forward(self, x):
        return {"aux": self.helper(x), "out": self.body(x)}


def test_which_of_several_outputs_is_taken_is_told_by_its_name_and_a_mark_for_no_class_by_its_loss():
    x, y = torch.randn(4, 1, 3, 3), torch.randint(0, 3, (4, 3, 3))
    told = Subject.from_batches(Segments(), [(x, y)])
    assert "its 'out' is taken for the outputs (N, 3, 3, 3)" in told.said[0]
    y[0, 0] = 255
    with pytest.raises(InputError, match=r"CrossEntropyLoss\(ignore_index=255\)"):
        Subject.from_batches(Segments(), [(x, y)])
    loss = nn.CrossEntropyLoss(ignore_index=255)
    found = Subject.from_batches(Segments(), [(x, y)], loss=loss, normaliser="tokens")
    model = found.working_model(torch.float64)
    expected = loss(Segments.forward(model, x.double())["out"], y)
    losses = found.losses(model(found.inputs), found.targets)
    assert torch.allclose(losses.mean(), expected)
