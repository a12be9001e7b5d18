"""The speed of learning, of records that follow a known law; the kernel's eigenvalues, of its own matrix."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from sharpbench.analysis.audit import Evidence, Missing
from sharpbench.paper.claims import WAVE
from sharpbench.paper.evidence import SPECTRAL_BIAS
from sharpbench.paper.spectral_bias import (
    FarthestFromTheKernel,
    FirstWhereTheyDiffer,
    SlowerByRate,
    kernel_eigenvalue,
    learning_rates,
)
from sharpbench.problems import problems

GROUP = SPECTRAL_BIAS.where(recipe="sgd")
STEP = 0.5


def speed(mode, seed):
    """A third of the kernel's where mode 3 is out of reach, a tenth faster for each seed."""
    return (kernel_eigenvalue(mode) or 1e-4) * (1 + 0.1 * seed) / 3


def records(of_speed=speed, seeds=3, modes=range(7), steps=60):
    """As many steps that mode 1 has fallen to 1/e before the end and mode 6 has not."""
    common = {"kind": "training", "name": "train_loss", "status": "ok", "transformation": None,
              "recipe": "sgd", "recipe.lr": STEP, "label": "train_loss"}  # fmt: skip
    rows = [
        {**common, "subject": f"{mode}/{seed}", "seed": seed, "dataset.mode": float(mode),
         "epoch": epoch, "value": 3.0 * (1 - STEP * of_speed(mode, seed)) ** (2 * epoch - 2)}
        for mode in modes for seed in range(seeds) for epoch in range(1, steps + 2)
    ]  # fmt: skip
    trained = {r["subject"]: r for r in rows}.values()
    rows += [{**r, "kind": "measurement", "name": "m", "label": "m"} for r in trained]
    rows += [
        {**common, "kind": "problem", "subject": f"p{mode}", "seed": 0, "label": WAVE.label,
         "problem_label": "sine" if mode == 1 else f"sine(scale={mode})", "value": math.log(mode)}
        for mode in modes if mode
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**{"cost.shared_machine": None, "standard_error": None})


def test_the_eigenvalues_are_those_of_the_kernel():
    """Of a circulant matrix of so many points, by its own Fourier transform."""
    problem = problems.create("ntk_circle", {"points": 4096})
    kernel = problem.kernel_of_infinite_width(problem.subject(seed=0))
    found = torch.fft.rfft(kernel[0]).real / 4096
    assert [kernel_eigenvalue(k) for k in range(9)] == pytest.approx(found[:9].tolist(), abs=1e-7)
    assert kernel_eigenvalue(0) == pytest.approx(3 / math.pi**2)


def test_rates_come_back_from_the_losses():
    found = learning_rates(Evidence({"s": records()}), "s", GROUP)
    assert len(found) == 21
    expected = [speed(m, s) for m, s in zip(found["mode"], found["seed"], strict=True)]
    assert found["rate"].tolist() == pytest.approx(expected, rel=1e-9)
    rising = learning_rates(Evidence({"s": records(lambda m, s: -1e-3)}), "s", GROUP)
    assert (rising["rate"] < 0).all()
    with pytest.raises(Missing):
        learning_rates(Evidence({"s": records().query("kind != 'training'")}), "s", GROUP)


def test_the_mode_that_is_farthest_off_is_told():
    def law(mode, seed):
        return kernel_eigenvalue(mode) * (1 + 0.01 * (seed - 1) + (0.2 if mode == 4 else 0.05))

    found = FarthestFromTheKernel(GROUP)(Evidence({"s": records(law)}), "s")
    assert (found.value, found.n) == (pytest.approx(0.2), 3)
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))


def test_lower_rates_of_curvature_are_compared_where_the_kernel_has_it_the_other_way():
    found = FirstWhereTheyDiffer(GROUP, WAVE)(Evidence({"s": records()}), "s")
    pairs = [(3, 4), (3, 6), (5, 6)]  # 0 to 2 are ordered alike by both
    expected = [np.mean([speed(low, s) - speed(high, s) for low, high in pairs]) for s in range(3)]
    assert found.value == pytest.approx(np.mean(expected))
    assert found.high < 0
    with pytest.raises(Missing):
        FirstWhereTheyDiffer(GROUP, WAVE)(Evidence({"s": records(modes=range(3))}), "s")


def test_the_slope_of_speed_on_the_rate_of_curvature():
    """Speeds fall with the 2.5th power of the mode; one that has not been learned has no logarithm."""

    def law(mode, seed):
        return -1e-6 if (mode, seed) == (6, 0) else (0.1 + 0.01 * seed) * mode**-2.5

    found = SlowerByRate(GROUP, WAVE)(Evidence({"s": records(law, modes=range(1, 7))}), "s")
    assert found.value == pytest.approx(-2.5, abs=0.05)
    assert found.n == 17
    assert found.low <= -2.5 <= found.high
