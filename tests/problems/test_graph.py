"""A filter on the graph of a circle: what is known of it at its nodes, off them and in the limit."""

import math

import pytest
import torch

from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.models.graph import circle
from sharpbench.problems import problems


def test_the_spectrum_is_that_of_the_dense_hessian():
    problem = problems.create("graph_circle", {"nodes": 48, "time": 0.2})
    subject = problem.subject(seed=1)
    columns = []
    for k in range(7):
        with torch.no_grad():
            subject.model.weights.zero_()[k] = 1.0
        columns.append(subject.model(subject.inputs)[:, 0].detach())
    features = torch.stack(columns, 1)
    found = torch.linalg.eigvalsh(features.T @ features / 48)
    assert torch.allclose(found, problem.eigenvalues(subject), atol=1e-12)


def test_eigenfunctions_are_cosines_and_sines_between_the_nodes_too():
    subject = problems.create("graph_circle", {"nodes": 64}).subject(seed=0)
    points = circle(1000, 1.0)[::7]
    angles = torch.atan2(points[:, 1], points[:, 0])
    waves = [angles.new_ones(len(angles))]
    for k in (1, 2, 3):
        waves += [2**0.5 * (k * angles).cos(), 2**0.5 * (k * angles).sin()]
    waves = torch.stack(waves, 1)
    found = subject.model.graph(points)
    assert found.shape == waves.shape
    turned = torch.linalg.lstsq(waves, found)
    assert float((waves @ turned.solution - found).abs().max()) < 1e-6
    rotation = turned.solution
    assert torch.allclose(rotation.T @ rotation, torch.eye(7, dtype=torch.float64), atol=1e-6)


def test_squared_frequencies_tend_to_those_of_the_circle_at_the_stated_rate():
    """k² − κ = (π/2)(k⁴ − 2k²)/n + O(1/n²)."""
    k = torch.arange(1, 4, dtype=torch.float64)
    error = {}
    for nodes in (256, 1024, 4096):
        problem = problems.create("graph_circle", {"nodes": nodes})
        left = k.square() - problem._squared_frequencies()[1:4]
        leading = math.pi / 2 * (k**4 - 2 * k**2) / nodes
        error[nodes] = float((left / leading - 1).abs().max())
        assert error[nodes] < 8 / nodes
    assert error[4096] < error[1024] / 3.5 < error[256] / 12


@pytest.mark.parametrize(
    "name", ["hessian_trace", "hessian_frobenius_norm", "gauss_newton_trace", "effective_dimension"]
)
def test_metrics_converge_as_the_mesh_is_refined(name):
    """Four times the nodes, a fourth of the distance to the limit, which the metric itself tells."""
    metric, far = metrics.create(name), []
    for nodes in (64, 256):
        problem = problems.create("graph_circle", {"nodes": nodes})
        subject = problem.subject(seed=0)
        known = metric.known(problem, subject)
        assert metric.checked_measure(subject, seed=0).value == pytest.approx(
            known.expected, rel=1e-6
        )
        if name == "effective_dimension":
            continue  # it grows with the number of samples, which are the nodes
        far.append(abs(known.expected - known.limit))
    assert not far or 3.5 < far[0] / far[1] < 5


@pytest.mark.parametrize(
    "parameters",
    [
        {"nodes": 47},
        {"nodes": 15, "modes": 0},
        {"modes": -1},
        {"time": 0.0},
        {"time": float("inf")},
    ],
)
def test_meshes_that_have_no_such_eigenfunctions_are_refused(parameters):
    with pytest.raises(InputError):
        problems.create("graph_circle", parameters)
