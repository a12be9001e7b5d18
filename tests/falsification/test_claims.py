"""Each claim by hand, on records of exactly the shape that the suite's plan gives, after a known law."""

import math

import pandas as pd
import pytest

from sharpbench.analysis.audit import claims_table
from sharpbench.falsification.claims import CLAIMS, SUITES
from sharpbench.results.description import subject_columns
from sharpbench.suite.plan import make_plan
from sharpbench.suite.spec import find_suite, load_suite

EMPTY = {
    "status": "ok",
    "transformation": None,
    "transformation_name": None,
    "epoch": None,
    "standard_error": 0.0,
    "cost.shared_machine": False,
}


def wobble(seed: int) -> float:
    """Of mean 0 over seeds 0 to 9, and of mean 0 over 0 to 4."""
    return (seed % 5 - 2) * 1e-3


def law(subject) -> dict[str, float]:
    """log λ_max, log trace and test error of a network, as the claims foretell them."""
    recipe, model, data = subject.recipe, subject.model, subject.dataset
    if recipe.name == "parity_solution":
        return {"top": 0.5, "trace": 2.0, "loss": 0.5 if recipe.solution == "memorizing" else 0.0}
    top, error = 1.0, 0.05
    if recipe.name == "sam":
        top, error = top - 0.7, error - 0.01 * (recipe.batch_size == 16)
    if getattr(recipe, "lr", 0) == 0.2:
        top -= 0.5
        error -= 0.01 * (recipe.batch_size == 16)
    if getattr(model, "dropout", 0.0):
        top, error = top - 0.2, error + 0.3
    if getattr(model, "normalization", False):
        top, error = top + 0.2, error - 0.1
    own = {"top": top, "trace": top + 1, "error": error}
    if (
        getattr(model, "depth", 0) == 1 and model.name == "uniform_mlp"
    ):  # the label noise raises both
        rate = {0.02: 0, 0.05: 1, 0.1: 2}[recipe.lr]
        # Within a level the trace falls with the rate, and the error is as high at both ends.
        own["trace"] = own["top"] = 2 + 10 * data.label_noise - 0.3 * rate
        own["error"] = 0.05 + data.label_noise + 0.004 * (rate == 1)
    return own


def records(told=law) -> pd.DataFrame:
    """What a run of the suite would leave."""
    plan = make_plan(load_suite(find_suite("falsification")))
    rows = []
    for number, subject in enumerate(plan.subjects):
        parts = {f"{p}_label": getattr(subject, p).label for p in ("dataset", "model", "recipe")}
        description = {"key": subject.key, "label": subject.label, "identity": subject.identity}
        common = {**subject_columns({**description, **parts}), **EMPTY}
        own, jitter = told(subject), wobble(subject.seed)
        exact = "loss" in own
        values = {
            "hessian_top_eigenvalue": math.exp(own["top"] + jitter),
            "hessian_trace": math.exp(own["trace"] + (0 if exact else jitter)),
            "fisher_rao_norm": 1.0 + jitter,
            "sam_sharpness": 1.0,
        }
        for m in plan.measurements:
            moved = {"hessian_top_eigenvalue": 1.5, "hessian_trace": (number * 7919 % 13) - 6.0}
            change = moved.get(m.metric.name, 0.0) if m.transformation else 0.0
            after = m.transformation and m.transformation.name
            fields = {"transformation": after, "transformation_name": after}
            value = values[m.metric.name] * math.exp(change)
            rows.append(
                common
                | {"kind": "measurement", "name": m.metric.name, "label": m.metric.label}
                | {"value": value}
                | fields
            )
        name, value = ("test_loss", own["loss"]) if exact else ("test_error", own["error"] + jitter)
        rows.append(common | {"kind": "evaluation", "name": name, "label": name, "value": value})
    return pd.DataFrame(rows)


def curves(exponent=lambda smoothness: min((smoothness - 1) / 2, 0.5) + 1) -> pd.DataFrame:
    """What a run of `learning_curves` would leave where its risks follow the stated law."""
    plan = make_plan(load_suite(find_suite("learning_curves")))
    rows = []
    for subject in plan.subjects:
        parts = {f"{p}_label": getattr(subject, p).label for p in ("dataset", "model", "recipe")}
        description = {"key": subject.key, "label": subject.label, "identity": subject.identity}
        common = {**subject_columns({**description, **parts}), **EMPTY}
        data, jitter = subject.dataset, wobble(subject.seed)
        risk = 3.0 * data.train ** -exponent(data.smoothness) * math.exp(jitter)
        (asked,) = {m.metric for m in plan.measurements}
        told = {"kind": "measurement", "name": asked.name, "label": asked.label}
        rows.append(common | told | {"value": 2.0 + jitter})
        told = {"kind": "evaluation", "name": "test_loss", "label": "test_loss"}
        rows.append(common | told | {"value": risk})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def foretold() -> pd.DataFrame:
    frames = {"falsification": records(), "learning_curves": curves()}
    return claims_table(frames, CLAIMS).set_index(["section", "statement"])


def test_where_the_law_holds_every_claim_is_reproduced_with_the_laws_figure(foretold):
    assert SUITES == ("falsification", "learning_curves")
    others = foretold[foretold["verdict"] != "reproduced"]
    assert others.empty, others[["verdict", "estimate"]]
    figures = [row.value for row in foretold["estimate"]]
    changes = [-0.5, -0.5, -0.01, 0, -0.5, 0, -0.7, -0.7, -0.01, 0, -0.2, 0.3, 0.2, -0.1]
    assert figures[:14] == pytest.approx(changes, abs=1e-9)
    assert figures[14:17] == pytest.approx([0, 0.5, 0], abs=1e-9)
    assert foretold["estimate"].iloc[0].n == 10
    assert figures[-3:] == pytest.approx([2, -1.25, -1.5], abs=1e-9)
    assert foretold["estimate"].iloc[-1].n == 200
    # 5 seeds × 3 rates at each of 4 levels
    assert foretold["estimate"].iloc[20].n == 60


def test_the_size_of_a_change_is_the_mean_of_its_logarithm_over_seeds(foretold):
    plan = make_plan(load_suite(find_suite("falsification")))
    chosen = [
        (number, s.seed)
        for number, s in enumerate(plan.subjects)
        if s.model.name == "uniform_mlp" and s.model.depth == 1 and not s.dataset.label_noise
    ]
    assert len(chosen) == 15
    sizes = pd.DataFrame(chosen, columns=["number", "seed"])
    sizes["size"] = [abs(n * 7919 % 13 - 6.0) for n in sizes["number"]]
    by_seed = sizes.groupby("seed")["size"].mean()
    found = foretold["estimate"].iloc[17]
    assert found.value == pytest.approx(by_seed.mean())
    assert found.n == 5


def test_where_it_is_turned_round_claims_with_a_sign_are_contradicted():
    def turned(subject):
        own = law(subject)
        if "loss" in own:
            return {"top": 0.5, "trace": 2.0 + 0.1 * own["loss"], "loss": 0.5 - own["loss"]}
        return own | {"top": 2 - own["top"], "error": 0.5 - own["error"]}

    table = claims_table({"falsification": records(turned)}, CLAIMS)
    signed = table[
        table["rule"].str.startswith("reproduced if the interval lies")
        & (table["section"] == "Kaur et al. 2022")
    ]
    assert set(signed["verdict"][signed["stated"] != "no change"]) == {"contradicted"}
    memorized = table[table["section"] == "Wen, Li & Ma 2023"]
    assert set(memorized["verdict"]) == {"contradicted"}


def test_a_learning_curve_of_another_exponent_contradicts():
    table = claims_table({"learning_curves": curves(lambda smoothness: 1.0)}, CLAIMS)
    told = table[table["section"] == "Berthier et al. 2020"]
    assert told["verdict"].tolist() == ["reproduced", "contradicted", "contradicted"]


def test_what_has_not_run_says_so():
    table = claims_table({}, CLAIMS)
    assert set(table["verdict"]) == {"not run"}
    told = {"run: sharpbench run falsification", "run: sharpbench run learning_curves"}
    assert set(table["reason"]) == told
