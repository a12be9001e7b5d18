"""Subjects, suites and data shared by the tests."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpbench.datasets import datasets
from sharpbench.datasets.files import FILE_SETS, data_root, prepare
from sharpbench.errors import DataUnavailable
from sharpbench.models import models
from sharpbench.registry import Registry
from sharpbench.subject import Splits, Subject
from sharpbench.training import recipes
from tests.traces import Traces, forgotten

MINI_SUITE = """
name = "mini"
title = "A miniature"
seeds = [0, 1]

[[subjects]]
dataset = { name = "two_moons", n = 200, label_noise = [0.0, 0.2] }
model   = { name = "mlp", widths = [8], activation = ["tanh", "relu"] }
recipe  = [{ name = "adam", epochs = 3 }, { name = "sam", base = "adam", epochs = 3 }]

[[metrics]]
name = "curvature_rate"
samples = 32

[[metrics]]
name = "hessian_trace"
implementation = ["native", "pyhessian"]
max_probes = 10

[[transformations]]
name = "neuron_rescaling"

[[transformations]]
name = "weight_noise"

[trajectory]
metrics = [{ name = "curvature_rate", samples = 16 }]
every = 2

[cost]
repeats = 1
"""


torch.set_num_threads(1)  # small tensors are faster so, and sums keep their order


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that each worker calls otherwise would end a run of several, and only such a one."""
    if places := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"a place in memory is in the name of {places[0]}: give it an id")


@pytest.fixture(autouse=True)
def _apart():
    """A test finds its process as another one would: no test leaves a trace, or hangs on what was drawn."""
    with _without_trace("the test leaves"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _modules_apart():
    """Nor do the fixtures of a module."""
    with _without_trace("the module's fixtures leave"):
        yield


@contextmanager
def _without_trace(who: str) -> Iterator[None]:
    _seed_all()
    traces = Traces()
    with forgotten():
        yield
    left = list(traces.left())
    assert not left, f"{who} behind: {'; '.join(left)}"


def _seed_all() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


@pytest.fixture
def users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str]], Path]:
    """Makes the current folder one of a user's own, with these files: its modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return tmp_path

    return made


@pytest.fixture
def mini_suite(tmp_path: Path) -> Path:
    path = tmp_path / "mini.toml"
    path.write_text(MINI_SUITE)
    return path


@pytest.fixture(scope="session")
def digits() -> Splits:
    return datasets.create("digits").load(Path(), seed=0)


@pytest.fixture(scope="session")
def moons() -> Splits:
    return datasets.create("two_moons", {"n": 600}).load(Path(), seed=0)


def trained(splits: Splits, model: str, parameters: dict, epochs: int = 10) -> Subject:
    network = models.create(model, parameters).build(splits.input_shape, splits.outputs, seed=1)
    recipes.create("adam", {"epochs": epochs, "lr": 5e-3}).train(network, splits, seed=2)
    return Subject(network, splits.train_inputs, splits.train_targets, splits=splits)


@pytest.fixture(scope="session")
def trained_mlp(digits: Splits) -> Subject:
    return trained(digits, "mlp", {"widths": [32], "activation": "tanh"})


@pytest.fixture(scope="session")
def trained_cnn(digits: Splits) -> Subject:
    return trained(digits, "cnn", {"channels": [4, 8], "hidden": 16, "dropout": 0.0})


@pytest.fixture(scope="session")
def tiny(moons: Splits) -> Subject:
    """A trained network of 27 parameters with every dense derivative within reach."""
    return trained(moons, "mlp", {"widths": [5], "activation": "tanh"})


@pytest.fixture(scope="session", params=["mnist", "fashion_mnist"])
def real_images(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A data root that holds real MNIST or Fashion-MNIST; skipped, visibly, where none can be had."""
    name, root = request.param, data_root()
    if FILE_SETS[name].missing(root):
        try:
            list(prepare(name, root))
        except DataUnavailable as error:
            pytest.skip(str(error))
    return name, root


def shipped(registry: Registry[Any]) -> list[str]:
    """The names of what sharpbench registers itself: other tests of this process register theirs, too."""
    return [n for n in registry if registry.get(n).__module__.startswith("sharpbench.")]


@pytest.fixture
def disk(tmp_path):
    """Mounts a file system of so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)
