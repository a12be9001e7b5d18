"""The graph network: the usual one at its nodes, of each point alone elsewhere; all meshes have one limit."""

import copy
from pathlib import Path

import pytest
import torch

from sharpbench.datasets import datasets
from sharpbench.errors import InputError, TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import verify_promise
from sharpbench.metrics import metrics
from sharpbench.models import models
from sharpbench.models.graph import ProximityGraph, two_moons
from sharpbench.seeds import torch_generator
from sharpbench.subject import Subject
from sharpbench.training import recipes


def build(seed=0, **parameters):
    return models.create("graph_convolution", parameters).build((2,), 3, seed=seed).double().eval()


def dense(network):
    """Outputs at the nodes by the eigenvectors of the random walk itself, which is not symmetric."""
    graph = network.graph
    nodes = graph.nodes
    weights = (-torch.cdist(nodes, nodes).square() / 2 / graph.length**2).exp()
    walk = weights / weights.sum(1, keepdim=True)
    laplacian = 2 / graph.length**2 * (torch.eye(len(nodes), dtype=torch.float64) - walk)
    values, vectors = torch.linalg.eig(laplacian)
    kept = values.real <= graph.cutoff**2
    inverse = torch.linalg.inv(vectors)
    features = nodes
    for i, each in enumerate(network.filters):
        out = torch.zeros(len(nodes), each.bias.numel(), dtype=torch.float64)
        z = 2 * values.real / graph.cutoff**2 - 1
        for p, matrix in enumerate(each.coefficients):
            chebyshev = torch.cos(p * torch.acos(z.clamp(-1, 1))) * kept * (1 - z) / 2
            filtered = vectors @ torch.diag(chebyshev.to(vectors.dtype)) @ inverse
            out = out + filtered.real @ features @ matrix
        features = out + each.bias
        if i < len(network.filters) - 1:
            features = network.activation(features)
    return features


@pytest.mark.parametrize("depth", [1, 2])
def test_at_its_nodes_it_is_the_spectral_network_of_the_graph(depth):
    network = build(nodes=40, depth=depth)
    network.on_other_nodes(40, torch_generator(3))  # in float64 throughout
    assert torch.allclose(network(network.graph.nodes), dense(network), atol=1e-8)


def test_each_output_depends_on_its_own_input_alone():
    network = build()
    x = torch.randn(6, 2, dtype=torch.float64)
    together = network(x)
    apart = torch.cat([network(x[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, apart, atol=1e-12)
    far = network(1e6 * x)
    assert torch.isfinite(far).all()


def test_no_parameter_belongs_to_a_node():
    few, many = build(nodes=30), build(nodes=300)
    assert [p.shape for p in few.parameters()] == [p.shape for p in many.parameters()]
    assert few.graph.waves.shape[0] == 30


def test_the_mesh_has_the_moments_of_the_data():
    """Of the law, and of scikit-learn's points."""
    drawn = two_moons(50_000, 0.2, torch_generator(0))
    assert torch.allclose(drawn.mean(0), torch.zeros(2, dtype=torch.float64), atol=0.02)
    assert torch.allclose(drawn.var(0), torch.ones(2, dtype=torch.float64), atol=0.02)
    data = datasets.create("two_moons", {"n": 10_000}).load(Path(), seed=0).train_inputs.double()
    assert torch.allclose(torch.cov(drawn.T), torch.cov(data.T), atol=0.03)
    for power in (3, 4):
        assert torch.allclose((drawn**power).mean(0), (data**power).mean(0), atol=0.1)


def test_function_and_metrics_converge_as_the_mesh_is_refined():
    """Two meshes of one law differ by n^−½: nine times the nodes, a third of the distance."""
    inputs = two_moons(64, 0.2, torch_generator(1))
    targets = torch.zeros(64, dtype=torch.long)
    other = transformations.create("mesh_refinement", {"factor": 1})
    metric = metrics.create("input_jacobian_norm")
    function, jacobian = {}, {}
    for nodes in (32, 288):
        network = build(nodes=nodes, length=0.6, cutoff=1.5)
        meshes = [other.apply(network, seed=seed) for seed in range(10)]
        changes = [verify_promise(other, network, mesh, inputs) for mesh in meshes]
        figures = [
            metric.checked_measure(Subject(mesh, inputs, targets), seed=0).value for mesh in meshes
        ]
        told = torch.tensor(figures)
        function[nodes], jacobian[nodes] = sum(changes) / 10, float(told.std() / told.mean())
    assert function[32] / function[288] > 2
    assert 1.8 < jacobian[32] / jacobian[288] < 7
    finer = transformations.create("mesh_refinement").apply(build(nodes=32), seed=0)
    assert len(finer.graph.nodes) == 128


def test_it_learns_the_two_moons():
    data = datasets.create("two_moons", {"n": 1000}).load(Path(), seed=0)
    network = models.create("graph_convolution").build((2,), 2, seed=0)
    log = recipes.create("adam", {"lr": 1e-2, "epochs": 40}).train(network, data, seed=0)
    assert log.epochs[-1]["test_error"] < 0.06


def test_what_has_no_mesh_is_left_alone():
    plain = models.create("mlp").build((2,), 2, seed=0)
    with pytest.raises(TransformationRefused, match="no mesh"):
        transformations.create("mesh_refinement").apply(plain, seed=0)
    network = build(nodes=32)
    before = copy.deepcopy(network.state_dict())
    transformations.create("mesh_refinement").apply(network, seed=0)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    "parameters",
    [{"nodes": 1}, {"length": 0.0}, {"cutoff": -1.0}, {"length": 0.5, "cutoff": 4.0}, {"depth": 0},
     {"degree": -1}, {"noise": -0.1}, {"noise": float("nan")}, {"length": float("inf")},
     {"geometry": "torus"}],
)  # fmt: skip
def test_impossible_graphs_are_refused(parameters):
    with pytest.raises(InputError):
        models.create("graph_convolution", parameters)


def test_only_points_of_the_plane_have_this_graph():
    with pytest.raises(InputError, match="points of the plane"):
        models.create("graph_convolution").build((1, 8, 8), 10, seed=0)
    with pytest.raises(ValueError, match="resolves frequencies up to"):
        ProximityGraph(torch.zeros(3, 2), 1.0, 2.0)
