"""``sharpbench verify``: what was written is there, and the figures come out again."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from sharpbench.results.checksum import sealed
from sharpbench.results.store import ResultsStore
from sharpbench.results.verify import verify_store
from sharpbench.suite.engines import InlineEngine
from sharpbench.suite.recompute import recompute
from tests.cli.command import in_process, sharpbench
from tests.suite.test_damage import CORRUPTIONS, LINES, SUITE, WEIGHTS, two
from tests.suite.test_run import figures, run


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    (folder / "small.toml").write_text(SUITE)
    run(folder / "small.toml", folder / "results")
    return folder / "results"


@pytest.fixture
def root(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "results")
    return tmp_path / "results"


def again(root, share=1.0, seed=0):
    store = ResultsStore(root)
    found = verify_store(store, lambda name: None)
    assert not found.faults
    return recompute(
        found.stored,
        store,
        share,
        seed=seed,
        data=root,
        engine=InlineEngine(),
        seen=lambda *_: None,
    )


def rewritten(path, number, edit):
    """A line with other entries and a right checksum: what no checksum tells."""
    lines = path.read_text().split("\n")
    content = json.loads(lines[number])
    del content["checksum"]
    lines[number] = sealed(json.dumps(edit(content), ensure_ascii=False))
    path.write_text("\n".join(lines))


def line_of(path, **wanted):
    lines = path.read_text().splitlines()
    return next(i for i, x in enumerate(lines) if wanted.items() <= json.loads(x).items())


def test_every_figure_comes_out_again_to_the_last_bit(root):
    before = figures(root)
    result = again(root)
    comparable = [
        r
        for folder in ResultsStore(root).subjects()
        for r in folder.records()
        if r.status == "ok" and r.kind in {"measurement", "problem", "evaluation"}
    ]
    assert result.equal == len(comparable) > 20
    assert (result.near, result.faults, result.skipped) == (0, [], {})
    assert figures(root) == before


def test_a_share_is_drawn_by_the_seed(root):
    one, other = (again(root, 0.1, seed) for seed in (1, 2))
    assert one == again(root, 0.1, 1)
    assert 0 < one.equal == other.equal < 10


@pytest.mark.parametrize(
    "wanted",
    [{"kind": "measurement", "transformation": None}, {"transformation_name": "weight_noise"},
     {"kind": "evaluation", "name": "margin"}],
)  # fmt: skip
def test_a_forged_figure_is_found_by_measuring_it_again(root, wanted):
    path = two(root)[0] / LINES
    number = line_of(path, status="ok", **wanted)
    rewritten(path, number, lambda content: {**content, "value": content["value"] * 1.01 + 2})
    result = again(root)
    assert len(result.faults) == 1
    assert "is stored, and it is" in result.faults[0]


def test_a_figure_of_another_machine_may_differ_by_its_error(root):
    path = two(root)[0] / LINES
    number = line_of(path, kind="measurement", transformation=None, name="margin")
    rewritten(path, number, lambda content: {**content, "value": content["value"] * (1 + 1e-12)})
    assert len(again(root).faults) == 1
    store = ResultsStore(root)
    for name, content in store.documents("runs").items():
        content["machine"]["processor"] = "another"
        store.write_document("runs", name, content)
    result = again(root)
    assert (result.near, result.faults) == (1, [])


def test_what_a_checksum_cannot_tell_the_question_does(root):
    path = two(root)[0] / LINES
    number = line_of(path, kind="measurement", transformation=None, name="margin")
    rewritten(path, number, lambda content: {**content, "name": "mean_confidence"})
    (fault,) = verify_store(ResultsStore(root), lambda name: None).faults
    assert "its metric and parameters are not those of its question" in fault


def test_a_parameter_that_came_later_is_no_fault_where_it_has_its_default(tmp_path):
    (tmp_path / "later.toml").write_text(
        'name = "later"\nseeds = 1\n[[subjects]]\ndataset = { name = "two_moons", n = 60 }\n'
        'model = { name = "mlp", widths = [4] }\nrecipe = { name = "adam", epochs = 1 }\n'
        '[[metrics]]\nname = "sam_sharpness"\nsamples = 16\n'
    )
    run(tmp_path / "later.toml", tmp_path / "results")
    store = ResultsStore(tmp_path / "results")
    assert verify_store(store, lambda name: None).faults == []
    path = store.subjects()[0].path / LINES
    number = line_of(path, kind="measurement", transformation=None, name="sam_sharpness")
    rewritten(
        path, number, lambda c: {**c, "parameters": {**c["parameters"], "parameters_of": ["a"]}}
    )
    (fault,) = verify_store(ResultsStore(store.root), lambda name: None).faults
    assert "its metric and parameters are not those of its question" in fault


def test_lost_provenance_and_weights_are_named(root):
    next((root / "runs").iterdir()).unlink()
    CORRUPTIONS["bit-weights.safetensors-0.97"](root)
    provenance, weights = sorted(verify_store(ResultsStore(root), lambda name: None).faults)[::-1]
    assert provenance.startswith("runs/")
    assert "the versions and the machine of" in provenance
    assert (
        weights == f"{two(root)[0].name}/{WEIGHTS}: its SHA-256 is not that of the trained weights"
    )


def test_another_version_of_a_metric_is_not_compared(root, monkeypatch):
    from sharpbench.metrics import metrics

    stored = metrics.get("margin").version
    monkeypatch.setattr(metrics.get("margin"), "version", 99)
    result = again(root)
    assert result.faults == []
    assert result.skipped == {f"margin has version 99 here, and is stored of version {stored}": 4}


def test_the_command_lists_what_is_wrong_and_exits_with_1(root, capsys, monkeypatch):
    done = sharpbench("verify", str(root), "--recompute", "30%")
    assert done.returncode == 0, done.stderr
    assert "nothing wrong was found" in done.stdout
    assert "0 not" in done.stdout
    CORRUPTIONS["lines-0"](root)

    def verified(*arguments):
        return in_process(capsys, monkeypatch, "verify", *arguments)

    told = verified(str(root))
    assert told.code == 1
    assert "line 1: its checksum is not that of its content" in told.out
    for text in ("150%", "-1", "some", "nan"):
        assert verified(str(root), f"--recompute={text}").code == 2
    assert verified(str(root / "nowhere")).code == 2


def test_a_columnar_copy_that_lies_is_wrong(root):
    store = ResultsStore(root)
    names = [folder.path.name for folder in store.subjects()]
    truly = store.columns._read

    def lie(name):
        found = truly(name)
        changed = [{**row, "value": 0.5} if name == names[0] else row for row in found.rows]
        return dataclasses.replace(found, rows=changed)

    store.columns._read = lie
    store.columns.facts(names)
    (fault,) = verify_store(ResultsStore(root), lambda name: None).faults
    assert fault.startswith(f".columns: its copy of {names[0]} is not what the lines say")
    shutil.rmtree(root / ".columns")
    ResultsStore(root).columns.facts(names)
    assert verify_store(ResultsStore(root), lambda name: None).faults == []
