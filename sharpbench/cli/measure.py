"""``sharpbench measure``."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharpbench.cli.console import err, escape
from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import DataOption, DeviceOption
from sharpbench.errors import InputError, first_line, shortened

if TYPE_CHECKING:
    from sharpbench.measurement import Measurement
    from sharpbench.metrics import Metric

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
    from sharpbench.suite.own import answers, own_subject

    check_device(device)
    parameters = _parse_parameters(param or [])
    chosen = [metrics.create(name, parameters) for name in metric]
    subject = own_subject(
        model, weights, dataset, seed=seed, device=device, data=data_dir or data_root()
    )
    failed, shown = False, False
    names = [one.label for one in chosen]
    for one, m in answers(subject, chosen, seed=seed):
        try:
            lines = (
                m if isinstance(m, str) else _lines(one, m, names, as_json=as_json, head=not shown)
            )
            notes = [] if isinstance(m, str) else [*one.notes(m.details)]
        except Exception as error:  # an answer that can't be told is none
            lines, notes = first_line(error), []
        if isinstance(lines, str):
            failed = True
            err.print(f"[yellow]failed:[/] {escape(f'{one.label}: {lines}')}", soft_wrap=True)
            continue
        # At once: what comes later may fail, or take until Ctrl-C.
        print(*lines, sep="\n", flush=True)
        shown = True
        for note in [] if as_json else notes:
            err.print(escape(f"{one.label}: {note}"), soft_wrap=True)
    if failed:
        raise typer.Exit(SOME_FAILED)


_COLUMNS = ("value ± standard error", "converged", "samples", "gradients")


def _lines(
    metric: Metric, m: Measurement, names: list[str], *, as_json: bool, head: bool
) -> list[str]:
    """An answer in lines that stand under each other as they come, after a ``head`` once."""
    from sharpbench.report.format import figure

    if as_json:
        return [json.dumps({"metric": metric.label, **dataclasses.asdict(m)})]
    told = figure(m.value, m.standard_error, m.errors, m.error_bound, m.converged, digits=6)
    work = f"{m.work.gradient_equivalents(m.samples):.1f}" if m.samples else "–"
    cells = (told, "yes" if m.converged else "no", str(m.samples), work)
    name = max(map(len, ["metric", *names]))

    def line(first: str, rest: tuple[str, ...]) -> str:
        return f"{first:<{name}}  {rest[0]:<28}  {rest[1]:<9}  {rest[2]:>7}  {rest[3]:>9}"

    return [*([line("metric", _COLUMNS)] if head else []), line(metric.label, cells)]


def _parse_parameters(pairs: list[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        key = key.strip()
        if not separator or not key:
            raise InputError(f"--param {shortened(pair)} must be KEY=VALUE, e.g. samples=100")
        if key in parsed:
            raise InputError(f"--param {key!r} stands twice: a metric takes one value")
        parsed[key] = _parse_value(key, value)
    return parsed


def _parse_value(key: str, text: str) -> Any:
    """A value as TOML writes it, or the text itself: a word needs no quotation marks."""
    try:
        content = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise InputError(f"--param {key!r}: its value is nested too deep") from None
    except tomllib.TOMLDecodeError:
        return text
    except ValueError:  # Python's limit for the digits of an integer
        raise InputError(f"--param {key!r}: its value has thousands of digits") from None
    return content["value"] if content.keys() == {"value"} else text
