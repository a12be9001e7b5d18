"""What is claimed to be changed is, keeps the function on other inputs too, and every layer is told of."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import sharpbench as sb
from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import changing, verify_promise
from sharpbench.invariance.keeping import moved_by
from sharpbench.invariance.recording import (
    THE_NETWORK,
    left_alone,
    note_rest,
    noting,
    recorded,
    running_on,
)
from sharpbench.precision import without_casts
from sharpbench.subject import Subject
from sharpbench.suite.changing import changed

Y = torch.arange(6) % 3
UNITS = ("neuron_permutation", "neuron_rescaling", "neuron_splitting", "layer_rescaling")
HEADS = ("head_permutation", "attention_rescaling", "attention_gl")
CHARTS = ("weight_normalization", "log_scale")


class Net(nn.Module):
    """Layers by name, and a forward pass of its own."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.inside = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.inside(self, x)


def subject(build, *shape):
    torch.manual_seed(0)
    return Subject(build(), torch.randn(6, *(shape or (8,))), Y)


def named(model):
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def moved(before, after):
    """The layers of which something moved, by their names, without those that only joined them."""
    now, layers = named(after), set()
    for name, tensor in named(before).items():
        there = now.get(name)
        if (
            there is None
            or there.shape != tensor.shape
            or not torch.equal(there, tensor.to(there.dtype))
        ):
            layers.add(name.rpartition(".")[0].partition(".parametrizations")[0])
    return layers


def make(before, name, others=()):
    """The change by ``name``, held against the network on other inputs as well; and which layers moved."""
    change = transformations.create(name)
    found = changed(before, change, seed=3)
    old, new = (s.working_model(torch.float64) for s in (before, found.subject))
    shape = before.inputs.shape[1:]
    for x in (torch.randn(1, *shape), 30 * torch.randn(17, *shape), *others):
        with torch.no_grad():
            assert moved_by(old(x.double()), new(x.double())) < 1e-9, name
    return found, moved(old, new)


# --- weights that are no parameters ---------------------------------------------------------------


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.3)
    return layer


COMPUTED = [parametrizations.weight_norm, parametrizations.spectral_norm, pruned, weight_norm]


@pytest.mark.parametrize("wrap", [*COMPUTED, spectral_norm])
@pytest.mark.parametrize("name", [*UNITS, *CHARTS])
def test_a_weight_that_is_computed_is_left_and_the_other_layers_are_changed(wrap, name):
    before = subject(
        lambda: nn.Sequential(
            wrap(nn.Linear(8, 6, bias=False)), nn.ReLU(), wrap(nn.Linear(6, 5, bias=False)),
            nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3),
        )
    )  # fmt: skip
    found, layers = make(before, name)
    assert layers <= {"4", "6", "8"}
    assert {"4", "6"} & layers
    assert "0, 2" in found.left


@pytest.mark.parametrize("wrap", COMPUTED)
@pytest.mark.parametrize("name", [*HEADS, "residual_permutation"])
def test_attention_with_weights_that_are_computed_is_left(wrap, name):
    both = subject(
        lambda: Stack(Attention(wrap=wrap, bias=False), Attention(heads=3, size=12)), 5, 8
    )
    if name == "residual_permutation":
        with pytest.raises(TransformationRefused, match="computed from others"):
            make(both, name)
        return
    found, layers = make(both, name)
    assert {layer.rpartition(".")[0] for layer in layers} == {"layers.1"}
    assert "layers.0 (its weights are computed" in found.left
    alone = subject(lambda: Stack(Attention(wrap=wrap, bias=False)), 5, 8)
    with pytest.raises(TransformationRefused, match="no attention layer"):
        make(alone, name)


class Attention(nn.Module):
    def __init__(self, heads=2, size=8, bias=True, wrap=lambda layer: layer, norm=None):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (wrap(nn.Linear(8, size, bias)) for _ in range(3))
        self.output = wrap(nn.Linear(size, 8, bias))
        self.norm = norm

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.norm is not None:
            q, k = self.norm(q), self.norm(k)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Stack(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.up, self.down, self.head = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.head((x + self.down(F.relu(self.up(x)))).mean(1))


# --- what the network does with a layer beyond what is seen --------------------------------------


@pytest.mark.parametrize("name", ["attention_rescaling", "attention_gl"])
def test_normalised_queries_and_keys_stay_and_their_values_are_changed(name):
    normed = subject(lambda: Stack(Attention(norm=nn.LayerNorm(4)), Attention()), 5, 8)
    found, layers = make(normed, name, [torch.randn(2, 11, 8)])
    assert {"layers.0.value", "layers.0.output", "layers.1.query"} <= layers
    assert not layers & {"layers.0.query", "layers.0.key"}
    assert "layers.0 (the function moves when what makes its queries and keys" in found.left


def test_an_order_of_heads_that_a_bias_for_each_head_tells_is_left():
    class Sloped(Attention):
        def forward(self, x):
            far = torch.arange(x.shape[1]).view(-1, 1) - torch.arange(x.shape[1])
            bias = -far.abs() * torch.tensor([0.5, 0.1, 0.02]).to(x).view(-1, 1, 1)
            q, k, v = (
                layer(x).unflatten(-1, (3, -1)).transpose(1, 2)
                for layer in (self.query, self.key, self.value)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            return self.output(mixed.transpose(1, 2).flatten(2))

    both = subject(lambda: Stack(Sloped(3, 12), Attention(3, 12)), 5, 8)
    found, layers = make(both, "head_permutation", [torch.randn(2, 9, 8)])
    assert {layer.rpartition(".")[0] for layer in layers} == {"layers.1"}
    assert "layers.0 (the function moves when it is changed, by" in found.left
    _, layers = make(both, "attention_gl", [torch.randn(2, 9, 8)])
    assert {layer.rpartition(".")[0] for layer in layers} == {"layers.0", "layers.1"}


def test_weights_that_serve_two_attention_layers_are_left():
    def build():
        stack = Stack(Attention(3, 12), Attention(3, 12), Attention(3, 12))
        stack.layers[1].query = stack.layers[0].query
        return stack

    found, layers = make(subject(build, 5, 8), "head_permutation")
    assert {layer.rpartition(".")[0] for layer in layers} == {"layers.2"}
    assert "layers.0, layers.1 (its weights serve more than once)" in found.left


def test_queries_keys_and_values_that_lie_head_by_head():
    class ByHead(nn.Module):
        """BLOOM's and GPT-NeoX's."""

        def __init__(self):
            super().__init__()
            self.num_heads = 2
            self.query_key_value, self.dense = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = self.query_key_value(x).unflatten(-1, (2, 3, 4)).transpose(1, 2).unbind(3)
            mixed = F.scaled_dot_product_attention(q, k, v)
            return self.dense(mixed.transpose(1, 2).flatten(2))

    for name in HEADS:
        found, layers = make(subject(lambda: Stack(ByHead()), 5, 8), name, [torch.randn(2, 3, 8)])
        assert layers == {"layers.0.query_key_value", "layers.0.dense"}
        assert "layers.0" not in found.left


@torch.jit.script
def swish(x):
    return x * torch.sigmoid(x)


def read_unseen(net, x):
    h = net.a(x)
    y = net.b(F.relu(h)) + 0.1 * torch.vmap(lambda row: row.cumsum(0))(h)
    return net.d(F.relu(net.c(F.relu(y))))


def four(forward, width=6):
    layers = zip(
        "abcd",
        (nn.Linear(8, 6), nn.Linear(6, width), nn.Linear(width, 6), nn.Linear(6, 3)),
        strict=True,
    )
    return subject(lambda: Net(forward, **dict(layers)))


@pytest.mark.parametrize("name", ["neuron_permutation", "neuron_rescaling", "neuron_splitting"])
def test_a_reader_that_is_not_seen_leaves_its_layer_alone_and_no_other(name):
    found, layers = make(four(read_unseen), name)
    assert layers == {"c", "d"}
    assert "a (the function moves when it is changed" in found.left


def written(net, x):
    h = F.relu(net.a(x))
    h[h > 50] = 50.0  # no sample reaches it
    h = F.relu(net.b(h))
    view = h.view(-1)
    view.clamp_(max=20)
    return net.d(F.relu(net.c(h)))


@pytest.mark.parametrize("name", ["neuron_permutation", "neuron_rescaling", "neuron_splitting"])
def test_what_is_written_into_is_another_tensor_from_then_on(name):
    found, layers = make(four(written), name, [1000 * torch.randn(5, 8)])
    assert layers == {"c", "d"}
    assert "a, b (its units are read in 2 places)" in found.left


def test_what_writes_is_in_the_graph():
    def forward(net, x):
        h = net.a(x)
        h[:, 0] = net.b(F.relu(x[:, :6]))[:, 0]
        return net.d(net.c(h.relu_()))

    graph = recorded(four(forward).model, lambda m: m(torch.randn(3, 8)))
    nodes = {n.name: n for n in graph.nodes}
    (reader,) = nodes["a"].users
    assert reader.target == "__setitem__"
    a, value = reader.all_input_nodes
    assert (a.name, value.target, value.args[0].name) == ("a", operator.getitem, "b")
    assert [n.target for n in reader.users] == ["relu_"]


def test_what_asks_for_a_shape_reads_nothing():
    def forward(net, x):
        h = F.relu(net.a(x))
        first = h[:, 0] * 2
        start = torch.zeros_like(h) + h.new_ones(len(first), 6)
        return net.d(F.relu(net.c(F.relu(net.b(h))))) + start[:, :3]

    assert make(four(forward), "neuron_permutation")[1] == {"a", "b", "c", "d"}


def test_numbers_that_leave_torch_are_read():
    def forward(net, x):
        gate = net.b(net.a(x)).sum().item()
        return net.d(F.relu(net.c(x[:, :6]))) * (1 if gate > -1e9 else 0)

    found, _ = make(four(forward), "neuron_permutation")
    assert "b (its units are read by sum)" in found.left

    def compiled(net, x):
        swish(net.a(x))
        return net.d(F.relu(net.c(x[:, :6])))

    found, _ = make(four(compiled), "neuron_permutation")
    assert "a (nothing that is seen reads its units" in found.left
    assert "are the outputs" not in found.left.partition("; d")[0]


def test_a_second_result_of_a_layer_is_read():
    def build():
        def forward(net, x):
            y, where = net.pool(F.relu(net.a(x)))
            y = net.unpool(F.relu(net.b(y)), where)
            return net.d(F.relu(net.e(F.relu(net.c(y)))).mean((2, 3)))

        layers = {n: nn.Conv2d(1 if n == "a" else 4, 4, 3, padding=1) for n in "abce"}
        pools = {"pool": nn.MaxPool2d(2, return_indices=True), "unpool": nn.MaxUnpool2d(2)}
        return Net(forward, **layers, **pools, d=nn.Linear(4, 3))

    for name in ("neuron_permutation", "neuron_splitting"):
        found, layers = make(subject(build, 1, 8, 8), name)
        assert layers == {"c", "e", "d"}  # e is read behind a mean over the places
        assert "a (its units are read in 2 places)" in found.left


def test_weights_that_are_used_without_their_layer_are_left():
    def forward(net, x):
        h = F.relu(net.b(F.relu(net.a(x))))
        return net.d(F.relu(net.c(h))) + net.a.weight.sum(0)[:3]

    found, layers = make(four(forward), "neuron_permutation")
    assert "a (its weight or its reader's is used elsewhere, too)" in found.left
    assert layers == {"b", "c", "d"}

    def tied(net, x):
        h = F.relu(net.a(x))
        back = F.linear(h, net.a.weight.t())
        return net.d(F.relu(net.c(F.relu(net.b(back[:, :6]))))) + 0 * back[:, :3]

    found, layers = make(four(tied), "neuron_rescaling")
    assert layers == {"b", "c", "d"}
    assert "a (its units are read by linear)" in found.left


# --- activations -----------------------------------------------------------------------------------


class Clip(nn.Module):
    def forward(self, x):
        return x.clamp(0, 20)


class Clipped(nn.ReLU):
    def forward(self, x):
        return x.clamp(0, 20)


@pytest.mark.parametrize("activation", [Clip, Clipped, nn.ReLU6, lambda: nn.Hardtanh(-9, 9)])
def test_a_clip_that_no_sample_reaches_is_no_homogeneous_activation(activation):
    layers = [nn.Linear(8, 6), activation(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    before = subject(lambda: nn.Sequential(*layers))
    _, layers = make(before, "neuron_permutation", [1000 * torch.randn(5, 8)])
    assert layers == {"0", "2", "4"}
    found, layers = make(before, "neuron_rescaling", [1000 * torch.randn(5, 8)])
    assert layers == {"2", "4"}
    assert "0 (its activation is not positively homogeneous)" in found.left


@pytest.mark.parametrize(
    ("activation", "homogeneous", "odd"),
    [
        (nn.Mish(), False, False),
        (nn.SELU(), False, False),
        (nn.Hardswish(), False, False),
        (nn.Softsign(), False, True),
        (nn.PReLU(), True, False),
        (nn.PReLU(6), True, False),
        (lambda x: x.clamp(min=0), True, False),
        (F.mish, False, False),
        (lambda x: 0.5 * x, True, True),
        (lambda x: F.dropout(x.abs(), 0.5, False), True, False),
    ],
)
def test_any_function_of_each_unit_alone_is_an_activation(activation, homogeneous, odd):
    def forward(net, x):
        return net.c(
            F.relu(net.b(net.act(net.a(x)) if hasattr(net, "act") else activation(net.a(x))))
        )

    def build():
        own = {"act": activation} if isinstance(activation, nn.Module) else {}
        if own and activation.state_dict():
            nn.init.uniform_(activation.weight, 0.1, 0.9)
        return Net(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 3), **own)

    before = subject(build)
    assert {"a", "b"} <= make(before, "neuron_permutation")[1]
    assert ("a" in make(before, "neuron_rescaling")[1]) == homogeneous
    if odd:
        assert "a" in make(before, "sign_flip")[1]
    else:
        with pytest.raises(TransformationRefused, match="odd activation"):
            make(before, "sign_flip")


def test_softmax_is_none():
    layers = [nn.Linear(8, 6), nn.Softmax(1), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    found, layers = make(subject(lambda: nn.Sequential(*layers)), "neuron_permutation")
    assert layers == {"2", "4"}
    assert "0 (its units are read by a Softmax)" in found.left


# --- along which axis units lie ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["neuron_permutation", "neuron_rescaling", "neuron_splitting"])
def test_tokens_that_are_flattened_are_read_token_by_token(name):
    tokens = subject(
        lambda: nn.Sequential(
            nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Flatten(),
            nn.Linear(25, 4), nn.ReLU(), nn.Linear(4, 3),
        ), 5, 8,
    )  # fmt: skip
    found, layers = make(tokens, name)
    assert layers == {"0", "2", "5", "7"}
    assert found.left == "left as they are: 7 (its units are the outputs)"


@pytest.mark.parametrize("count", [5, 6, 7])
@pytest.mark.parametrize("name", [*UNITS, "normalization_rescaling", "normalization_folding"])
def test_a_batch_norm_of_tokens_has_no_parameter_for_each_unit(name, count):
    tokens = subject(
        lambda: nn.Sequential(
            nn.Linear(8, 6), nn.BatchNorm1d(count), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(),
            nn.Linear(5, 4), nn.Flatten(), nn.Linear(4 * count, 3),
        ),
        count,
        8,
    )  # fmt: skip
    if name.startswith("normalization"):
        with pytest.raises(TransformationRefused, match="feeds a"):
            make(tokens, name)
        return
    found, layers = make(tokens, name)
    assert {"3", "5"} <= layers <= {"3", "5", "7"}
    assert "0 (a BatchNorm1d treats its units together, or along another axis)" in found.left


def test_units_that_lie_along_another_axis_than_is_read_are_left():
    def across(net, x):  # the linear layer reads the width of the maps
        return net.d(F.relu(net.b(F.relu(net.a(x)))).mean((1, 2)))

    def build():
        return Net(across, a=nn.Conv2d(1, 4, 3, padding=1), b=nn.Linear(8, 6), d=nn.Linear(6, 3))

    found, layers = make(subject(build, 1, 8, 8), "neuron_permutation")
    assert layers == {"b", "d"}
    assert "a (its units lie along another axis than its reader reads)" in found.left


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("name", ["neuron_permutation", "neuron_rescaling"])
def test_a_norm_over_the_units_has_a_scale_for_each(norm, name):
    def build():
        net = nn.Sequential(
            nn.Linear(8, 6), norm(6), nn.ReLU(), nn.Linear(6, 5), norm(5), nn.ReLU(),
            nn.Flatten(), nn.Linear(20, 3),
        )  # fmt: skip
        for p in net.parameters():
            nn.init.normal_(p)
        return net

    _, layers = make(subject(build, 4, 8), name)
    assert {"1", "4", "7"} <= layers


def test_a_norm_without_a_scale_leaves_its_layer_alone():
    layers = [nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 5)]
    layers += [nn.ReLU(), nn.Linear(5, 3)]
    found, layers = make(subject(lambda: nn.Sequential(*layers)), "neuron_rescaling")
    assert layers == {"3", "5"}
    assert "0 (a norm without scale and shift stands behind it)" in found.left


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]), nn.RMSNorm(6, 1e-3)])
def test_every_norm_that_takes_a_scale_out_is_fed_another(norm):
    layers = [nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
    assert make(subject(lambda: nn.Sequential(*layers), 1, 8, 8), "normalization_rescaling")[1] == {
        "0"
    }


# --- charts and growth -----------------------------------------------------------------------------


def test_tied_weights_keep_their_coordinates_together():
    def build():
        net = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(8, 8), nn.Tanh())))
        net[4].weight = net[2].weight
        return nn.Sequential(*net, nn.Linear(8, 3))

    before = subject(build)
    for name in CHARTS:
        found, layers = make(before, name)
        assert layers == {"0", "6", "8"}
        assert "2, 4 (its weight is that of another layer, too)" in found.left
        model = found.subject.model
        assert model[2].weight is model[4].weight
    with pytest.raises(TransformationRefused, match="of another layer, too"):
        make(
            subject(lambda: Net(lambda net, x: F.linear(net.a(x), net.a.weight), a=tied())),
            CHARTS[0],
        )


def tied():
    layer = nn.Linear(8, 8)
    layer.twin = nn.Module()
    layer.twin.weight = layer.weight
    return layer


def test_a_layer_with_a_unit_of_zeros_has_no_direction_and_the_others_have():
    def build():
        net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        with torch.no_grad():
            net[2].weight[1] = 0
        return net

    for name, reason in zip(CHARTS, ("no direction", "no logarithm"), strict=True):
        found, layers = make(subject(build), name)
        assert layers == {"0", "4"}
        assert reason in found.left


def test_the_coordinates_of_a_turned_layer_run_over_its_units():
    class Conv1D(nn.Module):
        """Hugging Face's linear layer of GPT-2."""

        def __init__(self, nf, nx):
            super().__init__()
            self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf))
            self.bias = nn.Parameter(torch.randn(nf))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight)

    found, _ = make(
        subject(lambda: nn.Sequential(Conv1D(5, 8), nn.GELU(), Conv1D(3, 5))),
        "weight_normalization",
    )
    assert not found.left
    layer = found.subject.model[0]
    with torch.no_grad():
        assert torch.allclose(layer.parametrizations.weight.original0[0], layer.weight.norm(dim=0))


@pytest.mark.parametrize(
    "name", [n for n in transformations if transformations.get(n).preserves == "function"]
)
def test_what_is_frozen_stays_it(name):
    def build():
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3),
        )  # fmt: skip
        for layer in net[:7]:
            layer.requires_grad_(False)
        return net

    try:
        model = changed(subject(build, 1, 8, 8), transformations.create(name), seed=1).subject.model
    except TransformationRefused:
        return
    for layer in model[:7]:
        assert not any(p.requires_grad for p in layer.parameters())


# --- the logits ------------------------------------------------------------------------------------


def mlp(outputs=3):
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, outputs))


def test_the_loss_that_stays_is_the_tasks_own():
    x, real = torch.randn(6, 8), torch.randn(6, 3)
    yes = (real > 0).float()
    shift = transformations.create("logit_shift")
    for net, y, loss in ((mlp(), yes, nn.BCEWithLogitsLoss()), (mlp(1), yes[:, 0], nn.BCEWithLogitsLoss()),
                         (mlp(), real, None)):  # fmt: skip
        with pytest.raises(TransformationRefused, match="but moved a sample's loss by"):
            changed(Subject(net, x, y, loss=loss), shift, seed=0)
    assert changed(Subject(mlp(), x, Y), shift, seed=0).function_change > 0.1


def headed(net, x):
    return net.head(F.relu(net.b(F.relu(net.a(x)))))


def beside(net, x):
    return net.b(F.relu(net.a(x))) + net.wide(x)


def behind(net, x):
    return net.b(F.relu(net.a(x))).log_softmax(1)


def test_what_is_told_to_divide_the_logits_does():
    a, b = nn.Linear(8, 6), nn.Linear(6, 3)
    temperature = transformations.create("logit_temperature")
    for forward, layers in (
        (headed, {"a": a, "head": b, "b": nn.Linear(6, 6)}),
        (beside, {"a": a, "b": b, "wide": nn.Linear(8, 3)}),
        (behind, {"a": a, "b": b}),
    ):
        net = Net(forward, **layers)
        with pytest.raises(TransformationRefused, match=r"divide the logits by 0\.5 but"):
            changed(Subject(net, torch.randn(6, 8), Y), temperature, seed=0)
    changed(Subject(mlp(), torch.randn(6, 8), Y), temperature, seed=0)
    shared = mlp()
    shared.twin = nn.Linear(6, 3)
    shared.twin.weight = shared[2].weight
    with pytest.raises(TransformationRefused, match="of another layer"):
        changed(
            Subject(Net(lambda n, x: n.m[2](n.m[1](n.m[0](x))), m=shared), torch.randn(6, 8), Y),
            temperature,
            seed=0,
        )


@pytest.mark.parametrize("mask", [-1e9, torch.finfo(torch.float64).min])
def test_a_masked_logit_hides_nothing(mask):
    old = torch.tensor([[1.0, -2.0, mask], [0.5, mask, 3.0]], dtype=torch.float64)
    new = old.clone()
    assert moved_by(old, new) == 0
    new[0, 0] += 1e-3
    assert moved_by(old, new) == pytest.approx(1e-3 / 3)
    new = old.clone()
    new[0, 2] *= 0.9
    assert moved_by(old, new) == pytest.approx(0.1)
    wide = torch.tensor([[1e-3, 1.0], [1e-2, 30.0]])
    assert moved_by(wide, wide + 1e-3) == pytest.approx(1e-3 / 30, rel=1e-3)


# --- what is told ----------------------------------------------------------------------------------


def mixture():
    def forward(net, x):
        first = net.a(x)
        y = F.relu(net.experts[0](first)) if bool((x[:, 0] < 1e9).all()) else net.experts[1](first)
        return net.d(F.relu(net.c(F.relu(net.norm(y)))) + net.own)

    experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
    own = nn.Parameter(torch.ones(6))
    layers = {"a": nn.Linear(8, 6), "c": nn.Linear(6, 6), "d": nn.Linear(6, 3)}
    return Net(forward, experts=experts, own=own, norm=nn.LayerNorm(6), **layers)


@pytest.mark.parametrize("name", sorted(transformations))
def test_every_layer_is_changed_or_told_of(name):
    for build, shape in (
        (mixture, (8,)),
        (lambda: Stack(Attention(3, 12), Attention(3, 12)), (5, 8)),
        (
            lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)),
            (2, 8),
        ),
    ):
        before = subject(build, *shape)
        for parameter in before.model.parameters():
            nn.init.normal_(parameter)
        try:
            found = changed(before, transformations.create(name), seed=1)
        except TransformationRefused:
            continue
        old, new = (s.working_model(torch.float64) for s in (before, found.subject))
        every = {n.rpartition(".")[0] for n, _ in old.named_parameters()}
        with noting() as left, running_on(before.run_few), changing(before):
            model = before.working_model(torch.float64)
            after = transformations.create(name).apply(model, seed=1, splits=before.splits)
            note_rest(model, after, "the rest")
        for layer in every - moved(old, new):
            told = layer or THE_NETWORK
            assert any(told == one or told.startswith(f"{one}.") for one in left), (told, left)


def test_a_sentence_names_layers_by_their_reasons():
    found = {f"l{i}": "no units" for i in range(7)} | {"x": "tied"}
    assert left_alone(found) == "left as they are: l0, l1, l2, l3 and 3 more (no units); x (tied)"


def test_of_a_network_without_units_it_is_told_what_they_are_read_by():
    layers = [nn.Linear(8, 6), nn.Softmax(1), nn.Linear(6, 3)]
    with pytest.raises(
        TransformationRefused, match=r"single reader: 0 \(its units are read by a Soft"
    ):
        make(subject(lambda: nn.Sequential(*layers)), "neuron_permutation")


def test_two_heads_do_change_places():
    orders = set()
    for seed in range(8):
        before = subject(lambda: Stack(Attention(2)), 5, 8)
        after = changed(before, transformations.create("head_permutation"), seed=seed).subject.model
        orders.add(
            torch.equal(after.layers[0].key.weight, before.model.layers[0].key.weight.double())
        )
    assert orders == {False}


def test_a_module_with_a_parameter_of_its_own_hides_no_layer_inside_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.norm = nn.Parameter(torch.ones(8)), nn.LayerNorm(8)

        def forward(self, x):
            return x + self.scale * self.norm(x)

    layers = [nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)]
    found, _ = make(subject(lambda: nn.Sequential(*layers, Block())), "neuron_permutation")
    assert "3, 3.norm (no linear layer" in found.left


def test_of_a_composition_each_part_tells_what_it_left():
    layers = [nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    found, moved_layers = make(subject(lambda: nn.Sequential(*layers)), "composition")
    assert moved_layers == {"0", "2", "4"}
    assert "0 (by neuron_rescaling: its activation is not positively homogeneous)" in found.left
    assert "4 (its units are the outputs)" in found.left
    smooth = [nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)]
    found, _ = make(subject(lambda: nn.Sequential(*smooth)), "composition")
    assert "neuron_rescaling (as a whole: needs a positively homogeneous" in found.left


# --- streams and maps of their own ---------------------------------------------------------------


def inverted(activation):
    """MobileNet's block: a norm and an activation stand on both sides of a convolution of each map."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), activation(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(320, 3),
    )  # fmt: skip
    for norm in (net[1], net[4]):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return net


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_units_pass_convolutions_of_each_map_and_norms_behind_activations(activation):
    before = subject(lambda: inverted(activation), 1, 8, 8)
    found, layers = make(before, "neuron_permutation")
    assert layers == {"0", "1", "3", "4", "6", "9"}
    assert "grouped" not in found.left
    assert make(before, "neuron_rescaling")[1] == {"4", "6", "9"}


class Norm32(nn.Module):
    """An RMS norm that computes in float32, whatever it is given, as Hugging Face's do."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x):
        exact = x.to(torch.float32)
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (exact * scale).to(x.dtype)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.scale = Norm32(8), nn.Parameter(torch.rand(8))
        self.gate, self.up, self.down = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x):
        h = self.norm(x)
        return x + self.scale * self.down(F.silu(self.gate(h)) * self.up(h))


class Gates(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.blocks = nn.Linear(4, 8), nn.ModuleList((Gated(), Gated()))
        self.last, self.head = Norm32(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.enter(x)
        for block in self.blocks:
            x = block(x).reshape(-1, 8).view(*x.shape)
        return self.head(self.last(x)[:, -1])


def test_a_stream_through_norms_and_scales_of_somebodys_own_is_permuted():
    before = subject(Gates, 5, 4)
    found = changed(before, transformations.create("residual_permutation"), seed=1)
    old, new = (s.working_model(torch.float64) for s in (before, found.subject))
    assert 1e-10 < found.function_change < 1e-5  # the cast's rounding
    x = torch.randn(3, 9, 4, dtype=torch.float64)
    with torch.no_grad():
        outputs, casts = without_casts(lambda: (old(x), new(x)))
    assert casts
    assert moved_by(*outputs) < 1e-12
    inside = {
        f"blocks.{i}{name}" for i in (0, 1) for name in ("", ".norm", ".gate", ".up", ".down")
    }
    assert moved(old, new) == {"enter", "last", "head", *inside}
    assert not found.left


def test_a_change_that_moves_the_function_less_than_a_casts_rounding_is_seen():
    class Rounded(nn.Module):
        def forward(self, x):
            return x.float().to(x.dtype)

    def forward(net, x):
        h = net.a(x)
        return net.last(net.d(F.relu(net.b(F.relu(h))) + 1e-8 * h.cumsum(1)))

    layers = {"a": nn.Linear(8, 6), "b": nn.Linear(6, 6), "d": nn.Linear(6, 3), "last": Rounded()}
    before = subject(lambda: Net(forward, **layers))
    after = before.with_model(before.working_model(torch.float64))
    with torch.no_grad():
        after.model.a.bias += 1e-9
    old, new = (s.working_model(torch.float64) for s in (before, after))
    with pytest.raises(TransformationRefused, match="promises to preserve the function"):
        verify_promise(transformations.create("neuron_permutation"), old, new, before.inputs)


def test_streams_with_one_embedding_have_one_order():
    class Pair(nn.Module):
        """An encoder's stream and a decoder's, whose inputs are made by one layer."""

        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(8, 6), nn.Linear(6, 3)
            self.one, self.other, self.read = (nn.Linear(6, 6) for _ in "abc")

        def forward(self, x):
            first, second = self.embed(x), self.embed(x.flip(1))
            first = first + self.one(F.relu(first))
            second = second + self.other(F.relu(second)) + self.read(first)
            return self.head(second)

    found, layers = make(subject(Pair), "residual_permutation")
    assert layers == {"embed", "one", "other", "read", "head"}
    assert not found.left


def test_an_activation_that_is_written_out_is_no_residual_stream():
    def forward(net, x):
        h = net.a(x)
        return net.b(h * torch.tanh(h + 0.1 * h**3))

    with pytest.raises(TransformationRefused, match="no residual stream"):
        make(
            subject(lambda: Net(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 3))),
            "residual_permutation",
        )


def test_what_a_stream_is_added_to_is_told():
    def forward(net, x):
        h = net.a(x)
        h = h + net.b(F.relu(h)).cumsum(1)
        return net.d(h)

    with pytest.raises(TransformationRefused, match="of 6 coordinates, it is added to something"):
        make(
            subject(lambda: Net(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 6), d=nn.Linear(6, 3))),
            "residual_permutation",
        )


def test_equal_numbers_in_another_order_are_changed():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.norm, self.inner = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = self.enter(x)
            return self.head(x + self.inner(self.norm(x)))

    found, layers = make(subject(Skip), "residual_permutation")
    assert layers == {"enter", "inner", "head"}  # all numbers of the norm are equal
    assert not found.left


# --- the input -----------------------------------------------------------------------------------


def branches(net, x):
    y = torch.cat(
        [F.relu(net.a(x)), F.relu(net.b(F.max_pool2d(x, 3, 1, 1))), net.c(F.pad(x, (1, 1, 1, 1)))],
        1,
    )
    return net.d(y.mean((2, 3)))


def stepwise(net, x):
    h = x.new_zeros(len(x), 4)
    for t in range(x.shape[1]):
        h = torch.tanh(net.a(x[:, t]) + net.b(h))
    return net.d(h)


def test_every_layer_that_reads_the_input_takes_its_unit():
    def images():
        maps = {
            "a": nn.Conv2d(1, 4, 3, padding=1),
            "b": nn.Conv2d(1, 4, 1),
            "c": nn.Conv2d(1, 4, 3),
        }
        return Net(branches, **maps, d=nn.Linear(12, 3))

    def steps():
        return Net(stepwise, a=nn.Linear(8, 4), b=nn.Linear(4, 4), d=nn.Linear(4, 3))

    def wide():
        return Net(
            lambda n, x: n.a(x) + n.b(F.relu(n.c(x))),
            a=nn.Linear(8, 3),
            b=nn.Linear(5, 3),
            c=nn.Linear(8, 5),
        )

    change = transformations.create("input_rescaling")
    for build, shape, readers in (
        (images, (1, 8, 8), "abc"),
        (steps, (5, 8), "a"),
        (wide, (8,), "ac"),
    ):
        before = subject(build, *shape)
        found = changed(before, change, seed=0)
        old, new = (s.working_model(torch.float64) for s in (before, found.subject))
        assert moved(old, new) == set(readers)


@pytest.mark.parametrize("name", ["input_rescaling", "input_rotation"])
@pytest.mark.parametrize(
    "scaled", [lambda x: 0.3 * x, lambda x: x / 7, lambda x: x.mul(-2)], ids=["times", "by", "mul"]
)
def test_an_input_may_be_given_a_factor_before_it_is_read(name, scaled):
    layers = {"a": nn.Linear(8, 6), "b": nn.Linear(6, 3)}
    before = subject(lambda: Net(lambda n, x: n.b(F.relu(n.a(scaled(x)))), **layers))
    found = changed(before, transformations.create(name), seed=0)
    old, new = (s.working_model(torch.float64) for s in (before, found.subject))
    assert moved(old, new) == {"a"}


def test_an_input_that_something_else_reads_stays_in_its_unit():
    change = transformations.create("input_rescaling")
    for forward, reason in (
        (lambda n, x: n.b(F.relu(n.a(x + 1))), "read by add"),
        (lambda n, x: n.b(F.relu(n.a(1 / x))), "read by"),
        (lambda n, x: n.b(F.relu(n.a(x * x))), "read by mul"),
        (lambda n, x: n.b(F.relu(n.a(x))) + x[:, :3], "read by add"),
        (lambda n, x: n.b(n.a(torch.cat([n.a(x), x[:, :2]], 1))), "read by cat|reads more"),
    ):
        net = Net(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
        with pytest.raises(TransformationRefused, match=reason):
            changed(Subject(net, torch.randn(6, 8), Y), change, seed=0)
    parts = Net(lambda n, x: n.b(n.a(x).mean(1)), a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    with pytest.raises(TransformationRefused, match="part by part"):
        changed(
            Subject(parts, torch.randn(6, 5, 8), Y),
            transformations.create("input_rotation"),
            seed=0,
        )


# --- controls -------------------------------------------------------------------------------------


def test_further_training_follows_the_batches_and_the_loss_that_are_given():
    x, yes = torch.randn(20, 8), (torch.randn(20, 3) > 0).float()
    more = transformations.create("further_training")

    def called(model, batch):
        return model(batch["x"]) * batch["weight"]

    batches = [
        {"x": x[:12], "weight": torch.ones(12, 1)},
        {"x": x[12:], "weight": torch.ones(8, 1)},
    ]
    for batch, y in zip(batches, (yes[:12], yes[12:]), strict=True):
        batch["labels"] = y
    plain = Subject(mlp(), x, yes, loss=nn.BCEWithLogitsLoss())
    fronted = Subject.from_batches(
        plain.model, batches, forward=called, loss=nn.BCEWithLogitsLoss(), splits={"test": batches}
    )
    found = [changed(s, more, seed=1).subject for s in (plain, fronted)]
    for before, after in zip((plain, fronted), found, strict=True):
        losses = [
            float(s.losses(s.working_model(torch.float64)(s.inputs.double()), yes.double()).mean())
            for s in (before, after)
        ]
        assert losses[1] < 0.97 * losses[0]
    for one, other in zip(*(s.model.parameters() for s in found), strict=True):
        assert torch.allclose(one, other, rtol=1e-9)
    frozen = Subject(mlp().requires_grad_(False), x, torch.arange(20) % 3)
    with pytest.raises(TransformationRefused, match="no parameter requires a gradient"):
        changed(frozen, more, seed=1)


def test_training_that_diverges_is_told():
    wild = Subject(mlp(), 1e3 * torch.randn(20, 8), 1e3 * torch.randn(20, 3))
    with pytest.raises(
        TransformationRefused, match="training diverged within 50 steps of learning"
    ):
        changed(wild, transformations.create("further_training"), seed=1)


# --- gates ---------------------------------------------------------------------------------------


def gated(activation, bias):
    def forward(net, x):
        return net.head(F.relu(net.down(activation(net.gate(x)) * net.up(x))))

    layers = {"gate": nn.Linear(8, 6, bias), "up": nn.Linear(8, 6, bias)}
    return Net(forward, **layers, down=nn.Linear(6, 5), head=nn.Linear(5, 3))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [F.silu, torch.relu, torch.sigmoid])
def test_units_that_are_multiplied_have_one_order_and_scales_of_their_own(activation, bias):
    before = subject(lambda: gated(activation, bias))
    for name in ("neuron_permutation", "neuron_splitting"):
        found, layers = make(before, name)
        assert layers == {"gate", "up", "down", "head"}
        assert found.left == "left as they are: head (its units are the outputs)"
    found, layers = make(before, "neuron_rescaling")
    scaled, other = ("gate", "up") if "gate" in layers else ("up", "gate")
    assert layers == {scaled, "down", "head"}
    assert f"{other} (it gates the units of {scaled}, which are" in found.left
    assert (scaled == "up") or activation is torch.relu
    assert make(before, "sign_flip")[1] == {"up", "down"}


def test_a_gate_of_another_shape_or_that_is_read_elsewhere_leaves_its_units_alone():
    def narrow(net, x):
        return net.d(F.relu(net.c(net.a(x) * net.b(x).sigmoid())))

    layers = {
        "a": nn.Linear(8, 6),
        "b": nn.Linear(8, 1),
        "c": nn.Linear(6, 5),
        "d": nn.Linear(5, 3),
    }
    found, moved_layers = make(subject(lambda: Net(narrow, **layers)), "neuron_permutation")
    assert moved_layers == {"c", "d"}
    assert "a, b (its units are read by mul)" in found.left

    def twice(net, x):
        gate = net.b(x)
        return net.d(F.relu(net.c(net.a(x) * gate.sigmoid()))) + gate.cumsum(1)[:, :3]

    layers = {**layers, "b": nn.Linear(8, 6)}
    found, moved_layers = make(subject(lambda: Net(twice, **layers)), "neuron_permutation")
    assert moved_layers == {"c", "d"}
    assert "a (its units are read by mul)" in found.left


# --- what can't be followed, or not so -------------------------------------------------------------


def test_a_part_in_torchscript_leaves_what_stands_around_it_to_be_changed():
    def build():
        inner = torch.jit.script(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6)))
        return nn.Sequential(inner, nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

    _, layers = make(subject(build), "neuron_permutation")
    assert layers == {"2", "4"}
    whole = subject(lambda: torch.jit.script(build()))
    for name in ("neuron_permutation", "residual_permutation", "normalization_folding"):
        with pytest.raises(TransformationRefused, match="layers of TorchScript are not seen"):
            make(whole, name)


def test_a_layer_that_is_the_whole_network_has_a_name():
    with pytest.raises(
        TransformationRefused, match=r"the network itself \(its units are the outputs"
    ):
        make(subject(lambda: nn.Linear(8, 3)), "neuron_permutation")


def test_a_layer_with_a_forward_pass_of_its_own_is_told_of():
    class Scaled(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight * 0.5, self.bias)

    layers = [Scaled(8, 6), nn.ReLU(), Scaled(6, 3)]
    with pytest.raises(
        TransformationRefused, match=r"0 \(on the samples that show .* of its own\)"
    ):
        make(subject(lambda: nn.Sequential(*layers)), "neuron_permutation")


def test_complex_weights_have_no_logarithm():
    def forward(net, x):
        return net.b(F.relu(net.a(x)).to(net.b.weight.dtype)).abs()

    before = subject(lambda: Net(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 3, dtype=torch.cfloat)))
    found, layers = make(before, "log_scale")
    assert layers == {"a"}
    assert "b (its weights are complex)" in found.left


def test_every_linear_layer_that_reads_a_whole_input_is_rotated():
    def forward(net, x):
        return net.a(x) + net.b(F.relu(net.c(x.flatten(1))))

    layers = {"a": nn.Linear(8, 3), "b": nn.Linear(5, 3), "c": nn.Linear(8, 5)}
    before = subject(lambda: Net(forward, **layers))
    found = changed(before, transformations.create("input_rotation"), seed=0)
    old, new = (s.working_model(torch.float64) for s in (before, found.subject))
    assert moved(old, new) == {"a", "c"}
    assert "b (only what reads the input is changed)" in found.left


def test_a_temperature_that_changes_nothing_is_told():
    class Cosine(nn.Linear):
        def forward(self, x):
            return 5 * F.linear(F.normalize(x), F.normalize(self.weight))

    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), Cosine(6, 3, bias=False))
    with pytest.raises(TransformationRefused, match=r"divide the logits by 0\.5 but"):
        changed(
            Subject(net, torch.randn(6, 8), Y), transformations.create("logit_temperature"), seed=0
        )


class Shared(nn.Module):
    """Four heads of queries in two groups with a key and a value each, turned by a token's place if asked."""

    def __init__(self, rotary):
        super().__init__()
        self.num_heads, self.rotary = 4, rotary
        self.q_proj, self.o_proj = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.k_proj, self.v_proj = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (-1, 2)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rotary:
            angle = torch.arange(x.shape[1]).to(x)
            cos, sin = angle.cos().unsqueeze(-1), angle.sin().unsqueeze(-1)
            q, k = (t * cos + torch.stack([-t[..., 1], t[..., 0]], -1) * sin for t in (q, k))
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_heads_that_share_keys_and_values_are_changed_by_their_groups(name, rotary):
    before = subject(lambda: Stack(Shared(rotary), Shared(rotary)), 5, 8)
    found, layers = make(before, name, [torch.randn(2, 11, 8)])
    inside = {"v_proj", "o_proj"}
    if not rotary or name != "attention_gl":
        inside |= {"q_proj", "k_proj"}
    assert {layer.rpartition(".")[2] for layer in layers} == inside
    assert (
        "layers.0, layers.1 (the function" in found.left or "queries and keys" in found.left
    ) == (rotary and name == "attention_gl")


def test_of_attention_that_is_not_followed_the_refusal_tells_why():
    with pytest.raises(
        TransformationRefused, match=r"changed: layers\.0 \(its weights are computed"
    ):
        make(subject(lambda: Stack(Attention(wrap=weight_norm, bias=False)), 5, 8), "attention_gl")


@pytest.mark.parametrize("geometry", ["mix", "inv"])
@pytest.mark.parametrize("name", ["attention_gl", "head_permutation"])
def test_geodesic_sharpness_stays_where_heads_share_keys_and_values(name, geometry):
    before = subject(lambda: Stack(Shared(False)), 5, 8)
    after = changed(before, transformations.create(name), seed=3).subject
    one, other = (
        sb.measure(s, "geodesic_sharpness", geometry=geometry, rho=0.01).value
        for s in (before, after)
    )
    assert other == pytest.approx(one, rel=1e-8)
    elementwise = [
        sb.measure(s, "sam_sharpness", adaptive="elementwise", rho=0.01).value
        for s in (before, after)
    ]
    moved_by_it = abs(elementwise[1] / elementwise[0] - 1) > 1e-3
    assert moved_by_it == (name == "attention_gl")


@pytest.mark.parametrize("name", ["neuron_rescaling", "layer_rescaling"])
def test_a_layer_whose_norm_is_scaled_in_its_place_is_told_so(name):
    before = subject(
        lambda: nn.Sequential(
            nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(),
            nn.Linear(5, 3),
        )
    )  # fmt: skip
    found, layers = make(before, name)
    assert "0 (what scales each of its units behind it is changed in its place)" in found.left
    assert "1" in layers
    assert "3" in layers  # it reads units that were scaled, though its own are scaled behind it
    assert "0 (no linear layer" not in found.left
