"""`suites.large` on a network small enough to know all of it; and what large operators keep."""

import dataclasses

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.curvature import krylov, lanczos, product_check
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Work
from sharpbench.metrics import metrics
from sharpbench.subject import Subject
from suites.large import EIGENVALUE, SIZES, Bench, Clock, Workload, resnet18, workload
from tests.curvature.test_operators import dense_hessian


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    return Workload("tiny", model, x, y, Subject(model, x, y), "drawn")


def exact(w):
    return torch.linalg.eigvalsh(exact_matrix(w))


def exact_matrix(w):
    model, x = w.subject.working_model(torch.float64), w.x.double()
    return dense_hessian(model, w.subject.loss, x, w.y)


def test_everyone_is_asked_the_same_and_told_by_one_truth(tiny):
    bench, spectrum = Bench(tiny, Clock(60)), exact(tiny)
    found = bench.top_eigenvalue()
    assert found["truth"] == pytest.approx(float(spectrum[-1]), rel=1e-5)
    rows = found["rows"]
    assert {who for who, row in rows.items() if row["true_error"] <= EIGENVALUE} == set(rows)
    assert all(row["seconds"] > 0 and row["products"] > 3 for row in rows.values())
    assert rows["native"]["peak_bytes"] is not None
    native = bench.trace()["rows"]["native"]
    assert native["value"] == pytest.approx(float(spectrum.sum()), rel=0.05)


def test_the_networks_have_the_sizes_told_and_a_resnet_its_hessian(monkeypatch):
    assert sum(p.numel() for p in resnet18().parameters()) == 11_173_962
    monkeypatch.setitem(SIZES, "small", {"decoder": (1, 2), "steps": 0, "part": 1})
    decoder = workload("decoder", "small", "cpu")
    assert decoder.parameters == 10_069_376
    plain = decoder.criterion(decoder.model(decoder.x), decoder.y)
    inputs, targets = decoder.subject.data("train")
    ours = decoder.subject.losses(decoder.subject.working_model(torch.float32)(inputs), targets)
    assert ours.mean().item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("dtype", "close"), [("float64", 1e-12), ("float32", 1e-5)])
def test_vectors_kept_one_by_one_have_the_figures_of_those_kept_together(
    tiny, monkeypatch, which, dtype, close, count
):
    asked = {"tolerance": 1e-6, "dtype": dtype, "samples": 30, "which": which, "count": count}
    metric = metrics.create("hessian_top_eigenvalue", asked)
    together = metric.measure(tiny.subject, seed=0)
    for module in (krylov, lanczos):
        monkeypatch.setattr(module, "LARGE", 10)
        monkeypatch.setattr(module, "PIECE", 50)
    apart = metric.measure(tiny.subject, seed=0)
    assert apart.value == pytest.approx(together.value, rel=close)
    assert apart.details.get("eigenvalues", [0.0]) == pytest.approx(
        together.details.get("eigenvalues", [0.0]), rel=close
    )
    assert apart.converged
    size = sum(e.size for e in together.errors)
    assert sum(e.size for e in apart.errors) == pytest.approx(size, rel=1e-3)
    assert krylov.stored_in(torch.float32, 11) is torch.float32


@pytest.mark.parametrize("columns", [1, 3])
def test_a_large_network_s_chunks_add_up_to_the_product_of_all(tiny, monkeypatch, columns):
    subject = tiny.subject
    model, data = subject.working_model(torch.float64), subject.data("train")
    x, y = data[0].double(), data[1]
    matrix = exact_matrix(tiny)
    vectors = torch.randn(len(matrix), columns, dtype=torch.float64)
    products, works = [], []
    for large in (HessianOperator.large, 10):
        monkeypatch.setattr(HessianOperator, "large", large)
        works.append(Work())
        operator = HessianOperator(
            model, subject.loss, x, y, work=works[-1], memory_budget=40_000
        )  # fmt: skip
        assert 1 < operator.chunk < len(x)
        products.append(operator.matmat(vectors))
    torch.testing.assert_close(products[0], matrix @ vectors, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(products[1], products[0], rtol=1e-13, atol=1e-15)
    assert works[0].hessian_vector == works[1].hessian_vector


def test_a_network_that_is_bent_at_every_step_but_the_finest_has_a_hessian(monkeypatch):
    """Thousands of ReLUs at a few samples: on a step of 1e-6 some of them pass their kinks."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    for _ in range(12):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    x, y = torch.randn(4, 1, 16, 16), torch.arange(4)
    model(x)
    one = dataclasses.replace(product_check._FULL, steps=(1e-4,))
    monkeypatch.setattr(product_check, "_FULL", dataclasses.replace(one, fine=()))
    with pytest.raises(MetricFailed, match="not the derivative of first derivatives"):
        sb.measure(Subject(model.eval(), x, y), "hessian_top_eigenvalue", max_products=2)
    monkeypatch.setattr(product_check, "_FULL", one)
    m = sb.measure(Subject(model.eval(), x, y), "hessian_top_eigenvalue", max_products=2)
    assert m.details["checks"]["product"] < 1e-5
