"""A damaged results folder: nothing passes in silence, nothing ends in a traceback, the rest stands."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import save

from sharpbench.errors import InputError, LeftOutWarning
from sharpbench.results.checksum import sealed
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.results.verify import verify_store
from tests.suite.test_run import figures, run

SUITE = """
name = "small"
title = "Small"
seeds = [0, 1]

[[subjects]]
dataset = { name = "two_moons", n = 60 }
model   = { name = "mlp", widths = [3] }
recipe  = { name = "adam", epochs = 1 }

[[metrics]]
name = "margin"

[[metrics]]
name = "mean_confidence"

[[transformations]]
name = "weight_noise"

[trajectory]
metrics = [{ name = "margin" }]
every = 1

[[problems]]
problem = { name = "hyperbolic_tangent", dimension = 2 }
metrics = { name = "input_jacobian_norm", samples = 8 }

[cost]
repeats = 1
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    (folder / "small.toml").write_text(SUITE)
    outcomes, _ = run(folder / "small.toml", folder / "results")
    assert not any(o.problems for o in outcomes)
    return folder / "results"


def two(root: Path) -> tuple[Path, Path]:
    """The folders of the two trained networks."""
    first, second = sorted(p.parent for p in root.glob("*/weights.safetensors"))
    return first, second


def values(root: Path) -> tuple[dict[tuple, object], list[str]]:
    """Every figure that is read, and what was told of the others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frame = load_records(root)
        except InputError as error:
            return {}, [str(error)]
    told = [str(w.message) for w in caught if issubclass(w.category, LeftOutWarning)]
    identity = [*frame.columns[frame.columns.isin(["subject", "kind", "label", "transformation"])]]
    rows = frame[[*identity, "epoch", "status"]].astype(str).itertuples(index=False, name=None)
    return dict(zip(rows, frame["value"].map(repr), strict=True)), told


Corruption = Callable[[Path], object]
CORRUPTIONS: dict[str, Corruption] = {}


def corruption(change: Corruption) -> Corruption:
    CORRUPTIONS[change.__name__] = change
    return change


def edited(name: str, pattern: bytes, replacement: bytes, where: int = 0) -> Corruption:
    """A change of the first place in a file of the first network that looks like ``pattern``."""

    def change(root: Path) -> None:
        path = two(root)[0] / name
        before = path.read_bytes()
        after = re.sub(pattern, replacement, before, count=1)
        assert after != before
        path.write_bytes(after)

    return change


LINES, SUBJECT, WEIGHTS = "measurements.jsonl", "subject.json", "weights.safetensors"

for number, (pattern, replacement) in enumerate(
    [
        (rb'("value": -?\d*\.?\d)\d', rb"\g<1>0123"),
        (rb'"value": [^,]+', rb'"value": NaN'),
        (rb'"value": [^,]+', rb'"value": Infinity'),
        (rb'"value": [^,]+', rb'"value": null'),
        (rb'"value": [^,]+', rb'"value": "0.5"'),
        (rb'"value": [^,]+', rb'"value": true'),
        (rb'"value": [^,]+', rb'"value": 1e400'),
        (rb'"value": [^,]+', rb'"value": ' + b"9" * 5000),
        (rb'"value": [^,]+', rb'"value": []'),
        (rb'"status": "ok"', rb'"status": "fine"'),
        (rb'"status": "ok"', rb'"status": null'),
        (rb'"kind": "[a-z_]+"', rb'"kind": "rumour"'),
        (rb'"standard_error": [^,]+', rb'"standard_error": -1.0'),
        (rb'"errors": \[\]', rb'"errors": [1]'),
        (rb'"details": {', rb'"details": ' + b'{"in": ' * 300 + b"1" + b"}" * 300 + b', "x": {'),
        (rb'"name": "[a-z_]+"', rb'"name": "other"'),
        (rb'"key": "[0-9a-f]', rb'"key": "g'),
        (rb'"plan_key": "[0-9a-f]{4}', rb'"plan_key": "0000'),
        (rb'"checksum": "[0-9a-f]{2}', rb'"checksum": "zz'),
        (rb'"checksum"', rb'"checksun"'),
        (rb', "checksum": "[0-9a-f]{8}"', rb""),
        (rb'"version": \d+', rb'"version": 99'),
        (rb"\n", rb"\r"),
        (rb"\n", b"\xe2\x80\xa8"),
        (rb"\n", b"\xc2\x85"),
        (rb"\n", b"\n\n"),
        (rb"\n", b"\ngarbage\n"),
        (rb"\n", b"\n" + b"\0" * 50 + b"\n"),
        (rb"\A", b"\xff\xfe"),
        (rb"{", b"["),
    ]
):  # fmt: skip
    CORRUPTIONS[f"lines-{number}"] = edited(LINES, pattern, replacement)

for number, (pattern, replacement) in enumerate(
    [
        (rb'"n": 60', rb'"n": 61'),
        (rb'"n": 60', rb'"n": NaN'),
        (rb'"status": "trained"', rb'"status": "tamed"'),
        (rb'"status": "trained"', rb'"status": "known"'),
        (rb'"weights": "[0-9a-f]', rb'"weights": "g'),
        (rb'"weights": "[0-9a-f]+"', rb'"weights": null'),
        (rb'"key": "[0-9a-f]', rb'"key": "x'),
        (rb'"seed": \d', rb'"seed": "0"'),
        (rb'"seed": (\d)', rb'"seed": 1e400'),
        (rb'"label"', rb'"lable"'),
        (rb'"train_loss": [^,]+', rb'"train_loss": "small"'),
        (rb'"train_loss": [^,]+', rb'"train_loss": 0.0'),
        (rb'"checksum": "', rb'"checksum": "0'),
        (rb"\A", b"\xff\xfe"),
        (rb"\A{", b"["),
    ]
):
    CORRUPTIONS[f"subject-{number}"] = edited(SUBJECT, pattern, replacement)

for name in (LINES, SUBJECT, WEIGHTS):

    def bit(root: Path, share: float, name: str) -> None:
        path = two(root)[0] / name
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 1
        path.write_bytes(content)

    def cut(root: Path, share: float, name: str) -> None:
        path = two(root)[0] / name
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    for share in (0.03, 0.21, 0.42, 0.63, 0.84, 0.97):
        CORRUPTIONS[f"bit-{name}-{share}"] = lambda root, s=share, n=name: bit(root, s, n)
    for share in (0.3, 0.6, 0.9):
        CORRUPTIONS[f"cut-{name}-{share}"] = lambda root, s=share, n=name: cut(root, s, n)

    def becomes(root: Path, name: str, make: Callable[[Path], object]) -> None:
        path = two(root)[0] / name
        path.unlink()
        make(path)

    for kind, make in {
        "fifo": os.mkfifo,
        "folder": Path.mkdir,
        "loop": lambda path: path.symlink_to(path.name),
        "dangling": lambda path: path.symlink_to("nowhere"),
        "zeros": lambda path: path.write_bytes(b"\0" * 4096),
        "utf-16": lambda path: path.write_bytes('{"a": 1}\n'.encode("utf-16")),
        "list": lambda path: path.write_bytes(b"[]\n"),
    }.items():
        CORRUPTIONS[f"{kind}-{name}"] = lambda root, n=name, m=make: becomes(root, n, m)

    def swapped(root: Path, name: str) -> None:
        first, second = (folder / name for folder in two(root))
        one = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(one)

    CORRUPTIONS[f"swapped-{name}"] = lambda root, n=name: swapped(root, n)


@corruption
def a_foreign_line(root: Path) -> None:
    first, second = (folder / LINES for folder in two(root))
    line = second.read_bytes().splitlines(keepends=True)[-1]
    first.write_bytes(first.read_bytes() + line)


@corruption
def a_copied_folder(root: Path) -> None:
    shutil.copytree(two(root)[0], root / "copy")


@corruption
def a_folder_under_another_key(root: Path) -> None:
    two(root)[1].rename(root / ("0" * 20))


@corruption
def swapped_folders(root: Path) -> None:
    first, second = two(root)
    first.rename(root / "x")
    second.rename(first)
    (root / "x").rename(second)


@corruption
def no_weights(root: Path) -> None:
    (two(root)[0] / WEIGHTS).unlink()


@corruption
def empty_safetensors(root: Path) -> None:
    (two(root)[0] / WEIGHTS).write_bytes(save({}))


@corruption
def other_weights_with_a_fitting_description(root: Path) -> None:
    """As if the network had been trained again elsewhere: its records are of the former weights."""
    path = two(root)[0] / SUBJECT
    content = json.loads(path.read_text())
    del content["checksum"]
    content["weights"] = "0" * 64
    path.write_text(sealed(json.dumps(content)))


def test_there_are_eighty():
    assert len(CORRUPTIONS) >= 80


OF_WEIGHTS = re.compile("weights.safetensors|no_weights|empty_safetensors")
"""A reader needs no weights: the next run names them, and trains again."""
OF_BOTH = re.compile("swapped|under_another_key")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_no_damage_passes_in_silence(sound, tmp_path, name):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    before, told = values(root)
    assert not told
    damaged = [json.loads((folder / SUBJECT).read_text())["key"] for folder in two(root)]
    others = {row for row in before if row[0] not in damaged[: 1 + bool(OF_BOTH.search(name))]}
    CORRUPTIONS[name](root)
    after, told = values(root)
    assert after.items() <= before.items()  # not one digit is another
    assert others
    assert others <= after.keys()
    told_by_run = [text for folder in ResultsStore(root).subjects() for text in folder.mend()]
    assert bool(told) != bool(OF_WEIGHTS.search(name))
    assert told_by_run
    later, told = values(root)  # what was damaged is out of the way
    assert later == after
    assert not told


@pytest.mark.endurance
def test_no_random_damage_changes_a_digit(sound, tmp_path):
    """Five hundred mutations of any file: bytes changed, cut out, doubled, moved between files."""
    rng = random.Random(0)
    before, _ = values(sound)
    for turn in range(500):
        root = tmp_path / str(turn)
        shutil.copytree(sound, root)
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.stat().st_size)
        path, other = rng.choices(files, k=2)
        content = bytearray(path.read_bytes())
        at, to = sorted(rng.choices(range(len(content)), k=2))
        kind = rng.choice(["change", "cut", "double", "take", "end"])
        if kind == "change":
            content[at] = (content[at] + rng.randrange(1, 256)) % 256
        elif kind == "cut":
            del content[at : to + 1]
        elif kind == "double":
            content[at:at] = content[at : to + 1]
        elif kind == "take":
            content[at : to + 1] = other.read_bytes()[: to - at + 1]
        else:
            content += bytes(rng.randrange(256) for _ in range(20))
        path.write_bytes(content)
        after, _ = values(root)
        assert after.items() <= before.items(), (turn, kind, path)
        store = ResultsStore(root)
        store.damaged_documents()
        verify_store(store, lambda name: None)
        for folder in store.subjects():
            folder.mend()
        assert values(root)[0] == after, (turn, kind, path)
        shutil.rmtree(root)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b"\xef\xbb\xbf"), (b"\n", b"\r\n"), (b"", b"\0\0"), (b"\n", b" \n"), (b"\n", b"\0\n")],
)
def test_what_a_transfer_puts_around_records_is_no_part_of_them(sound, tmp_path, before, after):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    for name in (LINES, SUBJECT):
        path = two(root)[0] / name
        content = path.read_bytes()
        changed = content.replace(before, after) if before else after + content
        path.write_bytes(changed if name == LINES or not before else content + after)
    assert values(root) == values(sound)


def test_a_file_cut_at_the_end_of_a_line_is_completed_by_the_next_run(sound, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    before = figures(root)
    (two(root)[0] / LINES).write_bytes(b"")
    outcomes, _ = run(sound.parent / "small.toml", root)
    assert sum(o.trained for o in outcomes) == 1  # to measure along training once more
    assert not any(o.problems or o.mended for o in outcomes)
    assert figures(root) == before


def test_a_file_torn_anywhere_leaves_the_lines_before(sound, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    store = ResultsStore(root)
    folder = next(f for f in store.subjects() if not (f.path / WEIGHTS).exists())
    path, whole = folder.path / LINES, (folder.path / LINES).read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    last = len(whole) + 1
    for size in (*range(150), *range(150, last - 150, 7), *range(last - 150, last)):
        path.write_bytes(whole[:size])
        stored = store.subject(folder.path.name).load()
        assert len(stored.records) == sum(end <= size for end in ends)
        assert bool(stored.left_out) == (size not in {0, *ends, *(end + 1 for end in ends)})


@pytest.mark.parametrize(
    "name",
    ["lines-0", "swapped-measurements.jsonl", "swapped-weights.safetensors", "swapped_folders",
     "fifo-subject.json", "bit-weights.safetensors-0.97", "no_weights"],
)  # fmt: skip
def test_what_was_damaged_is_named_moved_and_measured_again(sound, tmp_path, name):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    before = figures(root)
    CORRUPTIONS[name](root)
    outcomes, _ = run(sound.parent / "small.toml", root)
    assert any(o.mended for o in outcomes)
    assert not any(o.problems for o in outcomes)
    assert figures(root) == before
    again, _ = run(sound.parent / "small.toml", root)
    assert not any(o.mended or o.measured or o.trained for o in again)


def test_strangers_in_the_folder_harm_nothing(sound, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    before = values(root)
    for folder in (root, *two(root), root / "suites", root / "runs"):
        os.mkfifo(folder / "pipe.json")
        (folder / "notes.txt").write_bytes(b"\xff")
        (folder / "loop").symlink_to("loop")
        (folder / "folder.jsonl").mkdir()
    os.mkfifo(root / ("a" * 20))
    os.mkfifo(two(root)[0] / "subject.json.partial")
    os.mkfifo(two(root)[0] / "measurements.damaged.jsonl")
    assert values(root) == before
    CORRUPTIONS["lines-0"](root)
    outcomes, _ = run(sound.parent / "small.toml", root)
    assert not any(o.problems for o in outcomes)
    assert values(root)[0].keys() == before[0].keys()


def test_a_damaged_manifest_says_what_brings_it_back(sound, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    path = root / "suites" / "small.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"(?s)small\.json: it is not JSON.*next run"):
        load_records(root, suite="small")
    run(sound.parent / "small.toml", root)
    assert values(root) == values(sound)
    assert (root / "damaged" / "suites-1" / "small.json").is_file()


@pytest.mark.parametrize("kind", ["decision_map", "reliability"])
def test_a_damaged_picture_is_drawn_again(sound, tmp_path, kind):
    root = tmp_path / "results"
    shutil.copytree(sound, root)
    path = two(root)[0] / LINES
    lines = path.read_bytes().splitlines(keepends=True)
    (place,) = (i for i, line in enumerate(lines) if b'"kind": "%s"' % kind.encode() in line)
    lines[place] = lines[place].replace(b"0", b"1", 1)
    path.write_bytes(b"".join(lines))
    run(sound.parent / "small.toml", root)
    assert figures(root) == figures(sound)
