"""What metrics of one network share: the same digits and the same counts as alone, in any order."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from torch import Tensor

import sharpbench as sb
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.models import models
from sharpbench.shared import ALONE, Room, Shared, digest
from sharpbench.subject import Subject

ASKED = [
    ("hessian_top_eigenvalue", {}),
    ("hessian_top_eigenvalue", {"which": "smallest"}),
    ("hessian_top_eigenvalue", {"which": "magnitude", "count": 2, "tolerance": 1e-2}),
    ("hessian_spectrum_decay", {"count": 3}),
    ("hessian_spectral_density", {"probes": 2, "steps": 12}),
    ("hessian_trace", {"max_probes": 20}),
    ("hessian_trace", {"max_probes": 20, "method": "hutchinson"}),
    ("hessian_frobenius_norm", {"max_probes": 20}),
    ("hessian_frobenius_norm", {"max_probes": 20, "samples": 40}),
    ("hessian_top_eigenvalue", {"samples": 40, "dtype": "float32"}),
    ("hessian_trace", {"dtype": "float32", "max_probes": 8, "method": "xtrace"}),
    ("gauss_newton_trace", {}),
    ("gauss_newton_top_eigenvalue", {}),
    ("fisher_rao_norm", {}),
    ("fisher_decrement", {}),
    ("gauss_newton_directions", {"samples": 16}),
    ("effective_dimension", {"probes": 2, "steps": 8}),
    ("laplace_evidence", {"probes": 2, "steps": 8}),
    ("ntk_top_eigenvalue", {}),
    ("ntk_alignment", {"max_probes": 20}),
    ("gradient_norm", {}),
    ("gradient_noise", {}),
    ("gradient_noise", {"quantity": "noise_scale"}),
    ("critical_sharpness", {}),
    ("sam_sharpness", {"m": 32}),
    ("sam_sharpness", {"m": 32, "adaptive": "elementwise"}),
    ("monge_sharpness", {"m": 32}),
    ("input_jacobian_norm", {}),
    ("curvature_rate", {"directions": 1}),
]


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    model = models.create("mlp", {"widths": [16, 16], "activation": "tanh"}).build((6,), 4, seed=0)
    return Subject(model, torch.randn(64, 6), torch.arange(64) % 4)


@pytest.fixture(scope="module")
def alone(subject) -> list[Measurement]:
    return [_asked(subject, i) for i in range(len(ASKED))]


def _asked(subject: Subject, i: int) -> Measurement:
    name, parameters = ASKED[i]
    return sb.measure(subject, metrics.create(name, parameters), seed=3)


def _same(one: Measurement, other: Measurement) -> None:
    assert dataclasses.asdict(one) == dataclasses.asdict(other)


@pytest.mark.parametrize("order", ["backwards", "shuffled"])
def test_figures_and_counts_are_those_alone_in_any_order(subject, alone, order):
    numbers = list(reversed(range(len(ASKED))))
    if order == "shuffled":
        random.Random(1).shuffle(numbers)
    with subject.sharing(Shared(Room())):
        for i in numbers:
            _same(_asked(subject, i), alone[i])
    assert subject.shared is ALONE


def test_what_does_not_fit_is_found_anew(subject, alone):
    room = Room(40_000)
    with subject.sharing(Shared(room)):
        for i in range(len(ASKED)):
            _same(_asked(subject, i), alone[i])
    assert 0 <= room.left < 10_000


def _products(subject: Subject, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> int:
    from sharpbench.curvature.hessian_operator import HessianOperator

    made, product = [], HessianOperator._product

    def counted(self, graph, vector):
        made.append(len(self.inputs))
        return product(self, graph, vector)

    with monkeypatch.context() as patched, subject.sharing(Shared(Room())):
        patched.setattr(HessianOperator, "_product", counted)
        for i in numbers:
            _asked(subject, i)
    return sum(size == len(subject.inputs) for size in made)


def test_both_ends_of_the_spectrum_and_its_decay_take_one_iteration(subject, alone, monkeypatch):
    """The smallest eigenvalue is the largest of −A, from the same start: the same products."""
    each = [_products(subject, [i], monkeypatch) for i in (0, 1, 3)]
    assert min(each) > 5
    together = _products(subject, [0, 1, 3], monkeypatch)
    assert together <= sum(each) - 2 * min(each)  # the decay's further spaces start anew


def test_another_network_loss_or_point_shares_nothing(subject):
    other = models.create("mlp", {"widths": [16, 16], "activation": "tanh"}).build((6,), 4, seed=1)
    with subject.sharing(Shared(Room())):
        sb.measure(subject, "hessian_top_eigenvalue")
        moved = subject.with_model(other)
        shifted = subject.mapped(lambda x: x + 0.5)
        assert moved.shared is shifted.shared is ALONE
        for changed in (moved, shifted):
            found = sb.measure(changed, "hessian_top_eigenvalue")
            assert found.value != sb.measure(subject, "hessian_top_eigenvalue").value


def test_an_operator_whose_weights_are_moved_forgets(subject):
    from sharpbench.curvature.hessian_operator import HessianOperator

    shared = Shared(Room()).under("here")
    assert subject.loss is not None

    def operator(budget: int = 1 << 30) -> HessianOperator:
        model = subject.working_model(torch.float64)
        data = subject.inputs.double(), subject.targets
        return HessianOperator(
            model, subject.loss, *data, work=Work(), memory_budget=budget, shared=shared
        )

    v = torch.linspace(-1, 1, operator().dimension, dtype=torch.float64)
    first = operator().matvec(v)
    again = operator()
    assert torch.equal(again.matvec(v), first)
    assert again._kept is None  # it was known, and the caller's own copy
    moved = operator(1 << 20)
    with torch.no_grad():
        moved.parameters[0].mul_(1.5)
    found = moved.matvec(v)
    assert not torch.allclose(found, first)
    unshared = HessianOperator(
        moved.model, subject.loss, moved.inputs, moved.targets, work=Work(), memory_budget=1 << 20
    )
    assert torch.equal(found, unshared.matvec(v))


def test_facts_are_copies_and_failures_are_not_kept():
    shared, work, tried = Shared(Room()), Work(), []

    def find() -> dict[str, Tensor]:
        tried.append(1)
        work.gradient += 5
        if len(tried) == 1:
            raise MetricFailed("not yet")
        return {"a": torch.ones(3)}

    with pytest.raises(MetricFailed):
        shared.once("x", find, work)
    shared.once("x", find, work)["a"] += 1
    known = shared.once("x", find, work)["a"]
    assert known.tolist() == [1, 1, 1]
    assert (len(tried), work.gradient) == (2, 15)
    assert shared.under("y").once("x", lambda: 7, work) == 7


def test_digests_tell_numbers_shapes_and_precisions_apart_and_no_sign_of_zero():
    one = torch.tensor([0.0, 1.0])
    assert digest(one) == digest(torch.tensor([-0.0, 1.0]))
    others = [-one, one.double(), one.unsqueeze(1), one + 1e-7]
    assert len({digest(t) for t in [one, *others]}) == 5
