"""What the terminal shows: lines that are never cut, quiet and verbose, defaults in a file, completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sharpbench.suite.forecast import Expected
from tests.cli.command import in_process, sharpbench
from tests.conftest import MINI_SUITE
from tests.waiting import PATIENCE

PLAIN = """
name = "plain"
seeds = [0]

[[subjects]]
dataset = { name = "two_moons", n = 100 }
model = { name = "mlp", widths = [4], activation = "relu" }
recipe = [{ name = "adam", epochs = 1 }, { name = "sgd", lr = [1e38, 1e37], epochs = 3 }]

[[metrics]]
name = "parameter_norm"

[cost]
repeats = 0
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mini.toml").write_text(MINI_SUITE)
    (tmp_path / "plain.toml").write_text(PLAIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_piped_output_has_a_subject_a_line_however_narrow_it_is(here):
    done = sharpbench("run", "mini.toml", "--dry-run", COLUMNS="40")
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == 16
    assert all("two_moons(" in row and "seed=" in row and "9 of 9" in row for row in rows)
    assert "…" not in done.stdout
    assert "How long it takes can't be told: this results folder holds no costs" in done.stdout


def test_quiet_prints_what_goes_wrong_and_the_log_keeps_all(here, capsys, monkeypatch):
    run = ("run", "plain.toml", "--engine", "inline", "--log-file", "logs/run.txt")
    done = in_process(capsys, monkeypatch, *run, "--quiet")
    assert done.code == 1
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("failed: two_moons(n=100)") for line in lines)
    log = (here / "logs" / "run.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in log)
    text = "\n".join(log)
    assert "$ sharpbench run plain.toml" in log[0]
    for told in ("[1/3] two_moons", "3 subjects: 1 trained, ", "failed: ", "parameter norm"):
        assert told in text
    loud = in_process(capsys, monkeypatch, *run, "--verbose")
    assert (
        "3 subjects: 0 trained, 1 from the results folder, 2 whose training failed; 0 rec"
        in loud.out
    )
    assert "parameter norm" in loud.out  # the scorecard
    assert len((here / "logs" / "run.txt").read_text().splitlines()) > len(log)
    both = in_process(capsys, monkeypatch, *run, "-q", "-v")
    assert both.code == 2
    assert "--quiet and --verbose exclude each other" in both.err


def test_networks_of_ones_own_are_neither_trained_nor_cached(here, capsys, monkeypatch):
    (here / "nets.py").write_text("import torch\nbuild = lambda: torch.nn.Linear(64, 10)\n")
    (here / "zoo.toml").write_text(
        'name = "zoo"\nseeds = 1\n[[networks]]\nmodel = "nets:build"\ndataset = { name = "digits" }\n'
        '[[metrics]]\nname = "parameter_norm"\n'
        '[[problems]]\nproblem = { name = "least_squares" }\nmetrics = { name = "parameter_norm" }\n'
    )
    dry = in_process(capsys, monkeypatch, "run", "zoo.toml", "--dry-run")
    assert "1 network of your own, 1 problem; 2 measurements to make." in dry.out
    done = in_process(capsys, monkeypatch, "run", "zoo.toml", "--engine", "inline", "--no-report")
    assert "2 subjects: 1 network of your own, 1 problem; " in done.out


@pytest.mark.parametrize(
    ("expected", "workers", "told"),
    [
        ([Expected()], 1, ""),
        ([Expected(60.0, 3), Expected(60.0, 3)], 2, "It takes about 60 s on 2 workers, by the rec"),
        ([Expected(0.0, 3, 3, True, True)], 1, "How long it takes can't be told: this results"),
        (
            [Expected(600.0, 30, 10), Expected(0.0, 0, 0, True, True)],
            1,
            "What was done before on like networks takes about 10 min. How long 10 of 30 measurements and "
            "all trainings take can't be told: nothing like them is recorded in this results folder yet.",
        ),
    ],
)
def test_a_dry_run_tells_the_time_or_why_it_cant(expected, workers, told):
    from sharpbench.cli.run import _duration

    found = _duration(expected, workers)
    assert found == told or (told and found.startswith(told))


def test_kinds_are_taken_in_the_singular_and_the_plural(here, capsys, monkeypatch):
    both = [
        in_process(capsys, monkeypatch, "list", kind, "--json").out for kind in ("model", "models")
    ]
    assert both[0] == both[1]
    assert "mlp" in {entry["name"] for entry in json.loads(both[0])["models"]}
    shown = [
        in_process(capsys, monkeypatch, "show", kind, "mlp").out for kind in ("model", "models")
    ]
    assert shown[0] == shown[1]
    suite = in_process(capsys, monkeypatch, "show", "suite", "mini.toml")
    assert suite.code == 0
    assert "metrics: curvature_rate, hessian_trace\n" in suite.out
    assert MINI_SUITE.strip() in suite.out
    assert "A first look" in in_process(capsys, monkeypatch, "show", "suites", "quick").out


DEFAULTS = """
results = "elsewhere"
[run]
report = false
engine = "inline"
only = ["label_noise=0.2", "sam"]
[data.status]
data-dir = "data"
"""


@pytest.mark.parametrize("file", ["sharpbench.toml", "pyproject.toml"])
def test_options_have_their_defaults_in_a_file(here, file, capsys, monkeypatch):
    text = DEFAULTS
    if file == "pyproject.toml":
        text = re.sub(r"^\[", "[tool.sharpbench.", text, flags=re.MULTILINE)
        text = f"[project]\nname = 'x'\n[tool.sharpbench]\n{text}"
    (here / file).write_text(text)
    done = in_process(capsys, monkeypatch, "run", "plain.toml", "--only", "adam")
    assert done.code == 0
    assert (here / "elsewhere").is_dir()
    assert not (here / "reports").exists()
    dry = in_process(capsys, monkeypatch, "run", "mini.toml", "--dry-run", "--results", "other")
    assert len([line for line in dry.out.splitlines() if line.startswith("│")]) == 12
    assert "data folder: data" in in_process(capsys, monkeypatch, "data", "status").out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('resuts = "x"', "resuts: no verb has it. Did you mean 'results'"),
        ("workers = 0", "workers: "),
        ('workers = "many"', "workers: "),
        ("open = 3", "open: true or false is meant, got 3"),
        ("results = [1]", "results: a single value is meant"),
        ("run = 3", "run: the options of a verb are a table"),
        ("[run]\nrepot = true", "run.repot: run has no such option. Did you mean 'report'"),
        ("[runn]\na = 1", "runn: no verb has it. Did you mean 'run'"),
        ("= 3", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_the_file_of_defaults_is_told(here, text, told, capsys, monkeypatch):
    (here / "sharpbench.toml").write_text(text)
    done = in_process(capsys, monkeypatch, "cite")
    assert done.code == 2
    assert f"sharpbench.toml: {told}" in done.err


def test_somebody_elses_pyproject_is_nobodys_business(here, capsys, monkeypatch):
    (here / "pyproject.toml").write_text("[project\n")
    assert in_process(capsys, monkeypatch, "cite").code == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("show metric hessian_t", {"hessian_top_eigenvalue", "hessian_trace"}),
        ("run pl", {"plain.toml"}),
        ("run cos", {"cost"}),
        ("list suit", {"suites"}),
        ("check logit_n", {"logit_norm"}),
        ("measure --transform neuron_r", {"neuron_rescaling"}),
        ("measure --metric sam_sharpness --dataset dig", {"digits"}),
        ("measure --metric sam_sharpness hessian_tra", {"hessian_trace"}),
        ("measure --transform sign_flip neuron_r", {"neuron_rescaling"}),
        ("measure --metric sam_sharpness --seed 3 hessian_tra", set()),
        ("measure --metric sam_sharpness --dataset-p", {"--dataset-param"}),
        ("run quick --engine i", {"inline"}),
        ("new tr", {"transformation"}),
        ("data prepare fash", {"fashion_mnist"}),
    ],
)
def test_the_shell_completes_names(here, words, found):
    told = subprocess.run(
        [Path(sys.executable).with_name("sharpbench")],
        env={
            **os.environ,
            "_SHARPBENCH_COMPLETE": "complete_bash",
            "COMP_WORDS": f"sharpbench {words}",
            "COMP_CWORD": str(len(words.split())),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert set(told.stdout.split()) == found, told.stderr


def test_every_verb_teaches_what_it_does_and_what_each_option_is_for():
    from sharpbench.cli.app import app

    def verbs(group, above=()):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from verbs(command, (*above, name))
            else:
                yield " ".join((*above, name)), command

    found = dict(verbs(typer.main.get_command(app)))
    assert len(found) >= 24
    for name, command in found.items():
        told = [*command.help.splitlines()]
        assert told[0].endswith("."), name
        # A paragraph is one line, broken where the window ends; a command is a line of its own.
        assert all(line.startswith("  sharpbench ") for line in told if line.startswith(" ")), name
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                assert parameter.help, (name, parameter.name)
