import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sharpbench.datasets import characters, datasets
from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.training import recipes


def test_two_moons_follow_the_papers_protocol():
    splits = datasets.create("two_moons").load(Path(), seed=0)
    assert splits.train_inputs.shape == (2100, 2)
    assert splits.test_inputs.shape == (900, 2)
    assert torch.allclose(splits.train_inputs.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(splits.train_inputs.std(0, unbiased=False), torch.ones(2), atol=1e-6)
    assert splits.train_targets.bincount().tolist() == [1050, 1050]


def test_digits_are_the_real_ones():
    splits = datasets.create("digits").load(Path(), seed=3)
    pixels = torch.cat([splits.train_inputs, splits.test_inputs]) * 0.3760 + 0.3053
    real = np.sort(load_digits().data.sum(1))
    ours = np.sort((pixels * 16).flatten(1).sum(1).numpy())
    assert np.allclose(real, ours, atol=1e-3)


@pytest.mark.parametrize(
    ("table", "shape", "classes"),
    [("breast_cancer", (569, 30), [212, 357]), ("wine", (178, 13), [59, 71, 48]),
     ("iris", (150, 4), [50, 50, 50])],
)  # fmt: skip
def test_tables_are_the_real_ones(table, shape, classes):
    splits = datasets.create("tabular", {"table": table}).load(Path(), seed=0)
    inputs = torch.cat([splits.train_inputs, splits.test_inputs])
    assert inputs.shape == shape
    assert torch.allclose(inputs.mean(0), torch.zeros(shape[1]), atol=1e-5)
    assert torch.allclose(inputs.std(0, unbiased=False), torch.ones(shape[1]), atol=1e-5)
    assert torch.cat([splits.train_targets, splits.test_targets]).bincount().tolist() == classes
    assert len(splits.test_inputs) == math.ceil(0.3 * shape[0])


def test_diabetes_is_the_regression_of_efron_and_others():
    """Least squares of all ten columns explains 51.8% of the variance, as in their paper."""
    splits = datasets.create("tabular", {"table": "diabetes"}).load(Path(), seed=0)
    assert splits.task == "regression"
    x = torch.cat([splits.train_inputs, splits.test_inputs]).double()
    y = torch.cat([splits.train_targets, splits.test_targets]).double()
    residuals = y - x @ torch.linalg.lstsq(x, y).solution
    assert float(1 - residuals.square().sum() / y.square().sum()) == pytest.approx(0.518, abs=5e-4)


def test_characters_follow_the_text():
    """Each window is of the text, with the character that follows it; none is in both splits' parts."""
    letters = " abcdefghijklmnopqrstuvwxyz"
    made = datasets.create("characters", {"train_size": 300, "test_size": 100})
    splits = made.load(Path(), seed=0)
    assert splits.train_inputs.shape == (300, 8, 27)
    assert splits.train_inputs.sum(2).eq(1).all()
    text = characters._text()
    border = len(text) * 4 // 5

    def windows(inputs, targets):
        for row, last in zip(inputs.argmax(2), targets, strict=True):
            yield "".join(letters[i] for i in (*row.tolist(), int(last)))

    assert all(w in text[:border] for w in windows(splits.train_inputs, splits.train_targets))
    assert all(w in text[border:] for w in windows(splits.test_inputs, splits.test_targets))
    assert "the" in text[:200]
    splits = datasets.create("characters").load(Path(), seed=0)
    model = models.create("mlp", {"widths": [64]}).build(splits.input_shape, splits.outputs, seed=0)
    log = recipes.create("adam", {"epochs": 10, "lr": 3e-3}).train(model, splits, seed=0)
    assert log.epochs[-1]["test_error"] < 0.75
    assert log.epochs[-1]["train_error"] < 0.65 < log.epochs[0]["train_error"]


def test_a_python_without_the_text_says_so(monkeypatch):
    monkeypatch.setattr(characters, "_text", lambda: "")
    made = datasets.create("characters")
    assert "pydoc_data" in made.missing(Path())
    with pytest.raises(InputError, match="lacks its module"):
        made.load(Path(), seed=0)


@pytest.mark.parametrize("name", ["two_moons", "digits", "tabular", "characters"])
def test_data_depend_on_the_seed_alone(name):
    first, again, other = (datasets.create(name).load(Path(), seed=s) for s in (1, 1, 2))
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert not torch.equal(first.train_inputs, other.train_inputs)


@pytest.mark.parametrize("where", ["train", "all"])
def test_label_noise_flips_exactly_that_share_and_keeps_the_points(where):
    clean = datasets.create("digits").load(Path(), seed=0)
    noisy = datasets.create("digits", {"label_noise": 0.3, "noisy_split": where}).load(
        Path(), seed=0
    )
    assert torch.equal(clean.train_inputs, noisy.train_inputs)
    flipped = (clean.train_targets != noisy.train_targets).sum().item()
    assert flipped == round(0.3 * len(clean.train_targets))
    in_test = (clean.test_targets != noisy.test_targets).sum().item()
    assert in_test == (round(0.3 * len(clean.test_targets)) if where == "all" else 0)
    changed = noisy.train_targets[clean.train_targets != noisy.train_targets]
    assert changed.bincount(minlength=10).min() > 0  # every class receives some


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("two_moons", {"label_noise": 1.5}),
        ("two_moons", {"noise": -1}),
        ("mnist", {"train_size": 60_001}),
        ("digits", {"noisy_split": "test"}),
        ("tabular", {"table": "diabetes", "label_noise": 0.1}),
        ("tabular", {"table": "boston"}),
        ("characters", {"context": 0}),
    ],
)
def test_impossible_parameters_are_refused(name, parameters):
    with pytest.raises(InputError):
        datasets.create(name, parameters)


def test_real_images_have_the_published_counts_and_moments(real_images):
    name, root = real_images
    splits = datasets.create(name).load(root, seed=0)
    assert splits.train_inputs.shape == (60_000, 1, 28, 28)
    assert splits.test_inputs.shape == (10_000, 1, 28, 28)
    assert abs(splits.train_inputs.mean().item()) < 1e-3
    assert abs(splits.train_inputs.std().item() - 1) < 1e-3
    published = {
        "mnist": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        "fashion_mnist": [1000] * 10,
    }
    assert splits.test_targets.bincount().tolist() == published[name]


def test_a_subset_of_real_images_is_stratified_and_seeded(real_images):
    name, root = real_images
    dataset = datasets.create(name, {"train_size": 500, "test_size": 100})
    first, again, other = (dataset.load(root, seed=s) for s in (0, 0, 1))
    assert first.train_inputs.shape == (500, 1, 28, 28)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert not torch.equal(first.train_inputs, other.train_inputs)
    share = datasets.create(name).load(root, seed=0).train_targets.bincount() / 60_000
    assert (first.train_targets.bincount() / 500 - share).abs().max() < 0.004


def test_a_part_of_the_digits_leaves_the_test_images_as_they_are():
    whole = datasets.create("digits").load(Path(), seed=3)
    part = datasets.create("digits", {"train_size": 300}).load(Path(), seed=3)
    assert torch.equal(whole.test_inputs, part.test_inputs)
    assert len(part.train_inputs) == 300
    counts = torch.bincount(part.train_targets)
    assert counts.min() >= 28  # class shares are kept
    rows = {tuple(x.flatten().tolist()) for x in whole.train_inputs}
    assert all(tuple(x.flatten().tolist()) in rows for x in part.train_inputs)


def test_the_circle_has_one_mode():
    """By its own Fourier transform, at both splits; both coordinates have the mean square 1."""
    for mode in (0, 1, 5, 31):
        splits = datasets.create("circle", {"mode": mode}).load(Path(), seed=mode)
        assert splits.task == "regression"
        for inputs, targets in (
            (splits.train_inputs, splits.train_targets),
            (splits.test_inputs, splits.test_targets),
        ):
            assert torch.allclose(inputs.square().mean(0), torch.ones(2), atol=1e-6)
            power = torch.fft.rfft(targets[:, 0].double()).abs().square()
            assert int(power.argmax()) == mode
            assert float(power[mode] / power.sum()) == pytest.approx(1, abs=1e-6)
            assert float(targets.square().mean()) == pytest.approx(1, abs=1e-5)
    fainter = datasets.create("circle", {"mode": 31, "amplitude": 0.1}).load(Path(), seed=0)
    assert torch.allclose(fainter.train_targets, 0.1 * splits.train_targets, atol=1e-7)


@pytest.mark.parametrize(
    "parameters",
    [
        {"mode": 32},
        {"amplitude": 0.0},
        {"amplitude": float("nan")},
        {"mode": -1},
        {"points": 1, "mode": 0},
        {"label_noise": 0.1},
        {"mode": 1.5},
    ],
)
def test_no_mode_that_looks_like_another_is_made(parameters):
    with pytest.raises(InputError):
        datasets.create("circle", parameters)


def test_power_law_features_have_its_covariance_and_linear_targets():
    given = {"dimension": 8, "decay": 1.5, "smoothness": 2.5}
    splits = datasets.create("power_law", {**given, "train": 20_000, "test": 50}).load(
        Path(), seed=4
    )
    x, y = splits.train_inputs.double(), splits.train_targets.double()
    j = torch.arange(1, 9, dtype=torch.float64)
    covariance = x.T @ x / len(x)
    assert torch.allclose(covariance, torch.diag(j**-1.5), atol=0.03)
    found = torch.linalg.lstsq(x, y).solution[:, 0]
    assert torch.allclose(found, j**-1.25, atol=1e-5)
    fewer = datasets.create("power_law", {**given, "train": 30, "test": 50}).load(Path(), seed=4)
    assert torch.equal(fewer.train_inputs, splits.train_inputs[:30])
    assert torch.equal(fewer.test_inputs, splits.test_inputs)
    other = datasets.create("power_law", {**given, "train": 30}).load(Path(), seed=5)
    assert not torch.equal(fewer.train_inputs, other.train_inputs)


@pytest.mark.parametrize(
    "parameters",
    [{"decay": 1.0}, {"smoothness": 0.5}, {"dimension": 0}, {"train": 0}, {"label_noise": 0.1},
     {"decay": float("nan")}, {"smoothness": float("inf")}],
)  # fmt: skip
def test_no_law_without_a_bound_is_made(parameters):
    with pytest.raises(InputError):
        datasets.create("power_law", parameters)


def test_one_pass_over_a_power_law_has_the_risk_that_theory_expects():
    """E (θ − θ*)² after each sample, of normal features, by its own recursion; 8 seeds of 500 samples."""
    step, seeds, given = 0.3, 8, {"dimension": 64, "smoothness": 1.5, "test": 2000}
    j = torch.arange(1, 65, dtype=torch.float64)
    scales, risks = j**-2, {}
    apart = j**-1.5
    for n in range(1, 501):
        apart = apart * (1 - 2 * step * scales + 2 * step**2 * scales**2) + step**2 * scales * (
            scales @ apart
        )
        risks[n] = 0.5 * float(scales @ apart)
    recipe = recipes.create("sgd", {"lr": step, "momentum": 0.0, "batch_size": 1, "epochs": 1})
    found = {n: [] for n in (50, 500)}
    for n, told in found.items():
        for seed in range(seeds):
            data = datasets.create("power_law", {**given, "train": n}).load(Path(), seed=seed)
            network = models.create("linear", {"bias": False}).build((64,), 1, seed=seed)
            log = recipe.train(network, data, seed=seed)
            told.append(log.epochs[-1]["test_loss"])
    logs = {n: np.log(told) for n, told in found.items()}
    for n, told in logs.items():
        error = told.std(ddof=1) / math.sqrt(seeds)
        assert abs(told.mean() - math.log(risks[n])) < 4 * error + 0.1
    slope = (logs[500].mean() - logs[50].mean()) / math.log(10)
    assert slope == pytest.approx(-1.25, abs=0.15)
