"""SAM sharpness in every variant, against quadratics whose answer is known and against each other."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.metrics import metrics
from sharpbench.metrics.base import measured_points
from sharpbench.metrics.sam import SamSharpness, _Rise
from tests.calibration.coverage import assert_covers


class Weights(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x):
        return x * self.weight


def surface(weights, curvature, slope):
    """L(w) = ½ Σ cᵢwᵢ² + Σ sᵢwᵢ, the same for every sample."""
    c, s = (torch.tensor(v, dtype=torch.float64) for v in (curvature, slope))

    def loss(outputs, targets):
        return (0.5 * c * outputs**2 + s * outputs).sum(1)

    x = torch.ones(4, len(weights), dtype=torch.float64)
    return sb.Subject(Weights(weights), x, torch.zeros(4, 1), loss=loss)


def measured(subject, **parameters):
    return sb.measure(subject, "sam_sharpness", m="all", seed=0, **parameters).value


def test_a_linear_loss_rises_by_rho_times_the_dual_norm_of_its_gradient():
    linear = surface([1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [3.0, -4.0, 0.0])
    assert measured(linear, rho=0.1) == pytest.approx(0.5)
    assert measured(linear, rho=0.1, ball="linf") == pytest.approx(0.7)
    for attack in ("gradient", "auto_pgd"):
        assert measured(linear, rho=0.1, attack=attack, steps=20) == pytest.approx(0.5)
        assert measured(linear, rho=0.1, attack=attack, steps=20, ball="linf") == pytest.approx(0.7)
    # ‖|w|∘∇L‖ = ‖(3, 8, 0)‖; asam leaves vectors, like biases, alone.
    assert measured(linear, rho=0.1, adaptive="elementwise") == pytest.approx(0.1 * 73**0.5)
    assert measured(linear, rho=0.1, adaptive="asam") == pytest.approx(0.5)
    assert measured(linear, rho=0.1, case="average", draws=2000) == pytest.approx(0, abs=0.03)


def test_more_steps_find_the_edge_of_a_quadratic():
    # At the minimum of one direction and on the slope of another: SAM's step misses the sharp one.
    bowl = surface([1e-3, 0.0], [100.0, 1.0], [0.0, 0.2])
    best = max(
        0.5 * 100 * ((1e-3 + 0.1 * float(torch.cos(t))) ** 2 - 1e-6)
        + 0.5 * (0.1 * float(torch.sin(t))) ** 2 + 0.2 * 0.1 * float(torch.sin(t))
        for t in torch.linspace(0, 6.2832, 20001)
    )  # fmt: skip
    one = measured(bowl, rho=0.1)
    many = measured(bowl, rho=0.1, steps=50)
    auto = measured(bowl, rho=0.1, steps=50, attack="auto_pgd")
    assert one < many <= best + 1e-9
    assert auto == pytest.approx(best, rel=1e-3)
    assert many == pytest.approx(best, rel=1e-2)


def test_average_case_takes_half_the_trace_at_the_same_radius():
    bowl = surface([0.0] * 4, [4.0, 3.0, 2.0, 1.0], [0.0] * 4)
    found = measured(bowl, rho=0.1, case="average", draws=4000)
    assert found == pytest.approx(0.5 * 0.01 * 10 / 4, rel=0.03)  # ρ² tr H/(2P)
    cube = measured(bowl, rho=0.1, case="average", draws=4000, ball="linf")
    assert cube == pytest.approx(0.5 * 0.01 * 10 / 3, rel=0.03)  # E u² = ρ²/3
    with pytest.raises(MetricFailed, match="norm on a batch is 0"):
        measured(bowl, rho=0.1)


def test_variants_on_a_trained_network(trained_mlp):
    def value(**parameters):
        return sb.measure(trained_mlp, "sam_sharpness", samples=256, seed=0, **parameters)

    one, many = value(), value(steps=10)
    auto = value(steps=20, attack="auto_pgd")
    assert one.value <= many.value * 1.05
    assert many.value <= auto.value * 1.02
    assert 0 < value(case="average").value < one.value
    assert value(normalize_logits=True).value != one.value
    assert value(adaptive="elementwise", rho=0.5).value > 0
    assert auto.work.gradient == 21 * 256


def test_elementwise_adaptive_sharpness_stays_under_rescaling(digits):
    from sharpbench.invariance import transformations
    from tests.conftest import trained

    subject = trained(digits, "mlp", {"widths": [16], "activation": "relu"})
    double = subject.with_model(subject.working_model(torch.float64))
    changed = double.with_model(
        transformations.create("neuron_rescaling").apply(double.model, seed=3)
    )

    def values(**parameters):
        return [
            sb.measure(s, "sam_sharpness", seed=0, **parameters).value for s in (double, changed)
        ]

    before, after = values(adaptive="elementwise", rho=0.1)
    assert after == pytest.approx(before, rel=1e-8)
    before, after = values()
    assert after > 1.5 * before


def test_bad_parameters_and_subjects():
    for bad in ({"rho": 0.0}, {"steps": 0}, {"attack": "auto_pgd", "steps": 2}, {"eta": -1.0}):
        with pytest.raises(ValueError):  # noqa: PT011
            metrics.create("sam_sharpness", bad)
    linear = surface([1.0], [1.0], [1.0])
    with pytest.raises(MetricUnsupported, match="needs classes"):
        measured(linear, normalize_logits=True)


def test_antithetic_draws_cancel_the_slope_and_what_is_left_has_its_error():
    linear = surface([1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [3.0, -4.0, 0.0])
    found = sb.measure(linear, "sam_sharpness", m="all", case="average", draws=5, seed=3)
    assert found.value == pytest.approx(0, abs=1e-14)
    assert [(e.source, e.degrees_of_freedom) for e in found.errors] == [("draws", 0.7 * 2)]
    bowl = surface([0.3] * 4, [4.0, 3.0, 2.0, 1.0], [1.0] * 4)
    found = sb.measure(bowl, "sam_sharpness", rho=0.1, m=2, case="average", draws=400, seed=3)
    exact = 0.5 * 0.01 * 10 / 4
    assert abs(found.value - exact) < 3 * found.standard_error < 0.1 * exact
    assert not found.exact
    one = sb.measure(bowl, "sam_sharpness", m="all", case="average", draws=1, seed=3)
    assert [(e.source, e.size) for e in one.errors] == [("draws", None)]


@pytest.mark.parametrize(("case", "m"), [("worst", 10), ("average", 10), ("average", "all")])
def test_errors_of_drawn_samples_shrink_as_they_are_taken(tiny, case, m):
    def errors(samples):
        found = sb.measure(tiny, "sam_sharpness", case=case, m=m, samples=samples, seed=1)
        return {e.source: e.size for e in found.errors}

    total = len(tiny.inputs)
    few, most = errors(total // 10), errors(9 * total // 10)
    assert 0 < most["points"] < few["points"]
    assert ("points" in errors("all")) == (m != "all" and total % m > 0)


@pytest.mark.parametrize("case", ["worst", "average"])
def test_one_batch_of_all_samples_is_exact_but_for_its_draws(tiny, case):
    found = sb.measure(tiny, "sam_sharpness", case=case, m="all", seed=1)
    assert found.exact == (case == "worst")
    assert found.details.get("lower_bound", False) == (case == "worst")


@pytest.mark.parametrize("m", ["all", 40, 64])
def test_the_maximum_over_one_batch_of_drawn_samples_does_not_tell_its_error(tiny, m):
    """At a minimum the samples' own slope is their noise: it lies above that of all, whatever its spread."""
    found = sb.measure(tiny, "sam_sharpness", samples=40, m=m, seed=1)
    assert [(e.source, e.size) for e in found.errors] == [("points", None)]
    assert found.standard_error is None
    assert not found.exact
    assert "lower_bound" not in found.details
    assert "smaller m" in found.details["why"]


def test_the_entries_of_a_draw_from_the_cube_are_independent():
    """½(Σw)² has a Hessian of ones: E(Σε)² = Pρ²/3 where the entries' signs are independent."""
    ones = surface([0.0] * 4, [0.0] * 4, [0.0] * 4)
    together = sb.Subject(
        ones.model, ones.inputs, ones.targets, loss=lambda f, _: 0.5 * f.sum(1).square()
    )
    found = measured(together, rho=0.3, case="average", draws=4000, ball="linf")
    assert found == pytest.approx(0.5 * 4 * 0.09 / 3, rel=0.06)


def test_asam_scales_a_matrix_by_its_entries_and_eta():
    """T = |w| + η: ‖T∇L‖ = ‖((1 + ½)·3, (2 + ½)·4)‖."""
    layer = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
    x = torch.tensor([[3.0, -4.0]] * 4, dtype=torch.float64)
    linear = sb.Subject(layer, x, torch.zeros(4, 1), loss=lambda f, _: f.sum(1))
    found = measured(linear, rho=0.1, adaptive="asam", eta=0.5)
    assert found == pytest.approx(0.1 * math.hypot(4.5, 10))


def test_the_components_of_the_error_by_hand():
    def parts(metric, rises, left_out):
        found = metric._errors(rises, left_out)
        return [(e.source, e.size, e.degrees_of_freedom) for e in found]

    average = SamSharpness(case="average", draws=4)
    pairs = [_Rise(2.0, (1.0, 3.0)), _Rise(4.0, (2.0, 6.0))]
    # Variances 2 and 8 of two pairs a batch: the mean of both batches has √((2 + 8)/2)/2.
    assert parts(average, pairs, 0.0) == [("draws", pytest.approx(math.sqrt(5) / 2), 0.7 * 2)]
    worst = [_Rise(value) for value in (1.0, 3.0, 5.0)]
    error = 2 / math.sqrt(3)
    free = pytest.approx(2 * (0.36**2 + 0.64**2))
    assert parts(SamSharpness(), worst, 0.36) == [
        ("points", pytest.approx(0.6 * error), free),
        ("draws", pytest.approx(0.8 * error), free),
    ]


def test_the_error_of_drawn_points_is_that_of_their_mean():
    """½ax²: a pair w ± ρ rises by ½aρ² exactly."""
    model = Weights([0.7])
    x = torch.linspace(0.5, 2, 20, dtype=torch.float64).unsqueeze(1)
    subject = sb.Subject(model, x, torch.zeros(20, 1), loss=lambda f, _: 0.5 * f.square().sum(1))
    found = sb.measure(
        subject, "sam_sharpness", rho=0.1, m="all", case="average", samples=8, draws=4, seed=0
    )
    drawn, _ = measured_points(subject, "train", 8, torch.float64, seed=0)
    rises = 0.005 * drawn.squeeze(1).numpy() ** 2
    assert found.value == pytest.approx(rises.mean())
    sizes = {e.source: e.size for e in found.errors}
    assert sizes["points"] == pytest.approx(rises.std(ddof=1) * math.sqrt((1 - 8 / 20) / 8))
    assert sizes["draws"] == pytest.approx(0, abs=1e-12)


def auto_pgd(height, slope, size, steps, project, direction, radius):
    """Algorithm 1 of Croce & Hein, arXiv:2003.01690, in numpy."""
    marks, gap = [0.0, 0.22], 0.22
    while marks[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        marks.append(marks[-1] + gap)
    checks = [math.ceil(m * steps) for m in marks if m <= 1]
    length, point = 2 * radius, np.zeros(size)
    before = best = point
    last = project(point + length * direction(slope(point)))
    heights = [height(point), height(last)]
    if heights[1] > heights[0]:
        best = last
    before, point = point, last
    at_check = (length, heights[0])
    for k in range(1, steps):
        if k in checks:
            window = range(checks[checks.index(k) - 1], k)
            ups = sum(heights[i + 1] > heights[i] for i in window)
            halve = ups < 0.75 * len(window) or at_check == (length, height(best))
            at_check = (length, height(best))
            if halve:
                length, point, before = length / 2, best, best
                heights[-1] = height(best)
        ahead = project(point + length * direction(slope(point)))
        moved = project(point + 0.75 * (ahead - point) + 0.25 * (point - before))
        before, point = point, moved
        heights.append(height(point))
        if heights[-1] > height(best):
            best = point
    return height(best) - height(np.zeros(size))


@pytest.mark.parametrize("ball", ["l2", "linf"])
@pytest.mark.parametrize("steps", [7, 12, 20])
def test_auto_pgd_is_its_algorithm(ball, steps):
    w = np.array([0.3, -0.8, 0.5, 0.1])
    tilt = np.array([0.5, -0.2, 0.1, 0.4])

    def height(e):
        return (np.sin(5 * (w + e)) + tilt * (w + e) ** 2).sum()

    def slope(e):
        return 5 * np.cos(5 * (w + e)) + 2 * tilt * (w + e)

    def loss(f, _):
        return (torch.sin(5 * f) + torch.from_numpy(tilt) * f**2).sum(1)

    if ball == "l2":

        def project(e):
            return e * min(1, 0.6 / max(np.linalg.norm(e), 1e-300))

        def direction(g):
            return g / np.linalg.norm(g)
    else:

        def project(e):
            return e.clip(-0.6, 0.6)

        direction = np.sign
    x = torch.ones(3, 4, dtype=torch.float64)
    subject = sb.Subject(Weights(w.tolist()), x, torch.zeros(3, 1), loss=loss)
    found = measured(subject, rho=0.6, attack="auto_pgd", steps=steps, ball=ball)
    assert found == pytest.approx(
        auto_pgd(height, slope, 4, steps, project, direction, 0.6), rel=1e-12
    )


@pytest.mark.parametrize(
    "spectrum", [[1 / (i + 1) for i in range(16)], [0.6**i for i in range(16)]]
)
def test_the_interval_of_four_pairs_covers_the_skewed_rise_of_a_quadratic(spectrum):
    bowl = surface([0.0] * 16, spectrum, [0.0] * 16)
    truth = 0.5 * 0.01 * sum(spectrum) / 16
    metric = SamSharpness(rho=0.1, case="average", m="all")
    found = [metric.measure(bowl, seed=seed).interval() for seed in range(400)]
    assert_covers(found, truth)
