"""Whole runs of a miniature suite: the figures, the cache, crashes, workers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sharpbench.errors import InputError
from sharpbench.evaluation.classification import FIGURES
from sharpbench.results.store import ResultsBusy, ResultsStore, load_records
from sharpbench.suite.engines import InlineEngine, ProcessEngine
from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import intents, run_plan
from sharpbench.suite.spec import load_suite
from tests.conftest import MINI_SUITE
from tests.waiting import PATIENCE, until


def run(suite: Path, results: Path, workers: int = 1):
    plan = make_plan(load_suite(suite))
    engine = ProcessEngine(workers) if workers > 1 else InlineEngine()
    notes: list[tuple[str, int]] = []
    outcomes = run_plan(
        plan, plan, ResultsStore(results), results / "data", suite_text=suite.read_text(),
        command="test", engine=engine, notify=lambda *event: notes.append(event), finished=lambda _: None,
    )  # fmt: skip
    return outcomes, notes


def figures(results: Path) -> dict[str, tuple]:
    """Every record but for what may differ between equal runs: cost and run."""
    folders = ResultsStore(results).subjects()
    return {r.key: r.figure() for folder in folders for r in folder.records()}


def planned_figures(suite: Path, results: Path) -> dict[str, tuple]:
    """Those of the figures under ``results`` that ``suite`` asks for."""
    plan = make_plan(load_suite(suite)).record_keys()
    folders = ResultsStore(results).subjects()
    return {r.key: r.figure() for f in folders for r in f.records() if r.plan_key in plan}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "mini.toml").write_text(MINI_SUITE)
    outcomes, _ = run(folder / "mini.toml", folder / "results")
    assert not any(o.problems for o in outcomes)
    assert all(o.trained for o in outcomes)
    return folder / "results"


def test_every_planned_figure_is_there(undisturbed):
    frame = load_records(undisturbed, suite="mini")
    measured = frame[frame.kind == "measurement"]
    assert len(measured) == 16 * 9
    ok = measured[measured.status == "ok"]
    refused = measured[measured.status == "unsupported"]
    assert len(refused) == 8 * 3  # neuron_rescaling on the tanh networks
    assert refused.reason.str.contains("positively homogeneous").all()
    assert ok.value.notna().all()
    assert set(frame[frame.kind == "trajectory"].epoch) == {1, 2, 3}
    assert {
        "test_error",
        "gap",
        "ece",
        "ece_debiased",
        "ece_floor",
        "brier_score",
        "hard_accuracy",
        "margin",
        "logit_norm",
    } <= set(frame[frame.kind == "evaluation"].name)
    timed = ok[ok["cost.median_seconds"].notna()]
    assert set(timed.seed) == {0}
    assert set(timed.transformation.isna()) == {True}


def test_what_should_stay_stays_and_what_should_move_moves(undisturbed):
    frame = load_records(undisturbed, suite="mini")
    rows = frame[(frame.kind == "measurement") & (frame.status == "ok")]
    plain = rows[rows.transformation.isna()].set_index(["subject", "label"]).value
    changed = rows[rows.transformation.notna()]
    before = plain.loc[list(zip(changed.subject, changed.label, strict=True))].to_numpy()
    change = (changed.value / before - 1).abs()
    noisy = changed.transformation_name == "weight_noise"
    of_the_input = changed.name == "curvature_rate"
    assert len(change[noisy])
    assert (change[noisy] > 0).all()
    assert (changed.function_change[noisy] > 1e-3).all()
    assert (changed.function_change[~noisy] < 1e-12).all()
    assert len(change[~noisy & of_the_input])
    assert (change[~noisy & of_the_input] < 1e-9).all()
    assert len(change[~noisy & ~of_the_input])
    assert (change[~noisy & ~of_the_input] > 0.05).all()


def test_recipes_of_one_seed_share_data_and_initial_weights(undisturbed):
    frame = load_records(undisturbed, suite="mini")
    first = frame[(frame.kind == "trajectory") & (frame.epoch == 1)]
    assert first.groupby(["recipe", "seed"]).size().min() == 4
    log = frame[(frame.kind == "training") & (frame.name == "train_loss") & (frame.epoch == 1)]
    spread = log.groupby(["dataset_label", "model_label", "seed"]).value.agg(
        lambda v: v.max() / v.min()
    )
    assert spread.max() < 1.1  # after one epoch from the same start, SAM and Adam are still close


def test_a_second_run_does_nothing(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.glob("*/*") if p.name != ".lock"}
    outcomes, _ = run(undisturbed.parent / "mini.toml", undisturbed)
    assert not any(o.trained or o.measured for o in outcomes)
    subjects = {p: t for p, t in before.items() if p.parent.name not in {"runs", "suites"}}
    assert all(p.stat().st_mtime_ns == t for p, t in subjects.items())


def test_a_new_metric_is_measured_alone(undisturbed, tmp_path):
    suite = tmp_path / "more.toml"
    suite.write_text(
        MINI_SUITE.replace(
            "[[transformations]]", '[[metrics]]\nname = "sam_sharpness"\n\n[[transformations]]', 1
        )
    )
    plan = make_plan(load_suite(suite))
    planned = intents(plan, undisturbed, tmp_path)
    assert {i.training for i in planned} == {"cached"}
    assert {i.to_measure for i in planned} == {3}
    outcomes, _ = run(suite, undisturbed)
    assert not any(o.trained for o in outcomes)
    assert {o.measured for o in outcomes} == {3}  # plain and after two transformations


def test_workers_change_no_digit(undisturbed, mini_suite, tmp_path):
    run(mini_suite, tmp_path / "results", workers=2)
    ours = figures(tmp_path / "results")
    assert ours == planned_figures(mini_suite, undisturbed)


ENDLESS = MINI_SUITE.replace('base = "adam", epochs = 3', 'base = "adam", epochs = 10_000_000')
"""Half of its networks are trained for days: it is not over before it is ended, however slow a test is."""


def command_line(suite: Path, results: Path, workers: int) -> list[str]:
    run_suite = [sys.executable, "-m", "sharpbench", "run", str(suite), "--no-report"]
    return [*run_suite, "--results", str(results), "--workers", str(workers)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_nine_loses_nothing(undisturbed, mini_suite, tmp_path, workers):
    results = tmp_path / "results"
    command = command_line(mini_suite, results, workers)
    rng = random.Random(workers)
    kills = 0
    while kills < 3:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        # From the middle of the first training to the middle of the measurements.
        lines = len(_lines(results)) + rng.randint(1, 60)
        until(lambda: len(_lines(results)) >= lines or process.poll() is not None)  # noqa: B023
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            kills += 1
        else:  # it was done before it could be killed
            assert process.returncode == 0
            shutil.rmtree(results)
    finished = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert finished.returncode == 0, finished.stderr
    assert figures(results) == planned_figures(mini_suite, undisturbed)


def _lines(results: Path) -> list[bytes]:
    return [
        line
        for path in results.glob("*/measurements.jsonl")
        for line in path.read_bytes().splitlines()
    ]


def _mind_signals() -> None:
    """Tests started in the background by a shell inherit an ignored SIGINT, those under nohup a SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, as at a terminal; nothing of it is left."""
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=_mind_signals,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "number", "times"),
    [
        (1, signal.SIGINT, 1),
        (2, signal.SIGINT, 1),
        (2, signal.SIGINT, 2),
        (2, signal.SIGTERM, 1),
        (1, signal.SIGHUP, 1),
    ],
)
def test_a_signal_ends_it_and_it_says_how_to_resume(mini_suite, tmp_path, workers, number, times):
    results = tmp_path / "results"
    mini_suite.write_text(ENDLESS)
    with _started(command_line(mini_suite, results, workers)) as process:
        until(lambda: _lines(results), goes_on=lambda: process.poll() is None)
        if number == signal.SIGTERM:
            process.terminate()
        else:
            os.killpg(process.pid, number)  # a terminal sends Ctrl-C to the whole group
        if times == 2:  # while it ends its workers
            time.sleep(0.002)
            os.killpg(process.pid, number)
        _, told = process.communicate(timeout=PATIENCE)
        # Where nothing is left to do but to leave, the second one ends it as it would end any program.
        assert process.returncode in {128 + number, *([-number] if times == 2 else [])}
        assert "the same command resumes" in told
        assert "Traceback" not in told
        until(lambda: not _members(process.pid))


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_while_workers_begin_is_told_in_one_line(mini_suite, tmp_path, workers):
    """What workers are forked from imports for a second, and gets a terminal's Ctrl-C like all others."""
    mini_suite.write_text(ENDLESS)
    begun = b"multiprocessing.forkserver"
    with _started(command_line(mini_suite, tmp_path / "results", workers)) as process:
        until(
            lambda: any(_begun_by(pid, begun) for pid in _members(process.pid)),
            goes_on=lambda: process.poll() is None,
        )
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert told == "interrupted: what was recorded is kept, the same command resumes\n"


LOCKED = """
import multiprocessing, time
from dataclasses import dataclass
from pathlib import Path
from sharpbench.metrics import Metric

@dataclass(frozen=True)
class Locked(Metric):
    \"""Keeps a semaphore of the system's.\"""
    name, space = "locked", "parameter"

    def measure(self, subject, *, seed):
        held = multiprocessing.get_context("spawn").Lock()
        Path("locked").touch()
        time.sleep(1e6)
"""


def test_what_an_ended_worker_held_is_cleared_up_in_silence(mini_suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("locked.py").write_text(LOCKED)
    mini_suite.write_text(
        MINI_SUITE.partition("[[metrics]]")[0] + '[[metrics]]\nname = "locked.py:Locked"\n'
    )
    with _started(command_line(mini_suite, tmp_path / "results", 1)) as process:
        until(Path("locked").exists, goes_on=lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert told.endswith("interrupted: what was recorded is kept, the same command resumes\n")
    assert "leaked" not in told


def test_a_diverged_training_is_a_record(mini_suite, tmp_path):
    text = MINI_SUITE.replace(
        '{ name = "adam", epochs = 3 }', '{ name = "sgd", lr = 1e38, epochs = 3 }'
    )
    mini_suite.write_text(text)
    outcomes, _ = run(mini_suite, tmp_path / "results")
    failed = [o for o in outcomes if o.problems]
    assert len(failed) == 8
    assert not any(o.trained for o in failed)
    assert all("training loss" in o.problems[0] for o in failed)
    frame = load_records(tmp_path / "results", suite="mini")
    assert (frame[frame.kind == "subject"].status == "diverged").sum() == 8
    again, _ = run(mini_suite, tmp_path / "results")
    assert not any(o.trained for o in again)  # it is not tried again
    assert sum(bool(o.problems) for o in again) == 8  # but told again


def test_an_evaluation_cut_off_by_a_crash_is_done_again(undisturbed, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    path = next(results.glob("*/measurements.jsonl"))
    lines = path.read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"name": "margin"' in line)
    path.write_text("".join(lines[:cut]))
    before = figures(undisturbed)
    run(undisturbed.parent / "mini.toml", results)
    assert {k: v for k, v in before.items() if k in figures(results)} == figures(results)
    names = set(load_records(results, suite="mini").query("kind == 'evaluation'").name)
    subject = ResultsStore(results).subjects()
    assert {"margin", "ece"} <= names
    assert all(sum(r.kind == "evaluation" for r in f.records()) == len(FIGURES) for f in subject)


def test_time_limits_are_records_and_tried_again(mini_suite, tmp_path):
    limited = MINI_SUITE.replace("seeds = [0, 1]", "seeds = [0]").replace(
        "[cost]", "[limits]\nmeasurement_seconds = 1e-6\n[cost]"
    )
    mini_suite.write_text(limited)
    outcomes, _ = run(mini_suite, tmp_path / "results")
    assert all(o.problems for o in outcomes)
    frame = load_records(tmp_path / "results", suite="mini")
    assert set(frame[frame.kind == "measurement"].status) == {"timeout"}
    mini_suite.write_text(limited.replace("1e-6", "600"))
    outcomes, _ = run(mini_suite, tmp_path / "results")
    frame = load_records(tmp_path / "results", suite="mini")
    assert set(frame[frame.kind == "measurement"].status) == {"ok", "unsupported"}


def test_a_failure_along_training_is_told_by_every_run(mini_suite, tmp_path):
    bad = MINI_SUITE.replace("seeds = [0, 1]", "seeds = [0]").replace(
        '{ name = "curvature_rate", samples = 16 }', '{ name = "sam_sharpness", rho = 1e308 }'
    )
    mini_suite.write_text(bad)
    first, notes = run(mini_suite, tmp_path / "results")
    again, _ = run(mini_suite, tmp_path / "results")
    assert [len(o.problems) for o in first] == [3] * 8  # epochs 1, 2 and 3
    assert [o.problems for o in again] == [o.problems for o in first]
    along = load_records(tmp_path / "results", suite="mini").query("kind == 'trajectory'")
    assert set(along.status) == {"failed"}
    assert along.reason.str.contains("must be finite").all()
    assert sum(dealt_with for _, dealt_with in notes) == 8 * 9


def test_a_later_trajectory_is_measured_by_training_again(mini_suite, tmp_path):
    without = MINI_SUITE.replace("seeds = [0, 1]", "seeds = [0]")
    head, _, tail = without.partition("[trajectory]")
    mini_suite.write_text(head + "[cost]" + tail.partition("[cost]")[2])
    run(mini_suite, tmp_path / "results")
    before = figures(tmp_path / "results")
    mini_suite.write_text(without)
    plan = make_plan(load_suite(mini_suite))
    assert {i.training for i in intents(plan, tmp_path / "results", tmp_path)} == {
        "again: to measure along the way"
    }
    outcomes, _ = run(mini_suite, tmp_path / "results")
    assert all(o.trained for o in outcomes)
    after = figures(tmp_path / "results")
    assert {k: after[k] for k in before} == before  # the same weights, so nothing else was redone
    assert len(after) == len(before) + 8 * 3


def test_a_network_that_comes_out_otherwise_when_trained_again_is_measured_anew(
    mini_suite, tmp_path, monkeypatch
):
    from sharpbench.suite import subject_run

    one = MINI_SUITE.replace("seeds = [0, 1]", "seeds = [0]").replace("[0.0, 0.2]", "0.0")
    one = one.replace('activation = ["tanh", "relu"]', 'activation = "tanh"')
    one = one.replace(', { name = "sam", base = "adam", epochs = 3 }', "")
    head, _, tail = one.partition("[trajectory]")
    mini_suite.write_text(head + "[cost]" + tail.partition("[cost]")[2])
    results = tmp_path / "results"
    run(mini_suite, results)
    before = figures(results)
    mini_suite.write_text(one)
    derive = subject_run.derive_seed
    monkeypatch.setattr(  # as another version of torch might
        subject_run, "derive_seed", lambda seed, *axes: derive(seed, *axes) + ("training" in axes)
    )
    (outcome,), _ = run(mini_suite, results)
    assert (outcome.trained, outcome.problems) == (True, ())
    assert "gave other weights" in outcome.mended[0]
    (folder,) = ResultsStore(results).subjects()
    after = figures(results)
    assert len(after) == len(before) + 3
    assert after.keys().isdisjoint(before)
    assert not folder.load().left_out
    kept = results / "damaged" / f"{folder.path.name}-1"
    assert len((kept / "measurements.jsonl").read_bytes().splitlines()) == len(before)
    assert {p.name for p in kept.iterdir()} > {"subject.json", "weights.safetensors"}


def test_two_runs_on_one_folder(tmp_path):
    store, said = ResultsStore(tmp_path), []
    script = (
        "import sys; from pathlib import Path; "
        "from sharpbench.results.store import ResultsStore; "
        "store = ResultsStore(Path(sys.argv[1]))\n"
        "with store.locked(wait=True, say=print):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert other.stdout.readline().strip() == "held"
    with (
        pytest.raises(ResultsBusy, match=f"in use by process {other.pid}"),
        store.locked(wait=False, say=said.append),
    ):
        pass

    def say(text):
        said.append(text)
        other.stdin.close()  # so it ends

    with store.locked(wait=True, say=say):
        assert other.wait(timeout=PATIENCE) == 0
    assert f"process {other.pid}" in said[0]


def test_an_unknown_suite_has_no_results(undisturbed):
    with pytest.raises(InputError, match="Did you mean 'mini'"):
        load_records(undisturbed, suite="minni")


def test_a_killed_parent_takes_its_workers_along(mini_suite, tmp_path):
    results = tmp_path / "results"
    mini_suite.write_text(ENDLESS)
    with _started(command_line(mini_suite, results, 2)) as process:
        until(lambda: _lines(results), goes_on=lambda: process.poll() is None)
        process.kill()
        process.wait()
        until(lambda: not _members(process.pid))


def _begun_by(pid: str, program: bytes) -> bool:
    try:
        return program in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it is over
        return False


def _members(session: int) -> list[str]:
    """Processes of a session that are still alive."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(stat.parent.name)
    return [pid for pid in alive if int(pid) != os.getpid()]


def test_metrics_of_one_subject_measure_the_same_points(tmp_path, monkeypatch):
    import sharpbench.metrics.base as base

    drawn: list[tuple[int, int]] = []

    def note(data, samples, *, seed):
        chosen = draw(data, samples, seed=seed)
        drawn.append((len(chosen[0]), hash(chosen[0].numpy().tobytes())))
        return chosen

    draw = base.sampled
    monkeypatch.setattr(base, "sampled", note)
    suite = tmp_path / "points.toml"
    suite.write_text(
        """
        name = "points"
        title = "Three metrics of the same points"
        seeds = [0]
        [[subjects]]
        dataset = { name = "two_moons", n = 100 }
        model = { name = "mlp", widths = [3] }
        recipe = { name = "adam", epochs = 1 }
        [[metrics]]
        name = "hessian_top_eigenvalue"
        samples = 20
        [[metrics]]
        name = "fisher_rao_norm"
        samples = 20
        [[metrics]]
        name = "input_jacobian_norm"
        split = "train"
        samples = 20
        [cost]
        repeats = 1
        """
    )
    run(suite, tmp_path / "results")
    assert {n for n, _ in drawn} == {20}
    assert len({points for _, points in drawn}) == 1


DRAWS = """
name = "draws"
title = "Draws of one transformation"
seeds = 2

[[subjects]]
dataset = { name = "two_moons", n = 100 }
model = { name = "mlp", widths = [4], activation = "relu" }
recipe = [{ name = "adam", epochs = 1 }, { name = "sgd", lr = [1e-300, 2e-300], epochs = 1 }]

[[metrics]]
name = "margin"
samples = 20

[[metrics]]
name = "mean_confidence"
samples = 20

[[transformations]]
name = "weight_noise"
draws = 3

[trajectory]
metrics = [{ name = "margin", samples = 20 }]
every = 1

[cost]
repeats = 1
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draws")
    (folder / "draws.toml").write_text(DRAWS)
    run(folder / "draws.toml", folder / "results")
    return load_records(folder / "results", suite="draws")


def test_every_draw_of_a_transformation_is_another_for_every_network(drawn):
    after = drawn[(drawn["kind"] == "measurement") & drawn["transformation"].notna()]
    assert set(after["draw"]) == {0, 1, 2}
    # All metrics are asked of the same changed network, and no two draws or networks are changed alike, not
    # even of the two that stay at the same initial weights.
    changes = after.groupby(["subject", "draw"])["function_change"]
    assert set(changes.size()) == {2}
    assert set(changes.nunique()) == {1}
    assert changes.first().nunique() == 6 * 3
    margins = after[after["name"] == "margin"]
    assert margins["value"].nunique() == 6 * 3


def test_the_last_value_along_training_is_that_of_the_trained_network(drawn):
    along = drawn[drawn["kind"] == "trajectory"].set_index("subject")["value"]
    plain = drawn[drawn["transformation"].isna() & (drawn["kind"] == "measurement")]
    trained = plain[plain["name"] == "margin"].set_index("subject")["value"]
    assert len(along) == 6
    assert trained.nunique() == 4
    assert along.to_dict() == trained.to_dict()
