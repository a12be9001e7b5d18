"""Penalties on first derivatives, each beside its definition and what it is for."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.utils.checkpoint import checkpoint

import sharpbench as sb
from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.subject import Splits
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch

PENALTIES = ("gradient_norm_penalty", "input_gradient_penalty", "jacobian_penalty")


def batch(points=12, classes=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(points, 3, generator=generator, dtype=torch.float64)
    return x, torch.arange(points) % classes


def network(activation=nn.Tanh, classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 6), activation(), nn.Linear(6, classes))
    return model.double().train()


def losses(model, weights, x, y):
    outputs = functional_call(model, weights, (x[None],))
    return F.cross_entropy(outputs, y[None])


def defined(name, model, weights, x, y, power):
    """The penalty by its definition, with torch.func."""
    if name == "gradient_norm_penalty":
        of = jacrev(lambda w: F.cross_entropy(functional_call(model, w, (x,)), y))(weights)
        return torch.cat([g.reshape(-1) for g in of.values()]).square().sum() ** (power / 2)
    if name == "input_gradient_penalty":
        of = vmap(jacrev(lambda a, b: losses(model, weights, a, b)))(x, y)
        return (of.square().sum(1) ** (power / 2)).mean()
    of = vmap(jacrev(lambda a: functional_call(model, weights, (a[None],))[0]))(x)
    return of.square().sum((1, 2)).mean()


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize(
    ("name", "parameters", "power"),
    [("gradient_norm_penalty", {}, 1), ("gradient_norm_penalty", {"power": 2}, 2),
     ("input_gradient_penalty", {}, 2), ("input_gradient_penalty", {"power": 1}, 1),
     ("jacobian_penalty", {"projections": "all"}, 2)],
)  # fmt: skip
def test_a_step_goes_down_the_loss_plus_the_penalty(name, parameters, power, activation):
    x, y = batch()
    model = network(activation)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    judge = copy.deepcopy(model)

    def total(weights):
        loss = F.cross_entropy(functional_call(judge, weights, (x,)), y)
        return loss + 0.3 * defined(name, judge, weights, x, y, power)

    wanted = torch.func.grad(total)(before)
    recipe = recipes.create(
        name, {"scale": 0.3, "base": "sgd", "base_parameters": {"momentum": 0.0}, "lr": 0.1, **parameters}
    )  # fmt: skip
    loss = LossOfBatch(model, F.cross_entropy, x, y, 0)
    value = recipe.step(model, recipe.optimizer(list(model.parameters())), loss)
    assert value.item() == pytest.approx(F.cross_entropy(judge(x), y).item(), rel=1e-12)
    assert torch.allclose(loss.outputs, judge(x).detach())
    for key, p in model.named_parameters():
        assert torch.allclose(p, before[key] - 0.1 * wanted[key], rtol=1e-9, atol=1e-12)


def test_the_gradient_norm_of_a_quadratic_by_hand():
    """½(w − y)² for one weight: the gradient of |w − y| is its sign, that of (w − y)² is 2(w − y)."""
    for power, slope in ((1, 1.0), (2, 6.0)):
        model = nn.Linear(1, 1, bias=False).double()
        model.weight.data.fill_(5.0)
        one = torch.ones(1, 1, dtype=torch.float64)
        splits = Splits(one, 2 * one, one, 2 * one, outputs=1, task="regression")
        recipes.create(
            "gradient_norm_penalty",
            {"scale": 0.5, "power": power, "base": "sgd", "base_parameters": {"momentum": 0.0},
             "lr": 0.1, "epochs": 1},
        ).train(model, splits, seed=0)  # fmt: skip
        assert model.weight.item() == pytest.approx(5 - 0.1 * (3 + 0.5 * slope))


def test_random_projections_have_the_jacobians_mean_and_their_own_stream():
    """χ-square about its mean: 4000 draws of C·‖vᵀJ‖² within four of their standard errors."""
    x, y = batch(points=1)
    model = network()

    def penalty(**changed):
        parameters = {"projections": changed.pop("projections", 1)}
        loss = LossOfBatch(model, F.cross_entropy, x, y, **{"step": 0, "seed": 0, **changed})
        return recipes.create("jacobian_penalty", parameters).loss_and_penalty(loss)[1].item()

    exact = penalty(projections="all")
    state = torch.get_rng_state()
    drawn = torch.tensor([penalty(step=step) for step in range(300)], dtype=torch.float64)
    many = penalty(projections=4000)
    error = drawn.std().item()
    assert abs(drawn.mean().item() - exact) < 4 * error / 300**0.5
    assert abs(many - exact) < 4 * error / 4000**0.5
    assert torch.equal(torch.get_rng_state(), state)
    assert penalty(step=3) == drawn[3].item()
    assert penalty(step=3, seed=1) != drawn[3].item()


@pytest.mark.parametrize("name", PENALTIES)
def test_scale_zero_is_the_base_recipe(moons, name):
    found = []
    for recipe, parameters in (("adam", {}), (name, {"scale": 0.0})):
        model = models.create("mlp", {"widths": [8]}).build(moons.input_shape, 2, seed=0)
        recipes.create(recipe, {"lr": 1e-2, "epochs": 2, **parameters}).train(model, moons, seed=0)
        found.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*found)


def _top_eigenvalue(model, data, name):
    subject = sb.Subject(model, data.train_inputs, data.train_targets)
    return sb.measure(subject, "hessian_top_eigenvalue", samples=512, tolerance=0.05).value


def _penalised(model, data, name):
    weights = {k: p.detach() for k, p in model.named_parameters()}
    return defined(
        name, model, weights, data.train_inputs[:200], data.train_targets[:200], 2
    ).item()


@pytest.mark.parametrize(
    ("name", "scale", "size", "share"),
    [("input_gradient_penalty", 0.3, _penalised, 0.6), ("jacobian_penalty", 0.01, _penalised, 0.4),
     ("gradient_norm_penalty", 0.3, _top_eigenvalue, 0.9)],
)  # fmt: skip
def test_a_penalty_makes_small_what_it_is_for(digits, name, scale, size, share):
    """On digits, at nearly the same test error; the gradient of ‖∇L‖ is H∇L/‖∇L‖: less curvature."""
    sizes, errors = [], []
    for strength in (0.0, scale):
        model = models.create("mlp", {"widths": [16]}).build(digits.input_shape, 10, seed=0)
        log = recipes.create(name, {"lr": 1e-2, "epochs": 12, "scale": strength}).train(
            model, digits, seed=0
        )
        sizes.append(size(model, digits, name))
        errors.append(log.epochs[-1]["test_error"])
    assert sizes[1] < share * sizes[0]
    assert abs(errors[1] - errors[0]) < 0.02


class _Hard(nn.Module):
    """Dropout, batch normalisation, work in place on the input itself, a checkpoint."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 4)

    def forward(self, x):
        hidden = self.norm(self.first(x.mul_(2)))
        return self.head(checkpoint(self.drop, hidden.relu_(), use_reentrant=True))


@pytest.mark.parametrize("name", PENALTIES)
def test_what_networks_are_made_of_is_no_obstacle(name):
    x, y = batch()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Hard().double().train()
    recipe = recipes.create(name, {"lr": 1e-2})
    optimizer = recipe.optimizer(list(model.parameters()))
    given = x.clone()
    with torch.random.fork_rng():
        for step in range(3):
            value = recipe.step(
                model, optimizer, LossOfBatch(model, F.cross_entropy, given, y, step)
            )
            assert torch.isfinite(value)
    assert int(model.norm.num_batches_tracked) == 3
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    if name != "gradient_norm_penalty":
        assert torch.equal(given, x)


def test_a_gradient_of_zero_has_no_direction_and_does_no_harm():
    """All weights zero: ∇ₓℓ = 0, where the norm has no derivative; the loss alone is followed."""
    x, y = batch()
    model = network()
    for p in model.parameters():
        p.data.zero_()
    recipe = recipes.create("input_gradient_penalty", {"power": 1, "lr": 1e-2})
    recipe.step(
        model,
        recipe.optimizer(list(model.parameters())),
        LossOfBatch(model, F.cross_entropy, x, y, 0),
    )
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [("jacobian_penalty", {"projections": 0}, "projections must be at least 1"),
     ("gradient_norm_penalty", {"power": 3}, "Input should be 1 or 2"),
     ("input_gradient_penalty", {"scale": -1}, "scale must not be negative"),
     ("jacobian_penalty", {"base": "crr"}, "has a 'step' of its own")],
)  # fmt: skip
def test_impossible_parameters_are_refused(name, parameters, told):
    with pytest.raises(InputError, match=told):
        recipes.create(name, parameters)
