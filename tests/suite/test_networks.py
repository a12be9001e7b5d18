"""``[[networks]]``: a user's own networks in a suite, through the command line as a user writes them."""

import hashlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sharpbench as sb
from sharpbench.analysis.results import Results
from sharpbench.analysis.seed_streams import apart
from sharpbench.datasets import datasets
from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.registry import import_object
from sharpbench.report.page import write_report
from sharpbench.results.store import load_records
from sharpbench.seeds import derive_seed
from sharpbench.subject import Subject
from sharpbench.suite.given import COMMAND_LINE, SUITE_FILE, Given
from sharpbench.suite.networks import source_of
from sharpbench.suite.own import own_subject
from sharpbench.suite.plan import NetworkPlan, make_plan
from sharpbench.suite.spec import load_suite
from tests.cli.command import in_process

NETS = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.words, self.out = nn.Embedding(30, 6), nn.Linear(6, 5)

    def forward(self, ids):
        return self.out(self.words(ids).tanh())

def yes_or_no():
    torch.manual_seed(2)
    return nn.Linear(3, 2)

def pairs():
    g = torch.Generator().manual_seed(4)
    return [(torch.randn(9, 3, generator=g), (torch.randn(9, 2, generator=g) > 0).float())]

def test_batches():
    (one, two) = batches()
    two["labels"][0, 1:] = -100
    return [two]

def batches():
    g = torch.Generator().manual_seed(3)
    draw = lambda top: torch.randint(0, top, (8, 4), generator=g)
    return [{"ids": draw(30), "labels": draw(5)} for _ in range(2)]
"""

SUITE = """
name = "zoo"
seeds = 1

[[networks]]
model = "own_nets_of_a_test:small"
weights = ["runs/*.pt", "runs/b.pt"]
dataset = { name = "digits", train_size = 100 }

[[networks]]
model = "own_nets_of_a_test:Tagger"
data = "own_nets_of_a_test:batches"
title = "tagger"

[[metrics]]
name = "fisher_rao_norm"

[[metrics]]
name = "hessian_trace"

[[transformations]]
name = "neuron_rescaling"

[cost]
repeats = 1
"""


JUDGED = """
name = "judged"
seeds = 1

[[networks]]
model = "own_nets_of_a_test:Tagger"
data = "own_nets_of_a_test:batches"
test = "own_nets_of_a_test:test_batches"

[[networks]]
model = "own_nets_of_a_test:yes_or_no"
data = "own_nets_of_a_test:pairs"
test = "own_nets_of_a_test:pairs"
loss = "BCEWithLogitsLoss"

[[networks]]
model = "own_nets_of_a_test:yes_or_no"
data = "own_nets_of_a_test:pairs"
test = "own_nets_of_a_test:pairs"
loss = "L1Loss"

[[metrics]]
name = "parameter_norm"

[evaluation]
outcomes = true

[cost]
repeats = 0
"""


@pytest.fixture
def folder(users_folder):
    folder = users_folder({"own_nets_of_a_test.py": NETS, "zoo.toml": SUITE})
    (folder / "runs").mkdir()
    import own_nets_of_a_test as nets

    for number, name in enumerate("ab"):
        network = nets.small()
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(1 + 0.1 * number)
        torch.save(network.state_dict(), folder / "runs" / f"{name}.pt")
    return folder


@pytest.fixture
def run(folder, capsys, monkeypatch):
    return lambda: in_process(
        capsys, monkeypatch, "run", "zoo.toml", "--engine", "inline", "--no-report"
    )


def frame():
    return load_records("results", suite="zoo")


def test_each_file_is_a_network_measured_as_it_is(folder, run):
    done = run()
    assert done.code == 0, done.out + done.err
    told = frame()
    own = told[(told["kind"] == "measurement") & told["transformation"].isna()]
    assert sorted(own["recipe_label"].unique()) == ["a", "as built", "b"]
    assert set(own["model_label"]) == {"own_nets_of_a_test:small", "tagger"}
    assert (own["status"] == "ok").all()
    import own_nets_of_a_test as nets

    network = nets.small()
    network.load_state_dict(torch.load(folder / "runs" / "b.pt"))
    data = datasets.create("digits", {"train_size": 100}).load(folder, seed=derive_seed(0, "data"))
    subject = Subject(network, data.train_inputs, data.train_targets, splits=data)
    value = (
        metrics.create("fisher_rao_norm", {}).measure(subject, seed=derive_seed(0, "metric")).value
    )
    (found,) = own[(own["name"] == "fisher_rao_norm") & (own["recipe_label"] == "b")]["value"]
    assert found == value
    after = told[(told["kind"] == "measurement") & told["transformation"].notna()]
    of_norm = after[(after["name"] == "fisher_rao_norm") & (after["recipe_label"] == "b")]
    assert of_norm["value"].item() == pytest.approx(value, rel=1e-9)
    assert of_norm["promised"].item()
    judged = told[(told["kind"] == "evaluation") & (told["name"] == "test_error")]
    by_network = judged.set_index("recipe_label")
    outputs = network(data.test_inputs).argmax(1)
    assert by_network.loc["b", "value"] == pytest.approx(
        (outputs != data.test_targets).double().mean()
    )
    assert "no test data" in by_network.loc["as built", "reason"]
    # How they came about is independent, what they are judged on is shared.
    seeds = own.drop_duplicates("subject")
    assert seeds["seed.data"].tolist() == [0, 0, 0]
    assert seeds["seed.training"].nunique() == 3
    assert own["cost.median_seconds"].notna().all()


def test_a_second_run_measures_nothing_and_other_weights_or_data_are_measured_again(folder, run):
    assert run().code == 0
    before = frame()
    again = run()
    assert "0 records written" in again.out
    assert len(frame()) == len(before)
    nets = (folder / "own_nets_of_a_test.py").read_text()
    network = torch.load(folder / "runs" / "a.pt")
    torch.save({k: 2 * v for k, v in network.items()}, folder / "runs" / "a.pt")
    (folder / "own_nets_of_a_test.py").write_text(nets + "\n# edited\n")
    other = run()
    assert other.code == 0
    assert "0 records written" not in other.out
    old, new = (
        f[(f["kind"] == "measurement") & (f["recipe_label"] == "a")]
        .groupby("label")["value"]
        .first()
        for f in (before, frame())
    )
    assert (old != new).all()


def test_where_the_data_change_behind_a_name_figures_are_not_believed(folder, run, monkeypatch):
    """The file is the same, and what it draws another: the bytes of the data tell."""
    assert run().code == 0
    import own_nets_of_a_test as nets

    held = nets.batches()
    monkeypatch.setattr(nets, "batches", lambda: held[:1])
    done = run()
    assert done.code == 0
    told = frame()
    tagger = told[(told["kind"] == "measurement") & (told["model_label"] == "tagger")]
    assert set(tagger["samples"].dropna()) == {8}
    settled = run()
    assert "0 records written" in settled.out
    assert "moved to" not in settled.err


GROUPS = """

class Groups(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.num_heads = 4
        self.q_proj, self.o_proj = nn.Linear(8, 8), nn.Linear(8, 8)
        self.k_proj, self.v_proj = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (-1, 2)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o_proj(mixed.flatten(2)).mean(1)

def words():
    g = torch.Generator().manual_seed(6)
    return [(torch.randn(5, 3, 8, generator=g), torch.arange(5))]
"""


def test_figures_of_heads_that_were_read_otherwise_are_not_believed_and_others_are(
    folder, run, monkeypatch
):
    (folder / "own_nets_of_a_test.py").write_text(NETS + GROUPS)
    sys.modules.pop("own_nets_of_a_test")
    text = SUITE.replace("fisher_rao_norm", "geodesic_sharpness").replace(
        "hessian_trace", "gradient_norm"
    )
    (folder / "zoo.toml").write_text(
        text.replace(":Tagger", ":Groups").replace(":batches", ":words").replace("tagger", "groups")
    )

    def pairs(told, network):
        asked = told[(told["name"] == "geodesic_sharpness") & (told["recipe_label"] == network)]
        (found,) = asked[asked["transformation"].isna()]["details"]
        return found["attention_pairs"]

    # As it was: no groups were seen, and the key said nothing of them.
    import sharpbench.metrics.geodesic as geodesic
    import sharpbench.suite.network_run as network_run

    with monkeypatch.context() as then:
        then.setattr(network_run, "once_read_otherwise", lambda model: False)
        then.setattr(geodesic, "attentions", lambda model, **grouped: [])
        assert run().code == 0
    before = frame()
    assert pairs(before, "as built") == 0
    again = run()
    assert again.code == 0
    assert "of other weights or data, or of how they were read" in again.err
    assert pairs(frame(), "as built") == 4
    there = {key: group["run"].unique().tolist() for key, group in before.groupby("recipe_label")}
    for network, group in frame().groupby("recipe_label"):
        assert (group["run"].unique().tolist() == there[network]) == (network != "as built")
    settled = run()
    assert "0 records written" in settled.out
    assert "moved to" not in settled.err


def test_it_is_planned_without_the_place_it_stands_in(folder):
    plans = make_plan(load_suite(folder / "zoo.toml")).subjects
    assert [type(s) for s in plans] == [NetworkPlan] * 3
    for plan in plans:
        assert str(folder) not in json.dumps(plan.identity)
    assert len({plan.key for plan in plans}) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('weights = ["runs/*.pt", "runs/b.pt"]', 'weights = "none/*.pt"'), "no file 'none/\\*.pt'"),
        (('"own_nets_of_a_test:small"', '"no_such_nets:small"'), "no module 'no_such_nets'"),
        (('data = "own_nets_of_a_test:batches"', ""), "one of dataset"),
        (('name = "digits"', 'name = "digit"'), "digits"),
        (('title = "tagger"', 'titel = "tagger"'), "title"),
        (('title = "tagger"', 'title = "own_nets_of_a_test:small"'),
         "title: networks of own_nets_of_a_test:small are called 'own_nets_of_a_test:small', too"),
        (("train_size = 100", "train_size = [50, 100]"), "dataset: a grid of 2 datasets"),
        (('weights = ["runs/*.pt", "runs/b.pt"]', "weights = []"), "weights: names no file"),
        (('data = "own_nets_of_a_test:batches"', 'inputs = "zoo.tomle"'),
         r"line 12: networks\[2\].inputs: there is no file '.*zoo.tomle'. Did you mean 'zoo.toml'"),
        (('data = "own_nets_of_a_test:batches"', 'inputs = "zoo.toml"\ntargets = "y.npy"'),
         r"line 13: networks\[2\].targets: there is no file"),
        (('title = "tagger"', 'test = "no_such_nets:test"'), r"line 13: networks\[2\].test: "),
        (('title = "tagger"', 'forward = "no_such_nets:f"'), r"line 13: networks\[2\].forward: "),
        (('title = "tagger"', 'loss = "no_such_nets:f"'), r"line 13: networks\[2\].loss: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(folder, change, told):
    (folder / "zoo.toml").write_text(SUITE.replace(*change))
    with pytest.raises(InputError, match=told) as raised:
        make_plan(load_suite(folder / "zoo.toml"))
    assert "zoo.toml, line" in str(raised.value)


def test_weights_of_one_name_are_told_apart_by_their_folders(folder, run):
    """The zoo that sweeps leave behind, runs/*/final.pt; names are the suite's, and not what was stored."""
    for name in "ab":
        (folder / "runs" / name).mkdir()
        (folder / "runs" / f"{name}.pt").rename(folder / "runs" / name / "final.pt")
    suite = SUITE.replace('["runs/*.pt", "runs/b.pt"]', '"runs/a/final.pt"')
    (folder / "zoo.toml").write_text(suite)
    assert run().code == 0
    assert set(frame()["recipe_label"]) == {"final", "as built"}
    (folder / "zoo.toml").write_text(
        suite.replace("runs/a/final", "runs/*/final").replace('"tagger"', '"words"')
    )
    done = run()
    assert done.code == 0, done.err
    assert set(frame()["recipe_label"]) == {"a/final", "b/final", "as built"}
    assert "words" in set(frame()["model_label"])
    shown = Results.load(Path("results"), "zoo").measured  # as every table of the page names them
    assert not apart(Results.load(Path("results"), "zoo"))  # nobody gave a stream a seed of its own
    found = shown[["dataset_short", "model_short", "recipe_short"]].drop_duplicates()
    assert sorted(map(tuple, found.to_numpy())) == [
        ("digits", "own_nets_of_a_test:small", "a/final"),
        ("digits", "own_nets_of_a_test:small", "b/final"),
        ("own_nets_of_a_test:batches", "words", "as built"),
    ]


def test_brackets_of_folders_and_files_are_no_patterns(folder):
    away = folder / "runs [1]"
    away.mkdir()
    for name in ("a", "b"):
        (folder / "runs" / f"{name}.pt").rename(away / f"{name} [0].pt")
    block = SUITE.replace('["runs/*.pt", "runs/b.pt"]', '"*.pt"')
    (away / "zoo.toml").write_text(block)
    (away / "one.toml").write_text(block.replace('"*.pt"', '"a [0].pt"'))
    (folder / "more.toml").write_text('name = "more"\nextends = "runs [1]/zoo.toml"\n')
    (folder / "less.toml").write_text('name = "less"\nextends = "runs [1]/one.toml"\n')
    found = {}
    for place in (away / "zoo.toml", away / "one.toml", folder / "more.toml", folder / "less.toml"):
        labels = [s.labels["recipe"] for s in make_plan(load_suite(place)).subjects]
        found[place.name] = labels[:-1]
    both = ["a [0]", "b [0]"]
    assert found == {
        "zoo.toml": both, "one.toml": both[:1], "more.toml": both, "less.toml": both[:1],
    }  # fmt: skip


def test_what_a_dataset_s_network_is_differentiated_in_is_heard(folder):
    """It was left aside in silence where the data are a dataset's."""
    given = Given(model="own_nets_of_a_test:small", dataset={"name": "digits", "train_size": 40})

    def curvature(**more):
        asked = given.model_copy(update=more)
        subject = own_subject(asked, COMMAND_LINE, seed=0, device="cpu", data=folder)
        said.extend(subject.said)
        return sb.measure(subject, "input_jacobian_norm").value

    said = []
    assert curvature(differentiate="0") == curvature()
    assert curvature(differentiate="1") != curvature()
    # A number can name an entry of a batch and a layer.
    assert "in '0' of the batch, not in the part of the network of that name" in said[-2]
    assert "in the part '1' of the network, not in '1' of the batch" in said[-1]
    with pytest.raises(InputError, match="neither a tensor of the batch nor a part"):
        curvature(differentiate="body")


SPREAD = """
import torch
from torch import nn
from own_shapes_of_a_test.parts import between

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), between(), nn.Linear(4, 2))
"""


def test_a_network_is_another_where_code_that_its_module_imports_is_edited(
    folder, capsys, monkeypatch
):
    """Its weights are the same: the figure of the network before was told for that of the one after."""
    package = folder / "own_shapes_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("from own_shapes_of_a_test.more import Between as between")
    (package / "more.py").write_text("from torch.nn import ReLU as Between")
    (folder / "own_spread_of_a_test.py").write_text(SPREAD)
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(size=(9, 3)), y=np.arange(9) % 2)
    command = ["measure", "--model", "own_spread_of_a_test:build", "--inputs", "x.npz", "--json"]
    command += ["--metric", "hessian_trace"]

    def figure(*more):
        told = in_process(capsys, monkeypatch, *command, *more)
        assert told.code == 0, told.err
        return json.loads(told.out)["value"]

    first = figure("--output", "out")
    assert first == figure("--output", "out") == figure()
    (package / "more.py").write_text("from torch.nn import Sigmoid as Between")
    edited = figure("--output", "out")
    assert edited == figure() != first
    (package / "beside.py").write_text("nothing imports it")
    assert len(list((folder / "out" / "results").glob("*/measurements.jsonl"))) == 2


def test_code_that_was_edited_is_imported_anew_in_one_process(folder):
    file = folder / "own_edited_of_a_test.py"
    try:
        file.write_text("def build():\n    return 1")
        importlib.invalidate_caches()
        before = source_of("own_edited_of_a_test:build")
        assert import_object("own_edited_of_a_test:build")() == 1
        assert source_of("own_edited_of_a_test:build") == before
        file.write_text("def build():\n    return 1 + 1")
        assert source_of("own_edited_of_a_test:build") != before
        assert import_object("own_edited_of_a_test:build")() == 2
    finally:
        sys.modules.pop("own_edited_of_a_test", None)


def test_of_an_installed_package_all_its_code_counts(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    (site / "installed_of_a_test").mkdir(parents=True)
    (site / "installed_of_a_test" / "__init__.py").write_text("from .layers import build")
    (site / "installed_of_a_test-1.dist-info").mkdir()
    (site / "installed_of_a_test-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: installed-of-a-test\nVersion: 1\n"
    )
    monkeypatch.syspath_prepend(str(site))

    def told(code, more=""):
        (site / "installed_of_a_test" / "layers.py").write_text(code)
        record = f"installed_of_a_test/layers.py,sha256={hash(code)},{len(code)}\n{more}"
        (site / "installed_of_a_test-1.dist-info" / "RECORD").write_text(record)
        importlib.invalidate_caches()
        return source_of("installed_of_a_test:build")

    first = told("def build(): return 1")
    # Where it was installed from, and by whom, is not its code.
    assert (
        told("def build(): return 1", "installed_of_a_test-1.dist-info/direct_url.json,sha256=a,9")
        == first
    )
    assert told("def build(): return 2") != first


def test_what_is_installed_is_told_by_its_own_file():
    import torch.nn.functional as installed

    own = hashlib.sha256(Path(installed.__file__).read_bytes()).hexdigest()
    assert source_of("torch.nn.functional:cross_entropy") == own
    assert source_of("sys:getsizeof") == ""


def test_files_are_named_and_not_where_they_are(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("data")
    text = 'name = "files"\nseeds = 1\n[[metrics]]\nname = "parameter_norm"\n'
    called = []
    for n, name in enumerate(("one", "two")):
        (elsewhere / name).mkdir()
        place = elsewhere / name / "x.npz"
        np.savez(place, x=np.ones((4, 3)) * n, y=np.ones((4, 2)))
        text += f'[[networks]]\nmodel = "own_nets_of_a_test:yes_or_no"\ninputs = "{place}"\n'
        (folder / "zoo.toml").write_text(text)
        plans = make_plan(load_suite(folder / "zoo.toml")).subjects
        assert str(elsewhere) not in json.dumps([plan.identity for plan in plans])
        called.append([plan.labels["dataset"] for plan in plans])
    assert called == [["x.npz"], ["one/x.npz", "two/x.npz"]]


def test_a_network_that_cannot_be_built_is_a_record_and_the_others_are_measured(folder, run):
    weights = folder / "runs" / "c.pt"
    torch.save({"other.weight": torch.ones(2)}, weights)
    done = run()
    assert done.code == 1
    assert "c · seed=0" in (done.out + done.err)
    told = frame()
    assert told[told["kind"] == "measurement"]["recipe_label"].nunique() == 3
    (failed,) = told[told["kind"] == "subject"].to_dict("records")
    assert failed["status"] == "error"
    assert failed["label"] == "building"
    page = write_report(Path("results"), "zoo", Path("reports")).read_text()
    assert "1 of 4 networks of this suite has no figures" in page
    assert "have not run yet" not in page


def test_what_is_wrong_with_a_network_is_said_in_the_words_of_the_suite(folder, run):
    second = SUITE.index("[[networks]]", SUITE.index("[[networks]]") + 1)
    lines = {
        'loss = "L2Loss"': "loss = 'L2Loss' is no loss of torch.nn",
        'loss = "Softmax"': "loss = 'Softmax' is no loss of torch.nn",
        'forward = "own_nets_of_a_test:ahead"': "forward = 'own_nets_of_a_test:ahead': ",
        'differentiate = "heart"': "differentiate='heart' is neither a tensor of the batch nor a part",
        'normaliser = "tokens"\nloss = "NLLLoss"': '(in [[networks]] loss = "package.module:function", or',
    }
    for key, told in lines.items():
        (folder / "zoo.toml").write_text(
            f"{SUITE[:second]}[[networks]]\n{key}{SUITE[second + 12 :]}"
        )
        done = run()
        assert done.code == 1
        (failed,) = (line for line in done.err.splitlines() if line.startswith("failed: "))
        assert told in failed
        assert "--" not in failed
        assert "command line" not in failed


def test_one_fault_is_said_in_the_words_of_whoever_named_the_network(folder):
    given = Given(model="own_nets_of_a_test:yes_or_no", data="own_nets_of_a_test:pairs")
    told = {}
    for words in (COMMAND_LINE, SUITE_FILE):
        for at, model in (("real", given.model), ("absent", "own_nets_of_a_test:absent")):
            asked = given.model_copy(update={"model": model})
            with pytest.raises(InputError) as fault:
                own_subject(asked, words, seed=0, device="cpu", data=folder)
            told[words.place, at] = str(fault.value)
    assert told[COMMAND_LINE.place, "absent"].startswith("--model 'own_nets_of_a_test:absent': ")
    assert told[SUITE_FILE.place, "absent"].startswith("model = 'own_nets_of_a_test:absent': ")
    assert told[COMMAND_LINE.place, "real"].endswith(
        "task='regression' (at the command line --loss package.module:function, or the name of a loss of "
        "torch.nn, in place of a task --loss package.module:function)"
    )
    assert told[SUITE_FILE.place, "real"].endswith(
        '(in [[networks]] loss = "package.module:function", or the name of a loss of torch.nn, in place of '
        'a task loss = "package.module:function")'
    )


def test_networks_that_decide_on_tokens_or_labels_are_judged_by_their_test_batches(
    folder, capsys, monkeypatch
):
    (folder / "judged.toml").write_text(JUDGED)
    done = in_process(
        capsys, monkeypatch, "run", "judged.toml", "--engine", "inline", "--no-report"
    )
    assert done.code == 0, done.out + done.err
    told = load_records("results", suite="judged")
    import own_nets_of_a_test as nets

    tagger, (batch,) = nets.Tagger(), nets.test_batches()
    kept = batch["labels"] != -100
    with torch.no_grad():
        lines = tagger(batch["ids"])[kept].double()
        (x, y) = nets.pairs()[0]
        z = nets.yes_or_no()(x).double()
    classes = batch["labels"][kept]
    yes = y > 0
    by_token, by_label, distant = (
        told[told["subject"] == subject].set_index("name")
        for subject in told["subject"].drop_duplicates()
    )
    assert by_token.loc["test_error", "value"] == pytest.approx(
        float((lines.argmax(1) != classes).double().mean())
    )
    entropy = torch.nn.functional.cross_entropy(lines, classes)
    assert by_token.loc["test_loss", "value"] == pytest.approx(float(entropy))
    assert by_token.loc["test_loss", "unit"] == "nats"
    assert by_token.loc["test_error", "samples"] == 8
    assert "decides on each token" in by_token.loc["test", "reason"]
    assert by_label.loc["test_error", "value"] == pytest.approx(
        float(((z > 0) != yes).double().mean())
    )
    bce = torch.nn.functional.binary_cross_entropy_with_logits(z, y.double())
    assert by_label.loc["test_loss", "value"] == pytest.approx(float(bce))
    assert by_label.loc["margin", "unit"] == "logits"
    assert distant.loc["test_loss", "value"] == pytest.approx(float((z - y).abs().mean()))
    assert "needs classes" in distant.loc["test_error", "reason"]
