"""Options that several verbs share, and how their values are written."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sharpbench.console import speak
from sharpbench.errors import InputError, shortened

__all__ = [
    "DataOption",
    "DeviceOption",
    "LogFileOption",
    "OpenOption",
    "PluginOption",
    "QuietOption",
    "RanSuiteArgument",
    "ReportsOption",
    "ResultsOption",
    "SeveralValues",
    "SuiteArgument",
    "VerboseOption",
    "dataset_names",
    "engine_names",
    "flowing",
    "metric_names",
    "names_of",
    "parse_parameters",
    "parse_value",
    "ran_suites",
    "starting",
    "suite_names",
    "transformation_names",
]


class SeveralValues(TyperCommand):
    """A verb without arguments: all words behind an option that may stand several times are values of it,
    so that ``--metric a b`` means ``--metric a --metric b``. InputError for a word that is no value, and for
    an option of one value that stands twice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        spread = args if ctx.resilient_parsing else _spread(args, self.get_params(ctx))
        return super().parse_args(ctx, spread)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What the word may become: also the second of several values behind an option."""
        options = _by_name(self.get_params(ctx))
        behind = next((w for w in reversed(ctx.meta.get(_WORDS, [])) if w in options), None)
        if behind is not None and options[behind].multiple and not incomplete.startswith("-"):
            return options[behind].shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete)


_WORDS = "sharpbench.words"
"""Where a context keeps the words of the command line."""


def _by_name(parameters: list[Any]) -> dict[str, Any]:
    return {name: p for p in parameters for name in (*p.opts, *p.secondary_opts)}


def _spread(words: list[str], parameters: list[Any]) -> list[str]:
    """The words of a command line with every option written before each of its values."""
    options = _by_name(parameters)
    found: list[str] = []
    last, values = "", 0
    """The option that words belong to, and how many of its values were there."""
    told: set[str] = set()
    for word in words:
        option = options.get(last)
        takes = option is not None and not (option.is_flag or option.count)
        name, equals, _ = word.partition("=")
        if takes and not values:  # a value may begin with a dash, as a negative number does
            if name in options:
                raise InputError(f"{last} takes a value, and {word} stands in its place")
            values = 1
        elif word.startswith("-") and len(word) > 1:
            last, values = name, int(bool(equals))
            new = options.get(name)
            if new is not None and not (new.multiple or new.is_flag or new.count):
                if new.name in told:
                    raise InputError(f"{name} stands twice: it takes one value")
                told.add(new.name)
        elif option is not None and takes and option.multiple:
            found.append(last)
        elif option is not None or not last.strip("-"):
            several = [n for n, p in options.items() if p.multiple and n.startswith("--")]
            takes_what = "one value" if takes else "no value"
            behind = (
                f"stands behind {last}, which takes {takes_what}" if option else "is no option's"
            )
            raise InputError(f"{shortened(word)} {behind}; {', '.join(several)} take several")
        found.append(word)
    return found


def suite_names(incomplete: str) -> list[str]:
    """Shipped suites and suite files of this folder, for the shell's completion."""
    from sharpbench.suite.spec import known_suites

    files = [path.name for path in Path().glob("*.toml") if path.name != "pyproject.toml"]
    return starting((*known_suites(), *files), incomplete)


def starting(names: Iterable[str], incomplete: str) -> list[str]:
    """Those of ``names`` that begin as what has been typed."""
    return [name for name in names if name.startswith(incomplete)]


def dataset_names(incomplete: str) -> list[str]:
    """Datasets, and Python files of this folder, for the shell's completion."""
    return names_of("dataset", incomplete)


def transformation_names(incomplete: str) -> list[str]:
    """Transformations, and Python files of this folder, for the shell's completion."""
    return names_of("transformation", incomplete)


def engine_names(incomplete: str) -> list[str]:
    """What ``--engine`` takes, for the shell's completion."""
    return starting(("process", "ray", "inline"), incomplete)


def _device_names(incomplete: str) -> list[str]:
    return starting(("cpu", "cuda", "cuda:0"), incomplete)


def metric_names(incomplete: str) -> list[str]:
    """Metrics, and Python files of this folder, for the shell's completion."""
    return names_of("metric", incomplete)


def names_of(kind: str, incomplete: str) -> list[str]:
    """The plug-ins of a kind, and Python files of this folder, for the shell's completion."""
    from sharpbench.plugins import registry_of

    files = [path.name for path in Path().glob("*.py")]
    return starting((*registry_of(kind).names(), *files), incomplete)


def ran_suites(context: typer.Context, incomplete: str) -> list[str]:
    """Suites that have run in the results folder."""
    folder = Path(context.params.get("results") or "results") / "suites"
    return starting(sorted(path.stem for path in folder.glob("*.json")), incomplete)


SuiteArgument = Annotated[
    str,
    typer.Argument(
        help="Name of a shipped suite, or path of a suite file.", autocompletion=suite_names
    ),
]
RanSuiteArgument = Annotated[
    str, typer.Argument(help="Name of a suite that has run.", autocompletion=ran_suites)
]

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
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda or cuda:N.", autocompletion=_device_names)
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Python file, or module, whose plug-ins can be named then; may stand several times.",
    ),
]


def _be_quiet(context: typer.Context, value: bool) -> bool:
    if value and context.params.get("verbose_"):
        raise InputError("--quiet and --verbose exclude each other")
    if not context.resilient_parsing:
        speak(quiet=value)
    return value


def _be_verbose(context: typer.Context, value: bool) -> bool:
    if value and context.params.get("quiet"):
        raise InputError("--quiet and --verbose exclude each other")
    if not context.resilient_parsing:
        speak(verbose=value)
    return value


def _keep_log(context: typer.Context, value: Path | None) -> Path | None:
    if not context.resilient_parsing:
        speak(log_file=value)
    return value


QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print what goes wrong, and no more.", callback=_be_quiet),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Tell every subject and every failure.", callback=_be_verbose
    ),
]
LogFileOption = Annotated[
    Path | None,
    typer.Option(
        help="Append what is said to this file, with times, also with --quiet.",
        callback=_keep_log,
    ),
]


def flowing(text: str) -> str:
    """A docstring as the terminal shows it: a paragraph a line, which is then broken where there is no more
    room, and a command a line."""
    told = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines: list[str] = []
        for line in map(str.strip, paragraph.splitlines()):
            if lines and not line.startswith("sharpbench "):
                lines[-1] += f" {line}"
            else:
                lines.append(line)
        commands = paragraph.lstrip().startswith("sharpbench ")
        told.append("\n".join(f"  {line}" if commands else line for line in lines))
    return "\n\n".join(told)


def parse_parameters(pairs: list[str], option: str = "--param") -> dict[str, Any]:
    """KEY=VALUE pairs as a mapping. Raises InputError for what is none, and for a key that stands twice."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        key = key.strip()
        if not separator or not key:
            raise InputError(f"{option} {shortened(pair)} must be KEY=VALUE, e.g. samples=100")
        if key in parsed:
            raise InputError(f"{option} {key!r} stands twice: it takes one value")
        parsed[key] = parse_value(f"{option} {key!r}", value)
    return parsed


def parse_value(what: str, text: str) -> Any:
    """A value as TOML writes it, or the text itself: a word needs no quotation marks."""
    try:
        content = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise InputError(f"{what}: its value is nested too deep") from None
    except tomllib.TOMLDecodeError:
        return text
    except ValueError:  # Python's limit for the digits of an integer
        raise InputError(f"{what}: its value has thousands of digits") from None
    return content["value"] if content.keys() == {"value"} else text
