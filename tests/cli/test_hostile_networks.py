"""measure, with builders that misbehave and files that are no weights: a sentence, never a traceback."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.command import in_process
from tests.waiting import PATIENCE

NETS = """
import sys, warnings
import torch
from torch import nn

def mlp(outputs=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, outputs))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()
    def forward(self, x):
        return self.net(x)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.c(self.b(self.a(x.flatten(1))))

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.b = nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 10)
    def forward(self, x):
        return self.b(self.n(self.a(x.flatten(1))))

class NeedsArguments(nn.Module):
    def __init__(self, size): super().__init__()

class NoInit(nn.Module):
    def __init__(self): self.x = nn.Linear(2, 2)

class Untold(Exception):
    def __str__(self): raise RuntimeError

def raising(error):
    def build(): raise error
    return build

def forwarding(f):
    return lambda: type("Odd", (Net,), {"forward": f})()

def needs(*, size): return mlp()
def returns_class(): return Net
def state(): return mlp().state_dict()
async def coroutine(): return mlp()
def generator(): yield mlp()
def recursive(): return recursive()
def huge(): return torch.zeros(10**15)
leaves, interrupts, ends = raising(SystemExit("bye")), raising(KeyboardInterrupt()), raising(GeneratorExit())
untold, marked = raising(Untold()), raising(ValueError("[/red] \\udcff"))
many = raising(ValueError("a\\n" * 500))
five, word = 5, "x"
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(10))
def meta():
    with torch.device("meta"): return mlp()
def integers():
    net = mlp()
    net[1].weight = nn.Parameter(torch.zeros(4, 64, dtype=torch.int64), requires_grad=False)
    return net
def nan():
    net = mlp()
    net[1].weight.data[0, 0] = float("nan")
    return net
def three(): return mlp(3)
gives_none, gives_tuple = forwarding(lambda s, x: None), forwarding(lambda s, x: (s.net(x),))
gives_one, gives_text = forwarding(lambda s, x: s.net(x).sum()), forwarding(lambda s, x: "x")
gives_ids = forwarding(lambda s, x: s.net(x).argmax(1))
gives_row, gives_nothing = forwarding(lambda s, x: s.net(x)[:1]), forwarding(lambda s, x: s.net(x)[:, :0])
forward_leaves, forward_raises = forwarding(lambda s, x: sys.exit(0)), forwarding(lambda s, x: 1 / 0)
forward_interrupts = forwarding(lambda s, x: (_ for _ in ()).throw(KeyboardInterrupt()))
needs_more = forwarding(lambda s, x, y: s.net(x))
def prints():
    print("built")
    return mlp()
prints_on = forwarding(lambda s, x: (print("forward"), s.net(x))[1])
"""

BUILDERS = {
    "": "must be package.module:function",
    "hostile_nets": "must be package.module:function",
    "hostile_nets:": "must be package.module:name",
    "hostile_nets:mlp:x": "has no 'mlp:x'",
    "hostile_nets:[/red]": "must be package.module:name",
    "nowhere:build": "No module named 'nowhere'",
    "./hostile_nets.py:mlp": "write hostile_nets:mlp",
    "hostile_syntax:build": "raised SyntaxError: invalid syntax",
    "hostile_nul:build": "raised SyntaxError: source code string cannot contain null bytes"
    "|raised ValueError: source code string cannot contain null bytes",  # of Python below 3.11.4
    "hostile_leaves:build": "it called sys.exit(3)|raised SystemExit: 3",
    "hostile_stops:build": "raised KeyboardInterrupt",
    "hostile_raises:build": "raised KeyError: 'x'",
    "torch.nn:Linear": "missing 2 required positional arguments",
    "torch.nn:Module": 'missing the required "forward"',
    "builtins:dict": "returned dict",
    "hostile_nets:NeedsArguments": "missing 1 required positional argument",
    "hostile_nets:NoInit": "cannot assign module before",
    "hostile_nets:needs": "name a function that needs none",
    "hostile_nets:returns_class": "returned type",
    "hostile_nets:state": "returned OrderedDict",
    "hostile_nets:coroutine": "returned coroutine",
    "hostile_nets:generator": "returned generator",
    "hostile_nets:recursive": "RecursionError",
    "hostile_nets:huge": "allocate memory|out of memory",
    "hostile_nets:leaves": "it called sys.exit('bye')",
    "hostile_nets:interrupts": "it raised KeyboardInterrupt",
    "hostile_nets:ends": "it raised GeneratorExit",
    "hostile_nets:untold": "Untold: ",
    "hostile_nets:marked": "ValueError: [/red]",
    "hostile_nets:many": "ValueError: a",
    "hostile_nets:five": "is a int, not a function",
    "hostile_nets:word": "is a str, not a function",
    "hostile_nets:lazy": "not initialised (a lazy module)",
    "hostile_nets:meta": "on the meta device, without values",
    "hostile_nets:integers": "must have the same dtype",
    "hostile_nets:nan": "'1.weight' of the network holds NaN",
    "hostile_nets:three": "class 9, and the network has 3 outputs",
    "hostile_nets:gives_none": "returned None",
    "hostile_nets:gives_tuple": "returned a tuple",
    "hostile_nets:gives_one": "one row an input",
    "hostile_nets:gives_text": "returned a str",
    "hostile_nets:gives_ids": "one output a class|floating",
    "hostile_nets:gives_row": "one row an input",
    "hostile_nets:gives_nothing": "returned nothing",
    "hostile_nets:forward_leaves": "it called sys.exit(0)",
    "hostile_nets:forward_raises": "ZeroDivisionError",
    "hostile_nets:forward_interrupts": "it raised KeyboardInterrupt",
    "hostile_nets:needs_more": "missing 1 required positional argument",
}
"""Builders, and what is told of them; `|` separates what either may be told."""

MEASURE = (
    "measure",
    "--dataset",
    "digits",
    "--metric",
    "margin",
    "--param",
    "samples=20",
    "--json",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with networks of every kind; it is where the command runs."""
    path = tmp_path_factory.mktemp("hostile")
    (path / "hostile_nets.py").write_text(NETS)
    (path / "hostile_syntax.py").write_text("def build(:\n")
    (path / "hostile_nul.py").write_bytes(b"x = 1\0")
    (path / "hostile_leaves.py").write_text("import sys\nsys.exit(3)\n")
    (path / "hostile_stops.py").write_text("raise KeyboardInterrupt\n")
    (path / "hostile_raises.py").write_text("raise KeyError('x')\n")
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def is_told(said: str, expected: str) -> bool:
    return any(part in said for part in expected.split("|"))


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_builder_that_gives_no_network_is_told(capsys, monkeypatch, builder):
    told = in_process(capsys, monkeypatch, *MEASURE, "--model", builder)
    assert (told.code, told.out, len(told.err.splitlines())) == (2, "", 1)
    assert is_told(told.err, BUILDERS[builder]), told.err


@pytest.mark.parametrize("builder", ["prints", "prints_on", "mlp", "Net"])
def test_what_a_network_prints_is_no_part_of_the_answer(capsys, monkeypatch, builder):
    told = in_process(capsys, monkeypatch, *MEASURE, "--model", f"hostile_nets:{builder}")
    assert told.code == 0
    (line,) = told.out.splitlines()
    assert json.loads(line)["metric"] == "margin(samples=20)"
    assert (("built" in told.err), ("forward" in told.err)) == (
        builder == "prints",
        builder == "prints_on",
    )


PARAMETERS = {
    "samples": "must be KEY=VALUE",
    "=3": "must be KEY=VALUE",
    "smaples=20": "Did you mean 'samples'",
    "samples=true": "should be a number",
    'samples="20"': "should be a number",
    "samples=-20": "at least 1",
    "samples=1\nx=2": "'1\\nx=2'",
    "samples=2020-01-01": "datetime.date(2020, 1, 1)",
    "samples=" + "9" * 5000: "thousands of digits",
    "samples=0x" + "f" * 5000: "an integer of 20,000 bits",
    "samples=" + "[" * 9000: "nested too deep",
    "dtype=float16": "'float64' or 'float32'",
}


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter[:20])
def test_a_parameter_that_is_none_is_told(capsys, monkeypatch, parameter):
    command = [
        "measure",
        "--model",
        "hostile_nets:mlp",
        "--dataset",
        "digits",
        "--metric",
        "margin",
    ]
    told = in_process(capsys, monkeypatch, *command, "--param", parameter)
    assert (told.code, told.out) == (2, "")
    assert PARAMETERS[parameter] in told.err
    assert len(told.err) < 600
    twice = in_process(
        capsys, monkeypatch, *MEASURE, "--model", "hostile_nets:mlp", "--param", "samples=3"
    )
    assert "'samples' stands twice" in twice.err


class Evil:
    def __reduce__(self):
        return (os.system, ("touch was_run",))


def kept(state) -> dict[str, object]:
    """What holds the weights in one of the ways in which they are kept."""
    return {
        "plain": state,
        "parallel": {f"module.{k}": v for k, v in state.items()},
        "compiled and parallel": {f"module._orig_mod.{k}": v for k, v in state.items()},
        "fsdp": {f"_fsdp_wrapped_module.{k}": v for k, v in state.items()},
        "checkpointed inside": {
            k.replace(".", "._checkpoint_wrapped_module."): v for k, v in state.items()
        },
        "lightning": {
            "state_dict": {f"model.{k}": v for k, v in state.items()},
            "pytorch-lightning_version": "2.0",
            "optimizer_states": [{"state": {}}],
            "hyper_parameters": {"lr": 1},
        },
        "lightning, deeper": {"state_dict": {f"net.encoder.{k}": v for k, v in state.items()}},
        "nested": {"a": {"b": {"model_state_dict": state}}, "optimizer": {"param_groups": []}},
        "float64": {k: v.double() for k, v in state.items()},
        "parameters": {k: torch.nn.Parameter(v) for k, v in state.items()},
    }


def test_weights_load_however_they_are_kept(capsys, monkeypatch, folder):
    nets = importlib.import_module("hostile_nets")
    state = {k: v + 0.01 for k, v in nets.mlp().state_dict().items()}
    figures = {}
    for name, content in kept(state).items():
        torch.save(content, f"{name}.pt")
        weights = (f"{name}.pt", "--model", "hostile_nets:mlp")
        told = in_process(capsys, monkeypatch, *MEASURE, "--weights", *weights)
        assert (told.code, told.err) == (0, ""), name
        figures[name] = json.loads(told.out)["value"]
    assert len(set(figures.values())) == 1
    torch.save(state, "old.pt", _use_new_zipfile_serialization=False)
    old = in_process(
        capsys, monkeypatch, *MEASURE, "--model", "hostile_nets:mlp", "--weights", "old.pt"
    )
    assert json.loads(old.out)["value"] == figures["plain"]


@pytest.mark.filterwarnings("always::sharpbench.errors.InputWarning")
def test_of_several_weights_the_usual_ones_are_taken_aloud_and_others_not_at_all(
    capsys, monkeypatch, folder
):
    nets = importlib.import_module("hostile_nets")
    state = nets.mlp().state_dict()
    twice = {k: 2 * v for k, v in state.items()}

    def told_of(content):
        torch.save(content, "several.pt")
        model = ("--model", "hostile_nets:mlp", "--weights", "several.pt")
        return in_process(capsys, monkeypatch, *MEASURE, *model)

    alone = told_of(state)
    averaged = told_of({"state_dict_ema": twice, "state_dict": state})
    assert averaged.out == alone.out
    assert "taken were the weights of 'state_dict', and not of 'state_dict_ema'" in averaged.err
    beside = told_of(
        {**{f"model.{k}": v for k, v in state.items()}, "criterion.weight": torch.ones(3)}
    )
    assert beside.out == alone.out
    assert "under 'model.', and not 'criterion.weight'" in beside.err
    for unclear in (
        {"student": state, "teacher": twice},
        {f"{who}.{k}": v for who in ("student", "teacher") for k, v in state.items()},
    ):
        refused = told_of(unclear)
        assert (refused.code, refused.out) == (2, "")
        assert "several sets of weights" in refused.err
        assert "student" in refused.err


def spoilt(nets) -> dict[str, tuple[str, str]]:
    """File name to the builder and what is told; the files lie in the current folder afterwards."""
    state = nets.mlp().state_dict()
    told = {}

    def saved(name: str, content, reason: str, builder: str = "mlp") -> None:
        torch.save(content, name)
        told[name] = builder, reason

    def written(name: str, content: bytes, reason: str) -> None:
        Path(name).write_bytes(content)
        told[name] = "mlp", reason

    saved(
        "int64.pt",
        {k: v.long() for k, v in state.items()},
        "is int64, and the network's is float32",
    )
    saved("int8.pt", state | {"3.bias": torch.ones(10, dtype=torch.int8)}, "'3.bias' is int8")
    saved("bool.pt", {k: v > 0 for k, v in state.items()}, "'1.weight' is bool")
    saved("complex.pt", {k: v + 1j for k, v in state.items()}, "imaginary part would be lost")
    saved("large.pt", {k: v.double() * 1e300 for k, v in state.items()}, "values too large")
    saved("sparse.pt", state | {"1.weight": state["1.weight"].to_sparse()}, "is sparse")
    saved("empty_values.pt", {k: v.to("meta") for k, v in state.items()}, "on the meta device")
    saved(
        "expanded.pt",
        state | {"1.weight": torch.zeros(1).expand(10**6, 10**6)},
        "shape (1000000, 1000000)",
    )
    saved("listed.pt", state | {"1.bias": [1.0, 2.0]}, "'1.bias' is a list, not a tensor")
    saved("none.pt", None, "holds a NoneType")
    saved("nothing.pt", {}, "holds no state dict: it is empty")
    saved("numbers.pt", {1: torch.zeros(3)}, "its entries are '1'")
    saved("inner_none.pt", {"state_dict": None}, "its entries are 'state_dict'")
    saved(
        "optimizer.pt",
        torch.optim.Adam(nets.mlp().parameters()).state_dict(),
        "holds no state dict",
    )
    saved("whole.pt", nets.mlp(), "could run code")
    saved("numpy.pt", {k: v.numpy() for k, v in state.items()}, "could run code")
    saved("evil.pt", {"state_dict": state, "x": Evil()}, "could run code")
    counts = {"n.num_batches_tracked": torch.tensor(1.5)}
    saved(
        "count.pt",
        nets.Counting().state_dict() | counts,
        "values that the network's can't",
        "Counting",
    )
    tied = nets.Tied().state_dict()
    saved(
        "untied.pt", tied | {"b.weight": torch.zeros(64, 64)}, "two values for 'a.weight'", "Tied"
    )
    untied = {k: v for k, v in tied.items() if k not in ("a.weight", "b.weight")}
    saved("without_tied.pt", untied, "it lacks 'a.weight'", "Tied")
    written("evil.pkl", pickle.dumps(Evil()), "could run code")
    written("empty.pt", b"", "is empty")
    written("page.pt", b"<!DOCTYPE html><html>", "is a web page")
    written("pointer.pt", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")
    written("index.json", b'{"weight_map": {}}', "is a JSON file")
    written("zeros.pt", bytes(1000), "neither a safetensors file")
    torch.save(state, "whole_state.pt")
    whole = Path("whole_state.pt").read_bytes()
    written("packed.pt", gzip.compress(whole), "compressed with gzip")
    for cut in (5, 100, len(whole) // 2, len(whole) - 1):
        written(f"cut{cut}.pt", whole[:cut], "damaged or incomplete")
    flipped = bytearray(whole)
    flipped[whole.index(state["1.weight"].numpy().tobytes())] ^= 0x40
    written("flipped.pt", bytes(flipped), "the checksum of")
    with (
        zipfile.ZipFile("whole_state.pt") as source,
        zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in source.infolist():
            bomb.writestr(entry, source.read(entry), zipfile.ZIP_DEFLATED)
    told["bomb.pt"] = "mlp", "was compressed"
    torch.jit.save(torch.jit.script(nets.mlp()), "script.pt")
    told["script.pt"] = "mlp", "is a TorchScript archive"
    np.savez("arrays.npz", **{k: v.numpy() for k, v in state.items()})
    told["arrays.npz"] = "mlp", "a zip file that torch.save didn't write"
    np.save("array.npy", np.zeros(3))
    told["array.npy"] = "mlp", "is a NumPy array"
    for name, header in {
        "long_header": struct.pack("<Q", 2**60) + b"{}",
        "no_header": struct.pack("<Q", 4) + b"{abc",
        "no_tensors": struct.pack("<Q", 2) + b"{}",
        "overflow": _header(
            b'{"1.weight":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}'
        ),
        "unknown_dtype": _header(b'{"1.weight":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}'),
    }.items():
        written(f"{name}.safetensors", header, "damaged or incomplete|it is empty")
    os.mkfifo("fifo.pt")
    os.mkdir("folder.pt")
    os.symlink("circle.pt", "circle.pt")
    os.symlink("/dev/zero", "zero.pt")
    told |= {"fifo.pt": ("mlp", "is a FIFO"), "folder.pt": ("mlp", "is a folder")}
    told |= {"circle.pt": ("mlp", "Too many levels"), "zero.pt": ("mlp", "is a device")}
    told |= {"gone.pt": ("mlp", "there is no file"), "x" * 5000: ("mlp", "File name too long")}
    return told


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + b"1234"


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")
def test_a_file_that_is_no_weights_is_told_and_runs_nothing(capsys, monkeypatch, folder):
    nets = importlib.import_module("hostile_nets")
    files = spoilt(nets)
    for name, (builder, expected) in files.items():
        model = ("--model", f"hostile_nets:{builder}", "--weights", name)
        told = in_process(capsys, monkeypatch, *MEASURE, *model)
        assert (told.code, told.out, len(told.err.splitlines())) == (2, "", 1), (name, told)
        assert is_told(told.err, expected), (name, told.err)
    assert not Path("was_run").exists()


SLOW = '''
from dataclasses import dataclass
import time
from sharpbench.metrics import Metric, metrics

@metrics.register
@dataclass(frozen=True)
class Slow(Metric):
    """Takes for ever."""
    name, title, unit, space = "slow", "slow", "", "parameter"
    def measure(self, subject, *, seed):
        print("started", flush=True)
        time.sleep(1e6)
'''


@pytest.mark.parametrize("as_json", [False, True])
def test_figures_come_as_they_are_measured_and_stay_on_ctrl_c(tmp_path, as_json):
    (tmp_path / "slow_nets.py").write_text(SLOW + NETS)
    command = [
        sys.executable,
        "-u",
        "-c",
        "import slow_nets, sharpbench.cli; sharpbench.cli.main()",
    ]
    command += ["measure", "--model", "slow_nets:mlp", "--dataset", "digits", *["--json"] * as_json]
    command += ["--metric", "margin", "--metric", "slow", "--metric", "logit_norm"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert running.stderr is not None
        assert running.stderr.readline() == "started\n"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "margin" in out
    assert "logit_norm" not in out
    assert "Traceback" not in err


def test_a_metric_that_fails_costs_the_others_nothing(capsys, monkeypatch):
    command = ["measure", "--model", "hostile_nets:mlp", "--dataset", "digits"]
    for metric in ("margin", "hessian_frobenius_norm", "logit_norm"):
        command += ["--metric", metric]
    from sharpbench.metrics import metrics

    def refuse(self, subject, *, seed):
        raise SystemExit(0)

    monkeypatch.setattr(metrics.get("hessian_frobenius_norm"), "measure", refuse)
    told = in_process(capsys, monkeypatch, *command)
    assert told.code == 1
    assert [line.split()[0] for line in told.out.splitlines()] == ["metric", "margin", "logit_norm"]
    assert "failed: hessian_frobenius_norm: RuntimeError: it called sys.exit(0)" in told.err
