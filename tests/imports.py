"""What imports what: the floors of the package, and ``python -m tests.imports FILE.svg``, their picture."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["FLOORS", "PACKAGE", "cycles", "floor_arrows", "module_imports", "picture"]

PACKAGE = Path(__file__).resolve().parents[1] / "sharpbench"

FLOORS = (
    (
        "errors",
        "beside",
        "allocator",
        "version",
        "seeds",
        "notebook",
        "measurement",
        "shared",
        "registry",
        "change",
        "streams",
        "processes",
        "console",
    ),
    (
        "formulas",
        "loss",
        "loss_outputs",
        "nest",
        "precision",
        "samples",
        "streamed",
        "device",
    ),
    ("batches", "front", "copies", "running", "network", "fitted"),
    ("outputs", "subject", "truth", "heads", "surroundings"),
    ("taylor", "curvature"),
    ("models", "datasets"),
    ("problems",),
    ("metrics", "invariance", "evaluation", "cost"),
    ("training",),
    ("plugins", "perf", "perf_history", "results"),
    ("suite", "progress"),
    ("analysis",),
    ("report",),
    ("paper", "falsification"),
    ("api",),
    ("cli", "__main__"),
)
"""From the ground up. A folder imports from lower floors, and from those before it on its own."""

DOOR = "sharpbench"
"""The package itself, which names what users import: nobody inside comes in by it."""


def module_imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Each module with the modules of the package that it imports, at any place in it."""
    paths = {_module(path, package): path for path in sorted(package.rglob("*.py"))}
    return {name: set(_imports(name, path, paths)) - {name} for name, path in paths.items()}


def _module(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(
                [*(above if node.level else []), *([node.module] if node.module else [])]
            )
            found = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in found:
            whole = full
            while whole and whole not in known:
                whole = whole.rpartition(".")[0]
            if whole:
                yield whole


def floor_arrows(imports: dict[str, set[str]]) -> dict[tuple[str, str], list[str]]:
    """Between folders (and single modules): who imports from whom, with ``module → module`` of each."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for module, targets in imports.items():
        for target in targets:
            pair = (_folder(module), _folder(target))
            if pair[0] != pair[1]:
                arrows.setdefault(pair, []).append(f"{module} → {target}")
    return arrows


def _folder(module: str) -> str:
    return module.split(".")[1] if "." in module else DOOR


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, by whatever way round (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(imports[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(imports):
        if name not in index:
            visit(name)
    return found


_WIDTH, _ROW, _BOX, _HEIGHT = 1180, 86, 106, 30


def picture() -> str:
    """An SVG: a row a floor, the highest on top, an arrow from a folder to each that it imports.

    An arrow that can be told by going through others is left out; one that goes up is red.
    """
    arrows = {pair for pair in floor_arrows(module_imports()) if DOOR not in pair}
    shown = {(a, b) for a, b in arrows if not _goes_round(a, b, arrows)}
    place: dict[str, tuple[float, float]] = {}
    width: dict[str, int] = {}
    for row, floor in enumerate(reversed(FLOORS)):
        for column, folder in enumerate(floor):
            aside = (
                (row * 97) % 260 - 130 if len(floor) < 5 else 0
            )  # few boxes stand above each other
            x = _WIDTH * (column + 1) / (len(floor) + 1) + aside
            place[folder] = (x, 30 + row * _ROW)
            width[folder] = min(_BOX, _WIDTH // (len(floor) + 1) - 6)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {len(FLOORS) * _ROW}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="context-stroke"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{len(FLOORS) * _ROW}" fill="white"/>',
    ]
    for a, b in sorted(shown):
        (x1, y1), (x2, y2) = place[a], place[b]
        half = _HEIGHT / 2
        if y1 == y2:
            y1, y2, bend = y1 + half, y2 + half, 26.0
        else:
            down = 1 if y2 > y1 else -1
            y1, y2, bend = y1 + down * half, y2 - down * half, 0.0
        colour = "#c22" if y2 < y1 else "#567"
        parts.append(
            f'<path d="M{x1:.0f} {y1:.0f}Q{(x1 + x2) / 2:.0f} {(y1 + y2) / 2 + bend:.0f} {x2:.0f} '
            f'{y2:.0f}" fill="none" stroke="{colour}" marker-end="url(#tip)"/>'
        )
    for folder, (x, y) in place.items():
        wide = width[folder]
        parts.append(
            f'<rect x="{x - wide / 2:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{wide}" height="{_HEIGHT}" '
            f'rx="5" fill="#eef3f8" stroke="#567"/><text x="{x:.0f}" y="{y + 5:.0f}" '
            f'text-anchor="middle">{escape(folder)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _goes_round(a: str, b: str, arrows: set[tuple[str, str]]) -> bool:
    """Whether ``b`` is reached from ``a`` through another folder."""
    waiting = [y for x, y in arrows if x == a and y != b]
    seen: set[str] = set()
    while waiting:
        here = waiting.pop()
        if here == b:
            return True
        if here not in seen:
            seen.add(here)
            waiting += [y for x, y in arrows if x == here]
    return False


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
