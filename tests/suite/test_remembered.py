"""The outline of a plan that a results folder remembers: believed with proof alone, and equal to the plan."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import sharpbench
from sharpbench.datasets.files import FILE_SETS
from sharpbench.errors import LeftOutWarning
from sharpbench.results.checksum import sealed
from sharpbench.suite import remembered
from sharpbench.suite.outline import Outline
from sharpbench.suite.plan import make_plan
from sharpbench.suite.prepared import prepare
from sharpbench.suite.remembered import Memory, Unproven, outline_of, warnings_as_doubts
from sharpbench.suite.spec import find_suite, known_suites, load_suite
from tests.cli.command import sharpbench as command

SUITE = """
name = "small"
seeds = 2
[[subjects]]
dataset = { name = "two_moons", n = 60 }
model = { name = "mlp", widths = [4] }
recipe = { name = "adam", epochs = 1 }
[[metrics]]
name = "parameter_norm"
[cost]
repeats = 0
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """As in the command's own process, which has loaded one module."""
    monkeypatch.setattr(remembered, "_is_the_command", lambda: True)
    monkeypatch.setattr(remembered, "_check_plugins", lambda: None)
    module = tmp_path / "module.py"
    module.write_text("one = 1\n")
    monkeypatch.setattr(remembered, "_loaded", lambda: [str(module)])
    (tmp_path / "small.toml").write_text(SUITE)
    (tmp_path / "results").mkdir()
    return tmp_path


def memory(folder: Path, device: str = "cpu") -> Memory:
    return Memory(folder / "results", load_suite(folder / "small.toml"), device=device)


def kept(folder: Path) -> Outline:
    plan = make_plan(load_suite(folder / "small.toml"))
    outline = memory(folder).keep(plan, folder / "data", [])
    assert outline is not None
    assert memory(folder).recall() == outline
    return outline


def the_file(folder: Path) -> Path:
    (path,) = (folder / "results" / ".plans").iterdir()
    return path


@pytest.mark.parametrize("name", known_suites())
def test_a_shipped_suite_is_valid_and_what_is_remembered_is_its_plan_key_by_key(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(remembered, "_check_plugins", lambda: None)
    doubts: list[str] = []
    plan = make_plan(load_suite(find_suite(name)), data=tmp_path, doubts=doubts)
    assert doubts == []
    assert plan.name == name
    assert plan.subjects
    text = json.dumps(outline_of(plan, tmp_path).told(), ensure_ascii=False)
    outline = Outline.of_told(json.loads(text))
    for known in ("name", "title", "description", "highlight", "expects_nothing", "threads"):
        assert getattr(outline, known) == getattr(plan, known)
    assert outline.record_keys() == plan.record_keys()
    assert (outline.evaluated, outline.repeats) == (plan.evaluated, plan.cost.repeats)
    assert outline.trajectory.keys == plan.trajectory.keys
    assert outline.trajectory.labels == tuple(m.label for m in plan.trajectory.metrics)
    due = [(epoch, last) for epoch in range(1, 12) for last in (7, 11)]
    assert [outline.trajectory.due(*d) for d in due] == [plan.trajectory.due(*d) for d in due]
    assert len(outline.subjects) == len(plan.subjects)
    for ours, theirs in zip(outline.subjects, plan.subjects, strict=True):
        for known in ("key", "label", "kind", "seeds", "device", "network", "data_known"):
            assert getattr(ours, known) == getattr(theirs, known)
        for known in ("recipe_name", "epochs", "dataset_name"):
            assert getattr(ours, known) == getattr(theirs, known)
        assert outline.timed(ours) == plan.timed(theirs)
        assert ours.missing(tmp_path) == theirs.missing(tmp_path)
    asked = {id(plan.asked(s)): (outline.asked(o), plan.asked(s))
             for o, s in zip(outline.subjects, plan.subjects, strict=True)}  # fmt: skip
    for ours, theirs in asked.values():
        assert [(q.key, q.metric_label, q.alone, q.missing()) for q in ours] == [
            (q.key, q.metric.label, q.transformation is None and not q.draw, q.metric.missing())
            for q in theirs
        ]


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def another_suite(folder, monkeypatch):
    edit(folder / "small.toml", "n = 60", "n = 61")


def a_number_of_another_kind(folder, monkeypatch):
    edit(folder / "small.toml", "epochs = 1", "epochs = 1, lr = 1")
    kept(folder)
    edit(folder / "small.toml", "lr = 1", "lr = 1.0")


def an_edited_module(folder, monkeypatch):
    edit(folder / "module.py", "one = 1", "one = 2")


def an_edit_with_its_times_put_back(folder, monkeypatch):
    before = (folder / "module.py").stat()
    edit(folder / "module.py", "one = 1", "one = 2")
    os.utime(folder / "module.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "module.py").stat().st_mtime_ns == before.st_mtime_ns


def another_file_in_its_place(folder, monkeypatch):
    shutil.copy2(folder / "module.py", folder / "copy.py")
    os.replace(folder / "copy.py", folder / "module.py")


def a_module_that_is_gone(folder, monkeypatch):
    (folder / "module.py").unlink()


def another_python(folder, monkeypatch):
    monkeypatch.setattr(sys, "version", "3.99.0")


def another_machine(folder, monkeypatch):
    monkeypatch.setattr(remembered.platform, "node", lambda: "elsewhere")


def installed(name):
    def change(folder, monkeypatch):
        (folder / "site" / name).mkdir(parents=True)
        monkeypatch.syspath_prepend(folder / "site")

    change.__name__ = f"installed_{name}"
    return change


def another_path_file(folder, monkeypatch):
    (folder / "site").mkdir()
    (folder / "site" / "own.pth").write_text("import one\n")
    monkeypatch.syspath_prepend(folder / "site")
    kept(folder)
    (folder / "site" / "own.pth").write_text("import two\n")


def an_archive_on_the_path(folder, monkeypatch):
    (folder / "all.zip").write_bytes(b"")
    monkeypatch.syspath_prepend(folder / "all.zip")


def another_program(folder, monkeypatch):
    monkeypatch.setattr(remembered, "_is_the_command", lambda: False)


@pytest.mark.parametrize(
    "change",
    [
        another_suite, a_number_of_another_kind, an_edited_module, an_edit_with_its_times_put_back,
        another_file_in_its_place, a_module_that_is_gone, another_python, another_machine,
        installed("torch-9.9.dist-info"), installed("numpy"), installed("curvlinops"),
        another_path_file, an_archive_on_the_path, another_program,
    ],
)  # fmt: skip
def test_a_change_of_anything_that_a_plan_depends_on_is_seen(here, monkeypatch, change):
    kept(here)
    change(here, monkeypatch)
    assert memory(here).recall() is None


def test_what_a_plan_does_not_depend_on_leaves_it_believed(here, monkeypatch):
    outline = kept(here)
    (here / "small.toml").write_text(f"# A remark.\n{SUITE}")
    monkeypatch.chdir(here / "results")
    monkeypatch.syspath_prepend(here)  # holds nothing that anybody asks Python for
    assert memory(here).recall() == outline
    assert memory(here, "cuda").recall() is None


def test_a_suite_depends_on_what_it_extends(here):
    edit(here / "small.toml", 'name = "small"\nseeds = 2\n', 'name = "base"\nseeds = 2\n')
    (here / "small.toml").rename(here / "base.toml")
    (here / "small.toml").write_text('extends = "./base.toml"\nname = "small"\n')
    kept(here)
    edit(here / "base.toml", "seeds = 2", "seeds = 3")
    assert memory(here).recall() is None


def the_bytes(change):
    def damage(path):
        path.write_bytes(change(path.read_bytes()))

    return damage


def a_folder(path):
    path.unlink()
    path.mkdir()


def sealed_but_no_outline(path):
    told = json.loads(path.read_bytes())
    del told["checksum"], told["outline"]["trajectory"]
    path.write_text(sealed(json.dumps(told), place=f"plans/{path.stem}"))


@pytest.mark.parametrize(
    "damage",
    [
        the_bytes(lambda b: b.replace(b'"threads": 1', b'"threads": 2')),
        the_bytes(lambda b: b[: len(b) // 2]),
        the_bytes(lambda b: b""),
        the_bytes(lambda b: b"[]"),
        the_bytes(lambda b: b"\xff" * 100),
        the_bytes(lambda b: json.dumps({**json.loads(b), "checksum": ""}).encode()),
        the_bytes(lambda b: re.sub(rb', *"checksum": *"\w+"', b"", b)),
        a_folder,
        sealed_but_no_outline,
    ],
)
def test_what_is_damaged_is_told_and_not_believed(here, damage):
    kept(here)
    damage(the_file(here))
    with pytest.warns(LeftOutWarning, match=r"\.plans.*the plan is made anew"):
        assert memory(here).recall() is None
    kept(here)  # it is put in place again


def test_what_was_remembered_of_another_suite_is_told_and_not_believed(here):
    kept(here)
    foreign = the_file(here).rename(here / "foreign.json")
    edit(here / "small.toml", "n = 60", "n = 61")
    kept(here)
    foreign.rename(the_file(here))
    with pytest.warns(LeftOutWarning, match="checksum"):
        assert memory(here).recall() is None


@dataclass(frozen=True)
class Elsewhere:
    """A dataset that looks into its folder, when it is asked for its fingerprint or for what is missing."""

    fingerprinted: bool
    name = "own_table"
    label = "own"

    def fingerprint(self, root):
        return str(sorted(os.listdir(root))) if self.fingerprinted else ""

    def missing(self, root):
        return None if (root / "table.csv").exists() else "no table"


def test_what_depends_on_the_folder_of_the_data_is_not_remembered(tmp_path):
    for fingerprinted in (True, False):
        data = Elsewhere(fingerprinted)
        with pytest.raises(Unproven, match="data's folder"):
            remembered._file_set(data, data.fingerprint(tmp_path), tmp_path)
    with pytest.raises(Unproven, match="tells the key"):
        remembered._file_set(Elsewhere(False), None, tmp_path)


def test_files_of_data_are_looked_for_whenever_an_outline_is_used(here):
    edit(here / "small.toml", '{ name = "two_moons", n = 60 }', '{ name = "mnist" }')
    edit(here / "small.toml", 'name = "mlp"', 'name = "mlp", activation = "tanh"')
    outline = kept(here)
    assert "is not there" in outline.subjects[0].missing(here / "data")
    folder = FILE_SETS["mnist"].target(here / "data")
    folder.mkdir(parents=True)
    for name, (size, _) in FILE_SETS["mnist"].digests.items():
        with (folder / name).open("wb") as file:
            file.truncate(size)
    assert outline.subjects[0].missing(here / "data") is None


def test_a_failure_that_was_taken_for_an_answer_is_a_doubt(here, monkeypatch):
    from sharpbench.problems.quadratic import Quadratic

    edit(here / "small.toml", "[cost]", '[[problems]]\nproblem = { name = "quadratic" }\n[cost]')
    edit(here / "small.toml", "parameter_norm", "hessian_trace")
    doubts: list[str] = []
    make_plan(load_suite(here / "small.toml"), doubts=doubts)
    assert doubts == []
    monkeypatch.setattr(Quadratic, "subject", lambda self, *, seed: [][1])
    plan = make_plan(load_suite(here / "small.toml"), doubts=doubts)
    assert len(doubts) == 1
    assert "IndexError" in doubts[0]
    assert memory(here).keep(plan, here, doubts) is None
    assert not (here / "results" / ".plans").exists()


def test_a_warning_is_told_and_is_a_doubt():
    import warnings

    doubts: list[str] = []
    with pytest.warns(UserWarning, match="twice"), warnings_as_doubts(doubts):
        warnings.warn("told twice", stacklevel=1)
    assert doubts == ["told twice"]


def test_a_plug_in_of_ones_own_is_not_remembered(here, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(remembered, "own_places", lambda: ["mine.py"])
    with pytest.raises(Unproven, match=r"mine\.py"):
        outline_of(make_plan(load_suite(here / "small.toml")), here)


def test_a_file_that_changed_while_the_process_ran_is_a_doubt(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "changed_meanwhile.py").write_text("")
    loaded = {"changed_meanwhile": importlib.import_module("changed_meanwhile")}
    monkeypatch.setattr(remembered, "sys", SimpleNamespace(modules=loaded, path=[]))
    with pytest.raises(Unproven, match=r"changed_meanwhile\.py changed after this process"):
        remembered._loaded()


def test_what_was_installed_while_the_process_ran_is_a_doubt(tmp_path, monkeypatch):
    """It may have been asked for before: then the plan says that it is missing."""
    (tmp_path / "site" / "curvlinops").mkdir(parents=True)
    place = [str(tmp_path / "site")]
    monkeypatch.setattr(remembered, "sys", SimpleNamespace(modules={}, path=place))
    with pytest.raises(Unproven, match="curvlinops changed after this process had begun"):
        remembered._loaded()


def test_a_program_of_a_modules_name_is_no_module(here, monkeypatch):
    outline = kept(here)
    (here / "bin").mkdir()
    (here / "bin" / "torch").write_text("#!/bin/sh\n")
    monkeypatch.syspath_prepend(here / "bin")
    assert memory(here).recall() == outline
    (here / "bin" / "torch.py").write_text("")
    assert memory(here).recall() is None


def test_a_results_folder_remembers_few_plans_and_needs_no_room(here, monkeypatch):
    for _ in range(remembered._MOST_PLANS + 3):
        edit(here / "small.toml", "n = ", "n = 1")
        plan = make_plan(load_suite(here / "small.toml"))
        assert memory(here).keep(plan, here, []) is not None
    assert len(list((here / "results" / ".plans").iterdir())) == remembered._MOST_PLANS

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remembered, "write_atomically", full)
    assert memory(here).keep(plan, here, []) is None


# --- the command itself ---------------------------------------------------------------------------


def told_by(*arguments: str, cwd: Path, **environment: str) -> tuple[str, set[str]]:
    """What the command prints, and which large packages it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sharpbench", *arguments],
        capture_output=True, text=True, cwd=cwd, check=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )  # fmt: skip
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, re.MULTILINE))
    return done.stdout, imported & {"torch", "scipy", "sklearn", "pandas"}


def test_what_is_left_is_told_and_nothing_is_done_without_torch(tmp_path):
    """Real processes, with the modules as they are installed."""
    (tmp_path / "small.toml").write_text(SUITE)
    assert command("run", "small.toml", "--no-report", cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "results" / ".plans").iterdir())) == 1
    dry = told_by("run", "small.toml", "--dry-run", cwd=tmp_path)
    assert dry[1] <= {"pandas"}  # by pyarrow, where columns are made, or noted as settled
    assert "2 cached; 0 measurements to make" in dry[0]
    told, imported = told_by("run", "small.toml", "--no-report", cwd=tmp_path)
    assert imported <= {"pandas"}
    assert "2 subjects: 0 trained, 2 from the results folder; 0 records written" in told
    only = told_by("run", "small.toml", "--dry-run", "--only", "seed=1", cwd=tmp_path)
    assert only[1] <= {"pandas"}
    # One more network is like those there; its plan is made once.
    (tmp_path / "more.toml").write_text(SUITE.replace("seeds = 2", "seeds = 3"))
    assert "torch" in told_by("run", "more.toml", "--dry-run", cwd=tmp_path)[1]
    told, imported = told_by("run", "more.toml", "--dry-run", cwd=tmp_path)
    assert imported <= {"pandas"}
    assert "1 to train, 2 cached" in told
    assert "by the recorded costs of like measurements and trainings" in told
    # A package of the same files, one of which says something else.
    package = tmp_path / "path" / "sharpbench"
    for path in Path(sharpbench.__file__).parent.rglob("*.py"):
        link = package / path.relative_to(Path(sharpbench.__file__).parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    edited = package / "datasets" / "two_moons.py"
    text = edited.read_text()
    edited.unlink()
    edited.write_text(re.sub(r"^    version = \d+$", "", text, flags=re.MULTILINE).replace(
        '    name = "two_moons"', '    name = "two_moons"\n    version = 99'))  # fmt: skip
    told, imported = told_by(
        "run", "small.toml", "--dry-run", cwd=tmp_path, PYTHONPATH=str(package.parent)
    )
    assert "torch" in imported
    assert "2 to train, 0 cached" in told


def test_the_outline_and_the_plan_are_told_alike(tmp_path, here, monkeypatch, capsys):
    """What is left, what is missing and what is not installed: by what is remembered as by the plan."""
    from sharpbench.cli.run import _print_plan

    edit(here / "small.toml", '"parameter_norm"', '"hessian_trace"\nimplementation = "curvlinops"')
    from sharpbench.metrics.backends import base

    monkeypatch.setattr(base, "find_spec", lambda name: None)

    def told(remembers: bool):
        prepared = prepare(
            here / "small.toml", remembered_in=here / "results" if remembers else None,
            only=["seed=1"], data=here,
        )  # fmt: skip
        capsys.readouterr()
        _print_plan(prepared.known, here / "results", here, 1)
        prepared.remember()
        return type(prepared.known), prepared.not_installed(), capsys.readouterr().out

    made, first, again = told(False), told(True), told(True)
    assert [kind.__name__ for kind, *_ in (made, first, again)] == ["Plan", "Plan", "Outline"]
    assert made[1:] == first[1:] == again[1:]
    assert "1 of 1 measurements: curvlinops is not installed" in again[1][0]
    assert "1 to train" in again[2]
