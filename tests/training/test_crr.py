import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch
from sharpbench.training.crr import _unit


def trained(splits, recipe="crr", seed=0, **parameters):
    model = models.create("mlp", {"widths": [16, 16]}).build(splits.input_shape, 2, seed=0)
    log = recipes.create(recipe, {"lr": 1e-2, "epochs": 6, **parameters}).train(
        model, splits, seed=seed
    )
    assert log.diverged is None
    return model


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("fresh", [False, True])
def test_the_penalty_is_the_mean_size_of_the_derivatives(moons, fresh):
    """Against nested reverse mode, with the same directions, in value and in gradient."""
    model = models.create("mlp", {"widths": [8]}).build((2,), 2, seed=0).double()
    x, y = moons.train_inputs[:20].double(), moons.train_targets[:20]
    orders = (1, 3)
    recipe = recipes.create(
        "crr", {"orders": orders, "fresh_directions": fresh, "penalty_batch": 12}
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ours = recipe.penalty(model, x, y)
        torch.manual_seed(5)
        directions = [_unit(x[:12]) for _ in orders]
    judge = torch.zeros((), dtype=torch.float64)
    for place, n in enumerate(orders):
        u = directions[place if fresh else 0]
        t = torch.zeros(12, 1, dtype=torch.float64, requires_grad=True)
        d = F.cross_entropy(model(x[:12] + t * u), y[:12], reduction="none")
        for _ in range(n):
            (d,) = torch.autograd.grad(d.sum(), t, create_graph=True)
        judge = judge + d.abs().mean() / len(orders)
    assert ours.item() == pytest.approx(judge.item(), rel=1e-10)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(ours, parameters, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(judge, parameters, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_scale_zero_is_the_base_recipe(moons):
    plain, zero = trained(moons, "adam"), trained(moons, scale=0.0)
    assert torch.equal(weights(plain), weights(zero))


def test_the_penalty_makes_the_derivatives_smaller(moons):
    judge = recipes.create("crr", {"penalty_batch": None})

    def size(model):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return judge.penalty(model, moons.test_inputs, moons.test_targets).item()

    assert size(trained(moons, scale=0.1)) < 0.7 * size(trained(moons, scale=0.0))


def test_a_target_rate_is_approached(moons):
    def rate(model):
        subject = sb.Subject(model, moons.train_inputs, moons.train_targets)
        return sb.measure(subject, "curvature_rate", samples=400, seed=0).value

    common = {"orders": (1, 2, 3, 4), "epochs": 15, "penalty_batch": None}
    low = rate(trained(moons, scale=1.0, target_rate=0.0, **common))
    free = rate(trained(moons, scale=0.0, **common))
    assert abs(low) < abs(free)


def test_one_pass_for_loss_and_penalty_gives_the_same_step(moons):
    """Without dropout the shared pass and the two separate ones are one function of the weights."""
    recipe = recipes.create("crr", {"orders": (1, 2, 3), "scale": 0.1, "penalty_batch": None})
    x, y = moons.train_inputs[:40].double(), moons.train_targets[:40]
    found = []
    for shared in (True, False):
        model = models.create("mlp", {"widths": [8]}).build((2,), 2, seed=0).double()
        if not shared:
            model.add_module("unused", nn.Dropout(0.0))
            model.add_module("norm", Idle())
        loss = LossOfBatch(model, F.cross_entropy, x, y, 0)
        assert recipe._one_pass_serves_both(model, loss) == shared
        with torch.random.fork_rng():
            torch.manual_seed(3)
            value = recipe.step(model, recipe.optimizer(list(model.parameters())), loss)
        assert value.item() == pytest.approx(F.cross_entropy(loss.outputs, y).item(), rel=1e-12)
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


class Idle(nn.Dropout):
    """Counts as dropout and drops nothing."""

    def __init__(self):
        super().__init__(0.5)

    def forward(self, x):
        return x


def test_every_so_many_steps_and_dropout(moons):
    assert not torch.equal(weights(trained(moons, every=3)), weights(trained(moons, every=1)))
    network = nn.Sequential(nn.Linear(2, 200), nn.Tanh(), nn.Dropout(0.5), nn.Linear(200, 2))
    network.train()
    x, y = moons.train_inputs[:32], moons.train_targets[:32]
    for dropout, same in (("frozen", True), ("live", False)):
        recipe = recipes.create("crr", {"dropout": dropout, "orders": (1, 2)})
        with torch.random.fork_rng():
            values = []
            for mask in (1, 2):
                torch.manual_seed(0)
                directions = torch.get_rng_state()
                torch.manual_seed(mask)
                if same:
                    torch.set_rng_state(directions)
                values.append(recipe.penalty(network, x, y).item())
        assert (values[0] == values[1]) == same
        assert network.training


@pytest.mark.parametrize(
    "parameters",
    [
        {"orders": ()},
        {"orders": (0, 1)},
        {"scale": -1.0},
        {"base": "sam"},
        {"base": "adamm"},
        {"penalty_batch": 0},
        {"every": 0},
        {"target_rate": 1.0, "orders": (2,)},
    ],
)
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(InputError):
        recipes.create("crr", parameters)
