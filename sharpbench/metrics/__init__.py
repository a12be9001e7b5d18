"""Registry of sharpness metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpbench.registry import Registry, lazily

if TYPE_CHECKING:
    from sharpbench.metrics.base import Metric

__all__ = ["Metric", "metrics"]

__getattr__ = lazily(__name__, Metric="sharpbench.metrics.base:Metric")

metrics: Registry[Metric] = Registry(
    "metric",
    "sharpbench.metrics.base:Metric",
    group="sharpbench.metrics",
    builtins={
        "attack_trajectory": "sharpbench.metrics.attack_trajectory:AttackTrajectory",
        "critical_sharpness": "sharpbench.metrics.critical_sharpness:CriticalSharpness",
        "curvature_rate": "sharpbench.metrics.curvature_rate:CurvatureRate",
        "distance_from_initialization": "sharpbench.metrics.norms:DistanceFromInitialization",
        "effective_dimension": "sharpbench.metrics.evidence:EffectiveDimension",
        "fisher_decrement": "sharpbench.metrics.fisher_decrement:FisherDecrement",
        "fisher_rao_norm": "sharpbench.metrics.gauss_newton:FisherRaoNorm",
        "gauss_newton_directions": (
            "sharpbench.metrics.gauss_newton_directions:GaussNewtonDirections"
        ),
        "gauss_newton_top_eigenvalue": "sharpbench.metrics.gauss_newton:GaussNewtonTopEigenvalue",
        "gauss_newton_trace": "sharpbench.metrics.gauss_newton:GaussNewtonTrace",
        "geodesic_sharpness": "sharpbench.metrics.geodesic:GeodesicSharpness",
        "gradient_noise": "sharpbench.metrics.gradient_noise:GradientNoise",
        "gradient_norm": "sharpbench.metrics.gradient_norm:GradientNorm",
        "hessian_frobenius_norm": "sharpbench.metrics.hessian:HessianFrobeniusNorm",
        "hessian_spectral_density": "sharpbench.metrics.hessian:HessianSpectralDensity",
        "hessian_spectrum_decay": "sharpbench.metrics.spectrum_decay:HessianSpectrumDecay",
        "hessian_top_eigenvalue": "sharpbench.metrics.hessian:HessianTopEigenvalue",
        "hessian_trace": "sharpbench.metrics.hessian:HessianTrace",
        "input_curvature": "sharpbench.metrics.input_space:InputCurvature",
        "input_gradient_change": "sharpbench.metrics.input_space:InputGradientChange",
        "input_jacobian_norm": "sharpbench.metrics.input_space:InputJacobianNorm",
        "inverse_margin": "sharpbench.metrics.outputs:InverseMargin",
        "laplace_evidence": "sharpbench.metrics.evidence:LaplaceEvidence",
        "layer_norms": "sharpbench.metrics.layer_norms:LayerNorms",
        "local_learning_coefficient": (
            "sharpbench.metrics.local_learning_coefficient:LocalLearningCoefficient"
        ),
        "logit_norm": "sharpbench.metrics.outputs:LogitNorm",
        "margin": "sharpbench.metrics.outputs:Margin",
        "mean_confidence": "sharpbench.metrics.outputs:MeanConfidence",
        "monge_sharpness": "sharpbench.metrics.monge:MongeSharpness",
        "ntk_alignment": "sharpbench.metrics.ntk:NtkAlignment",
        "ntk_drift": "sharpbench.metrics.ntk_drift:NtkDrift",
        "ntk_top_eigenvalue": "sharpbench.metrics.ntk:NtkTopEigenvalue",
        "pac_bayes_flatness": "sharpbench.metrics.pac_bayes:PacBayesFlatness",
        "parameter_count": "sharpbench.metrics.norms:ParameterCount",
        "parameter_norm": "sharpbench.metrics.norms:ParameterNorm",
        "path_norm": "sharpbench.metrics.path_norm:PathNorm",
        "random_number": "sharpbench.metrics.random_number:RandomNumber",
        "relative_flatness": "sharpbench.metrics.relative_flatness:RelativeFlatness",
        "representation_shift": "sharpbench.metrics.representation_shift:RepresentationShift",
        "sam_sharpness": "sharpbench.metrics.sam:SamSharpness",
    },
)
