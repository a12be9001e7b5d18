"""Geodesic sharpness: its geometry by automatic differentiation, and what it is made to bear."""

import copy

import pytest
import torch
from torch import Tensor, nn

import sharpbench as sb
from sharpbench.invariance import transformations
from sharpbench.metrics.geodesic import GEOMETRIES
from sharpbench.models import models
from sharpbench.seeds import torch_generator

N, M, H = 5, 4, 3


def drawn(*shapes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch_generator(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def mixed(at: Tensor, velocity: Tensor) -> Tensor:
    """½ tr(HᵀH ξᵀξ) + ½ tr(GᵀG ηᵀη), of the two matrices in one vector."""
    g, h = at[: N * H].view(N, H), at[N * H :].view(M, H)
    xi, eta = velocity[: N * H].view(N, H), velocity[N * H :].view(M, H)
    return 0.5 * ((xi @ h.T).square().sum() + (eta @ g.T).square().sum())


def inverse(at: Tensor, velocity: Tensor) -> Tensor:
    """½ tr((GᵀG)⁻¹ξᵀξ) + ½ tr((HᵀH)⁻¹ηᵀη)."""
    g, h = at[: N * H].view(N, H), at[N * H :].view(M, H)
    xi, eta = velocity[: N * H].view(N, H), velocity[N * H :].view(M, H)
    of_g, of_h = (torch.linalg.inv(w.T @ w) for w in (g, h))
    return 0.5 * ((of_g * (xi.T @ xi)).sum() + (of_h * (eta.T @ eta)).sum())


ENERGIES = {"mix": mixed, "inv": inverse}


def flat(*pair: Tensor) -> Tensor:
    return torch.cat([p.reshape(-1) for p in pair])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_acceleration_is_that_of_the_equations_of_lagrange(geometry):
    """M a = ∂E/∂q − ∂²E/∂v∂q v, all of it by automatic differentiation of the energy."""
    energy, (_, acceleration) = ENERGIES[geometry], GEOMETRIES[geometry]
    g, h, xi, eta = drawn((N, H), (M, H), (N, H), (M, H))
    q, v = flat(g, h), flat(xi, eta)
    mass = torch.func.hessian(energy, 1)(q, v)
    slope = torch.func.grad(energy, 0)(q, v)
    crossed = torch.func.jacrev(torch.func.grad(energy, 1), 0)(q, v) @ v
    expected = torch.linalg.solve(mass, slope - crossed)
    assert torch.allclose(flat(*acceleration(g, h, xi, eta)), expected, rtol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_gradient_is_the_steepest_way_and_leads_to_other_networks_alone(geometry):
    energy, (steepest, _) = ENERGIES[geometry], GEOMETRIES[geometry]
    g, h, target = drawn((N, H), (M, H), (N, M), seed=1)

    def loss(a: Tensor, b: Tensor) -> Tensor:  # of the product alone
        return (a @ b.T - target).square().sum()

    slopes = torch.func.grad(loss, (0, 1))(g, h)
    found = steepest(g, h, *slopes)
    mass = torch.func.hessian(energy, 1)(flat(g, h), flat(g, h))
    assert torch.allclose(mass @ flat(*found), flat(*slopes), rtol=1e-10)
    for number in range(H * H):  # along the symmetry: (GL, −HLᵀ)
        turn = torch.zeros(H * H, dtype=torch.float64)
        turn[number] = 1
        turn = turn.view(H, H)
        vertical = flat(g @ turn, -h @ turn.T)
        assert abs(float(vertical @ mass @ flat(*found))) < 1e-9


def test_one_number_each_moves_the_product_as_its_geodesic_does():
    """For G = u and H = v the loss (b − b*)² of the product b = uv rises by 2√2ρ|b₀ − b*| + 2ρ² + O(ρ³),
    whatever u and v are."""
    rho, target, rises = 1e-3, 0.5, []
    steepest, acceleration = GEOMETRIES["mix"]
    for u, v in ((2.0, 1.5), (0.1, 30.0), (-3.0, -1.0)):
        a, b = (torch.tensor([[x]], dtype=torch.float64) for x in (u, v))
        slope = 2 * (u * v - target)
        ways = steepest(a, b, slope * b, slope * a)
        length = torch.sqrt((ways[0] * b).square() + (ways[1] * a).square())
        xi, eta = (rho * w / length for w in ways)
        bend = acceleration(a, b, xi, eta)
        moved = float((a + xi + bend[0] / 2) * (b + eta + bend[1] / 2))
        rises.append((moved - target) ** 2 - (u * v - target) ** 2)
    assert rises[0] == pytest.approx(rises[1], rel=1e-10)
    assert rises[0] == pytest.approx(rises[2], rel=1e-10)
    assert rises[0] == pytest.approx(2 * 2**0.5 * rho * 2.5 + 2 * rho**2, rel=1e-6)


@pytest.mark.parametrize("rho", [1e-3, 0.3])
def test_the_inverse_metric_moves_one_number_each_by_a_factor(rho):
    """For G = u and H = v its geodesics are u·exp(±ρ/√2): uphill b = uv becomes b·exp(√2ρ), here to second
    order of each factor, whatever u and v are."""
    steepest, acceleration = GEOMETRIES["inv"]
    for u, v in ((2.0, 1.5), (0.1, 30.0), (-3.0, -1.0)):
        a, b = (torch.tensor([[x]], dtype=torch.float64) for x in (u, v))
        slope = 2 * (u * v - 0.5)
        ways = steepest(a, b, slope * b, slope * a)
        length = torch.sqrt((ways[0] / a).square() + (ways[1] / b).square())
        xi, eta = (rho * w / length for w in ways)
        bend = acceleration(a, b, xi, eta)
        moved = float((a + xi + bend[0] / 2) * (b + eta + bend[1] / 2))
        one = rho / 2**0.5
        assert moved == pytest.approx(u * v * (1 + one + one**2 / 2) ** 2, rel=1e-12)


def transformer(digits, **parameters) -> sb.Subject:
    """Drawn, with biases and positions that are not zero."""
    network = models.create("vit", {"width": 8, "heads": 2, "depth": 1, **parameters}).build(
        digits.input_shape, digits.outputs, seed=1
    )
    generator = torch_generator(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return sb.Subject(network.double(), digits.train_inputs, digits.train_targets, splits=digits)


AT = {"rho": 0.5, "samples": 64, "m": 32}


@pytest.mark.parametrize(
    ("geometry", "second_order"), [("mix", True), ("mix", False), ("inv", True), ("inv", False)]
)
def test_it_stands_still_where_elementwise_sam_moves(digits, geometry, second_order):
    subject = transformer(digits)
    changes = {
        name: subject.with_model(
            transformations.create(name, parameters).apply(subject.model, seed=0)
        )
        for name, parameters in (
            ("attention_gl", {"condition": 100.0}),
            ("attention_rescaling", {}),
            ("head_permutation", {}),
        )
    }

    def measured(of: sb.Subject, metric: str, **parameters) -> float:
        return sb.measure(of, metric, **AT, **parameters).value

    settings = {"geometry": geometry, "second_order": second_order}
    before = measured(subject, "geodesic_sharpness", **settings)
    for name, changed in changes.items():
        after = measured(changed, "geodesic_sharpness", **settings)
        assert after == pytest.approx(before, rel=1e-9), name
    sam = measured(subject, "sam_sharpness", adaptive="elementwise")
    moved = measured(changes["attention_gl"], "sam_sharpness", adaptive="elementwise")
    assert abs(moved / sam - 1) > 0.1


def test_without_attention_it_is_elementwise_adaptive_sam(trained_mlp):
    found, sam = (
        sb.measure(trained_mlp, name, seed=3, rho=0.3, samples=256, **parameters)
        for name, parameters in (
            ("geodesic_sharpness", {}),
            ("sam_sharpness", {"adaptive": "elementwise"}),
        )
    )
    assert found.value == pytest.approx(sam.value, rel=1e-10)
    assert found.errors == sam.errors
    assert found.details["attention_pairs"] == 0


def test_torchs_own_attention_is_found():
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    x, noise = drawn((8, 30), (1, 500), seed=5)
    model = Attentive().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(noise.flatten()[: parameter.numel()].view(parameter.shape) * 0.5)
    subject = sb.Subject(model, x.view(8, 5, 6), torch.arange(8) % 3)
    before = sb.measure(subject, "geodesic_sharpness", rho=0.2)
    assert before.details["attention_pairs"] == 4
    turned = copy.deepcopy(model)
    (basis,) = drawn((3, 3), seed=6)
    with torch.no_grad():  # of the first head's queries and keys
        for start, matrix in ((0, basis), (6, torch.linalg.inv(basis).T)):
            rows = slice(start, start + 3)
            turned.attention.in_proj_weight[rows] = matrix @ model.attention.in_proj_weight[rows]
            turned.attention.in_proj_bias[rows] = matrix @ model.attention.in_proj_bias[rows]
    after = sb.measure(subject.with_model(turned), "geodesic_sharpness", rho=0.2)
    assert after.value == pytest.approx(before.value, rel=1e-9)


def test_a_part_of_the_network_keeps_its_geometry(digits):
    """Without heads it is elementwise SAM of these weights; of a head's pair it stays under its symmetry."""
    subject = transformer(digits)
    found, sam = (
        sb.measure(subject, name, parameters_of=["4"], **AT, **parameters).value
        for name, parameters in (
            ("geodesic_sharpness", {}),
            ("sam_sharpness", {"adaptive": "elementwise"}),
        )
    )
    assert found == pytest.approx(sam, rel=1e-10)
    turned = subject.with_model(
        transformations.create("attention_gl", {"condition": 100.0}).apply(subject.model, seed=0)
    )
    pair = ["1.attention.query", "1.attention.key"]
    before, after = (
        sb.measure(of, "geodesic_sharpness", parameters_of=pair, **AT) for of in (subject, turned)
    )
    assert before.details["attention_pairs"] == 2  # one a head
    assert after.value == pytest.approx(before.value, rel=1e-9)
    for part in (["1.attention.query"], ["1.attention.query.weight", "1.attention.key"]):
        with pytest.raises(sb.MetricFailed, match="belong together"):
            sb.measure(subject, "geodesic_sharpness", parameters_of=part, **AT)
    for name in ("query", "key", "value", "output"):
        getattr(subject.model[1].attention, name).requires_grad_(False)
    frozen = sb.measure(subject, "geodesic_sharpness", **AT)
    assert frozen.details["attention_pairs"] == 0


def test_what_has_no_geometry_by_heads_is_told(digits):
    frozen = transformer(digits)
    frozen.model[1].attention.key.weight.requires_grad_(False)
    with pytest.raises(sb.MetricFailed, match="attention layer are frozen"):
        sb.measure(frozen, "geodesic_sharpness", **AT)
    flat_head = transformer(digits)
    with torch.no_grad():
        flat_head.model[1].attention.query.weight[:4] = 0
        flat_head.model[1].attention.query.bias[:4] = 0
    with pytest.raises(sb.MetricFailed, match="not of full rank"):
        sb.measure(flat_head, "geodesic_sharpness", **AT)
