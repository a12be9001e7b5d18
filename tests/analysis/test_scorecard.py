"""The scorecard of a frame made by hand: the verdicts of every question, brought together."""

import math

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.failures import outcome_of
from sharpbench.analysis.results import Results
from sharpbench.analysis.scorecard import QUESTIONS, scorecard, suites_that_ask
from sharpbench.report.sections.scorecard import Scorecard, prose
from sharpbench.suite.spec import known_suites
from tests.analysis.test_tables import row

NETWORKS = 10


def measured(name, value, after=None, *, work=3.0, implementation=None):
    """A metric on ten networks whose test error rises from one to the next, and after a permutation."""
    label = f"{name} {implementation or ''}".strip()
    parameters = {"implementation": implementation} if implementation else {}
    for i in range(NETWORKS):
        own = {
            "name": name, "title": name.title(), "parameters": parameters, "converged": True,
            "gradient_equivalents": work, "dataset_short": "d", "recipe_short": "r",
            "standard_error": 0.0,
        }  # fmt: skip
        yield row(i, value(i), label, **own)
        if after:
            changed = {"transformation": "swap", "transformation_name": "swap",
                       "transformation_kind": "permutation", "preserves": "function",
                       "promised": True, "function_change": 0.0}  # fmt: skip
            yield row(i, after(value(i)), label, **own, **changed)


def answered(
    name, values, *, problem="bowl", expected=2.0, converged=True, error=0.0, **parameters
):
    for seed, value in enumerate(values):
        yield row("p", value, f"{name}{parameters}", kind="problem", name=name, title=name.title(),
                  parameters=parameters, problem=problem, problem_short=problem, problem_label=problem,
                  expected=expected, limit=None, diverges=None, converged=converged, seed=seed,
                  standard_error=error, gradient_equivalents=30.0)  # fmt: skip


def card(*rows):
    frame = pd.DataFrame([r for some in rows for r in some])
    return {(e.name, e.implementation): e for e in scorecard(Results(frame))}


def errors():
    for i in range(NETWORKS):
        yield row(i, i / NETWORKS, "test_error", kind="evaluation", title="test error",
                  dataset_short="d", recipe_short="r", model="net", recipe="r")  # fmt: skip


@pytest.fixture(scope="module")
def networks():
    return card(
        errors(),
        measured("good", lambda i: 1.0 + i, lambda v: v),
        measured("rival", lambda i: 1.0 + i, lambda v: v, implementation="native"),
        measured("rival", lambda i: 2.0 + i, lambda v: 3 * v, implementation="other", work=40.0),
        measured("backwards", lambda i: -1.0 - i, work=math.nan),
    )


def test_one_row_a_metric_and_implementation_the_native_first(networks):
    assert list(networks) == [
        ("backwards", "native"), ("good", "native"), ("rival", "native"), ("rival", "other"),
    ]  # fmt: skip
    assert networks["good", "native"].title == "Good"
    assert networks["good", "native"].figures == {"measured": 2 * NETWORKS}
    assert all(tuple(e.cells) == QUESTIONS for e in networks.values())


def test_each_question_has_the_verdict_and_the_figure_of_its_table(networks):
    good, other = networks["good", "native"].cells, networks["rival", "other"].cells
    assert good["right"].word == ""  # nothing to compare it with
    assert (good["invariant"].word, good["invariant"].parts, good["invariant"].n) == (
        "invariant",
        1,
        1,
    )
    assert good["predictive"].word == "predicts"
    assert good["predictive"].value == 1.0
    assert good["predictive"].low < 1.0 <= good["predictive"].high
    assert good["predictive"].n == NETWORKS
    assert good["predictive"].told == ("test error",)
    assert (good["costly"].word, good["costly"].value) == ("up to 10", 3.0)
    # n + 2 against n + 1, and neither states an error
    assert other["right"].word == "can't tell"
    assert other["right"].value == pytest.approx(np.median([1 / (1 + i) for i in range(NETWORKS)]))
    assert (other["invariant"].word, other["invariant"].low) == ("moves", pytest.approx(3))
    assert other["invariant"].told == ("swap", "promised not to: swap")
    assert (other["costly"].word, other["costly"].value) == ("up to 100", 40.0)
    assert networks["backwards", "native"].cells["predictive"].word == "ranks backwards"
    assert networks["backwards", "native"].cells["costly"].word == "not counted"
    assert networks["backwards", "native"].cells["invariant"].word == ""


def of_recipes(values, errors, recipes=3, seeds=4, strata=4):
    """A metric that is one of the recipe's settings, and a test error that is near what the recipe gives."""
    rng = np.random.default_rng(0)
    for i, (stratum, recipe, seed) in enumerate(np.ndindex(strata, recipes, seeds)):
        own = {"title": "Steps", "dataset_short": f"d{stratum}", "recipe_short": f"r{recipe}",
               "model": "net", "recipe": "r", "seed": seed, "parameters": {}}  # fmt: skip
        error = errors[recipe] + 0.7 * rng.normal()
        yield row(i, error, "test_error", kind="evaluation", **own)
        yield row(i, values[recipe], "steps", **own, converged=True)


def test_three_recipes_in_a_lucky_order_are_no_prediction():
    entries = card(of_recipes([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]))
    cell = entries["steps", "native"].cells["predictive"]
    assert cell.word == "can't tell"
    assert cell.low > 0.3  # over the seeds it is certain, and the recipes are three
    assert "as often by chance in recipes and seeds, or in so many metrics" in cell.told
    six = list(range(6))
    entries = card(of_recipes(six, six, recipes=6))
    assert entries["steps", "native"].cells["predictive"].word == "predicts"


def test_what_cant_be_told_from_the_best_is_tied(networks):
    tied = {key: e.cells["predictive"].tied for key, e in networks.items()}
    assert tied == {key: key[0] != "backwards" for key in networks}
    assert [e.cells["invariant"].tied for e in networks.values()] == [False, True, True, False]


def test_where_nothing_can_be_told_nothing_is_as_good_as_the_best():
    rng = np.random.default_rng(5)
    by_lot = [rng.normal(size=NETWORKS) for _ in range(2)]
    noise = card(errors(), *(measured(f"m{k}", x.__getitem__) for k, x in enumerate(by_lot)))
    cells = [e.cells["predictive"] for e in noise.values()]
    assert [(c.word, c.measure, c.tied) for c in cells] == [("can't tell", "tau", False)] * 2
    assert cells[0].low <= cells[1].high
    assert cells[1].low <= cells[0].high
    # Beside one that predicts the one of which nothing is told may be as good.
    beside = card(
        errors(), measured("good", lambda i: 1.0 + i), measured("m0", by_lot[0].__getitem__)
    )
    words = [(e.cells["predictive"].word, e.cells["predictive"].tied) for e in beside.values()]
    assert words[0][0] == "predicts"
    assert words[1][0] == "can't tell"
    assert words[0][1] == words[1][1]


@pytest.mark.parametrize(
    ("rows", "word", "told"),
    [
        (answered("m", [2.0, 2.01, 1.99]), "right", ()),
        (answered("m", [2.0, 2.5, 2.5]), "wrong", ("wrong on bowl",)),
        (answered("m", [2.0, 2.5, 2.0, 2.0]), "can't tell", ("open on bowl",)),
        (answered("m", [2.5, 2.5], converged=False), "can't tell", ("open on bowl",)),
        (answered("m", [2.15, 1.9], tolerance=0.1), "right", ()),
        (answered("m", [2.25, 2.25], tolerance=0.1), "wrong", ("wrong on bowl",)),
        (answered("m", [1e-3, -1e-3], expected=0.0), "right", ()),
        (answered("m", [0.5, 0.5], expected=0.0), "wrong", ("wrong on bowl",)),
        (answered("m", [2.1, 2.2, 1.9], error=0.7), "can't tell", ("open on bowl",)),
        ([*answered("m", [2.1], error=0.7), *answered("m", [2.1, 1.9], error=0.1)], "right", ()),
        (
            [
                one
                for place, value in {"bowl": 2.0, "dent": 3.0, "rim": 4.0, "pit": 5.0}.items()
                for one in answered("m", [value], problem=place)
            ],
            "wrong",
            ("wrong on dent, rim and 1 more",),
        ),
    ],
)  # fmt: skip
def test_known_answers(rows, word, told):
    ((_, entry),) = card(rows).items()
    assert (entry.cells["right"].word, entry.cells["right"].told) == (word, told)
    assert entry.cells["costly"].value == 30.0
    assert entry.cells["costly"].counted == "problems"


def test_a_problem_that_is_there_for_its_cost_has_no_right_answer():
    cells = card(answered("m", [1.0, 3.0], expected=None))["m", "native"].cells
    assert {q: c.word for q, c in cells.items()} == {
        **dict.fromkeys(QUESTIONS, ""),
        "costly": "up to 100",
    }
    assert cells["costly"].evidence == "growth"


def test_what_was_not_measured_says_why_and_has_no_verdict():
    lost = [
        {**r, "status": status, "reason": reason, "value": math.nan}
        for r, status, reason in zip(
            measured("lost", lambda i: 1.0),
            ["unsupported"] * 8 + ["timeout", "error"],
            ["a library is not installed (No module named 'x'): pip install x"] * 8 + ["", "boom"],
            strict=True,
        )
    ]
    entries = card(measured("good", lambda i: 1.0 + i), lost)
    entry = entries["lost", "native"]
    assert entry.figures == {"not installed": 8, "timed out": 1, "failed": 1}
    assert {c.word for c in entry.cells.values()} == {"not installed"}
    assert "boom" in entry.reasons


@pytest.mark.parametrize(
    ("status", "reason", "word"),
    [
        ("ok", None, "measured"),
        ("unsupported", "needs a ReLU", "not applicable"),
        ("failed", "no answer", "failed"),
        ("error", "ValueError: x", "failed"),
        ("error", "ModuleNotFoundError: No module named 'curvlinops'", "not installed"),
        ("timeout", "after 5 s", "timed out"),
    ],
)
def test_the_words_for_what_became_of_a_figure(status, reason, word):
    assert outcome_of(status, reason) == word


def test_an_empty_question_names_a_shipped_suite_that_fills_it():
    assert suites_that_ask("right", "curvature_rate") == ("lambda_ground_truth", True)
    assert suites_that_ask("right", "hessian_trace") == ("hessian_ground_truth", True)
    assert suites_that_ask("invariant", "sam_sharpness") == ("invariance", True)
    assert suites_that_ask("invariant", "sam_sharpness", "invariance") == ("quick", True)
    for question in QUESTIONS:
        suite, measures = suites_that_ask(question, "of_a_newcomer")
        assert suite in known_suites()
        assert not measures


def test_the_prose_is_at_most_five_sentences(networks):
    told = prose(list(networks.values()))
    assert len(told) <= 5
    assert (
        "Invariant? Unmoved by every change that keeps the function: Good, Rival; moved: Rival (other)."
        in told
    )
    assert "Costly? From 3.0 (Good) to 40 gradients (Rival (other))." in told
    assert any("it does better by: Backwards" in sentence for sentence in told)


def test_without_any_metric_there_is_no_scorecard():
    assert scorecard(Results(pd.DataFrame([row("s", 1.0, kind="evaluation")]))) == []
    assert not Scorecard().applies(Results(pd.DataFrame({"kind": ["subject"]})))
