"""Registry of network builders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpbench.registry import Registry, lazily

if TYPE_CHECKING:
    from sharpbench.models.base import Model

__all__ = ["Model", "models"]

__getattr__ = lazily(__name__, Model="sharpbench.models.base:Model")

models: Registry[Model] = Registry(
    "model",
    "sharpbench.models.base:Model",
    group="sharpbench.models",
    builtins={
        "graph_convolution": "sharpbench.models.graph:GraphConvolution",
        "linear": "sharpbench.models.linear:Linear",
        "mlp": "sharpbench.models.mlp:MultiLayerPerceptron",
        "causal_transformer": "sharpbench.models.transformer:CausalTransformer",
        "cnn": "sharpbench.models.cnn:ConvolutionalNetwork",
        "resnet": "sharpbench.models.resnet:ResidualNetwork",
        "uniform_mlp": "sharpbench.models.uniform_mlp:UniformMultiLayerPerceptron",
        "nin": "sharpbench.models.nin:NetworkInNetwork",
        "wide_network": "sharpbench.models.wide:WideNetwork",
        "vit": "sharpbench.models.vit:VisionTransformer",
    },
)
