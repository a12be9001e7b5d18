"""Functions and networks as people write them, for Taylor mode: name → (function, shape of its input)."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

D = torch.float64


class Lambda(nn.Module):
    """A module of one function, with a parameter so that it has a dtype."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, x):
        return self.function(x, *self.layers)


def _mlp_attention(**kwargs):
    def function(x, attention):
        out = attention(x, x.sin(), x, **kwargs)
        weights = 0.0 if out[1] is None else out[1].square().mean()
        return out[0] + weights

    return function


_CAUSAL = torch.ones(5, 5).triu(1).bool()
_BIAS = torch.linspace(-1, 1, 25, dtype=D).view(5, 5)
_PADDING = torch.tensor([[False] * 5, [False, False, False, True, True]])


def _lstm(x, layer):
    out, state = layer(x)
    state = state if isinstance(state, tuple) else (state,)
    return out.sum(1) + sum(s.sum() for s in state)


def _packed(x, layer):
    packed = pack_padded_sequence(x, torch.tensor([3, 5]), batch_first=True, enforce_sorted=False)
    out, _ = layer(packed)
    return pad_packed_sequence(out, batch_first=True, padding_value=-0.7)[0].tanh()


def _cells(x, cell):
    state = None
    for t in range(x.shape[1]):
        state = cell(x[:, t], state)
    return sum(state) if isinstance(state, tuple) else state


def _rotary(x, project):
    q = torch.view_as_complex(project(x).unflatten(-1, (-1, 2)))
    angles = torch.outer(torch.arange(5, dtype=D), torch.tensor([1.0, 0.1], dtype=D))
    code = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(q * code).flatten(-2).tanh()


def _rotate_half(x, project):
    q = project(x)
    angles = torch.arange(5, dtype=D)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1], dtype=D)
    a, b = q.chunk(2, -1)
    return q * angles.cos().type_as(x) + torch.cat((-b, a), -1) * angles.sin().to(x)


def _transformer(x, model):
    return model(x, x.cos(), tgt_mask=nn.Transformer.generate_square_subsequent_mask(5, dtype=D))


def _squeeze_excite(x, conv, down, up):
    h = conv(x)
    s = h.mean((2, 3))
    return h * up(down(s).relu_()).sigmoid()[:, :, None, None]


def _tokens(x, table, out):
    index = (x.sigmoid() * 5).long()
    return out(torch.cat([table(index).flatten(1), x], 1)).tanh()


def _mixture(x, gate, first, second):
    w = gate(x).softmax(-1)
    top = w.topk(1, -1)
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    for k, expert in enumerate((first, second)):
        rows = (top.indices == k).any(-1)
        if rows.any():
            out[rows] += expert(x[rows]).tanh() * w[rows, k : k + 1]
    return out


def _batch_first_scan(x, layer):
    h = x.new_zeros(x.size(0), 4)
    outs = []
    for step in x.unbind(1):
        h = torch.addcmul(h, torch.sigmoid(layer(step)), step - h)
        outs.append(h)
    return torch.stack(outs, dim=1)


def _graph(x, layer):
    source, target = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 2, 0, 1])
    messages = layer(x)[source].tanh()
    total = torch.zeros_like(x).index_add_(0, target, messages)
    degree = torch.zeros(3, dtype=x.dtype).scatter_add_(0, target, torch.ones(4, dtype=x.dtype))
    return x + total / degree.clamp(min=1)[:, None]


def _deep_sets(x, layer):
    h = layer(x)
    return torch.hstack([h.amax(1), h.mean(1), h.std(1), h.logsumexp(1)])


def _residual_buffer(x, first, second):
    skip = x
    x = first(x)
    x = F.gelu(x)
    x += skip
    return second(x).mul_(0.5).add_(skip)


def _densenet(x, first, second):
    features = [x]
    features.append(first(torch.cat(features, 1)).tanh())
    features.append(second(torch.cat(features, 1)).tanh())
    return torch.cat(features, 1)


def _unet(x, down, up):
    h = down(x).tanh()
    y = F.max_pool2d(h, 2)
    y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
    return up(torch.cat([h, y], 1))


def _unpooled(x, conv):
    h, index = F.max_pool2d(conv(x).tanh(), 2, return_indices=True)
    return F.max_unpool2d(h.exp(), index, 2)


def _windows(x, layer):
    b, h, w, c = x.shape
    x = torch.roll(x, shifts=(-1, -1), dims=(1, 2))
    x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, c)
    return layer(x).softmax(1) @ x.mT


def _einops(x, layer):
    h = rearrange(x, "b t (h d) -> b h t d", h=2)
    scores = torch.einsum("bhid,bhjd->bhij", h, layer(h))
    return reduce(scores.softmax(-1) @ h, "b h t d -> b t d", "mean")


def _convolved_by_itself(x, make):
    kernels = make(x.mean((2, 3))).view(4, 1, 3, 3).tanh()
    return F.conv2d(x.reshape(1, 4, 6, 6), kernels, padding=1, groups=4)


def _spectral(x, layer):
    f = torch.fft.rfft(layer(x), dim=1, norm="ortho")
    f = f * torch.exp(1j * torch.linspace(0, 1, 3, dtype=D))[:, None]
    return torch.fft.irfft(f, n=5, dim=1, norm="ortho") + f.abs().mean() + f.angle().sin().mean()


def _fourier_mixer(x, layer):
    return torch.fft.fft2(layer(x)).real.tanh()


def _hyper_spherical(x, layer):
    w = F.normalize(layer.weight, dim=1)
    return 4 * F.linear(F.normalize(x, dim=1), w) + F.cosine_similarity(x, x.sin(), dim=1)[:, None]


def _radial(x, layer):
    centres = layer.weight
    return torch.exp(-torch.cdist(x, centres).square()) + torch.cdist(x.sin(), centres)


def _mixture_density(x, layer):
    mean, log_std = layer(x).chunk(2, -1)
    normal = torch.distributions.Normal(mean, F.softplus(log_std), validate_args=False)
    return normal.log_prob(torch.ones_like(mean)).sum(-1)


def _gaussian_process(x, layer):
    k = torch.exp(-(x[:, None] - x[None]).square().sum(-1)) + torch.eye(len(x), dtype=D)
    return torch.linalg.solve(k, layer(x)) + torch.logdet(k) + torch.linalg.cholesky(k).sum()


def _householder(x, layer):
    v = layer(x)
    return x - 2 * v * (v * x).sum(-1, keepdim=True) / v.norm(dim=-1, keepdim=True) ** 2


def _ode(x, layer):
    for _ in range(3):
        k1 = layer(x).tanh()
        k2 = layer(x + 0.1 * k1).tanh()
        x = x + 0.1 * (k1 + k2) / 2
    return x


def _kan(x, layer):
    grid = torch.linspace(-2, 2, 5, dtype=D)
    basis = torch.exp(-((x.unsqueeze(-1) - grid) ** 2))
    return layer(basis.flatten(1)) + F.silu(x)


def _siren(x, layer):
    return torch.sin(30 * layer(x)) + torch.sinc(x)


def _complex_layer(x, real, imag):
    z = torch.complex(real(x), imag(x))
    z = z * z.conj() + torch.exp(1j * z.real) * z
    return torch.cat([z.real, z.imag, z.abs()], -1)


def _transposed_views(x, layer):
    h = layer(x).transpose(1, 2)
    flat = h.reshape(len(x), -1)
    return (flat.unflatten(1, h.shape[1:]) * h).mT.contiguous().view(len(x), -1)


def _checkpointed(reentrant):
    def function(x, layer):
        return torch.utils.checkpoint.checkpoint(
            lambda h: layer(h).tanh(), x * 1, use_reentrant=reentrant
        )

    return function


def _stacked_lists(x, layer):
    heads = [layer(x * (k + 1)) for k in range(3)]
    return torch.stack(heads).mean(0) + torch.dstack(heads).prod(-1) + torch.vstack(heads).sum()


def _pixel_shuffled(x, conv):
    return F.pixel_shuffle(conv(x).tanh(), 2) + F.pad(x[:, :1], (3, 3, 3, 3), value=0.5)


def _patches(x, layer):
    p = F.unfold(x, 2, stride=2).transpose(1, 2)
    return F.fold(layer(p).transpose(1, 2), (6, 6), 2, stride=2).tanh()


def _tensor_slices(x, layer):
    p = x.unfold(2, 2, 2).unfold(3, 2, 2).reshape(2, -1, 16)
    return layer(p).cumsum(1).flip(1)


def _normalised_by_hand(x, layer):
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return layer((x - mean) / torch.sqrt(variance + 1e-5)) + torch.std_mean(x, 1)[0].unsqueeze(1)


def _quantile_like(x, layer):
    h = layer(x)
    return torch.sort(h, 1)[0] * torch.arange(3, dtype=D) + h.median(1, keepdim=True)[0] + h.msort()


def _gumbel_free(x, layer):
    h = layer(x)
    hard = F.one_hot(h.argmax(1), h.shape[1]).to(h)
    return h.softmax(1) * (hard + 1) + torch.where(h > 0, h, torch.tensor(0.1)) ** 2


def _swa(x, embed):
    positions = torch.arange(x.shape[1], device=x.device)
    return embed(positions) * x.tanh()


def _sinusoids(x):
    t = torch.arange(5, dtype=torch.float32).unsqueeze(1)
    pe = torch.zeros(5, 4)
    pe[:, 0::2], pe[:, 1::2] = torch.sin(t / 3), torch.cos(t / 3)
    return (x + pe.to(x)).exp() + pe.type_as(x) * x


def _alibi(x, project):
    q, k, v = rearrange(project(x), "b t (n h d) -> n b h t d", n=3, h=2)
    bias = -(torch.arange(5)[:, None] - torch.arange(5)[None]).abs().to(x.dtype)
    mask = torch.full((5, 5), float("-inf"), dtype=x.dtype).triu(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias + mask)


def _linear_attention(x, project):
    q, k, v = project(x).chunk(3, -1)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    kv = torch.einsum("btd,bte->bde", k, v)
    z = 1 / (torch.einsum("btd,bd->bt", q, k.sum(1)) + 1e-6)
    return torch.einsum("btd,bde,bt->bte", q, kv, z)


def _retention(x, project):
    q, k, v = project(x).chunk(3, -1)
    decay = torch.tril(0.9 ** (torch.arange(5, dtype=D)[:, None] - torch.arange(5, dtype=D)))
    return (q @ k.mT * decay) @ v


def _selective_scan(x, project):
    a, b = project(x).chunk(2, -1)
    decay = torch.exp(-F.softplus(a))
    return torch.cumprod(decay, 1) * torch.cumsum(b / torch.cumprod(decay, 1), 1)


def _bilinear(x, layer):
    return (
        layer(x, x.sin())
        + torch.kron(x[0], x[1]).sum()
        + torch.cross(x[:, :3], x[:, 1:4], dim=1).sum()
    )


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().double().eval()


def _encoder(**kwargs):
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, **kwargs), 2)


class _EncoderWithMasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = _encoder(norm_first=True, activation="gelu")

    def forward(self, x):
        return self.encoder(x, mask=_CAUSAL, src_key_padding_mask=_PADDING)


class _Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.TransformerDecoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x):
        return self.decoder(x, x.sin(), tgt_mask=_BIAS, memory_key_padding_mask=_PADDING)


SEQUENCE, FLAT, IMAGE = (2, 5, 4), (3, 4), (2, 4, 6, 6)


def attention(**kwargs):
    return lambda: nn.MultiheadAttention(4, 2, **kwargs)


def _of(function, *layers):
    return lambda: Lambda(function, *(layer() for layer in layers))


def linear(i, o):
    return lambda: nn.Linear(i, o)


NETWORKS = {
    "attention": (_of(_mlp_attention(), attention(batch_first=True)), SEQUENCE),
    "attention, sequence first": (_of(_mlp_attention(), attention()), (5, 2, 4)),
    "attention without weights": (
        _of(_mlp_attention(need_weights=False), attention(batch_first=True)),
        SEQUENCE,
    ),
    "attention, causal": (
        _of(_mlp_attention(attn_mask=_CAUSAL), attention(batch_first=True)),
        SEQUENCE,
    ),
    "attention, causal, no weights": (
        _of(
            _mlp_attention(attn_mask=_CAUSAL, is_causal=True, need_weights=False),
            attention(batch_first=True),
        ),
        SEQUENCE,
    ),
    "attention, real mask": (
        _of(_mlp_attention(attn_mask=_BIAS, need_weights=False), attention(batch_first=True)),
        SEQUENCE,
    ),
    "attention, padding": (
        _of(_mlp_attention(key_padding_mask=_PADDING), attention(batch_first=True)),
        SEQUENCE,
    ),
    "attention, padding, no weights": (
        _of(
            _mlp_attention(key_padding_mask=_PADDING, need_weights=False),
            attention(batch_first=True),
        ),
        SEQUENCE,
    ),
    "attention, bias_kv and zero": (
        _of(_mlp_attention(), attention(batch_first=True, add_bias_kv=True, add_zero_attn=True)),
        SEQUENCE,
    ),
    "attention, own weights of heads": (
        _of(_mlp_attention(average_attn_weights=False), attention(batch_first=True)),
        SEQUENCE,
    ),
    "encoder": (_encoder, SEQUENCE),
    "encoder, masks": (_EncoderWithMasks, SEQUENCE),
    "decoder": (_Decoder, SEQUENCE),
    "transformer": (
        _of(_transformer, lambda: nn.Transformer(4, 2, 1, 1, 8, batch_first=True)),
        SEQUENCE,
    ),
    "lstm": (_of(_lstm, lambda: nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    "lstm, two layers, both ways": (
        _of(_lstm, lambda: nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)),
        SEQUENCE,
    ),
    "lstm, projected": (_of(_lstm, lambda: nn.LSTM(4, 3, proj_size=2, batch_first=True)), SEQUENCE),
    "lstm, time first, no bias": (_of(_lstm, lambda: nn.LSTM(4, 3, bias=False)), (5, 2, 4)),
    "lstm, packed": (
        _of(_packed, lambda: nn.LSTM(4, 3, batch_first=True, bidirectional=True)),
        SEQUENCE,
    ),
    "gru": (_of(_lstm, lambda: nn.GRU(4, 3, 2, batch_first=True, bidirectional=True)), SEQUENCE),
    "gru, packed": (_of(_packed, lambda: nn.GRU(4, 3, batch_first=True)), SEQUENCE),
    "gru, unbatched": (_of(lambda x, g: g(x)[0], lambda: nn.GRU(4, 3)), (5, 4)),
    "rnn": (_of(_lstm, lambda: nn.RNN(4, 3, batch_first=True)), SEQUENCE),
    "rnn, relu": (
        _of(_lstm, lambda: nn.RNN(4, 3, 2, nonlinearity="relu", batch_first=True)),
        SEQUENCE,
    ),
    "lstm cell": (_of(_cells, lambda: nn.LSTMCell(4, 3)), SEQUENCE),
    "gru cell": (_of(_cells, lambda: nn.GRUCell(4, 3)), SEQUENCE),
    "rnn cell": (_of(_cells, lambda: nn.RNNCell(4, 3)), SEQUENCE),
    "rotary, complex": (_of(_rotary, linear(4, 4)), SEQUENCE),
    "rotary, halves": (_of(_rotate_half, linear(4, 4)), SEQUENCE),
    "sinusoids": (_of(_sinusoids), SEQUENCE),
    "learned positions": (_of(_swa, lambda: nn.Embedding(5, 4)), SEQUENCE),
    "alibi": (_of(_alibi, linear(4, 12)), SEQUENCE),
    "linear attention": (_of(_linear_attention, linear(4, 12)), SEQUENCE),
    "retention": (_of(_retention, linear(4, 12)), SEQUENCE),
    "selective scan": (_of(_selective_scan, linear(4, 8)), SEQUENCE),
    "einops": (_of(_einops, linear(2, 2)), SEQUENCE),
    "spectral": (_of(_spectral, linear(4, 4)), SEQUENCE),
    "fourier mixer": (_of(_fourier_mixer, linear(4, 4)), SEQUENCE),
    "scan": (_of(_batch_first_scan, linear(4, 4)), SEQUENCE),
    "transposed views": (_of(_transposed_views, linear(4, 4)), SEQUENCE),
    "glu": (_of(lambda x, a, b: b(a(x)), linear(4, 6), nn.GLU), FLAT),
    "tokens beside the input": (_of(_tokens, lambda: nn.Embedding(6, 2), linear(12, 3)), FLAT),
    "mixture of experts": (_of(_mixture, linear(4, 2), linear(4, 3), linear(4, 3)), FLAT),
    "graph": (_of(_graph, linear(4, 4)), FLAT),
    "residual in place": (_of(_residual_buffer, linear(4, 4), linear(4, 4)), FLAT),
    "densely connected": (_of(_densenet, linear(4, 3), linear(7, 2)), FLAT),
    "stacked lists": (_of(_stacked_lists, linear(4, 4)), FLAT),
    "hypersphere": (_of(_hyper_spherical, linear(4, 3)), FLAT),
    "radial basis": (_of(_radial, linear(4, 3)), FLAT),
    "mixture density": (_of(_mixture_density, linear(4, 6)), FLAT),
    "gaussian process": (_of(_gaussian_process, linear(4, 2)), FLAT),
    "householder": (_of(_householder, linear(4, 4)), FLAT),
    "ode": (_of(_ode, linear(4, 4)), FLAT),
    "kan": (_of(_kan, linear(20, 4)), FLAT),
    "siren": (_of(_siren, linear(4, 4)), FLAT),
    "complex layer": (_of(_complex_layer, linear(4, 3), linear(4, 3)), FLAT),
    "normalised by hand": (_of(_normalised_by_hand, linear(4, 4)), FLAT),
    "order statistics": (_of(_quantile_like, linear(4, 3)), FLAT),
    "hard choice": (_of(_gumbel_free, linear(4, 3)), FLAT),
    "bilinear": (_of(_bilinear, lambda: nn.Bilinear(4, 4, 2)), FLAT),
    "checkpoint": (_of(_checkpointed(False), linear(4, 3)), FLAT),
    "reentrant checkpoint": (_of(_checkpointed(True), linear(4, 3)), FLAT),
    "maxout": (
        _of(lambda x, layer: torch.maximum(torch.tensor(0.1), layer(x)).exp(), linear(4, 3)),
        FLAT,
    ),
    "set pooling": (_of(_deep_sets, linear(4, 3)), SEQUENCE),
    "squeeze and excite": (
        _of(_squeeze_excite, lambda: nn.Conv2d(4, 3, 3), linear(3, 2), linear(2, 3)),
        IMAGE,
    ),
    "u-net": (_of(_unet, lambda: nn.Conv2d(4, 2, 3, padding=1), lambda: nn.Conv2d(4, 1, 3)), IMAGE),
    "unpooled": (_of(_unpooled, lambda: nn.Conv2d(4, 2, 3, padding=1)), IMAGE),
    "shifted windows": (_of(_windows, linear(6, 6)), (2, 4, 6, 6)),
    "dynamic convolution": (_of(_convolved_by_itself, linear(4, 36)), (1, 4, 6, 6)),
    "pixel shuffle": (_of(_pixel_shuffled, lambda: nn.Conv2d(4, 4, 3, padding=1)), IMAGE),
    "patches": (_of(_patches, linear(16, 16)), IMAGE),
    "unfolded slices": (_of(_tensor_slices, linear(16, 3)), IMAGE),
    "mobile block": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, groups=4),
            nn.BatchNorm2d(4),
            nn.Hardswish(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
            nn.Hardsigmoid(),
        ),
        IMAGE,
    ),
    "activations": (
        lambda: nn.Sequential(
            nn.PReLU(4),
            nn.CELU(),
            nn.Softsign(),
            nn.Tanhshrink(),
            nn.LogSigmoid(),
            nn.RReLU(),
            nn.Softshrink(0.1),
            nn.Hardshrink(0.1),
            nn.Threshold(-5, 1),
            nn.ELU(inplace=True),
            nn.Softmin(1),
            nn.LogSoftmax(1),
            nn.Softplus(),
        ),
        FLAT,
    ),
    "pools": (
        lambda: nn.Sequential(
            nn.LPPool2d(2, 2),
            nn.Upsample(scale_factor=2, mode="bicubic"),
            nn.ZeroPad2d(1),
            nn.AvgPool2d(2),
            nn.LocalResponseNorm(2),
            nn.Flatten(),
            nn.LayerNorm(64),
            nn.Unflatten(1, (4, 16)),
            nn.InstanceNorm1d(4),
        ),
        IMAGE,
    ),
    "rms norm": (
        lambda: nn.Sequential(nn.RMSNorm(4), nn.Identity(), nn.CosineSimilarity(dim=1)),
        FLAT,
    )
    if False
    else (lambda: nn.Sequential(nn.RMSNorm(4), nn.Identity(), nn.Linear(4, 2)), FLAT),
}
