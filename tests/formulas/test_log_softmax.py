"""Derivatives of confident points against their closed forms, from exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpbench.formulas import log_softmax
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.subject import per_sample_loss

# Up to where exp(−margin) is a normal number of the precision.
MARGINS = [
    (dtype, margin)
    for dtype, largest in ((torch.float32, 86), (torch.float64, 100))
    for margin in (0.0, 5.0, 17.0, 20.0, 37.0, 40.0, 60.0, 86.0, 100.0)
    if margin <= largest
]


def exact(logits, target):
    """Gradient (C,) and Hessian (C, C) of cross-entropy, without rounding up to the exponentials."""
    top = max(logits)
    weights = [Fraction(math.exp(z - top)) for z in logits]
    p = [w / sum(weights) for w in weights]
    classes = range(len(p))
    gradient = [float(p[c] - (c == target)) for c in classes]
    curvature = [[float(p[c] * ((c == d) - p[d])) for d in classes] for c in classes]
    return torch.tensor(gradient, dtype=torch.float64), torch.tensor(curvature, dtype=torch.float64)


def derivatives(loss, outputs, targets):
    z = outputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(z, targets).sum(), z, create_graph=True)
    eye = torch.eye(z.shape[1], dtype=z.dtype).unsqueeze(1).expand(-1, len(z), -1)
    rows = [torch.autograd.grad(slope, z, e, retain_graph=True)[0] for e in eye]
    (batched,) = torch.autograd.grad(slope, z, eye, retain_graph=True, is_grads_batched=True)
    assert torch.equal(batched, torch.stack(rows))
    return slope.detach().double(), torch.stack(rows, 1).double()


LOSSES = {
    "the subject's": per_sample_loss("classification"),
    "functional": lambda o, t: F.cross_entropy(o, t, reduction="none"),
    "module": nn.CrossEntropyLoss(reduction="none"),
    "of log probabilities": lambda o, t: F.nll_loss(o.log_softmax(1), t, reduction="none"),
    "of one-hot targets": lambda o, t: F.cross_entropy(
        o, F.one_hot(t, o.shape[1]).to(o), reduction="none"
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "margin"), MARGINS)
@pytest.mark.parametrize("rest", [(), (-1.0, -2.5)], ids=["two classes", "four"])
def test_both_derivatives_keep_their_relative_precision(name, dtype, margin, rest):
    logits = [margin, 0.0, *rest]
    for target in range(len(logits)):
        outputs = torch.tensor([[3.0 + z for z in logits]], dtype=dtype)
        with repeatedly_differentiable():
            slope, curvature = derivatives(LOSSES[name], outputs, torch.tensor([target]))
        gradient, matrix = exact([float(z) for z in outputs[0] - 3], target)
        rtol = 1e-5 if dtype == torch.float32 else 1e-13
        tiny = torch.finfo(dtype).tiny
        assert torch.allclose(slope[0], gradient, rtol=rtol, atol=tiny)
        # Of one sample every entry counts: each is held to its own size.
        assert torch.allclose(curvature[0], matrix, rtol=rtol, atol=tiny)


@pytest.mark.parametrize(("dtype", "margin"), MARGINS)
@pytest.mark.parametrize("sign", [1, -1])
def test_one_logit(dtype, margin, sign):
    z = torch.tensor([sign * margin], dtype=dtype, requires_grad=True)
    for target in (0.0, 1.0):
        with repeatedly_differentiable():
            loss = nn.BCEWithLogitsLoss(reduction="none")(z, torch.tensor([target], dtype=dtype))
            (slope,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), z)
        small = math.exp(-margin) / (1 + math.exp(-margin))  # of the class that z speaks against
        right = (sign > 0) == (target > 0.5)
        away = 1 if target == 0 else -1
        size = small if right else 1 / (1 + math.exp(-margin))
        rtol = 1e-5 if dtype == torch.float32 else 1e-14
        assert math.isclose(slope.item(), away * size, rel_tol=rtol)
        assert math.isclose(float(curvature), small / (1 + math.exp(-margin)), rel_tol=rtol)


KEYWORDS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": torch.tensor([0.3, 1.0, 2.0, 0.5, 1.5], dtype=torch.float64)},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.1, "reduction": "none"},
    {"label_smoothing": 0.1, "weight": torch.ones(5, dtype=torch.float64)},
    {"ignore_index": 2},
    {"size_average": False},
]


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("keywords", KEYWORDS)
@pytest.mark.parametrize("kind", ["classes", "probabilities", "image", "one point"])
def test_it_is_torchs_own_function(keywords, kind):
    generator = torch.Generator().manual_seed(0)
    shape = {"image": (4, 5, 3, 2), "one point": (5,)}.get(kind, (4, 5))
    z = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = {
        "classes": torch.tensor([0, 2, 4, -100]),
        "probabilities": torch.rand(shape, dtype=torch.float64, generator=generator),
        "image": torch.randint(0, 5, (4, 3, 2), generator=generator),
        "one point": torch.tensor(3),
    }[kind]
    if kind == "probabilities" and "ignore_index" in keywords:
        with pytest.raises(RuntimeError):
            F.cross_entropy(z, targets, **keywords)
        return
    if kind == "classes" and keywords.get("ignore_index") == 2:
        targets = targets.clamp_min(0)
    own = log_softmax.cross_entropy(z, targets, **keywords)
    torchs = F.cross_entropy(z, targets, **keywords)
    assert torch.allclose(own, torchs, rtol=1e-13)
    assert torch.autograd.gradgradcheck(
        lambda a: log_softmax.cross_entropy(a, targets, **keywords), z
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_is_torchs_own_function(reduction, weighted):
    generator = torch.Generator().manual_seed(1)
    z, t, w = (torch.rand(4, 3, dtype=torch.float64, generator=generator) for _ in range(3))
    z = (6 * z - 3).requires_grad_()
    keywords = {"weight": w[:, :1], "pos_weight": w[0]} if weighted else {}
    own = log_softmax.binary_cross_entropy_with_logits(z, t, reduction=reduction, **keywords)
    torchs = F.binary_cross_entropy_with_logits(z, t, reduction=reduction, **keywords)
    assert torch.allclose(own, torchs, rtol=1e-13)
    with pytest.raises(ValueError, match="Target size"):
        log_softmax.binary_cross_entropy_with_logits(z, t[0])


def test_impossible_classes_stay_impossible():
    z = torch.tensor([[0.0, -torch.inf, 1.0]], dtype=torch.float64)
    slope, curvature = derivatives(log_softmax.cross_entropy, z, torch.tensor([0]))
    two, _ = derivatives(log_softmax.cross_entropy, z[:, ::2], torch.tensor([0]))
    assert torch.allclose(slope[0, ::2], two)
    assert slope[0, 1] == 0
    assert (curvature[0, 1] == 0).all()
