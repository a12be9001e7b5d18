"""Registry of training recipes."""

from sharpbench.registry import Registry
from sharpbench.training.base import Recipe

__all__ = ["Recipe", "recipes"]

recipes: Registry[Recipe] = Registry(
    "recipe",
    Recipe,
    group="sharpbench.recipes",
    builtins={
        "sgd": "sharpbench.training.gradient:Sgd",
        "adam": "sharpbench.training.gradient:Adam",
        "crr": "sharpbench.training.crr:CurvatureRateRegularization",
        "sam": "sharpbench.training.sam:Sam",
    },
)
