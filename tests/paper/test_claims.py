"""The audit on made-up records of exactly the shape that the suites' plans give."""

import functools
import math
import zlib

import pandas as pd
import pytest

from sharpbench.analysis.audit import Evidence, claims_table
from sharpbench.analysis.measures import Difference, Source
from sharpbench.paper.claims import CLAIMS
from sharpbench.paper.evidence import GRID, SUITES, TABLE_2, rate
from sharpbench.paper.questions import QUESTIONS
from sharpbench.paper.spectral_bias import kernel_eigenvalue
from sharpbench.report.audit import reason
from sharpbench.results.description import subject_columns
from sharpbench.suite.plan import ProblemPlan, make_plan
from sharpbench.suite.spec import find_suite, load_suite


def noise(*parts: object) -> float:
    """A fixed pseudo-random number in [0, 1)."""
    return zlib.crc32(repr(parts).encode()) % 10_000 / 10_000


def record(common, kind, label, value, **fields):
    empty = {"name": label, "status": "ok", "transformation": None, "transformation_name": None,
             "parameters": {}, "epoch": None}  # fmt: skip
    return {**common, **empty, "kind": kind, "label": label, "value": value, **fields}


def made_up_speed(mode: int, model) -> float:
    """As the kernel has it without biases; with them it falls with the square of the mode."""
    return 0.4 / (1 + mode) ** 2 if model.bias else kernel_eigenvalue(mode)


@functools.cache
def made_up(suite: str) -> pd.DataFrame:
    """What a run of the suite would leave, with figures that follow a known law.

    λ falls and the error rises with label noise; within one noise level λ raises the error a little. At a
    given error λ goes with the error under attack, and against that under corruption.
    """
    plan = make_plan(load_suite(find_suite(suite)))
    rows = []
    for subject in plan.subjects:
        parts = ("dataset", "model", "recipe")
        labels = {f"{p}_label": getattr(subject, p).label for p in parts if hasattr(subject, p)}
        if isinstance(subject, ProblemPlan):
            labels = {"problem_label": subject.problem.label}
        description = {"key": subject.key, "label": subject.label, "identity": subject.identity}
        common = subject_columns({**description, **labels})
        if isinstance(subject, ProblemPlan):
            sine = subject.problem.name == "sine"
            rows += [
                record(
                    common,
                    "problem",
                    m.label,
                    math.log(subject.problem.scale) if sine else noise(m.label),
                )
                for m in plan.asked(subject)
            ]
            continue
        level, jitter = getattr(subject.dataset, "label_noise", 0.0), noise(subject.key)
        scale = getattr(subject.recipe, "scale", 0.0)
        own = -4 * level + 0.3 * jitter - (0.5 if scale else 0.0)
        for m in plan.measurements:
            changed = m.transformation
            after = {
                "transformation": changed and changed.label,
                "transformation_name": changed and changed.name,
            }
            value = own + 0.01 * noise(m.metric.label, subject.key)
            rows.append(record(common, "measurement", m.metric.label, value, **after))
        rows.append(record(common, "evaluation", "train_loss", 0.01, standard_error=0.0))
        for name in ("test_error", "ece", "ece_debiased", "ece_floor"):
            value = 0.02 + level + 0.05 * jitter
            rows.append(record(common, "evaluation", name, value, standard_error=1e-5))
        for name, slope in (("adversarial_error", 0.1), ("corrupted_error", -0.02)):
            value = 0.3 + slope * own + 1e-4 * noise(name, subject.key)
            rows.append(record(common, "evaluation", name, value, standard_error=1e-5))
        alone = {"cost.shared_machine": False}
        rows.append(record(common, "training", "seconds", 1.0 + jitter, epoch=1, **alone))
        if hasattr(subject.dataset, "mode"):
            speed = made_up_speed(subject.dataset.mode, subject.model) * (1 + 0.01 * jitter)
            rows += [
                record(
                    common,
                    "training",
                    "train_loss",
                    0.5 * (1 - speed) ** (2 * epoch - 2),
                    epoch=epoch,
                )
                for epoch in (*range(1, 20), 100, subject.recipe.epochs)
            ]
        rows += [
            record(common, "trajectory", m.label, own * epoch / 50, epoch=epoch)
            for m in plan.trajectory.metrics
            for epoch in range(1, subject.recipe.epochs + 1)
            if plan.trajectory.due(epoch, subject.recipe.epochs)
        ]
    return pd.DataFrame(rows)


def test_every_claim_finds_its_figures_in_the_suites():
    frames = {suite: made_up(suite) for suite in SUITES}
    for claims in (CLAIMS, QUESTIONS):
        table = claims_table(frames, claims)
        assert set(table["verdict"]) <= {
            "reproduced", "reproduced in direction", "inconclusive", "contradicted", "can't be tested", "",
        }  # fmt: skip
        missing = table[table["estimate"].isna() & (table["verdict"] != "can't be tested")]
        assert missing.empty, missing["statement"].tolist()
        assert (table.loc[table["verdict"] == "can't be tested", "reason"] != "").all()


def test_what_has_not_run_says_which_suite_to_run():
    table = claims_table({}, CLAIMS)
    assert set(table["verdict"]) == {"not run", "can't be tested"}
    told = table.loc[table["verdict"] == "not run", "reason"]
    assert told.str.startswith("run: sharpbench run ").all()
    for suite in told.str.split().str[-1]:
        assert find_suite(suite).exists()


def test_a_reduced_run_is_named_and_gives_way_to_the_full_one():
    claims = tuple(c for c in CLAIMS if c.measure and c.measure.suites == TABLE_2.suites)
    assert claims
    reduced = {"paper_sam_reduced": made_up("paper_sam_reduced")}
    assert set(claims_table(reduced, claims)["suite"]) == {"paper_sam_reduced"}
    both = {**reduced, "paper_sam": made_up("paper_sam")}
    assert set(claims_table(both, claims)["suite"]) == {"paper_sam"}


def test_simpsons_paradox_is_told_apart():
    frames = {"paper_two_moons": made_up("paper_two_moons")}
    table = claims_table(frames, CLAIMS).set_index("statement")
    pooled = table.loc["Each unit of λ goes with 0.29 percentage points higher test error"]
    assert pooled["verdict"] == "contradicted"
    assert pooled["estimate"].value < 0
    within = table.loc[
        "Functional sharpness meaningfully influences generalization (sharper is worse)"
    ]
    assert within["verdict"] == "reproduced"
    assert within["estimate"].value == pytest.approx(0.05 / 0.3, rel=0.1)


def test_robustness_is_judged_at_equal_clean_error():
    """Penalties lower λ and leave the made-up clean error as it is: what they do to the others is seen."""
    table = claims_table({"lambda_robustness": made_up("lambda_robustness")}, CLAIMS)
    rows = table[table["section"] == "7, 8"].set_index("statement")
    attacked, corrupted = (rows[rows.index.str.contains(w)] for w in ("attack", "corruption"))
    assert set(attacked["verdict"]) == {"reproduced"}
    assert set(corrupted["verdict"]) == {"contradicted"}
    assert all(e.value > 0.99 and e.n == 105 for e in attacked["estimate"])


def test_too_few_networks_give_no_figure():
    frame = made_up("paper_mnist")
    table = claims_table({"paper_mnist": frame[frame["seed"] == 0]}, CLAIMS)
    rows = table[table["statement"] == "λ on clean MNIST"]
    assert rows["verdict"].item() == "not run"
    assert "too few networks of paper_mnist" in rows["reason"].item()


def test_a_condition_picks_the_networks_it_names():
    evidence = Evidence({"paper_two_moons": made_up("paper_two_moons")})
    rows = evidence.where("paper_two_moons", recipe="crr", recipe__scale=3e-3, recipe__epochs=50)
    assert len(rows) == 20
    assert rate(protocol="paper_two_moons").label in rows.columns


def test_a_difference_of_calibration_within_the_floors_noise_has_no_verdict():
    claims = tuple(c for c in CLAIMS if c.unit.startswith("Δ ECE") or "debiased" in c.unit)
    assert len(claims) == 6
    told = {"paper_mnist": made_up("paper_mnist"), "paper_sam": made_up("paper_sam")}
    plain = claims_table(told, claims)
    assert not any("chance" in reason(row) for row in plain.to_dict("records"))
    noisy = {}
    for suite, frame in told.items():
        floors = frame["name"] == "ece_floor"
        noisy[suite] = frame.assign(standard_error=frame["standard_error"].mask(floors, 0.2))
    table = claims_table(noisy, claims)
    assert set(table["verdict"]) == {"inconclusive"}
    assert all("chance among the points" in reason(row) for row in table.to_dict("records"))
    differences = table[table["unit"] == "Δ ECE, debiased"]["estimate"]
    assert [e.noise for e in differences] == pytest.approx([1.96 * 0.2 * 2**0.5] * len(differences))


def test_a_seed_that_is_compared_at_several_scales_counts_once():
    """Two scales against one baseline a seed: three seeds are three figures, each the mean of its two."""
    table = claims_table({"paper_mnist": made_up("paper_mnist")}, CLAIMS).set_index("statement")
    assert table.loc["CRR up to scale 200 keeps the accuracy", "estimate"].n == 3
    assert table.loc["ECE falls at scales 0.01 to 1", "estimate"].n == 3
    values = {"one": [1.0, 2.0, 4.0], "other": [3.0, 2.0, 8.0], "base": [0.0, 1.0, 1.0]}
    rows = [
        record(
            {"subject": f"{recipe}{seed}", "seed": seed, "recipe": recipe}, "measurement", "v", v
        )
        for recipe, column in values.items()
        for seed, v in enumerate(column)
    ]
    evidence = Evidence(
        {"s": pd.DataFrame(rows).assign(**{"cost.shared_machine": None, "standard_error": None})}
    )
    one, other, base = (Source(("s",)).where(recipe=recipe) for recipe in values)
    found = Difference((one, other), base, "v")(evidence, "s")
    assert (found.value, found.n) == (pytest.approx((2 + 1 + 5) / 3), 3)


def test_an_inconclusive_claim_says_what_it_would_take():
    frame = made_up("paper_mnist")
    rows = claims_table({"paper_mnist": frame}, CLAIMS)
    unsure = rows[(rows["verdict"] == "inconclusive")]
    assert len(unsure)
    told = [reason(row) for row in unsure.to_dict("records")]
    assert all("smallest effect" in text or "chance" in text for text in told)


@pytest.mark.parametrize("shared", [True, None])
def test_times_taken_beside_other_work_enter_no_ratio(shared):
    claims = tuple(c for c in CLAIMS if "training time" in c.statement)
    assert len(claims) == 2
    frame = made_up("paper_sam_reduced")
    assert set(claims_table({"paper_sam_reduced": frame}, claims)["verdict"]) != {"not run"}
    beside = frame.assign(**{"cost.shared_machine": shared})
    assert set(claims_table({"paper_sam_reduced": beside}, claims)["verdict"]) == {"not run"}


@pytest.mark.parametrize(("way", "verdict"), [(1, "reproduced"), (-1, "contradicted")])
def test_a_grid_is_judged_by_networks_that_differ_in_one_setting(way, verdict):
    """λ and error rise together from network to network, by what no setting tells."""
    frame = made_up("generalization_quick").copy()
    error = frame["name"] == "test_error"
    frame["value"] = frame["value"].mask(error, way * frame["value"])
    both = [c for c in (*CLAIMS, *QUESTIONS) if c.measure and c.measure.suites == GRID.suites]
    table = claims_table({"generalization_quick": frame}, both)
    assert table["verdict"].tolist() == [verdict, ""]
    rank, beyond = table["estimate"]
    assert 0.9 < way * rank.value < 1  # noise of 3% of λ's spread turns a few pairs around
    assert rank.n == beyond.n == 240
    assert way * beyond.value > 0.5
