"""What enters is right, or refused in one sentence that names the fault and the remedy."""

from __future__ import annotations

import copy
import functools
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError
from sharpbench.samples import telling
from sharpbench.subject import Splits, Subject, frozen_statistics, per_sample_loss

N, FEATURES, CLASSES = 12, 5, 3


def network(outputs: int = CLASSES, seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, outputs))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, FEATURES, generator=generator)
    return x, torch.arange(N) % CLASSES


class Calls(nn.Module):
    """A network whose forward pass is ``call(self, x)``."""

    def __init__(self, call, net: nn.Module | None = None, **attributes):
        super().__init__()
        self.call, self.net = call, net or network()
        for key, value in attributes.items():
            setattr(self, key, value)

    def forward(self, x):
        return self.call(self, x)


def test_the_loss_is_inferred_from_the_targets():
    x = torch.randn(4, 3)
    classes = Subject(nn.Linear(3, 2), x, torch.tensor([0, 1, 1, 0], dtype=torch.int32))
    assert classes.task == "classification"
    assert classes.targets.dtype == torch.int64
    reals = Subject(nn.Linear(3, 1), x, torch.randn(4))
    assert reals.task == "regression"
    loss = reals.losses(torch.zeros(4, 1), torch.full((4, 1), 2.0))
    assert loss.tolist() == [2.0] * 4  # ½ · 2²


# --- data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.randn(0, 3), torch.zeros(0, dtype=torch.long), "at least one"),
        (torch.randn(3, 3), torch.zeros(2, dtype=torch.long), "3 inputs, 2 targets"),
        (torch.randn(3, 0), torch.zeros(3, dtype=torch.long), "inputs are empty"),
        (torch.zeros(3, 3, dtype=torch.long), torch.zeros(3, dtype=torch.long), "floating point"),
        (torch.zeros(3, 3, dtype=torch.cfloat), torch.zeros(3, dtype=torch.long), "floating point"),
        (torch.tensor(1.0), torch.tensor(1), "along the first axis"),
        (torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.long), "dense tensor"),
        (object(), torch.zeros(3, dtype=torch.long), "got a object"),
        (torch.tensor([[1.0, torch.nan, 0]]), torch.zeros(1, dtype=torch.long), "NaN .* sample 0"),
        (torch.ones(3, 3), torch.zeros(3, dtype=torch.cfloat), "complex targets"),
        (torch.ones(3, 3), torch.full((3, 2), torch.inf), "targets hold NaN or infinite"),
        (torch.randn(3, 3), torch.zeros(3, 2, dtype=torch.long), "class targets"),
        (torch.randn(3, 3), torch.eye(3, dtype=torch.long)[:, :2], "class targets"),
        (torch.randn(3, 3), torch.eye(2, dtype=torch.long)[[0, 1, 1]], r"argmax\(1\)"),
        (torch.randn(3, 3), torch.eye(2)[[0, 1, 1]], "BCEWithLogitsLoss.*task='regression'"),
        (torch.randn(3, 3), torch.tensor([0.0, 1.0, 1.0]), "BCEWithLogitsLoss.*task='regression'"),
        (torch.randn(3, 3), torch.tensor([0.0, 2.0, 1.0]), "class ids, give them as integers"),
        (torch.randn(3, 3), torch.randn(3, 3), "nothing is broadcast"),
        (torch.randn(3, 3), torch.randn(3, 1, 2), "nothing is broadcast"),
        (torch.randn(3, 3), torch.tensor([0, 1, 2]), "class 2, and the network has 2 outputs"),
        (torch.randn(3, 3), torch.tensor([0, -1, 1]), "class -1"),
        (torch.randn(3, 3), torch.full((3,), -100), "every target is -100"),
    ],
)
def test_unusable_data_is_refused(inputs, targets, message):
    with pytest.raises(InputError, match=message):
        Subject(nn.Linear(3, 2), inputs, targets)


@pytest.mark.parametrize(
    ("targets", "given", "message"),
    [
        (torch.tensor([0, 1, 1]), {}, "one output.*BCEWithLogitsLoss"),
        (torch.tensor([0.0, 3.0, 1.0]), {"task": "classification"}, "targets.long"),
        (torch.tensor([0, 1, 1]), {"task": "classes"}, "unknown task"),
        (
            torch.tensor([0, 1, 1]),
            {"task": "classification", "loss": nn.MSELoss()},
            "leave the task out",
        ),
    ],
)
def test_unclear_tasks_are_refused(targets, given, message):
    with pytest.raises(InputError, match=message):
        Subject(nn.Linear(3, 1), torch.randn(3, 3), targets, **given)


@pytest.mark.parametrize(
    "targets", [torch.tensor([[0], [1], [0]]), torch.tensor([False, True, False])]
)
def test_class_ids_in_other_dress(targets):
    subject = Subject(nn.Linear(3, 2), torch.randn(3, 3), targets)
    assert subject.targets.tolist() == [0, 1, 0]
    assert subject.task == "classification"


def test_ignored_samples_are_left_out_of_every_split():
    x, y = data()
    y[::3] = -100
    splits = Splits(x, y, x[:6], torch.tensor([-100, 1, 2, 0, 1, 2]), CLASSES)
    subject = Subject(network(), x, y, splits=splits)
    assert subject.ignored == 4
    assert torch.equal(subject.inputs, x[y >= 0])
    assert [len(t) for t in subject.data("train") + subject.data("test")] == [8, 8, 5, 5]
    assert subject.with_model(network(seed=2)).ignored == 4
    other = Subject(network(), x, y.clamp(min=-1), loss=nn.CrossEntropyLoss(ignore_index=-1))
    assert torch.equal(other.inputs, subject.inputs)
    with pytest.raises(InputError, match="-100, which torch's losses ignore"):
        Subject(network(), x, y, loss=lambda f, t: F.cross_entropy(f, t, reduction="none"))


# --- losses -----------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([1.0, 2.0, 5.0])


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(), "classes"),
        (nn.CrossEntropyLoss(label_smoothing=0.2), "classes"),
        (nn.CrossEntropyLoss(weight=WEIGHTS), "classes"),
        (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2), "classes"),
        (nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=1), "classes"),
        (nn.CrossEntropyLoss(), "probabilities"),
        (nn.CrossEntropyLoss(weight=WEIGHTS), "probabilities"),
        (nn.NLLLoss(weight=WEIGHTS), "classes"),
        (nn.MultiMarginLoss(), "classes"),
        (F.cross_entropy, "classes"),
        (functools.partial(F.cross_entropy, label_smoothing=0.1), "classes"),
        (nn.MSELoss(), "reals"),
        (F.mse_loss, "reals"),
        (nn.L1Loss(), "reals"),
        (nn.SmoothL1Loss(beta=0.5), "reals"),
        (nn.HuberLoss(delta=0.5), "reals"),
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), "labels"),
        (nn.KLDivLoss(reduction="batchmean"), "probabilities"),
        (nn.PoissonNLLLoss(), "probabilities"),
    ],
)
def test_the_mean_of_torchs_losses_is_what_torch_returns(loss, targets):
    x, y = data()
    y = {
        "classes": y,
        "reals": x[:, :3] * 2,
        "probabilities": x[:, :3].softmax(1),
        "labels": (x[:, :3] > 0).float(),
    }[targets]
    of_logarithms = isinstance(loss, (nn.NLLLoss, nn.KLDivLoss))
    net = nn.Sequential(network(), nn.LogSoftmax(1)) if of_logarithms else network()
    subject = Subject(net, x, y, loss=loss)
    found = subject.losses(net(subject.inputs), subject.targets)
    assert found.shape == (len(subject.inputs),)
    assert torch.allclose(found.mean(), loss(net(x), y), rtol=1e-5)
    again = subject.with_model(net)  # a subject made of a subject
    assert torch.equal(again.losses(net(again.inputs), again.targets), found)


@pytest.mark.parametrize("outputs", ["(N,)", "(N, 1)"])
@pytest.mark.parametrize("targets", ["(N,)", "(N, 1)"])
@pytest.mark.parametrize("loss", [None, nn.MSELoss(), nn.BCEWithLogitsLoss()], ids=str)
def test_one_output_is_never_broadcast(outputs, targets, loss):
    x, _ = data()
    y = (x.sum(1) > 0).float()
    net = network(1)
    model = net if outputs == "(N, 1)" else Calls(lambda self, x: self.net(x).squeeze(-1), net)
    given = y if targets == "(N,)" else y[:, None]
    task = "regression" if loss is None else None
    subject = Subject(model, x, given, loss=loss, task=task)
    f = net(x).squeeze(1)
    expected = {
        "None": 0.5 * (f - y) ** 2,
        "MSELoss()": (f - y) ** 2,
        "BCEWithLogitsLoss()": F.softplus(f) - y * f,
    }[str(loss)]
    found = subject.losses(subject.working_model(torch.float32)(x), subject.targets)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_loss_of_ones_own_gets_outputs_and_targets_as_they_are():
    x, _ = data()
    y = x[:, 0] * 3
    model = Calls(lambda self, x: self.net(x).squeeze(-1), network(1))
    subject = Subject(model, x, y, loss=lambda f, t: (f - t).abs())
    found = subject.losses(subject.working_model(torch.float32)(x), subject.targets)
    assert torch.allclose(found, (model(x) - y).abs())
    signs = torch.where(y > 0, 1, -1)
    hinge = Subject(
        network(1), x, signs, loss=lambda f, t: (1 - f.squeeze(1) * t).clamp(min=0) ** 2
    )
    assert hinge.task == "regression"
    assert torch.equal(hinge.targets, signs)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda f, t: F.cross_entropy(f, t), "one number.*reduction='none'"),
        (lambda f, t: F.cross_entropy(f, t, reduction="sum"), "one number"),
        (lambda f, t: -F.one_hot(t, 3) * f.log_softmax(1), r"shape \(12, 3\).*sum or the mean"),
        (lambda f, t: F.cross_entropy(f, t).expand(len(f)), "beside it"),
        (lambda f, t: F.cross_entropy(f - f.mean(0), t, reduction="none"), "beside it"),
        (lambda f, t: f.mean(0), "returned the shape|beside it"),
        (lambda f, t: 1.0, "returned a float"),
        (lambda f, t: F.nll_loss(f.T, t, reduction="none"), "can't be evaluated"),
        (nn.CrossEntropyLoss(reduction="sum"), "sums over the samples"),
        (nn.CTCLoss(), "can't be evaluated"),
        (nn.CrossEntropyLoss, "is the class CrossEntropyLoss"),
        (7, "must be callable"),
    ],
)
def test_what_is_no_loss_a_sample_is_refused(loss, message):
    x, y = data()
    with pytest.raises(InputError, match=message):
        Subject(network(), x, y, loss=loss)


class Mean(nn.Module):
    """A loss of one's own with a reduction, whose mean divides by what it likes."""

    def __init__(self, values, divided_by=None, reduction="mean"):
        super().__init__()
        self.values, self.divided_by, self.reduction = values, divided_by, reduction

    def forward(self, f, t):
        losses = self.values(f, t)
        if self.reduction == "none":
            return losses
        return losses.mean() if self.divided_by is None else losses.sum() / self.divided_by(t)


WEIGHTS = torch.tensor([1.0, 3.0, 5.0])


def by_counts(f, t):
    """Classes that are rare in the batch weigh more."""
    return F.cross_entropy(f, t, reduction="none") / (t[:, None] == t).sum(1)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            Mean(
                lambda f, t: F.cross_entropy(f, t, weight=WEIGHTS.to(f), reduction="none"),
                lambda t: WEIGHTS[t].sum(),
            ),
            "is not the mean of its values",
        ),
        (
            Mean(
                lambda f, t: F.cross_entropy(f, t, ignore_index=2, reduction="none"),
                lambda t: (t != 2).sum(),
            ),
            "is not the mean of its values",
        ),
        (by_counts, "depends on which other samples"),
        (lambda f, t: 1e-9 * by_counts(f, t), "depends on which other samples"),
    ],
)
def test_a_loss_is_tried_on_targets_of_every_class(loss, message):
    """The first samples, all of one class, say nothing of the others."""
    x, _ = data()
    with pytest.raises(InputError, match=message):
        Subject(network(), x, torch.arange(N) // 4, loss=loss)


class Uncertain(nn.Module):
    """Its loss has a parameter of the network's."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(FEATURES, CLASSES), nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return self.layer(x)

    def loss(self, f, t):
        return F.cross_entropy(f, t, reduction="none") * torch.exp(-self.scale) + self.scale


class Around(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, f, t):
        return self.net.loss(f, t)


@pytest.mark.parametrize("way", ["method", "closure", "module", "regulariser"])
@pytest.mark.parametrize("batches", [False, True])
def test_a_loss_that_reads_the_parameters_by_itself_is_refused(way, batches):
    """In a copy they move, and for it they would be constants."""
    x, y = data()
    net = Uncertain()
    loss = {
        "method": net.loss,
        "closure": lambda f, t: net.loss(f, t),
        "module": Around(net),
        "regulariser": lambda f, t: (
            F.cross_entropy(f, t, reduction="none") + 0.1 * net.layer.weight.square().sum()
        ),
    }[way]
    name = "layer.weight" if way == "regulariser" else "scale"
    made = (
        functools.partial(Subject.from_batches, net, [{"x": x, "y": y}])
        if batches
        else functools.partial(Subject, net, x, y)
    )
    with pytest.raises(InputError, match=f"{name}' of the network by itself.*lambda model, batch"):
        made(loss=loss)
    given = Subject.from_batches(
        net, [(x, y)], loss=lambda model, batch: model.loss(model(batch[0]), batch[1])
    )
    gradient = torch.autograd.grad(net.loss(net(x), y).mean(), list(net.parameters()))
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    assert sb.measure(given, "gradient_norm").value == pytest.approx(float(norm), rel=1e-5)


def test_a_loss_may_have_parameters_of_its_own():
    x, y = data()
    centres = nn.Parameter(torch.randn(CLASSES, CLASSES))
    subject = Subject(network(), x, y, loss=lambda f, t: (f - centres[t]).square().sum(1))
    assert sb.measure(subject, "gradient_norm").value > 0


def test_a_mean_of_ones_own_is_that_of_its_values():
    x, y = data()
    own = Mean(lambda f, t: F.cross_entropy(f, t, reduction="none") ** 2)
    subject = Subject(network(), x, y.sort().values, loss=own)
    outputs = network()(x)
    expected = F.cross_entropy(outputs, subject.targets, reduction="none") ** 2
    assert torch.allclose(subject.losses(outputs, subject.targets), expected)


def test_what_a_loss_is_tried_on_shows_every_class():
    assert telling(torch.arange(9) // 3, 8, 2).tolist()[:4] == [0, 1, 3, 6]
    tokens = torch.zeros(40, 3, dtype=torch.long)
    tokens[17, 2] = 7
    assert 17 in telling(tokens, 8, 3).tolist()
    assert telling(torch.randn(2, 3), 3, 3).tolist() == [0, 1, 0]
    assert len(set(telling(torch.randn(500), 64, 3).tolist())) > 60


@pytest.mark.parametrize(
    "call",
    [
        lambda self, x: self.net(x / x[1:].abs().max()),  # the first sample has no part in it
        lambda self, x: self.net(x) * (torch.arange(len(x)) < 4).to(x)[:, None],  # of so many room
    ],
)
def test_samples_that_meet_are_found_wherever_they_stand(call):
    x, y = data()
    met = Subject(Calls(call), x, y)
    assert met.coupled
    assert "take them as one batch" in met.said[0]


def test_a_mean_is_refused_for_a_single_sample_too():
    x, y = data()
    with pytest.raises(InputError, match="one number"):
        Subject(network(), x[:1], y[:1], loss=lambda f, t: F.cross_entropy(f, t))
    squeezed = Subject(
        network(1), x[:1], x[:1, 0] * 3, loss=lambda f, t: (f - t[:, None]).squeeze()
    )
    assert squeezed.losses(torch.zeros(1, 1), torch.ones(1)).tolist() == [-1]


def test_unsummed_losses_of_several_outputs_are_refused():
    x, _ = data()
    with pytest.raises(InputError, match="one value a sample"):
        Subject(network(), x, x[:, :3] * 2, loss=nn.MSELoss(reduction="none"))


def test_squared_error_has_the_hessian_of_least_squares():
    outputs, targets = torch.randn(5, 2), torch.randn(5, 2)
    expected = 0.5 * ((outputs - targets) ** 2).sum(1)
    assert torch.allclose(per_sample_loss("regression")(outputs, targets), expected)
    with pytest.raises(InputError, match="broadcast"):
        per_sample_loss("regression")(torch.zeros(6, 2, 3), torch.zeros(6, 3, 2))


# --- networks ---------------------------------------------------------------------------------------


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.lock = network(), threading.Lock()
        self.tools = {"rows": (i for i in range(3)), "scale": torch.tensor(2.0)}

    def forward(self, x):
        with self.lock:
            return self.net(x) * self.tools["scale"]


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"scale": torch.ones(2), "names": ["a"], "tool": object()}

    def set_extra_state(self, state):
        pass


def _stepped(make) -> nn.Module:
    """A network whose hooks hold tensors with a graph, which deepcopy refuses."""
    net = network()
    make(net[0])
    net(data()[0]).sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    return net


def _pruned(layer: nn.Module) -> None:
    from torch.nn.utils import prune

    prune.l1_unstructured(layer, "weight", amount=0.5)


def _hooked() -> nn.Module:
    net = network()
    net[1].register_forward_hook(lambda module, args, output: 3 * output)
    return net


def _in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return network()


@pytest.mark.parametrize(
    "make",
    [
        lambda: _stepped(nn.utils.spectral_norm),
        lambda: _stepped(nn.utils.weight_norm),
        lambda: _stepped(_pruned),
        Locked,
        lambda: Extra(FEATURES, CLASSES),
        lambda: Calls(lambda self, x: {"logits": self.net(x), "loss": None}),
        lambda: Calls(lambda self, x: self.net(x) @ self.plain, plain=torch.eye(3) * 2),
        lambda: Calls(lambda self, x: x[:, :3] * 2, nn.Identity()),
        lambda: Calls(lambda self, x: self.net(x) * self.scale, scale=nn.Parameter(torch.ones(()))),
        lambda: nn.Sequential(nn.ReLU(inplace=True), network()),
        lambda: nn.DataParallel(network()),
        lambda: torch.jit.script(network()),
        lambda: torch.jit.trace(network(), data()[0]),
        _hooked,
        _in_inference_mode,
        lambda: nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Dropout(), network()).train(),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_copy_computes_the_same_function_and_leaves_the_network_alone(make):
    x, y = data()
    model = make()
    given, modes = x.clone(), [m.training for m in model.modules()]
    state = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    before = copy.deepcopy(state)
    subject = Subject(model, given, y)
    copied = subject.working_model(torch.float64)
    found = copied(given.double())
    found.sum().backward() if found.requires_grad else None
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert torch.equal(given, x)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in state.items())
    model.eval()
    with torch.no_grad():
        expected = model(x.clone())
    expected = expected["logits"] if isinstance(expected, dict) else expected
    assert torch.allclose(found.float(), expected, rtol=1e-4, atol=1e-6)


def test_a_compiled_network_runs_as_written():
    x, y = data()
    net = network()
    whole = Subject(torch.compile(net), x, y).working_model(torch.float64)
    assert torch.allclose(whole(x.double()).float(), net(x), rtol=1e-5, atol=1e-6)
    part = Calls(lambda self, x: self.net(x), torch.compile(network()))
    inner = Subject(part, x, y).working_model(torch.float64)
    assert next(n for n, _ in inner.named_parameters()) == "net.0.weight"


class OneForAll(nn.Linear):
    def __deepcopy__(self, memo):
        return self


def _closed_over() -> nn.Module:
    net = network()
    net[0].forward = lambda x: F.linear(x, net[0].weight, net[0].bias)
    return net


def _with(value: float, where: str) -> nn.Module:
    net = nn.Sequential(nn.BatchNorm1d(FEATURES), network())
    net.state_dict()[where].view(-1)[0] = value
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear, "is the class Linear"),
        (lambda: torch.tanh, "must be a torch.nn.Module"),
        (lambda: nn.LazyLinear(3), "'weight' .* not initialised"),
        (lambda: nn.Linear(5, 3, device="meta"), "meta device"),
        (lambda: nn.Linear(7, 3), r"doesn't run on inputs of shape \(N, 5\)"),
        (lambda: Calls(lambda self, x: None), "returned None"),
        (lambda: Calls(lambda self, x: {"out": self.net(x)}), "keys out.*'logits'"),
        (lambda: Calls(lambda self, x: (self.net(x), x)), "returned a tuple"),
        (lambda: Calls(lambda self, x: self.net(x).sum()), "one row an input"),
        (lambda: Calls(lambda self, x: self.net(x).T), "one row an input"),
        (lambda: Calls(lambda self, x: self.net(x)[:, :0]), "returned nothing"),
        (lambda: Calls(lambda self, x: self.net(x).argmax(1)), "floating-point"),
        (lambda: Calls(lambda self, x: self.net(x)[:, :, None]), r"\(N, classes\)"),
        (lambda: _with(torch.nan, "1.0.weight"), "'1.0.weight' of the network holds NaN"),
        (lambda: _with(torch.inf, "1.2.bias"), "'1.2.bias' of the network holds infinite"),
        (lambda: _with(torch.nan, "0.running_mean"), "buffer '0.running_mean'"),
        (lambda: OneForAll(5, 3), "__deepcopy__"),
        (_closed_over, "through `self`"),
    ],
)
def test_unusable_networks_are_refused(make, message):
    x, y = data()
    with pytest.raises(InputError, match=message):
        Subject(make(), x, y)


class Attached(nn.Module):
    """Tensors, and a module, in attributes that torch doesn't look into."""

    def __init__(self):
        super().__init__()
        self.first, self.rest = nn.Linear(FEATURES, 6), [nn.Linear(6, 4)]
        self.tables = {"in": {"scale": torch.rand(6) + 1}, "self": self.rest}
        self.shifts = (torch.randn(6), [torch.randn(4, CLASSES)])
        self.tables["again"] = self.tables

    def forward(self, x):
        scaled = torch.diag(self.tables["in"]["scale"])
        return self.rest[0](torch.tanh(self.first(x) @ scaled + self.shifts[0])) @ self.shifts[1][0]


def test_what_stands_in_attributes_follows_the_precision():
    torch.manual_seed(0)
    model, (x, y) = Attached(), data()
    subject = Subject(model, x, y)
    wide = subject.working_model(torch.float64)(x.double())
    assert wide.dtype == torch.float64
    assert torch.allclose(wide.float(), model(x), atol=1e-5)
    assert model.tables["in"]["scale"].dtype == torch.float32
    assert model.rest[0].weight.dtype == torch.float32
    assert sb.measure(subject, "hessian_trace", parameters_of=["first"]).value != 0


def test_parameters_in_one_memory_are_refused():
    x, y = data()
    tied = nn.Sequential(nn.Linear(FEATURES, 5), nn.Linear(FEATURES, 5), nn.Linear(5, CLASSES))
    tied[1].weight.data = tied[0].weight.data
    message = r"'0.weight' and '1.weight' are two in one memory.*a\.weight = b\.weight"
    with pytest.raises(InputError, match=message):
        Subject(tied, x, y)
    tied[1].weight = nn.Parameter(tied[0].weight.data.T)
    with pytest.raises(InputError, match="two in one memory"):
        Subject(tied, x, y)
    tied[1].weight = tied[0].weight
    assert Subject(tied, x, y).model is tied
    memory = torch.randn(2 * FEATURES * CLASSES)  # parts of one memory, and columns of one
    apart = nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Linear(CLASSES, FEATURES))
    for layer, part in zip(apart, memory.chunk(2), strict=True):
        layer.weight = nn.Parameter(part.view_as(layer.weight))
    assert Subject(apart, x, x).model is apart
    columns = torch.randn(CLASSES, 2 * FEATURES)
    two = nn.ModuleList([nn.Linear(FEATURES, CLASSES) for _ in range(2)])
    for layer, part in zip(two, columns.chunk(2, 1), strict=True):
        layer.weight = nn.Parameter(part)
    assert Subject(Calls(lambda self, x: two_of(self, x), two), x, y).outputs == CLASSES


def two_of(self, x):
    return self.net[0](x) * self.net[1](x)


def test_a_part_that_stays_in_training_mode_is_named():
    class Always(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(True)

    x, y = data()
    with pytest.raises(InputError, match="its part '1', a Always, stays in training mode"):
        Subject(nn.Sequential(nn.Linear(FEATURES, 6), Always(6), nn.Linear(6, CLASSES)), x, y)


def test_weights_are_checked_again_when_they_are_measured():
    x, y = data()
    net = network()
    subject = Subject(net, x, y)
    net[0].weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"'0\.weight'"):
        subject.working_model(torch.float64)


def test_the_working_copy_is_private():
    model = nn.Linear(3, 2).train()
    subject = Subject(model, torch.randn(2, 3), torch.tensor([0, 1]))
    copied = subject.working_model(torch.float64)
    copied.weight.data.zero_()
    assert model.training
    assert not copied.training
    assert model.weight.abs().sum() > 0
    assert subject.dtype == torch.float32


def test_making_a_subject_draws_nothing_from_the_global_generator():
    (x, y), model = data(), Calls(lambda self, x: F.dropout(self.net(x)))
    state = torch.get_rng_state()
    Subject(model, x, y)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_statistics_keep_the_running_ones():
    norm = nn.BatchNorm1d(3).train()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    with frozen_statistics(norm):
        norm(torch.randn(8, 3) + 5)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    norm(torch.randn(8, 3) + 5)
    assert not torch.equal(norm.running_mean, before["running_mean"])
