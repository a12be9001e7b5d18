"""PAC-Bayes sharpness where the expectation over the noise has a closed form."""

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

import sharpbench as sb
from sharpbench.metrics import metrics
from sharpbench.problems import problems
from sharpbench.seeds import torch_generator


def two_classes(features: int = 30) -> sb.Subject:
    """A linear network of two classes on data of which it gets some wrong."""
    generator = torch_generator(0)
    x = torch.randn(400, features, generator=generator, dtype=torch.float64)
    w = torch.randn(features, generator=generator, dtype=torch.float64)
    noise = torch.randn(400, generator=generator, dtype=torch.float64)
    model = nn.Linear(features, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.stack([-w, w]))
    return sb.Subject(model, x, (x @ w + 2 * noise > 0).long())


def exact(subject: sb.Subject, drop: float, spread) -> float:
    """1/σ² with mean Φ(mᵢ/σ) = accuracy − drop: z₁ − z₀ is normal around its own value, with the
    standard deviation σ·``spread``."""
    gap = subject.model(subject.inputs).detach().diff(dim=1).squeeze(1)
    reduced = ((2 * subject.targets - 1) * gap / spread).numpy()
    accuracy = (reduced > 0).mean()
    return brentq(lambda s: norm.cdf(reduced / s).mean() - accuracy + drop, 1e-3, 100) ** -2


def test_a_linear_network_of_two_classes():
    subject = two_classes()
    expected = exact(subject, 0.1, math.sqrt(2) * subject.inputs.norm(dim=1))
    found = sb.measure(subject, "pac_bayes_flatness", seed=0, draws=240)
    assert found.standard_error < 0.06 * expected
    low, high = found.interval(0.999)
    assert low - found.error_bound < expected < high + found.error_bound
    assert found.details["sigma"] ** -2 == pytest.approx(found.value)


def test_noise_of_each_weights_size():
    subject = two_classes()
    spread = (subject.inputs**2 @ (subject.model.weight.detach() ** 2).sum(0)).sqrt()
    expected = exact(subject, 0.05, spread)
    found = sb.measure(
        subject,
        "pac_bayes_flatness",
        seed=0,
        draws=240,
        drop=0.05,
        magnitude_aware=True,
        epsilon=0.0,
    )
    assert found.standard_error < 0.1 * expected
    low, high = found.interval(0.999)
    assert low - found.error_bound < expected < high + found.error_bound


def test_a_quadratic_loss_with_both_kinds_of_noise():
    """½ Σ Hᵢᵢ(σ²wᵢ² + ε²) = drop; without ε and w it is ½ σ² tr H, of which `known` speaks."""
    subject = problems.create("least_squares", {"features": 4}).subject(seed=0)
    w, x = subject.model.weight.detach().squeeze(), subject.inputs
    diagonal = x.square().mean(0)
    drop, epsilon = 0.3, 0.2
    rest = drop - 0.5 * epsilon**2 * float(diagonal.sum())
    expected = 0.5 * float((diagonal * w**2).sum()) / rest
    parameters = {"criterion": "loss", "drop": drop, "draws": 400, "epsilon": epsilon}
    aware = {**parameters, "magnitude_aware": True}
    found = sb.measure(subject, "pac_bayes_flatness", seed=0, **aware)
    low, high = found.interval(0.999)
    assert low - found.error_bound < expected < high + found.error_bound
    assert found.standard_error < 0.3 * expected


def test_the_same_draws_give_smaller_noise_for_a_smaller_drop():
    subject = two_classes(8)
    at = [
        sb.measure(subject, "pac_bayes_flatness", seed=3, drop=drop).value
        for drop in (0.02, 0.1, 0.2)
    ]
    assert at == sorted(at, reverse=True)


def test_what_has_no_answer_says_why():
    subject = two_classes(4)
    with pytest.raises(sb.MetricFailed, match=r"can't fall by 0\.95"):
        sb.measure(subject, "pac_bayes_flatness", drop=0.95)
    with pytest.raises(sb.MetricFailed, match="no noise is so strong"):
        sb.measure(subject, "pac_bayes_flatness", drop=0.6)  # of two classes noise still hits half
    regression = problems.create("least_squares").subject(seed=0)
    with pytest.raises(sb.MetricFailed, match='ask for criterion = "loss"'):
        sb.measure(regression, "pac_bayes_flatness")
    with pytest.raises(ValueError, match="of an accuracy below 1"):
        metrics.create("pac_bayes_flatness", {"drop": 1.5})
