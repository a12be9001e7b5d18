"""What a function is made of: the definitions of sharpbench that it reaches, without their documentation."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from typing import Any

__all__ = ["digest_of"]

_PACKAGE = "sharpbench"

Place = tuple[str, str]
"""A module, and a name that it defines at its top."""


def digest_of(*functions: Callable[..., Any], source: Callable[[str], str] | None = None) -> str:
    """SHA-256 of the definitions of ``functions`` and of all in sharpbench that these name, at any remove.

    Comments, docstrings and layout are no part of it, nor is anything else that stands in the same files.
    ``source``: the text of a module by its name; None: of the installed one. Raises OSError where a module's
    text is not installed.
    """
    text = source or _installed
    modules: dict[str, _Module] = {}
    reached: dict[Place, str] = {}
    waiting: list[Place] = [(f.__module__, f.__qualname__) for f in functions]
    while waiting:
        place = waiting.pop()
        if place in reached:
            continue
        name, defined = place
        if name not in modules:
            modules[name] = _Module.read(name, text(name))
        module = modules[name]
        if defined in module.imported:
            reached[place] = ""
            waiting.append(module.imported[defined])
        else:
            statements = [_WithoutTexts().visit(s) for s in module.statements.get(defined, ())]
            reached[place] = "\n".join(ast.dump(s) for s in statements)
            waiting += [
                (name, used) for s in statements for used in _names(s) if module.knows(used)
            ]
    parts = [
        f"{module}.{name}\n{said}\n" for (module, name), said in sorted(reached.items()) if said
    ]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Module:
    statements: dict[str, list[ast.stmt]]
    """By the name that they define: functions, classes and assignments at the top."""
    imported: dict[str, Place]
    """By the name here, what stands in other modules of the package."""

    @classmethod
    def read(cls, name: str, text: str) -> _Module:
        statements: dict[str, list[ast.stmt]] = {}
        imported: dict[str, Place] = {}
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.ImportFrom):
                origin = statement.module or ""
                if origin.partition(".")[0] == _PACKAGE:
                    for alias in statement.names:
                        imported[alias.asname or alias.name] = (origin, alias.name)
            else:
                for defined in _defined(statement):
                    statements.setdefault(defined, []).append(statement)
        return cls(statements, imported)

    def knows(self, name: str) -> bool:
        return name in self.statements or name in self.imported


class _WithoutTexts(ast.NodeTransformer):
    """Leaves out docstrings, of whatever they are."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _names(statement: ast.stmt) -> Iterator[str]:
    return (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))


def _installed(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise OSError(f"the source of {module} is not installed")
    return spec.loader.get_source(module) or ""
