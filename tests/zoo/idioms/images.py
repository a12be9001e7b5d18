"""Convolutional networks with their pools, paddings and normalisations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.idioms.base import idiom


def _head(channels: int, *, pool: nn.Module | None = None) -> list[nn.Module]:
    return [pool or nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


@idiom(6, 1, 6, 6)
def convolutional() -> nn.Module:
    """Convolution, max pooling, a flattened head."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
    )


@idiom(6, 2, 4, 4)
def conv_batchnorm_relu_in_place() -> nn.Module:
    """The block of every image classifier, with running statistics."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True), *_head(3)
    )


@idiom(6, 2, 4, 4)
class ResidualBlock(nn.Module):
    """A ResNet block with a projection and an addition in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.Conv2d(2, 3, 3, padding=1)
        self.skip = nn.Conv2d(2, 3, 1)
        self.na, self.nb = nn.BatchNorm2d(2), nn.BatchNorm2d(3)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(3, 3)

    def forward(self, x):
        out = self.nb(self.b(self.relu(self.na(self.a(x)))))
        out += self.skip(x)
        return self.head(self.relu(out).mean((2, 3)))


@idiom(6, 2, 4, 4)
class DenseBlock(nn.Module):
    """Pre-activations concatenated over layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.cat([x, torch.tanh(self.a(x))], 1)
        x = torch.cat([x, self.b(F.elu(self.norm(x), inplace=True))], 1)
        return self.head(x.flatten(2).logsumexp(2))


@idiom(6, 2, 4, 4)
class SqueezeExcite(nn.Module):
    """Channels weighted by a gate of their own means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        h = F.hardswish(self.conv(x))
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((h * gate).square().mean((2, 3)))


@idiom(6, 2, 4, 4)
def depthwise_separable() -> nn.Module:
    """Grouped, dilated and 'same' convolutions."""
    return nn.Sequential(
        nn.Conv2d(2, 2, 3, padding="same", groups=2, dilation=2),
        nn.SiLU(),
        nn.Conv2d(2, 4, 1),
        nn.ReLU6(),
        *_head(4),
    )


@idiom(6, 1, 4, 4)
def circular_padding() -> nn.Module:
    """Circular, reflected and replicated borders."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
        nn.Softplus(),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d((1, 0, 0, 1)),
        nn.Conv2d(2, 2, 3, stride=2),
        nn.Tanh(),
        *_head(2),
    )


@idiom(6, 1, 3, 3)
def transposed_convolution() -> nn.Module:
    """A decoder: transposed convolution with stride and output padding."""
    return nn.Sequential(
        nn.ConvTranspose2d(1, 2, 3, stride=2, padding=1, output_padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(2, 2, 3),
        nn.Sigmoid(),
        *_head(2),
    )


@idiom(6, 1, 4, 4)
def pixel_shuffle() -> nn.Module:
    """Sub-pixel upsampling and its inverse."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.PixelShuffle(2),
        nn.Tanh(),
        nn.PixelUnshuffle(2),
        nn.CELU(),
        *_head(4),
    )


@idiom(5, 1, 3, 3)
def upsampled() -> nn.Module:
    """Bilinear and nearest upsampling."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(1, 2, 3),
        nn.GELU(approximate="tanh"),
        nn.Upsample(size=5, mode="nearest"),
        nn.Conv2d(2, 2, 3, stride=2),
        nn.Softsign(),
        *_head(2),
    )


@idiom(6, 1, 6, 6)
class Pools(nn.Module):
    """Average, power-average, adaptive and global maximum pooling side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(8, 3)
        self.pools = nn.ModuleList(
            [nn.AvgPool2d(3, 2), nn.LPPool2d(2, 2), nn.AdaptiveMaxPool2d(2), nn.MaxPool2d(3)]
        )

    def forward(self, x):
        h = F.softplus(self.conv(x))
        return self.head(torch.cat([p(h).mean((2, 3)) for p in self.pools], 1))


@idiom(6, 2, 8)
def one_dimensional() -> nn.Module:
    """Convolutions and pools over a signal."""
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        nn.AvgPool1d(2),
        nn.Conv1d(3, 3, 3),
        nn.Hardtanh(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    )


@idiom(4, 1, 3, 3, 3)
def three_dimensional() -> nn.Module:
    """Convolution over a volume."""
    return nn.Sequential(
        nn.Conv3d(1, 2, 2), nn.Tanh(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3)
    )


@idiom(6, 1, 4, 4)
class UnfoldedPatches(nn.Module):
    """Patches by F.unfold, a weight of a convolution used as a matrix, folded back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 2), nn.Linear(4, 3)

    def forward(self, x):
        patches = F.unfold(x, 2, stride=2)
        h = torch.tanh(self.conv.weight.flatten(1) @ patches + self.conv.bias[:, None])
        image = F.fold(h, (4, 4), 2, stride=2)
        return self.head(image.flatten(1).unfold(1, 4, 4).square().mean(2))


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        mean, variance = (f(self.weight, (1, 2, 3), keepdim=True) for f in (torch.mean, torch.var))
        return F.conv2d(x, (self.weight - mean) * torch.rsqrt(variance + 1e-4), self.bias)


@idiom(5, 2, 4, 4)
def group_norm() -> nn.Module:
    """Weight-standardised convolution under GroupNorm."""
    return nn.Sequential(StandardisedConv(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), *_head(4))


@idiom(5, 2, 4, 4)
def instance_norm() -> nn.Module:
    """InstanceNorm of each image's own statistics, with an affine map."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.InstanceNorm2d(3, affine=True), nn.Tanh(), *_head(3)
    )


@idiom(5, 2, 4, 4)
def instance_norm_tracked() -> nn.Module:
    """InstanceNorm that tracks running statistics and uses them in evaluation mode."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.ReLU(inplace=True),
        *_head(3),
    )


@idiom(6, 3, 3, 3)
def local_response_norm() -> nn.Module:
    """Local response normalisation across channels."""
    return nn.Sequential(
        nn.Conv2d(3, 3, 2), nn.LocalResponseNorm(2, alpha=1.0), nn.ReLU(), *_head(3)
    )


@idiom(
    8,
    5,
    # A sample's loss depends on the whole batch: no single point has a derivative of its own.
    may_refuse=dict.fromkeys(
        ("lambda", "input", "gradient", "jacobian", "path_norm", "relative"), "batch"
    ),
)
def batch_norm_without_statistics() -> nn.Module:
    """BatchNorm that normalises by the batch in evaluation mode too."""
    return nn.Sequential(
        nn.Linear(5, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Tanh(), nn.Linear(5, 3)
    )


@idiom(8, 5, seed=1)
def layer_norm() -> nn.Module:
    """LayerNorm before and after."""
    return nn.Sequential(
        nn.LayerNorm(5), nn.Linear(5, 5), nn.ReLU(), nn.LayerNorm(5, bias=False), nn.Linear(5, 3)
    )


@idiom(8, 5)
def rms_norm() -> nn.Module:
    """RMSNorm, torch's own."""
    return nn.Sequential(nn.RMSNorm(5), nn.Linear(5, 5), nn.Tanh(), nn.RMSNorm(5), nn.Linear(5, 3))


@idiom(8, 6)
def batch_norm_dense() -> nn.Module:
    """BatchNorm1d with running statistics and no affine map, then with one."""
    return nn.Sequential(
        nn.BatchNorm1d(6, affine=False),
        nn.Linear(6, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 3),
    )


@idiom(4, 1, 4, 4, may_refuse={"": "differentia"})
class SpatialTransformer(nn.Module):
    """An image sampled on a grid that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.locate, self.head = nn.Linear(4, 6), nn.Linear(4, 3)

    def forward(self, x):
        theta = 0.3 * self.locate(x[:, 0, 0]).view(-1, 2, 3)
        theta = theta + torch.eye(2, 3, dtype=x.dtype)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        image = F.grid_sample(x, 0.6 * grid, align_corners=False)
        return self.head(F.avg_pool2d(image, 2).flatten(1))
