import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed
from sharpbench.models import models
from sharpbench.seeds import torch_generator
from sharpbench.taylor.expansion import is_piecewise_linear
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch
from sharpbench.training.crr import CurvatureRateRegularization, _unit


def trained(splits, recipe="crr", seed=0, **parameters):
    model = models.create("mlp", {"widths": [16, 16]}).build(splits.input_shape, 2, seed=0)
    log = recipes.create(recipe, {"lr": 1e-2, "epochs": 6, **parameters}).train(
        model, splits, seed=seed
    )
    assert log.diverged is None
    return model


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize(("fresh", "dropout"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_the_penalty_is_the_mean_size_of_the_derivatives(moons, fresh, dropout, activation):
    """Against nested reverse mode, with the same directions and masks, in value and in gradient."""
    torch.manual_seed(0)
    hidden = [nn.Linear(2, 8), activation(), nn.Dropout(dropout)]
    model = nn.Sequential(*hidden, nn.Linear(8, 3)).double().train()
    x, y = moons.train_inputs[:20].double(), moons.train_targets[:20]
    orders = (3,) if dropout else (1, 3)
    parameters = {"orders": orders, "fresh_directions": fresh, "penalty_batch": 12}
    recipe = recipes.create("crr", {**parameters, "dropout": "live"})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ours = recipe.penalty(model, x, y)
        torch.manual_seed(5)
        directions = [_unit(x[:12]) for _ in range(3 if fresh else 1)]
        if fresh:
            is_piecewise_linear(model, x[:2])
            torch.manual_seed(int(torch.randint(2**62, ())))
        points = x[:12].clone().requires_grad_()
        d = F.cross_entropy(model(points), y[:12], reduction="none")
    sizes = []
    for n in range(1, max(orders) + 1):
        (gradient,) = torch.autograd.grad(d.sum(), points, create_graph=True)
        d = (gradient * directions[n - 1 if fresh else 0]).sum(1)
        sizes.append(d.abs().mean())
    judge = torch.stack([sizes[n - 1] for n in orders]).mean()
    assert ours.item() == pytest.approx(judge.item(), rel=1e-10)
    weights = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(ours, weights, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(judge, weights, allow_unused=True, materialize_grads=True),
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


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_pass_for_loss_and_penalty_gives_the_same_step(moons, dropout):
    """Loss and penalty by the shared pass are those of two separate passes, and so is the step.

    With dropout the penalty is that of evaluation mode, the loss that of a mask; batch normalisation
    behind it moves its statistics once, by the loss.
    """
    recipe = recipes.create("crr", {"orders": (1, 2, 3), "scale": 0.1, "penalty_batch": None})
    x, y = moons.train_inputs[:40].double(), moons.train_targets[:40]
    shared, separate = (network_with(dropout) for _ in range(2))
    loss = LossOfBatch(shared, F.cross_entropy, x, y, 0)
    assert recipe._parts(shared, loss) is not None
    with torch.random.fork_rng():
        torch.manual_seed(3)
        value = recipe.step(shared, recipe.optimizer(list(shared.parameters())), loss)
        torch.manual_seed(3)
        _unit(x)  # drawn before the mask
        judge = LossOfBatch(separate, F.cross_entropy, x, y, 0)()
        torch.manual_seed(3)
        total = judge + 0.1 * recipe.penalty(separate, x, y)
    assert value.item() == pytest.approx(judge.item(), rel=1e-12)
    assert value.item() == pytest.approx(F.cross_entropy(loss.outputs, y).item(), rel=1e-12)
    total.backward()
    for a, b in zip(shared.parameters(), separate.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    for a, b in zip(shared.buffers(), separate.buffers(), strict=True):
        assert torch.allclose(a, b)
    assert all(module.training for module in shared.modules())


def network_with(dropout):
    """One part that both modes share, then dropout, batch normalisation and work in place."""
    torch.manual_seed(0)
    rest = [nn.Dropout(dropout), nn.ReLU(inplace=True), nn.BatchNorm1d(8)] if dropout else []
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), *rest, nn.Linear(8, 2)).double()
    return network.train()


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({}, True),
        ({"penalty_batch": 10}, False),
        ({"directions": 2}, False),
        ({"fresh_directions": True}, False),
    ],
)
def test_only_the_same_points_and_direction_share_a_pass(moons, change, shared):
    recipe = recipes.create("crr", {"penalty_batch": None, **change})
    x, y = moons.train_inputs[:40].double(), moons.train_targets[:40]
    model = network_with(0.5)
    loss = LossOfBatch(model, F.cross_entropy, x, y, 0)
    assert (recipe._parts(model, loss) is not None) == shared


def test_what_is_shared_ends_before_the_first_part_that_looks_at_the_mode(moons):
    recipe = recipes.create("crr", {"penalty_batch": None})
    x, y = moons.train_inputs[:40].double(), moons.train_targets[:40]
    model = network_with(0.5)
    common, rest = recipe._parts(model, LossOfBatch(model, F.cross_entropy, x, y, 0))
    assert [len(common), len(rest)] == [2, 4]
    first = LossOfBatch(nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)), F.cross_entropy, x, y, 0)
    assert recipe._parts(first.model, first) is None


class DropsByFunction(nn.Module):
    def forward(self, x):
        return self.dropped(x)

    def dropped(self, x):
        return F.dropout(x, 0.5, self.training)


def test_a_module_of_ones_own_that_looks_at_the_mode_is_not_shared(moons):
    recipe = recipes.create("crr", {"penalty_batch": None})
    x, y = moons.train_inputs[:40], moons.train_targets[:40]
    model = nn.Sequential(nn.Linear(2, 8), DropsByFunction(), nn.Linear(8, 2))
    loss = LossOfBatch(model, F.cross_entropy, x, y, 0)
    common, rest = recipe._parts(model, loss)
    assert [len(common), len(rest)] == [1, 2]
    plain = nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.Dropout(0.0), nn.Linear(8, 2))
    common, rest = recipe._parts(plain, LossOfBatch(plain, F.cross_entropy, x, y, 0))
    assert common is plain
    assert len(rest) == 0


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


class _Scaled(torch.autograd.Function):
    """With a derivative of its own making; torch runs its forward pass without a graph."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.factors = x, scale
        return x * scale

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.factors
        return gradient * scale, (gradient * x).sum(0)


def test_the_first_step_refuses_gradients_that_taylor_mode_loses():
    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))
            self.first, self.second = nn.Linear(2, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.second(_Scaled.apply(self.first(x).tanh(), self.scale))

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, generator=generator)
    y = torch.arange(8) % 2
    with pytest.raises(MetricFailed, match="gradients"):
        CurvatureRateRegularization()._check(Scaling(), x[:2], y[:2])
    plain = nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 2)).train()
    before = torch.get_rng_state()
    CurvatureRateRegularization()._check(plain, x[:2], y[:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in plain.modules())


class _Checkpointed(nn.Module):
    def __init__(self, reentrant, dropout=0.0):
        super().__init__()
        self.first, self.head, self.reentrant = nn.Linear(4, 6), nn.Linear(6, 3), reentrant
        self.dropout = nn.Dropout(dropout)

    def hidden(self, x):
        return self.dropout(self.first(x).tanh())

    def forward(self, x):
        if self.reentrant is None:
            return self.head(self.hidden(x))
        return self.head(checkpoint(self.hidden, x, use_reentrant=self.reentrant))


def _stepped(build, steps=2, **parameters):
    """The weights after a few steps from the same start, on the same batch and random numbers."""
    generator = torch_generator(1)
    x, y = torch.randn(8, 4, generator=generator), torch.arange(8) % 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().train()
        recipe = recipes.create("crr", {"lr": 1e-2, "scale": 0.1, **parameters})
        optimizer = recipe.optimizer(list(model.parameters()))
        torch.manual_seed(3)
        for step in range(steps):
            recipe.step(model, optimizer, LossOfBatch(model, F.cross_entropy, x, y, step))
    return weights(model)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("points", [None, 5])
@pytest.mark.parametrize("dropout", ["live", "frozen"])
def test_a_checkpoint_changes_nothing(reentrant, points, dropout):
    parameters = {"penalty_batch": points, "dropout": dropout}
    plain = _stepped(lambda: _Checkpointed(None, 0.3), **parameters)
    assert torch.equal(_stepped(lambda: _Checkpointed(reentrant, 0.3), **parameters), plain)


def _small(change=lambda model: model):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return change(model)


def test_a_compiled_network_trains_as_the_plain_one():
    def compiled(model):
        return torch.compile(model, backend="eager")

    assert torch.allclose(_stepped(lambda: _small(compiled)), _stepped(_small), atol=1e-6)


def test_forward_hooks_are_part_of_the_network():
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x.tanh()

    def hooked(model):
        model[1].register_forward_hook(lambda module, inputs, output: output * 2)
        return model

    written = _stepped(lambda: nn.Sequential(nn.Linear(4, 6), Doubled(), nn.Linear(6, 3)))
    assert torch.equal(_stepped(lambda: _small(hooked)), written)


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_are_refused(kind):
    def hooked(model):
        getattr(model[1], kind)(lambda module, *gradients: None)
        return model

    with pytest.raises(MetricFailed, match="part 1 of the network has a backward hook"):
        _stepped(lambda: _small(hooked))
    changed = _stepped(lambda: _small(hooked), scale=0.0)  # plain Adam calls them
    assert torch.equal(changed, _stepped(_small, scale=0.0))


def test_hooks_on_intermediate_gradients_are_refused():
    def hooked(model):
        def hook(module, inputs, output):
            output.register_hook(lambda gradient: gradient / 2)

        model[1].register_forward_hook(hook)
        return model

    with pytest.raises(MetricFailed, match="hook on the gradient of an intermediate tensor"):
        _stepped(lambda: _small(hooked))
