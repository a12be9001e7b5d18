"""`suites.large` on a network small enough to know all of it; and what large operators keep."""

import dataclasses

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.curvature import krylov, product_check
from sharpbench.errors import MetricFailed
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
    model, x = w.subject.working_model(torch.float64), w.x.double()
    return torch.linalg.eigvalsh(dense_hessian(model, w.subject.loss, x, w.y))


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


@pytest.mark.parametrize(("dtype", "close"), [("float64", 1e-12), ("float32", 1e-5)])
def test_vectors_kept_one_by_one_have_the_figures_of_those_kept_together(
    tiny, monkeypatch, dtype, close
):
    metric = metrics.create(
        "hessian_top_eigenvalue", {"tolerance": 1e-6, "dtype": dtype, "samples": 30, "count": 2}
    )
    together = metric.measure(tiny.subject, seed=0)
    monkeypatch.setattr(krylov, "_LARGE", 10)
    monkeypatch.setattr(krylov, "_PIECE", 50)
    apart = metric.measure(tiny.subject, seed=0)
    assert apart.details["eigenvalues"] == pytest.approx(together.details["eigenvalues"], rel=close)
    assert apart.converged
    size = sum(e.size for e in together.errors)
    assert sum(e.size for e in apart.errors) == pytest.approx(size, rel=1e-3)
    assert krylov.stored_in(torch.float32, 11) is torch.float32


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
