import pytest
import torch

from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.measurement import Work
from sharpbench.metrics import metrics
from sharpbench.problems import problems

PROBLEMS = [
    ("least_squares", {"decay": 1.5}),
    ("softmax_regression", {}),
    ("deep_linear", {}),
    ("quadratic", {"features": 40}),
    ("quadratic", {"features": 40, "spectrum": "indefinite"}),
    ("quadratic", {"features": 40, "spectrum": "ill_conditioned"}),
    ("quadratic", {"features": 40, "spectrum": "negative"}),
    ("quadratic", {"features": 40, "spectrum": "multiple"}),
    ("tiny_network", {}),
    ("tiny_network", {"activation": "relu"}),
    ("unequal_batches", {}),
    ("unused_parameter", {}),
]


@pytest.mark.parametrize(("name", "parameters"), PROBLEMS, ids=str)
def test_the_spectrum_is_that_of_the_dense_hessian(name, parameters):
    problem = problems.create(name, parameters)
    subject = problem.subject(seed=4)
    operator = HessianOperator(
        subject.model, subject.loss, subject.inputs, subject.targets, work=Work()
    )
    dense = torch.linalg.eigvalsh(operator.dense())
    known = problem.eigenvalues(subject)
    assert (dense - known).abs().max() < 1e-10 * known.abs().max()
    assert torch.equal(known, known.sort().values)


@pytest.mark.parametrize(("name", "parameters"), PROBLEMS, ids=str)
def test_native_metrics_are_right(name, parameters):
    problem = problems.create(name, parameters)
    subject = problem.subject(seed=4)
    top = metrics.create("hessian_top_eigenvalue", {"tolerance": 1e-6})
    found = top.measure(subject, seed=1)
    assert found.value == pytest.approx(top.known(problem, subject).expected, rel=1e-6)
    for method in ("hutchinson", "hutch++", "xtrace"):
        trace = metrics.create(
            "hessian_trace", {"tolerance": 0.02, "max_probes": 2000, "method": method}
        )
        found = trace.measure(subject, seed=1)
        off = abs(found.value - trace.known(problem, subject).expected)
        assert off < 4 * (found.standard_error or 1e-12 * abs(found.value)) + 1e-12
    for name in ("hessian_frobenius_norm", "hessian_spectral_density"):
        metric = metrics.create(name)
        found = metric.measure(subject, seed=1)
        # The density's probes see a spectrum of either sign through few nodes.
        allowed = 4 * found.standard_error + 0.01 * (name == "hessian_spectral_density")
        assert abs(found.value - metric.known(problem, subject).expected) < allowed + 1e-12


def test_the_truth_for_a_subset_is_that_of_all_points():
    problem = problems.create("least_squares")
    subject = problem.subject(seed=0)
    few, all_of_them = (
        metrics.create("hessian_trace", {"samples": samples}) for samples in (10, "all")
    )
    assert few.known(problem, subject) == all_of_them.known(problem, subject)
    part = metrics.create("hessian_trace", {"parameters_of": ("weight",)})
    assert part.known(problem, subject) is None
    features = problems.create("sine")
    assert metrics.create("hessian_trace").known(features, features.subject(seed=0)) is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("least_squares", {"samples": 10}),
        ("softmax_regression", {"features": 1}),
        ("quadratic", {"features": 5}),
    ],
)
def test_impossible_sizes_are_refused(name, parameters):
    with pytest.raises(ValueError, match="must be at least"):
        problems.get(name)(**parameters)


@pytest.mark.parametrize(
    "name", ["least_squares", "softmax_regression", "deep_linear", "quadratic"]
)
def test_where_it_is_said_so_the_gauss_newton_matrix_is_the_hessian(name):
    problem = problems.create(name)
    subject = problem.subject(seed=4)
    for metric in ("gauss_newton_top_eigenvalue", "gauss_newton_trace"):
        metric = metrics.create(metric, {"tolerance": 1e-6, "max_products": 400}
                                if metric.endswith("eigenvalue") else {})  # fmt: skip
        found = metric.measure(subject, seed=1)
        error = 4 * (found.standard_error or 0)
        assert abs(found.value - metric.known(problem, subject).expected) < 1e-6 + error
    tanh = problems.create("tiny_network")
    assert metric.known(tanh, tanh.subject(seed=0)) is None
