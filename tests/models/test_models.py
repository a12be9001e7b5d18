import pytest
import torch

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS

SHAPES = {
    "mlp": (2,),
    "uniform_mlp": (2,),
    "cnn": (1, 8, 8),
    "nin": (1, 8, 8),
    "resnet": (3, 8, 8),
    "vit": (1, 8, 8),
    "wide_network": (2,),
    "graph_convolution": (2,),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_model_maps_inputs_to_logits(name, activation):
    model = models.create(name, {"activation": activation})
    network = model.build(SHAPES[name], 3, seed=0).eval()
    outputs = network(torch.randn(5, *SHAPES[name]))
    assert outputs.shape == (5, 3)
    assert torch.isfinite(outputs).all()


@pytest.mark.parametrize("name", SHAPES)
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (
        models.create(name).build(SHAPES[name], 3, seed=s).state_dict() for s in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_the_papers_network_has_its_parameters():
    # conv 1·32·9+32, conv 32·64·9+64, linear 9216·128+128, linear 128·10+10
    network = models.create("cnn").build((1, 28, 28), 10, seed=0)
    assert sum(p.numel() for p in network.parameters()) == 320 + 18_496 + 1_179_776 + 1_290


@pytest.mark.parametrize(
    ("name", "parameters", "shape", "message"),
    [
        ("cnn", {}, (2,), "takes images"),
        ("cnn", {}, (1, 4, 4), "at least 6×6"),
        ("vit", {"patch": 3}, (1, 8, 8), "does not divide"),
    ],
)
def test_unsuitable_inputs_are_refused(name, parameters, shape, message):
    with pytest.raises(InputError, match=message):
        models.create(name, parameters).build(shape, 2, seed=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", {"widths": [0]}),
        ("uniform_mlp", {"depth": 0}),
        ("nin", {"width": 0}),
        ("cnn", {"dropout": 1.0}),
        ("vit", {"width": 30, "heads": 4}),
        ("wide_network", {"width": 0, "zero_start": False}),
        ("wide_network", {"width": 7}),
    ],
)
def test_impossible_parameters_are_refused(name, parameters):
    with pytest.raises(InputError):
        models.create(name, parameters)


def test_torchs_own_initialization_can_be_kept():
    drawn = models.create("mlp", {"initialization": "torch"}).build((2,), 2, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = [torch.nn.Linear(2, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)]
    layers = [layer for layer in drawn if isinstance(layer, torch.nn.Linear)]
    for layer, own in zip(layers, expected, strict=True):
        assert torch.equal(layer.weight, own.weight)
        assert torch.equal(layer.bias, own.bias)
    scaled = models.create("mlp").build((2,), 2, seed=3)
    assert all(not layer.bias.any() for layer in scaled if isinstance(layer, torch.nn.Linear))


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
def test_a_wide_network_starts_at_zero_with_the_kernel_of_its_scaling(shape):
    """Without biases the kernel of infinite width is that of `ntk_circle`, of x/√d."""
    model = models.create("wide_network", {"width": 40_000, "bias": False})
    network = model.build(shape, 1, seed=2).double()
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(network(x).detach().abs().max()) < 1e-12
    rows = []
    for point in x:
        gradient = torch.autograd.grad(network(point[None]).sum(), tuple(network.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in gradient]))
    jacobian = torch.stack(rows)
    flat = x.flatten(1) / x[0].numel() ** 0.5
    lengths = flat.norm(dim=1)
    cosine = (flat @ flat.T / lengths[:, None] / lengths).clamp(-1, 1)
    angle = cosine.acos()
    expected = ((torch.pi - angle) * 2 * cosine + angle.sin()) / (2 * torch.pi)
    expected = expected * lengths[:, None] * lengths
    assert torch.allclose(jacobian @ jacobian.T, expected, rtol=0.05, atol=0.02)
    free = models.create("wide_network", {"zero_start": False}).build(shape, 1, seed=2).double()
    assert float(free(x).detach().abs().min()) > 1e-3


def test_a_linear_model_is_one_layer_that_starts_at_zero():
    network = models.create("linear").build((1, 2, 2), 3, seed=0)
    x = torch.randn(5, 1, 2, 2)
    assert not network(x).any()
    drawn = models.create("linear", {"zero_start": False, "bias": False}).build((4,), 3, seed=0)
    assert isinstance(drawn, torch.nn.Linear)
    assert drawn.bias is None
    assert float(drawn.weight.detach().abs().max()) <= 0.5
    assert drawn.weight.detach().std() > 0.1
