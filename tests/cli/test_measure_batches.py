"""measure, on a user's own batches and files."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.results.store import ResultsStore
from sharpbench.subject import Subject
from tests.cli.command import in_process, sharpbench
from tests.waiting import PATIENCE

CODE = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(9, 3), nn.Linear(3, 2)

    def forward(self, tokens):
        return {"logits": self.head(torch.tanh(self.embedding(tokens)).mean(1))}

def build():
    return Encoder()

def batches():
    for n in (3, 2):
        yield {"tokens": torch.arange(4 * n).view(n, 4) % 9, "labels": torch.arange(n) % 2}

def mean_loss(model, batch):
    return nn.functional.cross_entropy(model(batch["tokens"])["logits"], batch["labels"])

def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))

def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))

def pair():
    return torch.zeros(2, 3), torch.arange(2)

def named():
    return [{"ids": torch.zeros(2, 3).long(), "mask": torch.ones(2, 3), "labels": torch.arange(2)}]

CALLED = 3

def broken(): raise KeyError("oops")
"""

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric

@metrics.register
@dataclass(frozen=True)
class WeightCount(Metric):
    \"\"\"The number of trainable weights of the network, which is exact.\"\"\"
    name = "weight_count_of_mine"
    title = "weights"
    unit = ""
    space = "parameter"
    reference = "mine"
    version = 1

    def measure(self, subject, *, seed):
        return Measurement(value=float(sum(p.numel() for p in subject.model.parameters())))
"""


@pytest.fixture
def mine(users_folder):
    files = {"mine_of_measure.py": CODE, "my_metric.py": PLUGIN, "of_no_code.npz": "numbers"}
    folder = users_folder(files)
    np.savez(folder / "alone.npz", x=np.ones((4, 3)))
    return folder


def test_batches_by_name_with_parameters_of_one_metric(mine, capsys, monkeypatch):
    command = ["measure", "--model", "mine_of_measure:build", "--data", "mine_of_measure:batches"]
    command += ["--differentiate", "embedding", "--json", "--metric", "hessian_trace"]
    command += ["curvature_rate", "input_jacobian_norm", "--param", "curvature_rate.directions=3"]
    told = in_process(capsys, monkeypatch, *command, "--param", "samples=4")
    assert told.code == 0, told.err
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["metric"].partition("(")[0] for row in rows] == [
        "hessian_trace",
        "curvature_rate",
        "input_jacobian_norm",
    ]
    assert "directions=3" in rows[1]["metric"]
    assert [row["samples"] for row in rows] == [4, 4, 4]
    assert "its logits are taken" in told.err


def test_a_loss_of_model_and_batch_and_a_plugin(mine):
    told = sharpbench(
        *("measure", "--model", "mine_of_measure:build", "--data", "mine_of_measure:batches"),
        *("--loss", "mine_of_measure:mean_loss", "--plugin", "my_metric.py", "--csv"),
        *("--metric", "hessian_trace,weight_count_of_mine", "--metric", "margin"),
        *("--output", "out"),
        cwd=mine,
    )
    assert told.returncode == 1  # margin has no answer, and the others are kept
    assert "margin" in told.stderr
    assert "model and batch" in told.stderr
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert [row["metric"] for row in rows] == ["hessian_trace", "weight_count_of_mine", "margin"]
    assert [bool(row["reason"]) for row in rows] == [False, False, True]
    assert float(rows[1]["value"]) == 9 * 3 + 3 * 2 + 2
    kept = [json.loads(line) for line in (mine / "out" / "measurements.jsonl").open()]
    assert [bool(row.get("reason")) for row in kept] == [False, False, True]
    page = (mine / "out" / "index.html").read_text()
    assert "weight_count_of_mine" in page
    assert "model and batch" in page


def test_the_curvature_of_every_layer(mine, capsys, monkeypatch):
    command = ["measure", "--model", "mine_of_measure:build", "--data", "mine_of_measure:batches"]
    command += ["--metric", "margin", "--layers"]
    told = in_process(capsys, monkeypatch, *command, "--output", "out")
    assert told.code == 0, told.err
    assert "top_eigenvalue" in told.out
    table = list(csv.DictReader((mine / "out" / "layers.csv").open()))
    assert [row["block"] for row in table] == ["embedding", "head"]
    assert "<svg" in (mine / "out" / "layers.svg").read_text()
    rows = in_process(capsys, monkeypatch, *command, "--json").out.splitlines()
    blocks = [json.loads(row) for row in rows[1:]]
    assert [row["parameters"] for row in blocks] == [27, 8]
    assert str(blocks[1]["trace"]) == table[1]["trace"]


def test_files_of_inputs_and_targets(mine, capsys, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2500, 3, generator=generator)
    y = (x[:, :1] > 0).float()
    np.savez("x.npz", x=x.numpy())
    from safetensors.torch import save_file

    save_file({"y": y}, "y.safetensors")
    command = ["measure", "--model", "mine_of_measure:dense", "--inputs", "x.npz", "--json"]
    command += ["--targets", "y.safetensors", "--loss", "BCEWithLogitsLoss"]
    command += ["--metric", "hessian_trace"]
    told = in_process(capsys, monkeypatch, *command)
    assert told.code == 0, told.err
    assert "2000 of 2500 samples are drawn" in told.err
    assert json.loads(told.out)["samples"] == 2000
    every = in_process(capsys, monkeypatch, *command, "--samples", "all")
    import mine_of_measure

    subject = Subject(mine_of_measure.dense(), x, y, nn.BCEWithLogitsLoss())
    assert json.loads(every.out)["value"] == sb.measure(subject, "hessian_trace").value


def test_arrays_of_any_byte_order_and_what_is_no_number(mine, capsys, monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20.0)
    np.save("x.npy", x)
    np.savez("large.npz", x=x.astype(">f8"))
    np.save("y.npy", y)
    np.save("words.npy", y.astype(str))
    np.save("short.npy", y[:19])

    def told(inputs, targets):
        command = ["measure", "--model", "mine_of_measure:dense", "--metric", "gradient_norm"]
        command += ["--inputs", inputs, "--targets", targets, "--loss", "L1Loss", "--csv"]
        return in_process(capsys, monkeypatch, *command)

    assert told("large.npz", "y.npy").out == told("x.npy", "y.npy").out
    words, short = told("x.npy", "words.npy"), told("x.npy", "short.npy")
    assert (words.code, short.code) == (2, 2)
    assert "'words.npy' holds <U" in words.err
    assert "20 samples ('x' (20, 3)), and short.npy 19 targets (19,)" in short.err


def test_a_rotation_of_inputs_is_none_of_the_numbers_of_samples(mine, capsys, monkeypatch):
    """Those are one wide, where a rotation turns nothing: it was held against the network's function."""
    command = ["measure", "--model", "mine_of_measure:dense", "--metric", "gradient_norm", "--csv"]
    np.savez("x.npz", x=np.ones((5, 3)), y=np.arange(5.0))
    told = in_process(
        capsys, monkeypatch, *command, "--inputs", "x.npz", "--transform", "input_rotation",
        "--loss", "L1Loss",
    )  # fmt: skip
    assert told.code == 1
    assert "changes what the network is given, and it is given batches" in told.err


def test_invariance_of_ones_own_network(mine, capsys, monkeypatch):
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(20, 3)), labels=np.arange(20) % 2)
    (mine / "more_of_measure.py").write_text(
        CODE + "\ndef two():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()\n"
        "def forward(model, batch): return model(batch['x'])\n"
    )
    command = ["measure", "--model", "more_of_measure:two", "--inputs", "x.npz", "--json"]
    command += ["--forward", "more_of_measure:forward", "--metric", "hessian_trace", "margin"]
    told = in_process(
        capsys, monkeypatch, *command, "--transform", "neuron_rescaling", "--transform", "rotation"
    )
    assert told.code == 2
    assert "rotation" in told.err
    told = in_process(capsys, monkeypatch, *command, "--transform", "neuron_rescaling")
    assert told.code == 0, told.err
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["transformation"] for row in rows] == [None] * 2 + ["neuron_rescaling"] * 2
    assert rows[3]["value"] == pytest.approx(rows[1]["value"], rel=1e-9)
    assert rows[2]["value"] != pytest.approx(rows[0]["value"], rel=0.01)


SLOW = PLUGIN.replace("weight_count_of_mine", "endless_of_mine").replace(
    "        return", "        import time; time.sleep(1e6)\n        return"
)
DEEP = """
def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
def rows():
    return [(torch.linspace(-1, 1, 60).view(20, 3), torch.arange(20) % 2)]
"""


def test_a_folder_holds_a_suites_records_and_their_report(mine, capsys, monkeypatch):
    (mine / "deep_of_measure.py").write_text(CODE + DEEP)
    command = ["measure", "--model", "deep_of_measure:deep", "--data", "deep_of_measure:rows"]
    command += ["--metric", "hessian_trace", "margin", "--transform", "neuron_rescaling", "--json"]
    plain = in_process(capsys, monkeypatch, *command)
    kept = in_process(capsys, monkeypatch, *command, "--output", "out")
    assert (plain.code, kept.code) == (0, 0), kept.err
    assert kept.out == plain.out  # the same figures to the last digit, printed alike
    assert "left as they are" in plain.err
    frame = sb.load_records("out/results", suite="measured").query("kind == 'measurement'")
    figures = [json.loads(line)["value"] for line in plain.out.splitlines()]
    assert frame["value"].tolist() == figures
    (told,) = set(frame["left_alone"].dropna())
    assert "2 (its activation is not positively homogeneous)" in told
    page = (mine / "out" / "index.html").read_text()
    assert told in page
    assert (mine / "out" / "scorecard.json").exists()
    written = next((mine / "out" / "results").glob("*/measurements.jsonl"))
    lines = written.read_text().splitlines()
    again = in_process(capsys, monkeypatch, *command, "--output", "out")
    assert again.out == plain.out
    assert written.read_text().splitlines() == lines  # nothing is measured twice


def test_ctrl_c_keeps_what_was_measured_and_writes_its_report(mine):
    (mine / "slow_metric.py").write_text(SLOW)
    command = [sys.executable, "-m", "sharpbench", "measure", "--model", "mine_of_measure:build"]
    command += ["--data", "mine_of_measure:batches", "--plugin", "slow_metric.py", "--csv"]
    command += ["--metric", "parameter_norm", "endless_of_mine", "--output", "out"]
    process = subprocess.Popen(
        command, cwd=mine, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    shown = [process.stdout.readline() for _ in range(2)]  # the second metric runs
    assert shown[1].startswith(b"parameter_norm,")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, told
    assert b"resumes" in told
    assert b"Traceback" not in told
    frame = sb.load_records(mine / "out" / "results").query("kind == 'measurement'")
    assert frame["name"].tolist() == ["parameter_norm"]
    assert "parameter norm" in (mine / "out" / "index.html").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_bar_on_the_terminal_leaves_a_pipe_the_figures(mine):
    import pty

    mine_side, theirs = pty.openpty()
    shown = []

    def read():  # a bar that goes on for long would fill the terminal that nobody reads
        with suppress(OSError):  # that of the other side's end
            while part := os.read(mine_side, 1 << 16):
                shown.append(part)

    reading = threading.Thread(target=read)
    reading.start()
    try:
        told = subprocess.run(
            [sys.executable, "-m", "sharpbench", "measure", "--model", "mine_of_measure:build", "--json",
             "--data", "mine_of_measure:batches", "--metric", "parameter_norm"],
            cwd=mine, stdout=subprocess.PIPE, stderr=theirs, timeout=PATIENCE,
        )  # fmt: skip
    finally:
        os.close(theirs)
        reading.join()
        os.close(mine_side)
    bar = b"".join(shown)
    assert json.loads(told.stdout)["metric"] == "parameter_norm"
    assert b"0/1" in bar
    assert b"{" not in bar


ODD = """
import math
from dataclasses import dataclass
from sharpbench.errors import InputError
from sharpbench.measurement import Measurement
from sharpbench.metrics.base import Metric

@dataclass(frozen=True)
class Odd(Metric):
    \"\"\"What a metric may do that no figure comes of.\"\"\"
    name, title, unit, space = "odd_of_mine", "odd", "", "parameter"
    does: str = "infinite"

    def measure(self, subject, *, seed):
        print("a metric that prints")
        if self.does == "wrong":
            raise InputError("the network can't be measured so")
        details = {"infinite": {"a": math.inf}, "endless": {"a": [0.5] * 400_000}, "object": {"a": object()}}
        return Measurement(1.0, samples=1, details=details.get(self.does, {}))
"""


@pytest.fixture
def odd(mine, capsys, monkeypatch):
    """The command on a small network, with a metric that ``does`` something else each time."""
    (mine / "odd_metric.py").write_text(ODD)
    (mine / "odd_of_measure.py").write_text(CODE + DEEP)

    def told(*options, does="infinite"):
        command = ["measure", "--model", "odd_of_measure:deep", "--data", "odd_of_measure:rows"]
        command += ["--metric", "odd_metric.py:Odd", "parameter_norm", "--param", f"does={does}"]
        return in_process(capsys, monkeypatch, *command, *options)

    return told


@pytest.mark.parametrize(
    ("does", "code", "reason"),
    [
        ("infinite", 1, "can't be stored as JSON"),
        ("object", 1, "can't be stored as JSON"),
        ("endless", 1, "MiB, a figure's record at most 1"),
        ("wrong", 2, "the network can't be measured so"),
        ("well", 0, None),
    ],
)
def test_with_a_folder_and_without_one_the_same_is_said(odd, mine, does, code, reason):
    change = ["--transform", "neuron_rescaling", "attention_gl"]
    every = {}
    for form in ("--json", "--csv"):
        plain = odd(form, *change, does=does)
        kept = odd(form, *change, "--output", f"out{form}", does=does)
        every[form] = kept.out
        assert plain.out == kept.out
        assert plain.code == kept.code == max(code, 1)  # no attention
        assert "a metric that prints" in kept.err
    assert every["--json"] == (mine / "out--json" / "measurements.jsonl").read_text()
    assert every["--csv"] == (mine / "out--csv" / "measurements.csv").read_text()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in every["--json"].splitlines()]
    assert [row["transformation"] for row in rows] == [
        *[None] * 2, *["neuron_rescaling"] * 2, *["attention_gl"] * 2,
    ]  # fmt: skip
    assert [row.get("reason") is None for row in rows] == [reason is None, True] * 2 + [False] * 2
    assert reason is None or reason in rows[0]["reason"]
    assert "no attention" in rows[4]["reason"]
    told = [row["reason"] for row in csv.DictReader(io.StringIO(every["--csv"]))]
    assert told == [row.get("reason", "") for row in rows]


def test_a_metric_s_file_may_have_any_name(odd, mine):
    away = mine / "my metrics, of 2026"
    away.mkdir()
    (mine / "odd_metric.py").rename(away / "odd one.py")
    for place in ("my metrics, of 2026/odd one.py", str(away / "odd one.py")):
        told = sharpbench(
            *("measure", "--model", "odd_of_measure:deep", "--data", "odd_of_measure:rows"),
            *("--metric", f"{place}:Odd", "parameter_norm,gradient_norm", "--json"),
            *("--param", "does=well", "--output", "out"),
            cwd=mine,
        )
        assert told.returncode == 0, told.stderr
        assert [json.loads(line)["metric"] for line in told.stdout.splitlines()] == [
            "odd_of_mine(does=well)", "parameter_norm", "gradient_norm",
        ]  # fmt: skip


def test_samples_are_heard_by_layers_and_unheard_not_in_silence(odd, mine):
    told = odd("--metric", "gradient_norm", "--samples", "7", "--layers", "--csv", does="well")
    assert told.code == 0, told.err
    rows = list(csv.DictReader(io.StringIO(told.out)))  # one table
    assert [row["samples"] for row in rows if row["metric"].startswith("gradient")] == ["7"]
    layers = [row for row in rows if row["block"]]
    assert [row["metric"] for row in layers[:3]] == ["trace", "frobenius_norm", "top_eigenvalue"]
    assert {row["samples"] for row in layers} == {"7"}
    assert "layers: 7 of 20 samples are drawn; --samples all takes all" in told.err
    import odd_of_measure

    subject = Subject.from_batches(odd_of_measure.deep(), odd_of_measure.rows())
    table = sb.by_layer(subject, samples=7)
    assert [float(row["value"]) for row in layers[::3]] == table["trace"].tolist()
    assert "parameter_norm draws none" in odd("--samples", "7", does="well").err
    more = odd("--metric", "gradient_norm", "--samples", "70", does="well")
    assert "gradient_norm: there are 20 samples, and all are taken" in more.err


@pytest.mark.parametrize("name", ["suite.toml", "index.html", "measurements.csv", "layers.csv"])
def test_what_others_wrote_into_a_folder_stays(odd, mine, name):
    (mine / "theirs").mkdir()
    (mine / "theirs" / name).write_text("precious")
    told = odd("--output", "theirs")
    assert told.code == 2
    assert f"--output 'theirs' holds {name}, which this command didn't write" in told.err
    assert [p.name for p in (mine / "theirs").iterdir()] == [name]
    assert (mine / "theirs" / name).read_text() == "precious"


def test_what_is_left_of_an_earlier_command_is_told(odd, mine):
    assert odd("--output", "out", "--layers", does="well").code == 0
    told = odd("--output", "out", does="well")
    assert "out/layers.csv is of an earlier command: --layers writes it anew" in told.err
    assert "earlier" not in odd("--output", "out", "--layers", does="well").err


def test_a_folder_that_another_command_holds_keeps_its_suite(odd, mine):
    assert odd("--output", "out", does="well").code == 0
    before = (mine / "out" / "suite.toml").read_text()
    with ResultsStore(mine / "out" / "results").locked(wait=False, say=print):
        told = odd("--output", "out", "--metric", "gradient_norm", does="well")
    assert told.code == 2
    assert "in use by" in told.err
    assert (mine / "out" / "suite.toml").read_text() == before


def test_the_suite_of_a_dataset_of_one_s_own_names_its_file(mine, capsys, monkeypatch):
    (mine / "own_points.py").write_text(POINTS)
    command = ["measure", "--model", "mine_of_measure:dense", "--dataset", "own_points.py"]
    command += [
        "--dataset-param",
        "n=12",
        "--loss",
        "L1Loss",
        "--metric",
        "parameter_norm",
        "--json",
    ]
    told = in_process(capsys, monkeypatch, *command, "--output", "out")
    assert told.code == 0, told.err
    # In a worker process, which has not seen the file.
    again = sharpbench("run", "out/suite.toml", "--engine", "process", "--no-report", cwd=mine)
    assert again.returncode == 0, again.stderr
    assert "points_of_mine(n=12)" in again.stderr
    frame = sb.load_records(mine / "results").query("kind == 'measurement'")
    assert frame["value"].tolist() == [json.loads(told.out)["value"]]


POINTS = """
from dataclasses import dataclass
import torch
from sharpbench.datasets.base import Dataset
from sharpbench.subject import Splits

@dataclass(frozen=True)
class Points(Dataset):
    \"\"\"Points on a line.\"\"\"
    name = "points_of_mine"
    n: int = 20

    def clean(self, root, *, seed):
        x = torch.linspace(-1, 1, 3 * self.n).view(self.n, 3)
        return Splits(x, x[:, :1], x, x[:, :1], 1, "regression")
"""


def test_all_words_behind_an_option_of_several_values_are_its_own(mine, capsys, monkeypatch):
    second = PLUGIN.replace("weight_count_of_mine", "second_count_of_mine")
    (mine / "second.py").write_text(second.replace("WeightCount", "SecondCount"))
    command = ["measure", "--model", "mine_of_measure:wide", "--dataset", "digits", "--json"]
    command += ["--metric", "parameter_norm", "logit_norm,weight_count_of_mine", "logit_norm"]
    command += ["second_count_of_mine"]
    command += ["--dataset-param", "train_size=30", "label_noise=0.5"]
    command += ["--plugin", "my_metric.py", "second.py"]
    command += ["--transform", "neuron_permutation", "neuron_rescaling"]
    command += ["--param", "samples=5", "logit_norm.split=train", "neuron_rescaling.strength=2.0"]
    told = in_process(capsys, monkeypatch, *command, "--output", "out")
    assert told.code == 0, told.err
    rows = [json.loads(line) for line in told.out.splitlines()]
    asked = ["parameter_norm", "logit_norm", "weight_count_of_mine", "second_count_of_mine"]
    changes = [None, "neuron_permutation", "neuron_rescaling(strength=2)"]
    found = [(row["metric"].partition("(")[0], row.get("transformation")) for row in rows]
    assert sorted(found, key=str) == sorted(((m, c) for m in asked for c in changes), key=str)
    assert {row["samples"] for row in rows if "logit" in row["metric"]} == {5}
    written = (mine / "out" / "suite.toml").read_text()
    assert '"train_size" = 30' in written
    assert "strength = 2.0" in written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--dataset NAME"),
        (["--dataset", "digits", "--data", "x:y"], "got --dataset and --data"),
        (["--targets", "y.npz", "--dataset", "digits"], "--targets goes with --inputs"),
        (["--inputs", "alone.npz"], "name the targets by --targets FILE"),
        (["--data", "mine_of_measure:absent"], "has no 'absent'"),
        (["--data", "mine_of_measure:batchs"], "Did you mean 'batches'"),
        (["--data", "mine_of_mesure:batches"], "Did you mean 'mine_of_measure'"),
        (["--data", "./mine_of_measure.py:batches"], "write mine_of_measure:batches"),
        (["--data", "mine_of_measure:pair"], "write [(inputs, targets)]"),
        (["--data", "mine_of_measure:build"], "got a Encoder"),
        (
            ["--data", "mine_of_measure:batches", "--forward", "mine_of_measure:CALLED"],
            "a function",
        ),
        (["--data", "mine_of_measure:named"], "(at the command line --forward package.module"),
        (["--data", "mine_of_measure:broken"], "KeyError"),
        (["--inputs", "absent.npz"], "there is no file"),
        (
            ["--inputs", "my_metrics.npz"],
            "there is no file 'my_metrics.npz'. Did you mean 'my_metric.py'",
        ),
        (["--inputs", "away/x.npz"], "there is no folder 'away'"),
        (["--inputs", "mine_of_measure.py"], ".safetensors, .npz or .npy"),
        (
            ["--data", "mine_of_measure:batches", "--loss", "CrossEntropy"],
            "mean 'CrossEntropyLoss'",
        ),
        (["--data", "mine_of_measure:batches", "--loss", "mine"], "package.module:function"),
        (["--data", "mine_of_measure:batches", "--normaliser", "token"], "not one of 'samples'"),
        (["--data", "mine_of_measure:batches", "--param", "sam.rho=1"], "not asked for here"),
        (["--data", "mine_of_measure:batches", "--param", "tolerence=1"], "tolerance"),
        (["--data", "mine_of_measure:batches", "--samples", "none"], "--samples"),
        (["--data", "mine_of_measure:batches", "--plugin", "absent.py"], "there is no file"),
        (["--plugin", "mine_of_measure.py"], "mine_of_measure.py holds no plug-in"),
        (["--plugin", "of_no_code.npz"], "of_no_code.npz' is no Python file (it must end in .py)"),
        (["--param", "parameters_of=head"], "'parameters_of' = 'head': a list is meant"),
        (["--data", "mine_of_measure:batches", "--json", "--csv"], "exclude each other"),
        (["--dataset", "digits", "--dataset-param", "noise=1"], "no parameter 'noise'"),
        (["--dataset-param", "noise=1"], "goes with --dataset"),
        (["--dataset", "digits", "--test", "mine_of_measure:batches"], "its own test data"),
        (["--json", "margin"], "'margin' stands behind --json, which takes no value; --metric,"),
        (["--seed", "0", "margin"], "'margin' stands behind --seed, which takes one value"),
        (["--", "margin"], "'margin' is no option's"),
        (["--param", "--seed", "3"], "--param takes a value, and --seed stands in its place"),
        (["--transform", "margin"], "'margin' is a metric, and no transformation: write --metric"),
        (["--metric", "sign_flip"], "is a transformation, and no metric: write --transform"),
        (["--transform", "sign_flip", "sign_flap"], "Did you mean 'sign_flip'"),
        (["--transform", ","], "--transform names no transformation"),
        (["--seed", "1", "--seed=2"], "--seed stands twice: it takes one value"),
        (["--seed", str(2**63)], "less than or equal to 9223372036854775807"),
        (
            ["--samples", "3", "--param", "samples=4"],
            "--samples and --param samples=… say the same",
        ),
        (["--samples", "true"], "--samples 'true' must be a number from 1"),
        (
            ["--transform", "neuron_rescaling", "--param", "strength=2.0"],
            "parameter of the transformation neuron_rescaling, which is given to it alone: write "
            "neuron_rescaling.strength=…",
        ),
        (["--output", "my_metric.py"], "--output 'my_metric.py' is a file: name a folder"),
        (["--data", "mine_of_measure:batches", "--test", "mine_of_measure:absent"], "no 'absent'"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(mine, capsys, monkeypatch, options, message):
    command = ["measure", "--model", "mine_of_measure:build", "--metric", "hessian_trace"]
    told = in_process(capsys, monkeypatch, *command, *options)
    assert told.code == 2
    assert message in " ".join(told.err.split())
    assert "Traceback" not in told.err
