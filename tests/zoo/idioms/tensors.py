"""Forward passes that index, scatter, mask, alias and transform tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.idioms.base import idiom


class TwoLayers(nn.Module):
    """What most idioms here share: a layer before and a layer behind ``middle``."""

    def __init__(self, inputs: int = 5, width: int = 4) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, width), nn.Linear(width, 3)

    def middle(self, h):
        raise NotImplementedError

    def forward(self, x):
        return self.b(self.middle(self.a(x)))


@idiom(8, 5)
class MaskedWrite(TwoLayers):
    """out[mask] = … into a fresh tensor and where()."""

    def middle(self, h):
        out = torch.zeros_like(h)
        mask = h > 0
        out[mask] = torch.log1p(h[mask])
        return torch.where(h < -0.5, torch.sin(h), out)


@idiom(8, 5)
class IndexAdd(TwoLayers):
    """index_add_ of columns into a smaller tensor."""

    def middle(self, h):
        out = h.new_zeros(len(h), 4)
        out.index_add_(1, torch.tensor([0, 1, 1, 3]), torch.tanh(h))
        return out


@idiom(8, 5)
class Scatter(TwoLayers):
    """scatter and scatter_add by sorted positions, gather."""

    def middle(self, h):
        order = h.argsort(1)
        out = torch.zeros_like(h).scatter(1, order, torch.sigmoid(h))
        out = out.scatter_add(1, order.flip(1), h.square())
        return out.gather(1, order)


@idiom(8, 5)
class Accumulated(TwoLayers):
    """acc.add_(h) into a plain buffer, and a sum in place."""

    def middle(self, h):
        total = torch.zeros(h.shape, dtype=h.dtype)
        for k in range(1, 4):
            total.add_(torch.sin(k * h) / k)
        total += h.exp()
        return total


@idiom(8, 5)
class Alias(TwoLayers):
    """skip = h; h *= 2; a base changed and read through a view."""

    def middle(self, h):
        skip = h
        h *= 2
        view = h.view(len(h), 2, 2)
        h.add_(0.3)
        return torch.tanh(view.flatten(1)) + skip.square()


@idiom(8, 5)
class SlicesWritten(TwoLayers):
    """Parts of a tensor overwritten by slices."""

    def middle(self, h):
        out = h.clone()
        out[:, :2] = torch.tanh(h[:, :2])
        out[:, -1].mul_(0.5)
        out[:, 2] = h[:, 0] * h[:, 3]
        return out


@idiom(4, 5, seed=4)
class Bounds(TwoLayers):
    """torch.maximum with a constant, clamp, minimum of two branches."""

    def middle(self, h):
        h = torch.maximum(torch.tensor(-0.4, dtype=h.dtype), h * h.abs())
        return torch.minimum(h, torch.cos(h)).clamp(max=0.9)


@idiom(8, 5, seed=1)
class SortedFeatures(TwoLayers):
    """sort, topk, roll, flip."""

    def middle(self, h):
        top = h.exp().topk(2, dim=1).values
        return torch.cat([top, h.sort(1).values[:, :2].roll(1, 1).flip(1)], 1)


@idiom(8, 8)
class FourierFilter(nn.Module):
    """A filter of real weights between rfft and irfft."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.head = nn.Parameter(torch.randn(5)), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=8)
        return self.head(torch.tanh(h)) + torch.fft.fft(x).abs()[:, 1:4]


class FourierOperator(nn.Module):
    def __init__(self, *, real: bool) -> None:
        super().__init__()
        weight = torch.randn(3, 2)
        self.w = nn.Parameter(weight if real else torch.view_as_complex(weight))
        self.real, self.head = real, nn.Linear(4, 3)

    def forward(self, x):
        w = torch.view_as_complex(self.w) if self.real else self.w
        return self.head(torch.tanh(torch.fft.irfft(torch.fft.rfft(x) * w, n=4)))


class ComplexFourierOperator(FourierOperator):
    def double(self):
        # nn.Module.double drops what is imaginary.
        self.head.double()
        self.w.data = self.w.data.to(torch.complex128)
        return self


@idiom(8, 4, twin=lambda: FourierOperator(real=True), may_refuse={"": "complex"})
def complex_weights() -> nn.Module:
    """Complex parameters, as in a Fourier neural operator."""
    return ComplexFourierOperator(real=False)


@idiom(6, 4)
class Distances(nn.Module):
    """Radial basis functions of learned centres and a soft assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x):
        squares = (x[:, None] - self.centres).square().sum(2)
        return self.head(torch.exp(-0.3 * squares) + F.softmin(squares, 1))


@idiom(6, 4)
class PairwiseDistance(nn.Module):
    """torch.cdist to learned centres."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(torch.cdist(x, self.centres)))


@idiom(6, 4)
class LinearSolve(nn.Module):
    """A layer that solves a linear system of its input, and log-determinants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(3, 3)

    def forward(self, x):
        m = torch.tanh(self.a(x)).view(-1, 2, 2) + 2 * torch.eye(2, dtype=x.dtype)
        solved = torch.linalg.solve(m, x[:, :2, None])[:, :, 0]
        return self.b(torch.cat([solved, torch.linalg.slogdet(m)[1][:, None]], 1))


@idiom(6, 4)
class Products(nn.Module):
    """prod and cumprod of features, and powers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x):
        h = self.a(x)
        p = h.prod(1, keepdim=True)
        return self.b(torch.cat([p, h.cumprod(1), (h.square() + 0.1).pow(0.3)[:, :1]], 1))


@idiom(6, 4, seed=1)
class GraphConvolution(nn.Module):
    """Messages along edges of a fixed graph, gathered and summed by index_select and index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.head = nn.Linear(2, 3), nn.Linear(3, 3)
        self.source = nn.Buffer(torch.tensor([0, 1, 2, 3, 0]))
        self.target = nn.Buffer(torch.tensor([1, 2, 3, 0, 2]))

    def forward(self, x):
        pairs = torch.stack([x.index_select(1, self.source), x[:, self.target]], 2)
        messages = F.softplus(self.message(pairs))
        nodes = x.new_zeros(len(x), 4, 3).index_add(1, self.target, messages)
        return self.head(nodes.amax(1))


@idiom(5, 4, 2)
class SparseGraph(nn.Module):
    """A graph convolution by the product with a sparse adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 3)
        edges = torch.tensor([[0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 0, 1]])
        values = torch.tensor([0.5, 1.0, 0.7, 0.3, 0.2, 0.4])
        self.adjacency = nn.Buffer(torch.sparse_coo_tensor(edges, values, (4, 4)).coalesce())

    def forward(self, x):
        h = self.a(x).transpose(0, 1)
        h = torch.sparse.mm(self.adjacency, h.flatten(1)).view_as(h).transpose(0, 1)
        return self.b(torch.tanh(h).mean(1))


ACTIVATIONS = {
    "smooth": [nn.Softplus(2.0), nn.Mish(), nn.SiLU(), nn.GELU(), nn.Tanhshrink(), nn.LogSigmoid()],
    "bent": [nn.ELU(0.7), nn.CELU(0.5), nn.SELU(), nn.Hardswish(), nn.Softsign(), nn.Sigmoid()],
    "pieces": [
        nn.LeakyReLU(0.2),
        nn.RReLU(),
        nn.Hardsigmoid(),
        nn.Hardtanh(),
        nn.Softshrink(0.1),
        nn.ReLU6(),
    ],
}


class Activations(nn.Module):
    """Each unit of a layer with an activation of its own."""

    def __init__(self, kinds: list[nn.Module]) -> None:
        super().__init__()
        self.a, self.b, self.kinds = nn.Linear(4, 6), nn.Linear(6, 3), nn.ModuleList(kinds)

    def forward(self, x):
        columns = self.a(x).split(1, dim=1)
        return self.b(torch.cat([f(c) for f, c in zip(self.kinds, columns, strict=True)], 1))


@idiom(6, 4)
def activations_smooth() -> nn.Module:
    """Softplus, Mish, SiLU, GELU, Tanhshrink, LogSigmoid."""
    return Activations(ACTIVATIONS["smooth"])


@idiom(6, 4)
def activations_bent() -> nn.Module:
    """ELU, CELU, SELU, Hardswish, Softsign, Sigmoid."""
    return Activations(ACTIVATIONS["bent"])


@idiom(6, 4)
def activations_of_pieces() -> nn.Module:
    """LeakyReLU, RReLU, Hardsigmoid, Hardtanh, Softshrink, ReLU6."""
    return Activations(ACTIVATIONS["pieces"])


@idiom(6, 4)
def learned_slopes() -> nn.Module:
    """PReLU with a slope for each unit and one for all."""
    return nn.Sequential(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 4), nn.PReLU(), nn.Linear(4, 3))


@idiom(6, 4)
class Maxout(nn.Module):
    """The largest of several linear maps, unfolded by unflatten."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 9), nn.Linear(3, 3)

    def forward(self, x):
        return self.b(self.a(x).unflatten(1, (3, 3)).max(2).values)
