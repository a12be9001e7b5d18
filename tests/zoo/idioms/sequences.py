"""Recurrent networks, attention and everything with tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.idioms.base import idiom


class Recurrent(nn.Module):
    """The last state of a recurrent layer; the samples come first in ``x`` whatever the layer wants."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x):
        if self.layer.batch_first:
            return self.head(self.layer(x)[0][:, -1])
        return self.head(self.layer(x.transpose(0, 1))[0][-1])


@idiom(5, 4, 3)
def lstm_batch_first() -> nn.Module:
    """nn.LSTM over samples first."""
    return Recurrent(nn.LSTM(3, 3, batch_first=True), 3)


@idiom(5, 5, 3)
def lstm_sequence_first() -> nn.Module:
    """nn.LSTM over time first, with as many steps as samples."""
    return Recurrent(nn.LSTM(3, 3), 3)


@idiom(5, 4, 2)
def gru_bidirectional() -> nn.Module:
    """A bidirectional GRU."""
    return Recurrent(nn.GRU(2, 2, batch_first=True, bidirectional=True), 4)


@idiom(5, 4, 2)
def rnn_two_layers() -> nn.Module:
    """A vanilla RNN of two layers, time first."""
    return Recurrent(nn.RNN(2, 3, num_layers=2), 3)


@idiom(5, 4, 2)
def rnn_relu() -> nn.Module:
    """A vanilla RNN with ReLU."""
    return Recurrent(nn.RNN(2, 3, nonlinearity="relu", batch_first=True), 3)


@idiom(5, 3, 3)
class LstmCell(nn.Module):
    """LSTMCell and GRUCell in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.LSTMCell(3, 2), nn.GRUCell(2, 2), nn.Linear(2, 3)

    def forward(self, x):
        h, c = x.new_zeros(len(x), 2), x.new_zeros(len(x), 2)
        g = torch.zeros_like(h)
        for step in x.unbind(1):
            h, c = self.a(step, (h, c))
            g = self.b(h, g)
        return self.head(g)


class Attention(nn.Module):
    def __init__(self, *, mask: str = "none", batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.head, self.mask = nn.Linear(4, 3), mask

    def forward(self, x):
        masks = {}
        if self.mask == "causal":
            size = x.shape[1]
            masks["attn_mask"] = torch.ones(size, size, dtype=torch.bool).triu(1)
        if self.mask == "padding":
            masks["key_padding_mask"] = x[..., 0].detach() > 1
            masks["key_padding_mask"][:, 0] = False
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        h, _ = self.attention(x, x, x, need_weights=False, **masks)
        return self.head(h.mean(1 if self.attention.batch_first else 0))


@idiom(5, 3, 4)
def multihead_attention() -> nn.Module:
    """nn.MultiheadAttention without a mask."""
    return Attention()


@idiom(5, 3, 4)
def attention_causal_mask() -> nn.Module:
    """nn.MultiheadAttention with an attn_mask."""
    return Attention(mask="causal")


@idiom(5, 3, 4)
def attention_padding_mask() -> nn.Module:
    """nn.MultiheadAttention with a key_padding_mask that depends on the samples."""
    return Attention(mask="padding")


@idiom(4, 4, 4)
def attention_sequence_first() -> nn.Module:
    """nn.MultiheadAttention with tokens first and as many tokens as samples."""
    return Attention(batch_first=False)


@idiom(4, 3, 4)
def attention_frozen_projection() -> nn.Module:
    """Attention whose output projection is frozen."""
    net = Attention()
    net.attention.out_proj.requires_grad_(False)
    return net


@idiom(4, 3, 4)
class CrossAttention(nn.Module):
    """Learned queries attend to the tokens, with the weights given out."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 2, 4))
        self.attention, self.head = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        h, weights = self.attention(self.queries.expand(len(x), -1, -1), x, x)
        return self.head(h.sum(1) * weights.amax((1, 2), keepdim=True)[:, 0])


@idiom(4, 3, 2)
class TransformerEncoder(nn.Module):
    """nn.TransformerEncoder of one layer, norm first, GELU, with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            3, 1, 3, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.embed, self.head = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.head(self.encoder(self.embed(x), mask=mask, is_causal=True).mean(1))


@idiom(4, 3, 2)
class TransformerEncoderPadded(nn.Module):
    """nn.TransformerEncoder, norm last, ReLU, with a padding mask, time first."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(3, 1, 3)
        self.encoder = nn.TransformerEncoder(layer, 1, nn.LayerNorm(3), enable_nested_tensor=False)
        self.embed, self.head = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x):
        padding = torch.arange(x.shape[1]).expand(len(x), -1) >= x.shape[1] - 1
        h = self.encoder(self.embed(x).transpose(0, 1), src_key_padding_mask=padding)
        return self.head(h[:2].mean(0))


class Fused(nn.Module):
    def __init__(self, read: int) -> None:
        super().__init__()
        self.read = read
        layer = nn.TransformerEncoderLayer(2, 2, 3, batch_first=True, activation="gelu")
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(2, 3)

    def forward(self, x):
        padding = torch.arange(x.shape[1]).expand(len(x), -1) >= x.shape[1] - 1
        h = self.encoder(x, src_key_padding_mask=padding)
        return self.head(h[:, : self.read].square().mean(1))


@idiom(4, 3, 2)
def transformer_encoder_fused() -> nn.Module:
    """nn.TransformerEncoder as torch's fused layers take it in inference, padded, batch first."""
    return Fused(2)


@idiom(4, 3, 2, may_refuse={"": "zeros in the place of padded tokens"})
def transformer_encoder_fused_padding_read() -> nn.Module:
    """The same, but what stands at the padding is read: fused layers put zeros there."""
    return Fused(3)


@idiom(4, 3, 4)
class ScaledDotProduct(nn.Module):
    """One fused projection, F.scaled_dot_product_attention, heads by unflatten."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12, bias=False), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(h.transpose(1, 2).flatten(2)[:, -1])


@idiom(4, 3, 4)
class AttentionByHand(nn.Module):
    """Masked softmax written out, with masked_fill of −∞."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 3) for _ in range(3))
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        scores = self.q(x) @ self.k(x).mT / math.sqrt(3)
        mask = torch.tril(torch.ones(x.shape[1], x.shape[1], device=x.device)) == 0
        weights = scores.masked_fill(mask, float("-inf")).softmax(-1)
        return self.head((weights @ self.v(x)).amax(1))


@idiom(4, 1, 4, 4)
class VisionTransformer(nn.Module):
    """Patches by a strided convolution, a class token, learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(1, 5, 4))
        self.q = nn.Linear(4, 4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.positions
        h = h + F.scaled_dot_product_attention(self.q(h), h, h)
        return self.head(self.norm(h)[:, 0])


@idiom(5, 3, 4)
class SinusoidalPositions(nn.Module):
    """A position code in a plain attribute, moved like the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        self.pe = torch.sin(torch.arange(12.0).view(3, 4) / 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x + self.pe.to(x))).mean(1) + self.pe[0].type_as(x))


@idiom(5, 3, 4)
class RotaryPositions(nn.Module):
    """Rotary codes by complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        angles = torch.arange(3.0)[:, None] * torch.tensor([1.0, 0.1])
        self.angles = nn.Buffer(angles)

    def forward(self, x):
        h = torch.view_as_complex(self.a(x).unflatten(2, (2, 2)))
        h = torch.view_as_real(h * torch.polar(torch.ones_like(self.angles), self.angles))
        return self.b(F.gelu(h.flatten(2)).mean(1))


@idiom(6, 3, 4)
class FlattenedTokens(nn.Module):
    """Tokens flattened to (N·T, d) before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        n, t, d = x.shape
        return self.c(torch.relu(self.a(x.reshape(n * t, d))).view(n, t, -1).mean(1))


@idiom(6, 3, 4)
class TokensThroughLinear(nn.Module):
    """Linear layers on (N, T, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(3, 2), nn.Linear(10, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.c(torch.relu(self.b(h.mT)).flatten(1))


@idiom(4, 4, 3)
class TokensFirst(nn.Module):
    """Linear layers on (T, N, d) with T = N: the first axis isn't the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x.transpose(0, 1)))).mean(0)


@idiom(6, 5)
class EmbeddingBesideInputs(nn.Module):
    """Token numbers in one column of the inputs, x[:, 0].long(), beside real features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(4, 3), nn.Linear(7, 4), nn.Linear(4, 3)

    def forward(self, x):
        token = self.embed(x[:, 0].abs().clamp(max=3).long())
        return self.b(torch.tanh(self.a(torch.cat([token, x[:, 1:]], 1))))


@idiom(
    6,
    4,
    points=lambda x: (x.abs() * 2).floor().clamp(max=4),
    may_refuse=dict.fromkeys(("lambda", "input", "gradient_change", "jacobian"), ""),
)
class TokenNumbers(nn.Module):
    """Inputs that are token numbers alone: nothing to differentiate there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(5, 4, mode="mean")
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x.long())))


@idiom(5, 3, 4)
class PooledByAttention(nn.Module):
    """Attention pooling by einsum with a bare query."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

    def forward(self, x):
        weights = torch.einsum("ntd,d->nt", x, self.query).softmax(1)
        return self.head(torch.einsum("nt,ntd->nd", weights, x))


@idiom(5, 4, 3)
class StateSpace(nn.Module):
    """A diagonal linear recurrence by cumulative sums, gated."""

    def __init__(self) -> None:
        super().__init__()
        self.decay, self.gate = nn.Parameter(torch.randn(3)), nn.Linear(3, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        steps = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
        weights = torch.exp(steps * F.logsigmoid(self.decay))
        h = torch.cumsum(x / weights, 1) * weights
        return self.head((h * torch.sigmoid(self.gate(x)))[:, -1])


@idiom(5, 4, 2)
class PackedSequence(nn.Module):
    """Sequences of several lengths, packed for a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        lengths = 2 + (x[:, 0, 0].detach() > 0).long() + (x[:, 0, 1].detach() > 0).long()
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        _, last = self.layer(packed)
        return self.head(last[0])


@idiom(4, 3, 2, may_refuse={"": ""})
class NestedTensors(nn.Module):
    """Sequences of several lengths as a nested tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x):
        nested = torch.nested.as_nested_tensor([s[: 1 + int(s[0, 0] > 0)] for s in x])
        return self.head(torch.stack([s.mean(0) for s in self.embed(nested).unbind()]))
