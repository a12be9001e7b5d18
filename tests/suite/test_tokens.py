"""Networks that answer for each token, from the suite file to every figure."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sharpbench.datasets import datasets
from sharpbench.errors import InputError
from sharpbench.models import models
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.seeds import derive_seed
from sharpbench.training import recipes
from tests.suite.test_run import run

SUITE = """
name = "tokens"
seeds = 1

[[subjects]]
model   = { name = "causal_transformer", width = 8 }
recipe  = { name = "adam", lr = 1e-2, epochs = 2 }

[subjects.dataset]
name = "characters"
targets = "every"
context = 5
train_size = 60
test_size = 40
label_noise = 0.1

[[metrics]]
name = "gradient_norm"
[[metrics]]
name = "margin"
[[metrics]]
name = "curvature_rate"
samples = 8
[[metrics]]
name = "hessian_top_eigenvalue"
samples = 8
tolerance = 1e-2
[[metrics]]
name = "laplace_evidence"
samples = 4

[[transformations]]
name = "head_permutation"

[evaluation]
outcomes = true
corruptions = ["noise"]

[cost]
repeats = 0
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "tokens.toml").write_text(SUITE)
    run(folder / "tokens.toml", folder / "results")
    frame = load_records(folder / "results")
    (stored,) = ResultsStore(folder / "results").subjects()
    data = datasets.create(
        "characters",
        {"targets": "every", "context": 5, "train_size": 60, "test_size": 40, "label_noise": 0.1},
    ).load(Path(), seed=derive_seed(0, "data"))
    network = models.create("causal_transformer", {"width": 8}).build((5, 27), 27, seed=0)
    network.load_state_dict(stored.weights())
    return frame, data, network.eval()


def figure(frame, name, kind="evaluation"):
    rows = frame[(frame["kind"] == kind) & (frame["name"] == name) & frame["transformation"].isna()]
    return rows.iloc[0]


def test_what_is_judged_is_each_token(ran):
    frame, data, network = ran
    outputs = network(data.test_inputs).detach()
    assert outputs.shape == (40, 27, 5)
    wrong = (outputs.argmax(1) != data.test_targets).double()
    assert figure(frame, "test_error")["value"] == pytest.approx(float(wrong.mean()))
    loss = F.cross_entropy(outputs.double(), data.test_targets)
    assert figure(frame, "test_loss")["value"] == pytest.approx(float(loss))
    log = frame[(frame["kind"] == "training") & (frame["epoch"] == 2)].set_index("name")["value"]
    assert log["test_error"] == pytest.approx(float(wrong.mean()))
    assert 0 < log["train_error"] < 1
    ranked = outputs.double().topk(2, dim=1).values
    own = outputs.double().gather(1, data.test_targets[:, None])[:, 0]
    best = torch.where(wrong.bool(), ranked[:, 0], ranked[:, 1])
    margin = figure(frame, "margin", "measurement")["value"]
    assert margin == pytest.approx(float((own - best).mean()))


def test_metrics_are_those_of_the_mean_over_the_tokens(ran):
    frame, data, network = ran
    loss = F.cross_entropy(network.double()(data.train_inputs.double()), data.train_targets)
    gradient = torch.autograd.grad(loss, tuple(network.parameters()))
    size = float(torch.cat([g.reshape(-1) for g in gradient]).norm())
    assert figure(frame, "gradient_norm", "measurement")["value"] == pytest.approx(size)
    for name in ("curvature_rate", "hessian_top_eigenvalue"):
        assert figure(frame, name, "measurement")["status"] == "ok"


def test_heads_of_a_causal_network_are_permuted(ran):
    frame, *_ = ran
    changed = frame[frame["transformation_name"] == "head_permutation"].set_index("name")
    for name in ("gradient_norm", "margin", "hessian_top_eigenvalue", "curvature_rate"):
        before = figure(frame, name, "measurement")["value"]
        assert changed["value"][name] == pytest.approx(before, rel=1e-6)


def test_what_needs_a_class_a_sample_says_so(ran):
    frame, *_ = ran
    assert figure(frame, "laplace_evidence", "measurement")["status"] == "unsupported"
    for name in ("corrupted_error", "corrupted_error_noise"):
        row = figure(frame, name)
        assert row["status"] == "unsupported"
        assert "each token" in row["reason"]


def test_no_token_sees_a_later_one():
    network = models.create("causal_transformer", {"width": 8, "depth": 2}).build(
        (6, 27), 27, seed=0
    )
    x = torch.randn(3, 6, 27)
    later = x.clone()
    later[:, 4:] += 1
    before, after = network(x).detach(), network(later).detach()
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert float((before - after)[:, :, 4:].abs().min(0).values.max()) > 1e-3


def test_label_noise_is_a_share_of_the_tokens():
    given = {"targets": "every", "train_size": 100}
    clean, noisy = (
        datasets.create("characters", {**given, **more}).load(Path(), seed=0)
        for more in ({}, {"label_noise": 0.25})
    )
    changed = clean.train_targets != noisy.train_targets
    assert changed.shape == (100, 8)
    assert int(changed.sum()) == 200
    last = datasets.create("characters", {"train_size": 100}).load(Path(), seed=0)
    assert torch.equal(last.train_inputs, clean.train_inputs)
    assert torch.equal(last.train_targets, clean.train_targets[:, -1])


@pytest.mark.parametrize("recipe", ["crr", "sam", "mixup", "jacobian_penalty"])
def test_every_recipe_trains_on_tokens(recipe):
    data = datasets.create("characters", {"targets": "every", "train_size": 40, "context": 4})
    splits = data.load(Path(), seed=0)
    network = models.create("causal_transformer", {"width": 8, "activation": "relu"}).build(
        (4, 27), 27, seed=0
    )
    log = recipes.create(recipe, {"epochs": 2, "lr": 1e-2}).train(network, splits, seed=0)
    assert log.diverged is None
    assert log.epochs[1]["train_loss"] < log.epochs[0]["train_loss"] < 4


def test_a_network_without_an_answer_for_each_token_is_refused():
    splits = datasets.create("characters", {"targets": "every", "train_size": 10}).load(
        Path(), seed=0
    )
    network = models.create("mlp").build((8, 27), 27, seed=0)
    told = r"outputs of two samples must be of shape \(2, 27, 8\), and the network gives \(2, 27\)"
    with pytest.raises(InputError, match=told):
        recipes.create("adam").train(network, splits, seed=0)
    with pytest.raises(InputError, match="tokens as vectors"):
        models.create("causal_transformer").build((1, 8, 8), 10, seed=0)
    with pytest.raises(InputError, match="multiple of heads"):
        models.create("causal_transformer", {"width": 9})
    with pytest.raises(InputError):
        datasets.create("characters", {"targets": "first"})
