"""Registry of sharpness metrics."""

from sharpbench.metrics.base import Metric
from sharpbench.registry import Registry

__all__ = ["Metric", "metrics"]

metrics: Registry[Metric] = Registry(
    "metric",
    Metric,
    group="sharpbench.metrics",
    builtins={
        "curvature_rate": "sharpbench.metrics.curvature_rate:CurvatureRate",
        "hessian_top_eigenvalue": "sharpbench.metrics.hessian:HessianTopEigenvalue",
        "hessian_trace": "sharpbench.metrics.hessian:HessianTrace",
        "sam_sharpness": "sharpbench.metrics.sam:SamSharpness",
    },
)
