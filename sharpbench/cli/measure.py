"""``sharpbench measure``."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sharpbench.cli.exits import INTERRUPTED, SOME_FAILED, ended_by
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
from sharpbench.console import aside, err, escape
from sharpbench.errors import InputError, Terminated, first_line, nearest_names, shortened
from sharpbench.progress import counted

if TYPE_CHECKING:
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
            help=f'Samples that each metric draws, or "all". Default: the metric\'s own, at most {_SAMPLES}.'
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
        int, typer.Option(min=0, help="Of the random numbers: which points, probes, draws.")
    ] = 0,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the records, as a suite's, their report, JSON lines and CSV."
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
    from sharpbench.suite.given import Given
    from sharpbench.suite.own import answers, own_subject, transformed

    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other")
    if dataset_param and dataset is None:
        raise InputError("--dataset-param goes with --dataset")
    check_device(device)
    for path in plugin or []:
        load_plugins(path)
    names = _names("metric", metric, metrics, transformations)
    changing = _names("transformation", transform or [], transformations, metrics)
    own = _of_each(names, changing, parse_parameters(param or []), metrics, transformations)
    for name in names:
        metrics.create(name, own[name])
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
    subject = own_subject(given, seed=seed, device=device, data=data_dir or data_root())
    for sentence in subject.said:
        _say(sentence)
    _set_samples(names, own, metrics, samples, subject)
    chosen = [metrics.create(name, own[name]) for name in names]
    told = _Told([one.label for one in chosen], [c.label for c in changes], as_json, as_csv)
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
            data=data_dir or data_root(),
        )
    else:
        where: list[tuple[str, Any]] = [("", subject)]
        for change in changes:
            try:
                where.append((change.label, transformed(subject, change, seed=seed, told=_say)))
            except Exception as error:
                told.fail(change.label, str(error))
        with counted(len(where) * len(chosen)) as notify:
            notify(chosen[0].name, 0)
            for after, there in where:
                for number, (one, m) in enumerate(answers(there, chosen, seed=seed), 1):
                    told.answer(one, m, after)
                    notify(chosen[number % len(chosen)].name, 1)
    if layers:
        _layers(subject, seed, output, told)
    if told.failed:
        raise typer.Exit(SOME_FAILED)


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

    suite = one_network_suite(
        given, subject, questions, changes, plugins, seed=seed, path=output / "suite.toml"
    )
    ended = None
    with counted(len(questions) * (1 + len(changes))) as notify:
        try:
            problems = recorded(
                suite,
                subject,
                output / "results",
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
    page = write_report(output / "results", SUITE, output)
    aside.print(escape(f"report: {page}"), soft_wrap=True)
    if ended is not None:
        code = ended_by(ended.number) if isinstance(ended, Terminated) else INTERRUPTED
        err.print(
            "interrupted: what was recorded is kept, the same command resumes", soft_wrap=True
        )
        raise typer.Exit(code)


def _layers(subject: Subject, seed: int, output: Path | None, told: _Told) -> None:
    """The table of `sharpbench.by_layer`; with a picture in the ``output`` folder."""
    from sharpbench.api.measuring import by_layer
    from sharpbench.errors import MetricFailed

    there = len(subject.data("train")[0])
    whole = there <= _SAMPLES or subject.coupled
    picture = None if output is None else output / "layers.svg"
    try:
        with err.status("every layer …"):
            frame = by_layer(
                subject, seed=seed, samples="all" if whole else _SAMPLES, picture=picture
            )
    except MetricFailed as error:
        told.fail("--layers", str(error))
        return
    if not whole:
        _say(f"layers: {_SAMPLES} of {there} samples are drawn")
    if output is not None:
        frame.to_csv(output / "layers.csv")
    if told.as_json:
        print(
            *(json.dumps({"block": b, **row}) for b, row in frame.to_dict("index").items()),
            sep="\n",
        )
    elif told.as_csv:
        print(frame.to_csv(), end="")
    else:
        print("", frame.to_string(float_format=lambda x: f"{x:.6g}"), sep="\n")


def _say(sentence: str) -> None:
    err.print(escape(sentence), soft_wrap=True)


_OPTIONS = {"metric": "--metric", "transformation": "--transform"}


def _names(kind: str, given: Sequence[str], registry: Any, others: Any) -> list[str]:
    """The plug-ins of a kind that are named, each once. ``others``: those with which they are confused."""
    from sharpbench.plugins import plugin_name

    words = [word for one in given for word in one.replace(",", " ").split()]
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
            metrics.create(names[0], {key: value})  # says what is near
        for name in having:
            own[name][key] = value
    for key, value in given.items():
        whose, point, rest = key.partition(".")
        if point:
            own[whose][rest] = value
    return own


def _set_samples(
    names: Sequence[str],
    own: dict[str, dict[str, Any]],
    registry: Any,
    samples: str | None,
    subject: Subject,
) -> None:
    """How many samples each metric draws, where its own parameters don't say it."""
    wanted: Any = None
    if samples is not None:
        wanted = samples if samples == "all" else parse_value("--samples", samples)
        if wanted != "all" and (not isinstance(wanted, int) or wanted < 1):
            raise InputError(f'--samples {shortened(samples)} must be a number from 1, or "all"')
    for name in dict.fromkeys(names):
        if "samples" in own[name] or "samples" not in registry.parameter_types(name):
            continue
        if wanted is not None:
            own[name]["samples"] = wanted
            continue
        made = registry.create(name, own[name])
        split = getattr(made, "split", "train")
        there = len(subject.data(split)[0])
        if made.samples == "all" and there > _SAMPLES and not subject.coupled:
            own[name]["samples"] = _SAMPLES
            err.print(
                f"{name}: {_SAMPLES} of {there} samples are drawn; --samples all takes all",
                soft_wrap=True,
                markup=False,
            )


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
        self, metrics: Sequence[str], changes: Sequence[str], as_json: bool, as_csv: bool
    ) -> None:
        self.as_json, self.as_csv = as_json, as_csv
        every = [*metrics, *(f"{m} after {c}" for m in metrics for c in changes)]
        self.width = max(map(len, ["metric", *every]))
        self.failed, self._head = False, True
        self.rows: list[dict[str, Any]] = []
        self.plain: dict[str, float] = {}
        self._left: set[tuple[str | None, str]] = set()

    def fail(self, what: str, reason: str) -> None:
        self.failed = True
        err.print(f"[yellow]failed:[/] {escape(f'{what}: {reason}')}", soft_wrap=True)

    def answer(self, metric: Metric, m: Measurement | str, after: str) -> None:
        name = f"{metric.label} after {after}" if after else metric.label
        row: dict[str, Any] = {"metric": metric.label, "transformation": after or None}
        try:
            notes = [] if isinstance(m, str) else [*metric.notes(m.details)]
            line = "" if isinstance(m, str) else self._line(name, metric, m, after)
        except Exception as error:  # an answer that can't be told is none
            m, notes, line = first_line(error), [], ""
        if isinstance(m, str):
            self.rows.append({**row, "reason": m})
            self.fail(name, m)
            return
        self.rows.append({**row, **dataclasses.asdict(m)})
        if not after:
            self.plain[metric.label] = m.value
        print(line, flush=True)
        self._head = False
        for note in [] if self.as_json else notes:
            err.print(escape(f"{name}: {note}"), soft_wrap=True)

    def _line(self, name: str, metric: Metric, m: Measurement, after: str) -> str:
        from sharpbench.report.format import figure, times

        if self.as_json:
            told = {"metric": metric.label, **dataclasses.asdict(m)}
            return json.dumps({**told, "transformation": after} if after else told)
        if self.as_csv:
            row = {"metric": metric.label, "transformation": after, **dataclasses.asdict(m)}
            return _csv([row], head=self._head).rstrip("\n")
        told_value = figure(
            m.value, m.standard_error, m.errors, m.error_bound, m.converged, digits=6
        )
        if after and (before := self.plain.get(metric.label)):
            told_value += f" ({times(m.value / before, digits=4)})"
        work = f"{m.work.gradient_equivalents(m.samples):.1f}" if m.samples else "–"
        cells = (told_value, "yes" if m.converged else "no", str(m.samples), work)

        def line(first: str, rest: tuple[str, ...]) -> str:
            return f"{first:<{self.width}}  {rest[0]:<28}  {rest[1]:<9}  {rest[2]:>7}  {rest[3]:>9}"

        lines = [*([line("metric", _COLUMNS)] if self._head else []), line(name, cells)]
        return "\n".join(lines)

    def record(self, plan: Plan, record: Record) -> None:
        """An answer that stands in a results folder."""
        from sharpbench.suite.own import answer_of

        (metric,) = (q.metric for q in plan.measurements if q.key == record.plan_key)
        if record.left_alone and (record.transformation, record.left_alone) not in self._left:
            self._left.add((record.transformation, record.left_alone))
            _say(f"{record.transformation}: {record.left_alone}")
        self.answer(metric, answer_of(record), record.transformation or "")

    def write(self, folder: Path) -> None:
        """The figures as JSON lines and as CSV."""
        lines = [json.dumps(row) for row in self.rows]
        (folder / "measurements.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "measurements.csv").write_text(_csv(self.rows, head=True), encoding="utf-8")


def _csv(rows: Sequence[Mapping[str, Any]], *, head: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS, extrasaction="ignore", lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
