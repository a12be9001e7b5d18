"""Registry of training recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpbench.registry import Registry, lazily

if TYPE_CHECKING:
    from sharpbench.training.base import Recipe

__all__ = ["Recipe", "recipes"]

__getattr__ = lazily(__name__, Recipe="sharpbench.training.base:Recipe")

recipes: Registry[Recipe] = Registry(
    "recipe",
    "sharpbench.training.base:Recipe",
    group="sharpbench.recipes",
    builtins={
        "sgd": "sharpbench.training.gradient:Sgd",
        "adam": "sharpbench.training.gradient:Adam",
        "asam": "sharpbench.training.sam:Asam",
        "crr": "sharpbench.training.crr:CurvatureRateRegularization",
        "ema": "sharpbench.training.averaging:Ema",
        "gradient_norm_penalty": "sharpbench.training.penalties:GradientNormPenalty",
        "input_gradient_penalty": "sharpbench.training.penalties:InputGradientPenalty",
        "jacobian_penalty": "sharpbench.training.penalties:JacobianPenalty",
        "mixup": "sharpbench.training.mixup:Mixup",
        "monge_sam": "sharpbench.training.sam:MongeSam",
        "sam": "sharpbench.training.sam:Sam",
        "parity_solution": "sharpbench.training.parity:ParitySolution",
        "swa": "sharpbench.training.averaging:Swa",
    },
)
