"""The path norm by brute force over paths and by products of dense matrices."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import sharpbench as sb
from sharpbench.invariance import transformations
from sharpbench.seeds import torch_generator


def subject(model: nn.Module, *shape: int) -> sb.Subject:
    """Drawn weights, statistics and labels of three classes."""
    generator = torch_generator(0)
    model = model.double().eval()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_()
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return sb.Subject(model, x, torch.randint(3, (6,), generator=generator))


def norm(of: sb.Subject, order: float = 2.0, **parameters) -> float:
    return sb.measure(of, "path_norm", order=order, **parameters).value


def matrix(layer: nn.Module, *shape: int) -> Tensor:
    """|·| of each entry of a linear layer's map of inputs of ``shape``, (outputs, inputs)."""
    size = torch.Size(shape).numel()
    basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
        return (layer(basis) - zero).flatten(1).T.abs()


@pytest.mark.parametrize("order", [1.0, 2.0, 3.5])
def test_all_paths_one_by_one(order):
    model = nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.LeakyReLU(), nn.Linear(2, 3)
    )
    of = subject(model, 3)
    a, b, c = (model[i].weight.detach().abs() ** order for i in (0, 2, 4))
    p, q, r = (model[i].bias.detach().abs() ** order for i in (0, 2, 4))
    unbiased = sum(
        float(c[o, j] * b[j, i] * a[i, k])
        for k, i, j, o in itertools.product(range(3), range(4), range(2), range(3))
    )
    assert norm(of, order) == pytest.approx(unbiased ** (1 / order), rel=1e-12)
    begun = sum(
        float(c[o, j] * b[j, i] * p[i]) for i in range(4) for j in range(2) for o in range(3)
    )
    begun += sum(float(c[o, j] * q[j]) for j in range(2) for o in range(3)) + float(r.sum())
    found = sb.measure(of, "path_norm", order=order, biases=True)
    assert found.value == pytest.approx((unbiased + begun) ** (1 / order), rel=1e-12)
    assert found.exact
    assert found.details["checks"]["network"] < 1e-14


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_convolutions_pooling_and_averages(order):
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, groups=1),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1, padding=1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    of = subject(model, 2, 5, 5)
    # A maximum lets each of its inputs through: a convolution with ones.
    window = nn.Conv2d(3, 3, 2, padding=1, groups=3, bias=False).double()
    nn.init.ones_(window.weight)
    total = torch.ones(50, dtype=torch.float64)
    for layer, shape in (
        (model[0], (2, 5, 5)),
        (window, (3, 3, 3)),
        (model[3], (3, 4, 4)),
        (model[4], (3, 2, 2)),
        (model[6], (3,)),
    ):
        total = matrix(layer, *shape) ** order @ total
    assert norm(of, order) == pytest.approx(float(total.sum()) ** (1 / order), rel=1e-12)


class Residual(nn.Module):
    """x − A relu(Bx), then half of it through a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 4), nn.Linear(4, 5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x - self.a(torch.relu(self.b(x)))) / 2)


def test_paths_that_meet_are_added():
    of = subject(Residual(), 4)
    a, b, head = (getattr(of.model, n).weight.detach().square() for n in ("a", "b", "head"))
    expected = (head @ (torch.eye(4, dtype=torch.float64) + a @ b)).sum() / 4
    assert norm(of) ** 2 == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("biases", [False, True])
def test_it_stays_where_units_are_rescaled_and_batch_norm_is_folded(biases):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    of = subject(model, 1, 5, 5)
    before = norm(of, biases=biases)
    for name in (
        "neuron_rescaling",
        "normalization_rescaling",
        "normalization_folding",
        "neuron_permutation",
        "weight_normalization",
        "log_scale",
    ):
        after = of.with_model(transformations.create(name).apply(of.model, seed=0))
        assert norm(after, biases=biases) == pytest.approx(before, rel=1e-10), name
    split = transformations.create("neuron_splitting").apply(of.model, seed=0)
    assert norm(of.with_model(split), biases=biases) != pytest.approx(before, rel=1e-3)


class Hidden(nn.Module):
    """Something of the input that no operation of torch's shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.from_numpy(x.detach().numpy()[:, :3].copy())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh()), "with tanh on the way"),
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "with softmax on the way"),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), "native_layer_norm"),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU6()), "hardtanh"),
        (Hidden(), "depend on its inputs"),
    ],
)
def test_what_is_no_sum_over_paths_is_refused_by_name(model, reason):
    with pytest.raises(sb.MetricFailed, match=reason):
        norm(subject(model, 4))
