"""Relative flatness against dense Hessians and the closed form of the last layer."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

import sharpbench as sb
from sharpbench.invariance import transformations
from sharpbench.metrics import metrics
from sharpbench.seeds import torch_generator


def classifier(*layers: nn.Module, shape: tuple[int, ...], seed: int = 0) -> sb.Subject:
    """Drawn weights and labels of three classes."""
    generator = torch_generator(seed)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return sb.Subject(model, x, torch.randint(3, (len(x),), generator=generator))


def dense(subject: sb.Subject, name: str) -> float:
    """Σ ⟨w_s, w_s'⟩ tr H_{s,s'} from the whole block."""
    weight = subject.model.get_parameter(name).detach()

    def loss(moved: Tensor) -> Tensor:
        outputs = functional_call(subject.model, {name: moved}, (subject.inputs,))
        return nn.functional.cross_entropy(outputs, subject.targets)

    rows = weight.flatten(1)
    blocks = hessian(loss)(weight).detach().reshape(*rows.shape, *rows.shape)
    return float(torch.einsum("st,sjtj->", rows @ rows.T, blocks))


def test_the_last_layer_in_closed_form():
    """E[‖φ‖² Var_{s∼p}(w_s)], and the dense Hessian's figure."""
    subject = classifier(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), shape=(30, 4))
    phi = subject.model[:2](subject.inputs).detach()
    w, p = subject.model[2].weight.detach(), subject.model(subject.inputs).detach().softmax(1)
    variance = p @ w.square().sum(1) - (p @ w).square().sum(1)
    found = sb.measure(subject, "relative_flatness")
    assert found.value == pytest.approx(float((phi.square().sum(1) * variance).mean()), rel=1e-12)
    assert found.value == pytest.approx(dense(subject, "2.weight"), rel=1e-10)
    assert found.exact
    assert found.work.gradient_samples() == pytest.approx(32 / 3)  # one forward pass, two to check
    by_block = sb.measure(subject, "relative_flatness", parameters_of=["2.weight"])
    assert by_block.value == pytest.approx(found.value, rel=1e-10)


@pytest.mark.parametrize(
    ("layers", "shape", "name"),
    [
        ([nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)], (20, 4), "0.weight"),
        (
            [nn.Conv2d(2, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(12, 3)],
            (12, 2, 3, 3),
            "0.weight",
        ),
    ],
)
def test_any_layer_by_products(layers, shape, name):
    subject = classifier(*layers, shape=shape)
    expected = dense(subject, name)
    exact = sb.measure(subject, "relative_flatness", parameters_of=[name])
    assert exact.value == pytest.approx(expected, rel=1e-9)
    assert exact.details["method"] == "unit_vectors"
    probed = sb.measure(
        subject, "relative_flatness", parameters_of=[name], max_probes=12, tolerance=0.0, seed=1
    )
    low, high = probed.interval(0.999)
    assert low < expected < high
    assert probed.standard_error < abs(expected)


def test_only_normalized_features_bear_units_rescaled_one_by_one():
    subject = classifier(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), shape=(40, 4), seed=3)
    with torch.no_grad():  # a unit that is never active
        subject.model[0].bias[2] = -100.0
    changes = {
        name: subject.with_model(transformations.create(name).apply(subject.model, seed=0))
        for name in ("neuron_rescaling", "layer_rescaling")
    }
    for features in ("plain", "normalized"):
        value = sb.measure(subject, "relative_flatness", features=features).value
        whole, single = (
            sb.measure(changes[name], "relative_flatness", features=features).value / value
            for name in ("layer_rescaling", "neuron_rescaling")
        )
        assert whole == pytest.approx(1, rel=1e-12)
        assert (single == pytest.approx(1, rel=1e-12)) == (features == "normalized")
    assert (
        sb.measure(subject, "relative_flatness", features="normalized").details["constant_features"]
        == 1
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


def test_what_is_no_last_layer_is_refused_and_can_be_named():
    activated = classifier(nn.Linear(4, 3), nn.Tanh(), shape=(9, 4))
    with pytest.raises(sb.MetricFailed, match="does not end in a linear layer"):
        sb.measure(activated, "relative_flatness")
    reshaped = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))
    x = torch.randn(9, 4)
    with pytest.raises(sb.MetricFailed, match="does not end in a linear layer"):
        sb.measure(sb.Subject(reshaped, x, torch.randn(9, 2, 3)), "relative_flatness")
    found = sb.measure(activated, "relative_flatness", parameters_of=["0.weight"])
    assert found.value == pytest.approx(dense(activated, "0.weight"), rel=1e-9)
    tied = classifier(Tied(), shape=(9, 3))
    with pytest.raises(sb.MetricFailed, match="take part elsewhere"):
        sb.measure(tied, "relative_flatness")
    found = sb.measure(tied, "relative_flatness", parameters_of=["*weight"])
    assert found.value == pytest.approx(dense(tied, "0.layer.weight"), rel=1e-9)
    with pytest.raises(sb.MetricFailed, match=r"names 0\.layer\.weight, 0\.layer\.bias"):
        sb.measure(tied, "relative_flatness", parameters_of=["0*"])
    with pytest.raises(ValueError, match="no parameters_of"):
        metrics.create(
            "relative_flatness", {"features": "normalized", "parameters_of": ["0.weight"]}
        )
