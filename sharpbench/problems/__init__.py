"""Registry of problems whose answers are known in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpbench.registry import Registry, lazily

if TYPE_CHECKING:
    from sharpbench.problems.base import Problem

__all__ = ["Problem", "problems"]

__getattr__ = lazily(__name__, Problem="sharpbench.problems.base:Problem")

problems: Registry[Problem] = Registry(
    "problem",
    "sharpbench.problems.base:Problem",
    group="sharpbench.problems",
    builtins={
        "band_limited": "sharpbench.problems.fourier:BandLimited",
        "cubic_pole": "sharpbench.problems.single_index:CubicPole",
        "deep_linear": "sharpbench.problems.quadratic:DeepLinear",
        "deep_rank_regression": "sharpbench.problems.singular:DeepRankRegression",
        "diagonal_network": "sharpbench.problems.diagonal:DiagonalNetwork",
        "exponential": "sharpbench.problems.single_index:Exponential",
        "fourier_features": "sharpbench.problems.fourier:FourierFeatures",
        "gaussian": "sharpbench.problems.single_index:Gaussian",
        "gaussian_process": "sharpbench.problems.gaussian_process:GaussianProcess",
        "graph_circle": "sharpbench.problems.graph:GraphCircle",
        "hyperbolic_tangent": "sharpbench.problems.single_index:HyperbolicTangent",
        "laplacian_mode": "sharpbench.problems.laplacian:LaplacianMode",
        "least_squares": "sharpbench.problems.quadratic:LeastSquares",
        "monomial": "sharpbench.problems.singular:Monomial",
        "ntk_circle": "sharpbench.problems.tangent_kernel:NtkCircle",
        "one_neuron": "sharpbench.problems.neuron:OneNeuron",
        "power_pole": "sharpbench.problems.single_index:PowerPole",
        "quadratic": "sharpbench.problems.quadratic:Quadratic",
        "reduced_rank_regression": "sharpbench.problems.singular:ReducedRankRegression",
        "runge": "sharpbench.problems.single_index:Runge",
        "sine": "sharpbench.problems.single_index:Sine",
        "tiny_network": "sharpbench.problems.networks:TinyNetwork",
        "unequal_batches": "sharpbench.problems.networks:UnequalBatches",
        "unused_parameter": "sharpbench.problems.networks:UnusedParameter",
        "workload": "sharpbench.problems.workload:Workload",
        "softmax_regression": "sharpbench.problems.quadratic:SoftmaxRegression",
    },
)
