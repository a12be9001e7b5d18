"""No plug-in ends a run, and each is told of in the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpbench.results.store import ResultsStore, load_records
from sharpbench.suite.engines import InlineEngine, ProcessEngine
from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import require_data, run_plan
from sharpbench.suite.spec import load_suite
from sharpbench.surroundings import Surroundings
from tests.suite.hostile import MEASURES, PLUGINS


@pytest.fixture(scope="module", autouse=True)
def plugged_in():
    for registry, plugin in PLUGINS:
        registry.register(plugin)
    yield
    for registry, plugin in PLUGINS:
        registry.forget(plugin.name)


def run(folder: Path, text: str, engine=None):
    suite = folder / "hostile.toml"
    suite.write_text(f'name = "hostile"\nseeds = [0]\n{text}\n[cost]\nrepeats = 1\n')
    plan = make_plan(load_suite(suite))
    require_data(plan, folder)
    outcomes = run_plan(
        plan, plan, ResultsStore(folder / "results"), folder, suite_text="", command="test",
        engine=engine or ProcessEngine(), notify=lambda *_: None, finished=lambda _: None,
    )  # fmt: skip
    return outcomes, load_records(folder / "results", suite="hostile")


def names(*texts: str) -> str:
    return ", ".join(f'"{text}"' for text in texts)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    text = (
        '[[problems]]\nproblem = { name = "bad_problem" }\n'
        f'metrics = [{{ name = "hostile", fault = [{names(*MEASURES)}] }}, {{ name = "margin" }}, '
        '{ name = "sam_sharpness" }]\n'
    )
    return run(tmp_path_factory.mktemp("measured"), text)


@pytest.mark.parametrize("fault", MEASURES)
def test_a_hostile_metric_is_a_record(measured, fault):
    _, status, reason = MEASURES[fault]
    rows = measured[1].set_index("label")
    told = rows.loc["hostile" if fault == "none" else f"hostile(fault={fault})"]
    assert told["status"] == status, told["reason"]
    assert reason in str(told["reason"])
    assert (told["value"] == 1.0) == (status == "ok")


def test_those_after_it_see_nothing_of_it(measured):
    outcomes, frame = measured
    rows = frame.set_index("label")
    assert rows["status"]["sam_sharpness"] == "ok"
    assert rows["status"]["margin"] == "unsupported"  # it is a regression
    assert len(frame) == len(MEASURES) + 2
    assert len(outcomes[0].problems) == sum(status != "ok" for _, status, _ in MEASURES.values())


def test_hostile_plug_ins_of_every_other_kind(tmp_path):
    good = "\n".join(
        f'{kind} = {{ name = "bad_{name}" }}'
        for kind, name in (("dataset", "data"), ("model", "model"), ("recipe", "recipe"))
    )
    bad = {
        "data": ("exit", "os_exit", "none", "missing", "fingerprint"),
        "model": ("interrupt", "none"),
        "recipe": ("exit", "segfault", "inputs", "none"),
    }
    blocks = [f"[[subjects]]\n{good}"]
    for kind, faults in bad.items():
        named = f'{{ name = "bad_{kind}"'
        blocks += [
            "[[subjects]]\n" + good.replace(named, f'{named}, fault = "{fault}"')
            for fault in faults
        ]
    blocks += ['[[problems]]\nproblem = { name = "bad_problem", fault = ["exit", "none"] }\n'
               'metrics = { name = "sam_sharpness" }\n']  # fmt: skip
    declaring = (
        "title",
        "bytes",
        "unsupported",
        "unit",
        "no_text",
        "notes",
        "no_list",
        "set",
        "promises",
    )
    wrecking = ("exit", "interrupt", "none", "in_place", "inputs", "seed", "os_exit", "same")
    blocks += [
        f'[[metrics]]\nname = "declaring"\nfault = [{names(*declaring)}]\n',
        '[[metrics]]\nname = "sam_sharpness"\n',
        f'[[transformations]]\nname = "wrecking"\nfault = [{names(*wrecking)}]\n',
        '[[transformations]]\nname = "neuron_permutation"\n',
    ]
    outcomes, frame = run(tmp_path, "\n".join(blocks))
    told = {outcome.label: outcome for outcome in outcomes}
    assert len(told) == 1 + 11 + 2
    # What can't be trained or built is a row with the reason.
    ended = frame[frame["kind"] == "subject"].set_index("subject_label")["reason"]
    reasons = {
        "bad_data(fault=exit)": "it called sys.exit(0)",
        "bad_data(fault=os_exit)": "ended itself with exit code 0 while loading the data, 2 times",
        "bad_data(fault=none)": "'NoneType' object has no attribute",
        "bad_model(fault=interrupt)": "it raised KeyboardInterrupt",
        "bad_model(fault=none)": "'NoneType' object has no attribute",
        "bad_recipe(fault=exit)": "it called sys.exit(0)",
        "bad_recipe(fault=segfault)": "worker died by signal 11 while training, 2 times",
        "bad_recipe(fault=inputs)": "changed the data it was given",
        "bad_recipe(fault=none)": "train must return a TrainingLog, not NoneType",
        "bad_problem(fault=exit)": "it called sys.exit(0)",
        "bad_problem(fault=none)": "must be a Subject",
    }
    for label, reason in reasons.items():
        (found,) = (text for name, text in ended.items() if label in name)
        assert reason in found
    assert len(ended) == len(reasons)
    # The sound network has every record, as have those whose data can't tell of themselves.
    for odd in ("missing", "fingerprint"):
        assert (
            frame["subject_label"].str.contains(f"bad_data(fault={odd})", regex=False)
        ).sum() > 90
    rows = frame[(frame["kind"] == "measurement") & (frame["dataset.fault"] == "")]
    rows = rows[["label", "transformation", "status", "reason"]].fillna("")
    status = {(row.label, row.transformation): row.status for row in rows.itertuples()}
    assert len(status) == len(rows) == (1 + len(declaring)) * (2 + len(wrecking))
    good = (
        "sam_sharpness",
        "declaring(fault=title)",
        "declaring(fault=bytes)",
        "declaring(fault=no_text)",
    )
    answered = {(label, after) for label in good for after in ("", "neuron_permutation")}
    answered |= {("declaring(fault=promises)", "")}
    assert {key for key, found in status.items() if found == "ok"} == answered
    wrecked = rows[rows["label"] == "sam_sharpness"].set_index("transformation")["reason"]
    assert "it called sys.exit(0)" in wrecked["wrecking(fault=exit)"]
    assert "it raised KeyboardInterrupt" in wrecked["wrecking(fault=interrupt)"]
    assert "exit code 3 while changing the network" in wrecked["wrecking(fault=os_exit)"]
    assert "changed the model it was given" in wrecked["wrecking(fault=in_place)"]
    assert "changed the data it was given" in wrecked["wrecking(fault=inputs)"]
    assert "global random state" in wrecked["wrecking(fault=seed)"]


def test_a_plug_in_cannot_change_what_this_process_shares(tmp_path):
    """In one process, without another that could be thrown away."""
    shared = Surroundings()
    text = (
        '[[problems]]\nproblem = { name = "bad_problem" }\nmetrics = { name = "hostile", fault = '
        f"[{names(*(n for n in MEASURES if n not in {'abort', 'segfault', 'os_exit'}))}] }}\n"
    )
    _, frame = run(tmp_path, text, InlineEngine())
    assert shared.restore() == []
    assert len(frame) == len(MEASURES) - 3
