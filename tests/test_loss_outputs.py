"""Outputs that a loss of torch takes and is not defined for, or takes for what they are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed

torch.manual_seed(0)
X = torch.randn(24, 5)
CLASSES = torch.arange(24) % 3
LABELS = (torch.randn(24, 3) > 0).float()
PROBABILITIES = torch.randn(24, 3).softmax(1)


def network(*after, outputs=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs), *after)


def both(model, targets, loss, **told):
    """What is told by both doors: a sentence that refuses, or that says."""
    found = []
    for make in (
        lambda: sb.Subject(model, X, targets, loss=loss),
        lambda: sb.Subject.from_batches(model, [(X, targets)], loss=loss, **told),
    ):
        try:
            found.append(" ".join(make().said))
        except InputError as error:
            found.append(f"refused: {error}")
    assert found[0] == found[1]
    return found[0]


REFUSED = {
    "logits under NLLLoss": (
        network(),
        CLASSES,
        nn.NLLLoss(),
        "of these outputs sum to",
        "CrossEntropyLoss",
    ),
    "under its function": (
        network(),
        CLASSES,
        F.nll_loss,
        "of these outputs sum to",
        "CrossEntropyLoss",
    ),
    "with weights of classes": (
        network(),
        CLASSES,
        nn.NLLLoss(torch.tensor([1.0, 2.0, 3.0])),
        "of these outputs sum to",
        "CrossEntropyLoss",
    ),
    "probabilities under NLLLoss": (
        network(nn.Softmax(1)),
        CLASSES,
        nn.NLLLoss(),
        "are the probabilities themselves",
        "log_softmax",
    ),
    "logits under KLDivLoss": (
        network(),
        PROBABILITIES,
        nn.KLDivLoss(reduction="batchmean"),
        "of these outputs sum to",
        "log_softmax",
    ),
    "probabilities under KLDivLoss": (
        network(nn.Softmax(1)),
        PROBABILITIES,
        nn.KLDivLoss(reduction="batchmean"),
        "are the probabilities themselves",
        "log_softmax",
    ),
    "beside logarithms": (
        network(),
        PROBABILITIES.log(),
        nn.KLDivLoss(reduction="batchmean", log_target=True),
        "of these outputs sum to",
        "log_softmax",
    ),
    "logits under BCELoss": (
        network(),
        LABELS,
        nn.BCELoss(),
        "the outputs go from -",
        "BCEWithLogitsLoss",
    ),
    "rates below 0": (
        network(),
        PROBABILITIES,
        nn.PoissonNLLLoss(log_input=False),
        "the outputs go from -",
        "PoissonNLLLoss()",
    ),
}


@pytest.mark.parametrize(
    ("model", "targets", "loss", "found", "line"), REFUSED.values(), ids=REFUSED
)
def test_outputs_that_a_loss_is_not_defined_for_are_refused(model, targets, loss, found, line):
    told = both(model, targets, loss)
    assert told.startswith("refused: "), told
    assert found in told
    assert line in told


SAID = {
    "probabilities": (network(nn.Softmax(1)), CLASSES, None, "are probabilities"),
    "beside probabilities": (
        network(nn.Softmax(1)),
        PROBABILITIES,
        nn.CrossEntropyLoss(),
        "are probabilities",
    ),
    "probabilities as labels' logits": (
        network(nn.Softmax(1)),
        LABELS,
        nn.BCEWithLogitsLoss(),
        "are probabilities",
    ),
    "a sigmoid's": (
        network(nn.Sigmoid()),
        LABELS,
        nn.BCEWithLogitsLoss(),
        "loss=torch.nn.BCELoss()",
    ),
    "one sigmoid's": (
        network(nn.Sigmoid(), nn.Flatten(0), outputs=1),
        LABELS[:, 0],
        nn.BCEWithLogitsLoss(),
        "loss=torch.nn.BCELoss()",
    ),
    "a sigmoid's in a soft margin": (
        network(nn.Sigmoid()),
        2 * LABELS - 1,
        nn.SoftMarginLoss(),
        "come out of a sigmoid",
    ),
}


@pytest.mark.parametrize(("model", "targets", "loss", "told"), SAID.values(), ids=SAID)
def test_outputs_taken_for_logits_that_are_none_are_told(model, targets, loss, told):
    said = both(model, targets, loss)
    assert not said.startswith("refused"), said
    assert told in said


RIGHT = {
    "log_softmax under cross-entropy": (network(nn.LogSoftmax(1)), CLASSES, nn.CrossEntropyLoss()),
    "logits": (network(), CLASSES, None),
    "of one sign": (network(nn.ReLU()), CLASSES, nn.CrossEntropyLoss()),
    "targets that are no probabilities": (
        network(),
        0.5 * LABELS,
        nn.KLDivLoss(reduction="batchmean"),
    ),
    "a sigmoid's under BCELoss": (network(nn.Sigmoid()), LABELS, nn.BCELoss()),
    "labels' logits": (network(), LABELS, nn.BCEWithLogitsLoss()),
    "between 0 and 1": (network(nn.Hardtanh(0.0, 1.0)), LABELS, nn.BCEWithLogitsLoss()),
    "a softmax's under the squared error": (network(nn.Softmax(1)), PROBABILITIES, nn.MSELoss()),
    "rates": (network(nn.Softplus()), PROBABILITIES, nn.PoissonNLLLoss(log_input=False)),
    "scores": (network(nn.Softmax(1)), CLASSES, nn.MultiMarginLoss()),
}


@pytest.mark.parametrize(("model", "targets", "loss"), RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_taken_without_a_word(model, targets, loss):
    assert both(model, targets, loss) == ""


class Partly(nn.Module):
    """A sigmoid's outputs beside logits."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        f = self.net(x)
        return torch.cat([f[:, :1].sigmoid(), f[:, 1:]], 1)


def test_outputs_of_which_a_part_is_a_sigmoids_are_not_called_one():
    assert both(Partly(), LABELS, nn.BCEWithLogitsLoss()) == ""


def test_logarithms_in_half_precision_are_logarithms():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(outputs=50)

        def forward(self, x):
            return self.net(x).bfloat16().log_softmax(1).float()

    assert "NLLLoss is linear" in both(Half(), CLASSES, nn.NLLLoss())


def test_less_than_probabilities_is_told_and_not_refused():
    class Rejects(nn.Module):  # a fourth class, of which nothing is asked
        def __init__(self):
            super().__init__()
            self.net = network(nn.LogSoftmax(1), outputs=4)

        def forward(self, x):
            return self.net(x)[:, :3]

    said = both(Rejects(), CLASSES, nn.NLLLoss())
    assert "NLLLoss reads logarithms of probabilities" in said
    assert not said.startswith("refused")


def test_padded_and_ignored_tokens_are_no_part_of_it():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, tokens):
            return self.head(self.embedding(tokens)).softmax(-1)

    batches = [
        {"tokens": x, "labels": x % 3} for x in (torch.randint(9, (4, 3)), torch.randint(9, (2, 5)))
    ]
    for batch in batches:
        batch["labels"][:, -1] = -100
    said = " ".join(sb.Subject.from_batches(Tagger(), batches).said)
    assert "are probabilities" in said


def test_probabilities_beyond_1_of_a_sample_that_is_not_tried_are_told_where_they_are_met():
    x = torch.zeros(200, 1)
    x[101] = 3.0
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Softplus())
    nn.init.constant_(net[0].weight, 1.0)
    subject = sb.Subject(net, x, torch.ones(200, 1), loss=nn.BCELoss())
    with pytest.raises((InputError, MetricFailed), match="BCEWithLogitsLoss"):
        sb.measure(subject, "hessian_trace")


def test_class_ids_under_a_loss_of_labels_are_told_their_own():
    told = both(network(), CLASSES, nn.BCELoss())
    assert "if they are class ids, give loss=torch.nn.CrossEntropyLoss()" in told
    assert "give them as integers" in both(network(), CLASSES.float(), nn.BCELoss())


def test_probabilities_for_targets_without_a_loss_are_told():
    assert "½ squared error" in both(network(), PROBABILITIES, None)
    assert both(network(), PROBABILITIES, nn.MSELoss()) == ""
    assert both(network(), 2 * PROBABILITIES, None) == ""
    assert sb.Subject(network(), X, PROBABILITIES, task="regression").said == ()


LINEAR = {
    "NLLLoss": (CLASSES, nn.NLLLoss()),
    "KLDivLoss": (PROBABILITIES, nn.KLDivLoss(reduction="batchmean")),
    "beside logarithms": (
        PROBABILITIES.log(),
        nn.KLDivLoss(reduction="batchmean", log_target=True),
    ),
}


@pytest.mark.parametrize(("targets", "loss"), LINEAR.values(), ids=LINEAR)
def test_a_loss_that_is_linear_in_its_outputs_is_told_with_the_one_that_has_a_fisher_matrix(
    targets, loss
):
    model = network(nn.LogSoftmax(1))
    assert "its Gauss-Newton matrix of these outputs is zero" in both(model, targets, loss)
    ours = sb.Subject(model, X, targets, loss=loss)
    meant = targets.exp() if getattr(loss, "log_target", False) else targets
    other = sb.Subject(model, X, meant, loss=nn.CrossEntropyLoss())
    assert sb.measure(ours, "gauss_newton_trace").value == 0
    assert sb.measure(other, "gauss_newton_trace").value > 0.1
    hessians = [sb.measure(one, "hessian_trace").value for one in (ours, other)]
    assert hessians[0] == pytest.approx(hessians[1], rel=1e-6)
