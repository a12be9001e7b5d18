"""``sharpbench measure``."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sharpbench.cli.exits import BAD_INPUT, DONE, SOME_FAILED
from sharpbench.cli.options import (
    DataOption,
    DeviceOption,
    PluginOption,
    dataset_names,
    metric_names,
    parse_parameters,
    parse_value,
    transformation_names,
)
from sharpbench.cli.run import to_resume
from sharpbench.console import aside, err, escape
from sharpbench.errors import (
    InputError,
    Terminated,
    TransformationRefused,
    nearest_names,
    shortened,
)
from sharpbench.progress import counted

if TYPE_CHECKING:
    import pandas as pd

    from sharpbench.invariance import Transformation
    from sharpbench.measurement import Measurement
    from sharpbench.metrics import Metric
    from sharpbench.results.record import Record
    from sharpbench.subject import Subject
    from sharpbench.suite.given import Given
    from sharpbench.suite.plan import Plan

__all__ = ["measure"]

_SAMPLES = 2000
"""Of larger data metrics that take all of them are given so many, unless more are asked for."""


def measure(
    model: Annotated[
        str,
        typer.Option(
            help="package.module:build, a function of no arguments that returns a network."
        ),
    ],
    metric: Annotated[
        list[str],
        typer.Option(
            help="Metrics, one behind another.",
            autocompletion=metric_names,
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help=".safetensors, or a state dict that torch.load(weights_only=True) reads."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset on which to measure, e.g. digits.", autocompletion=dataset_names
        ),
    ] = None,
    dataset_param: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the dataset, one behind another.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="package.module:batches, a list of batches, a DataLoader or a function that gives one."
        ),
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(help="File of inputs: .safetensors, .npz or .npy.")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="File of their targets.")] = None,
    test: Annotated[
        str | None,
        typer.Option(
            help="package.module:batches of test data, on which metrics of the outputs are measured and the "
            "network is judged."
        ),
    ] = None,
    forward: Annotated[
        str | None,
        typer.Option(help="package.module:function of model and batch that gives the outputs."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="A loss of torch.nn by its name, or package.module:function of outputs and targets, or of "
            "model and batch."
        ),
    ] = None,
    normaliser: Annotated[
        Literal["samples", "tokens", "sum"] | None,
        typer.Option(help="What the sum of all losses is divided by; sum: by nothing."),
    ] = None,
    differentiate: Annotated[
        str | None,
        typer.Option(
            help="What metrics of the input differentiate in: a tensor of the batch, a part of the network, "
            "or inputs_embeds."
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE of the metrics that have it, NAME.KEY=VALUE of one metric or transformation, "
            "VALUE as in TOML; one behind another."
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            help='Samples that each metric, and --layers, draws, or "all". Default: the metric\'s own, at '
            f"most {_SAMPLES}."
        ),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure again after each of these transformations, one behind another.",
            autocompletion=transformation_names,
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="The curvature of every layer, too: trace, Frobenius norm and top eigenvalue.",
        ),
    ] = False,
    plugin: PluginOption = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**63 - 1, help="Of the random numbers: which points, probes, draws."
        ),
    ] = 0,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of its own for the records, as a suite's, their report, JSON lines and CSV."
        ),
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Measure your own network.

    [bold]Examples[/bold]

      sharpbench measure --model my_package.nets:build --weights net.safetensors --dataset digits
      --metric curvature_rate --param orders=[1,2,3]

      sharpbench measure --model nets:bert --data nets:batches --differentiate inputs_embeds
      --metric hessian_trace curvature_rate --param curvature_rate.directions=8
    """
    from sharpbench.datasets.files import data_root
    from sharpbench.device import check_device
    from sharpbench.invariance import transformations
    from sharpbench.metrics import metrics
    from sharpbench.plugins import load_plugins, plugin_name
    from sharpbench.suite.given import COMMAND_LINE, Given
    from sharpbench.suite.one_network import check_folder
    from sharpbench.suite.own import own_subject

    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other")
    if dataset_param and dataset is None:
        raise InputError("--dataset-param goes with --dataset")
    check_device(device)
    if output is not None:
        check_folder(output)
    for path in plugin or []:
        load_plugins(path)
    names = _names("metric", metric, metrics, transformations)
    changing = _names("transformation", transform or [], transformations, metrics)
    own = _of_each(names, changing, parse_parameters(param or []), metrics, transformations)
    for name in names:
        metrics.create(name, own[name])
    drawn = _drawn(samples, param or [])
    changes = [transformations.create(name, own[name]) for name in changing]
    of_data = parse_parameters(dataset_param or [], "--dataset-param")
    if "name" in of_data:
        raise InputError("--dataset-param 'name': what the dataset is called is said by --dataset")
    given = Given(
        model=model,
        weights=weights,
        dataset=None if dataset is None else {"name": plugin_name("dataset", dataset), **of_data},
        data=data,
        inputs=inputs,
        targets=targets,
        test=test,
        forward=forward,
        loss=loss,
        normaliser=normaliser,
        differentiate=differentiate,
    )
    data_at = data_dir or data_root()
    subject = own_subject(given, COMMAND_LINE, seed=seed, device=device, data=data_at)
    for sentence in subject.said:
        _say(COMMAND_LINE.of_python(sentence))
    _set_samples(names, own, metrics, drawn, subject, layers=layers)
    chosen = [metrics.create(name, own[name]) for name in names]
    told = _Told([m.label for m in chosen], [c.label for c in changes], as_json, as_csv, layers)
    if output is not None:
        _into_folder(
            output,
            given,
            subject,
            [(one, own[one.name]) for one in chosen],
            [(one, own[one.name]) for one in changes],
            plugin or [],
            told,
            seed=seed,
            device=device,
            data=data_at,
        )
    else:
        _printed(subject, chosen, changes, told, seed=seed)
    if layers:
        _layers(subject, seed, output, told, drawn)
    elif output is not None and (output / _LAYERS).exists():
        _say(f"{output / _LAYERS} is of an earlier command: --layers writes it anew")
    if told.code:
        raise typer.Exit(told.code)


def _printed(
    subject: Subject,
    metrics: Sequence[Metric],
    changes: Sequence[Transformation],
    told: _Told,
    *,
    seed: int,
) -> None:
    """Every figure of the network as it is, and after each change."""
    from sharpbench.suite.own import answers, reason_of, transformed

    with counted((1 + len(changes)) * len(metrics)) as notify:
        for change in (None, *changes):
            after, there = "", subject
            refused: list[tuple[Metric, Exception]] = []
            notify(metrics[0].name, 0)
            if change is not None:
                after = change.label
                try:
                    there = transformed(subject, change, seed=seed, told=_say)
                except TransformationRefused as error:
                    refused = [(metric, error) for metric in metrics]
            for number, (metric, m) in enumerate(refused or answers(there, metrics, seed=seed), 1):
                if isinstance(m, Exception):
                    told.answer(metric, reason_of(m), after, wrong=isinstance(m, InputError))
                else:
                    told.answer(metric, m, after)
                notify(metrics[number % len(metrics)].name, 1)


def _into_folder(
    output: Path,
    given: Given,
    subject: Subject,
    questions: Sequence[tuple[Metric, Mapping[str, Any]]],
    changes: Sequence[tuple[Transformation, Mapping[str, Any]]],
    plugins: Sequence[str],
    told: _Told,
    *,
    seed: int,
    device: str,
    data: Path,
) -> None:
    """Records as a suite's and their report, in a folder; figures are printed as they are recorded."""
    from sharpbench.report.page import write_report
    from sharpbench.suite.one_network import SUITE, one_network_suite, recorded

    suite = one_network_suite(given, subject, questions, changes, plugins, seed=seed)
    ended = None
    with counted(len(questions) * (1 + len(changes))) as notify:
        try:
            problems = recorded(
                suite,
                subject,
                output,
                device=device,
                data=data,
                command=shlex.join(["sharpbench", *sys.argv[1:]]),
                notify=notify,
                told=told.record,
            )
        except (KeyboardInterrupt, Terminated) as error:
            ended, problems = error, []
    for problem in problems:
        told.fail("not recorded", problem)
    told.write(output)
    try:
        page = write_report(output / "results", SUITE, output)
        aside.print(escape(f"report: {page}"), soft_wrap=True)
    except InputError:
        if ended is None:  # else there is nothing yet that could stand on a page
            raise
    if ended is not None:
        raise to_resume(ended)


def _layers(
    subject: Subject,
    seed: int,
    output: Path | None,
    told: _Told,
    drawn: int | Literal["all"] | None,
) -> None:
    """The table of `sharpbench.by_layer`; with a picture in the ``output`` folder."""
    from sharpbench.api.measuring import by_layer
    from sharpbench.errors import MetricFailed

    there = len(subject.data("train")[0])
    if drawn is None:
        drawn = "all" if there <= _SAMPLES or subject.coupled else _SAMPLES
    picture = None if output is None else output / "layers.svg"
    try:
        with err.status("every layer …"):
            frame = by_layer(subject, seed=seed, samples=drawn, picture=picture)
    except MetricFailed as error:
        told.fail("--layers", str(error))
        return
    measured = there if isinstance(drawn, str) else min(drawn, there)
    if measured < there:
        _say(f"layers: {measured} of {there} samples are drawn; --samples all takes all")
    if output is not None:
        frame.to_csv(output / _LAYERS)
    told.layers(frame, measured)


def _say(sentence: str) -> None:
    err.print(escape(sentence), soft_wrap=True)


_LAYERS = "layers.csv"

_OPTIONS = {"metric": "--metric", "transformation": "--transform"}


def _words(value: str) -> list[str]:
    """The names in one value; the path of a file may have spaces and commas."""
    place = value if value.endswith(".py") else value.rpartition(":")[0]
    if place.endswith(".py") and Path(place).expanduser().is_file():
        return [value]
    return value.replace(",", " ").split()


def _names(kind: str, given: Sequence[str], registry: Any, others: Any) -> list[str]:
    """The plug-ins of a kind that are named, each once. ``others``: those with which they are confused."""
    from sharpbench.plugins import plugin_name

    words = [word for one in given for word in _words(one)]
    names = list(dict.fromkeys(plugin_name(kind, word) for word in words))
    if given and not names:
        raise InputError(f"{_OPTIONS[kind]} names no {kind}")
    for name in names:
        if name not in registry and name in others:
            raise InputError(
                f"{name!r} is a {others.kind}, and no {kind}: write {_OPTIONS[others.kind]} {name}"
            )
    return names


def _of_each(
    names: Sequence[str],
    changing: Sequence[str],
    given: Mapping[str, Any],
    metrics: Any,
    transformations: Any,
) -> dict[str, dict[str, Any]]:
    """The parameters of each metric, those that it has and those given to it alone, and of each
    transformation, given to it alone."""
    own: dict[str, dict[str, Any]] = {name: {} for name in (*names, *changing)}
    types = {name: metrics.parameter_types(name) for name in names}
    for name in changing:
        transformations.get(name)
    for key, value in given.items():
        whose, point, rest = key.partition(".")
        if point:
            if whose not in own:
                raise InputError(
                    f"--param {key!r}: {whose!r} is not asked for here. {nearest_names(whose, own)}"
                )
            continue
        having = [name for name in names if key in types[name]]
        if not having:
            moved = [name for name in changing if key in transformations.parameter_types(name)]
            if moved:
                raise InputError(
                    f"--param {key!r} is a parameter of the transformation {moved[0]}, which is given to it "
                    f"alone: write {moved[0]}.{key}=…"
                )
            known = {known for each in types.values() for known in each}
            which = "the metric" if len(names) == 1 else "none of the metrics"
            has = "has no" if len(names) == 1 else "has a"
            raise InputError(
                f"--param {key!r}: {which} {', '.join(names)} {has} parameter {key!r}. "
                f"{nearest_names(key, known)}"
            )
        for name in having:
            own[name][key] = value
    for key, value in given.items():
        whose, point, rest = key.partition(".")
        if point:
            own[whose][rest] = value
    return own


def _drawn(samples: str | None, param: list[str]) -> int | Literal["all"] | None:
    """What ``--samples`` says; None where nothing does."""
    if samples is None:
        return None
    if "samples" in parse_parameters(param):
        raise InputError("--samples and --param samples=… say the same: leave one of them out")
    wanted = "all" if samples == "all" else parse_value("--samples", samples)
    if wanted == "all":
        return "all"
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise InputError(f'--samples {shortened(samples)} must be a number from 1, or "all"')
    return wanted


def _set_samples(
    names: Sequence[str],
    own: dict[str, dict[str, Any]],
    registry: Any,
    wanted: int | str | None,
    subject: Subject,
    *,
    layers: bool,
) -> None:
    """How many samples each metric draws, where its own parameters don't say it."""
    drawing = [name for name in names if "samples" in registry.parameter_types(name)]
    if wanted is not None and not drawing and not layers:
        _say(f"--samples: {', '.join(names)} draws none")
    for name in drawing:
        if "samples" in own[name]:
            continue
        if wanted is not None:
            own[name]["samples"] = wanted
        made = registry.create(name, own[name])
        there = len(subject.data(getattr(made, "split", "train"))[0])
        if wanted is not None:
            if isinstance(wanted, int) and wanted > there:
                _say(f"{name}: there are {there} samples, and all are taken")
        elif made.samples == "all" and there > _SAMPLES and not subject.coupled:
            own[name]["samples"] = _SAMPLES
            _say(f"{name}: {_SAMPLES} of {there} samples are drawn; --samples all takes all")


_COLUMNS = ("value ± standard error", "converged", "samples", "gradients")
_FIELDS = (
    "metric",
    "transformation",
    "value",
    "standard_error",
    "error_bound",
    "converged",
    "samples",
    "reason",
)


class _Told:
    """What is said, at once: what comes later may fail, or take until Ctrl-C."""

    def __init__(
        self,
        metrics: Sequence[str],
        changes: Sequence[str],
        as_json: bool,
        as_csv: bool,
        layers: bool,
    ) -> None:
        self.as_json, self.as_csv = as_json, as_csv
        self.fields = (*_FIELDS, "block") if layers else _FIELDS
        every = [*metrics, *(f"{m} after {c}" for m in metrics for c in changes)]
        self.widths = max(map(len, ["metric", *every])), 38 if changes else 28
        self.code, self._head = DONE, True
        self.rows: list[dict[str, Any]] = []
        self.plain: dict[str, float] = {}
        self._left: set[tuple[str | None, str]] = set()

    def fail(self, what: str, reason: str, *, wrong: bool = False) -> None:
        """``wrong``: whether it is the input's fault."""
        from sharpbench.suite.given import COMMAND_LINE

        self.code = max(self.code, BAD_INPUT if wrong else SOME_FAILED)
        told = f"{what}: {COMMAND_LINE.of_python(reason)}"
        err.print(f"[yellow]failed:[/] {escape(told)}", soft_wrap=True)

    def answer(
        self, metric: Metric, m: Measurement | str, after: str, *, wrong: bool = False
    ) -> None:
        """A figure, or the reason why there is none."""
        name = f"{metric.label} after {after}" if after else metric.label
        row: dict[str, Any] = {"metric": metric.label, "transformation": after or None}
        if isinstance(m, str):
            self._row({**row, "reason": m})
            self.fail(name, m, wrong=wrong)
            return
        if not self._row({**row, **dataclasses.asdict(m)}):
            print(self._line(name, metric, m, after), flush=True)
            self._head = False
        if not after:
            self.plain[metric.label] = m.value
        for note in [] if self.as_json else metric.notes(m.details):
            err.print(escape(f"{name}: {note}"), soft_wrap=True)

    def layers(self, frame: pd.DataFrame, samples: int) -> None:
        """The curvature of every layer."""
        rows = frame.to_dict("index")
        if self.as_json:
            print(*(json.dumps({"block": b, **_finite(row)}) for b, row in rows.items()), sep="\n")
        elif self.as_csv:
            for block, row in rows.items():
                for metric in ("trace", "frobenius_norm", "top_eigenvalue"):
                    bound = f"{metric}_bound"
                    told = {"metric": metric, "block": block, "samples": samples}
                    told |= {"value": row[metric]}
                    told |= {"standard_error": row.get(f"{metric}_standard_error")}
                    if bound in row:
                        told |= {"error_bound": row[bound], "converged": row["converged"]}
                    self._print_csv(told)
        else:
            print("", frame.to_string(float_format=lambda x: f"{x:.6g}"), sep="\n")

    def _row(self, row: dict[str, Any]) -> bool:
        """Keeps what was answered; whether it was printed, as the folder's files have it."""
        self.rows.append(row)
        if self.as_json:
            print(json.dumps(row, allow_nan=False), flush=True)
        elif self.as_csv:
            self._print_csv(row)
        return self.as_json or self.as_csv

    def _print_csv(self, row: Mapping[str, Any]) -> None:
        print(_csv([row], self.fields, head=self._head), end="", flush=True)
        self._head = False

    def _line(self, name: str, metric: Metric, m: Measurement, after: str) -> str:
        from sharpbench.report.format import figure, times

        told_value = figure(
            m.value, m.standard_error, m.errors, m.error_bound, m.converged, digits=6
        )
        if after and (before := self.plain.get(metric.label)):
            told_value += f" ({times(m.value / before, digits=4)})"
        work = f"{m.work.gradient_equivalents(m.samples):.1f}" if m.samples else "–"
        cells = (told_value, "yes" if m.converged else "no", str(m.samples), work)

        def line(first: str, rest: tuple[str, ...]) -> str:
            name, value = self.widths
            return f"{first:<{name}}  {rest[0]:<{value}}  {rest[1]:<9}  {rest[2]:>7}  {rest[3]:>9}"

        lines = [*([line("metric", _COLUMNS)] if self._head else []), line(name, cells)]
        return "\n".join(lines)

    def record(self, plan: Plan, record: Record, fault: InputError | None) -> None:
        """An answer that stands in a results folder; ``fault``: what was wrong with the input."""
        from sharpbench.suite.own import answer_of

        (metric,) = (q.metric for q in plan.measurements if q.key == record.plan_key)
        if record.left_alone and (record.transformation, record.left_alone) not in self._left:
            self._left.add((record.transformation, record.left_alone))
            _say(f"{record.transformation}: {record.left_alone}")
        told = answer_of(record)
        self.answer(metric, told, record.transformation or "", wrong=fault is not None)

    def write(self, folder: Path) -> None:
        """The figures as JSON lines and as CSV."""
        from sharpbench.results.disk import write_atomically

        lines = "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in self.rows)
        write_atomically(folder / "measurements.jsonl", lines.encode())
        table = _csv(self.rows, _FIELDS, head=True)
        write_atomically(folder / "measurements.csv", table.encode())


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no word for what is not a number."""
    lost = {k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return {k: None if k in lost else v for k, v in row.items()}


def _csv(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], *, head: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, extrasaction="ignore", lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
