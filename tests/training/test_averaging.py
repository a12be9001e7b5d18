"""Networks that are averages of iterates."""

import pytest
import torch
from torch import nn

from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.training import recipes

COMMON = {"base": "sgd", "lr": 0.05, "batch_size": 128}


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def trained(splits, recipe, callbacks=(), model=None, **parameters):
    if model is None:
        model = models.create("mlp", {"widths": [8]}).build(splits.input_shape, 2, seed=0)
    log = recipes.create(recipe, parameters).train(model, splits, seed=3, callbacks=callbacks)
    return model, log


def iterates(splits, epochs):
    """The weights after each epoch of plain SGD."""
    seen = []
    trained(splits, "sgd", [lambda e, m: seen.append(weights(m))], lr=0.05, epochs=epochs)
    return torch.stack(seen)


def test_swa_is_the_mean_of_the_last_epochs(moons):
    seen = []
    model, log = trained(
        moons, "swa", [lambda e, m: seen.append(weights(m))], epochs=8, start=0.5, **COMMON
    )
    alone = iterates(moons, 8)
    assert torch.allclose(weights(model), alone[4:].mean(0), atol=1e-6)
    for epoch in range(1, 9):  # what is judged in between is the mean so far
        so_far = alone[epoch - 1] if epoch <= 4 else alone[4:epoch].mean(0)
        assert torch.allclose(seen[epoch - 1], so_far, atol=1e-6)
    loss = nn.functional.cross_entropy(model(moons.test_inputs), moons.test_targets)
    assert log.epochs[-1]["test_loss"] == pytest.approx(loss.item())


def test_ema_follows_every_update(moons):
    """Whole batches make an update an epoch: w̄ ← 0.7·w̄ + 0.3·w from the first on."""
    seen, alone = [], []
    batch = {**COMMON, "batch_size": 10_000}
    trained(moons, "ema", [lambda e, m: seen.append(weights(m))], epochs=5, decay=0.7, **batch)
    trained(
        moons, "sgd", [lambda e, m: alone.append(weights(m))], epochs=5, batch_size=10_000, lr=0.05
    )
    mean = alone[0]
    for ours, iterate in zip(seen, alone, strict=True):
        mean = 0.7 * mean + 0.3 * iterate
        assert torch.allclose(ours, mean, atol=1e-6)
    assert not torch.allclose(seen[-1], alone[-1], atol=1e-4)


def test_without_memory_the_network_is_the_last_iterate(moons):
    last = iterates(moons, 4)[-1]
    assert torch.equal(weights(trained(moons, "ema", epochs=4, decay=0.0, **COMMON)[0]), last)
    assert torch.equal(weights(trained(moons, "swa", epochs=4, start=0.76, **COMMON)[0]), last)


@pytest.mark.parametrize("recipe", ["swa", "ema"])
def test_statistics_are_those_of_the_averaged_network(digits, recipe):
    model = models.create("resnet", {"widths": [4]}).build(digits.input_shape, 10, seed=0)
    trained(digits, recipe, model=model, epochs=2, **COMMON)
    layer = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    met = []
    hook = layer.register_forward_pre_hook(lambda module, given: met.append(given[0]))
    with torch.no_grad():
        for batch in digits.train_inputs.split(128):
            model(batch)
    hook.remove()
    means = torch.stack([m.mean((0, 2, 3)) for m in met]).mean(0)
    assert torch.allclose(layer.running_mean, means, atol=1e-5)


def test_averaging_leaves_the_iterates_and_the_masks_as_they_are(digits):
    """The running training loss is that of the base recipe, dropout and batch normalisation included."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
            self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 10))

        def forward(self, x):
            return self.head(self.body(x))

    def losses(recipe, **parameters):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Both()
        return [
            row["train_loss"]
            for row in trained(digits, recipe, model=model, **parameters)[1].epochs
        ]

    plain = losses("sgd", epochs=3, lr=0.05)
    assert losses("ema", epochs=3, **COMMON) == plain
    assert losses("swa", epochs=3, start=0.0, **COMMON) == plain


def test_averages_are_flatter_and_no_worse(digits):
    """At a constant rate SGD bounces about: the mean of its iterates has the lower training loss."""

    def end(recipe, **parameters):
        model = models.create("mlp", {"widths": [16]}).build(digits.input_shape, 10, seed=0)
        log = trained(digits, recipe, model=model, epochs=8, batch_size=16, **parameters)[1]
        return log.epochs[-1]["evaluated_train_loss"], log.epochs[-1]["test_loss"]

    known = {"stop_loss": 1e-9, "stop_on": "evaluated", "lr": 0.1, "weight_decay": 1e-3}
    plain = end("sgd", **known)
    for recipe, own in (("swa", {"start": 0.5}), ("ema", {"decay": 0.99})):
        assert end(recipe, base="sgd", **own, **known) < plain


@pytest.mark.parametrize(
    ("recipe", "parameters"), [("swa", {"start": 1.0}), ("ema", {"decay": 1.0})]
)
def test_impossible_parameters_are_refused(recipe, parameters):
    with pytest.raises(InputError, match=r"must lie in \[0, 1\)"):
        recipes.create(recipe, parameters)
