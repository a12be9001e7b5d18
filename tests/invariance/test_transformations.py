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
        if name == "neuron_permutation" and max(widths) == 1:
            with pytest.raises(TransformationRefused, match="has two units"):
                transformation.apply(network, seed=seed)
            continue
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


KEEPS = {  # transformation: where it applies
    "attention_gl": {"vit"},
    "attention_rescaling": {"vit"},
    "channel_permutation": {"cnn", "resnet"},
    "head_permutation": {"vit"},
    "identity_layer_insertion": {"mlp", "cnn", "resnet", "vit"},
    "layer_rescaling": {"mlp", "cnn", "resnet", "vit"},
    "log_scale": {"mlp", "cnn", "resnet", "vit"},
    "neuron_permutation": {"mlp", "cnn", "resnet", "vit"},
    "neuron_rescaling": {"mlp", "cnn", "resnet", "vit"},
    "neuron_splitting": {"mlp", "cnn", "vit"},
    "normalization_folding": {"resnet"},
    "normalization_rescaling": {"resnet"},
    "residual_permutation": {"resnet", "vit"},
    "weight_normalization": {"mlp", "cnn", "resnet", "vit"},
    "composition": {"mlp", "cnn", "resnet", "vit"},
    "input_rescaling": {"mlp", "cnn", "resnet", "vit"},
    "input_rotation": {"mlp"},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("transformation", KEEPS)
def test_what_promises_the_function_keeps_it_or_says_why_not(name, transformation):
    network = build(name, activation="relu")
    change = transformations.create(transformation)
    if name not in KEEPS[transformation]:
        with pytest.raises(TransformationRefused):
            change.apply(network, seed=1)
        return
    state = torch.get_rng_state()
    changed = change.apply(network, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # else a run takes its figures for spoilt
    assert verify_promise(change, network, changed, inputs(name)) < 1e-10
    # Not the same parameters: a change that changed nothing would keep its promise too.
    before, after = (torch.cat([p.reshape(-1) for p in n.parameters()]) for n in (network, changed))
    assert before.shape != after.shape or not torch.equal(before, after)


def test_every_transformation_that_promises_the_function_is_tested():
    promised = {n for n in transformations if transformations.get(n).preserves == "function"}
    assert promised == {*KEEPS, "sign_flip"}


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU]),
    norm=st.booleans(),
    strength=st.floats(0.1, 2.0),
    share=st.floats(0.05, 1.0),
    seed=st.integers(0, 10**6),
)
def test_random_networks_keep_their_function(widths, activation, norm, strength, share, seed):
    torch.manual_seed(seed)
    layers, fan_in = [], 4
    for width in widths:
        layers.append(nn.Linear(fan_in, width))
        if norm:
            layers.append(nn.BatchNorm1d(width))
            layers[-1].running_var.uniform_(0.1, 3)
        layers.append(activation())
        fan_in = width
    network = nn.Sequential(*layers, nn.Linear(fan_in, 3)).double().eval()
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch_generator(seed))
    applied = 0
    for name in KEEPS:
        parameters = {
            "neuron_rescaling": {"strength": strength},
            "normalization_rescaling": {"strength": strength},
            "neuron_splitting": {"share": share},
            "layer_rescaling": {"alpha": 10**strength},
        }.get(name, {})
        change = transformations.create(name, parameters)
        try:
            changed = change.apply(network, seed=seed)
        except TransformationRefused:
            continue
        assert verify_promise(change, network, changed, x) < 1e-10
        applied += 1
    assert applied >= 5


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 3),
    size=st.integers(1, 4),
    condition=st.floats(1, 1e4),
    strength=st.floats(0.1, 4),
    seed=st.integers(0, 10**6),
)
def test_attention_of_any_shape_keeps_its_function(heads, size, condition, strength, seed):
    network = build("vit", width=heads * size, heads=heads, depth=1)
    for name, parameters in (
        ("attention_gl", {"condition": condition}),
        ("attention_rescaling", {"strength": strength}),
        ("head_permutation", {}),
    ):
        change = transformations.create(name, parameters)
        if name == "head_permutation" and heads == 1:
            with pytest.raises(TransformationRefused, match="has two heads"):
                change.apply(network, seed=seed)
            continue
        assert (
            verify_promise(change, network, change.apply(network, seed=seed), inputs("vit")) < 1e-10
        )


def test_sign_flip_needs_an_odd_activation_without_max_pooling():
    flip = transformations.create("sign_flip")
    for name in ("mlp", "resnet"):
        network = build(name, activation="tanh")
        changed = flip.apply(network, seed=1)
        assert verify_promise(flip, network, changed, inputs(name)) < 1e-10
    for name, activation in (("mlp", "relu"), ("vit", "gelu")):
        with pytest.raises(TransformationRefused, match="odd activation"):
            flip.apply(build(name, activation=activation), seed=1)
    cnn = build("cnn", activation="tanh")
    changed = flip.apply(cnn, seed=1)  # the second convolution is max-pooled, the first is not
    assert verify_promise(flip, cnn, changed, inputs("cnn")) < 1e-10
    assert torch.equal(changed.conv2.bias, cnn.conv2.bias)


def test_folding_equals_torchs_own():
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network = build("resnet", activation="relu")
    folded = transformations.create("normalization_folding").apply(network, seed=0)
    fused = fuse_conv_bn_eval(network[0], network[1])
    assert torch.allclose(folded[0].weight, fused.weight, rtol=1e-12)
    assert torch.allclose(folded[0].bias, fused.bias, rtol=1e-12)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def test_weight_normalization_equals_torchs_own():
    from torch.nn.utils.parametrizations import weight_norm

    network = build("mlp", activation="relu")
    ours = transformations.create("weight_normalization").apply(network, seed=0)
    theirs = copy.deepcopy(network)
    for module in theirs.modules():
        if isinstance(module, nn.Linear):
            weight_norm(module, dim=0)
    x = inputs("mlp")
    gradients = []
    for changed in (ours, theirs):
        named = dict(changed.named_parameters())
        losses = changed(x).square().sum()
        gradients.append(
            dict(zip(named, torch.autograd.grad(losses, list(named.values())), strict=True))
        )
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][key], rtol=1e-10, atol=1e-12)


def test_a_logit_shift_keeps_the_loss_and_nothing_else_may():
    shift = transformations.create("logit_shift")
    network = build("mlp")
    changed = shift.apply(network, seed=0)
    assert verify_promise(shift, network, changed, inputs("mlp")) > 0.1
    broken = copy.deepcopy(changed)
    with torch.no_grad():
        broken[-1].bias[0] += 1
    with pytest.raises(TransformationRefused, match="promises to preserve the loss"):
        verify_promise(shift, network, broken, inputs("mlp"))


def test_further_training_moves_and_needs_the_data(trained_mlp):
    more = transformations.create("further_training", {"steps": 5})
    model = trained_mlp.working_model(torch.float64)
    changed = more.apply(model, seed=0, splits=trained_mlp.splits)
    assert verify_promise(more, model, changed, trained_mlp.inputs[:50]) > 1e-6
    assert all(p.grad is None for p in changed.parameters())
    with pytest.raises(TransformationRefused, match="training data"):
        more.apply(model, seed=0)


def test_compositions_name_what_they_are_made_of():
    with pytest.raises(ValueError, match="does not preserve"):
        transformations.get("composition")(of=("neuron_rescaling", "weight_noise"))
    with pytest.raises(ValueError, match="at least two"):
        transformations.get("composition")(of=("neuron_rescaling",))
    neither = transformations.create("composition", {"of": ("attention_gl", "head_permutation")})
    with pytest.raises(TransformationRefused, match="none of"):
        neither.apply(build("mlp"), seed=0)


@pytest.mark.parametrize(
    ("name", "on_the_stream", "inside_a_block"),
    [
        ("resnet", {"0.weight", "3.conv1.weight", "3.conv2.weight"}, "3.norm1.weight"),
        (
            "vit",
            {"0.project.weight", "0.positions", "1.attention.output.weight", "1.mlp.2.weight"},
            "1.attention.query.bias",
        ),
    ],
)
def test_a_residual_stream_is_permuted_with_all_that_writes_and_reads_it(
    name, on_the_stream, inside_a_block
):
    network = build(name, activation="gelu")
    changed = transformations.create("residual_permutation").apply(network, seed=4)
    moved = {
        n for (n, a), b in zip(network.named_parameters(), changed.parameters(), strict=True)
        if not torch.equal(a, b)
    }  # fmt: skip
    assert on_the_stream <= moved
    assert inside_a_block not in moved


def test_a_network_of_ones_own_with_a_skip():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.inner, self.back = nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 5)
            self.norm, self.leave = nn.LayerNorm(5), nn.Linear(5, 2)

        def forward(self, x):
            x = self.enter(x)
            x = x + self.back(torch.tanh(self.inner(self.norm(x))))
            return self.leave(x)

    torch.manual_seed(0)
    network = Skip().double()
    change = transformations.create("residual_permutation")
    changed = change.apply(network, seed=2)
    x = torch.randn(6, 3, dtype=torch.float64)
    assert verify_promise(change, network, changed, x) < 1e-12
    assert not torch.equal(network.leave.weight, changed.leave.weight)


@pytest.mark.parametrize(
    "of", [("input_rotation", "channel_permutation"), ("channel_permutation", "input_rotation")]
)
def test_a_part_that_is_left_out_of_a_composition_maps_no_inputs(trained_cnn, of):
    before = trained_cnn.working_model(torch.float64)
    inputs = trained_cnn.inputs[:32].double()
    with pytest.raises(TransformationRefused):
        transformations.create("input_rotation").apply(before, seed=0)
    composition = transformations.create("composition", {"of": of})
    after = composition.transform(before, seed=0)
    assert torch.equal(after.points(inputs), inputs)
    assert not torch.equal(composition.points(inputs), inputs)
    verify_promise(composition, before, after.model, inputs, points=after.points)
    moved = [
        not torch.equal(p, q)
        for p, q in zip(before.parameters(), after.model.parameters(), strict=True)
    ]
    assert any(moved)


def test_a_part_that_refuses_half_way_leaves_no_trace_in_a_composition(trained_mlp):
    from dataclasses import dataclass

    from sharpbench.invariance import Transformation

    @dataclass(frozen=True)
    class HalfWay(Transformation):
        """Changes a network and refuses it then."""

        name, kind, preserves = "half_way", "chart", "function"

        def change(self, model, *, seed):
            for parameter in model.parameters():
                parameter.zero_()
            raise TransformationRefused("too late")

    transformations.register(HalfWay)
    try:
        before = trained_mlp.working_model(torch.float64)
        composition = transformations.create(
            "composition", {"of": ("half_way", "neuron_permutation")}
        )
        after = composition.transform(before, seed=0)
        verify_promise(composition, before, after.model, trained_mlp.inputs[:32].double())
    finally:
        transformations.forget("half_way")
