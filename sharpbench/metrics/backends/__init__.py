"""Other libraries' curvature, unpatched, behind one contract; they are imported when asked."""

from sharpbench.metrics.backends.base import Backend
from sharpbench.metrics.backends.curvlinops import Curvlinops
from sharpbench.metrics.backends.pyhessian import PyHessian

__all__ = ["BACKENDS", "Backend"]

BACKENDS: dict[str, type[Backend]] = {"pyhessian": PyHessian, "curvlinops": Curvlinops}
"""By the name that a metric's ``implementation`` gives them."""
