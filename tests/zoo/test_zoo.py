"""Nothing is silently wrong on a network as people write it, and nothing is refused that can be measured.

``python -m tests.zoo`` prints the same as a table.
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpbench.metrics import metrics
from tests.conftest import shipped
from tests.zoo.idioms import IDIOMS, Idiom
from tests.zoo.questions import QUESTIONS, ask, reference_of
from tests.zoo.references import Reference


@pytest.mark.parametrize("idiom", IDIOMS.values(), ids=IDIOMS)
def test_every_metric_is_right_or_says_why_not(idiom: Idiom) -> None:
    reference = reference_of(idiom)
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for question in QUESTIONS:
            if question.classes_only and idiom.targets != "classes":
                continue
            answer = ask(idiom, question, reference)
            if answer.status == "WRONG" or not answer.expected:
                faults.append(f"{question.name} is {answer.status}: {answer.sentence}")
    assert not faults, "\n".join(faults)


def test_every_metric_is_asked() -> None:
    # By the distance of the parameters that it takes; by a hash.
    by_distance = {"parameter_count", "parameter_norm", "random_number"}
    by_chance = {
        "local_learning_coefficient"
    }  # of a sampler's chains: tests/metrics has it on problems
    by_eigenvalues = {"hessian_spectrum_decay"}  # of the operator and the search asked for the top
    asked = {question.metric for question in QUESTIONS}
    assert asked | by_distance | by_chance | by_eigenvalues == set(shipped(metrics))


def test_every_allowance_is_used_by_some_metric() -> None:
    """``may_refuse`` stays short: a beginning that names no question is a slip of the pen."""
    names = [question.name for question in QUESTIONS]
    for idiom in IDIOMS.values():
        for start in idiom.may_refuse:
            assert any(name.startswith(start) for name in names), (idiom.name, start)


def test_references_of_a_linear_network() -> None:
    """Closed forms: for z = Wx, G = H = (1/N) Σ (diag p − ppᵀ) ⊗ xxᵀ and ∇²_x ℓ = Wᵀ(diag p − ppᵀ)W."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3, bias=False).double(), torch.randn(6, 4, dtype=torch.float64)
    y = torch.randint(0, 3, (6,))
    reference = Reference(model, x, y, lambda z, t: F.cross_entropy(z, t, reduction="none"))
    w = model.weight.detach()
    p = (x @ w.T).softmax(1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    exact = sum(torch.kron(c, v.outer(v)) for c, v in zip(curvature, x, strict=True)) / 6
    found, error = reference.hessian
    assert torch.allclose(found, exact, atol=1e-10)
    assert error < 1e-8
    assert torch.allclose(reference.gauss_newton, exact, atol=1e-10)
    assert torch.allclose(reference.input_hessians, w.T @ curvature @ w, atol=1e-10)
    assert torch.allclose(reference.input_gradients(x), (p - F.one_hot(y, 3)) @ w, atol=1e-14)


def test_reference_of_the_curvature_rate() -> None:
    """f = e^{2x} has dₙ = 2ⁿe^{2x} along its gradient: λ = log 2."""

    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(self.rate * x)

    x = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    figure = Reference(Exponential(), x, x, lambda z, _: z[:, 0]).curvature_rate(0)
    assert abs(figure.value - 0.6931471805599453) < 1e-9
    assert figure.error < 1e-7
