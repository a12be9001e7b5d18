import copy
import math

import pytest
import torch
from torch import nn

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.seeds import derive_seed, numpy_generator, torch_generator
from sharpbench.subject import Splits
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch


def network(splits, name="mlp", **parameters):
    return models.create(name, parameters).build(splits.input_shape, splits.outputs, seed=0)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def train(splits, recipe, model=None, seed=0, callbacks=(), **parameters):
    model = network(splits, widths=[16]) if model is None else model
    log = recipes.create(recipe, parameters).train(model, splits, seed=seed, callbacks=callbacks)
    return model, log


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [("sgd", {"lr": 0.1}), ("adam", {"lr": 1e-2}), ("sam", {"base": "adam", "lr": 1e-2}),
     ("crr", {"lr": 1e-2}), ("asam", {"base": "adam", "lr": 1e-2}),
     ("swa", {"lr": 0.1, "base_parameters": {"momentum": 0.9}}),
     ("ema", {"base": "adam", "lr": 1e-2, "decay": 0.9}),
     ("gradient_norm_penalty", {"lr": 1e-2}), ("input_gradient_penalty", {"lr": 1e-2}),
     ("jacobian_penalty", {"lr": 1e-2, "scale": 1e-3}),
     ("mixup", {"lr": 1e-2}), ("monge_sam", {"base": "adam", "lr": 1e-2}),
     ("sam", {"base": "sgd", "base_parameters": {"momentum": 0.5}, "adaptive": True, "rho": 0.1,
               "lr": 0.2})],
)  # fmt: skip
def test_each_recipe_learns_digits(digits, recipe, parameters):
    model, log = train(digits, recipe, epochs=8, **parameters)
    assert log.diverged is None
    assert [row["epoch"] for row in log.epochs] == list(range(1, 9))
    assert log.epochs[-1]["test_error"] < 0.08
    assert log.epochs[-1]["train_loss"] < log.epochs[0]["train_loss"]
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_training_depends_on_the_seed_alone(moons):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = train(moons, "adam", epochs=2, seed=3)
    torch.manual_seed(2)
    again, _ = train(moons, "adam", epochs=2, seed=3)
    other, _ = train(moons, "adam", epochs=2, seed=4)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_callbacks_cannot_disturb_training(digits):
    def build():
        return network(digits, "cnn", channels=(2, 2), hidden=8)  # dropout draws random masks

    plain, _ = train(digits, "adam", build(), epochs=2)
    seen = []

    def disturb(epoch, model):
        seen.append((epoch, model.training))
        torch.rand(1000)

    watched, _ = train(digits, "adam", build(), epochs=2, callbacks=[disturb])
    assert torch.equal(weights(plain), weights(watched))
    assert seen == [(1, False), (2, False)]


def test_a_callback_sees_the_network_of_its_epoch(moons):
    seen = {}
    _, log = train(
        moons, "adam", epochs=3, seed=5, callbacks=[lambda e, m: seen.update({e: weights(m)})]
    )
    assert list(seen) == [1, 2, 3]
    assert [row["epoch"] for row in log.epochs] == [1, 2, 3]
    for epoch, then in seen.items():
        alone, short = train(moons, "adam", epochs=epoch, seed=5)
        assert torch.equal(weights(alone), then)
        assert short.epochs[-1]["test_loss"] == log.epochs[epoch - 1]["test_loss"]


def test_sam_without_radius_is_its_base(moons):
    base, _ = train(moons, "adam", epochs=2, lr=1e-2)
    sam, _ = train(moons, "sam", base="adam", rho=0.0, epochs=2, lr=1e-2)
    assert torch.allclose(weights(base), weights(sam), atol=1e-7)


def size_for_asam(name, p):
    """|w| + 0.02 for weights, 1 for biases."""
    return p.detach().abs() + 0.02 if "weight" in name else torch.ones_like(p)


@pytest.mark.parametrize(
    ("recipe", "parameters", "size"),
    [("sam", {}, lambda name, p: torch.ones_like(p)),
     ("sam", {"adaptive": True}, lambda name, p: p.detach().abs()),
     ("asam", {"eta": 0.02}, size_for_asam)],
)  # fmt: skip
def test_a_sam_step_is_the_gradient_at_the_ascent_point(recipe, parameters, size):
    x, y = torch.randn(16, 3, dtype=torch.float64), torch.arange(16) % 2
    splits = Splits(x, y, x, y, outputs=2)
    model = nn.Linear(3, 2).double()
    expected = copy.deepcopy(model)
    loss = nn.functional.cross_entropy(expected(x), y)
    gradient = torch.autograd.grad(loss, list(expected.parameters()))
    scale = [size(name, p) for name, p in expected.named_parameters()]
    norm = math.sqrt(
        sum(float((s * g).square().sum()) for s, g in zip(scale, gradient, strict=True))
    )
    raised = copy.deepcopy(expected)
    for p, s, g in zip(raised.parameters(), scale, gradient, strict=True):
        p.data += 0.3 * s**2 * g / norm
    step = torch.autograd.grad(nn.functional.cross_entropy(raised(x), y), list(raised.parameters()))
    for p, g in zip(expected.parameters(), step, strict=True):
        p.data -= 0.1 * g
    train(splits, recipe, model, epochs=1, batch_size=16, lr=0.1, rho=0.3,
          base_parameters={"momentum": 0.0}, **parameters)  # fmt: skip
    assert torch.allclose(weights(model), weights(expected), atol=1e-10)


def test_the_ascent_of_monge_sam_is_as_long_on_the_surface():
    """δᵀ(I + ggᵀ)δ = ρ² and δ along g: seen in the step that the raised gradient takes."""
    x, y = 3 * torch.randn(16, 3, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64)
    splits = Splits(x, y, x, y, outputs=1, task="regression")
    model = nn.Linear(3, 1, bias=False).double()
    start = model.weight.detach().clone()
    curvature = x.T @ x / 16
    g = (x.T @ (x @ start.T - y) / 16).T
    train(splits, "monge_sam", model, epochs=1, batch_size=16, lr=0.01, rho=0.3,
          base_parameters={"momentum": 0.0})  # fmt: skip
    raised = (start - model.weight.detach()) / 0.01  # g + Hδ
    delta = torch.linalg.solve(curvature, (raised - g).T).T
    assert float(delta.square().sum() + (g * delta).sum() ** 2) == pytest.approx(0.09, rel=1e-6)
    assert torch.allclose(delta / delta.norm(), g / g.norm(), atol=1e-6)


def test_mixup_steps_on_mixed_points_and_losses():
    x, y = torch.randn(16, 3, dtype=torch.float64), torch.arange(16) % 2
    model = nn.Linear(3, 2).double()
    recipe = recipes.create(
        "mixup", {"base": "sgd", "base_parameters": {"momentum": 0.0}, "lr": 0.1, "alpha": 0.5}
    )
    shares = []
    for step in range(400):
        loss = LossOfBatch(model, nn.functional.cross_entropy, x, y, step, seed=3)
        expected = copy.deepcopy(model)
        value = recipe.step(model, recipe.optimizer(list(model.parameters())), loss)
        generator = torch_generator(derive_seed(3, "mixup", step))
        other = torch.randperm(16, generator=generator)
        share = numpy_generator(derive_seed(3, "mixup", step)).beta(0.5, 0.5)
        shares.append(share)
        if step > 2:
            continue
        outputs = expected(share * x + (1 - share) * x[other])
        target = share * torch.eye(2)[y] + (1 - share) * torch.eye(2)[y[other]]
        total = -(target * outputs.log_softmax(1)).sum(1).mean()  # of the mixed one-hot labels
        slopes = torch.autograd.grad(total, list(expected.parameters()))
        assert value.item() == pytest.approx(total.item())
        assert torch.allclose(loss.outputs, outputs)
        for p, before, g in zip(model.parameters(), expected.parameters(), slopes, strict=True):
            assert torch.allclose(p, before - 0.1 * g)
    found = torch.tensor(shares)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(found.var()) == pytest.approx(1 / 8, abs=0.02)  # of Beta(½, ½)


def test_mixup_of_nothing_is_its_base(moons):
    base, _ = train(moons, "adam", epochs=2, lr=1e-2)
    plain, _ = train(moons, "mixup", alpha=0.0, epochs=2, lr=1e-2)
    assert torch.equal(weights(base), weights(plain))


def test_the_ascent_of_asam_follows_a_rescaling_of_neurons():
    """A ReLU neuron's inputs × 4 and outputs ÷ 4: without eta and biases both steps give one function."""
    x, y = torch.randn(64, 3, dtype=torch.float64), torch.arange(64) % 2
    splits = Splits(x, y, x, y, outputs=2)
    build = nn.Sequential(nn.Linear(3, 5, False), nn.ReLU(), nn.Linear(5, 2, False)).double()
    ascents = {}
    for recipe, eta in (("asam", {"eta": 0.0}), ("sam", {})):
        heights = []
        for factor in (1.0, 4.0):
            model = copy.deepcopy(build)
            model[0].weight.data *= factor
            model[2].weight.data /= factor
            seen = []
            # the base's learning rate is too small to matter: what is seen is the pass at w + ε
            hook = model.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o.detach()))
            train(splits, recipe, model, epochs=1, batch_size=64, lr=1e-12, rho=0.5, **eta)
            hook.remove()
            heights.append(seen[1])
        ascents[recipe] = float((heights[0] - heights[1]).abs().max())
    assert ascents["asam"] < 1e-9
    assert ascents["sam"] > 1e-2


def test_sam_counts_batch_statistics_once(digits):
    model = network(digits, "resnet", widths=[4])
    train(digits, "sam", model, epochs=1, batch_size=128)
    counter = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).num_batches_tracked
    assert int(counter) == math.ceil(len(digits.train_inputs) / 128)


def test_divergence_is_noticed_and_told(moons):
    for rate, told in ((1e30, "training loss rose from"), (1e38, "training loss became")):
        _, log = train(moons, "sgd", lr=rate, epochs=5, momentum=0.99)
        assert log.stopped == "diverged"
        assert log.diverged.startswith(told)
        assert "in epoch" in log.diverged
        assert len(log.epochs) < 5


def test_a_network_without_a_finite_test_loss_has_diverged(moons):
    _, log = train(moons, "sgd", lr=1e38, epochs=1, batch_size=10**6)
    assert log.diverged == "test loss became inf in epoch 1 of 1"
    assert (log.stopped, log.epochs) == ("diverged", [])


def test_training_stops_at_the_loss_asked_for(moons):
    _, log = train(moons, "adam", epochs=50, stop_loss=0.3)
    assert log.stopped == "training loss reached 0.3"
    assert log.epochs[-1]["train_loss"] <= 0.3 < log.epochs[-2]["train_loss"]
    _, never = train(moons, "adam", epochs=1, stop_loss=1e-9)
    assert never.stopped == "training loss never reached 1e-09"


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]),
     ("cosine", [1, 0.8535534, 0.5, 0.1464466])],
)  # fmt: skip
def test_schedules(moons, schedule, rates):
    _, log = train(moons, "sgd", lr=0.01, epochs=4, schedule=schedule, batch_size=1000)
    assert [row["learning_rate"] / 0.01 for row in log.epochs] == pytest.approx(rates)


def test_weight_decay_and_label_smoothing_act(moons):
    plain, _ = train(moons, "adam", epochs=5)
    decayed, _ = train(moons, "adam", epochs=5, weight_decay=0.1, decoupled=True)
    smoothed, log = train(moons, "adam", epochs=5, label_smoothing=0.3)
    assert weights(decayed).norm() < weights(plain).norm()
    assert (
        log.epochs[-1]["train_loss"] > 0.4
    )  # the smoothed loss has the entropy of 0.85/0.15 as floor
    assert not torch.equal(weights(smoothed), weights(plain))


def test_regression_is_trained_with_squared_error():
    x = torch.randn(200, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    splits = Splits(x, y, x, y, outputs=1, task="regression")
    _, log = train(splits, "sgd", nn.Linear(3, 1), epochs=60, lr=0.1)
    assert log.epochs[-1]["test_loss"] < 1e-4
    assert "test_error" not in log.epochs[-1]


@pytest.mark.parametrize(
    ("recipe", "parameters", "message"),
    [
        ("sgd", {"lr": -1}, "lr must be positive"),
        ("adam", {"epochs": 0}, "epochs must be at least 1"),
        ("mixup", {"alpha": -0.1}, "alpha must not be negative"),
        ("sam", {"base": "adma"}, "Did you mean 'adam'"),
        ("sam", {"base": "sam"}, "has a 'step' of its own, which sam would leave out"),
        ("sam", {"base": "crr"}, "has a 'step' of its own, which sam would leave out"),
        ("crr", {"base": "sam"}, "has a 'step' of its own, which crr would leave out"),
        ("sam", {"base_parameters": {"epochs": 3, "lr": 1.0}}, "set epochs, lr on sam itself"),
        ("sam", {"base_parameters": {"momentun": 0.9}}, "Did you mean 'momentum'"),
    ],
)
def test_impossible_parameters_are_refused(recipe, parameters, message):
    with pytest.raises(InputError, match=message):
        recipes.create(recipe, parameters)


@pytest.mark.parametrize("hook", ["step", "train", "_loss", "_batches", "_schedule", "_epoch"])
def test_a_base_from_outside_that_trains_in_its_own_way_is_refused(hook):
    """Whatever it overrides but the optimizer would be left out in silence."""
    from dataclasses import dataclass

    from sharpbench.training.gradient import Adam

    def own(self, *args, **kwargs):
        raise AssertionError("never asked")

    kind = type("Own", (Adam,), {"__doc__": "Adam in its own way.", "name": "own_way", hook: own})
    recipes.register(dataclass(frozen=True, kw_only=True)(kind))
    try:
        with pytest.raises(InputError, match=f"has a '{hook}' of its own"):
            recipes.create("sam", {"base": "own_way"})
    finally:
        recipes.forget("own_way")


def test_training_stops_at_the_loss_of_the_network_itself(digits):
    """The running mean lags behind: dropout and the steps of the epoch are in it."""

    def one(**parameters):
        model = network(digits, "uniform_mlp", width=32, dropout=0.3)
        return train(digits, "adam", model, epochs=40, stop_loss=0.1, **parameters)

    model, log = one(stop_on="evaluated")
    loss = torch.nn.functional.cross_entropy(
        model(digits.train_inputs), digits.train_targets
    ).detach()
    assert log.stopped == "training loss reached 0.1"
    assert log.epochs[-1]["evaluated_train_loss"] == pytest.approx(float(loss))
    assert float(loss) <= 0.1 < log.epochs[-2]["evaluated_train_loss"]
    _, running = one()
    assert len(running.epochs) > len(log.epochs)
    _, never = train(digits, "sgd", lr=1e-3, epochs=1, stop_loss=1e-3, stop_on="evaluated")
    assert never.stopped == "training loss never reached 0.001"


def test_augmented_inputs_are_shifted_and_noisy():
    ramp = torch.arange(25.0).view(1, 1, 5, 5).repeat(200, 1, 1, 1)
    recipe = recipes.create("sgd", {"shift": 1})
    moved = recipe._augmented(ramp, torch.Generator().manual_seed(0))
    centres = set(moved[:, 0, 2, 2].int().tolist())
    assert centres == {12 + 5 * i + j for i in (-1, 0, 1) for j in (-1, 0, 1)}
    up = moved[moved[:, 0, 2, 2] == 7][0, 0]  # everything one row down, the first row repeated
    assert torch.equal(up[0], ramp[0, 0, 0])
    assert torch.equal(up[1:], ramp[0, 0, :4])
    noisy = recipes.create("sgd", {"input_noise": 0.5})._augmented(ramp, torch.Generator())
    assert float((noisy - ramp).std()) == pytest.approx(0.5, abs=0.02)
    splits = Splits(torch.randn(8, 2), torch.randint(2, (8,)), *[torch.zeros(0)] * 2, outputs=2)
    with pytest.raises(InputError, match="shift moves images"):
        train(splits, "sgd", shift=1, epochs=1)


def test_parameters_that_were_added_later_leave_keys_as_they_were():
    plain = recipes.create("sgd", {"stop_loss": 0.1})
    assert "stop_on" not in plain.identity()
    assert plain.unsaid() == {"stop_on": "running", "input_noise": 0.0, "shift": 0}
    changed = recipes.create("sgd", {"stop_loss": 0.1, "shift": 1})
    assert changed.identity()["shift"] == 1
    assert "shift" not in changed.unsaid()
    assert {**changed.identity(), **changed.unsaid()}["stop_on"] == "running"


def test_a_first_sample_without_a_loss_is_no_divergence():
    """Of a batch of one the first loss is 0 or nearly so by chance; one that blows up still is told."""
    x = torch.linspace(-1, 1, 64)[:, None].double()
    splits = Splits(x, 3 * x, x, 3 * x, outputs=1, task="regression")
    for seed in range(64):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.zeros_(model.weight)
        recipe = recipes.create("sgd", {"lr": 1e-3, "momentum": 0.0, "batch_size": 1, "epochs": 1})
        log = recipe.train(model, splits, seed=seed)
        assert log.diverged is None, seed
    wild = recipes.create("sgd", {"lr": 1e3, "momentum": 0.0, "batch_size": 1, "epochs": 1})
    assert wild.train(nn.Linear(1, 1).double(), splits, seed=0).stopped == "diverged"
