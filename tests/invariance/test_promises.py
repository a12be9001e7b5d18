"""Which metric theory promises to stay, or to move by a known amount, under which change: every pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from torch import nn

from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Metric
from tests.conftest import shipped

ORDERS = ["channel_permutation", "head_permutation", "neuron_permutation", "residual_permutation"]
SCALES = ["attention_rescaling", "layer_rescaling", "neuron_rescaling", "normalization_rescaling"]
GAUGES = [*SCALES, "attention_gl", "sign_flip"]
SAME_FUNCTION = [
    *ORDERS,
    *GAUGES,
    "identity_layer_insertion",
    "log_scale",
    "neuron_splitting",
    "normalization_folding",
    "weight_normalization",
]
SPECTRUM = {*ORDERS, "sign_flip", "logit_shift", "input_rotation"}
GROWN_TOGETHER = {
    *ORDERS,
    *GAUGES,
    "input_rescaling",
    "input_rotation",
    "logit_shift",
    "neuron_splitting",
    "weight_normalization",
}
OUTPUTS = {*SAME_FUNCTION, "input_rescaling", "input_rotation"}
DERIVATIVES = {*SAME_FUNCTION, "logit_shift", "input_rotation"}
ON_AXES = SPECTRUM - {"input_rotation"}
CONTROLS = {"weight_noise", "further_training", "mesh_refinement"}
NORMALIZED = "weight_normalization"
BY_WEIGHT = {*ORDERS, *SCALES, "sign_flip", "input_rescaling"}

FLATNESS = {"log_scale", "sign_flip", "weight_normalization", "logit_shift", "input_rotation"}

PROMISES = [
    ("attack_trajectory", {}, {*ORDERS, *FLATNESS}),
    ("attack_trajectory", {"norm": "linf"}, {*ORDERS, *FLATNESS} - {"input_rotation"}),
    ("attack_trajectory", {"of": "hessian_trace"}, SPECTRUM),
    ("attack_trajectory", {"of": "margin"}, {*SAME_FUNCTION, "logit_shift", "input_rotation"}),
    ("critical_sharpness", {}, SPECTRUM),
    ("critical_sharpness", {"direction": "sign"}, ON_AXES),
    ("curvature_rate", {}, DERIVATIVES),
    ("curvature_rate", {"target": "predicted_loss"}, DERIVATIVES),
    ("curvature_rate", {"target": "max_logit"}, DERIVATIVES | {"logit_temperature"}),
    ("curvature_rate", {"target": "margin"}, DERIVATIVES | {"logit_temperature"}),
    ("curvature_rate", {"target": 0}, DERIVATIVES | {"logit_temperature"}),
    ("curvature_rate", {"target": 0, "floor": 1e-12}, DERIVATIVES),
    ("curvature_rate", {"protocol": "paper_mnist"}, DERIVATIVES),
    ("curvature_rate", {"protocol": "recommended"}, DERIVATIVES),
    ("distance_from_initialization", {}, set()),
    ("effective_dimension", {}, SPECTRUM),
    (
        "fisher_decrement",
        {},
        {
            *ORDERS,
            *GAUGES,
            "input_rescaling",
            "input_rotation",
            "log_scale",
            "logit_shift",
            "weight_normalization",
        },
    ),
    ("fisher_rao_norm", {}, GROWN_TOGETHER),
    ("fisher_rao_norm", {"labels": "observed"}, GROWN_TOGETHER),
    ("gauss_newton_directions", {}, SPECTRUM),
    ("gauss_newton_top_eigenvalue", {}, SPECTRUM),
    ("gauss_newton_trace", {}, SPECTRUM),
    (
        "geodesic_sharpness",
        {},
        {*ORDERS, "attention_gl", "attention_rescaling", "sign_flip"},
    ),
    ("gradient_noise", {}, SPECTRUM),
    ("gradient_norm", {}, SPECTRUM),
    ("hessian_frobenius_norm", {}, SPECTRUM),
    ("hessian_spectral_density", {}, SPECTRUM),
    ("hessian_spectrum_decay", {}, SPECTRUM),
    ("hessian_top_eigenvalue", {}, SPECTRUM),
    ("hessian_trace", {}, SPECTRUM),
    ("input_curvature", {}, DERIVATIVES),
    ("input_gradient_change", {}, DERIVATIVES - {"input_rotation"}),
    ("input_jacobian_norm", {}, DERIVATIVES),
    ("input_jacobian_norm", {"output": "logits"}, DERIVATIVES),
    ("inverse_margin", {}, OUTPUTS | {"logit_shift"}),
    ("laplace_evidence", {}, {*ORDERS, "sign_flip", "input_rotation"}),
    ("laplace_evidence", {"structure": "samples"}, {*ORDERS, "sign_flip", "input_rotation"}),
    ("laplace_evidence", {"structure": "diagonal"}, {*ORDERS, "sign_flip"}),
    ("layer_norms", {}, {*ORDERS, "sign_flip", "logit_shift", "log_scale", NORMALIZED}),
    ("local_learning_coefficient", {}, SPECTRUM),
    ("logit_norm", {}, OUTPUTS),
    ("margin", {}, OUTPUTS | {"logit_shift"}),
    ("mean_confidence", {}, OUTPUTS | {"logit_shift"}),
    ("monge_sharpness", {}, SPECTRUM),
    ("ntk_alignment", {}, SPECTRUM),
    ("ntk_drift", {}, SPECTRUM - {"input_rotation"}),
    ("ntk_top_eigenvalue", {}, SPECTRUM),
    ("pac_bayes_flatness", {}, SPECTRUM),
    ("pac_bayes_flatness", {"magnitude_aware": True}, {*ORDERS, "sign_flip"}),
    ("pac_bayes_flatness", {"magnitude_aware": True, "epsilon": 0.0}, BY_WEIGHT),
    (
        "parameter_count",
        {},
        {*ORDERS, *GAUGES, *CONTROLS, "logit_shift", "logit_temperature", "input_rescaling"}
        | {"input_rotation"},
    ),
    ("parameter_norm", {}, {*ORDERS, "sign_flip", "input_rotation"}),
    ("path_norm", {}, {*ORDERS, *SCALES, "sign_flip", "logit_shift", "log_scale", NORMALIZED}),
    ("path_norm", {"biases": True}, {*ORDERS, *SCALES, "sign_flip", "log_scale", NORMALIZED}),
    ("random_number", {}, set()),
    (
        "relative_flatness",
        {},
        {
            *ORDERS,
            "sign_flip",
            "logit_shift",
            "input_rotation",
            "log_scale",
            "weight_normalization",
        },
    ),
    (
        "relative_flatness",
        {"features": "normalized"},
        {*BY_WEIGHT, "logit_shift", "log_scale", "weight_normalization"},
    ),
    (
        "relative_flatness",
        {"parameters_of": ["0.weight"]},
        {*ORDERS, "sign_flip", "logit_shift"},
    ),
    ("representation_shift", {}, set()),
    ("sam_sharpness", {}, SPECTRUM),
    ("sam_sharpness", {"case": "average"}, SPECTRUM),
    ("sam_sharpness", {"normalize_logits": True}, SPECTRUM),
    ("sam_sharpness", {"ball": "linf"}, ON_AXES),
    ("sam_sharpness", {"adaptive": "asam"}, ON_AXES),
    ("sam_sharpness", {"adaptive": "elementwise"}, BY_WEIGHT),
    ("sam_sharpness", {"adaptive": "elementwise", "ball": "linf"}, BY_WEIGHT),
]


def test_every_metric_is_in_the_table():
    assert {name for name, _, _ in PROMISES} == set(shipped(metrics))


def _in_words(value):
    """Of a set the number that pytest gives it: its own order changes from process to process."""
    return None if isinstance(value, (set, frozenset)) else str(value)[:40]


@pytest.mark.parametrize(("name", "parameters", "kept"), PROMISES, ids=_in_words)
def test_what_is_promised(name, parameters, kept):
    metric = metrics.create(name, parameters)
    singles = [t for t in transformations if t != "composition"]
    assert {t for t in singles if metric.promises(transformations.create(t))} == kept


@pytest.mark.parametrize(("name", "parameters", "kept"), PROMISES, ids=_in_words)
@pytest.mark.parametrize(
    "of",
    [
        ("neuron_rescaling", "neuron_permutation"),
        ("sign_flip", "neuron_permutation"),
        ("attention_gl", "head_permutation"),
        ("log_scale", "neuron_rescaling"),
        ("weight_normalization", "neuron_splitting"),
        ("input_rotation", "sign_flip"),
        ("input_rescaling", "neuron_permutation"),
    ],
)
def test_a_composition_is_promised_where_every_part_is(name, parameters, kept, of):
    composition = transformations.create("composition", {"of": of})
    assert metrics.create(name, parameters).promises(composition) == kept.issuperset(of)


RATE, JACOBIAN = "curvature_rate", "input_jacobian_norm"


@pytest.mark.parametrize(
    ("name", "parameters", "change", "amount", "expected"),
    [
        (RATE, {}, "input_rescaling", {"factor": 4.0}, 3 - math.log(4)),
        (RATE, {"floor": 1e-12}, "input_rescaling", {"factor": 4.0}, None),
        (RATE, {"target": 0}, "input_rescaling", {"factor": 0.5}, 3 + math.log(2)),
        (RATE, {"target": 0}, "logit_temperature", {}, None),
        (RATE, {}, "input_rescaling", {"factor": 1.0}, None),
        (JACOBIAN, {}, "input_rescaling", {"factor": 4.0}, 0.75),
        (JACOBIAN, {"output": "logits"}, "input_rescaling", {"factor": 4.0}, 0.75),
        (JACOBIAN, {"output": "logits"}, "logit_temperature", {"temperature": 0.5}, 6.0),
        (JACOBIAN, {}, "logit_temperature", {"temperature": 0.5}, None),
        ("logit_norm", {}, "logit_temperature", {"temperature": 1.5}, 2.0),
        ("margin", {}, "logit_temperature", {"temperature": 1.5}, 2.0),
        ("inverse_margin", {}, "logit_temperature", {"temperature": 0.5}, 0.75),
        ("path_norm", {}, "logit_temperature", {"temperature": 1.5}, 2.0),
        ("path_norm", {}, "input_rescaling", {"factor": 4.0}, 0.75),
        ("path_norm", {"biases": True}, "input_rescaling", {"factor": 4.0}, None),
        ("path_norm", {}, "input_rotation", {}, None),
        ("mean_confidence", {}, "logit_temperature", {"temperature": 1.5}, None),
        ("margin", {}, "input_rescaling", {}, None),
        ("hessian_trace", {}, "input_rescaling", {}, None),
        ("input_curvature", {}, "input_rescaling", {}, None),
        (RATE, {}, "composition", {"of": ("input_rescaling", "sign_flip")}, None),
        (RATE, {}, "input_rotation", {}, None),
    ],
)
def test_what_theory_expects_after_a_change_that_moves_it(
    name, parameters, change, amount, expected
):
    found = metrics.create(name, parameters).expected_after(
        transformations.create(change, amount), 3.0
    )
    assert found == (None if expected is None else pytest.approx(expected))


# --- a transformation from outside gets its row right by what it declares ------------------------


@dataclass(frozen=True)
class Millimetres(Transformation):
    """Gives the input in millimetres in place of metres."""

    name = "millimetres"
    kind = "units"
    preserves = "function"

    @property
    def input_scale(self) -> float:
        return 1000.0

    def change(self, model: nn.Module, *, seed: int) -> None: ...


@dataclass(frozen=True)
class Standardization(Millimetres):
    """Divides each coordinate of the input by its own spread."""

    name = "standardization"

    @property
    def input_scale(self) -> None:
        return None


@dataclass(frozen=True)
class ExpertPermutation(Transformation):
    """Reorders the experts of a mixture."""

    name = "expert_permutation"
    kind = "permutation"
    preserves = "function"

    def change(self, model: nn.Module, *, seed: int) -> None: ...


@dataclass(frozen=True)
class Householder(ExpertPermutation):
    """Reflects the parameters inside a symmetry of the network."""

    name = "householder"
    kind = "linear_gauge"
    traits = frozenset({"isometry"})


@dataclass(frozen=True)
class Sharper(Transformation):
    """Multiplies the logits by three."""

    name = "sharper"
    kind = "decision"
    preserves = "nothing"

    @property
    def temperature(self) -> float:
        return 1 / 3

    def change(self, model: nn.Module, *, seed: int) -> None: ...


@dataclass(frozen=True)
class Undeclared(Transformation):
    """Says of what kind it is to nobody."""

    name = "undeclared"
    preserves = "function"

    def change(self, model: nn.Module, *, seed: int) -> None: ...


def promised(change: Transformation) -> set[str]:
    return {name for name in shipped(metrics) if metrics.create(name).promises(change)}


def test_a_transformation_from_outside_is_promised_what_its_declarations_imply():
    from_what_stays = {"distance_from_initialization", "representation_shift"}
    everything = set(shipped(metrics)) - from_what_stays - {"random_number"}
    outputs = {"inverse_margin", "logit_norm", "margin", "mean_confidence"}
    # Of single layers or weights.
    of_axes = {"geodesic_sharpness", "layer_norms", "path_norm", "relative_flatness"}
    of_axes.add("attack_trajectory")  # of the relative flatness
    assert promised(ExpertPermutation()) == everything
    assert promised(Householder()) == everything - of_axes
    assert not metrics.create("sam_sharpness", {"ball": "linf"}).promises(Householder())
    assert promised(Millimetres()) == {*outputs, "fisher_decrement", "parameter_count"}
    assert promised(Standardization()) == {*outputs, "fisher_decrement", "parameter_count"}
    assert promised(Sharper()) == {"parameter_count"}
    assert metrics.create("curvature_rate", {"target": "margin"}).promises(Sharper())
    assert promised(Undeclared()) == set()
    assert (Undeclared().widest_kind, Householder().widest_kind) == (None, "linear_gauge")


def test_a_transformation_from_outside_moves_a_metric_as_its_declarations_imply():
    rate, logits = metrics.create(RATE), metrics.create(JACOBIAN, {"output": "logits"})
    assert rate.expected_after(Millimetres(), 8.0) == pytest.approx(8 - math.log(1000))
    assert logits.expected_after(Millimetres(), 8.0) == pytest.approx(0.008)
    assert rate.expected_after(Standardization(), 8.0) is None
    assert logits.expected_after(Standardization(), 8.0) is None
    assert logits.expected_after(Sharper(), 8.0) == pytest.approx(24)
    assert metrics.create("margin").expected_after(Sharper(), 8.0) == pytest.approx(24)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"kind": "rotation"}, "unknown kind 'rotation'"),
        ({"kind": "permutation", "preserves": "nothing"}, "preserves 'function', not 'nothing'"),
        ({"kind": "decision", "preserves": "function"}, "'loss' or 'nothing', not 'function'"),
        ({"traits": frozenset({"diagnoal"})}, "unknown traits diagnoal"),
    ],
)
def test_a_declaration_that_says_nothing_or_contradicts_itself_is_an_error(body, message):
    with pytest.raises(TypeError, match=message):
        type("Wrong", (Transformation,), body)


def test_a_metric_names_kinds_and_traits_not_transformations():
    with pytest.raises(TypeError, match="neuron_permutation, which is no kind or trait"):
        type("Wrong", (Metric,), {"invariant_under": frozenset({"neuron_permutation", "chart"})})
