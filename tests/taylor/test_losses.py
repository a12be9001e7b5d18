"""torch's losses with the switches that it deprecated, which stand above ``reduction``."""

import pytest
import torch
import torch.nn.functional as F

from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.taylor.expansion import jet

D = torch.float64
X = torch.tensor([[0.31, 0.52, 0.24], [0.66, 0.41, 0.58], [0.27, 0.73, 0.45]], dtype=D)
U = torch.tensor([[0.1, -0.2, 0.3], [-0.1, 0.2, 0.1], [0.2, 0.1, -0.3]], dtype=D)
SHARE = torch.tensor([[0.8, 0.1, 0.35], [0.2, 0.6, 0.5], [0.9, 0.3, 0.15]], dtype=D)
SIGN = torch.tensor([[1, -1, 1], [-1, -1, 1], [1, 1, -1]], dtype=D)
CLASS = torch.tensor([2, 0, 1])

LOSSES = {
    F.l1_loss: (SHARE,),
    F.mse_loss: (SHARE,),
    F.smooth_l1_loss: (SHARE,),
    F.binary_cross_entropy: (SHARE,),
    F.binary_cross_entropy_with_logits: (SHARE,),
    F.kl_div: (SHARE,),
    F.poisson_nll_loss: (SHARE,),
    F.soft_margin_loss: (SIGN,),
    F.hinge_embedding_loss: (SIGN,),
    F.margin_ranking_loss: (SHARE, SIGN),
    F.cosine_embedding_loss: (SHARE, SIGN[:, 0]),
    F.triplet_margin_loss: (SHARE, SHARE.flip(0)),
    F.multi_margin_loss: (CLASS,),
    F.multilabel_margin_loss: (torch.tensor([[0, 1, -1], [2, -1, 0], [1, -1, -1]]),),
    F.multilabel_soft_margin_loss: (SHARE,),
}

OLD = [
    {"size_average": False},
    {"size_average": True},
    {"reduce": False},
    {"reduce": False, "reduction": "sum"},
    {"size_average": False, "reduction": "none"},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("switches", OLD, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_deprecated_switches_are_torchs(loss, switches):
    def function(x):
        return loss(x, *LOSSES[loss], **switches)

    value, slope = jet(function, X, U, 1)
    step = 1e-6
    difference = (function(X + step * U) - function(X - step * U)) / (2 * step)
    torch.testing.assert_close(value, function(X), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(slope, difference, rtol=1e-7, atol=1e-7)
    with repeatedly_differentiable():
        torch.testing.assert_close(function(X), value, rtol=1e-13, atol=1e-13)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_an_unknown_reduction_is_refused_as_torch_does(loss):
    with pytest.raises((ValueError, NotImplementedError), match=r"avg|[Rr]eduction"):
        jet(lambda x: loss(x, *LOSSES[loss], reduction="avg"), X, U, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("switches", "reduction"),
    [
        ({}, "mean"),
        ({"reduction": "none"}, "none"),
        ({"reduction": "sum"}, "sum"),
        ({"size_average": False, "reduction": "mean"}, "sum"),
        ({"reduce": False}, "none"),
        ({"reduce": True, "reduction": "none"}, "mean"),
    ],
    ids=str,
)
def test_a_weight_that_torch_does_not_hand_on_is_taken(switches, reduction):
    """torch's l1_loss names its weight to nobody who overrides it."""
    weight = SHARE + SIGN + 1.5

    def reduced(terms):
        total = terms.sum() if reduction != "none" else terms
        return total / weight.sum() if reduction == "mean" else total

    jets = jet(lambda x: F.l1_loss(torch.sin(x), SHARE, weight=weight, **switches), X, U, 2)
    sign = (torch.sin(X) - SHARE).sign()
    terms = ((torch.sin(X) - SHARE).abs(), sign * X.cos() * U, -sign * X.sin() * U**2)
    for found, term in zip(jets, terms, strict=True):
        torch.testing.assert_close(found, reduced(weight * term), rtol=1e-12, atol=1e-13)
