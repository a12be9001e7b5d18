"""Registry of transformations of a trained network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpbench.registry import Registry, lazily

if TYPE_CHECKING:
    from sharpbench.invariance.base import Transformation

__all__ = ["Transformation", "transformations"]

__getattr__ = lazily(__name__, Transformation="sharpbench.invariance.base:Transformation")

transformations: Registry[Transformation] = Registry(
    "transformation",
    "sharpbench.invariance.base:Transformation",
    group="sharpbench.transformations",
    builtins={
        "attention_gl": "sharpbench.invariance.attention:AttentionGL",
        "attention_rescaling": "sharpbench.invariance.attention:AttentionRescaling",
        "channel_permutation": "sharpbench.invariance.neurons:ChannelPermutation",
        "composition": "sharpbench.invariance.composition:Composition",
        "further_training": "sharpbench.invariance.controls:FurtherTraining",
        "head_permutation": "sharpbench.invariance.attention:HeadPermutation",
        "identity_layer_insertion": "sharpbench.invariance.growth:IdentityLayerInsertion",
        "input_rescaling": "sharpbench.invariance.units:InputRescaling",
        "input_rotation": "sharpbench.invariance.units:InputRotation",
        "layer_rescaling": "sharpbench.invariance.neurons:LayerRescaling",
        "log_scale": "sharpbench.invariance.charts:LogScale",
        "logit_shift": "sharpbench.invariance.units:LogitShift",
        "logit_temperature": "sharpbench.invariance.units:LogitTemperature",
        "mesh_refinement": "sharpbench.invariance.mesh:MeshRefinement",
        "neuron_permutation": "sharpbench.invariance.neurons:NeuronPermutation",
        "neuron_rescaling": "sharpbench.invariance.neurons:NeuronRescaling",
        "neuron_splitting": "sharpbench.invariance.growth:NeuronSplitting",
        "normalization_folding": "sharpbench.invariance.normalization:NormalizationFolding",
        "normalization_rescaling": "sharpbench.invariance.normalization:NormalizationRescaling",
        "residual_permutation": "sharpbench.invariance.residual:ResidualPermutation",
        "sign_flip": "sharpbench.invariance.neurons:SignFlip",
        "weight_noise": "sharpbench.invariance.controls:WeightNoise",
        "weight_normalization": "sharpbench.invariance.charts:WeightNormalization",
    },
)
