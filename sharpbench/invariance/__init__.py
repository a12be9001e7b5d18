"""Registry of transformations of a trained network."""

from sharpbench.invariance.base import Transformation
from sharpbench.registry import Registry

__all__ = ["Transformation", "transformations"]

transformations: Registry[Transformation] = Registry(
    "transformation",
    Transformation,
    group="sharpbench.transformations",
    builtins={
        "input_rescaling": "sharpbench.invariance.units:InputRescaling",
        "logit_temperature": "sharpbench.invariance.units:LogitTemperature",
        "neuron_permutation": "sharpbench.invariance.neurons:NeuronPermutation",
        "neuron_rescaling": "sharpbench.invariance.neurons:NeuronRescaling",
        "weight_noise": "sharpbench.invariance.controls:WeightNoise",
    },
)
