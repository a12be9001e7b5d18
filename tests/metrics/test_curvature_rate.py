import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed, MetricUnsupported
from sharpbench.measurement import Work
from sharpbench.metrics import metrics
from sharpbench.metrics.curvature_rate import CurvatureRate
from sharpbench.models import models
from sharpbench.taylor.expansion import jet
from sharpbench.taylor.growth import growth_rate
from sharpbench.taylor.series_check import check_reverse_mode


class Waves(nn.Module):
    """f(x) = sin(k·w·x)/k + 2, so that ½(f − 0)² has growing derivatives; w is a unit vector."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def forward(self, x):
        return torch.exp(self.k * x.sum(1, keepdim=True))


def identity_loss(outputs, targets):
    return outputs[:, 0]


@pytest.mark.parametrize("k", [0.5, 1.0, 3.0])
def test_an_exponential_has_rate_log_of_its_exponent(k):
    """dₙ = kⁿ e^{kx} along a unit direction of one dimension: λ = log k exactly, and called so."""
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(1)
    subject = sb.Subject(Waves(k).double(), x, torch.zeros(20, 1), loss=identity_loss)
    found = sb.measure(subject, "curvature_rate", orders=(1, 2, 3, 4, 5), seed=0)
    assert found.value == pytest.approx(math.log(k), abs=1e-12)
    assert found.exact
    assert found.details["residual_rms"] == pytest.approx(0, abs=1e-12)


def test_scaling_the_input_by_one_over_c_adds_log_c(tiny):
    c = 3.0

    class Rescaled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(c * x)

    x, y = tiny.data("test")
    plain = sb.Subject(tiny.model, x, y)
    scaled = sb.Subject(Rescaled(tiny.model), x.double() / c, y)
    values = [sb.measure(s, "curvature_rate", samples=50, seed=0).value for s in (plain, scaled)]
    assert values[1] - values[0] == pytest.approx(math.log(c), abs=1e-6)


@pytest.mark.parametrize("margin", [1.0, 20.0, 60.0, 300.0])
def test_the_loss_keeps_its_precision_for_confident_points(margin):
    """ℓ = log(1 + e^{−m−x}): far out every derivative is ±e^{−m−x}, where −log softmax gives noise."""

    def loss(t):
        outputs = torch.stack([margin + t, 0 * t], dim=1)
        return F.cross_entropy(outputs, torch.tensor([0]), reduction="none")

    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    p = 1 / (1 + math.exp(margin))
    expected = (math.log1p(math.exp(-margin)), -p, p * (1 - p), -p * (1 - p) * (1 - 2 * p))
    for found, right in zip(jet(loss, zero, one, 3), expected, strict=True):
        assert found.item() == pytest.approx(right, rel=1e-10)


def test_the_papers_floor_biases_lambda_upward_for_confident_networks(tiny):
    class Confident(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 40 * self.inner(x)

    x, y = tiny.data("test")
    subject = sb.Subject(Confident(tiny.model), x, y)
    free = sb.measure(subject, "curvature_rate", seed=0)
    floored = sb.measure(subject, "curvature_rate", floor=1e-12, seed=0)
    assert floored.value != free.value
    assert abs(floored.value) < abs(free.value)


def test_boundary_points_are_taken_from_the_band_or_the_nearest(tiny):
    found = sb.measure(tiny, "curvature_rate", points="boundary", seed=0)
    assert 0 < found.details["points_in_band"] == found.samples
    assert not found.details["fallback_to_nearest"]
    rate = metrics.create("curvature_rate")
    assert rate.notes(found.details) == []
    forced = sb.measure(
        tiny, "curvature_rate", points="boundary", band=(0.0, 0.1), nearest=9, seed=0
    )
    assert forced.details["fallback_to_nearest"]
    assert forced.samples == 9
    assert rate.notes(forced.details) == [
        "no point lies in the band of confidence: the nearest ones were taken"
    ]


def test_what_has_no_rate_says_why():
    x, y = torch.randn(10, 3), torch.arange(10) % 2
    constant = nn.Linear(3, 2)
    nn.init.zeros_(constant.weight)
    flat = sb.Subject(constant, x, y)
    with pytest.raises(MetricFailed, match="flat, saturated or not finite"):
        sb.measure(flat, "curvature_rate")
    regression = sb.Subject(nn.Linear(3, 1), x, torch.randn(10))
    with pytest.raises(MetricUnsupported, match="regression"):
        sb.measure(regression, "curvature_rate", points="boundary")


@pytest.mark.parametrize(
    "parameters",
    [
        {"orders": (2,)},
        {"orders": (-1, 1)},
        {"fit": "log_corrected", "orders": (0, 1, 2)},
        {"samples": 0},
        {"band": (0.6, 0.5)},
        {"floor": 0.0},
        {"fit": "log_corrected", "orders": (1, 2)},
        {"protocol": "paper"},
        {"target": "logits"},
        {"norm": "frobenius", "orders": (1, 9)},
        {"norm": "frobenius", "direction_law": "gradient"},
    ],
)
def test_impossible_parameters_are_refused(tiny, parameters):
    with pytest.raises(InputError):
        sb.measure(tiny, "curvature_rate", **parameters)


def test_a_linear_relu_network_on_squared_error_has_no_third_derivative():
    """Piecewise linear f and ½f²: D³ = 0 exactly, so there is no slope through order 3."""
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    subject = sb.Subject(network, torch.randn(8, 2), torch.randn(8))
    with pytest.raises(MetricFailed):
        sb.measure(subject, "curvature_rate", orders=(1, 2, 3))
    assert sb.measure(subject, "curvature_rate", orders=(1, 2)).details["points_kept"] > 0


class Exponential(nn.Module):
    """f(x) = exp(w·x): Dⁿf = wⁿ⊗ f, ‖Dⁿf‖_F = ‖w‖ⁿ f, and along u (w·u)ⁿ f."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        return torch.exp(x @ self.w).unsqueeze(1)


@pytest.fixture(scope="module")
def exponential():
    w = torch.full((50,), 0.3, dtype=torch.float64)
    x = 0.05 * torch.randn(400, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return sb.Subject(Exponential(w), x, torch.zeros(400, 1), loss=identity_loss), float(w.norm())


@pytest.mark.parametrize("law", ["gaussian", "sphere"])
def test_the_frobenius_norm_is_unbiased_in_any_dimension(exponential, law):
    subject, norm = exponential
    found = sb.measure(
        subject, "curvature_rate", norm="frobenius", direction_law=law, directions=20, seed=0
    )
    assert found.value == pytest.approx(math.log(norm), abs=4 * found.standard_error)
    assert found.standard_error < 0.1
    x = subject.inputs
    size = 0.5 * float((2 * (x @ subject.model.w)).exp().mean().log())
    for n, y, error in zip(
        found.details["orders"],
        found.details["log_derivative"],
        found.details["log_derivative_standard_error"],
        strict=True,
    ):
        assert y == pytest.approx(n * math.log(norm) + size, abs=5 * error)


def test_the_laws_of_direction(exponential):
    """Along the gradient λ = log‖w‖; Gaussian directions lie E log|z| = −0.635 off it, spheres −½ log d."""
    subject, norm = exponential
    found = {
        law: sb.measure(subject, "curvature_rate", direction_law=law, directions=30, seed=0).value
        for law in ("gradient", "gaussian", "sphere")
    }
    assert found["gradient"] == pytest.approx(math.log(norm), abs=1e-9)
    assert found["gaussian"] - math.log(norm) == pytest.approx(-0.635, abs=0.05)
    assert found["sphere"] - found["gaussian"] == pytest.approx(-0.5 * math.log(50), abs=0.02)


def test_fits():
    n = torch.tensor([1, 2, 3, 5, 8], dtype=torch.float64)
    orders = (1, 2, 3, 5, 8)
    y = (0.4 + 0.7 * n - 1.5 * n.log()).unsqueeze(0)
    slope, residual = growth_rate(orders, y, "log_corrected", 0.05)
    assert float(slope) == pytest.approx(0.7, abs=1e-12)
    assert float(residual) == pytest.approx(0, abs=1e-12)
    slope, _ = growth_rate(orders, y, "endpoints")
    assert float(slope) == pytest.approx(float(y[0, -1] - y[0, 0]) / 7)
    slope, _ = growth_rate(orders, y)
    assert float(slope) == pytest.approx(np.polyfit(n, y[0], 1)[0])
    slope, _ = growth_rate(orders, y, weight_decay=0.3)
    assert float(slope) == pytest.approx(np.polyfit(n, y[0], 1, w=(1 + 0.3 * n) ** -0.5)[0])


def test_factorial_normalisation_finds_the_radius_of_convergence():
    """1/(1 − cx) at 0: dₙ/n! = cⁿ, so λ = log c exactly; raw it depends on the orders. To order 200."""

    class Pole(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, x):
            return 1 / (1 - self.c * x)

    x = torch.zeros(5, 1, dtype=torch.float64)
    subject = sb.Subject(Pole(), x, torch.zeros(5, 1), loss=identity_loss)
    factorial = {"normalization": "factorial"}
    found = sb.measure(subject, "curvature_rate", **factorial, seed=0)
    assert found.value == pytest.approx(math.log(2), abs=1e-12)
    high = sb.measure(subject, "curvature_rate", orders=(50, 200), **factorial, seed=0)
    assert high.value == pytest.approx(math.log(2), abs=1e-12)
    raw = sb.measure(subject, "curvature_rate", seed=0)
    assert raw.value == pytest.approx(math.log(2) + 1.06328, abs=1e-4)


def test_targets(tiny):
    outputs = {
        target: sb.measure(tiny, "curvature_rate", target=target, samples=100, seed=0)
        for target in ("loss", "predicted_loss", "max_logit", "margin", 1)
    }
    x, y = tiny.data("test")
    right = (tiny.model(x).argmax(1) == y).float().mean()
    assert right > 0.6
    assert outputs["loss"].value == pytest.approx(outputs["predicted_loss"].value, abs=0.3)
    hot = sb.Subject(nn.Sequential(tiny.model, Times(5.0)), x, y)
    for target in ("max_logit", "margin", 1):
        other = sb.measure(hot, "curvature_rate", target=target, samples=100, seed=0)
        assert other.value == pytest.approx(outputs[target].value, abs=1e-9), "temperature"
    with pytest.raises(MetricFailed, match="no output 7"):
        sb.measure(tiny, "curvature_rate", target=7)
    regression = sb.Subject(nn.Linear(3, 1), torch.randn(10, 3), torch.randn(10))
    with pytest.raises(MetricUnsupported, match="needs classes"):
        sb.measure(regression, "curvature_rate", target="margin")


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_a_parameter_set_to_its_default_wins_over_a_protocol():
    plain = metrics.create("curvature_rate")
    paper = metrics.create("curvature_rate", {"protocol": "paper_mnist"})
    assert (plain.samples, paper.samples, paper.floor) == (512, 1000, 1e-12)
    own = metrics.create(
        "curvature_rate", {"protocol": "paper_mnist", "samples": 512, "floor": None}
    )
    assert (own.samples, own.floor) == (512, None)
    assert own.label == "curvature_rate(protocol=paper_mnist, samples=512, floor=None)"
    assert own == CurvatureRate(protocol="paper_mnist", samples=512, floor=None)
    assert own.identity() != paper.identity()
    # Copies, as worker processes and variations make them, keep what was set.
    assert pickle.loads(pickle.dumps(own)) == copy.deepcopy(own) == own
    assert dataclasses.replace(paper, samples=512).samples == 512
    assert dataclasses.replace(own, directions=3).floor is None
    names = {field.name for field in dataclasses.fields(own)}
    assert vars(own).keys() == vars(copy.deepcopy(own)).keys() == names


def test_protocols_set_parameters_together_and_give_way_to_yours():
    metric = metrics.create("curvature_rate", {"protocol": "paper_two_moons"})
    assert (metric.points, metric.floor, metric.band) == ("boundary", 1e-12, (0.45, 0.65))
    assert metric.label == "curvature_rate(protocol=paper_two_moons)"
    other = metrics.create(
        "curvature_rate", {"protocol": "paper_two_moons", "orders": [1, 2, 3], "band": [0.4, 0.7]}
    )
    assert (other.points, other.orders, other.band) == ("boundary", (1, 2, 3), (0.4, 0.7))
    assert other.label == (
        "curvature_rate(protocol=paper_two_moons, orders=[1,2,3], band=[0.4,0.7])"
    )
    table = metrics.create("curvature_rate", {"protocol": "paper_table2"})
    assert (table.fit, table.points, table.directions) == ("endpoints", "class_pair", 1)


def test_class_pairs(tiny):
    found = sb.measure(tiny, "curvature_rate", protocol="paper_table2", seed=0)
    assert found.samples == found.details["points_in_band"] > 0
    with pytest.raises(MetricFailed, match=r"classes \[4, 9\]"):
        sb.measure(tiny, "curvature_rate", protocol="paper_table2", pair=(4, 9), seed=0)


def test_a_non_finite_derivative_is_named(tiny):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return (self.w * x).sqrt()

    zero = sb.Subject(Root(), torch.zeros(3, 1), torch.zeros(3, 1), loss=identity_loss)
    with pytest.raises(MetricFailed, match="order 1 is not finite"):
        sb.measure(zero, "curvature_rate", seed=0)


def test_the_record_says_when_the_network_is_piecewise_linear(tiny):
    assert not sb.measure(tiny, "curvature_rate", seed=0).details["piecewise_linear"]
    relu = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    x, y = tiny.data("test")
    found = sb.measure(sb.Subject(relu, x, y), "curvature_rate", seed=0)
    assert found.details["piecewise_linear"]


@pytest.mark.parametrize("target", ["max_logit", "margin", 0])
def test_outputs_of_a_piecewise_linear_network_have_no_rate(moons, target):
    network = models.create("mlp", {"widths": [8], "activation": "relu"})
    subject = sb.Subject(network.build((2,), 2, seed=0), moons.test_inputs, moons.test_targets)
    with pytest.raises(MetricUnsupported, match="piecewise linear"):
        sb.measure(subject, "curvature_rate", target=target)
    assert math.isfinite(sb.measure(subject, "curvature_rate", target="loss").value)
    floored = sb.measure(subject, "curvature_rate", target=target, floor=1e-12)
    assert floored.details["log_derivative"][-1] == pytest.approx(math.log(1e-12))


@pytest.mark.parametrize("norm", ["geometric_mean", "rms"])
def test_the_jackknives_leave_out_one_point_and_one_direction_at_a_time(norm):
    metric = CurvatureRate(norm=norm, orders=(1, 2, 3))
    logs = torch.randn(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    without, inside = metric._without_each(logs)

    def by_hand(points):
        if norm == "geometric_mean":
            return np.mean([point.mean(0) for point in points], 0)
        return np.log(np.mean([(np.exp(point) ** 2).mean(0) for point in points], 0)) / 2

    for i in range(6):
        points = list(logs.numpy())
        rest = points[:i] + points[i + 1 :]
        assert without[i].numpy() == pytest.approx(by_hand(rest), rel=1e-12)
        for j in range(4):
            left = [*rest, np.delete(points[i], j, 0)]
            assert inside[i, j].numpy() == pytest.approx(by_hand(left), rel=1e-12)
    assert metric._without_each(logs[:, :1])[1].shape == (6, 0, 3)


def test_points_and_directions_are_told_apart(exponential):
    """e^{w·x}: log|dₙ| = n log|w·u| + w·x, so that the slope of each direction is log|w·u| and the same
    for all points: Var log|z| = π²/8 a direction, nothing from the points."""
    subject, _ = exponential
    gaussian = {"direction_law": "gradient", "samples": 100}, {"direction_law": "gaussian"}
    exact, several = ({**g, "target": 0} for g in gaussian)
    for samples, sources in ((400, ["directions"]), (100, ["points", "directions"])):
        found = sb.measure(subject, "curvature_rate", **several, samples=samples, directions=8)
        sizes = {e.source: e.size for e in found.errors}
        assert list(sizes) == sources
        expected = math.pi / math.sqrt(8) / math.sqrt(8 * samples)
        assert sizes["directions"] == pytest.approx(expected, rel=0.1)
        assert found.standard_error < 1.5 * expected
    along = sb.measure(subject, "curvature_rate", **exact)
    assert [e.source for e in along.errors] == ["points"]
    assert along.standard_error == pytest.approx(0, abs=1e-9)
    assert sb.measure(subject, "curvature_rate", **{**exact, "samples": "all"}).exact
    for samples, source in ((100, "points and directions"), ("all", "directions")):
        one = sb.measure(subject, "curvature_rate", **several, samples=samples, directions=1)
        assert [e.source for e in one.errors] == [source]
        n = one.samples
        assert one.standard_error == pytest.approx(math.pi / math.sqrt(8 * n), rel=0.2)


def test_the_error_of_all_points_is_what_other_directions_change(tiny):
    """The spread of λ over seeds, of which each one's points are the same, is the ``directions`` stated."""
    found = [
        sb.measure(tiny, "curvature_rate", samples="all", directions=2, seed=seed)
        for seed in range(40)
    ]
    assert {e.source for m in found for e in m.errors} == {"directions"}
    spread = np.std([m.value for m in found], ddof=1)
    assert spread == pytest.approx(np.mean([m.standard_error for m in found]), rel=0.3)


class Tied(nn.Module):
    """e to the larger of 2x + 0.3 and 3x + 0.1 + 0.2, which at 0 differ by a rounding error."""

    def forward(self, x):
        pair = torch.stack([2 * x + 0.3, 3 * x + (0.1 + 0.2)], -1)
        return torch.exp(F.max_pool1d(pair, 2).squeeze(-1))


def test_points_at_which_a_network_is_bent_are_measured_on_one_side():
    """Of entries equal but for rounding max-pooling takes the first: dₙ = 2ⁿe^0.3, λ = log 2."""
    x = torch.zeros(4, 1, dtype=torch.float64)
    subject = sb.Subject(Tied(), x, x, loss=identity_loss)
    found = sb.measure(subject, "curvature_rate", target=0, seed=0)
    assert found.value == pytest.approx(math.log(2), rel=1e-12)
    (note,) = metrics.create("curvature_rate").notes(found.details)
    assert "bent where points stand" in note
    assert found.details["checks"]["orders against reverse mode"] < 1e-10  # beside them
    beside = sb.measure(subject.mapped(lambda x: x - 0.5), "curvature_rate", target=0, seed=0)
    assert "points" not in beside.details["checks"]


class Chosen(torch.autograd.Function):
    """x² with a derivative of its own making at one point alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * torch.where(x == 1, 5 * x, 2 * x)


def test_a_derivative_wrong_at_the_points_alone_is_no_bend():
    at = torch.ones(3, 1, dtype=torch.float64)
    function = lambda x: Chosen.apply(x) + torch.exp(x)  # noqa: E731
    with pytest.raises(MetricFailed, match="central differences"):
        check_reverse_mode(function, at, at, 3, work=Work())
    assert check_reverse_mode(function, at + 0.1, at, 3, work=Work())


def test_a_network_out_of_sight_is_differentiated_in_reverse():
    """A script of e^{kx}: λ = log k, and a sentence says how."""
    x = torch.linspace(-1, 1, 7, dtype=torch.float64).unsqueeze(1)

    class Script(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(self.k * x)

    scripted = torch.jit.script(Script().double())
    subject = sb.Subject(scripted, x, torch.zeros(7, 1), loss=identity_loss)
    for more in ({}, {"norm": "frobenius", "orders": (1, 2, 3)}, {"normalization": "factorial"}):
        found = sb.measure(subject, "curvature_rate", target=0, **more)
        plain = sb.Subject(Waves(1.5).double(), x, torch.zeros(7, 1), loss=identity_loss)
        exact = sb.measure(plain, "curvature_rate", target=0, **more).value
        assert found.value == pytest.approx(exact, rel=1e-9)
        assert found.details["why"].startswith("by nested reverse mode")
        assert found.details["checks"]["reverse mode against central differences"] < 1e-6
    with pytest.raises(MetricFailed, match="differentiate"):
        sb.measure(subject, "curvature_rate", target=0, orders=(1, 2, 9))
