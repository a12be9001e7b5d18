"""Networks with weights in half precision, or in several, against dense Hessians of their float64 copies."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed
from sharpbench.metrics import metrics
from sharpbench.results.store import load_records
from sharpbench.subject import Splits, Subject
from tests.cli.command import in_process
from tests.test_from_batches import check, dense

LOW = torch.bfloat16


class Body(nn.Module):
    """Layers in bfloat16 around a layer norm in float32, as large models are kept."""

    def __init__(self, first):
        super().__init__()
        self.first, self.norm = first.to(LOW), nn.LayerNorm(6)
        self.head = nn.Linear(6, 3).to(LOW)

    def forward(self, x):
        h = torch.tanh(self.norm(self.first(x)))
        return self.head(h.mean(1) if h.ndim == 3 else h)


class Precise(nn.Module):
    """A head in float64."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3).double()

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)).double())


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        with torch.autocast("cpu", LOW):
            return self.head(torch.tanh(self.body(x)))


class Root(nn.Module):
    """Root mean square norm in float32, as it is written for half precision."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.body, self.head = nn.Linear(4, 6).to(LOW), nn.Linear(6, 3).to(LOW)

    def forward(self, x):
        h = self.body(x)
        wide = h.to(torch.float32)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return self.head((self.scale * wide).to(h.dtype))


class NormFirst(nn.Module):
    """The first parameter is float32, and the layer behind takes bfloat16 alone."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 3).to(LOW)

    def forward(self, x):
        return self.out(self.norm(x))


class Hand(nn.Module):
    """Casts that no copy in another precision follows."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6).to(LOW), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x.to(LOW))).float())


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def apart():
    """Runs under an autocast around it alone."""
    net = mlp()
    net[2].half()
    return net


def seeded(build):
    torch.manual_seed(5)
    return build()


G = torch.Generator().manual_seed(6)
X, Y = torch.randn(11, 4, generator=G), torch.randint(0, 3, (11,), generator=G)
WORDS = torch.randint(0, 7, (11, 5), generator=G)
NETS = {
    "bfloat16 body": (lambda: Body(nn.Linear(4, 6)), "bfloat16 and float32"),
    "norm first": (NormFirst, "float32 and bfloat16"),
    "float16": (lambda: mlp().half(), "float16"),
    "bfloat16": (lambda: mlp().to(LOW), "bfloat16"),
    "float64 head": (Precise, "float32 and float64"),
    "autocast": (Autocast, None),
    "apart": (apart, "float32 and float16"),
}


def of_subject(model, x):
    return Subject(model, x, Y)


def of_batches(model, x):
    return Subject.from_batches(model, [(x[:4], Y[:4]), (x[4:], Y[4:])])


@pytest.mark.parametrize("made", [of_subject, of_batches])
@pytest.mark.parametrize("name", NETS)
def test_the_figure_is_that_of_the_copy_in_the_precision_asked_for(name, made):
    build, told = NETS[name]
    model = seeded(build)
    before = copy.deepcopy(model.state_dict())
    subject = made(model, X)
    check(subject, dense(model, lambda net: F.cross_entropy(net(X.double()), Y)))
    margin = sb.measure(subject, "margin")
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(X.double())
    right = logits.gather(1, Y[:, None])[:, 0]
    others = logits.scatter(1, Y[:, None], -torch.inf).max(1).values
    assert margin.value == pytest.approx(float((right - others).mean()), rel=1e-12)
    expected = None if told is None else {"given": told, "measured": "float64"}
    assert margin.details.get("weights_in") == expected
    notes = metrics.create("margin").notes(margin.details)
    said = [] if told is None else [f"the weights are {told}, and were measured in float64"]
    assert notes == said
    assert [s.partition(":")[0] for s in subject.said] == [f"the weights are {told}"] * len(said)
    after = model.state_dict()
    assert all(after[k].dtype == v.dtype and torch.equal(after[k], v) for k, v in before.items())


def test_what_metrics_differentiate_in_is_of_the_precision_asked_for():
    model = seeded(lambda: Body(nn.Embedding(7, 6)))
    subject = Subject.from_batches(model, [(WORDS, Y)], differentiate="first")
    twin = Subject.from_batches(copy.deepcopy(model).double(), [(WORDS, Y)], differentiate="first")
    check(subject, dense(model, lambda net: F.cross_entropy(net(WORDS), Y)))
    for name in ("curvature_rate", "input_jacobian_norm"):
        mine, theirs = sb.measure(subject, name), sb.measure(twin, name)
        assert mine.value == pytest.approx(theirs.value, rel=1e-12)


def test_how_far_the_copy_is_from_the_network_is_told():
    model = seeded(lambda: mlp().to(LOW))
    subject = Subject(model, X, Y)
    with torch.no_grad():
        own, wide = model(X[:3].to(LOW)), copy.deepcopy(model).float()(X[:3])
    apart = float((own - wide).abs().max() / own.abs().max())
    assert f"differ from the network's own by {apart:.1g} of the largest" in subject.said[0]


def test_one_that_only_runs_under_an_autocast_around_it_is_told():
    told = Subject(seeded(apart), X, Y).said[0]
    assert "since as it is given the network doesn't run on inputs of shape (N, 4)" in told
    told = Subject.from_batches(seeded(apart), [{"input": X, "labels": Y}]).said[0]
    assert "since as it is given the network doesn't run on its batches" in told


def test_several_real_tensors_of_a_batch_are_given_as_they_are_or_as_the_weights():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3).to(LOW), nn.Linear(4, 3)

        def forward(self, a, b):
            return self.a(a) + self.b(b)

    model = seeded(Two)
    subject = Subject.from_batches(model, [{"a": X.to(LOW), "b": X.flip(0), "labels": Y}])
    low = X.to(LOW).double()
    hessian = dense(model, lambda net: F.cross_entropy(net(low, X.flip(0).double()), Y))
    check(subject, hessian, metrics=("eigenvalue", "trace"))
    assert "differ from the network's own" in subject.said[0]


def test_what_a_network_rounds_to_on_its_way_is_told():
    subject = Subject(seeded(Autocast), X, Y)
    low = sb.measure(subject, "hessian_trace", dtype="float32")
    assert [(e.source, e.size) for e in low.errors] == [("rounding", None)]
    assert low.details["computes_in"] == "bfloat16"
    assert sb.measure(subject, "hessian_trace").exact  # nothing is cast in float64
    subject = Subject(seeded(Root), X, Y)
    found = sb.measure(subject, "hessian_top_eigenvalue", tolerance=1e-6)
    assert (found.details["computes_in"], found.exact) == ("float32", False)
    twin = seeded(Root)
    twin.forward = lambda x: twin.head(
        twin.scale * (h := twin.body(x)) * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)
    )
    twin.double()
    total = F.cross_entropy(twin(X.double()), Y)
    gradient = torch.autograd.grad(total, list(twin.parameters()), create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = [torch.autograd.grad(g, list(twin.parameters()), retain_graph=True) for g in flat]
    hessian = torch.stack([torch.cat([p.reshape(-1) for p in row]) for row in rows])
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-5)


def test_what_does_not_lead_to_the_outputs_rounds_nothing():
    """A loss in float32 beside the logits, which nobody reads, and constants made in float32."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 3)

        def forward(self, x, labels):
            logits = self.out(x + torch.arange(4.0) / 4)
            return {"logits": logits, "loss": F.cross_entropy(logits.float(), labels)}

    subject = Subject.from_batches(seeded(Both), [{"x": X, "labels": Y}])
    found = sb.measure(subject, "hessian_trace", method="unit_vectors", max_probes=99)
    assert found.exact
    assert "computes_in" not in found.details


def test_random_directions_keep_their_error_where_float32_is_on_the_way():
    subject = Subject(seeded(Root), X, Y)
    found = sb.measure(subject, "hessian_trace", method="hutchinson", max_probes=8)
    assert found.standard_error > 0
    assert found.details["computes_in"] == "float32"


@pytest.mark.parametrize("made", [of_subject, of_batches])
def test_a_cast_that_no_copy_follows_is_named_with_the_line_to_write(made):
    subject = made(seeded(Hand), X)
    assert subject.said[0].endswith("and in float32 it does not run")
    line = r"casts to a fixed precision before 'body'.*x\.to\(self\.body\.weight\.dtype\)"
    with pytest.raises(MetricFailed, match=line):
        sb.measure(subject, "hessian_trace")
    wide = made(seeded(Precise), X)
    with pytest.raises(MetricFailed, match=r"do not run in float32.*ask for dtype='float64'"):
        sb.measure(wide, "hessian_trace", dtype="float32")


def test_a_fixed_precision_in_a_network_of_one_is_named():
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 2, 3), nn.Linear(2, 3)

        def forward(self, x):
            return self.out(torch.tanh(self.conv(x.float() / 255)).mean((2, 3)))

    pixels = torch.randint(0, 255, (11, 1, 4, 4), dtype=torch.uint8, generator=G)
    subject = Subject.from_batches(seeded(Pixels), [(pixels, Y)])
    line = r"ask for dtype='float32'.*before 'conv'.*x\.to\(self\.conv\.weight\.dtype\)"
    with pytest.raises(MetricFailed, match=line):
        sb.measure(subject, "hessian_trace")
    assert sb.measure(subject, "hessian_trace", dtype="float32").converged


def test_one_that_runs_in_no_precision_is_refused():
    class Never(Hand):
        def forward(self, x):
            return self.head(torch.tanh(self.body(x.half())).double())

    line = r"weights are bfloat16 and float32.*does not run either\); .*before 'body'"
    with pytest.raises(InputError, match=line):
        Subject(Never(), X, Y)

    class Unequal(Hand):
        def forward(self, x):
            return self.head(self.body(x)[:, 1:])

    with pytest.raises(
        InputError, match=r"shapes cannot be multiplied .*\(a copy in float32; the weights"
    ):
        Subject(Unequal(), X, Y)
    with pytest.raises(InputError, match=r"before 'body'.*x\.to\(self\.body\.weight\.dtype\)"):
        Subject.from_batches(Never(), [(X, Y)])


def test_samples_that_meet_are_seen_in_half_precision_too():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 3).to(LOW)

        def forward(self, x):
            h = self.out(x)
            return h - 0.03 * h.mean(0)  # less than bfloat16 tells from rounding

    assert Subject(seeded(Centred), X, Y).coupled
    assert not Subject(seeded(Precise), X, Y).coupled
    assert not Subject(seeded(Autocast), X, Y).coupled


def test_transformations_and_splits_follow():
    splits = Splits(X, Y, X.flip(0), Y.flip(0), 3)
    subject = Subject(seeded(NETS["bfloat16 body"][0]), X, Y, splits=splits)
    wide = copy.deepcopy(subject.model).double()
    moved = subject.with_model(wide)
    assert {moved.inputs.dtype, moved.splits.test_inputs.dtype} == {torch.float64}
    assert moved.dtype == torch.float64
    assert (subject.dtype, subject.weights_in) == (torch.float32, (LOW, torch.float32))
    figures = [sb.measure(s, "hessian_trace", split="test").value for s in (subject, moved)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-12)


CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.norm = nn.Embedding(9, 4).to(torch.bfloat16), nn.LayerNorm(4)
        self.head = nn.Linear(4, 3).to(torch.bfloat16)

    def forward(self, ids):
        return self.head(torch.tanh(self.norm(self.words(ids))).mean(1))

class Wide(Net):
    def __init__(self):
        super().__init__()
        self.double()

def half():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)).half()

def batches():
    ids = torch.arange(60).view(12, 5) % 9
    return [(ids[:7], torch.arange(7) % 3), (ids[7:], torch.arange(5) % 3)]
"""

SUITE = """
name = "mixed"
seeds = 1

[[networks]]
model = "mixed_nets_of_a_test:Net"
data = "mixed_nets_of_a_test:batches"
test = "mixed_nets_of_a_test:batches"

[[networks]]
model = "mixed_nets_of_a_test:Wide"
data = "mixed_nets_of_a_test:batches"
test = "mixed_nets_of_a_test:batches"

[[networks]]
model = "mixed_nets_of_a_test:half"
dataset = { name = "digits", train_size = 100 }

[[metrics]]
name = "fisher_rao_norm"

[cost]
repeats = 0
"""


@pytest.fixture
def folder(users_folder):
    return users_folder({"mixed_nets_of_a_test.py": CODE, "mixed.toml": SUITE})


@pytest.fixture
def run(folder, capsys, monkeypatch):
    return lambda *arguments: in_process(capsys, monkeypatch, *arguments)


def test_measure_tells_it(run):
    model, data = "mixed_nets_of_a_test:Net", "mixed_nets_of_a_test:batches"
    done = run("measure", "--model", model, "--data", data, "--metric", "fisher_rao_norm")
    assert done.code == 0, done.err
    told = " ".join(done.err.split())
    assert "the weights are bfloat16 and float32: metrics measure a copy" in told
    assert (
        "fisher_rao_norm: the weights are bfloat16 and float32, and were measured in float64"
        in told
    )


def test_a_suite_measures_and_judges_them_like_their_wide_twin(run):
    done = run("run", "mixed.toml", "--engine", "inline", "--no-report")
    assert done.code == 0, done.out + done.err
    frame = load_records("results", suite="mixed")
    frame = frame[frame["status"] == "ok"]
    for name in ("fisher_rao_norm", "test_error", "test_loss"):
        values = frame[frame["name"] == name].set_index("model_label")["value"]
        values.index = values.index.str.partition(":").get_level_values(2)
        assert values.notna().sum() == 3
        assert values["Net"] == pytest.approx(values["Wide"], rel=1e-5), name


class Binned(nn.Module):
    """A class of its own for each tenth: 0.7 is in the eighth bin in float32, in the seventh in float64."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.table, self.noise = nn.Parameter(torch.randn(10, 3)), noise

    def forward(self, x):
        noise = self.noise * torch.randn_like(x) if self.noise else 0
        return self.table[(10 * x + noise).floor().long().clamp(0, 9)].sum(1)


@pytest.mark.parametrize("batches", [False, True])
def test_a_bin_that_rounding_crosses_is_told(batches):
    torch.manual_seed(0)
    x, y = torch.full((20, 2), 0.55), torch.arange(20) % 3
    model = Binned()
    make = (
        (lambda: Subject.from_batches(model, [{"x": x, "y": y}]))
        if batches
        else (lambda: Subject(model, x, y))
    )
    plain = sb.measure(make(), "gradient_norm")
    assert "outputs_apart" not in plain.details
    x[::4] = 0.7
    subject = make()
    assert "a copy in float64 gives other outputs than the network in float32" in subject.said[-1]
    wide, own = (sb.measure(subject, "gradient_norm", dtype=d) for d in ("float64", "float32"))
    assert wide.details["outputs_apart"] > 0.01
    assert [component.source for component in wide.errors] == ["rounding"]
    assert "outputs_apart" not in own.details
    loss = F.cross_entropy(model(x), y)
    gradient = torch.autograd.grad(loss, model.table)[0].norm()
    assert own.value == pytest.approx(float(gradient), rel=1e-5)
    assert abs(wide.value - float(gradient)) > 1e-2 * float(gradient)


def test_what_is_random_is_not_told_to_be_rounded():
    torch.manual_seed(0)
    x, y = torch.full((20, 2), 0.55), torch.arange(20) % 3
    assert "float64" not in " ".join(Subject(Binned(3.0), x, y).said)
