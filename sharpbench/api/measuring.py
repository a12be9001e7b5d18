"""A single measurement, and the curvature of every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sharpbench.curvature.blocks import curvature_by_block, parameter_blocks
from sharpbench.curvature.loss_operators import HessianOperator
from sharpbench.errors import InputError
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Count, Dtype, Metric, measured_points, torch_dtype
from sharpbench.metrics.curvature import check_together
from sharpbench.network import as_written, unwrapped
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["by_layer", "measure"]


def measure(
    subject: Subject, metric: str | Metric, *, seed: int = 0, **parameters: Any
) -> Measurement:
    """Measure ``subject`` with a metric, named with its parameters or given as an instance.

    >>> measure(subject, "curvature_rate", orders=(1, 2, 3, 4), directions=2, seed=0)
    >>> measure(subject, "hessian_trace", parameters_of=[net.encoder, "head.weight"])

    ``parameters_of`` takes parts of the network and parameters themselves, too.

    Raises
    ------
    InputError: unknown metric or parameter; the message has the nearest valid names.
    MetricFailed: the metric has no answer for this subject; the message says why.
    """
    if isinstance(metric, Metric):
        if parameters:
            raise TypeError("parameters go with a metric's name, not with an instance")
        chosen = metric
    else:
        if "parameters_of" in parameters:
            parameters["parameters_of"] = _names(subject.model, parameters["parameters_of"])
        chosen = metrics.create(metric, parameters)
    return chosen.checked_measure(subject, seed=seed)


def by_layer(
    subject: Subject,
    *,
    blocks: int | Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    probes: int = 32,
    tolerance: float = 1e-2,
    max_products: int = 100,
    samples: Count = "all",
    dtype: Dtype = "float64",
    picture: str | Path | None = None,
) -> pd.DataFrame:
    """Trace, Frobenius norm and top eigenvalue of each layer's own Hessian, a row a layer.

    They are those of the diagonal blocks H_bb, the curvature in one layer's parameters with all others held
    fixed, from products that serve all layers at once.

    Parameters
    ----------
    blocks: None for layers, a number for the parts whose names have so many steps, or a mapping from a
        block's name to names or patterns of its parameters (`parameter_blocks`).
    probes: random signs for traces and norms, which are exact for a layer of so few parameters.
    tolerance, max_products: of the eigenvalues, as for ``hessian_top_eigenvalue``.
    samples: training samples drawn without replacement; the errors told are not those of drawing.
    picture: a file (.svg, .png, .pdf) in which the table is drawn, too.

    Raises
    ------
    InputError: blocks that overlap, or name nothing.
    MetricFailed: the Hessian can't be had; the message says why.
    """
    if probes < 2:
        raise InputError(f"probes must be at least 2, got {probes}")
    import pandas as pd

    precision = torch_dtype(dtype)
    assert subject.loss is not None
    model = subject.working_model(precision)
    groups = parameter_blocks(model, blocks)
    with as_written(), torch.enable_grad():
        hessian = HessianOperator(
            model,
            subject.loss,
            *measured_points(subject, "train", samples, precision, seed=seed),
            work=Work(),
        )
        check_together(subject, hessian, len(subject.data("train")[0]))
        rows = curvature_by_block(
            hessian,
            groups,
            probes=probes,
            tolerance=tolerance,
            max_products=max_products,
            generator=torch_generator(derive_seed(seed, "layers")),
        )
    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows]).set_index("block")
    if picture is not None:
        from sharpbench.report.layers import draw_layers

        draw_layers(frame, Path(picture))
    return frame


def _names(model: nn.Module, given: Any) -> list[str]:
    """Names of parts of a network and of parameters, where they are not given as names."""
    inner = unwrapped(model)
    known = {id(m): name for name, m in inner.named_modules()}
    known |= {id(p): name for name, p in inner.named_parameters()}
    each = given if isinstance(given, (list, tuple)) else [given]
    names = []
    for one in each:
        if isinstance(one, str):
            names.append(one)
        elif known.get(id(one)):
            names.append(known[id(one)])
        elif one is not inner and one is not model:
            raise InputError(
                f"parameters_of holds a {type(one).__name__} that is no part of the network"
            )
    return [] if any(one is inner or one is model for one in each) else names
