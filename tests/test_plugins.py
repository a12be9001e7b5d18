"""Plug-ins by file and by module: what a name stands for, and what their content has to do with keys."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.plugins import load_plugins, plugin_name
from sharpbench.registry import SOURCE_HASH
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.results.verify import verify_store
from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import intents
from sharpbench.suite.spec import find_suite, load_suite
from sharpbench.training import recipes
from tests.suite.test_run import run

METRIC = '''
from dataclasses import dataclass
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
import {neighbour}

@dataclass(frozen=True)
class Own(Metric):
    """Mean output, plus what stands in the file beside this one."""
    name, title, unit, space = "{name}", "own", "", "function"
    factor: float = 1.0

    def measure(self, subject, *, seed):
        outputs = subject.model(subject.inputs)  # of one precision, also after a transformation
        return Measurement({neighbour}.SHIFT + 0 * float(outputs.detach().mean()), samples=len(outputs))

class Helper:
    """No plug-in."""
'''

SUITE = """
name = "mine"
seeds = [0]
plugins = ["parts/{name}.py"]
highlight = ["{name}"]

[[subjects]]
dataset = {{ name = "two_moons", n = 120 }}
model = {{ name = "mlp", widths = [4] }}
recipe = {{ name = "adam", epochs = 1 }}

[[metrics]]
name = "{name}"

[[metrics]]
name = "parts/{name}.py:Own"
factor = 2.0

[[transformations]]
name = "neuron_permutation"

[cost]
repeats = 0
"""


@pytest.fixture
def mine(tmp_path, monkeypatch, request):
    """A suite in a folder with the file of a metric in another one, under names of this test alone."""
    name = f"own_{abs(hash(request.node.name)) % 10**8}"
    neighbour = f"beside_{name}"
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / f"{name}.py").write_text(METRIC.format(name=name, neighbour=neighbour))
    (tmp_path / "parts" / f"{neighbour}.py").write_text("SHIFT = 1.0\n")
    (tmp_path / "mine.toml").write_text(SUITE.format(name=name))
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path, name
    sys.path[:] = before
    metrics.forget(name)
    sys.modules.pop(neighbour, None)


def _values(folder: Path) -> list[float]:
    rows = load_records(folder / "results", suite="mine")
    asked = rows[rows["kind"] == "measurement"]
    assert (asked["status"] == "ok").all(), asked["reason"].tolist()
    return asked["value"].tolist()


def test_a_file_beside_the_suite_is_measured_in_other_processes_and_again_when_it_changed(mine):
    folder, name = mine
    run(folder / "mine.toml", folder / "results", workers=2)
    assert _values(folder) == [1.0] * 4
    assert verify_store(ResultsStore(folder / "results"), lambda name: None).faults == []
    plan = make_plan(load_suite(Path("mine.toml")))
    assert [i.to_measure for i in intents(plan, folder / "results", folder)] == [0]
    # What the file imports from its folder is a part of it, and is imported anew.
    (folder / "parts" / f"beside_{name}.py").write_text("SHIFT = 3.0\n")
    plan = make_plan(load_suite(Path("mine.toml")))
    assert [i.to_measure for i in intents(plan, folder / "results", folder)] == [4]
    outcomes, _ = run(folder / "mine.toml", folder / "results")
    assert [outcome.trained for outcome in outcomes] == [False]
    assert _values(folder) == [3.0] * 4


def test_a_plugin_carries_its_file_to_a_process_that_never_saw_it(mine):
    folder, name = mine
    file = folder / "parts" / f"{name}.py"
    file.write_text(METRIC.format(name=name, neighbour="math").replace("math.SHIFT", "7.0"))
    own = metrics.create(plugin_name("metric", f"parts/{name}.py:Own"), {"factor": 2.5})
    message = pickle.dumps([own, own.identity()])
    file.unlink()
    told = "import pickle, sys; m, i = pickle.load(sys.stdin.buffer); "
    told += "assert m.identity() == i, (m.identity(), i); print(type(m).__qualname__, m.factor)"
    done = subprocess.run(
        [sys.executable, "-c", told], input=message, capture_output=True, cwd="/",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "Own 2.5\n"


def test_the_content_is_a_part_of_the_identity_wherever_the_file_stands(mine):
    folder, name = mine
    plugin_name("metric", f"parts/{name}.py")  # its only class of a metric
    before = metrics.create(name).identity()
    assert len(before[SOURCE_HASH]) == 64
    assert metrics.create(name, {"factor": 2.0}).identity()[SOURCE_HASH] == before[SOURCE_HASH]
    (folder / "parts").rename(folder / "elsewhere")
    metrics.forget(name)
    load_plugins(f"elsewhere/{name}.py")
    assert metrics.create(name).identity() == before
    file = folder / "elsewhere" / f"{name}.py"
    file.write_text(file.read_text() + "# changed\n")
    load_plugins(str(file))
    assert metrics.create(name).identity() != before
    assert SOURCE_HASH not in metrics.create("hessian_trace").identity()


def test_what_a_plugin_works_by_is_a_part_of_it(tmp_path, monkeypatch):
    text = '''
    from dataclasses import dataclass
    from sharpbench.training.gradient import Adam

    @dataclass(frozen=True, kw_only=True)
    class Mine(Adam):
        """An optimizer of one's own."""
        name = "base_of_mine"
    '''
    monkeypatch.chdir(tmp_path)
    Path("base.py").write_text(textwrap.dedent(text))
    try:
        load_plugins("base.py")
        before = recipes.create("sam", {"base": "base_of_mine"}).identity()
        Path("base.py").write_text(textwrap.dedent(text) + "# changed\n")
        load_plugins("base.py")
        assert recipes.create("sam", {"base": "base_of_mine"}).identity() != before
        assert SOURCE_HASH not in recipes.create("sam", {"base": "adam"}).identity()
    finally:
        recipes.forget("base_of_mine")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("parts/{name}x.py:Own", "there is no file '.*x.py'. Did you mean '{name}.py'"),
        ("parts/{name}.py:Owm", "has no 'Owm'. Did you mean 'Own'?"),
        ("parts/{name}.py:Helper", "not a class derived from sharpbench.metrics.Metric"),
        ("parts/beside_{name}.py", "it has no class of a metric"),
        ("parts/broken.py:X", "broken.py, line 3 raised ZeroDivisionError"),
        ("parts/unreadable.py:X", "unreadable.py, line 1 raised SyntaxError"),
        ("parts:X", "No module named 'parts.*'|parts has no 'X'"),
        ("{name}:Own", "No module named '{name}'"),
        ("parts/silent.py:Silent", "silent.py:Silent: needs a docstring"),
        ("parts/taken.py:Taken", "'hessian_trace' .* already registered by sharpbench.metrics.hessian"),
        ("curvature_rat", ""),
    ],
)  # fmt: skip
def test_what_is_no_plugin_is_refused_with_what_is_near(mine, text, told):
    folder, name = mine
    parts = folder / "parts"
    (parts / "broken.py").write_text("\n\n1 / 0\n")
    (parts / "unreadable.py").write_text("def (\n")
    own = (parts / f"{name}.py").read_text()
    silent = own.replace('"""Mean output, plus what stands in the file beside this one."""', "")
    (parts / "silent.py").write_text(silent.replace("class Own", "class Silent"))
    taken = own.replace(
        f'name, title, unit, space = "{name}"', 'name, title, unit, space = "hessian_trace"'
    )
    (parts / "taken.py").write_text(taken.replace("class Own", "class Taken"))
    if not told:
        assert plugin_name("metric", text) == text  # told by who asks the registry for it
        return
    with pytest.raises(InputError, match=told.format(name=name)):
        plugin_name("metric", text.format(name=name))


def test_a_suite_names_the_line_of_a_plugin_that_is_wrong(mine):
    folder, name = mine
    text = (folder / "mine.toml").read_text()
    for wrong, place in (
        (text.replace(f'parts/{name}.py"]', 'parts/none.py"]'), r"line 4: plugins\[1\]: there is no"),
        (text.replace(".py:Own", ".py:Other"), r"line 16: metrics\[2\].name: .* has no 'Other'"),
        (text.replace(f'highlight = ["{name}', 'highlight = ["x'), r"line 5: highlight\[1\]: no metric 'x"),
    ):  # fmt: skip
        (folder / "wrong.toml").write_text(wrong)
        with pytest.raises(InputError, match=place):
            make_plan(load_suite(folder / "wrong.toml"))


def test_a_suite_adds_its_blocks_to_those_of_the_one_it_extends(mine):
    folder, name = mine
    (folder / "more").mkdir()
    (folder / "more" / "more.toml").write_text(
        'extends = "../mine.toml"\nname = "more"\nseeds = [0, 1]\n\n[[metrics]]\nname = "margin"\n\n'
        "[cost]\nrepeats = 2\n"
    )
    suite = load_suite(folder / "more" / "more.toml")
    plan, first = make_plan(suite), make_plan(load_suite(folder / "mine.toml"))
    assert plan.name == "more"
    assert [m.metric.name for m in plan.measurements if not m.transformation] == [
        name,
        name,
        "margin",
    ]
    assert len(plan.subjects) == 2
    assert first.record_keys() < plan.record_keys()
    assert plan.subjects[0].key == first.subjects[0].key
    assert (plan.cost.repeats, first.cost.repeats) == (2, 0)
    assert plan.highlight == (name,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('extends = "quik"', r"line 1: extends: .*quik.* Did you mean 'quick'"),
        ('extends = "round.toml"', r"extends: 'round.toml' extends this suite in turn"),
        ('extends = "quick"\n[[metrics]]\nname = "margn"', r"round.toml, line 5: metrics\[1\].name: unknown"),
        ('extends = "wrong.toml"', r"wrong.toml, line 9: metrics\[1\].name: unknown metric 'x'"),
    ],
)  # fmt: skip
def test_a_fault_is_told_of_the_file_that_has_it(tmp_path, text, told):
    head, _, rest = text.partition("\n")
    (tmp_path / "round.toml").write_text(f'{head}\nname = "round"\nseeds = [0]\n{rest}')
    (tmp_path / "wrong.toml").write_text(
        'name = "wrong"\nseeds = [0]\n[[subjects]]\ndataset = { name = "digits" }\n'
        'model = { name = "mlp" }\nrecipe = { name = "adam" }\n\n[[metrics]]\nname = "x"\n'
    )
    with pytest.raises(InputError, match=told):
        make_plan(load_suite(tmp_path / "round.toml"))


def test_problems_without_metrics_ask_those_that_say_what_they_expect(tmp_path):
    (tmp_path / "known.toml").write_text(
        'name = "known"\nseeds = [0, 1]\n[[problems]]\n'
        'problem = [{ name = "least_squares" }, { name = "sine" }]\n'
        '[[metrics]]\nname = "hessian_trace"\n[[metrics]]\nname = "curvature_rate"\ntarget = 0\n'
        '[[metrics]]\nname = "parameter_norm"\n'
    )
    plan = make_plan(load_suite(tmp_path / "known.toml"))
    asked = {s.label: [m.metric.name for m in plan.asked(s)] for s in plan.subjects}
    assert asked == {
        f"{problem} · seed={seed}": [metric]
        for problem, metric in (("least_squares", "hessian_trace"), ("sine", "curvature_rate"))
        for seed in (0, 1)
    }
    assert plan.expects_nothing == ("parameter_norm",)


def test_the_reference_population_asks_every_metric_that_it_can_afford():
    """A new metric stands in suites/reference.toml, or here with the reason why it doesn't."""
    suite = load_suite(find_suite("reference"))
    left_out = {"local_learning_coefficient"}  # ten seconds a network
    names = {n for n in metrics if metrics.origin(n).startswith("sharpbench.")}
    assert {block["name"] for block in suite.spec.metrics} == names - left_out


BODY = """
    def measure(self, subject, *, seed):
        return Measurement(1.0)
"""
HEAD = """
from dataclasses import dataclass
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
"""
NONE = {
    "nothing.py": ("import torch\nfrom sharpbench.metrics import Metric\n", "holds no plug-in"),
    "nameless.py": (
        HEAD + "@dataclass(frozen=True)\nclass Own(Metric):" + BODY,
        'Own has no `name` of its own; write name = "…" in it',
    ),
    "heir.py": (
        "from sharpbench.metrics.layer_norms import LayerNorms\nclass Own(LayerNorms):\n    pass\n",
        "Own has no `name` of its own, and 'layer_norms' is taken",
    ),
    "abstract.py": (
        HEAD + "@dataclass(frozen=True)\nclass Own(Metric):\n    name = 'own_abstract'\n",
        "Own lacks measure",
    ),
    "underived.py": (
        HEAD + "class Own:\n    name = 'own_underived'\n" + BODY,
        "Own has measure() and derives from no Metric",
    ),
}


@pytest.mark.parametrize(("file", "told"), [(f, told) for f, (_, told) in NONE.items()], ids=NONE)
def test_a_file_without_a_plugin_is_refused_with_what_its_class_lacks(file, told, tmp_path):
    (tmp_path / file).write_text(NONE[file][0])
    with pytest.raises(InputError, match="holds no plug-in, a class derived from") as refused:
        load_plugins(file, tmp_path)
    assert told in str(refused.value)
    (tmp_path / "suite.toml").write_text(
        SUITE.format(name="x").replace("parts/x.py", file).replace("mine", "none")
    )
    with pytest.raises(InputError, match=r"suite\.toml.*plugins.*holds no plug-in"):
        make_plan(load_suite(tmp_path / "suite.toml"))


@pytest.mark.parametrize("line", ["from {} import Own", "import {}", "from {} import FACTOR, use"])
def test_a_file_that_brings_the_plugins_of_another_one_holds_them(line, mine):
    folder, name = mine
    own = (
        (folder / "parts" / f"{name}.py")
        .read_text()
        .replace("@dataclass", "@metrics.register\n@dataclass")
    )
    own = (
        own.replace("import Metric\n", "import Metric, metrics\n") + "FACTOR = 1\ndef use(): pass\n"
    )
    (folder / "parts" / f"{name}.py").write_text(own)
    (folder / "parts" / "all.py").write_text(line.format(name) + "\n")
    for _ in range(2):  # the second time nothing is imported
        load_plugins("parts/all.py")
        assert name in metrics
    sys.modules.pop(name)
