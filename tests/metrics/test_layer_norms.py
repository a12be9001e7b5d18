"""Norms of layers against singular values of the maps as dense matrices."""

import math

import pytest
import torch
from torch import Tensor, nn

import sharpbench as sb
from sharpbench.invariance import transformations
from sharpbench.seeds import torch_generator


def subject(*layers: nn.Module, shape: tuple[int, ...] = (4,)) -> sb.Subject:
    generator = torch_generator(0)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return sb.Subject(model, x, torch.randint(3, (6,), generator=generator))


def matrix(layer: nn.Module, *shape: int) -> Tensor:
    """A linear layer's map of inputs of ``shape``, (outputs, inputs)."""
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
        return (layer(basis) - zero).flatten(1).T


def value(of: sb.Subject, **parameters) -> float:
    return sb.measure(of, "layer_norms", **parameters).value


def test_of_linear_layers():
    of = subject(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
    weights = [of.model[i].weight.detach() for i in (0, 2)]
    for norm, order in (("spectral", 2), ("frobenius", "fro")):
        a, b = (float(torch.linalg.matrix_norm(w, order)) ** 2 for w in weights)
        for combine, expected in (
            ("product", a * b),
            ("log_product", math.log(a * b)),
            ("sum", 2 * math.sqrt(a * b)),
            ("total", a + b),
        ):
            found = sb.measure(of, "layer_norms", norm=norm, combine=combine)
            assert found.value == pytest.approx(expected, rel=1e-12), (norm, combine)
            assert found.exact
    ranks = [
        float(torch.linalg.matrix_norm(w).square() / torch.linalg.matrix_norm(w, 2).square())
        for w in weights
    ]
    assert value(of, combine="stable_rank") == pytest.approx(sum(ranks), rel=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 4, 3, stride=2, groups=2),
        nn.Conv2d(2, 2, 2, dilation=2, padding="same"),
    ],
    ids=["padded", "strided groups", "dilated"],
)
def test_of_a_convolution_it_is_the_norm_of_the_map(layer):
    size = layer(torch.zeros(1, 2, 6, 5)).numel()
    of = subject(layer, nn.ReLU(), nn.Flatten(), nn.Linear(size, 3), shape=(2, 6, 5))
    dense, last = matrix(of.model[0], 2, 6, 5), of.model[3].weight.detach()
    sizes = [float(torch.linalg.matrix_norm(m, 2)) for m in (dense, last)]
    found = sb.measure(of, "layer_norms", tolerance=1e-8)
    assert abs(found.value - 2 * sum(map(math.log, sizes))) <= found.error_bound + 1e-9
    assert found.error_bound < 1e-6
    rank = sum(
        float(torch.linalg.matrix_norm(m)) ** 2 / s**2
        for m, s in zip((dense, last), sizes, strict=True)
    )
    found = sb.measure(of, "layer_norms", combine="stable_rank", tolerance=1e-8)
    assert found.value == pytest.approx(rank, rel=1e-6)
    kernel = of.model[0].weight.detach().square().sum() + last.square().sum()
    assert value(of, norm="frobenius", combine="total") == pytest.approx(float(kernel), rel=1e-12)


def test_weights_used_twice_count_once_and_a_chart_changes_nothing():
    shared = nn.Linear(4, 4)
    of = subject(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 3))
    norms = [float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in (shared, of.model[4])]
    assert value(of) == pytest.approx(2 * sum(map(math.log, norms)), rel=1e-12)
    plain = subject(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    for name in ("weight_normalization", "neuron_permutation", "logit_shift"):
        after = plain.with_model(transformations.create(name).apply(plain.model, seed=0))
        assert value(after) == pytest.approx(value(plain), rel=1e-10), name


class Multiplied(nn.Module):
    """A weight that takes part by a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Generated(nn.Module):
    """Weights made from the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([nn.functional.linear(r, self.weight * r) for r in x])


def test_other_weights_are_refused_by_name():
    with pytest.raises(sb.MetricFailed, match=r"not every weight matrix is seen .*: 0\.weight"):
        value(subject(Multiplied(), nn.Linear(4, 3)))
    with pytest.raises(sb.MetricFailed, match="depend on the inputs"):
        value(subject(Generated(), nn.Linear(4, 3)))
