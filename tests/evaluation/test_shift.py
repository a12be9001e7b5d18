"""Corrupted and adversarial inputs: what each does to an image, and closed forms for linear networks."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpbench.evaluation.shift import (
    CORRUPTIONS,
    STRENGTHS,
    Attack,
    adversarial_error,
    corrupted,
    corrupted_errors,
    unsuitable,
)
from sharpbench.results.store import load_records
from sharpbench.seeds import numpy_generator
from sharpbench.subject import Splits
from tests.suite.test_run import run


def images(count=40, side=25):
    """A dot of brightness 1 in the middle of each image."""
    found = np.zeros((count, 1, side, side))
    found[:, :, side // 2, side // 2] = 1.0
    return found


def centroid(image):
    rows, columns = np.indices(image.shape)
    return np.array([(rows * image).sum(), (columns * image).sum()]) / image.sum()


def change(name, inputs, strength):
    return CORRUPTIONS[name](inputs, strength, numpy_generator(0))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_each_corruption_does_what_it_says(strength):
    dots, middle = images(), np.array([12.0, 12.0])
    for image in change("translation", dots, strength)[:, 0]:
        assert np.linalg.norm(centroid(image) - middle) == pytest.approx(strength, abs=0.05)
    blurred = change("blur", dots, strength)[0, 0]
    rows = np.indices(blurred.shape)[0]
    spread = np.sqrt(((rows - 12) ** 2 * blurred).sum())
    assert blurred.sum() == pytest.approx(1.0)
    assert spread == pytest.approx(0.5 * strength, abs=0.15)
    rng = numpy_generator(1)
    noisy = rng.normal(size=(200, 1, 8, 8))
    added = change("noise", noisy, strength) - noisy
    assert added.std() == pytest.approx((0.1, 0.2, 0.3, 0.45, 0.6)[strength - 1], rel=0.05)
    faint = change("contrast", noisy, strength)
    assert faint.mean((1, 2, 3)) == pytest.approx(noisy.mean((1, 2, 3)))
    assert np.std(faint[0]) / np.std(noisy[0]) == pytest.approx(
        (0.8, 0.65, 0.5, 0.35, 0.2)[strength - 1]
    )
    hidden = change("occlusion", noisy - noisy.min() + 1, strength) == 1
    side = (1, 2, 2, 2, 3)[strength - 1]
    assert set(hidden.sum((1, 2, 3))) <= {side**2, side**2 + 1}  # the least value itself besides


def test_images_and_points_are_rotated_to_both_sides():
    bar = np.zeros((40, 1, 25, 25))
    bar[:, :, 12, 16:] = 1.0
    turned = change("rotation", bar, 5)
    angles = [np.degrees(np.arctan2(*(centroid(i) - 12))) for i in turned[:, 0]]
    assert {round(a / 5) * 5 for a in angles} == {-30, 30}
    points = numpy_generator(0).normal(size=(50, 2))
    moved = change("rotation", points, 2)
    assert np.linalg.norm(moved, axis=1) == pytest.approx(np.linalg.norm(points, axis=1))
    cosines = (moved * points).sum(1) / np.square(points).sum(1)
    assert cosines == pytest.approx(np.cos(np.radians(12)))


def linear(count=300):
    """A linear network of two classes with its normal direction w, and the distances in logits."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    inputs, targets = torch.randn(count, 4).double(), torch.randint(2, (count,))
    splits = Splits(inputs[:2], targets[:2], inputs, targets, outputs=2)
    w = (model.weight[1] - model.weight[0]).detach()
    logits = model(inputs).detach()
    margin = (logits[:, 1] - logits[:, 0]) * (2 * targets - 1)
    return model, splits, w, margin


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_an_attack_on_a_linear_network_reaches_its_margin(norm, dual):
    """Within radius r the margin falls by r‖w‖ in the dual norm, and by no more."""
    model, splits, w, margin = linear()
    for radius in (0.05, 0.3):
        found = adversarial_error(model, splits, Attack(norm, radius, 10), seed=0)
        truth = float((margin <= radius * w.norm(p=dual)).double().mean())
        assert found.value == pytest.approx(truth)
        assert found.standard_error > 0
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_errors_under_corruption_are_means_over_strengths():
    model, splits, _, margin = linear()
    found = corrupted_errors(model, splits, ["noise", "blur"], seed=3)
    assert set(found) == {"corrupted_error", "corrupted_error_noise"}  # points can't be blurred
    errors = []
    for inputs in corrupted("noise", splits, seed=3):
        errors.append(float((model(inputs).argmax(1) != splits.test_targets).double().mean()))
    assert found["corrupted_error_noise"].value == pytest.approx(np.mean(errors))
    assert found["corrupted_error"] == found["corrupted_error_noise"]
    again = list(corrupted("noise", splits, seed=3))
    assert torch.equal(again[2], list(corrupted("noise", splits, seed=3))[2])
    assert (
        unsuitable("blur", (4,))
        == "blur is one of images (channels, height, width), and the inputs are (4,)"
    )
    assert float((margin < 0).double().mean()) < 1


SUITE = """
name = "shifted"
title = "Away from the test data"
seeds = 1
[[subjects]]
dataset = { name = "two_moons", n = 120 }
model = { name = "mlp", widths = [8] }
recipe = { name = "adam", epochs = 3, lr = 1e-2 }
[[metrics]]
name = "margin"
"""


def test_a_suite_gets_the_errors_that_it_asks_for(tmp_path):
    suite, results = tmp_path / "shifted.toml", tmp_path / "results"
    suite.write_text(SUITE)
    run(suite, results)
    suite.write_text(
        SUITE
        + '[evaluation]\ncorruptions = ["noise", "rotation", "blur"]\n'
        + "[evaluation.attack]\nradius = 0.2\nsteps = 5\n"
    )
    done, _ = run(suite, results)
    assert not any(o.trained or o.problems for o in done)
    rows = load_records(results, suite="shifted", kinds={"evaluation"}).set_index("name")
    error = rows.loc["test_error", "value"]
    assert rows.loc["adversarial_error", "value"] > error
    mean = (
        rows.loc["corrupted_error_noise", "value"] + rows.loc["corrupted_error_rotation", "value"]
    ) / 2
    assert rows.loc["corrupted_error", "value"] == pytest.approx(mean)
    assert rows.loc["corrupted_error_blur", "status"] == "unsupported"
    assert "images" in rows.loc["corrupted_error_blur", "reason"]
    again, _ = run(suite, results)
    assert not any(o.trained or o.measured or o.problems for o in again)
