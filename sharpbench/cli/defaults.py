"""Options in a file: ``sharpbench.toml``, or ``[tool.sharpbench]`` in the current folder's pyproject.toml.

What stands at the top is for every verb that has the option; what stands in a table of a verb's name, for
that verb. The command line, and environment variables, come before it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer

from sharpbench.errors import InputError, nearest_names, shortened

__all__ = ["defaults", "defaults_file"]

_OWN, _SHARED = Path("sharpbench.toml"), Path("pyproject.toml")


def defaults_file() -> Path | None:
    """The file that holds defaults here, if there is one."""
    if _OWN.is_file():
        return _OWN
    if _SHARED.is_file() and "tool.sharpbench" in _SHARED.read_text("utf-8", errors="replace"):
        return _SHARED
    return None


def defaults(app: typer.Typer) -> dict[str, Any]:
    """The defaults of every verb of ``app``, as click takes them.

    Raises InputError that names the file and the key for what no verb has, or that doesn't fit its option.
    """
    path = defaults_file()
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    if path == _SHARED:
        content = content.get("tool", {}).get("sharpbench", {})
    return _of_group(path, typer.main.get_command(app), content, ())


def _of_group(
    path: Path, group: Any, content: dict[str, Any], above: tuple[str, ...]
) -> dict[str, Any]:
    """What ``content`` says of the verbs of a group, and of those in groups within it."""
    shared = {k: v for k, v in content.items() if k not in group.commands}
    found: dict[str, Any] = {}
    used: set[str] = set()
    for verb, command in group.commands.items():
        own = content.get(verb, {})
        if not isinstance(own, dict):
            raise _wrong(path, (*above, verb), f"the options of a verb are a table, [{verb}]")
        if hasattr(command, "commands"):
            inner = {k: v for k, v in shared.items() if _anywhere(command, k)}
            used |= inner.keys()
            found[verb] = _of_group(path, command, {**inner, **own}, (*above, verb))
            continue
        options = _options(command)
        told = {k: v for k, v in shared.items() if _spelled(k) in options}
        used |= told.keys()
        for key in own:
            if _spelled(key) not in options:
                near = nearest_names(key, options)
                raise _wrong(path, (*above, verb, key), f"{verb} has no such option. {near}")
        found[verb] = {
            option.name: _fitting(path, (*above, key), command, option, value)
            for key, value in {**told, **own}.items()
            for option in [options[_spelled(key)]]
        }
    for key in shared.keys() - used:
        known = [*group.commands, *(o for c in group.commands.values() for o in _options(c))]
        raise _wrong(path, (*above, key), f"no verb has it. {nearest_names(key, set(known))}")
    return found


def _options(command: Any) -> dict[str, Any]:
    """The options of a verb by their long names; of a group none."""
    return {
        name.removeprefix("--"): parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
        if name.startswith("--") and name != "--help"
    }


def _anywhere(group: Any, key: str) -> bool:
    return any(_spelled(key) in _options(command) for command in group.commands.values())


def _spelled(key: str) -> str:
    return key.replace("_", "-")


def _fitting(path: Path, at: tuple[str, ...], command: Any, option: Any, value: Any) -> Any:
    """``value`` if the option takes it."""
    several = option.multiple or option.nargs != 1
    if several and not isinstance(value, list):
        value = [value]
    if option.is_flag and not isinstance(value, bool):
        raise _wrong(path, at, f"true or false is meant, got {shortened(value)}")
    for one in value if several else [value]:
        if isinstance(one, (dict, list)):
            raise _wrong(path, at, f"a single value is meant, got {shortened(one)}")
    try:
        option.process_value(command.make_context(at[0], [], resilient_parsing=True), value)
    except Exception as error:
        raise _wrong(path, at, getattr(error, "message", str(error))) from None
    return value


def _wrong(path: Path, at: tuple[str, ...], told: str) -> InputError:
    return InputError(f"{path}: {'.'.join(at)}: {told}")
