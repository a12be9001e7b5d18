"""Registry of network builders."""

from sharpbench.models.base import Model
from sharpbench.registry import Registry

__all__ = ["Model", "models"]

models: Registry[Model] = Registry(
    "model",
    Model,
    group="sharpbench.models",
    builtins={
        "mlp": "sharpbench.models.mlp:MultiLayerPerceptron",
        "cnn": "sharpbench.models.cnn:ConvolutionalNetwork",
        "resnet": "sharpbench.models.resnet:ResidualNetwork",
        "uniform_mlp": "sharpbench.models.uniform_mlp:UniformMultiLayerPerceptron",
        "nin": "sharpbench.models.nin:NetworkInNetwork",
        "vit": "sharpbench.models.vit:VisionTransformer",
    },
)
