"""Transformations of networks as people write them, seen by a pass on an example."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.recording import noting, recorded, running_on
from sharpbench.models import models
from sharpbench.subject import Splits, Subject
from sharpbench.suite.changing import changed
from sharpbench.suite.own import transformed
from tests.invariance.test_transformations import SHAPES, inputs

Y = torch.arange(6) % 3


class Checked(nn.Module):
    """A CNN with a check of its input, functional layers and a view."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.f1, self.f2, self.f3 = nn.Linear(24, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        if x.ndim != 4 or x.shape[1] != 1 or not bool(x.isfinite().all()):
            raise ValueError(f"images (N, 1, h, w), got {tuple(x.shape)}")
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.max_pool2d(torch.relu(self.c2(x)), 2)
        x = self.f1(x.view(x.size(0), -1)).relu()
        return self.f3(F.relu(self.f2(x), inplace=True))


class Basic(nn.Module):
    """torchvision's block: one ReLU for both, in place, and an addition in place."""

    def __init__(self, width, down):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in "ab")
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))
            if down
            else None
        )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.body = nn.Sequential(Basic(4, False), Basic(4, True))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)

    def forward(self, x):
        return self.head(torch.flatten(self.pool(self.body(F.relu(self.stem(x)))), 1))


class Transformer(nn.Module):
    def __init__(self, norm_first):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True, norm_first=norm_first)
        self.embed, self.positions = nn.Linear(8, 8), nn.Parameter(torch.randn(1, 8, 8))
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.body(self.embed(x.squeeze(1)) + self.positions))[:, 0])


def subject(build, *arguments):
    torch.manual_seed(0)
    model = build(*arguments)
    return Subject(model, torch.randn(6, 1, 8, 8), Y)


UNITS = ("neuron_permutation", "neuron_rescaling", "layer_rescaling", "neuron_splitting")
HEADS = ("head_permutation", "attention_rescaling", "attention_gl")
CASES = [
    *[(Checked, (), name) for name in (*UNITS, "channel_permutation")],
    *[
        (Residual, (), name)
        for name in (
            "neuron_permutation",
            "neuron_rescaling",
            "residual_permutation",
            "normalization_folding",
            "normalization_rescaling",
        )
    ],
    *[
        (Transformer, (first,), name)
        for first in (True, False)
        for name in (*UNITS, *HEADS, "residual_permutation")
    ],
]


@pytest.mark.parametrize(("build", "arguments", "name"), CASES)
def test_the_function_stays_and_the_weights_move(build, arguments, name):
    # `transformed` verifies that the function stays, in float64.
    before = subject(build, *arguments)
    after = transformed(before, transformations.create(name), seed=3)
    ours, theirs = (
        torch.cat([p.detach().double().flatten() for p in s.model.parameters()])
        for s in (before, after)
    )
    assert ours.shape != theirs.shape or not torch.equal(ours, theirs)


def test_all_hidden_layers_of_the_checked_cnn_are_found_and_the_rest_is_told():
    told = []
    before = subject(Checked)
    after = transformed(
        before, transformations.create("neuron_rescaling"), seed=0, told=told.append
    )
    for name in ("c1", "c2", "f1", "f2"):
        ours, theirs = (getattr(s.model, name).bias.double() for s in (before, after))
        assert not torch.allclose(ours, theirs)
    assert torch.equal(before.model.f3.bias.double(), after.model.f3.bias)
    assert told == ["neuron_rescaling: left as they are: f3 (its units are the outputs)"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name", ["neuron_permutation", "normalization_rescaling", "residual_permutation"]
)
def test_an_example_shows_what_torch_fx_does(shape, name):
    network = models.create(shape, {}).build(SHAPES[shape], 3, seed=0).double().eval()
    x = inputs(shape)
    splits = Splits(x, torch.zeros(16).long(), x, torch.zeros(16).long(), 3)
    results = []
    for data in (None, splits):
        try:
            changed = transformations.create(name).apply(network, seed=1, splits=data)
            results.append(changed.state_dict())
        except TransformationRefused:
            results.append({})
    traced, recorded_ = results
    assert traced.keys() == recorded_.keys()
    assert all(torch.equal(traced[k], recorded_[k]) for k in traced)


def test_shared_and_repeated_layers_are_left_and_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.d, self.e = nn.Linear(4, 4), nn.Linear(4, 2)
            self.c.weight = self.b.weight

        def forward(self, x):
            x = torch.relu(self.a(torch.relu(self.a(x))))
            x = torch.relu(self.c(torch.relu(self.b(x))))
            return self.e(torch.relu(self.d(x)))

    model = Twice().double()
    x = torch.randn(3, 4, dtype=torch.float64)
    with running_on(lambda m: m(x)), noting() as left:
        changed = transformations.create("neuron_permutation").apply(model, seed=0)
    assert torch.allclose(changed(x), model(x), atol=1e-12)
    assert not torch.equal(changed.d.weight, model.d.weight)
    assert set(left) == {"a", "b", "c", "e"}
    assert "several times" in left["a"]
    assert "another layer" in left["b"]


class Conv1D(nn.Module):
    """Hugging Face's linear layer of GPT-2, whose weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class NewGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.044715 * x**3)))


class Hinge(nn.Module):
    def forward(self, x):
        return torch.where(x > 0, x, 0.1 * x)


class Arc(nn.Module):
    def forward(self, x):
        return x / (1 + x * x)


class Softened(nn.Module):
    """No activation: numbers of a row are mixed."""

    def forward(self, x):
        return x.softmax(-1)


def turned(activation):
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), activation, Conv1D(8, 6), activation, Conv1D(7, 8), activation]
    return nn.Sequential(*layers, nn.Linear(7, 3))


@pytest.mark.parametrize(
    ("activation", "keeps"),
    [
        (NewGELU(), {"neuron_permutation", "neuron_splitting"}),
        (Hinge(), {"neuron_permutation", "neuron_splitting", "neuron_rescaling"}),
        (Arc(), {"neuron_permutation", "neuron_splitting", "sign_flip"}),
        (Softened(), set()),
    ],
)
def test_transposed_layers_and_activations_of_ones_own(activation, keeps):
    net, x = turned(activation), torch.randn(20, 5)
    subject = Subject(net, x, torch.arange(20) % 3)
    for name in ("neuron_permutation", "neuron_splitting", "neuron_rescaling", "sign_flip"):
        change = transformations.create(name)
        if name not in keeps:
            with pytest.raises(TransformationRefused):
                transformed(subject, change, seed=1)
            continue
        with noting() as left, running_on(subject.run_few):
            after = change.apply(net.double(), seed=1)  # three hidden layers, none left alone
        net.float()
        assert set(left) == {"6"}
        assert torch.allclose(after(x.double()), net.double()(x.double()), rtol=1e-12)
        net.float()
        assert all(
            a.weight.shape != b.weight.shape or not torch.equal(a.weight, b.weight.double())
            for a, b in zip(after[::2], net[::2], strict=True)
        )


def test_a_network_that_does_not_run_says_so():
    with pytest.raises(TransformationRefused, match=r"see its structure.*images"):
        recorded(Checked(), lambda m: m(torch.zeros(2, 3)))
    network = nn.Linear(2, 2).train()
    recorded(network, lambda m: m(torch.zeros(2, 2)))
    assert network.training
    assert not network._forward_hooks


class Trainer:
    """Holds all data and optimizers, and can't be copied."""

    def __init__(self):
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        raise AssertionError("the trainer was copied")


Trainer.__module__ = "lightning.pytorch.trainer"


def test_a_changed_network_has_no_trainer_and_what_cant_be_copied_is_shared():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    network._trainer, network.lock = Trainer(), threading.Lock()
    subject = Subject(network, torch.randn(6, 4), Y)
    for name in ("neuron_rescaling", "weight_noise"):
        moved = changed(subject, transformations.create(name), seed=0).subject.model
        assert moved._trainer is None
        assert moved.lock is network.lock
        assert not torch.equal(moved[0].weight, network[0].weight.double())
