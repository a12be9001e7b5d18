"""Trace, Frobenius norm and top eigenvalue of every layer's own Hessian, from common products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sharpbench.curvature.hessian_operator import BlockDiagonalOperator, HessianOperator
from sharpbench.curvature.lanczos import extreme_eigenvalues_of_blocks
from sharpbench.curvature.parameters import named_subset
from sharpbench.curvature.trace import mean_and_standard_error
from sharpbench.errors import InputError

__all__ = ["Block", "curvature_by_block", "parameter_blocks"]


@dataclass(frozen=True)
class Block:
    """A layer's (or a block of layers') part of the Hessian on its own diagonal, H_bb.

    Standard errors are those of the random probes, 0 where none was needed; ``top_eigenvalue_bound`` says
    how far above the value the eigenvalue may lie.
    """

    block: str
    parameters: int
    trace: float
    trace_standard_error: float
    frobenius_norm: float
    frobenius_norm_standard_error: float
    top_eigenvalue: float
    top_eigenvalue_bound: float
    converged: bool


def parameter_blocks(
    model: nn.Module, blocks: int | Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[int]]:
    """Numbers of the trainable parameters of each block, by its name.

    ``blocks``: None for the layers, each module that has parameters of its own; a number for the parts whose
    names have so many steps (of ``"encoder.layer.0.attention"`` at 3: ``"encoder.layer.0"``); or names, of
    modules too, or patterns for each block. Raises InputError.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise InputError("the model has no parameter that requires gradients")
    if isinstance(blocks, Mapping):
        if faulty := [b for b, names in blocks.items() if not names or isinstance(names, str)]:
            raise InputError(
                f"the block {faulty[0]!r} must be a list of names or patterns of parameters, got "
                f"{blocks[faulty[0]]!r}: {{{faulty[0]!r}: ['head.*']}}"
            )
        if not blocks:
            raise InputError(
                "blocks name no block: {'head': ['head.*'], …}, a number or None for layers"
            )
        numbers = {id(p): i for i, (_, p) in enumerate(named)}
        found = {
            name: [numbers[id(p)] for p in named_subset(model, patterns)]
            for name, patterns in blocks.items()
        }
        every = [i for group in found.values() for i in group]
        if len(set(every)) < len(every):
            twice = next(named[i][0] for i in every if every.count(i) > 1)
            raise InputError(f"the parameter {twice!r} is in two blocks: put each into one")
        return found
    depth: object = blocks
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
        raise InputError(
            f"blocks must be a number from 1 or a mapping from names to lists of patterns, got {blocks!r}"
        )
    grouped: dict[str, list[int]] = {}
    for number, (name, _) in enumerate(named):
        path = name.split(".")[:-1] or [name]
        grouped.setdefault(".".join(path[:blocks]), []).append(number)
    return grouped


def curvature_by_block(
    hessian: HessianOperator,
    blocks: Mapping[str, Sequence[int]],
    *,
    probes: int,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
) -> list[Block]:
    """The curvature of each block with all other parameters held fixed.

    A product with the block-diagonal part serves all blocks at once: random signs for trace (vᵀH_bb v) and
    norm (‖H_bb v‖²), unit vectors, which are exact, for a block of at most ``probes`` unknowns; and a Lanczos
    iteration in each block, all in step, for the eigenvalue.

    Raises MetricFailed where the Hessian's product is wrong.
    """
    operator = BlockDiagonalOperator.of(hessian, list(blocks.values()))
    places = operator.places()
    draws = torch.zeros(operator.dimension, probes, dtype=torch.float64)
    for where in places:
        size = len(where)
        if size <= probes:
            draws[where.cpu(), torch.arange(size)] = 1.0
        else:
            signs = torch.randint(0, 2, (size, probes), generator=generator)
            draws[where.cpu()] = 2.0 * signs.double() - 1
    draws = draws.to(operator.device)
    images = torch.cat([operator.matmat(part).double() for part in draws.split(8, 1)], 1)
    eigenvalues = extreme_eigenvalues_of_blocks(
        operator,
        places,
        tolerance=tolerance,
        max_products=max_products,
        generator=generator,
    )
    found = []
    for name, where, eigenvalue in zip(blocks, places, eigenvalues, strict=True):
        traces = (draws[where] * images[where]).sum(0)
        squares = images[where].square().sum(0)
        if len(where) <= probes:
            trace, trace_error = float(traces.sum()), 0.0
            square, square_error = float(squares.sum()), 0.0
        else:
            trace, error = mean_and_standard_error(traces.tolist())
            square, other = mean_and_standard_error(squares.tolist())
            trace_error, square_error = error or math.inf, other or math.inf
        norm = math.sqrt(max(square, 0.0))
        found.append(
            Block(
                name,
                len(where),
                trace,
                trace_error,
                norm,
                square_error / (2 * norm) if norm else 0.0,
                eigenvalue.value,
                eigenvalue.error_bound,
                eigenvalue.converged,
            )
        )
    return found
