"""asv without its traps: the checkout's own benchmarks in the running environment.

asv's managed environments would download torch with gigabytes of CUDA for each one; here the packages of
the running interpreter serve, and only sharpbench itself is taken from the commit that is measured, through
a worktree. Threads of every BLAS are pinned to one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sharpbench.errors import InputError

__all__ = ["compare", "publish", "results_folder", "run"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run(bench: str | None, *, quick: bool, commit: str = "HEAD") -> int:
    """Measure one commit and keep the results under ``.asv/results``; asv's exit status."""
    root = _checkout()
    sha = _resolve(root, commit)
    with _worktree(root, sha) as tree:
        return _asv(root, _run_arguments(sha, bench, quick), source=tree)


def compare(before: str, after: str, bench: str | None, *, quick: bool, factor: float) -> int:
    """Measure two commits with the benchmarks of this checkout, and show what changed by ``factor``.

    ``quick``: one sample of each, from which nothing is concluded.
    """
    root = _checkout()
    shas = [_resolve(root, commit) for commit in (before, after)]
    for sha in shas:
        with _worktree(root, sha) as tree:
            if status := _asv(root, _run_arguments(sha, bench, quick), source=tree):
                return status
    return 0 if quick else _asv(root, ["compare", "--factor", str(factor), "--split", *shas])


def results_folder() -> Path:
    """Where asv keeps what it measured of this checkout."""
    root = _checkout()
    told = json.loads((root / "asv.conf.json").read_text("utf-8"))
    return root / str(told.get("results_dir", "results"))


def publish() -> tuple[int, Path]:
    """Write the results' HTML; asv's exit status and the page."""
    root = _checkout()
    status = _asv(root, ["publish"])
    return status, root / ".asv" / "html" / "index.html"


def _run_arguments(sha: str, bench: str | None, quick: bool) -> list[str]:
    try:
        re.compile(bench or "")
    except re.error as error:
        raise InputError(f"--bench {bench!r} is not a regular expression: {error}") from None
    # Results in the running environment are kept only for a commit that is named.
    arguments = ["run", "-E", f"existing:{sys.executable}", "--set-commit-hash", sha]
    arguments += ["--bench", bench] if bench else []
    return [*arguments, *(["--quick"] if quick else []), "--show-stderr"]


def _checkout() -> Path:
    """The checkout with asv.conf.json. Raises InputError where there is none, or no asv."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "asv.conf.json").is_file():
            break
    else:
        raise InputError(
            "perf needs a checkout of sharpbench: no asv.conf.json here or in a folder above"
        )
    if importlib.util.find_spec("asv") is None:
        raise InputError("asv is not installed: pip install -c constraints.txt -e '.[test]'")
    return folder


def _resolve(root: Path, commit: str) -> str:
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", f"{commit}^{{commit}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        raise InputError(f"{commit!r} is not a commit of {root}")
    return found.stdout.strip()


@contextmanager
def _worktree(root: Path, sha: str) -> Iterator[Path]:
    """A folder with the files of a commit, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sharpbench-perf-") as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(root), "worktree"]
        added = subprocess.run(
            [*git, "add", "--detach", "--quiet", str(tree), sha],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if added.returncode:
            raise InputError(f"git can't bring the files of {sha[:10]}: {added.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _asv(root: Path, arguments: Sequence[str], *, source: Path | None = None) -> int:
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1")}
    if source is not None:
        # PYTHONPATH is taken away from benchmarks by asv; this one is not.
        environment["ASV_PYTHONPATH"] = str(source)
    machine = [sys.executable, "-m", "asv", "machine", "--yes"]
    subprocess.run(machine, cwd=root, env=environment, capture_output=True, check=False)
    command = [sys.executable, "-m", "asv", *arguments]
    return subprocess.run(command, cwd=root, env=environment, check=False).returncode
