"""What few people write and somebody does: parts of parameters, functions of functions, loops over blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.zoo.idioms.base import idiom


@idiom(8, 5)
class OneFlatVector(nn.Module):
    """All weights in one vector, cut and shaped on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(0.5 * torch.randn(5 * 6 + 6 + 6 * 3 + 3))

    def forward(self, x):
        w, b, v, c = self.theta.split([30, 6, 18, 3])
        return F.linear(torch.tanh(F.linear(x, w.view(6, 5), b)), v.view(3, 6), c)


@idiom(8, 4)
class RowsShared(nn.Module):
    """Two layers that share some rows of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.head = nn.Parameter(0.5 * torch.randn(6, 4)), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.cat([F.linear(x, self.w[:4]).tanh(), F.linear(x, self.w[2:]).sigmoid()], 1)
        return self.head(h)


@idiom(8, 5)
class KroneckerLayer(nn.Module):
    """A weight that is a Kronecker product of two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(2, k)) for k in (1, 5))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(F.linear(x, torch.kron(self.a, self.b))))


@idiom(4, 5, 3)
class ChunkedAttention(nn.Module):
    """Attention whose queries are taken in blocks, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, 3, bias=False) for _ in range(3))
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        k, v = self.k(x), self.v(x)
        blocks = [(self.q(b) @ k.mT).softmax(-1) @ v for b in x.split(2, 1)]
        return self.head(torch.cat(blocks, 1).amax(1))


class HalfDetached(nn.Linear):
    def __init__(self, *size: int, detach: bool = True) -> None:
        super().__init__(*size)
        self.detach_statistics = detach

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_statistics):
            mean, size = self.weight.mean(1, keepdim=True), self.weight.std(1, keepdim=True)
        return F.linear(x, (self.weight - mean) / size, self.bias)


SECOND = ("top", "smallest", "trace", "frobenius", "negative")


@idiom(8, 4, may_refuse=dict.fromkeys(SECOND, "differ"))
def standardised_by_constants() -> nn.Module:
    """Weight standardisation whose mean and deviation are computed under torch.no_grad()."""
    return nn.Sequential(HalfDetached(4, 5), nn.Tanh(), nn.Linear(5, 3))


@idiom(6, 4)
class Ensemble(nn.Module):
    """Members stacked by stack_module_state and run by vmap over their weights."""

    def __init__(self) -> None:
        super().__init__()
        members = [nn.Linear(4, 3) for _ in range(2)]
        weights, _ = stack_module_state(members)
        self.weights = nn.ParameterDict({n: p.detach().clone() for n, p in weights.items()})
        self.__dict__["skeleton"] = members[0]

    def forward(self, x):
        call = lambda w: functional_call(self.skeleton, w, (x,)).tanh()  # noqa: E731
        return vmap(call)(dict(self.weights)).sum(0)


@idiom(6, 4)
class SampleByVmap(nn.Module):
    """A function of one sample, batched by torch.func.vmap, with as many units as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return vmap(lambda v: self.b(torch.tanh(self.a(v))))(x)


@idiom(6, 3)
class EnergyGradient(nn.Module):
    """The outputs are the gradient of a learned energy in the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 1)

    def forward(self, x):
        with torch.enable_grad():
            z = x if x.requires_grad else x.detach().requires_grad_()
            energy = self.b(torch.tanh(self.a(z))).sum()
            (force,) = torch.autograd.grad(energy, z, create_graph=True)
        return force


@idiom(6, 3)
class SlopesInside(nn.Module):
    """Features that are gradients by torch.func, sample by sample."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 3)

    def forward(self, x):
        return self.b(vmap(grad(lambda v: torch.tanh(self.a(v)).square().sum()))(x))


class Looked(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.table, self.b = nn.Embedding(3, 2, **options), nn.Linear(4, 3)

    def forward(self, x):
        rows = (3 * x[:, 0].detach()).long().abs() % 3
        return self.b(torch.cat([torch.tanh(self.table(rows)), torch.sin(x[:, 1:])], 1))


@idiom(7, 3, twin=Looked)
def embedding_sparse() -> nn.Module:
    """Embedding(sparse=True)."""
    return Looked(sparse=True)


@idiom(7, 3, may_refuse={"": "writes into its own parameter 'table.weight'"})
def embedding_renormalised() -> nn.Module:
    """Embedding(max_norm), which writes into its weight at each call."""
    return Looked(max_norm=0.1)


@idiom(6, 4, may_refuse={"": "called again"})
class StatisticsInEvaluation(nn.Module):
    """A running mean that is updated in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)
        self.mean = nn.Buffer(torch.zeros(3))

    def forward(self, x):
        h = self.a(x)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * h.mean(0))
        return self.b(torch.tanh(h - self.mean))


class Merged(nn.Module):
    def __init__(self, *, anew: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)
        self.anew, self.weight = anew, None

    def forward(self, x):
        if self.weight is None or self.anew:
            self.weight = 2 * self.a.weight
        return self.b(torch.tanh(F.linear(x, self.weight, self.a.bias)))


@idiom(6, 4, twin=lambda: Merged(anew=True), may_refuse={"": "does not follow"})
def merged_weight() -> nn.Module:
    """A weight derived at the first call and kept."""
    return Merged(anew=False)


SECOND_OR_INPUT = (*SECOND, "lambda", "input", "gradient_change", "jacobian")


@idiom(8, 4, may_refuse=dict.fromkeys(SECOND_OR_INPUT, "derivative"))
class QuantisedInSingle(nn.Module):
    """Activations quantised in float32, with torch's straight-through gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x)).float()
        return self.b(torch.fake_quantize_per_tensor_affine(h, 0.1, 0, -128, 127).to(x.dtype))


class Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, slope):
        x, w = ctx.saved_tensors
        return slope @ w, slope.t() @ x


@idiom(8, 4)
class OwnLinear(nn.Module):
    """A linear layer as the user's own autograd.Function."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.head = nn.Parameter(0.5 * torch.randn(5, 4)), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(Affine.apply(x, self.w)))


@idiom(5, 2, 3, 3)
def grouped_both_ways() -> nn.Module:
    """A depthwise convolution with a multiplier, and a grouped transposed one with dilation."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 2, groups=2, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 2, 2, groups=2, stride=2, dilation=2, bias=False),
        nn.Softplus(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 3),
    )


@idiom(6, 5, may_refuse={"": "not implemented"})
class BagsByOffsets(nn.Module):
    """An EmbeddingBag of bags of several lengths, beside real inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bags, self.head = nn.EmbeddingBag(4, 3, mode="sum"), nn.Linear(8, 3)

    def forward(self, x):
        many = 1 + (x[:, 0].detach() > 0).long()
        tokens = torch.cat([torch.arange(n, device=x.device) + n for n in many.tolist()])
        return self.head(torch.cat([self.bags(tokens, many.cumsum(0) - many).tanh(), x], 1))


@idiom(6, 4)
class AddedInPlace(nn.Module):
    """Biases added in place, a gain by addcmul, a mixture by lerp, a learned value written by index."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5, bias=False), nn.Linear(5, 3)
        self.shift, self.gain, self.mix = (nn.Parameter(torch.randn(5)) for _ in range(3))
        self.first = nn.Parameter(torch.randn(1))

    def forward(self, x):
        h = self.a(x)
        h += self.shift
        h = torch.addcmul(torch.sin(h), self.gain, h)
        h = torch.lerp(h, h.tanh(), self.mix)
        h[:, 0] = self.first * h[:, 1].clone()
        return self.b(h)


@idiom(4, 3, 4)
class MaskTokens(nn.Module):
    """A learned token where() the input is masked, a relative position table by index, extra keys."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.table = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(5))
        self.attention = nn.MultiheadAttention(4, 1, bias=False, add_bias_kv=True, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.gaps = nn.Buffer(torch.arange(3)[:, None] - torch.arange(3) + 2)

    def forward(self, x):
        x = torch.where(x[..., :1].detach() > 0.5, self.token, x)
        h, _ = self.attention(x, x, x, attn_mask=self.table[self.gaps])
        return self.head(h.mean(1))


@idiom(4, 3, 3)
class Decoder(nn.Module):
    """nn.TransformerDecoderLayer over the tokens themselves and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(3, 1, 2, dropout=0.0, batch_first=True, bias=False)

    def forward(self, x):
        return self.layer(x, x.mean(1, keepdim=True).tanh().expand(-1, 2, -1))[:, -1]


@idiom(6, 4)
class SpectrumOfWeights(nn.Module):
    """A real weight held as real and imaginary parts of its spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.re, self.im = (nn.Parameter(torch.randn(5, 3)) for _ in range(2))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        weight = torch.fft.irfft(torch.complex(self.re, self.im), n=4)
        return self.head(F.silu(F.linear(x, weight)))


@idiom(6, 4)
class EqualisedRate(nn.Module):
    """Weights scaled at run time, and biases with a rate of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(3, 5))
        self.c = nn.Parameter(torch.randn(3))

    def forward(self, x):
        h = F.leaky_relu(F.linear(x, self.a * 0.5), 0.2)
        return F.linear(h, self.b / 5**0.5, 0.1 * self.c)
