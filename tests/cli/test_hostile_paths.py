"""Verbs with paths and names that no one expects: a sentence and exit 2, or the work done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.command import in_process, sharpbench
from tests.conftest import MINI_SUITE

SMALL = """
name = "small"
title = "[/red] small"
seeds = [0]

[[problems]]
problem = { name = "sine" }
metrics = { name = "curvature_rate", target = 0, orders = [1, 2] }
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with one problem solved; where the command runs."""
    folder = tmp_path_factory.mktemp("paths")
    (folder / "small.toml").write_text(SMALL)
    (folder / "mini.toml").write_text(MINI_SUITE)
    done = sharpbench("run", "small.toml", "--no-report", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "file").write_text("x")
    os.mkfifo(folder / "fifo")
    (folder / "table.csv").mkdir()
    (folder / "empty").mkdir()
    os.symlink("circle", folder / "circle")
    return folder


@pytest.fixture(autouse=True)
def _there(results, monkeypatch):
    monkeypatch.chdir(results)


REFUSED = {
    ("export", "x"): "must end in .parquet or .csv",
    ("export", ""): "must end in .parquet or .csv",
    ("export", "table.csv"): "table.csv: Is a directory",
    ("export", "file/x.csv"): "file",
    ("export", "/proc/x.csv"): "/proc/x.csv",
    ("export", "x" * 300 + ".csv"): "File name too long",
    ("export", "x.csv", "--suite", "smal"): "Did you mean 'small'",
    ("export", "x.csv", "--suite", "../small"): "no results of suite",
    ("export", "x.csv", "--results", "fifo"): "no results folder fifo",
    ("export", "x.csv", "--results", "circle"): "no results folder circle",
    ("export", "x.csv", "--results", "/dev/zero"): "no results folder",
    ("export", "x.csv", "--results", "[/red]"): "no results folder [/red]",
    ("report", "smal"): "Did you mean 'small'",
    ("report", "[/red]"): "no results of suite '[/red]'",
    ("report", "/etc/passwd"): "no results of suite",
    ("report", "small", "--reports", "file"): "file/small",
    ("compare", "results", "fifo"): "no results folder fifo",
    ("compare", "empty", "results"): "no results in empty",
    ("run", "fifo", "--dry-run"): "is a FIFO, not a file",
    ("run", "/dev/zero", "--dry-run"): "is a device, not a file",
    ("run", "[/red].toml", "--dry-run"): "there is no file '[/red].toml'",
    ("run", "\udcff.toml", "--dry-run"): "udcff.toml",
    ("run", "mini.toml", "--dry-run", "--only", "[/red]"): "matches none of the subjects",
    ("show", "metric", "[/red]"): "unknown metric '[/red]'",
    ("show", "[/red]", "x"): "unknown kind '[/red]'",
    ("show", "metric", "\udcff"): "unknown metric",
    ("list", "[/red]"): "unknown kind '[/red]'",
    ("check", "a:b:c"): "'a:b': No module named 'a'",
    ("check", "nowhere:X"): "No module named 'nowhere'",
    ("check", "[/red]:x"): "there is no file",
    ("data", "prepare", "mnits"): "Did you mean 'mnist'",
    ("data", "prepare", "mnist", "--from", "fifo", "--data-dir", "d"): "is not a folder",
    ("data", "prepare", "mnist", "--from", "empty", "--data-dir", "d"): "name it with --from",
    ("data", "prepare", "mnist", "--from", "[/red]", "--data-dir", "d"): "[/red] is not a folder",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda a: " ".join(a)[:40])
def test_what_can_t_be_is_told(capsys, monkeypatch, arguments):
    told = in_process(capsys, monkeypatch, *arguments)
    assert told.code == 2
    assert REFUSED[arguments] in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "[/blue]/[a].csv"), "[/blue]/[a].csv: 1 row"),
        (("export", "a b ü.parquet"), "a b ü.parquet: 1 row"),
        (("run", "mini.toml", "--dry-run", "--results", "[/blue]"), "16 to train"),
        (("data", "status", "--data-dir", "[/blue]"), "data folder: [/blue]"),
        (("data", "status", "--data-dir", "fifo"), "digits: needs no files"),
        (("compare", "results", "results"), "0 of them differ"),
        (("show", "transformation", "composition"), "parameters"),
    ],
)
def test_paths_with_brackets_spaces_and_other_letters_are_paths(
    capsys, monkeypatch, arguments, said
):
    told = in_process(capsys, monkeypatch, *arguments)
    assert told.code == 0, told.err
    assert said in told.out
    if arguments[0] == "export":
        assert Path(arguments[1]).is_file()


def test_a_disk_that_is_full_is_told(capsys, monkeypatch):
    from sharpbench.results import export

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_table", full)
    told = in_process(capsys, monkeypatch, "export", "x.csv")
    assert (told.code, told.out, told.err) == (2, "", "error: No space left on device\n")
