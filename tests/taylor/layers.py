"""Every layer of torch.nn and function of torch.nn.functional: name → (function, shape of its input)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

D = torch.float64
_SIGNAL, _IMAGE, _VOLUME = (2, 4, 6), (2, 4, 4, 4), (1, 4, 4, 4, 4)
_SEQUENCE = (2, 3, 4)


def _fixed(*shape):
    """Numbers in (−1.5, 1.5) that are far from each other's multiples."""
    count = torch.Size(shape).numel()
    return (1.5 * torch.sin(1.7 * torch.arange(count, dtype=D) + 0.3)).view(shape)


_PROBABILITIES = _fixed(5, 4).softmax(1)
_CLASSES = torch.tensor([0, 3, 1, 2, 0])
_MANY = torch.tensor([[3, 0, -1, 1], [1, -1, 2, 0], [0, 2, 3, -1], [2, -1, 0, 1], [1, 3, -1, 0]])
_SIGNS = _fixed(5, 4).sign()


def _of(kind, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = kind(*args, **kwargs).double().eval()
    for parameter in layer.parameters():
        if parameter.ndim < 2:  # scales and shifts that start at 1 and 0
            parameter.data += 0.1 * _fixed(*parameter.shape)
    return layer


def _lazy(kind, *args, shape, **kwargs):
    layer = kind(*args, **kwargs).double().eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer(torch.zeros(shape, dtype=D))
    return layer


def _unpooled(pool, unpool):
    def function(p):
        values, indices = pool(p)
        return unpool(values.exp(), indices)

    return function


def _recurrent(layer, state=None):
    def function(p):
        out, last = layer(p, state)
        last = last if isinstance(last, tuple) else (last,)
        return out.sum(1) + sum(s.square().sum() for s in last)

    return function


def _cell(cell, several):
    def function(p):
        state = (p.sin(), p.cos()) if several else p.sin()
        moved = cell(p, state)
        return moved[0] * moved[1] if several else moved

    return function


def _to(target, loss):
    return lambda p: loss(p, target)


def _values(pool, p, **size):
    values, _ = pool(p, **size)
    return values


def _using(layer, function):
    return lambda p: function(layer, p)


def _bag(mode):
    layer = _of(nn.EmbeddingBag, 6, 4, mode=mode)
    tokens = torch.tensor([[0, 2, 5], [1, 1, 4]])

    def function(p):
        weights = p[:, :3].exp() if mode == "sum" else None
        return F.embedding_bag(
            tokens, layer.weight * p.sum().sin(), mode=mode, per_sample_weights=weights
        )

    return function


def _ragged_bag(mode):
    def function(p):
        return F.embedding_bag(torch.tensor([0, 2, 4, 1, 1]), p, torch.tensor([0, 2]), mode=mode)

    return function


def _fresh(function):
    """The same random numbers at each call."""

    def fixed(p):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return function(p)

    return fixed


def _transformer(kind, **kwargs):
    return _of(kind, 4, 2, dim_feedforward=8, batch_first=True, **kwargs)


with torch.random.fork_rng():  # these are made when the tests are collected, before any is seeded
    torch.manual_seed(0)
    _ENCODER = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    _DECODER = nn.TransformerDecoderLayer(4, 2, 8, batch_first=True)

LAYERS = {
    **{
        f"AdaptiveAvgPool{n}d": (_of(getattr(nn, f"AdaptiveAvgPool{n}d"), 3), s)
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"AdaptiveMaxPool{n}d": (_of(getattr(nn, f"AdaptiveMaxPool{n}d"), 3), s)
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"AvgPool{n}d": (_of(getattr(nn, f"AvgPool{n}d"), 2, 1, 1), s)
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"MaxPool{n}d": (_of(getattr(nn, f"MaxPool{n}d"), 2, 1, 1), s)
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"MaxUnpool{n}d": (
            _unpooled(
                getattr(nn, f"MaxPool{n}d")(2, return_indices=True),
                getattr(nn, f"MaxUnpool{n}d")(2),
            ),
            s,
        )
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"LPPool{n}d": (_of(getattr(nn, f"LPPool{n}d"), 2, 2), s)
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"BatchNorm{n}d": (_of(getattr(nn, f"BatchNorm{n}d"), 4), s)
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"InstanceNorm{n}d": (_of(getattr(nn, f"InstanceNorm{n}d"), 4, affine=True), s)
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"Lazy{k}Norm{n}d": (_lazy(getattr(nn, f"Lazy{k}Norm{n}d"), shape=s), s)
        for k in ("Batch", "Instance")
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"Conv{n}d": (
            _of(getattr(nn, f"Conv{n}d"), 4, 2, 3, padding=1, groups=2, padding_mode="circular"),
            s,
        )
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"ConvTranspose{n}d": (
            _of(getattr(nn, f"ConvTranspose{n}d"), 4, 4, 3, stride=2, groups=2, output_padding=1),
            s,
        )
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"LazyConv{t}{n}d": (_lazy(getattr(nn, f"LazyConv{t}{n}d"), 2, 3, shape=s), s)
        for t in ("", "Transpose")
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"{k}Pad{n}d": (getattr(nn, f"{k}Pad{n}d")(*((1, 0.7) if k == "Constant" else (1,))), s)
        for k in ("Circular", "Constant", "Reflection", "Replication", "Zero")
        for n, s in ((1, _SIGNAL), (2, _IMAGE), (3, _VOLUME))
    },
    **{
        f"Dropout{n}": (_of(getattr(nn, f"Dropout{n}"), 0.3), s)
        for n, s in (("", _SEQUENCE), ("1d", _SIGNAL), ("2d", _IMAGE), ("3d", _VOLUME))
    },
    **{k: (_of(getattr(nn, k), 0.3), _SEQUENCE) for k in ("AlphaDropout", "FeatureAlphaDropout")},
    **{
        k: (getattr(nn, k)().eval(), (3, 4))
        for k in (
            "CELU",
            "ELU",
            "GELU",
            "GLU",
            "Hardshrink",
            "Hardsigmoid",
            "Hardswish",
            "Hardtanh",
            "Identity",
            "LeakyReLU",
            "LogSigmoid",
            "Mish",
            "ReLU",
            "ReLU6",
            "RReLU",
            "SELU",
            "SiLU",
            "Sigmoid",
            "Softplus",
            "Softshrink",
            "Softsign",
            "Tanh",
            "Tanhshrink",
        )
    },
    "GELU(tanh)": (nn.GELU("tanh"), (3, 4)),
    "Softplus(2, 1)": (nn.Softplus(2.0, 1.0), (3, 4)),
    "CELU(0.6)": (nn.CELU(0.6), (3, 4)),
    "ELU(2)": (nn.ELU(2.0), (3, 4)),
    "PReLU": (_of(nn.PReLU, 4), (3, 4, 2)),
    "Threshold": (nn.Threshold(0.1, 3.0), (3, 4)),
    **{k: (getattr(nn, k)(1), (3, 4)) for k in ("Softmax", "Softmin", "LogSoftmax")},
    "Softmax2d": (nn.Softmax2d(), _IMAGE),
    "RMSNorm": (_of(nn.RMSNorm, 4), _SEQUENCE),
    "LayerNorm": (_of(nn.LayerNorm, (3, 4)), _SEQUENCE),
    "GroupNorm": (_of(nn.GroupNorm, 2, 4), _IMAGE),
    "LocalResponseNorm": (nn.LocalResponseNorm(3), _IMAGE),
    "CrossMapLRN2d": (nn.CrossMapLRN2d(3), _IMAGE),
    "SyncBatchNorm": (_of(nn.SyncBatchNorm, 4), _IMAGE),
    "BatchNorm of the batch": (_of(nn.BatchNorm1d, 4, track_running_stats=False), (5, 4)),
    "InstanceNorm with statistics": (_of(nn.InstanceNorm1d, 4, track_running_stats=True), _SIGNAL),
    "Linear": (_of(nn.Linear, 4, 3), _SEQUENCE),
    "LazyLinear": (_lazy(nn.LazyLinear, 3, shape=_SEQUENCE), _SEQUENCE),
    "Bilinear": (_using(_of(nn.Bilinear, 4, 4, 3), lambda layer, p: layer(p, p.sin())), _SEQUENCE),
    "Embedding": (lambda p: F.embedding(torch.tensor([[0, 2], [1, 1]]), p), (3, 4)),
    "EmbeddingBag": (_bag("mean"), (2, 4)),
    "EmbeddingBag(sum)": (_bag("sum"), (2, 4)),
    "EmbeddingBag(max)": (_bag("max"), (2, 4)),
    "EmbeddingBag, ragged": (_ragged_bag("mean"), (5, 4)),
    "EmbeddingBag(sum), ragged": (_ragged_bag("sum"), (5, 4)),
    "EmbeddingBag(max), ragged": (_ragged_bag("max"), (5, 4)),
    "Flatten": (nn.Flatten(), _SEQUENCE),
    "Unflatten": (nn.Unflatten(2, (2, 2)), _SEQUENCE),
    "Fold": (nn.Fold((3, 3), 2), (2, 8, 4)),
    "Unfold": (nn.Unfold(2), _IMAGE),
    "PixelShuffle": (nn.PixelShuffle(2), _IMAGE),
    "PixelUnshuffle": (nn.PixelUnshuffle(2), _IMAGE),
    "ChannelShuffle": (nn.ChannelShuffle(2), _IMAGE),
    "Upsample": (nn.Upsample(scale_factor=2), _SIGNAL),
    "Upsample(linear)": (nn.Upsample(scale_factor=1.5, mode="linear"), _SIGNAL),
    "Upsample(bicubic)": (nn.Upsample(size=(5, 7), mode="bicubic", align_corners=True), _IMAGE),
    "Upsample(trilinear)": (nn.Upsample(scale_factor=2, mode="trilinear"), _VOLUME),
    "UpsamplingBilinear2d": (nn.UpsamplingBilinear2d(scale_factor=2), _IMAGE),
    "UpsamplingNearest2d": (nn.UpsamplingNearest2d(scale_factor=2), _IMAGE),
    "FractionalMaxPool2d": (_fresh(nn.FractionalMaxPool2d(2, output_size=3)), _IMAGE),
    "FractionalMaxPool3d": (_fresh(nn.FractionalMaxPool3d(2, output_size=2)), (1, 2, 5, 5, 5)),
    "RNN": (_recurrent(_of(nn.RNN, 4, 4, 2, batch_first=True, bidirectional=True)), _SEQUENCE),
    "RNN(relu)": (_recurrent(_of(nn.RNN, 4, 4, nonlinearity="relu", batch_first=True)), _SEQUENCE),
    "GRU": (_recurrent(_of(nn.GRU, 4, 4, 2, batch_first=True)), _SEQUENCE),
    "LSTM": (_recurrent(_of(nn.LSTM, 4, 4, batch_first=True, bidirectional=True)), _SEQUENCE),
    "LSTM with projections": (
        _recurrent(_of(nn.LSTM, 4, 4, proj_size=2, batch_first=True)),
        _SEQUENCE,
    ),
    "RNNCell": (_cell(_of(nn.RNNCell, 4, 4), False), (3, 4)),
    "GRUCell": (_cell(_of(nn.GRUCell, 4, 4), False), (3, 4)),
    "LSTMCell": (_cell(_of(nn.LSTMCell, 4, 4), True), (3, 4)),
    "MultiheadAttention": (
        _using(
            _of(nn.MultiheadAttention, 4, 2, batch_first=True),
            lambda layer, p: layer(p, p.sin(), p.cos())[0],
        ),
        _SEQUENCE,
    ),
    "TransformerEncoderLayer": (_transformer(nn.TransformerEncoderLayer), _SEQUENCE),
    "TransformerDecoderLayer": (
        _using(
            _transformer(nn.TransformerDecoderLayer, activation="gelu"),
            lambda layer, p: layer(p, p.sin()),
        ),
        _SEQUENCE,
    ),
    "TransformerEncoder": (_of(nn.TransformerEncoder, _ENCODER, 1), _SEQUENCE),
    "TransformerDecoder": (
        _using(_of(nn.TransformerDecoder, _DECODER, 1), lambda layer, p: layer(p, p.sin())),
        _SEQUENCE,
    ),
    "Transformer": (
        _using(
            _transformer(nn.Transformer, num_encoder_layers=1, num_decoder_layers=1),
            lambda layer, p: layer(p, p.sin()),
        ),
        _SEQUENCE,
    ),
    "CosineSimilarity": (lambda p: nn.CosineSimilarity()(p, p.exp()), (3, 4)),
    "PairwiseDistance": (lambda p: nn.PairwiseDistance()(p, p.exp()), (3, 4)),
    "PairwiseDistance(3)": (lambda p: nn.PairwiseDistance(3, keepdim=True)(p, p.exp()), (3, 4)),
    "AdaptiveLogSoftmaxWithLoss": (
        _using(
            _of(nn.AdaptiveLogSoftmaxWithLoss, 4, 6, [2, 4]),
            lambda layer, p: layer(p, _CLASSES + 1).output,
        ),
        (5, 4),
    ),
    "BCELoss": (lambda p: nn.BCELoss()(p.sigmoid(), _PROBABILITIES), (5, 4)),
    "BCEWithLogitsLoss": (
        _to(_PROBABILITIES, nn.BCEWithLogitsLoss(pos_weight=_fixed(4).exp())),
        (5, 4),
    ),
    "CTCLoss": (
        lambda p: nn.CTCLoss()(
            p.unsqueeze(1).log_softmax(2),
            torch.tensor([[1, 2]]),
            torch.tensor([5]),
            torch.tensor([2]),
        ),
        (5, 4),
    ),
    "CosineEmbeddingLoss": (
        lambda p: nn.CosineEmbeddingLoss(0.1)(p, _fixed(5, 4), _SIGNS[:, 0]),
        (5, 4),
    ),
    "CrossEntropyLoss": (
        _to(_CLASSES, nn.CrossEntropyLoss(_fixed(4).exp(), label_smoothing=0.1)),
        (5, 4),
    ),
    "CrossEntropyLoss of probabilities": (
        _to(_PROBABILITIES, nn.CrossEntropyLoss(label_smoothing=0.1)),
        (5, 4),
    ),
    **(
        {"LinearCrossEntropyLoss": (_to(_CLASSES, _of(nn.LinearCrossEntropyLoss, 4, 4)), (5, 4))}
        if hasattr(nn, "LinearCrossEntropyLoss")  # torch 2.11 has none
        else {}
    ),
    "GaussianNLLLoss": (lambda p: nn.GaussianNLLLoss(full=True)(p, _fixed(5, 4), p.exp()), (5, 4)),
    "HingeEmbeddingLoss": (_to(_SIGNS, nn.HingeEmbeddingLoss(0.7)), (5, 4)),
    "HuberLoss": (_to(_fixed(5, 4), nn.HuberLoss(delta=0.8)), (5, 4)),
    "SmoothL1Loss": (_to(_fixed(5, 4), nn.SmoothL1Loss(beta=0.8)), (5, 4)),
    "KLDivLoss": (
        lambda p: nn.KLDivLoss(reduction="batchmean")(p.log_softmax(1), _PROBABILITIES),
        (5, 4),
    ),
    "KLDivLoss of logarithms": (
        lambda p: nn.KLDivLoss(reduction="sum", log_target=True)(p.log_softmax(1), p.sin()),
        (5, 4),
    ),
    "L1Loss": (_to(_fixed(5, 4), nn.L1Loss()), (5, 4)),
    "MSELoss": (_to(_fixed(5, 4), nn.MSELoss()), (5, 4)),
    "MarginRankingLoss": (lambda p: nn.MarginRankingLoss(0.3)(p, p.sin() * 2, _SIGNS), (5, 4)),
    "MultiLabelMarginLoss": (_to(_MANY, nn.MultiLabelMarginLoss()), (5, 4)),
    "MultiLabelSoftMarginLoss": (_to((_SIGNS > 0).to(D), nn.MultiLabelSoftMarginLoss()), (5, 4)),
    "MultiMarginLoss": (_to(_CLASSES, nn.MultiMarginLoss(p=2, margin=0.9)), (5, 4)),
    "NLLLoss": (
        lambda p: nn.NLLLoss(_fixed(4).exp(), ignore_index=3)(p.log_softmax(1), _CLASSES),
        (5, 4),
    ),
    "NLLLoss2d": (
        lambda p: nn.NLLLoss()(p.log_softmax(1), _MANY.clamp_min(0)[:2, :, None].expand(2, 4, 4)),
        _IMAGE,
    ),
    "PoissonNLLLoss": (_to(_fixed(5, 4).exp(), nn.PoissonNLLLoss(full=True)), (5, 4)),
    "PoissonNLLLoss of rates": (
        lambda p: nn.PoissonNLLLoss(log_input=False)(p.exp(), _fixed(5, 4).exp()),
        (5, 4),
    ),
    "SoftMarginLoss": (_to(_SIGNS, nn.SoftMarginLoss()), (5, 4)),
    "TripletMarginLoss": (
        lambda p: nn.TripletMarginLoss(2.0, swap=True)(p, _fixed(5, 4), p.sin()),
        (5, 4),
    ),
    "TripletMarginWithDistanceLoss": (
        lambda p: nn.TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance())(
            p, _fixed(5, 4), p.sin()
        ),
        (5, 4),
    ),
    "Sequential": (nn.Sequential(nn.Tanh(), nn.Softplus()), (3, 4)),
}

ABSTRACT = {
    "Container",
    "Module",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "RNNBase",
    "RNNCellBase",
}
"""Without a function of their own."""

ELSEWHERE = {"DataParallel"}
"""Needs several devices."""

FUNCTIONS = {
    **{
        f"{kind}_max_pool{n}d_with_indices": (
            _fresh(partial(_values, getattr(F, f"{kind}_max_pool{n}d_with_indices"), **size)),
            shape,
        )
        for kind, n, size, shape in (
            ("adaptive", 1, {"output_size": 3}, _SIGNAL),
            ("adaptive", 2, {"output_size": 3}, _IMAGE),
            ("adaptive", 3, {"output_size": 3}, _VOLUME),
            ("fractional", 2, {"kernel_size": 2, "output_size": 3}, _IMAGE),
            ("fractional", 3, {"kernel_size": 2, "output_size": 2}, (1, 2, 5, 5, 5)),
        )
    },
    "upsample": (lambda p: F.upsample(p, scale_factor=2), _IMAGE),
    "upsample_nearest": (lambda p: F.upsample_nearest(p, scale_factor=2), _IMAGE),
    "affine_grid": (lambda p: F.affine_grid(p, (2, 3, 4, 4), align_corners=False), (2, 2, 3)),
    "grid_sample": (
        lambda p: F.grid_sample(_fixed(2, 3, 4, 4), p.tanh(), align_corners=False),
        (2, 3, 3, 2),
    ),
    "grid_sample of images": (
        lambda p: F.grid_sample(p, _fixed(2, 3, 3, 2).tanh(), align_corners=False),
        (2, 4, 4, 4),
    ),
    "alpha_dropout": (_fresh(lambda p: F.alpha_dropout(p, 0.3, True)), (3, 4)),
    "feature_alpha_dropout": (_fresh(lambda p: F.feature_alpha_dropout(p, 0.3, True)), _SIGNAL),
    **{
        f"dropout{n}": (_fresh(partial(getattr(F, f"dropout{n}"), p=0.3, training=True)), s)
        for n, s in (("", (3, 4)), ("1d", _SIGNAL), ("2d", _IMAGE), ("3d", _VOLUME))
    },
    "batch_norm": (lambda p: F.batch_norm(p, None, None, training=True), (5, 4)),
    "celu_": (lambda p: F.celu_(p * 1, 0.7), (3, 4)),
    "elu_": (lambda p: F.elu_(p * 1), (3, 4)),
    "selu_": (lambda p: F.selu_(p * 1), (3, 4)),
    "hardtanh_": (lambda p: F.hardtanh_(p * 1), (3, 4)),
    "leaky_relu_": (lambda p: F.leaky_relu_(p * 1), (3, 4)),
    "relu_": (lambda p: F.relu_(p * 1), (3, 4)),
    "rrelu": (_fresh(lambda p: F.rrelu(p, training=True)), (3, 4)),
    "rrelu_": (lambda p: F.rrelu_(p * 1), (3, 4)),
    "threshold_": (lambda p: F.threshold_(p * 1, 0.1, 3.0), (3, 4)),
    "hardsigmoid, in place": (lambda p: F.hardsigmoid(p * 1, inplace=True), (3, 4)),
    "hardswish, in place": (lambda p: F.hardswish(p * 1, inplace=True), (3, 4)),
    "mish, in place": (lambda p: F.mish(p * 1, inplace=True), (3, 4)),
    "silu, in place": (lambda p: F.silu(p * 1, inplace=True), (3, 4)),
    "conv_tbc": (lambda p: torch.conv_tbc(p, _fixed(2, 4, 3), _fixed(3)), (5, 2, 4)),
    "gumbel_softmax": (_fresh(F.gumbel_softmax), (3, 4)),
    "normalize": (F.normalize, (3, 4)),
    "pdist": (F.pdist, (4, 3)),
    "tanh, sigmoid": (lambda p: F.tanh(p) * F.sigmoid(p), (3, 4)),
    "scaled_dot_product_attention": (
        lambda p: F.scaled_dot_product_attention(p, p.sin(), p.cos(), is_causal=True),
        (2, 2, 3, 4),
    ),
    "multilabel_soft_margin_loss": (
        lambda p: F.multilabel_soft_margin_loss(p, _PROBABILITIES, _fixed(4).exp()),
        (5, 4),
    ),
    "upsample_bilinear": (
        lambda p: F.interpolate(p, scale_factor=2, mode="bilinear", antialias=True),
        _IMAGE,
    ),
    "nearest-exact": (lambda p: F.interpolate(p, scale_factor=2, mode="nearest-exact"), _IMAGE),
    "native_channel_shuffle": (lambda p: F.native_channel_shuffle(p, 2), _IMAGE),
    **(
        {
            "linear_cross_entropy": (
                lambda p: F.linear_cross_entropy(p, _fixed(4, 4), _CLASSES),
                (5, 4),
            )
        }
        if hasattr(F, "linear_cross_entropy")  # torch 2.11 has none
        else {}
    ),
}
