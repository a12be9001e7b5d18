"""Batches that are too large to be held give the figures of those that are, to the last digit."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import sharpbench as sb
from sharpbench import batches, streamed
from sharpbench.console import aside
from sharpbench.errors import InputError
from sharpbench.subject import Subject
from tests.waiting import PATIENCE

SEED = torch.Generator().manual_seed(0)
X, Y = torch.randn(50, 6, generator=SEED), torch.arange(50) % 3
SIZES = [12, 12, 20, 6]
METRICS = {
    "hessian_top_eigenvalue": {"samples": 30},
    "hessian_trace": {"method": "hutchinson", "max_probes": 8},
    "sam_sharpness": {"m": 7},
    "curvature_rate": {"samples": 20, "directions": 1},
    "margin": {},
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def pairs():
    return list(zip(X.split(SIZES), Y.split(SIZES), strict=True))


@pytest.fixture
def unheld(monkeypatch):
    """Nothing is held but the last batch read."""
    monkeypatch.setattr("sharpbench.batches.HELD", 100)
    monkeypatch.setattr("sharpbench.streamed.HELD", 100)


class Counted:
    """A function that makes its batches anew, and counts."""

    def __init__(self, make=pairs):
        self.make, self.walks, self.read = make, 0, 0

    def __call__(self):
        self.walks += 1
        for batch in self.make():
            self.read += 1
            yield batch


class Rows(IterableDataset):
    def __iter__(self):
        order = torch.randperm(50)  # by torch's global generator
        return iter(zip(X[order], Y[order], strict=True))


def figures(subject):
    return [sb.measure(subject, name, seed=3, **p).value for name, p in METRICS.items()]


@pytest.mark.parametrize("how", ["list", "loader", "function"])
def test_what_is_read_anew_has_the_figures_of_what_is_held(monkeypatch, how):
    made = {
        "list": pairs,
        "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=16),
        "function": lambda: Counted(),
    }[how]
    held = Subject.from_batches(network(), made(), forward=lambda model, batch: model(batch[0]))
    monkeypatch.setattr("sharpbench.batches.HELD", 100)
    monkeypatch.setattr("sharpbench.streamed.HELD", 100)
    streamed = Subject.from_batches(network(), made())
    assert "read anew for each pass" in streamed.said[0]
    assert not any("read anew" in sentence for sentence in held.said)
    assert figures(streamed) == figures(held)


class Doubled(DataLoader):
    """Gives other batches than a DataLoader does."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield 2 * x, y


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_that_changes_its_batches_is_walked(unheld, shuffle):
    loader = Doubled(TensorDataset(X, Y), batch_size=16, shuffle=shuffle)
    found = sb.measure(Subject.from_batches(network(), loader), "gradient_norm")
    expected = sb.measure(Subject(network(), 2 * X, Y), "gradient_norm")
    assert found.value == pytest.approx(expected.value, rel=1e-9)


@pytest.mark.parametrize("held", [100, 2000])
def test_what_is_written_into_one_memory_is_read_as_it_was(monkeypatch, held):
    """Also where single batches of those that are not held stay at hand."""
    monkeypatch.setattr("sharpbench.batches.HELD", held)
    monkeypatch.setattr("sharpbench.streamed.HELD", held)

    def batches():
        place, labels = torch.empty(10, 6), torch.empty(10, dtype=torch.long)
        for x, y in zip(X.split(10), Y.split(10), strict=True):
            yield place.copy_(x), labels.copy_(y)

    whole = figures(Subject(network(), X, Y))
    assert figures(Subject.from_batches(network(), batches)) == pytest.approx(whole, rel=1e-9)


def test_tokens_of_different_lengths_and_losses_of_model_and_batch(monkeypatch):
    batches = [
        {"ids": torch.arange(n * t).view(n, t) % 7, "labels": torch.arange(n * t).view(n, t) % 3}
        for n, t in ((4, 5), (3, 9), (5, 5))
    ]
    torch.manual_seed(0)
    tagger = nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(model, batch):
        return model(batch["ids"])

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["ids"]).mT, batch["labels"])

    def every():
        by_token = Subject.from_batches(
            tagger, lambda: iter(batches), forward=forward, normaliser="tokens"
        )
        by_batch = Subject.from_batches(tagger, lambda: iter(batches), loss=loss)
        return [sb.measure(s, "hessian_trace").value for s in (by_token, by_batch)]

    held = every()
    monkeypatch.setattr("sharpbench.batches.HELD", 100)
    assert every() == held


@pytest.mark.usefixtures("unheld")
def test_a_pass_over_the_data_is_a_walk_and_a_batch_is_read_where_it_is_needed():
    batches = Counted()
    subject = Subject.from_batches(network(), batches, splits={"test": Counted()})
    walks, read = batches.walks, batches.read
    before = torch.get_rng_state()
    sb.measure(subject, "margin", split="train")  # one pass in order
    assert batches.walks - walks <= 2  # a few samples first, to see that it runs
    assert batches.read - read <= 2 * len(SIZES)
    assert torch.equal(torch.get_rng_state(), before)
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    shuffled = Subject.from_batches(network(), loader)
    plain = sb.measure(subject, "hessian_trace", method="unit_vectors", max_probes=100)
    fixed = sb.measure(shuffled, "hessian_trace", method="unit_vectors", max_probes=100)
    assert fixed.value == pytest.approx(plain.value, rel=1e-12)


@pytest.mark.usefixtures("unheld")
def test_torchs_shuffling_is_fixed_and_any_other_refused():
    subject = Subject.from_batches(network(), DataLoader(Rows(), batch_size=16))
    first = figures(subject)
    torch.manual_seed(5)
    assert figures(subject) == first
    generator = np.random.default_rng(0)

    def changing():
        order = generator.permutation(50)
        return [(X[order], Y[order])]

    with pytest.raises(InputError, match="batch 0 of the batches is another one when it is read"):
        Subject.from_batches(network(), changing)
    fewer = itertools.chain([pairs(), pairs()], itertools.repeat(pairs()[:2]))
    with pytest.raises(InputError, match="another one when it is read again"):
        Subject.from_batches(network(), lambda: next(fewer))
    same = iter(pairs())
    with pytest.raises(InputError, match="at least 1 were there first, then 0"):
        Subject.from_batches(network(), itertools.chain([same], itertools.repeat(())).__next__)
    once = Subject.from_batches(network(), iter(pairs()))  # it can't be read again, and is held
    assert not any("read anew" in sentence for sentence in once.said)


PEAK = r"""
import re, sys
import torch
from torch import nn
import sharpbench as sb
from sharpbench import batches, streamed
from sharpbench.subject import Subject
def peak():  # of this program alone: what getrusage tells begins with that of the process it came from
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
held = int(sys.argv[1]) << 20
batches.HELD = streamed.HELD = held
def made():
    generator = torch.Generator().manual_seed(0)
    for _ in range(36):
        yield torch.randn(8, 1 << 16, generator=generator), torch.arange(8) % 3  # 2 MiB
torch.manual_seed(0)
net = nn.Sequential(nn.AvgPool1d(1 << 10), nn.Linear(64, 3))
before = peak()
subject = Subject.from_batches(net, made)
m = sb.measure(subject, "hessian_top_eigenvalue", tolerance=0.1, memory_budget=1 << 22)
print(m.value, peak() - before)
"""


def test_the_memory_that_it_takes_does_not_grow_with_the_data():
    """72 MiB of batches: held, and with 4 MiB at hand."""
    found = {}
    for held in (1000, 4):
        told = subprocess.run(
            [sys.executable, "-c", PEAK, str(held)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert told.returncode == 0, told.stderr
        found[held] = [float(word) for word in told.stdout.split()]
    assert found[4][0] == pytest.approx(found[1000][0], rel=1e-12)
    assert found[4][1] < 0.5 * found[1000][1]


def lies_in_a_file(tensor):
    """Whether the system may take the memory of a tensor for something else, and read it again."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(word, 16) for word in line.split()[0].split("-"))
            if begin <= tensor.data_ptr() < end:
                return "sharpbench_targets" in line
    raise AssertionError("it lies nowhere")


def images():
    """Pixels of two classes and of none, of batches that differ in size."""
    for x, n in zip(torch.randn(13, 1, 6, 6, generator=SEED).split([5, 8]), (5, 8), strict=True):
        yield x, torch.where(x[:, 0].abs() > 1.5, -100, (x[:, 0] > 0).long()), n


PIXELS = list(images())


@pytest.mark.parametrize("kind", ["classes", "reals", "tokens of two lengths"])
def test_targets_as_large_as_the_data_lie_in_a_file(monkeypatch, tmp_path, kind):
    """Their figures are those of targets that are held, to the last digit."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    torch.manual_seed(0)
    if kind == "reals":
        net, options = nn.Conv2d(1, 1, 1), {}
        batches = [(x, x.double() + 1) for x, _, _ in PIXELS]
    elif kind == "classes":
        net, options = nn.Conv2d(1, 2, 1), {"normaliser": "tokens"}
        batches = [(x, y) for x, y, _ in PIXELS]
    else:
        net, options = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)), {}
        ids = [torch.arange(n * t).view(n, t) % 7 for n, t in ((9, 5), (4, 8))]
        batches = [(x, x % 2) for x in ids]
        options["loss"] = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
        options["normaliser"] = "tokens"

    def figures(subject):
        told = [sb.measure(subject, "gradient_norm", samples=k).value for k in ("all", 7)]
        if kind != "reals":
            told.append(sb.measure(subject, "margin").value)
        return told, subject.targets.clone()

    def forward(model, batch):
        return model(batch[0])

    held = Subject.from_batches(net, batches, forward=forward, **options)
    monkeypatch.setattr("sharpbench.batches.HELD", 100)
    monkeypatch.setattr("sharpbench.streamed.HELD", 100)
    streamed = Subject.from_batches(net, batches, forward=forward, **options)
    (one, of_one), (two, of_two) = figures(held), figures(streamed)
    assert one == two
    assert torch.equal(of_one, of_two)
    assert lies_in_a_file(streamed.targets)
    assert not lies_in_a_file(held.targets)
    assert list(tmp_path.iterdir()) == []  # nothing is left where it could stay behind
    assert "in a temporary file" in streamed.said[0]


def test_where_no_file_can_be_written_it_is_said(monkeypatch):
    monkeypatch.setattr("sharpbench.batches.HELD", 100)
    monkeypatch.setattr("sharpbench.streamed.HELD", 100)
    monkeypatch.setattr("sharpbench.streamed._FILE", 1 << 60)
    with pytest.raises(InputError, match="environment variable TMPDIR"):
        Subject.from_batches(network(), pairs())


def endless(counted, *, stops_at):
    def made():
        while True:
            counted.append(1)
            if len(counted) == stops_at:
                raise KeyboardInterrupt  # the user's
            yield torch.randn(4, 3), torch.zeros(4).long()

    return made


@pytest.mark.parametrize("held", [1 << 20, 0])
def test_what_never_ends_is_spoken_of_while_it_is_read(monkeypatch, capsys, held):
    """Held and streamed, from a function and an iterator."""
    for module in (streamed, batches):
        monkeypatch.setattr(module, "HELD", held)
    monkeypatch.setattr(streamed, "PATIENCE", 0.0)
    monkeypatch.setattr(aside, "quiet", False)
    model = nn.Linear(3, 2)
    for made in (lambda b: b, lambda b: b()):
        with pytest.raises(KeyboardInterrupt):
            Subject.from_batches(model, made(endless([], stops_at=9)))
        told = capsys.readouterr().err
        assert "reading the batches: 1 so far (4 samples, 0 MiB)" in told
        assert "itertools.islice(…, 1)" in told
    data = [(torch.randn(4, 3), torch.zeros(4).long())]
    with pytest.raises(KeyboardInterrupt):
        Subject.from_batches(model, data, splits={"test": endless([], stops_at=9)})
    assert "reading the test batches: 1 so far" in capsys.readouterr().err


def test_a_sampler_without_end_is_spoken_of(monkeypatch, capsys):
    class Endless(torch.utils.data.Sampler):
        def __iter__(self):
            for number in itertools.count():
                if number == 50:
                    raise KeyboardInterrupt  # the user's
                yield number % 6

    for module in (streamed, batches):
        monkeypatch.setattr(module, "HELD", 0)
    monkeypatch.setattr(streamed, "PATIENCE", 0.0)
    monkeypatch.setattr(aside, "quiet", False)
    data = TensorDataset(torch.randn(6, 3), torch.zeros(6).long())
    with pytest.raises(KeyboardInterrupt):
        Subject.from_batches(nn.Linear(3, 2), DataLoader(data, batch_size=3, sampler=Endless()))
    assert "reading the numbers of the samples: 1 so far, and" in capsys.readouterr().err


def test_reading_that_is_quick_is_not_spoken_of(capsys):
    Subject.from_batches(nn.Linear(3, 2), [(torch.randn(4, 3), torch.zeros(4).long())] * 3)
    assert capsys.readouterr().err == ""
