"""Registry of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpbench.registry import Registry, lazily

if TYPE_CHECKING:
    from sharpbench.datasets.base import Dataset

__all__ = ["Dataset", "datasets"]

__getattr__ = lazily(__name__, Dataset="sharpbench.datasets.base:Dataset")

datasets: Registry[Dataset] = Registry(
    "dataset",
    "sharpbench.datasets.base:Dataset",
    group="sharpbench.datasets",
    builtins={
        "characters": "sharpbench.datasets.characters:Characters",
        "circle": "sharpbench.datasets.circle:Circle",
        "power_law": "sharpbench.datasets.power_law:PowerLaw",
        "tabular": "sharpbench.datasets.tabular:Tabular",
        "two_moons": "sharpbench.datasets.two_moons:TwoMoons",
        "digits": "sharpbench.datasets.digits:Digits",
        "parity": "sharpbench.datasets.parity:Parity",
        "mnist": "sharpbench.datasets.mnist:Mnist",
        "fashion_mnist": "sharpbench.datasets.mnist:FashionMnist",
    },
)
