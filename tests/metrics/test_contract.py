from dataclasses import dataclass

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric, state_hash
from sharpbench.suite.conformance import check_metric

QUICKER = {
    "attack_trajectory": {"samples": 32, "stops": 2},
    "critical_sharpness": {"samples": 200},
    "effective_dimension": {"probes": 1, "steps": 8, "samples": 8},
    "fisher_decrement": {"samples": 4},
    "gauss_newton_directions": {"samples": 8},
    "geodesic_sharpness": {"samples": 256},
    "gradient_noise": {"samples": 150},
    "laplace_evidence": {"probes": 1, "steps": 8, "samples": 8},
    "local_learning_coefficient": {"chains": 2, "draws": 6, "burn_in": 6, "samples": 100},
    "inverse_margin": {"percentile": 50.0},
    "hessian_frobenius_norm": {"samples": 100, "max_probes": 40},
    "hessian_spectral_density": {"probes": 1, "steps": 12, "samples": 64},
    "hessian_spectrum_decay": {"samples": 64, "count": 3},
    "ntk_alignment": {"samples": 8},
    "ntk_drift": {"samples": 8},
    "ntk_top_eigenvalue": {"samples": 8},
    "pac_bayes_flatness": {"draws": 6, "samples": 100, "resolution": 0.05},
}
"""Other parameters: of metrics that take many passes as they are, or better networks."""


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_passes_the_conformance_check(name):
    failed = [f for f in check_metric(name, QUICKER.get(name)) if not f.passed]
    assert not failed


@pytest.mark.parametrize("name", metrics.names())
def test_a_network_left_in_training_mode_is_measured_as_in_evaluation(name):
    torch.manual_seed(0)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    net = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3)
    )
    net(x)
    chosen = metrics.create(name, QUICKER.get(name, {}))

    def figure(model):
        try:
            return chosen.checked_measure(sb.Subject(model, x, y), seed=0).value
        except MetricFailed as reason:
            return str(reason)

    assert figure(net.train()) == figure(net.eval())


@pytest.mark.parametrize("name", metrics.names())
def test_what_a_metric_stands_in_does_not_change_its_figure(name):
    torch.manual_seed(0)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    single = {"dtype": "float32"} if "dtype" in metrics.create(name).parameters() else {}
    chosen = metrics.create(name, {**QUICKER.get(name, {}), **single})

    def figure():
        try:
            return chosen.checked_measure(sb.Subject(net, x, y), seed=0).value
        except MetricFailed as reason:
            return str(reason)

    plain = figure()
    with torch.no_grad():
        assert figure() == plain
    with torch.autocast("cpu", torch.bfloat16):
        assert figure() == plain


@dataclass(frozen=True)
class Vandal(Metric):
    """Changes what it measures."""

    name = "vandal"
    title = "vandal"
    space = "parameter"
    damage: str = "weights"

    def measure(self, subject, *, seed):
        if self.damage == "weights":
            next(subject.model.parameters()).data.add_(1e-7)
        elif self.damage == "mode":
            subject.model.train()
        elif self.damage == "gradient":
            subject.model(subject.inputs).sum().backward()
        elif self.damage == "random":
            torch.rand(1)
        return Measurement(1.0, samples=1)


@pytest.mark.parametrize("damage", ["weights", "mode", "gradient", "random"])
def test_a_metric_that_leaves_traces_is_caught(damage):
    model = nn.Linear(3, 2).eval()
    nn.init.ones_(model.weight)
    subject = sb.Subject(model, torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(MetricFailed, match=r"changed the model|random state"):
        sb.measure(subject, Vandal(damage))


def test_the_check_catches_a_metric_that_breaks_its_promises(monkeypatch):
    monkeypatch.syspath_prepend(".")
    failed = {f.title for f in check_metric(f"{__name__}:WeightNorm") if not f.passed}
    metrics.forget("weight_norm")
    assert "stays under neuron_rescaling on a ReLU network on digits" in failed
    assert "counts its work on a ReLU network on digits" in failed
    assert "deterministic on a ReLU network on digits" not in failed


@dataclass(frozen=True)
class WeightNorm(Metric):
    """ℓ₂ norm of the weights, which claims what is not so."""

    name = "weight_norm"
    title = "weight norm"
    unit = "[weight]"
    space = "parameter"
    invariant_under = frozenset({"linear_gauge"})

    def measure(self, subject, *, seed):
        total = sum(float(p.detach().square().sum()) for p in subject.model.parameters())
        subject.model(subject.inputs[:1].to(subject.dtype))  # a pass that it does not count
        return Measurement(total**0.5, samples=len(subject.inputs))


@dataclass(frozen=True)
class Fragile(Metric):
    """Raises on a network with another last layer, and wants to leave when asked what to expect."""

    name = "fragile"
    title = "fragile"
    unit = ""
    space = "function"

    def measure(self, subject, *, seed):
        if type(subject.model[-1]) is not nn.Linear:
            raise KeyError("no such layer")
        return Measurement(1.0, samples=1)

    def expected_after(self, change, value):
        if change.name == "weight_noise":
            raise SystemExit(3)


def test_the_check_goes_on_where_a_metric_raises(monkeypatch):
    monkeypatch.syspath_prepend(".")
    findings = {f.title: f for f in check_metric(f"{__name__}:Fragile")}
    metrics.forget("fragile")
    raised = findings["identity_layer_insertion of a tanh network on two moons"]
    assert not raised.passed
    assert raised.detail.startswith("KeyError: 'no such layer' (test_contract.py:")
    left = findings["weight_noise of a tanh network on two moons"]
    assert not left.passed
    assert left.detail.startswith("RuntimeError: it called sys.exit(3)")
    assert findings["measures something"].passed


def test_unknown_names_get_the_nearest():
    subject = sb.Subject(nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputError, match="Did you mean 'curvature_rate'"):
        sb.measure(subject, "curvatur_rate")
    with pytest.raises(InputError, match="Did you mean 'directions'"):
        sb.measure(subject, "curvature_rate", direction=3)
    with pytest.raises(InputError, match="not a class"):
        check_metric("math:pi")


def test_sam_has_no_direction_without_a_gradient():
    model = nn.Linear(3, 1)
    x = torch.randn(4, 3)
    subject = sb.Subject(model, x, model(x).detach())
    with pytest.raises(MetricFailed, match="ascent direction"):
        sb.measure(subject, "sam_sharpness", dtype="float32")


def test_a_measurement_is_finite():
    with pytest.raises(ValueError, match="finite"):
        Measurement(float("nan"))


def test_the_hash_sees_every_bit():
    model = nn.BatchNorm1d(3)
    before = state_hash(model)
    model.running_mean[0] = torch.nextafter(torch.tensor(0.0), torch.tensor(1.0))
    assert state_hash(model) != before
