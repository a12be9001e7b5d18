"""Registry of datasets."""

from sharpbench.datasets.base import Dataset
from sharpbench.registry import Registry

__all__ = ["Dataset", "datasets"]

datasets: Registry[Dataset] = Registry(
    "dataset",
    Dataset,
    group="sharpbench.datasets",
    builtins={
        "two_moons": "sharpbench.datasets.two_moons:TwoMoons",
        "digits": "sharpbench.datasets.digits:Digits",
        "parity": "sharpbench.datasets.parity:Parity",
        "mnist": "sharpbench.datasets.mnist:Mnist",
        "fashion_mnist": "sharpbench.datasets.mnist:FashionMnist",
    },
)
