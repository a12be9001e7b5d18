"""``sharpbench measure``."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sharpbench.cli.console import err, escape, out
from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import DataOption, DeviceOption
from sharpbench.errors import InputError

__all__ = ["measure"]


def measure(
    model: Annotated[
        str,
        typer.Option(
            help="package.module:build, a function of no arguments that returns a network."
        ),
    ],
    dataset: Annotated[str, typer.Option(help="Dataset on which to measure, e.g. digits.")],
    metric: Annotated[list[str], typer.Option(help="Metric; may stand several times.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help=".safetensors, or a state dict that torch.load(weights_only=True) reads."
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of the metric, VALUE as in TOML; may stand several times."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    data_dir: DataOption = None,
) -> None:
    """Measure your own network.

    [bold]Example[/bold]

      sharpbench measure --model my_package.nets:build --weights net.safetensors --dataset digits
      --metric curvature_rate --param orders=[1,2,3]
    """
    from sharpbench.datasets.files import data_root
    from sharpbench.device import check_device
    from sharpbench.metrics import metrics
    from sharpbench.report.format import figure
    from sharpbench.suite.own import answers, own_subject

    check_device(device)
    parameters = _parse_parameters(param or [])
    chosen = [metrics.create(name, parameters) for name in metric]
    subject = own_subject(
        model, weights, dataset, seed=seed, device=device, data=data_dir or data_root()
    )
    failed, notes = False, []
    table = Table("metric", "value ± standard error", "converged", "samples", "gradients")
    for one, m in answers(subject, chosen, seed=seed):
        if isinstance(m, str):
            failed = True
            err.print(f"[yellow]failed:[/] {escape(f'{one.label}: {m}')}", soft_wrap=True)
            continue
        if as_json:
            print(json.dumps({"metric": one.label, **dataclasses.asdict(m)}))
        notes += [f"{one.label}: {note}" for note in one.notes(m.details)]
        told = figure(m.value, m.standard_error, m.errors, m.error_bound, m.converged, digits=6)
        table.add_row(
            one.label, escape(told), "yes" if m.converged else "[red]no[/]",
            str(m.samples), f"{m.work.gradient_equivalents(m.samples):.1f}",
        )  # fmt: skip
    if not as_json and table.row_count:
        out.print(table)
        for note in notes:
            err.print(escape(note), soft_wrap=True)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _parse_parameters(pairs: list[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise InputError(f"--param {pair!r} must be KEY=VALUE")
        try:
            parsed[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed[key.strip()] = value
    return parsed
