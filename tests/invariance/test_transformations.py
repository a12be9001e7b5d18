import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sharpbench as sb
from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import verify_promise
from sharpbench.invariance.structure import hidden_units
from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS
from sharpbench.seeds import torch_generator

SHAPES = {"mlp": (3,), "cnn": (1, 8, 8), "resnet": (1, 8, 8), "vit": (1, 4, 4)}


def build(name, **parameters):
    network = models.create(name, parameters).build(SHAPES[name], 3, seed=0).double()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return network.eval()


def inputs(name):
    return torch.randn(16, *SHAPES[name], dtype=torch.float64, generator=torch_generator(5))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_permutation_keeps_every_network(name, activation):
    network = build(name, activation=activation)
    permuted = transformations.create("neuron_permutation").apply(network, seed=1)
    before, after = (
        torch.cat([p.reshape(-1) for p in n.parameters()]) for n in (network, permuted)
    )
    assert not torch.equal(before, after)
    verify_promise(transformations.create("neuron_permutation"), network, permuted, inputs(name))


@pytest.mark.parametrize("name", SHAPES)
def test_rescaling_keeps_relu_networks_and_refuses_others(name):
    rescaling = transformations.create("neuron_rescaling", {"strength": 2.0})
    network = build(name, activation="relu")
    changed = rescaling.apply(network, seed=1)
    assert verify_promise(rescaling, network, changed, inputs(name)) < 1e-10
    with pytest.raises(TransformationRefused, match=r"positively homogeneous.*GELU"):
        rescaling.apply(build(name, activation="gelu"), seed=1)


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    leaky=st.booleans(),
    bias=st.booleans(),
    norm=st.booleans(),
    strength=st.floats(0.1, 3),
    seed=st.integers(0, 10**6),
)
def test_users_own_networks_keep_their_function(widths, leaky, bias, norm, strength, seed):
    layers, fan_in = [], 4
    for width in widths:
        layers.append(nn.Linear(fan_in, width, bias=bias))
        if norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.LeakyReLU(0.2) if leaky else nn.ReLU())
        fan_in = width
    network = nn.Sequential(*layers, nn.Linear(fan_in, 2)).double().eval()
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch_generator(seed))
    for name, parameters in (
        ("neuron_rescaling", {"strength": strength}),
        ("neuron_permutation", {}),
    ):
        transformation = transformations.create(name, parameters)
        verify_promise(transformation, network, transformation.apply(network, seed=seed), x)


def test_the_hidden_units_of_known_networks():
    sizes = {n: [u.size for u in hidden_units(build(n, activation="relu"))] for n in SHAPES}
    assert sizes["mlp"] == [64, 64]
    assert sizes["cnn"] == [32, 64, 128]
    assert sizes["resnet"] == [16, 32]  # the inside of each block; the stream has several readers
    assert sizes["vit"] == [64, 64]  # the inside of each block's MLP
    flattened = hidden_units(build("cnn"))[1]
    assert flattened.repeat == 2 * 2  # 64 maps of 2×2 flattened


def test_functional_activations_and_shared_layers():
    class Functional(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)
            self.shared = shared

        def forward(self, x):
            hidden = torch.relu(self.first(x))
            hidden = torch.relu(self.second(hidden))
            if self.shared:
                hidden = torch.relu(self.second(hidden))
            return self.third(hidden)

    assert len(hidden_units(Functional(shared=False))) == 2
    with pytest.raises(TransformationRefused, match="no layer of hidden units"):
        hidden_units(Functional(shared=True))


def test_what_cannot_be_traced_says_so():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(TransformationRefused, match=r"torch\.fx can't trace"):
        hidden_units(Branching())


def test_a_broken_promise_is_caught():
    network = build("mlp", activation="relu")
    broken = copy.deepcopy(network)
    next(broken.parameters()).data[0] += 1e-6
    rescaling, noise = (transformations.create(n) for n in ("neuron_rescaling", "weight_noise"))
    with pytest.raises(TransformationRefused, match="promises to preserve the function"):
        verify_promise(rescaling, network, broken, inputs("mlp"))
    with pytest.raises(TransformationRefused, match="must change the function"):
        verify_promise(noise, network, copy.deepcopy(network), inputs("mlp"))


def test_noise_has_the_stated_size_and_leaves_the_original_alone():
    network = build("mlp", widths=[300, 300])
    before = copy.deepcopy(network.state_dict())
    noisy = transformations.create("weight_noise", {"strength": 0.2}).apply(network, seed=0)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    delta = (noisy[2].weight - network[2].weight).detach()
    size = network[2].weight.detach().square().mean().sqrt()
    assert float(delta.std() / size) == pytest.approx(0.2, rel=0.02)


def test_the_trace_of_a_rescaled_relu_network_moves_as_theory_says():
    """f = w₂·relu(w₁x) with squared error and one unit: H = diag blocks, trace = E[r²(w₂² + w₁²)]x²…

    For one active unit the Gauss-Newton blocks are x²w₂² and x²w₁² per sample, so that under
    (αw₁, w₂/α) the trace becomes E[x²](w₂²/α² + α²w₁²): Dinh's runaway, in closed form.
    """
    x = torch.rand(50, 1, dtype=torch.float64) + 0.5
    network = nn.Sequential(
        nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)
    ).double()
    network[0].weight.data.fill_(0.7)
    network[2].weight.data.fill_(1.3)
    y = network(x).detach()  # zero residual: the Hessian is Gauss-Newton's
    for alpha in (0.01, 1.0, 100.0):
        scaled = copy.deepcopy(network)
        scaled[0].weight.data *= alpha
        scaled[2].weight.data /= alpha
        subject = sb.Subject(scaled, x, y)
        eigenvalue = sb.measure(subject, "hessian_top_eigenvalue", tolerance=1e-10, max_products=5)
        expected = x.square().mean() * (1.3**2 / alpha**2 + alpha**2 * 0.7**2)
        assert eigenvalue.value == pytest.approx(float(expected), rel=1e-9)  # rank one: trace = top
