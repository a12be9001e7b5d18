"""A product is checked against differences of first derivatives before the first one is given."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sharpbench as sb
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.errors import MetricFailed
from sharpbench.loss import per_sample_loss
from sharpbench.measurement import Work
from sharpbench.metrics import metrics
from sharpbench.subject import Subject

CROSS_ENTROPY = per_sample_loss("classification")


class KeepsIntermediate(torch.autograd.Function):
    """Its backward pass takes what forward computed for a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.y = torch.tanh(x.detach())
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 - ctx.y**2)


class HalfSecond(torch.autograd.Function):
    """A second derivative that is too small by half."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (0.5 * torch.cos(x) + 0.5 * torch.cos(x.detach()))


class Right(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * torch.cos(x)


class Lossy(torch.autograd.Function):
    """A checkpoint that runs backward() inside its own."""

    @staticmethod
    def forward(ctx, run, x):
        ctx.run = run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        free = x.detach().requires_grad_()
        with torch.enable_grad():
            ctx.run(free).backward(gradient)
        return None, free.grad


class Middle(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


class Network(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.first, self.last = how, nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        def begin(z):
            return torch.tanh(self.first(z))

        if self.how == "no_grad":
            with torch.no_grad():
                h = begin(x)
        elif self.how == "lossy":
            h = Lossy.apply(begin, x)
        elif self.how == "reentrant":
            h = checkpoint(begin, x, use_reentrant=True)
        elif self.how == "checkpoint":
            h = checkpoint(begin, x, use_reentrant=False)
        elif self.how == "stopped":
            h = self.first(x)
            h = h * torch.sigmoid(h).detach()
        elif self.how == "low":
            h = begin(x).float().to(x.dtype)
        else:
            h = begin(x)
        return self.last(h)


def through(call):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), Middle(call), nn.Linear(6, 3))


def with_zero_biases(network):
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return network


def subject(network, dtype=torch.float64):
    torch.manual_seed(1)
    return Subject(network.to(dtype), torch.randn(30, 5).to(dtype), torch.arange(30) % 3)


def named(how):
    torch.manual_seed(0)
    return Network(how)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["hessian_top_eigenvalue", "hessian_trace", "input_curvature"])
@pytest.mark.parametrize("function", [KeepsIntermediate, HalfSecond])
def test_a_wrong_second_derivative_is_refused_by_name(function, metric, dtype):
    parameters = {"method": "hutchinson"} if metric == "hessian_trace" else {}
    with pytest.raises(MetricFailed, match=f"first derivatives.*{function.__name__}"):
        sb.measure(
            subject(through(function.apply), dtype), metric,
            dtype=str(dtype).removeprefix("torch."), **parameters,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "network",
    [
        lambda: through(Right.apply),
        lambda: with_zero_biases(through(torch.relu)),
        lambda: through(nn.LayerNorm(6)),
        lambda: through(nn.GELU()),
        lambda: named("reentrant"),
        lambda: named("checkpoint"),
        lambda: named("low"),
    ],
)
def test_what_is_right_passes(network, dtype):
    asked = subject(network(), dtype)
    name = str(dtype).removeprefix("torch.")
    for metric in ("hessian_top_eigenvalue", "fisher_rao_norm", "input_curvature"):
        checks = sb.measure(asked, metric, dtype=name).details["checks"]
        assert checks["product"] <= 1e-5


def test_a_detached_path_has_a_gauss_newton_matrix_and_no_hessian():
    asked = subject(named("stopped"))
    with pytest.raises(MetricFailed, match=r"most in (first|last)"):
        sb.measure(asked, "hessian_top_eigenvalue")
    assert sb.measure(asked, "fisher_rao_norm").details["checks"]["product"] < 1e-10


def test_a_frozen_part_is_told_and_a_lost_gradient_refused():
    frozen = sb.measure(subject(named("no_grad")), "hessian_top_eigenvalue")
    told = frozen.details["checks"]["parameters without gradient"]
    assert told == "first.weight, first.bias"
    for metric in ("hessian_top_eigenvalue", "fisher_rao_norm"):
        with pytest.raises(MetricFailed, match=r"is lost.*use_reentrant=False"):
            sb.measure(subject(named("lossy")), metric)


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        h = nn.functional.linear(x.bfloat16(), self.first.weight.bfloat16()).to(x.dtype)
        return self.last(torch.tanh(h))


def test_parameters_without_effect_are_told():
    net = Half()
    net.spare = nn.Linear(3, 2).double()
    found = sb.measure(subject(net), "hessian_top_eigenvalue")
    assert found.details["checks"]["parameters without effect"] == "spare.weight, spare.bias"
    note = metrics.create("hessian_top_eigenvalue").notes(found.details)[0]
    assert "does not depend on some of the parameters" in note


def test_half_precision_within_is_an_error_of_unknown_size():
    found = sb.measure(subject(Half()), "hessian_trace")
    assert [(e.source, e.size) for e in found.errors] == [("rounding", None)]
    assert not found.exact
    assert found.details["computes_in"] == "bfloat16"


def test_checkpoints_have_the_figure_of_the_network_without():
    plain = sb.measure(subject(named("plain")), "hessian_top_eigenvalue", tolerance=1e-8).value
    for how in ("reentrant", "checkpoint"):
        found = sb.measure(subject(named(how)), "hessian_top_eigenvalue", tolerance=1e-8).value
        assert found == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_the_check_leaves_weights_and_products_as_they_are_and_costs_little(kind):
    asked = subject(through(torch.tanh))
    inputs, targets = asked.inputs.repeat(40, 1), asked.targets.repeat(40)
    model, work, other = asked.working_model(torch.float64), Work(), Work()
    before = {n: p.clone() for n, p in model.named_parameters()}
    checked = kind(model, CROSS_ENTROPY, inputs, targets, work=work)
    plain = kind(model, CROSS_ENTROPY, inputs, targets, work=other, verify=False)
    v = torch.randn(checked.dimension, dtype=torch.float64)
    assert torch.equal(checked.matvec(v), plain.matvec(v))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert 0 < work.gradient_samples() - other.gradient_samples() < 150


class Sorted(nn.Module):
    """Samples whose first feature is above all but one take another way, as to an expert of their own."""

    def __init__(self, call, above):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.call, self.above = call, above

    def forward(self, x):
        h = self.first(x)
        apart = (x[:, 0] > self.above).nonzero()[:, 0]
        out = torch.sin(h)
        return self.last(out.index_put((apart,), self.call(h[apart])) if len(apart) else out)


class Once(Right):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return Right.backward(ctx, gradient)


@pytest.mark.parametrize("function", [KeepsIntermediate, HalfSecond, Once, Right])
@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("hessian_trace", {}),
        ("hessian_top_eigenvalue", {}),
        ("input_curvature", {"samples": "all", "split": "train"}),
    ],
)
def test_what_runs_for_one_sample_alone_is_checked_there(function, metric, options):
    torch.manual_seed(0)
    x, y = torch.randn(40, 5), torch.arange(40) % 3
    x[:, 0] = x[:, 0].clamp(max=1)
    x[23, 0] = 3.0
    network = Sorted(function.apply, 2.0)
    subject = Subject(network, x, y)
    if function is not Right:
        message = "once_differentiable" if function is Once else f"differ by.*{function.__name__}"
        with pytest.raises(MetricFailed, match=message):
            sb.measure(subject, metric, **options)
        return
    plain = Sorted(torch.sin, 2.0)
    plain.load_state_dict(network.state_dict())
    expected = sb.measure(Subject(plain, x, y), metric, **options)
    assert sb.measure(subject, metric, **options).value == pytest.approx(expected.value, rel=1e-6)


def test_what_runs_in_a_later_chunk_is_checked_when_it_comes():
    torch.manual_seed(0)
    x, y = torch.randn(40, 5).double(), torch.arange(40) % 3
    x[:, 0] = x[:, 0].clamp(max=1)
    x[23, 0] = 3.0
    for function, right in ((HalfSecond, False), (Right, True)):
        network = Sorted(function.apply, 2.0).double()
        hessian = HessianOperator(network, CROSS_ENTROPY, x, y, work=Work(), memory_budget=1 << 14)
        assert hessian.chunk < 23
        vector = torch.ones(hessian.dimension).double()
        if right:
            assert torch.isfinite(hessian.matvec(vector)).all()
            continue
        with pytest.raises(MetricFailed, match="HalfSecond"):
            hessian.matvec(vector)


def test_a_function_that_runs_for_no_sample_alone_is_refused():
    class Together(nn.Linear):
        def forward(self, x):
            z = super().forward(x)
            return Right.apply(z) if len(x) > 20 else torch.sin(z)

    torch.manual_seed(0)
    subject = Subject(Together(5, 3), torch.randn(40, 5), torch.arange(40) % 3)
    with pytest.raises(MetricFailed, match=r"Right runs for some samples beside others|depend"):
        sb.measure(subject, "hessian_trace")


class InSingle(nn.Module):
    """RMS norms that compute in float32, as T5's do, before many ReLUs of several tokens."""

    def __init__(self, after):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 40), nn.Linear(40, 40), nn.Linear(40, 3)
        self.after = after

    def forward(self, x):
        h = x.unflatten(1, (-1, 6))
        for layer in (self.first, self.second):
            size = h.to(torch.float32).pow(2).mean(-1, keepdim=True)
            h = layer(4 * (h * torch.rsqrt(size + 1e-6)).to(h.dtype)).relu()
        return self.after(4 * self.head(h).mean(1))


@pytest.mark.parametrize("name", ["hessian_top_eigenvalue", "input_curvature"])
def test_a_network_of_many_kinks_that_casts_to_float32_is_not_taken_for_a_wrong_one(name):
    torch.manual_seed(0)
    net, x, y = InSingle(nn.Tanh()), torch.randn(12, 60), torch.arange(12) % 3
    found = sb.measure(Subject(net, x, y), name)
    assert found.details["checks"]["product"] <= 1e-5
    if name == "hessian_top_eigenvalue":
        twin = InSingle(nn.Tanh()).double()
        twin.load_state_dict(net.state_dict())
        places = list(twin.state_dict())

        def loss(*weights):
            outputs = torch.func.functional_call(
                twin, dict(zip(places, weights, strict=True)), x.double()
            )
            return nn.functional.cross_entropy(outputs, y)

        weights = tuple(twin.state_dict().values())
        blocks = torch.autograd.functional.hessian(loss, weights)
        dense = torch.cat(
            [
                torch.cat([b.reshape(w.numel(), -1) for b in row], 1)
                for w, row in zip(weights, blocks, strict=True)
            ]
        )
        assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-5)


@pytest.mark.parametrize("name", ["hessian_top_eigenvalue", "input_curvature"])
@pytest.mark.parametrize("wrong", [KeepsIntermediate, HalfSecond])
def test_a_wrong_second_derivative_behind_such_a_cast_is_still_found(name, wrong):
    class After(nn.Module):
        def forward(self, f):
            return wrong.apply(f)

    torch.manual_seed(0)
    net, x, y = InSingle(After()), torch.randn(12, 60), torch.arange(12) % 3
    with pytest.raises(MetricFailed, match="product is not"):
        sb.measure(Subject(net, x, y), name)
