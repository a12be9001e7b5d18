"""Metrics of networks, data and losses as people give them: the right figure, or a sentence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed, MetricUnsupported
from sharpbench.metrics.base import state_hash
from sharpbench.subject import Subject

LOSS_METRICS = (
    ("hessian_top_eigenvalue", {"tolerance": 1e-8}),
    ("gauss_newton_top_eigenvalue", {"tolerance": 1e-8}),
    ("fisher_rao_norm", {}),
    ("gauss_newton_trace", {}),
    ("sam_sharpness", {"m": "all"}),
    ("curvature_rate", {"split": "train"}),
    ("input_curvature", {"split": "train"}),
)


def network(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def inputs(n: int = 12) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def figures(subject: Subject, metrics=LOSS_METRICS) -> dict[str, float]:
    return {name: sb.measure(subject, name, **given).value for name, given in metrics}


class Calls(nn.Module):
    def __init__(self, call, net: nn.Module | None = None, **attributes):
        super().__init__()
        self.call, self.net = call, net or network()
        for key, value in attributes.items():
            setattr(self, key, value)

    def forward(self, x):
        return self.call(self, x)


def top_eigenvalue(net: nn.Module, mean_loss) -> float:
    """From central differences of first derivatives of ``mean_loss(net)``."""
    parameters = list(net.parameters())
    flat = nn.utils.parameters_to_vector(parameters).detach()

    def gradient(w):
        nn.utils.vector_to_parameters(w, parameters)
        return nn.utils.parameters_to_vector(torch.autograd.grad(mean_loss(net), parameters))

    h = 1e-4
    rows = [(gradient(flat + e) - gradient(flat - e)) / (2 * h) for e in h * torch.eye(len(flat))]
    nn.utils.vector_to_parameters(flat, parameters)
    matrix = torch.stack(rows)
    return float(torch.linalg.eigvalsh(0.5 * (matrix + matrix.T))[-1])


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(), torch.arange(12) % 3),
        (nn.CrossEntropyLoss(), torch.where(torch.arange(12) % 4 == 0, -100, torch.arange(12) % 3)),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 2, 7]).double()), torch.arange(12) % 3),
        (nn.MSELoss(), 2 * inputs()[:, :3]),
        (nn.BCEWithLogitsLoss(), (inputs()[:, :3] > 0).double()),
    ],
    ids=["mean", "ignored", "weights", "squares", "labels"],
)
def test_a_reduced_loss_has_the_curvature_of_torchs_mean(loss, targets):
    net, x = network(), inputs()
    expected = top_eigenvalue(net, lambda net: loss(net(x), targets))
    found = sb.measure(
        Subject(net, x, targets, loss=loss), "hessian_top_eigenvalue", tolerance=1e-9
    )
    assert found.value == pytest.approx(expected, rel=1e-5)


def test_ignored_samples_change_nothing_anywhere():
    x, y = inputs(), torch.arange(12) % 3
    ignored = torch.where(torch.arange(12) % 4 == 0, -100, y)
    metrics = (*LOSS_METRICS, ("margin", {}), ("input_jacobian_norm", {}))
    found = figures(Subject(network(), x, ignored), metrics)
    kept = ignored >= 0
    assert found == pytest.approx(figures(Subject(network(), x[kept], y[kept]), metrics), rel=1e-9)
    told = sb.measure(Subject(network(), x, ignored), "margin").details
    assert told["ignored_samples"] == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda self, x: {"logits": self.net(x)},
        lambda self, x: self.net(x.mul_(2.0).div_(2.0)),  # writes into what it is given
        lambda self, x: self.net(x @ self.plain),
    ],
)
def test_another_dress_is_the_same_network(call):
    x, y = inputs(), torch.arange(12) % 3
    wrapped = Calls(call, plain=torch.eye(5).double())
    given = x.clone()
    found = figures(Subject(wrapped, given, y))
    assert torch.equal(given, x)
    assert found == pytest.approx(figures(Subject(network(), x, y)), rel=1e-6)


def test_one_output_without_its_axis():
    x = inputs()
    y = x[:, 0] * 2
    expected = figures(Subject(network(1), x, y[:, None]))
    flat = Calls(lambda self, x: self.net(x).squeeze(-1), network(1))
    assert figures(Subject(flat, x, y)) == pytest.approx(expected, rel=1e-6)
    own = Subject(flat, x, y, loss=lambda f, t: 0.5 * (f - t) ** 2)
    assert figures(own) == pytest.approx(expected, rel=1e-6)


def test_a_parameter_without_axes():
    scaled = Calls(lambda self, x: self.net(x) * self.scale, scale=nn.Parameter(torch.tensor(1.5)))
    x, y = inputs(), torch.arange(12) % 3
    expected = top_eigenvalue(scaled.double(), lambda net: F.cross_entropy(net(x), y))
    found = figures(Subject(scaled, x, y))
    assert found["hessian_top_eigenvalue"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda self, x: self.table(x.abs().long()).mean(1),
        lambda self, x: self.net(x.detach()),
        lambda self, x: self.net((x > 0).to(x)),
    ],
    ids=["token ids", "detached", "compared"],
)
@pytest.mark.parametrize(
    "metric", ["input_jacobian_norm", "input_curvature", "input_gradient_change", "curvature_rate"]
)
def test_inputs_without_a_derivative_are_refused(call, metric):
    subject = Subject(Calls(call, table=nn.Embedding(9, 3)), inputs(), torch.arange(12) % 3)
    with pytest.raises(MetricUnsupported, match="don't depend differentiably on the inputs"):
        sb.measure(subject, metric)


def test_a_true_zero_is_a_figure():
    flat = Calls(lambda self, x: self.net(0 * x))
    found = sb.measure(Subject(flat, inputs(), torch.arange(12) % 3), "input_jacobian_norm")
    assert found.value == 0


@pytest.mark.parametrize("net", [network().requires_grad_(False), nn.Identity()])
@pytest.mark.parametrize(
    "metric",
    [
        "hessian_top_eigenvalue",
        "hessian_trace",
        "gauss_newton_trace",
        "gauss_newton_top_eigenvalue",
        "fisher_rao_norm",
        "sam_sharpness",
    ],
)
def test_nothing_to_differentiate_is_said(net, metric):
    subject = Subject(net, inputs(), torch.arange(12) % 3)
    with pytest.raises(MetricFailed, match="no parameter that requires gradients"):
        sb.measure(subject, metric)


def test_a_network_of_one_precision_says_so():
    single = Calls(lambda self, x: self.net(x.float()), network().float())
    subject = Subject(single, inputs().float(), torch.arange(12) % 3)
    for metric in ("margin", "input_jacobian_norm", "hessian_top_eigenvalue"):
        with pytest.raises(MetricFailed, match=r"not run in float64.*dtype='float32'"):
            sb.measure(subject, metric)
    double = sb.measure(Subject(network().float(), inputs().float(), subject.targets), "margin")
    assert sb.measure(subject, "margin", dtype="float32").value == pytest.approx(double.value, 1e-5)


def test_weights_that_went_bad_are_named():
    net = network()
    subject = Subject(net, inputs(), torch.arange(12) % 3)
    net[2].bias.data[1] = torch.nan
    with pytest.raises(InputError, match=r"'2\.bias' of the network holds NaN"):
        sb.measure(subject, "sam_sharpness")


class Extra(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state


def test_the_hash_takes_any_state_by_its_content():
    class Tool:
        def __init__(self, size):
            self.size, self.itself = size, self

    def states(size):
        return [
            {"v": size},
            b"abc" + bytes([size]),
            [1, (2.5, None), {"a", str(size)}],
            torch.full((2,), size),
            torch.eye(2).to_sparse() * size,
            torch.full((2,), 1j * size).conj(),
            torch.quantize_per_tensor(torch.ones(2) * size, 0.5, 0, torch.quint8),
            torch.tensor(size),
            torch.arange(size).numpy(),
            Tool(size),
        ]

    for one, same, other in zip(states(2), states(2), states(3), strict=True):
        assert state_hash(Extra(one)) == state_hash(Extra(same))
        assert state_hash(Extra(one)) != state_hash(Extra(other))


class Straight(nn.Module):
    """A straight-through estimator: torch's gradient is that of another function."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(4, 3)

    def forward(self, x):
        z = self.layer(x)
        if self.how == "rounded":
            return z + (z.round() - z).detach()
        if self.how == "stopped":
            return z * torch.sigmoid(z).detach()
        return torch.relu(z) + z.abs().cumsum(1) + x.max(1, keepdim=True).values


@pytest.mark.parametrize(
    "metric", ["curvature_rate", "input_curvature", "input_gradient_change", "input_jacobian_norm"]
)
@pytest.mark.parametrize("how", ["rounded", "stopped"])
def test_a_gradient_that_is_not_the_functions_is_refused(metric, how):
    torch.manual_seed(0)
    subject = sb.Subject(Straight(how).double(), torch.randn(20, 4), torch.randint(0, 3, (20,)))
    with pytest.raises(MetricFailed, match="is not the derivative of its outputs"):
        sb.measure(subject, metric)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kinks_at_the_very_points_are_no_fault(dtype):
    torch.manual_seed(0)
    points = torch.tensor([[0.0] * 4, [1.0] * 4, [0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    net = Straight("bent").to(dtype)
    nn.init.zeros_(net.layer.bias)
    subject = sb.Subject(net, points.repeat(5, 1), torch.randint(0, 3, (20,)))
    assert sb.measure(subject, "input_jacobian_norm").value > 0


def test_a_network_whose_samples_depend_on_each_other_is_measured_whole_or_not_at_all():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
    )
    subject = sb.Subject(net, torch.randn(20, 4), torch.randint(0, 3, (20,)))
    assert sb.measure(subject, "hessian_top_eigenvalue").converged
    with pytest.raises(MetricFailed, match="together"):
        sb.measure(subject, "hessian_top_eigenvalue", samples=10)
