"""What is asked of every idiom, and how an answer is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError
from tests.zoo.idioms import Idiom
from tests.zoo.references import Figure, Reference

__all__ = ["QUESTIONS", "Answer", "Question", "ask", "reference_of"]

EXACT = 1e-6
"""Relative deviation that an answer without any stated error may show."""

SINGLE = 3e-5
"""The same in float32."""

Status = Literal["right", "within", "refused", "WRONG"]
SEED = 11

LEVEL = 0.9999
"""Of a stated error: four standard errors where they are well known, more by Student's t where not."""


@dataclass(frozen=True)
class Question:
    """A metric with its parameters, the figure that it should give and the allowance of the reference."""

    name: str
    metric: str
    expected: Callable[[Reference], Figure]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = EXACT
    absolute: float = 0.0
    classes_only: bool = False
    initial: float | None = None
    """Where the subject's initial network is given: the same with all parameters times this."""
    may_refuse: tuple[str, ...] = ()
    """Parts of the reasons for which any idiom may be refused: what the figure is not defined for."""


QUESTIONS = [
    Question(
        "top_eigenvalue",
        "hessian_top_eigenvalue",
        Reference.top_eigenvalue,
        {"tolerance": 1e-8, "max_products": 1000},
    ),
    Question(
        "smallest_eigenvalue",
        "hessian_top_eigenvalue",
        Reference.smallest_eigenvalue,
        {"which": "smallest", "tolerance": 1e-8, "max_products": 1000},
    ),
    Question("trace", "hessian_trace", Reference.trace),
    Question(
        "trace_probed",
        "hessian_trace",
        Reference.trace,
        {"method": "hutchinson", "max_probes": 64, "tolerance": 0.0},
    ),
    Question(
        "trace_gauss_newton",
        "hessian_trace",
        Reference.trace,
        {"method": "gauss_newton", "max_probes": 64, "tolerance": 0.0},
    ),
    Question(
        "frobenius_norm",
        "hessian_frobenius_norm",
        Reference.frobenius_norm,
        {"max_probes": 64, "tolerance": 0.0},
    ),
    Question(
        "negative_share",
        "hessian_spectral_density",
        Reference.negative_share,
        {"probes": 4, "steps": 150},
    ),
    Question("gn_trace", "gauss_newton_trace", Reference.gauss_newton_trace),
    Question(
        "gn_top_eigenvalue",
        "gauss_newton_top_eigenvalue",
        Reference.gauss_newton_top,
        {"tolerance": 1e-8},
    ),
    Question(
        "ntk_top",
        "ntk_top_eigenvalue",
        Reference.tangent_kernel_top,
        {"tolerance": 1e-8},
        may_refuse=("complex",),
    ),
    Question(
        "ntk_alignment",
        "ntk_alignment",
        Reference.tangent_kernel_alignment,
        may_refuse=("complex", "the targets need a class a sample"),
    ),
    Question(
        "ntk_drift",
        "ntk_drift",
        lambda r: r.tangent_kernel_drift(0.5),
        initial=0.5,
        may_refuse=("complex",),
    ),
    Question("gradient_norm", "gradient_norm", Reference.gradient_norm),
    Question(
        "gradient_share",
        "gauss_newton_directions",
        Reference.gradient_share,
        may_refuse=("the space is not defined",),
    ),
    Question(
        "fisher_decrement",
        "fisher_decrement",
        Reference.fisher_decrement,
        {"samples": "all"},
        may_refuse=("has a slope in the outputs where it has no curvature",),
    ),
    Question(
        "representation_shift",
        "representation_shift",
        lambda r: r.representation_shift(0.5),
        initial=0.5,
        may_refuse=("no weight whose rows", "complex"),
    ),
    Question("monge", "monge_sharpness", lambda r: r.monge(0.05), {"m": "all"}),
    Question("effective_dimension", "effective_dimension", Reference.effective_dimension),
    Question(
        "laplace_evidence",
        "laplace_evidence",
        Reference.laplace_evidence,
        {"prior_precision": 1.0},
        may_refuse=("complex", "the likelihood is known of"),
    ),
    Question("fisher_rao", "fisher_rao_norm", Reference.fisher_rao),
    Question(
        "fisher_rao_observed",
        "fisher_rao_norm",
        Reference.fisher_rao_observed,
        {"labels": "observed"},
    ),
    Question("sam_worst", "sam_sharpness", lambda r: r.sam_worst(0.05), {"m": "all"}),
    Question(
        "asam",
        "sam_sharpness",
        lambda r: r.sam_worst(0.5, asam=0.01),
        {"rho": 0.5, "adaptive": "asam", "m": "all"},
    ),
    Question(
        "sam_average",
        "sam_sharpness",
        lambda r: r.sam_average(0.05),
        {"case": "average", "draws": 32, "m": "all"},
    ),
    Question("gradient_noise", "gradient_noise", Reference.gradient_noise),
    Question(
        "relative_flatness",
        "relative_flatness",
        Reference.relative_flatness,
        may_refuse=("does not end in a linear layer", "layer take part elsewhere"),
    ),
    Question(
        "path_norm",
        "path_norm",
        Reference.path_norm,
        {"order": 1.0, "biases": True},
        may_refuse=("no path norm is known of",),
    ),
    Question(
        "critical",
        "critical_sharpness",
        Reference.critical_sharpness,
        {"resolution": 1e-4},
        tolerance=3e-4,
        may_refuse=("does not rise along",),
    ),
    Question(
        "geodesic",
        "geodesic_sharpness",
        Reference.geodesic_sharpness,
        {"m": "all"},
        may_refuse=("weights of an attention layer are frozen",),
    ),
    Question(
        "layer_norms",
        "layer_norms",
        Reference.layer_norms,
        may_refuse=("not every weight matrix is seen",),
    ),
    Question(
        "pac_bayes",
        "pac_bayes_flatness",
        lambda r: r.pac_bayes_flatness(0.05, SEED, 1),
        {"criterion": "loss", "drop": 0.05, "draws": 2, "resolution": 2e-3},
        tolerance=5e-3,
    ),
    Question(
        "lambda_loss",
        "curvature_rate",
        Reference.curvature_rate,
        {"direction_law": "gradient", "samples": "all"},
        absolute=1e-5,
    ),
    Question(
        "lambda_logit",
        "curvature_rate",
        lambda r: r.curvature_rate(0),
        {"direction_law": "gradient", "samples": "all", "target": 0},
        absolute=1e-5,
    ),
    Question(
        "input_curvature",
        "input_curvature",
        Reference.input_curvature,
        {"iterations": 1000, "tolerance": 1e-9},
        tolerance=1e-5,
    ),
    Question("gradient_change", "input_gradient_change", Reference.gradient_change),
    Question(
        "input_attack",
        "attack_trajectory",
        lambda r: r.attack_trajectory(0.3, 3),
        {"of": "logit_norm", "radius": 0.3, "steps": 3, "stops": 1, "samples": "all"},
    ),
    Question(
        "jacobian_softmax",
        "input_jacobian_norm",
        lambda r: r.jacobian_norm(softmax=True),
        classes_only=True,
    ),
    Question(
        "jacobian_logits",
        "input_jacobian_norm",
        lambda r: r.jacobian_norm(softmax=False),
        {"output": "logits"},
    ),
    Question("logit_norm", "logit_norm", Reference.logit_norm),
    Question(
        "inverse_margin",
        "inverse_margin",
        Reference.inverse_margin,
        {"percentile": 90.0},
        classes_only=True,
        may_refuse=("percentile of the margins",),
    ),
    Question(
        "distance",
        "distance_from_initialization",
        Reference.parameter_norm,
        initial=0.0,
    ),
    Question("margin", "margin", Reference.margin, classes_only=True),
    Question("confidence", "mean_confidence", Reference.confidence, classes_only=True),
    Question(
        "top_eigenvalue_float32",
        "hessian_top_eigenvalue",
        Reference.top_eigenvalue,
        {"dtype": "float32", "tolerance": 1e-4, "max_products": 300},
        tolerance=SINGLE,
    ),
    Question(
        "trace_float32",
        "hessian_trace",
        Reference.trace,
        {"dtype": "float32", "max_probes": 64, "tolerance": 0.0},
        tolerance=SINGLE,
    ),
    Question(
        "gn_trace_float32",
        "gauss_newton_trace",
        Reference.gauss_newton_trace,
        {"dtype": "float32"},
        tolerance=SINGLE,
    ),
    Question(
        "fisher_rao_float32",
        "fisher_rao_norm",
        Reference.fisher_rao,
        {"dtype": "float32"},
        tolerance=SINGLE,
    ),
]


@dataclass(frozen=True)
class Answer:
    """How a metric did: ``right``, ``within`` its stated error, ``refused`` with a reason, or ``WRONG``."""

    status: Status
    sentence: str
    expected: bool = True
    """Of a refusal: whether it is one that the idiom allows or that the reference shares."""


def reference_of(idiom: Idiom) -> Reference:
    x, y = idiom.data()
    if idiom.targets == "classes":
        x, y = x[y >= 0], y[y >= 0]  # torch's ignore_index
    twin = idiom.network(idiom.twin)
    inputs = twin if idiom.input_twin is None else idiom.network(idiom.input_twin)
    return Reference(twin, x, y, idiom.true_loss, inputs)


def ask(idiom: Idiom, question: Question, reference: Reference) -> Answer:
    """Measures the idiom itself and judges the figure by its reference."""
    x, y = idiom.data()
    try:
        initial = None if question.initial is None else _scaled(idiom.network(), question.initial)
        subject = sb.Subject(idiom.network(), x, y, loss=idiom.loss, initial=initial)
        got = sb.measure(subject, question.metric, seed=SEED, **question.parameters)
    except (sb.MetricFailed, InputError) as reason:
        sentence = " ".join(str(reason).split())
        part = idiom.allowed_reason(question.name)
        parts = (part, *question.may_refuse)
        allowed = any(each is not None and each in sentence for each in parts)
        return Answer("refused", sentence, allowed or _has_no_answer(question, reference))
    except Exception as error:  # a crash is no answer: it names no fault and no remedy
        return Answer("WRONG", f"{type(error).__name__}: {error}".splitlines()[0])
    try:
        expected = question.expected(reference)
    except ArithmeticError as reason:
        return Answer("WRONG", f"answered {got.value:.8g}, but {reason}")
    return judge(question, got, expected)


def _scaled(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor if parameter.requires_grad or not factor else 1.0)
    return model


def _has_no_answer(question: Question, reference: Reference) -> bool:
    try:
        question.expected(reference)
    except ArithmeticError:
        return True
    return False


def judge(question: Question, got: sb.Measurement, expected: Figure) -> Answer:
    """The points measured are all there are: their component explains no deviation."""
    deviation = abs(got.value - expected.value)
    # The reference's own error comes from two steps: it is known to a factor of two.
    doubt = 2 * expected.error + 4 * expected.spread
    text = f"{got.value:.8g}, expected {expected.value:.8g} ± {doubt:.1g}"
    if deviation <= question.tolerance * abs(expected.value) + question.absolute + doubt:
        return Answer("right", text)
    stated = _half_width(got) + (got.error_bound or 0.0)
    if deviation <= stated + doubt:
        return Answer("within", f"{text}, stated ± {stated:.2g}")
    return Answer("WRONG", f"{text}, stated ± {stated:.2g}, converged {got.converged}")


def _half_width(got: sb.Measurement) -> float:
    """Of the interval at four standard errors' level, without what the choice of points adds."""
    errors = tuple(e for e in got.errors if e.source != "points")
    interval = dataclasses.replace(got, errors=errors, standard_error=None).interval(LEVEL)
    return 0.0 if interval is None else 0.5 * (interval[1] - interval[0])
