"""bundle, merge and verify, on real results as users move them."""

import dataclasses
import json
import re
import shutil
import zipfile

import pytest

from sharpbench.results.bundle import opened
from sharpbench.results.store import ResultsStore, load_records
from tests.cli.command import in_process, sharpbench

SUITE = """
name = "tiny"
seeds = [0, 1]
[[subjects]]
dataset = {{ name = "two_moons", n = 60 }}
model = {{ name = "mlp", widths = [4] }}
recipe = {{ name = "adam", epochs = 2 }}
[[problems]]
problem = {{ name = "sine" }}
seeds = 1
metrics = {{ name = "curvature_rate", target = 0, samples = "all" }}
[[metrics]]
name = "logit_norm"
{more}
[cost]
repeats = 0
"""
ANOTHER = '[[metrics]]\nname = "margin"\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``half``: one seed; ``other``: the other seed, and a metric more; ``whole``: everything."""
    root = tmp_path_factory.mktemp("machines")
    for name, more, only in (
        ("half", "", ["--only", "seed=0"]),
        ("other", "", ["--only", "mlp(widths=[4]) · adam(epochs=2) · seed=1"]),
        ("whole", ANOTHER, []),
    ):
        (root / f"{name}.toml").write_text(SUITE.format(more=more))
        command = ["run", f"{name}.toml", "--results", name, "--no-report", "--engine", "inline"]
        done = sharpbench(*command, *only, cwd=root)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def ask(capsys, monkeypatch):
    return lambda *arguments: in_process(capsys, monkeypatch, *arguments)


def figures(path):
    frame = load_records(path)
    frame = frame[frame["kind"].isin(["measurement", "evaluation", "problem"])]
    return frame.set_index(["subject", "kind", "label"])["value"].sort_index()


def test_two_machines_make_one_folder(folder, ask):
    told = ask("merge", "half", "other", "--into", "both")
    assert told.code == 0, told.err
    assert "half: 2 new subjects" in told.out
    assert "other: 1 new subjects" in told.out
    both, whole = figures("both"), figures("whole")
    shared = whole[whole.index.get_level_values("label") != "margin"]
    evaluated = whole.index.get_level_values("kind") == "evaluation"
    assert both.equals(whole[evaluated | whole.index.isin(shared.index)])
    assert ask("verify", "both").code == 0
    # A second time there is nothing new, and a run has nothing left to do.
    again = ask("merge", "half", "--into", "both")
    assert "0 new subjects, 0 new records" in again.out
    done = ask("run", "half.toml", "--results", "both", "--no-report", "--engine", "inline")
    assert "0 records written" in done.out


def test_a_folder_that_knows_more_adds_its_records(folder, ask):
    told = ask("merge", "whole", "--into", "half")
    assert told.code == 1  # the suite's file says something else: that is named
    assert "suite tiny: its file says something else" in told.err
    merged = figures("half")
    assert merged.equals(figures("whole"))
    assert ask("verify", "half").code == 0


def test_what_says_something_else_is_named_and_what_stands_here_stays(folder, ask):
    store = ResultsStore(folder / "other")
    (subject,) = store.subjects()
    record = next(
        r for r in subject.records() if r.name == "logit_norm" and r.kind == "measurement"
    )
    shutil.copytree("other", "changed")
    changed = ResultsStore(folder / "changed").subjects()[0]

    changed.append([dataclasses.replace(record, value=record.value + 1)])
    told = ask("merge", "changed", "--into", "other")
    assert told.code == 1
    assert f"{record.value + 1!r} there, {record.value!r} here" in told.err
    assert figures("other").equals(figures("other"))
    kept = figures("other").xs("logit_norm", level="label").xs("measurement", level="kind")
    assert kept.item() == record.value


def test_a_torn_or_changed_line_is_not_taken_over(folder, ask):
    subject = next(
        s for s in ResultsStore(folder / "half").subjects() if s.read()["status"] == "trained"
    )
    path = subject.path / "measurements.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[0] = (
        lines[0].replace(b'"logit', b'"logic', 1) if b'"logit' in lines[0] else lines[0][:-9] + b'"'
    )
    path.write_bytes(b"\n".join(lines))
    told = ask("merge", "half", "--into", "fresh")
    assert told.code == 0
    assert "left out:" in told.err
    assert ask("verify", "fresh").code == 0


def test_a_bundle_is_the_suite_and_comes_back_whole(folder, ask):
    told = ask("bundle", "tiny", "--results", "whole", "--output", "tiny.zip")
    assert told.code == 0, told.err
    assert "tiny.zip: 3 subjects" in told.out
    checked = ask("verify", "tiny.zip", "--recompute", "100%")
    assert checked.code == 0, checked.out
    assert "equal to the last bit" in checked.out
    assert " 0 not" in checked.out
    assert ask("merge", "tiny.zip", "--into", "taken").code == 0
    assert figures("taken").equals(figures("whole"))
    assert ask("report", "tiny", "--results", "taken").code == 0
    first = (folder / "tiny.zip").read_bytes()
    ask("bundle", "tiny", "--results", "taken", "--output", "again.zip")
    assert (folder / "again.zip").read_bytes() == first


def test_a_bundle_holds_what_its_suite_asked_alone(folder, ask):
    (folder / "less.toml").write_text(SUITE.format(more="").replace('"tiny"', '"less"'))
    assert (
        ask("run", "less.toml", "--results", "whole", "--no-report", "--engine", "inline").code == 0
    )
    assert ask("bundle", "less", "--results", "whole").code == 0
    with opened(folder / "less.zip") as store:
        frame = load_records(store.root)
    assert "margin" not in set(frame.loc[frame["kind"] == "measurement", "name"])
    assert "logit_norm" in set(frame["name"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("flip", "its SHA-256 is another|no whole bundle"),
        ("lack", "is missing"),
        ("more", "is not in its manifest"),
        ("escape", "is no file of a results folder"),
        ("bomb", "its SHA-256 is another"),
        ("cut", "neither a results folder nor a bundle|no whole bundle"),
        ("text", "neither a results folder nor a bundle"),
        ("future", "format 9"),
    ],
)
def test_a_changed_bundle_is_refused(folder, ask, change, told):
    assert ask("bundle", "tiny", "--results", "half", "--output", "b.zip").code == 0
    with zipfile.ZipFile("b.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(content["bundle.json"])
    name = next(n for n in content if n.endswith("measurements.jsonl"))
    if change == "flip":
        content[name] = content[name].replace(b"logit_norm", b"logit_nORM", 1)
    elif change == "lack":
        del content[name]
    elif change == "more":
        content["suites/../../evil.json"] = b"{}"
    elif change == "escape":
        content["../evil.json"] = b"{}"
        manifest["files"]["../evil.json"] = {"bytes": 2, "sha256": "0" * 64}
    elif change == "bomb":
        content[name] = b"0" * 10**7
    elif change == "future":
        manifest["bundle"] = 9
    content["bundle.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile("b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for each, bytes_ in content.items():
            archive.writestr(each, bytes_)
    if change == "cut":
        (folder / "b.zip").write_bytes((folder / "b.zip").read_bytes()[:-40])
    elif change == "text":
        (folder / "b.zip").write_text("hello")
    for verb in (("verify", "b.zip"), ("merge", "b.zip", "--into", "never")):
        done = ask(*verb)
        assert done.code == 2
        assert re.search(told, done.err), done.err
    assert not (folder / "never").exists()
    assert not (folder.parent / "evil.json").exists()


def test_wrong_words_are_told(folder, ask):
    assert (
        "Nearest" in ask("bundle", "tini", "--results", "half").err
        or "tiny" in ask("bundle", "tini", "--results", "half").err
    )
    assert ask("merge", "nowhere", "--into", "x").code == 2
    assert "into itself" in ask("merge", "half", "--into", "half").err
