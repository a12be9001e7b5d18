"""A single measurement, and the curvature of every layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sharpbench.copies import unwrapped
from sharpbench.curvature.blocks import curvature_by_block, parameter_blocks
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.errors import InputError, MetricFailed
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics as registered
from sharpbench.metrics.base import Count, Dtype, Metric, measured_points, torch_dtype
from sharpbench.metrics.curvature import check_together
from sharpbench.running import as_written
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
    _check_subject(subject)
    if isinstance(metric, Metric):
        if parameters:
            raise TypeError("parameters go with a metric's name, not with an instance")
        chosen = metric
    else:
        _check_name(metric)
        if "parameters_of" in parameters:
            parameters["parameters_of"] = _names(subject.model, parameters["parameters_of"])
        chosen = registered.create(metric, parameters)
    return chosen.checked_measure(subject, seed=seed)


def _check_name(metric: Any) -> None:
    """Raises InputError for what is no name of a metric."""
    if isinstance(metric, type):
        raise InputError(f"the metric is the class {metric.__name__}: give an instance of it")
    if not isinstance(metric, str):
        raise InputError(
            f"a metric is one name, or an instance, got a {type(metric).__name__}: call measure for each"
        )


def by_layer(
    subject: Subject,
    metrics: str | Metric | Sequence[str | Metric] = (),
    *,
    blocks: int | Mapping[str, Sequence[Any]] | None = None,
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
    metrics: others that take ``parameters_of``, by name or as instances: each is measured of each layer by
        itself, with all else held fixed, in columns of its name (and ``…_standard_error``; where it has no
        answer ``…_reason`` says why). Of what is a sum over the parameters, as ``gauss_newton_trace``,
        ``gradient_noise`` and the squares of ``gradient_norm`` and ``parameter_norm``, the layers add up to
        the whole.
    blocks: None for layers, a number for the parts whose names have so many steps, or a mapping from a
        block's name to a list of names or patterns of its parameters, parts of the network and parameters
        themselves (`parameter_blocks`).
    probes: random signs for traces and norms, which are exact for a layer of so few parameters.
    tolerance, max_products: of the eigenvalues, as for ``hessian_top_eigenvalue``.
    samples: training samples drawn without replacement; the errors told are not those of drawing.
    picture: a file (.svg, .png, .pdf) in which the table is drawn, too.

    Raises
    ------
    InputError: blocks that overlap, or name nothing; a metric that isn't one of single parameters.
    MetricFailed: the Hessian can't be had; the message says why.
    """
    _check_subject(subject)
    if probes < 2:
        raise InputError(f"probes must be at least 2, got {probes}")
    import pandas as pd

    if picture is not None:
        from sharpbench.report.layers import check_picture, draw_layers

        check_picture(Path(picture))
    if isinstance(blocks, Mapping):
        blocks = {
            block: names
            if isinstance(names, str) or not names
            else _names(subject.model, names) or ["*"]
            for block, names in blocks.items()
        }
    asked = [
        _of_parameters(m) for m in ([metrics] if isinstance(metrics, (str, Metric)) else metrics)
    ]
    precision = torch_dtype(dtype)
    assert subject.loss is not None
    model = subject.working_model(precision)
    groups = parameter_blocks(model, blocks)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    named = {block: [names[i] for i in numbers] for block, numbers in groups.items()}
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
    for metric in asked:
        frame = frame.join(_of_each(metric, subject, named, seed))
    if picture is not None:
        draw_layers(frame, Path(picture))
    return frame


def _check_subject(subject: object) -> None:
    if not isinstance(subject, Subject):
        raise InputError(
            f"what is measured is a sharpbench.Subject, got a {type(subject).__name__}: "
            "sb.Subject(network, inputs, targets), or sb.Subject.from_batches(network, batches)"
        )


def _of_parameters(metric: str | Metric) -> Metric:
    """Raises InputError for a metric that is none of single parameters."""
    found = registered.create(metric) if isinstance(metric, str) else metric
    if "parameters_of" not in found.parameters():
        raise InputError(
            f"{found.name} is no metric of a layer: it takes no parameters_of (`sharpbench show metric "
            f"{found.name}`)"
        )
    return found


def _of_each(
    metric: Metric, subject: Subject, groups: Mapping[str, Sequence[str]], seed: int
) -> pd.DataFrame:
    """The figures of one metric, a row a block."""
    import pandas as pd

    rows: dict[str, dict[str, Any]] = {}
    for block, names in groups.items():
        own = dataclasses.replace(metric, parameters_of=tuple(names))  # type: ignore[call-arg]
        try:
            found = own.checked_measure(subject, seed=seed)
        except MetricFailed as reason:
            rows[block] = {metric.name: math.nan, f"{metric.name}_reason": str(reason)}
        else:
            error = found.standard_error
            told = {} if error is None else {f"{metric.name}_standard_error": error}
            rows[block] = {metric.name: found.value, **told}
    return pd.DataFrame.from_dict(rows, orient="index")


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
