"""Fully connected networks: weights used, wrapped, shared, frozen and changed as people do it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune

from tests.zoo.idioms.base import idiom


@idiom(8, 5)
def relu_in_place() -> nn.Module:
    """An activation that overwrites its layer's output."""
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


@idiom(8, 5)
class ScaledInPlace(nn.Module):
    """A layer's output multiplied and squashed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x)
        h *= 2
        h.tanh_()
        return self.b(h)


class StandardisedLinear(nn.Linear):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5)
        return F.linear(x, w, self.bias)


@idiom(8, 5)
def weight_standardised() -> nn.Module:
    """A subclass of Linear that standardises its weight."""
    return nn.Sequential(StandardisedLinear(5, 6), nn.ReLU(), nn.Linear(6, 3))


class LowRankLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(0.4 * torch.randn(rank, inputs))
        self.up = nn.Parameter(0.4 * torch.randn(outputs, rank))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


@idiom(8, 5)
def low_rank_adapter() -> nn.Module:
    """LoRA as a subclass of Linear with a frozen weight."""
    return nn.Sequential(LowRankLinear(5, 6), nn.GELU(), LowRankLinear(6, 3))


class GainLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(outputs))

    def forward(self, x):
        return super().forward(x) * self.gain


@idiom(8, 5, seed=2)
def gain_subclass() -> nn.Module:
    """A subclass of Linear with a gain of its own."""
    return nn.Sequential(GainLinear(5, 5), nn.ELU(), GainLinear(5, 3))


@idiom(8, 5)
class CosineHead(nn.Module):
    """A head whose weight is normalised and used functionally, with a 0-dim temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(5, 6), nn.Linear(6, 3, bias=False)
        self.temperature = nn.Parameter(torch.tensor(4.0))

    def forward(self, x):
        h = F.normalize(torch.tanh(self.a(x)), dim=1)
        return self.temperature * F.linear(h, F.normalize(self.head.weight, dim=1))


@idiom(8, 5, seed=1)
class TiedAutoencoder(nn.Module):
    """A weight used by its module and, transposed, by F.linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4, bias=False), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(torch.relu(F.linear(torch.sigmoid(self.a(x)), self.a.weight.t())))


@idiom(6, 4)
class TiedHead(nn.Module):
    """An embedding of token numbers tied to the output layer, beside real inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(3, 4), nn.Linear(8, 4)
        self.head = nn.Linear(4, 3, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        token = self.embed((x[:, 0].detach() > 0).long())
        return self.head(torch.tanh(self.mix(torch.cat([token, x], 1))))


@idiom(8, 5)
def frozen_backbone() -> nn.Module:
    """Transfer learning with requires_grad_(False)."""
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].requires_grad_(False)
    return net


class Backbone(nn.Module):
    def __init__(self, no_grad: bool) -> None:
        super().__init__()
        self.a, self.b, self.no_grad = nn.Linear(5, 4), nn.Linear(4, 3), no_grad

    def forward(self, x):
        with torch.set_grad_enabled(not self.no_grad and torch.is_grad_enabled()):
            h = torch.tanh(self.a(x))
        return self.b(h)


@idiom(
    8,
    5,
    input_twin=lambda: Backbone(False),
    may_refuse={"input": "", "gradient_change": "", "jacobian": "", "lambda": ""},
)
def no_grad_backbone() -> nn.Module:
    """A backbone under torch.no_grad() whose parameters still require gradients."""
    return Backbone(True)


@idiom(8, 5)
class FunctionalWeights(nn.Module):
    """Layers that only hold weights; the forward pass uses them functionally."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = F.silu(F.linear(x, self.a.weight, self.a.bias))
        return torch.addmm(self.b.bias, h, self.b.weight.t())


@idiom(8, 5)
def pruned() -> nn.Module:
    """torch.nn.utils.prune, last called under no_grad."""
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    prune.random_unstructured(net[0], "weight", 0.5)
    with torch.no_grad():
        net(torch.zeros(1, 5))
    return net


@idiom(8, 5)
def pruned_after_a_step() -> nn.Module:
    """Pruned, and called with gradients, so that the weight is no leaf."""
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    prune.l1_unstructured(net[2], "weight", 4)
    net(torch.zeros(1, 5)).sum().backward()
    return net


@idiom(8, 5)
def forward_hook() -> nn.Module:
    """A user's hook that changes a layer's output."""
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output + 0.1)
    return net


@idiom(8, 5)
def forward_pre_hook() -> nn.Module:
    """A user's hook that changes a layer's input."""
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    net[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] * inputs[0].sigmoid(),))
    return net


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).T


@idiom(8, 5)
def parametrized_symmetric() -> nn.Module:
    """torch.nn.utils.parametrize with the user's own map."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Softplus(), nn.Linear(5, 3))
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    return net


@idiom(8, 5)
def weight_norm_hook() -> nn.Module:
    """torch.nn.utils.weight_norm, the older one by a hook, after a forward pass."""
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3))
    net(torch.zeros(1, 5))
    return net


@idiom(8, 5)
def weight_norm_parametrization() -> nn.Module:
    """parametrizations.weight_norm, whose double backward is wrong in torch."""
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3))


@idiom(8, 5)
def spectral_norm_hook() -> nn.Module:
    """torch.nn.utils.spectral_norm, the older one by a hook, after a forward pass."""
    net = nn.Sequential(nn.utils.spectral_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3))
    net(torch.ones(1, 5))
    return net


@idiom(8, 5)
def spectral_norm_parametrization() -> nn.Module:
    """parametrizations.spectral_norm in evaluation mode."""
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 3)
    )


@idiom(8, 4)
def orthogonal_parametrization() -> nn.Module:
    """parametrizations.orthogonal by the Cayley map."""
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley")
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(input=torch.relu(self.a(input=x)))


@idiom(8, 5)
def keyword_call() -> nn.Module:
    """Layers called by keyword, layer(input=h)."""
    return Keyword()


@idiom(8, 5)
class CalledTwice(nn.Module):
    """One layer in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        for _ in range(3):
            h = h + torch.relu(self.b(h))
        return self.c(h)


@idiom(8, 5)
def shared_module() -> nn.Module:
    """One module under two names."""
    block = nn.Sequential(nn.Linear(5, 5), nn.SELU())
    return nn.Sequential(block, nn.LayerNorm(5), block, nn.Linear(5, 3))


@idiom(8, 5)
class ParameterList(nn.Module):
    """Weights in a ParameterList and a ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([0.5 * torch.randn(5, 5), 0.5 * torch.randn(5, 3)])
        self.shifts = nn.ParameterDict({"a": torch.zeros(5), "b": torch.zeros(3)})

    def forward(self, x):
        h = torch.sin(x @ self.weights[0] + self.shifts["a"])
        return h @ self.weights[1] + self.shifts["b"]


@idiom(8, 5)
class BareParameters(nn.Module):
    """No layers at all, and products by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.5 * torch.randn(5, 2, 3))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.last = nn.Parameter(0.5 * torch.randn(2, 3, 3))

    def forward(self, x):
        h = torch.einsum("ni,ihk->nhk", x, self.first).mul(self.scale).arctan()
        return torch.einsum("nhk,hkc->nc", h, self.last)


@idiom(8, 4)
class Bilinear(nn.Module):
    """nn.Bilinear of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 3), nn.Bilinear(3, 3, 3)

    def forward(self, x):
        return self.c(self.a(x).tanh(), self.b(x).relu())


@idiom(8, 4)
class Gated(nn.Module):
    """nn.GLU, then a SwiGLU block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.glu = nn.Linear(4, 8), nn.GLU()
        self.up, self.gate, self.down = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.glu(self.a(x))
        return self.down(F.silu(self.gate(h)) * self.up(h))


@idiom(10, 4)
class MixtureOfExperts(nn.Module):
    """Top-1 routing: each expert sees its own samples and writes them by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.experts = nn.ModuleList([nn.Linear(4, 5) for _ in range(2)])
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        weight, chosen = self.router(x).softmax(1).max(1)
        out = torch.zeros(len(x), 5, dtype=x.dtype, device=x.device)
        for k, expert in enumerate(self.experts):
            mine = chosen == k
            out[mine] = torch.tanh(expert(x[mine])) * weight[mine, None]
        return self.head(out)


@idiom(8, 5)
class FunctionalCallInside(nn.Module):
    """A network run by torch.func.functional_call with weights made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
        self.scale = nn.Parameter(torch.tensor(1.2))

    def forward(self, x):
        weights = {n: self.scale * p for n, p in self.inner.named_parameters()}
        return functional_call(self.inner, weights, (x,))


@idiom(8, 4)
class Hypernetwork(nn.Module):
    """A layer's weights are another layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(4, 3)
        self.weights = nn.Linear(3, 12)

    def forward(self, x):
        w = self.weights(torch.tanh(self.code(x))).view(-1, 3, 4)
        return torch.bmm(w, x.unsqueeze(2)).squeeze(2)


@idiom(8, 4)
class FixedPoint(nn.Module):
    """A fixed point iterated until it holds, differentiated through."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.z, self.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.zeros_like(x)
        for _ in range(15):
            h = torch.tanh(self.a(x) + 0.5 * self.z(h))
        return self.b(h)


@idiom(8, 5)
class OneRowBuffer(nn.Module):
    """A Linear applied to a buffer of one row that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Buffer(torch.randn(1, 4))
        self.h, self.a, self.b = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x) + self.h(self.code)))


@idiom(8, 5)
class GateBlindToInput(nn.Module):
    """Piecewise linear in the input, not in the weights: a gate of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Buffer(torch.randn(4))
        self.h, self.a, self.b = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x) * torch.tanh(self.h(self.code))))


@idiom(8, 5)
class ExtraState(nn.Module):
    """A module with get_extra_state."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 3)

    def forward(self, x):
        return self.a(x)

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


@idiom(8, 5)
class StochasticDepth(nn.Module):
    """Residual blocks that training drops at random, and dropout, both off in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(5, 5), nn.Linear(5, 3), nn.Dropout(0.3)

    def forward(self, x):
        if not self.training or torch.rand(()) > 0.5:
            x = x + self.drop(torch.relu(self.a(x)))
        return self.b(x)


@idiom(8, 5)
class UnusedParameter(nn.Module):
    """A layer that the forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.spare = nn.Linear(5, 5), nn.Linear(5, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(F.mish(self.a(x)))


@idiom(8, 5)
def backward_hook() -> nn.Module:
    """A full backward hook that only looks."""
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].register_full_backward_hook(lambda module, inputs, outputs: None)
    return net


@idiom(8, 5, may_refuse={"": "random"})
class DropoutLeftOn(nn.Module):
    """F.dropout without training=self.training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.4))


@idiom(8, 5, may_refuse={"": ""})
class NotANumber(nn.Linear):
    """A weight that diverged."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        with torch.no_grad():
            self.weight[1, 2] = float("nan")


class StopGradient(nn.Module):
    def __init__(self, *, stop: bool) -> None:
        super().__init__()
        self.a, self.b, self.stop = nn.Linear(5, 4), nn.Linear(4, 3), stop

    def forward(self, x):
        h = self.a(x)
        gate = torch.sigmoid(2 * h)
        return self.b(h * (gate.detach() if self.stop else gate))


@idiom(
    8,
    5,
    input_twin=lambda: StopGradient(stop=False),
    # No second derivative is meant by it, and in the input it is no derivative of the function.
    may_refuse=dict.fromkeys(
        (
            "top",
            "smallest",
            "trace",
            "frobenius",
            "negative",
            "lambda",
            "input",
            "gradient_change",
            "jacobian",
        ),
        "",
    ),
)
def stop_gradient() -> nn.Module:
    """A gate that is detached."""
    return StopGradient(stop=True)


@idiom(8, 5)
class LazyLayers(nn.Module):
    """Layers that learn their width at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(3)
        )
        self.net(torch.randn(4, 5))

    def forward(self, x):
        return self.net(x)


@idiom(8, 5)
def data_parallel() -> nn.Module:
    """nn.DataParallel, which passes through where there is no GPU."""
    return nn.DataParallel(nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)))


@idiom(8, 5)
class Autocast(nn.Module):
    """A forward pass under torch.autocast that is turned off."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.b(torch.tanh(self.a(x.to(self.a.weight.dtype))))
