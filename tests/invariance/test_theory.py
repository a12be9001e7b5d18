"""Known theory of reparameterisations, reproduced on trained networks in float64."""

import pytest
import torch

import sharpbench as sb
from sharpbench.invariance import transformations
from sharpbench.metrics import metrics
from tests.conftest import trained


@pytest.fixture(scope="module")
def relu(digits):
    subject = trained(digits, "mlp", {"widths": [16], "activation": "relu"})
    return subject.with_model(subject.working_model(torch.float64))


@pytest.fixture(scope="module")
def resnet(digits):
    subject = trained(digits, "resnet", {"widths": [4, 4], "activation": "relu"}, epochs=2)
    return subject.with_model(subject.working_model(torch.float64))


def changed(subject, name, **parameters):
    transformation = transformations.create(name, parameters)
    return subject.with_model(transformation.apply(subject.model, seed=3))


def trace(subject, *parameters_of):
    return sb.measure(
        subject, "hessian_trace", method="gauss_newton", samples=200, seed=0,
        parameters_of=parameters_of,
    ).value  # fmt: skip


@pytest.mark.parametrize("alpha", [0.1, 3.0, 100.0])
def test_the_trace_of_a_two_layer_relu_network_under_alpha_scaling(relu, alpha):
    """The first layer's part falls by α², the second layer's weights' grows by α², its bias's stays."""
    first, weights, bias = (trace(relu, p) for p in ("1.*", "3.weight", "3.bias"))
    assert first + weights + bias == pytest.approx(trace(relu), rel=1e-10)
    exact = first / alpha**2 + alpha**2 * weights + bias
    assert trace(changed(relu, "layer_rescaling", alpha=alpha)) == pytest.approx(exact, rel=1e-9)


def test_a_convolution_before_a_batch_norm_can_have_any_trace(resnet):
    before = trace(resnet, "0.weight")
    scaled = changed(resnet, "normalization_rescaling", strength=2.0)
    factors = (scaled.model[0].weight / resnet.model[0].weight).flatten(1).mean(1)
    assert float(factors.std()) > 0.1
    low, high = before / float(factors.max()) ** 2, before / float(factors.min()) ** 2
    assert low <= trace(scaled, "0.weight") <= high
    assert trace(scaled, "0.weight") != pytest.approx(before, rel=0.01)


@pytest.mark.parametrize("labels", ["model", "observed"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("neuron_rescaling", {"strength": 2.0}),
        ("layer_rescaling", {"alpha": 50.0}),
        ("logit_shift", {}),
        ("neuron_permutation", {}),
        ("neuron_splitting", {}),
        ("weight_normalization", {}),
    ],
)
def test_the_fisher_rao_norm_stays(relu, name, parameters, labels):
    def norm(subject):
        return sb.measure(subject, "fisher_rao_norm", labels=labels, samples=200, seed=0).value

    transformation = transformations.create(name, parameters)
    assert metrics.create("fisher_rao_norm", {"labels": labels}).promises(transformation)
    assert norm(changed(relu, name, **parameters)) == pytest.approx(norm(relu), rel=1e-8)


def test_the_fisher_rao_norm_moves_with_the_chart_and_the_temperature(relu):
    for labels in ("model", "observed"):
        metric = metrics.create("fisher_rao_norm", {"labels": labels})
        for name in ("log_scale", "logit_temperature"):
            assert not metric.promises(transformations.create(name))
        before, after = (
            metric.measure(subject, seed=0).value
            for subject in (relu, changed(relu, "logit_temperature"))
        )
        assert after != pytest.approx(before, rel=1e-3)


def test_a_promise_for_a_composition_takes_one_for_every_part():
    metric = metrics.create("fisher_rao_norm")
    for of, kept in (
        (["neuron_rescaling", "neuron_permutation"], True),
        (["neuron_permutation", "log_scale"], False),
    ):
        assert metric.promises(transformations.create("composition", {"of": of})) == kept


def test_the_fisher_rao_norm_of_a_relu_network_is_that_of_its_outputs(digits):
    """Without biases f is homogeneous of the depth L, so that Jw = L·f: √E[L² fᵀΛf], and for the labels
    given √E[L² ⟨p − e_y, f⟩²]."""
    subject = trained(digits, "mlp", {"widths": [8], "activation": "relu"})
    model = subject.working_model(torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("weight"))
    plain = subject.with_model(model)
    x, y = plain.data("train")
    with torch.no_grad():
        f = model(x.double())
    p = f.softmax(1)
    exact = (4 * ((p * f**2).sum(1) - (p * f).sum(1) ** 2)).mean().sqrt()
    found = sb.measure(plain, "fisher_rao_norm", seed=0)
    assert found.value == pytest.approx(float(exact), rel=1e-9)
    slopes = 2 * ((p * f).sum(1) - f.gather(1, y.unsqueeze(1)).squeeze(1))
    found = sb.measure(plain, "fisher_rao_norm", labels="observed", seed=0)
    assert found.value == pytest.approx(float(slopes.square().mean().sqrt()), rel=1e-9)
    assert found.exact
