"""The exact Gauss-Newton trace on networks as people write them, against a matrix from first derivatives."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad
from torch.nn.utils import parametrizations, prune

import sharpbench as sb
from sharpbench.curvature import sample_gradients
from sharpbench.curvature.gauss_newton import (
    gauss_newton_rows,
    gauss_newton_trace,
    gradient_lengths,
)
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Work
from sharpbench.seeds import torch_generator
from sharpbench.subject import per_sample_loss

CROSS_ENTROPY = per_sample_loss("classification")
N, D, C = 12, 5, 3


def dense_gauss_newton(model, x, y, loss=CROSS_ENTROPY):
    """(1/N) Σ JᵢᵀΛᵢJᵢ, the Jacobian a row at a time by reverse mode over the whole batch."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    outputs = model(x)
    rows = []
    for value in outputs.reshape(-1):
        gradient = torch.autograd.grad(
            value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([g.reshape(-1) for g in gradient]))
    jacobian = torch.stack(rows)
    free = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(free, y).mean(), free, create_graph=True)
    curvature = torch.stack(
        [torch.autograd.grad(v, free, retain_graph=True)[0].reshape(-1) for v in slope.reshape(-1)]
    )
    return jacobian.T @ curvature @ jacobian


def data(*shape, samples=N):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, *shape, dtype=torch.float64, generator=generator)
    return x, torch.arange(samples) % C


class Net(nn.Module):
    """A network from its parts and a function of them and the input."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def vector(*shape):
    return nn.Parameter(torch.randn(*shape))


def mlp(*between):
    return nn.Sequential(nn.Linear(D, 6), *between, nn.Linear(6, C))


def in_place(change):
    def forward(s, x):
        h = s.a(x)
        change(h)
        return s.b(h)

    return Net(forward, a=nn.Linear(D, 6), b=nn.Linear(6, C))


def hooked(factor):
    net = mlp(nn.Tanh())
    net[0].register_forward_hook(lambda module, args, output: factor * output)
    return net


def pre_hooked():
    net = mlp(nn.Tanh())
    net[0].register_forward_pre_hook(lambda module, args: (args[0] ** 2,))
    return net


def conv_bn_relu():
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16, C),
    )
    for layer in (net[1], net[4]):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        nn.init.normal_(layer.weight)
    return net


def recurrent():
    def forward(s, x):
        h = torch.zeros(len(x), 4, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = torch.tanh(s.into(x[:, t]) + s.step(h))
        return s.out(h)

    return Net(forward, into=nn.Linear(D, 4), step=nn.Linear(4, 4), out=nn.Linear(4, C))


def sequence_first(readout):
    def forward(s, x):
        return s.b(readout(torch.tanh(s.a(x.transpose(0, 1)))))

    return Net(forward, a=nn.Linear(D, 4), b=nn.Linear(4, C))


def attention():
    def forward(s, x):
        z = (
            torch.cat([s.token.expand(len(x), -1, -1), s.embed(x)], 1)
            + s.place[:, : x.shape[1] + 1]
        )
        z = s.norm(z)
        q, k, v = s.qkv(z).chunk(3, -1)
        z = z + s.gain * s.out(F.scaled_dot_product_attention(q, k, v))
        return s.head(z[:, 0])

    return Net(
        forward,
        embed=nn.Linear(D, 4),
        token=vector(1, 1, 4),
        place=vector(1, 4, 4),
        norm=nn.LayerNorm(4),
        qkv=nn.Linear(4, 12),
        gain=vector(4),
        out=nn.Linear(4, 4),
        head=nn.Linear(4, C),
    )


EXACT = {
    "plain": lambda: (mlp(nn.Tanh()), (D,)),
    "in-place ReLU": lambda: (mlp(nn.ReLU(inplace=True)), (D,)),
    "conv-BN-ReLU in place": lambda: (conv_bn_relu(), (2, 5, 5)),
    "channels last": lambda: (conv_bn_relu().to(memory_format=torch.channels_last), (2, 5, 5)),
    "out *= 2": lambda: (in_place(lambda h: h.mul_(2)), (D,)),
    "tanh_": lambda: (in_place(lambda h: h.tanh_()), (D,)),
    "written into by index": lambda: (in_place(lambda h: h[:, :2].zero_()), (D,)),
    "input by keyword": lambda: (
        Net(lambda s, x: s.b(input=torch.tanh(s.a(input=x))), a=nn.Linear(D, 4), b=nn.Linear(4, C)),
        (D,),
    ),
    "a user's forward hook": lambda: (hooked(3.0), (D,)),
    "a user's forward pre-hook": lambda: (pre_hooked(), (D,)),
    "tied by one module": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.a(torch.tanh(s.a(x))))),
            a=nn.Linear(D, D),
            b=nn.Linear(D, C),
        ),
        (D,),
    ),
    "tied by one parameter, transposed": lambda: (
        Net(
            lambda s, x: s.b(F.linear(torch.relu(s.a(x)), s.a.weight.t())),
            a=nn.Linear(D, 4, bias=False),
            b=nn.Linear(D, C),
        ),
        (D,),
    ),
    "weight by F.linear": lambda: (
        Net(
            lambda s, x: s.b(F.linear(s.a(x), s.a.weight, s.a.bias)),
            a=nn.Linear(D, D),
            b=nn.Linear(D, C),
        ),
        (D,),
    ),
    "x @ weight": lambda: (
        Net(
            lambda s, x: torch.tanh(x @ s.w + s.c) @ s.a.weight.T,
            w=vector(D, 4),
            c=vector(4),
            a=nn.Linear(4, C, bias=False),
        ),
        (D,),
    ),
    "a gain on a Linear": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.g * s.a(x))),
            g=vector(1, 4),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "LoRA": lambda: (
        Net(
            lambda s, x: s.c(torch.tanh(s.a(x) + 0.5 * s.up(s.down(x)))),
            a=nn.Linear(D, 4).requires_grad_(False),
            down=nn.Linear(D, 2, bias=False),
            up=nn.Linear(2, 4, bias=False),
            c=nn.Linear(4, C),
        ),
        (D,),
    ),
    "flattened tokens": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x.reshape(-1, D))).view(len(x), -1, 4).mean(1)),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (3, D),
    ),
    "flattened tokens, step by step": lambda: (
        Net(
            lambda s, x: s.b(
                torch.relu(s.a(x.mT.permute(2, 0, 1).reshape(-1, D))).view(3, -1, 4).mean(0)
            ),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (3, D),
    ),
    "sequence first": lambda: (sequence_first(lambda h: h.mean(0)), (3, D)),
    "sequence first, as many steps as samples": lambda: (
        sequence_first(lambda h: h.mean(0)),
        (N, D),
    ),
    "sequence first, as many steps as checked": lambda: (
        sequence_first(lambda h: h.mean(0)),
        (4, D),
    ),
    "sequence first, the last step read": lambda: (sequence_first(lambda h: h[-1]), (N, D)),
    "recurrent": lambda: (recurrent(), (3, D)),
    "attention with token, places and gain": lambda: (attention(), (3, D)),
    "no_grad backbone": lambda: (
        Net(lambda s, x: s.b(torch.no_grad()(s.a)(x).tanh()), a=nn.Linear(D, 4), b=nn.Linear(4, C)),
        (D,),
    ),
    "an unused layer": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x))),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
            c=nn.Linear(2, 2),
        ),
        (D,),
    ),
    "a frozen layer": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x))),
            a=nn.Linear(D, 4).requires_grad_(False),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "Conv1d, dilated, with groups": lambda: (
        nn.Sequential(
            nn.Conv1d(2, 4, 2, stride=2, dilation=2, padding=1, groups=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(12, C),
        ),
        (2, 6),
    ),
    "Conv3d": lambda: (
        nn.Sequential(
            nn.Conv3d(1, 2, (1, 2, 3), padding=(0, 1, 1)), nn.GELU(), nn.Flatten(), nn.Linear(48, C)
        ),
        (1, 2, 3, 3),
    ),
    "padding same": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 2, (2, 3), padding="same", dilation=(1, 2)),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, C),
        ),
        (1, 4, 4),
    ),
    "circular padding": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(18, C),
        ),
        (1, 3, 3),
    ),
    "transposed convolution": lambda: (
        nn.Sequential(
            nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, C),
        ),
        (2, 2, 2),
    ),
    "transposed convolution, dilated": lambda: (
        nn.Sequential(
            nn.ConvTranspose1d(2, 3, 2, dilation=3, output_padding=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(24, C),
        ),
        (2, 3),
    ),
    "frames of a video": lambda: (
        Net(
            lambda s, x: s.b(
                s.a(x.flatten(0, 1)).relu().flatten(1).unflatten(0, (len(x), -1)).mean(1)
            ),
            a=nn.Conv2d(1, 2, 2),
            b=nn.Linear(8, C),
        ),
        (2, 1, 3, 3),
    ),
    "GroupNorm": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, C)
        ),
        (1, 3, 3),
    ),
    "InstanceNorm": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 2),
            nn.InstanceNorm2d(4, affine=True),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, C),
        ),
        (1, 3, 3),
    ),
    "LayerNorm over several axes, RMSNorm": lambda: (
        nn.Sequential(
            nn.Linear(D, 4),
            nn.LayerNorm((3, 4)),
            nn.Tanh(),
            nn.RMSNorm(4),
            nn.Flatten(),
            nn.Linear(12, C),
        ),
        (3, D),
    ),
    "embedding, tied to the head": lambda: (
        Net(
            lambda s, x: F.linear(
                torch.tanh(s.a(s.e((x.abs() * 2).long().clamp(max=C - 1)).mean(1))), s.e.weight
            ),
            e=nn.Embedding(C, 4, padding_idx=0),
            a=nn.Linear(4, 4),
        ),
        (6,),
    ),
    "module list of experts, all used": lambda: (
        Net(
            lambda s, x: sum(
                g.unsqueeze(1) * e(x)
                for g, e in zip(s.gate(x).softmax(1).unbind(1), s.experts, strict=True)
            ),
            gate=nn.Linear(D, 2),
            experts=nn.ModuleList([nn.Linear(D, C) for _ in range(2)]),
        ),
        (D,),
    ),
    "a scalar parameter": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.a(x)) * s.t),
            t=vector(1),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "a buffer's row per sample": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x) + s.h(s.code.expand(len(x), -1)))),
            code=nn.Buffer(torch.randn(1, 4)),
            h=nn.Linear(4, 6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (D,),
    ),
}


class Standardized(nn.Linear):
    def forward(self, x):
        w = self.weight
        return F.linear(x, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True), self.bias)


def pruned():
    net = mlp(nn.Tanh())
    prune.random_unstructured(net[0], "weight", 0.5)
    with torch.no_grad():
        net(torch.zeros(1, D))
    return net


def parametrized(make):
    net = mlp(nn.Tanh())
    make(net[0])
    return net


class StraightThrough(nn.Linear):
    def forward(self, x):
        w = self.weight
        return F.linear(x, w + (w.sign() - w).detach(), self.bias)


class OwnProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        return gradient @ w, gradient.t() @ x


def sorted_rows(s, x):
    order = x[:, 0].argsort()
    return s.b(torch.tanh(s.a(x[order])))[order.argsort()]


EXACT["a shift added and taken off"] = lambda: (
    Net(
        lambda s, x: s.b(torch.tanh(s.a(x) + s.p) - s.p),
        a=nn.Linear(D, 6),
        b=nn.Linear(6, C),
        p=vector(6),
    ),
    (D,),
)

EXACT |= {
    "torch.addmm": lambda: (
        Net(
            lambda s, x: s.b(torch.addmm(s.a.bias, x, s.a.weight.t())),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "einsum": lambda: (
        Net(
            lambda s, x: s.b(torch.einsum("nd,hd->nh", x, s.a.weight)),
            a=nn.Linear(D, 4, bias=False),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "einsum with heads, axes in any order": lambda: (
        Net(
            lambda s, x: (
                torch.einsum(
                    "nhtk,htk,ckh->nc", torch.einsum("ntd,dhk->nhtk", x, s.w).tanh(), s.k, s.v
                )
                + torch.einsum("...td,tcd->...c", x, s.u)
            ),
            w=vector(D, 2, 4),
            k=nn.Buffer(torch.randn(2, 3, 4)),
            v=nn.Buffer(torch.randn(C, 4, 2)),
            u=vector(3, C, D),
        ),
        (3, D),
    ),
    "einsum with an axis that is summed, and an implicit result": lambda: (
        Net(
            lambda s, x: torch.einsum("at,tc", torch.einsum("nsd,td->nt", x, s.w).tanh(), s.v),
            w=vector(4, D),
            v=vector(4, C),
        ),
        (3, D),
    ),
    "weight @ columns, a vector at the end": lambda: (
        Net(
            lambda s, x: torch.stack([(s.w @ x.mT).tanh().mT @ v for v in s.v], 2).sum(1),
            w=vector(4, D),
            v=vector(C, 4),
        ),
        (3, D),
    ),
    "PReLU": lambda: (mlp(nn.PReLU()), (D,)),
    "PReLU of each channel": lambda: (mlp(nn.PReLU(6)), (D,)),
    "Bilinear": lambda: (Net(lambda s, x: s.a(x, x), a=nn.Bilinear(D, D, C)), (D,)),
    "EmbeddingBag": lambda: (
        Net(
            lambda s, x: s.a(s.e((x.abs() * 2).long().clamp(max=3))),
            e=nn.EmbeddingBag(4, 4, mode="mean"),
            a=nn.Linear(4, C),
        ),
        (6,),
    ),
    "MultiheadAttention": lambda: (
        Net(
            lambda s, x: s.b(s.a(x, x, x, need_weights=False)[0].mean(1)),
            a=nn.MultiheadAttention(4, 2, batch_first=True),
            b=nn.Linear(4, C),
        ),
        (3, 4),
    ),
    "MultiheadAttention to another sequence, sequence first": lambda: (
        Net(
            lambda s, x: s.b(s.a(x[:, :2].mT.permute(2, 0, 1), *2 * [x.transpose(0, 1)])[0].sum(0)),
            a=nn.MultiheadAttention(4, 2),
            b=nn.Linear(4, C),
        ),
        (N, 4),
    ),
    "MultiheadAttention of three inputs": lambda: (
        Net(
            lambda s, x: s.b(s.a(x, x.tanh(), x.relu())[0].mean(1)),
            a=nn.MultiheadAttention(4, 1, batch_first=True),
            b=nn.Linear(4, C),
        ),
        (3, 4),
    ),
    "MultiheadAttention of other widths": lambda: (
        Net(
            lambda s, x: s.b(s.a(x[..., :4], x[..., :3], x[..., :2])[0].mean(1)),
            a=nn.MultiheadAttention(4, 2, kdim=3, vdim=2, batch_first=True),
            b=nn.Linear(4, C),
        ),
        (3, D),
    ),
    "TransformerEncoderLayer": lambda: (
        nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), nn.Flatten(), nn.Linear(12, C)
        ),
        (3, 4),
    ),
    "parts of one weight": lambda: (
        Net(
            lambda s, x: F.linear(
                F.linear(x, *(p.chunk(2)[0] for p in (s.w, s.c))).tanh()
                + F.linear(x, s.w[4:], s.c[4:]).relu(),
                s.v.unbind(0)[1],
            ),
            w=vector(8, D),
            c=vector(8),
            v=vector(2, C, 4),
        ),
        (D,),
    ),
    "a weight and a part of it": lambda: (
        Net(
            lambda s, x: (
                F.linear(F.linear(x, s.w).tanh()[:, :D], s.w)[:, :C] + F.linear(x, s.w[:C]).relu()
            ),
            w=vector(6, D),
        ),
        (D,),
    ),
    "a weight and its transpose, permuted": lambda: (
        Net(
            lambda s, x: (x @ s.w.permute(1, 0)).tanh() @ s.w.clone() @ s.v.movedim(0, 1),
            w=vector(4, D),
            v=vector(C, D),
        ),
        (D,),
    ),
    "a table of relative positions": lambda: (
        Net(
            lambda s, x: s.b((x @ x.mT + s.t[s.i].unsqueeze(0)).softmax(-1).flatten(1)),
            t=vector(5),
            i=nn.Buffer(torch.arange(3)[:, None] - torch.arange(3) + 2),
            b=nn.Linear(9, C),
        ),
        (3, D),
    ),
}


def tokens(x):
    return (x.abs() * 3).long().clamp(max=6)


class Block(nn.Module):
    """Attention and two layers, of HF's names for neither; ``causal`` before the norms, else behind them."""

    def __init__(self, causal):
        super().__init__()
        self.causal = causal
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def mixed(self, z):
        heads = (h.unflatten(-1, (2, 2)).transpose(1, 2) for h in self.qkv(z).chunk(3, -1))
        z = F.scaled_dot_product_attention(*heads, is_causal=self.causal)
        return self.out(z.transpose(1, 2).flatten(2))

    def fed(self, z):
        return self.down(F.gelu(self.up(z)))

    def forward(self, z):
        for norm, part in zip(self.norms, (self.mixed, self.fed), strict=True):
            z = z + part(norm(z)) if self.causal else norm(z + part(z))
        return z


class Bert(nn.Module):
    """Positions and kinds of tokens looked up once, as (1, T), and a pooled head."""

    def __init__(self, add_in_place=False):
        super().__init__()
        self.words = nn.Embedding(7, 4, padding_idx=0)
        self.places, self.kinds = nn.Embedding(9, 4), nn.Embedding(2, 4)
        self.ids = nn.Buffer(torch.arange(9).unsqueeze(0))
        self.norm, self.block = nn.LayerNorm(4), Block(causal=False)
        self.pool, self.head = nn.Linear(4, 4), nn.Linear(4, C)
        self.add_in_place = add_in_place

    def forward(self, x):
        ids = self.ids[:, : x.shape[1]]
        z = self.words(tokens(x)) + self.kinds(torch.zeros_like(ids))
        if self.add_in_place:
            z += self.places(ids)
        else:
            z = z + self.places(ids)
        return self.head(torch.tanh(self.pool(self.block(self.norm(z))[:, 0])))


class Gpt(nn.Module):
    """The next token, by the words' own weights; positions (T,), or (1, T) through dropout."""

    def __init__(self, ahead=False):
        super().__init__()
        self.words, self.places, self.ahead = nn.Embedding(7, 4), nn.Embedding(9, 4), ahead
        self.block, self.norm, self.drop = Block(causal=True), nn.LayerNorm(4), nn.Dropout(0.5)

    def forward(self, x):
        places = self.places(torch.arange(x.shape[1]))
        places = self.drop(places.unsqueeze(0)) if self.ahead else places
        z = self.norm(self.block(self.drop(self.words(tokens(x)) + places)))
        return F.linear(z[:, -1], self.words.weight)[:, :C]


def constant_features(features, use):
    """A layer of a buffer, made once, which all samples share."""
    parts = {"a": nn.Linear(D, 6), "b": nn.Linear(6, C), "h": nn.Linear(4, 6)}
    return Net(
        lambda s, x: s.b(torch.tanh(use(s.a(x), s.h(s.code)))),
        code=nn.Buffer(torch.randn(*features)),
        **parts,
    )


ONCE_FOR_ALL = {
    "BERT": lambda: (Bert(), (5,)),
    "BERT, positions added in place": lambda: (Bert(add_in_place=True), (5,)),
    "BERT, as many positions as are checked": lambda: (Bert(), (4,)),
    "GPT": lambda: (Gpt(), (5,)),
    "GPT, positions expanded and through dropout": lambda: (Gpt(ahead=True), (5,)),
    "GPT, as many positions as are checked": lambda: (Gpt(), (4,)),
    "a token through Linear": lambda: (constant_features((1, 4), torch.add), (D,)),
    "a vector through Linear": lambda: (
        constant_features((4,), torch.mul),
        (D,),
    ),
    "a token through Linear, of each place": lambda: (
        constant_features((3, 4), lambda h, t: (h + t).mean(1)),
        (3, D),
    ),
    "a token through two layers and a norm": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x) * s.n(s.g(torch.tanh(s.h(s.code)) + s.p)))),
            code=nn.Buffer(torch.randn(1, 4)),
            p=vector(4),
            h=nn.Linear(4, 4),
            g=nn.Linear(4, 6),
            n=nn.LayerNorm(6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (D,),
    ),
    "a map of constants through a convolution": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.a(x) * s.h(s.code)).flatten(1)),
            code=nn.Buffer(torch.randn(1, 2, 3, 3)),
            h=nn.Conv2d(2, 2, 3, padding=1, groups=2),
            a=nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
            b=nn.Linear(18, C),
        ),
        (1, 3, 3),
    ),
    "constants times a parameter, by einsum": lambda: (
        Net(
            lambda s, x: s.b(
                torch.tanh(s.a(x) + torch.einsum("ted,dh->teh", s.code, s.w).sum(-2)).mean(1)
            ),
            code=nn.Buffer(torch.randn(3, 2, 4)),
            w=vector(4, 6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (3, D),
    ),
    "a learned scale of a constant": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.a(x) * (s.t * s.code) + s.c + s.d)),
            code=nn.Buffer(torch.randn(1, 6)),
            t=vector(1),
            c=vector(6),
            d=vector(1, 6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (D,),
    ),
    "two parameters added, then to all": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.a(x) + (s.c + s.d))),
            c=vector(6),
            d=vector(1, 6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (D,),
    ),
    "relative positions, looked up and masked": lambda: (
        Net(
            lambda s, x: s.b(
                (
                    x @ x.mT
                    + torch.where(s.i <= 2, s.t(s.i).permute(2, 0, 1), -1e3)
                    + s.u[s.i].masked_fill(s.i > 3, 0.5)
                )
                .softmax(-1)
                .flatten(1)
            ),
            t=nn.Embedding(5, 1),
            u=vector(5),
            i=nn.Buffer(torch.arange(3)[:, None] - torch.arange(3) + 2),
            b=nn.Linear(9, C),
        ),
        (3, D),
    ),
    "attention with a learned bias": lambda: (
        Net(
            lambda s, x: s.b(
                F.scaled_dot_product_attention(
                    *(h.unflatten(-1, (2, 2)).transpose(1, 2) for h in s.a(x).chunk(3, -1)),
                    attn_mask=s.t[s.i].permute(2, 0, 1).unsqueeze(0),
                ).flatten(1)
            ),
            a=nn.Linear(D, 12),
            t=vector(5, 2),
            i=nn.Buffer(torch.arange(3)[:, None] - torch.arange(3) + 2),
            b=nn.Linear(12, C),
        ),
        (3, D),
    ),
}


def placed(read):
    return Net(
        lambda s, x: s.b(torch.tanh(s.a(x) + s.e(torch.arange(x.shape[1]).unsqueeze(0)))[:, read]),
        a=nn.Linear(D, 6),
        e=nn.Embedding(4, 6),
        b=nn.Linear(6, C),
    )


for read in range(4):
    ONCE_FOR_ALL[f"as many positions as are checked, that of {read} read"] = lambda read=read: (
        placed(read),
        (4, D),
    )

EXACT |= ONCE_FOR_ALL

PROBED = {
    "a subclass with another forward": lambda: (
        nn.Sequential(Standardized(D, 4), nn.ReLU(), nn.Linear(4, C)),
        (D,),
    ),
    "quantised, straight through": lambda: (
        nn.Sequential(StraightThrough(D, 4), nn.ReLU(), nn.Linear(4, C)),
        (D,),
    ),
    "pruned": lambda: (pruned(), (D,)),
    "spectral norm": lambda: (parametrized(parametrizations.spectral_norm), (D,)),
    "orthogonal": lambda: (parametrized(parametrizations.orthogonal), (D,)),
    "a token through Linear, of a fixed shape": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x) + s.h(s.code).view(1, 6))),
            code=nn.Buffer(torch.randn(1, 4)),
            h=nn.Linear(4, 6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (D,),
    ),
    "a token that one sample alone reads": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x) + F.pad(s.h(s.code), (0, 0, 0, len(x) - 1)))),
            code=nn.Buffer(torch.randn(1, 4)),
            h=nn.Linear(4, 6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (D,),
    ),
    "a row of a buffer for each place in the batch": lambda: (
        Net(
            lambda s, x: s.b(torch.relu(s.a(x) * torch.tanh(s.h(s.code[: len(x)])))),
            code=nn.Buffer(torch.randn(N, 4)),
            h=nn.Linear(4, 6),
            a=nn.Linear(D, 6),
            b=nn.Linear(6, C),
        ),
        (D,),
    ),
    "BatchNorm of the batch": lambda: (mlp(nn.BatchNorm1d(6, track_running_stats=False)), (D,)),
    "minus the batch's mean": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.a(x) - s.a(x).mean(0))),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "attention between samples": lambda: (
        Net(
            lambda s, x: s.b(torch.softmax(x @ x.T, 1) @ s.a(x)),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "the neighbour's gradient": lambda: (
        Net(
            lambda s, x: s.b(torch.tanh(s.a(x)) + 1e-3 * s.a(x).roll(1, 0)),
            a=nn.Linear(D, 4),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "rows sorted inside": lambda: (Net(sorted_rows, a=nn.Linear(D, 4), b=nn.Linear(4, C)), (D,)),
    "a cosine head": lambda: (
        Net(
            lambda s, x: F.normalize(s.a(x).tanh()) @ F.normalize(s.w).T,
            a=nn.Linear(D, 4),
            w=vector(C, 4),
        ),
        (D,),
    ),
    "an autograd.Function of the weight": lambda: (
        Net(
            lambda s, x: s.b(OwnProduct.apply(x, s.a.weight)),
            a=nn.Linear(D, 4, bias=False),
            b=nn.Linear(4, C),
        ),
        (D,),
    ),
    "a weight of the input": lambda: (
        Net(
            lambda s, x: torch.einsum("nd,ncd->nc", x, s.h(x).view(-1, C, D)) + s.t * s.t,
            h=nn.Linear(D, C * D),
            t=vector(1),
        ),
        (D,),
    ),
    "LSTM": lambda: (
        Net(
            lambda s, x: s.b(s.a(x)[0][:, -1]), a=nn.LSTM(D, 2, batch_first=True), b=nn.Linear(2, C)
        ),
        (3, D),
    ),
}


def built(idioms, name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, shape = idioms[name]()
        return net.double().eval(), *data(*shape)


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_trace_is_that_of_the_dense_matrix(name):
    net, x, y = built(EXACT, name)
    before = copy.deepcopy(net.state_dict())
    exact = float(dense_gauss_newton(net, x, y).trace())
    for chunk in (256, 5):
        found = gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work(), chunk=chunk)
        assert found.value == pytest.approx(exact, rel=1e-9)
    assert found.checks["sample_gradients"] < 1e-9
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", ONCE_FOR_ALL)
def test_the_gradients_of_samples_that_share_a_call_are_those_of_each_alone(name):
    net, x, y = built(EXACT, name)
    parameters = {k: p.detach() for k, p in net.named_parameters()}

    def alone(parameters, x, y):
        return CROSS_ENTROPY(functional_call(net, parameters, x[None]), y[None]).sum()

    each = [grad(alone)(parameters, *xy) for xy in zip(x, y, strict=True)]
    lengths = [sum(float(g.square().sum()) for g in gradient.values()) for gradient in each]
    for chunk in (256, 5):
        found = gradient_lengths(net, CROSS_ENTROPY, x, y, work=Work(), chunk=chunk)
        assert found.terms.tolist() == pytest.approx(lengths, rel=1e-9)


@pytest.mark.parametrize("read", [0, 1])
def test_two_samples_of_two_positions_are_told_from_these(read):
    """From one sample's gradient it can't be told that the other's stands in its rows, too."""
    torch.manual_seed(0)
    net, (x, y) = placed(read).double(), data(2, D, samples=2)
    found = gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work())
    assert found.value == pytest.approx(float(dense_gauss_newton(net, x, y).trace()), rel=1e-9)


@pytest.mark.parametrize("name", PROBED)
def test_what_breaks_an_assumption_is_found_out_and_measured_by_products(name):
    net, x, y = built(PROBED, name)
    found = sb.measure(sb.Subject(net, x, y), "gauss_newton_trace", max_probes=200)
    exact = float(dense_gauss_newton(net, x, y).trace())
    assert found.details["method"] == "unit_vectors"
    assert found.details["why"]
    assert found.value == pytest.approx(exact, rel=1e-8)


def test_a_parameter_that_takes_part_in_one_batch_alone_is_found_there():
    """The check sees a few samples; a weight that only another one reaches is found when it comes."""
    inside = torch.randperm(N, generator=torch_generator(0))[:4].tolist()
    last = max(set(range(N)) - set(inside))

    def forward(s, x):
        rare = (x[:, :1] > 100).to(x.dtype)
        return s.net(x / (1 + 99 * rare)) + rare * s.gate.sigmoid()

    torch.manual_seed(0)
    net = Net(forward, net=mlp(nn.Tanh()), gate=vector(C)).double()
    x, y = data(D)
    assert gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work()).value == pytest.approx(
        float(dense_gauss_newton(net, x, y).trace()), rel=1e-9
    )
    x[last, 0] = 101.0
    with pytest.raises(MetricFailed, match="outside of a call"):
        gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work(), chunk=5)


def test_an_input_changed_after_the_call_in_one_batch_alone_is_found_there():
    inside = torch.randperm(N, generator=torch_generator(0))[:4].tolist()
    last = max(set(range(N)) - set(inside))

    def forward(s, x):
        h = s.a(x) * 1.0
        out = s.b(h)
        if (x > 100).any():
            h.mul_(2)
        return out

    torch.manual_seed(0)
    net = Net(forward, a=nn.Linear(D, 6), b=nn.Linear(6, C)).double()
    x, y = data(D)
    x[last, 0] = 101.0
    with pytest.raises(MetricFailed, match="changed in place after the call"):
        gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work(), chunk=5)


def picked(order):
    """Rows in the ``order`` of a key that is the same for all samples of the check, but not for another."""
    inside = torch.randperm(N, generator=torch_generator(0))[:4].tolist()
    first = min(set(range(N)) - set(inside))

    def forward(s, x):
        rows = order(x[:, 0] > 100)
        return s.b(torch.tanh(0.1 * s.a(x[rows])))[rows.argsort()]

    torch.manual_seed(0)
    net = Net(forward, a=nn.Linear(D, 6), b=nn.Linear(6, C)).double()
    x, y = data(D)
    x[first, 0] = 101.0
    return net, x, y


def test_samples_lined_up_in_another_order_than_in_the_check():
    net, x, y = picked(lambda key: key.long().argsort(stable=True))
    with pytest.raises(MetricFailed, match="picked by the data"):
        gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work())


def test_rows_picked_by_data_that_stay_in_order():
    net, x, y = picked(lambda key: torch.arange(len(key)))
    work = Work()
    found = gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=work)
    assert found.value == pytest.approx(float(dense_gauss_newton(net, x, y).trace()), rel=1e-9)


def test_tokens_that_two_layers_share_in_other_shares_than_in_the_check():
    """As many of all tokens take each layer in both, and of a single sample they don't."""
    inside = torch.randperm(N, generator=torch_generator(0))[:4].tolist()
    others = sorted(set(range(N)) - set(inside))

    def forward(s, x):
        z = torch.tanh(s.e(x.reshape(-1, D)))
        key = x.reshape(-1, D)[:, 0] > 0
        out = torch.zeros(len(z), C, dtype=x.dtype)
        out[key], out[~key] = s.a(z[key]), s.b(z[~key])
        return out.view(len(x), -1, C).sum(1)

    torch.manual_seed(0)
    net = Net(forward, e=nn.Linear(D, 6), a=nn.Linear(6, C), b=nn.Linear(6, C)).double()
    x, y = data(2, D)
    x[:, :, 0] = torch.tensor([1.0, -1.0])
    found = gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work())
    assert found.value == pytest.approx(float(dense_gauss_newton(net, x, y).trace()), rel=1e-9)
    x[others[0], :, 0], x[others[1], :, 0] = 1.0, -1.0
    with pytest.raises(MetricFailed, match="picked by the data"):
        gauss_newton_trace(net, CROSS_ENTROPY, x, y, work=Work())


def test_the_reason_names_the_functions_without_a_rule():
    net, x, _ = built(PROBED, "LSTM")
    with pytest.raises(MetricFailed, match=r"outside of a call that has a rule, in lstm$"):
        gauss_newton_trace(net, CROSS_ENTROPY, x, torch.arange(N) % C, work=Work())
    net, x, _ = built(PROBED, "an autograd.Function of the weight")
    with pytest.raises(MetricFailed, match="no function of torch's"):
        gauss_newton_trace(net, CROSS_ENTROPY, x, torch.arange(N) % C, work=Work())


def test_an_embedding_of_many_words_is_taken_by_fewer_samples(monkeypatch):
    """Sixty-four sentences of a large vocabulary have more one-hot codes than are held at once."""
    torch.manual_seed(0)

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, C)

        def forward(self, x):
            return self.head(self.words(x.long()).tanh().mean(1))

    model = Bag().double()
    x, y = torch.randint(7, (N, 5)).double(), torch.arange(N) % C
    whole = gauss_newton_trace(model, CROSS_ENTROPY, x, y, work=Work())
    assert whole.value == pytest.approx(float(dense_gauss_newton(model, x, y).trace()), rel=1e-10)
    few = Work()
    monkeypatch.setattr(sample_gradients, "_MOST_CODES", 4 * 5 * 7)
    parts = gauss_newton_trace(model, CROSS_ENTROPY, x, y, work=few)
    assert torch.allclose(parts.terms, whole.terms, rtol=1e-12, atol=0)
    monkeypatch.setattr(sample_gradients, "_MOST_CODES", 5 * 7 - 1)
    with pytest.raises(MetricFailed, match="too many"):
        gauss_newton_trace(model, CROSS_ENTROPY, x, y, work=Work())


def test_rows_in_float32_allow_for_its_rounding():
    """Λ of a cross-entropy has an eigenvalue of zero, which comes out as ±1e-8."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(6, 10), torch.randn(40, 6), torch.arange(40) % 10

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    rows = gauss_newton_rows(model, loss, x, y, list(model.parameters()), work=Work())
    exact = model.double()
    expected = gauss_newton_rows(exact, loss, x.double(), y, list(exact.parameters()), work=Work())
    found = rows.double().T @ rows.double()  # eigenvectors have either sign
    assert torch.allclose(found, expected.T @ expected, atol=1e-4)
