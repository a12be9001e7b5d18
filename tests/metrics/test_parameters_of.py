"""Metrics of a part of the weights: blocks of a quadratic loss, whose answers are known, and all by name."""

import math

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.metrics import metrics
from tests.metrics.test_contract import QUICKER

SLOPE = torch.tensor([0.6, -0.8, 1.0, 2.0, -3.0], dtype=torch.float64)
ROOT = torch.tensor(
    [
        [2.0, 0.5, 0.0, 1.0, 0.0],
        [0.0, 1.0, 0.3, 0.0, -1.0],
        [0.2, 0.0, 3.0, 0.0, 0.4],
        [0.0, 0.7, 0.0, 1.5, 0.0],
        [1.0, 0.0, 0.0, 0.2, 2.5],
    ],
    dtype=torch.float64,
)
HESSIAN = ROOT.T @ ROOT
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, -0.3, 4.0], dtype=torch.float64)


class Two(nn.Module):
    """Returns its weights, which two of its parts hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.ParameterDict(), nn.ParameterDict()
        self.head["weight"] = nn.Parameter(WEIGHTS[:2].clone())
        self.body["weight"] = nn.Parameter(WEIGHTS[2:].clone())

    def forward(self, x):
        return x * torch.cat([self.head["weight"], self.body["weight"]])


@pytest.fixture(scope="module")
def bowl() -> sb.Subject:
    """L(w + ε) − L(w) = gᵀε + ½εᵀHε with g = SLOPE, the same for every sample."""

    def loss(outputs, targets):
        moved = outputs - WEIGHTS
        return moved @ SLOPE + 0.5 * ((moved @ ROOT.T) ** 2).sum(1)

    return sb.Subject(Two(), torch.ones(4, 5), torch.zeros(4, 1), loss=loss)


PARTS = [("head", slice(0, 2)), ("body.weight", slice(2, 5)), ("*", slice(0, 5))]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_the_rise_along_a_part_is_that_of_its_block(bowl, name, part):
    g, h, w = SLOPE[part], HESSIAN[part, part], WEIGHTS[part]
    rho = 0.3

    def rise(step) -> float:
        return float(g @ step + 0.5 * step @ h @ step)

    def found(metric: str, **parameters) -> float:
        return sb.measure(bowl, metric, parameters_of=[name], seed=0, **parameters).value

    here = {"rho": rho, "m": "all"}
    assert found("sam_sharpness", **here) == pytest.approx(rise(rho * g / g.norm()))
    assert found("sam_sharpness", ball="linf", **here) == pytest.approx(rise(rho * g.sign()))
    scaled = rho * w**2 * g / (w * g).norm()
    assert found("sam_sharpness", adaptive="elementwise", **here) == pytest.approx(rise(scaled))
    assert found("geodesic_sharpness", **here) == pytest.approx(rise(scaled))
    step = rho * g / (g.norm() * math.hypot(1.0, float(g.norm())))
    assert found("monge_sharpness", **here) == pytest.approx(rise(step))


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_noise_in_a_part_costs_half_its_trace(bowl, name, part):
    trace = float(HESSIAN[part, part].trace())
    size = len(WEIGHTS[part])
    average = sb.measure(
        bowl, "sam_sharpness", parameters_of=[name], case="average", rho=0.3, draws=400, seed=1
    )
    assert abs(average.value - 0.045 * trace / size) < 4 * average.standard_error
    assert average.standard_error < 0.1 * average.value
    flatness = sb.measure(
        bowl, "pac_bayes_flatness", parameters_of=[name], criterion="loss", draws=400, seed=1
    )
    assert abs(flatness.value - trace / 0.2) < 4 * flatness.standard_error + flatness.error_bound
    assert flatness.standard_error < 0.1 * flatness.value


def test_a_part_of_what_is_added_up(bowl):
    for name, size in (("head", 2), ("body", 3), ("*weight", 5)):
        assert sb.measure(bowl, "parameter_count", parameters_of=[name]).value == size
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    subject = sb.Subject(model, torch.eye(4, dtype=torch.float64), torch.arange(4) % 3)
    whole = sb.measure(subject, "layer_norms").value
    parts = [sb.measure(subject, "layer_norms", parameters_of=[name]).value for name in "02"]
    assert sum(parts) == pytest.approx(whole)
    top = float(torch.linalg.matrix_norm(model[2].weight.detach(), 2))
    assert parts[1] == pytest.approx(2 * math.log(top))
    with pytest.raises(sb.MetricFailed, match="names no weight matrix"):
        sb.measure(subject, "layer_norms", parameters_of=["0.bias"])


def test_layers_may_stand_beside_weights_that_are_none():
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.ones(4, 3))
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head((x @ self.positions).tanh())

    subject = sb.Subject(Embedded(), torch.eye(4), torch.arange(4) % 2)
    with pytest.raises(MetricUnsupported, match="positions"):
        sb.measure(subject, "layer_norms")
    found = sb.measure(subject, "layer_norms", parameters_of=["head"], combine="total")
    weight = subject.model.head.weight.detach().double()
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(weight, 2)) ** 2)


OF_PARTS = [
    name
    for name in metrics.names()
    if "parameters_of" in metrics.create(name).parameters() and name != "relative_flatness"
]


@pytest.mark.parametrize("name", OF_PARTS)
def test_all_by_name_are_all(trained_mlp, name):
    """Bit for bit; and a name that fits nothing is refused by whichever metric is asked."""
    subject = trained_mlp
    if subject.initial is None:
        subject = sb.Subject(
            trained_mlp.model,
            *trained_mlp.data("train"),
            splits=trained_mlp.splits,
            initial=trained_mlp.model,
        )
    quicker = QUICKER.get(name, {})
    whole = sb.measure(subject, name, seed=5, **quicker)
    named = sb.measure(subject, name, seed=5, parameters_of=["*"], **quicker)
    assert named.value == whole.value
    assert named.errors == whole.errors
    assert named.work == whole.work
    with pytest.raises(sb.MetricFailed, match="no trainable parameter fits 'nowhere'"):
        sb.measure(subject, name, seed=5, parameters_of=["nowhere"], **quicker)


class Tied(nn.Module):
    """One matrix embeds the tokens and gives the outputs; a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(4, 3), nn.Linear(3, 3), nn.Linear(3, 4)
        self.head.weight = self.embedding.weight
        self.head.bias.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x @ self.embedding.weight)))


def test_a_tied_parameter_is_found_by_each_of_its_names():
    torch.manual_seed(0)
    model = Tied()
    subject = sb.Subject(model, torch.eye(4), torch.arange(4))
    for metric in ("gradient_norm", "gauss_newton_trace", "parameter_count"):
        expected = sb.measure(subject, metric, parameters_of=["embedding"]).value
        for names in (
            [model.head],
            ["head"],
            ["head.w*"],
            [model.head.weight],
            ["head", "embedding"],
        ):
            assert sb.measure(subject, metric, parameters_of=names).value == expected
    assert list(sb.by_layer(subject, blocks={"out": ["head"]}).parameters) == [12]
    with pytest.raises(MetricFailed, match=r"'head\.bias'\. Those that do require no gradients"):
        sb.measure(subject, "gradient_norm", parameters_of=["head.bias"])


def test_names_are_those_without_what_wraps_a_network():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    data = torch.randn(6, 3), torch.arange(6) % 2
    for metric in ("parameter_count", "parameter_norm", "gradient_norm", "sam_sharpness"):
        expected = sb.measure(sb.Subject(inner, *data), metric, parameters_of="2").value
        wrapped = sb.Subject(nn.DataParallel(inner), *data)
        for name in ("2", [inner[2]]):
            assert sb.measure(wrapped, metric, parameters_of=name).value == expected
