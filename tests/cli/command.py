"""The command in a real process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.traces import forgotten
from tests.waiting import PATIENCE

__all__ = ["Told", "in_process", "sharpbench"]


def sharpbench(*arguments: str, cwd: Path | None = None, **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "sharpbench", *arguments],
        capture_output=True, text=True, timeout=PATIENCE, cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment},
    )  # fmt: skip


class Told(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


def in_process(capsys, monkeypatch, *arguments: str) -> Told:
    """The command in this process, which has imported everything; an exception it lets out is raised.

    What it imports from the current folder goes with it, as with a process.
    """
    from sharpbench import cli

    monkeypatch.setattr(sys, "argv", ["sharpbench", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    with forgotten(), pytest.raises(SystemExit) as ended:
        cli.main()
    return Told(ended.value.code, *capsys.readouterr())
