import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from sharpbench.curvature.gauss_newton import gauss_newton_gram, gauss_newton_trace
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.hessian_operator import HessianOperator, ResidualOperator
from sharpbench.curvature.input_operator import InputHessianOperator
from sharpbench.curvature.lanczos import spectral_density
from sharpbench.curvature.operator import MatrixOperator
from sharpbench.curvature.trace import estimate_trace, squared_frobenius_norm
from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.models import models
from sharpbench.seeds import torch_generator
from sharpbench.subject import per_sample_loss

CROSS_ENTROPY = per_sample_loss("classification")


def dense_hessian(model, loss, x, y):
    """The whole Hessian by torch.func: forward over reverse, another route than the operator's."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    parameters = dict(model.named_parameters())
    flat = torch.cat([parameters[n].detach().reshape(-1) for n in names])

    def mean_loss(vector):
        pieces = vector.split([parameters[n].numel() for n in names])
        shaped = {n: v.view_as(parameters[n]) for n, v in zip(names, pieces, strict=True)}
        return loss(functional_call(model, shaped, (x,)), y).mean()

    return hessian(mean_loss)(flat)


def problem(name="mlp", shape=(3,), **parameters):
    model = models.create(name, parameters).build(shape, 3, seed=0).double().eval()
    x = torch.randn(11, *shape, dtype=torch.float64, generator=torch_generator(1))
    return model, x, torch.arange(11) % 3


@pytest.mark.parametrize("budget", [1 << 30, 4000, 1], ids=["kept", "chunked", "one by one"])
@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("mlp", (3,), {"widths": [6], "activation": "gelu"}),
        ("cnn", (1, 6, 6), {"channels": [2, 2], "hidden": 4}),
        ("vit", (1, 4, 4), {"width": 4, "heads": 2, "depth": 1, "mlp_ratio": 1}),
    ],
)
def test_equal_to_the_dense_matrix(name, shape, parameters, budget):
    model, x, y = problem(name, shape, **parameters)
    with repeatedly_differentiable():
        exact = dense_hessian(model, CROSS_ENTROPY, x, y)
    operator = HessianOperator(model, CROSS_ENTROPY, x, y, work=Work(), memory_budget=budget)
    assert torch.allclose(operator.dense(), exact, rtol=1e-10, atol=1e-12)
    gradient = torch.autograd.grad(CROSS_ENTROPY(model(x), y).mean(), operator.parameters)
    assert torch.allclose(operator.gradient(), torch.cat([g.reshape(-1) for g in gradient]))
    assert all(p.grad is None for p in model.parameters())


def test_least_squares_has_its_closed_form():
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double()
    operator = HessianOperator(model, per_sample_loss("regression"), x, y, work=Work())
    assert torch.allclose(operator.dense(), x.T @ x / 20, rtol=1e-12)


def test_parameters_without_influence_or_gradient():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)
            self.frozen = nn.Linear(3, 3).requires_grad_(False)

        def forward(self, x):
            return self.used(self.frozen(x))

    model = Partial().double()
    x = torch.randn(5, 3, dtype=torch.float64)
    operator = HessianOperator(model, CROSS_ENTROPY, x, torch.arange(5) % 3, work=Work())
    dense = operator.dense()
    assert dense.shape == (24, 24)
    assert (dense[12:] == 0).all()
    assert (dense[:12, :12] != 0).any()


def test_what_has_no_hessian_is_refused():
    x, y = torch.randn(8, 3), torch.arange(8) % 3
    with pytest.raises(MetricFailed, match="no parameter"):
        HessianOperator(nn.Linear(3, 3).requires_grad_(False), CROSS_ENTROPY, x, y, work=Work())
    noisy = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    with pytest.raises(MetricFailed, match="dropout"):
        HessianOperator(noisy, CROSS_ENTROPY, x, y, work=Work())
    with pytest.raises(MetricFailed, match="not finite"):
        HessianOperator(nn.Linear(3, 3), CROSS_ENTROPY, x * float("nan"), y, work=Work())


def symmetric(spectrum, seed):
    spectrum = torch.tensor(spectrum, dtype=torch.float64)
    basis, _ = torch.linalg.qr(
        torch.randn(
            len(spectrum), len(spectrum), dtype=torch.float64, generator=torch_generator(seed)
        )
    )
    return basis @ torch.diag(spectrum) @ basis.T


TRACES = [
    ("hutchinson", "rademacher"),
    ("hutchinson", "gaussian"),
    ("hutch++", "rademacher"),
    ("xtrace", "rademacher"),
    ("xtrace", "gaussian"),
]


@pytest.mark.parametrize(("method", "distribution"), TRACES)
@pytest.mark.parametrize("decay", [0.5, 2.0])
def test_traces_are_unbiased_with_honest_standard_errors(method, distribution, decay):
    # Indefinite: what is exact for positive matrices alone would be found out.
    matrix = symmetric([(-1) ** (k % 3 == 2) * 10 / (k + 1) ** decay for k in range(80)], 3)
    exact = float(torch.trace(matrix))
    found = [
        estimate_trace(
            MatrixOperator(matrix),
            method=method,
            distribution=distribution,
            tolerance=0.0,
            max_products=48,
            generator=torch_generator(seed),
        )
        for seed in range(200)
    ]
    values = torch.tensor([f.value for f in found])
    assert abs(values.mean() - exact) < 3.5 * values.std() / 200**0.5
    covered = sum(abs(f.value - exact) <= 1.96 * f.standard_error for f in found) / 200
    assert covered >= 0.86  # nominally 0.93 to 0.95
    assert not any(f.converged for f in found)
    assert all(f.products <= 48 for f in found)


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_a_sketch_of_the_whole_space_is_exact(method):
    matrix = symmetric([3.0, -2.0, 1.0, 0.5, 0.1], 2)
    result = estimate_trace(
        MatrixOperator(matrix), method=method, tolerance=1e-9, max_products=100,
        generator=torch_generator(0),
    )  # fmt: skip
    assert result.value == pytest.approx(2.6, abs=1e-12)
    assert result.converged
    assert result.standard_error == 0


def test_sketches_need_fewer_products_where_the_spectrum_decays():
    matrix = symmetric([100 / (k + 1) ** 2 for k in range(200)], 5)

    def products(method):
        return estimate_trace(
            MatrixOperator(matrix), method=method, tolerance=0.01, max_products=10_000,
            generator=torch_generator(1),
        ).products  # fmt: skip

    assert 10 * products("xtrace") < products("hutchinson")
    assert 5 * products("hutch++") < products("hutchinson")


def test_hutchinson_is_exact_on_a_diagonal_and_stops_at_its_tolerance():
    result = estimate_trace(
        MatrixOperator(-2 * torch.eye(10, dtype=torch.float64)),
        tolerance=0.01,
        max_products=100,
        generator=torch_generator(0),
    )
    assert result.value == -20
    assert result.converged
    assert result.products == 8  # a negative trace must not stop it earlier


def test_frobenius_norm_is_unbiased():
    matrix = symmetric([(-1) ** k * 10 / (k + 1) for k in range(30)], 3)
    found = [
        squared_frobenius_norm(
            MatrixOperator(matrix), tolerance=0.0, max_products=40, generator=torch_generator(seed)
        )
        for seed in range(100)
    ]
    values = torch.tensor([f.value for f in found])
    exact = float(matrix.square().sum())
    assert abs(values.mean() - exact) < 3 * values.std() / 10
    covered = sum(abs(f.value - exact) <= 1.96 * f.standard_error for f in found)
    assert covered >= 86


def test_spectral_density_has_the_moments_of_the_spectrum():
    spectrum = torch.linspace(-1, 3, 100, dtype=torch.float64)
    matrix = symmetric(spectrum.tolist(), 4)
    density = spectral_density(
        MatrixOperator(matrix), probes=30, steps=20, generator=torch_generator(0)
    )
    assert torch.allclose(density.weights.sum(1), torch.ones(30, dtype=torch.float64))
    for power in (1, 2, 3):
        value, error = density.mean(density.nodes**power)
        assert abs(value - float((spectrum**power).mean())) < 3.5 * error
    grid, height = (torch.tensor(v) for v in density.curve(400))
    assert float(torch.trapezoid(height, grid)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("null", [0, 20], ids=["full rank", "singular"])
def test_the_rules_of_gauss_and_radau_enclose_what_the_start_gives(null):
    """vᵀ g(A) v of the very start, from as many steps as there are eigenvalues, lies between them."""
    spectrum = [0.0] * null + [10 * 0.8**k for k in range(60 - null)]
    operator = MatrixOperator(symmetric(spectrum, 4))

    def density(steps):
        generator = torch_generator(7)
        return spectral_density(operator, probes=1, steps=steps, generator=generator)

    for alpha in (10.0, 0.1, 1e-4):
        functions = (lambda v, a=alpha: v / (v + a), lambda v, a=alpha: (v / a).log1p())
        for g in functions:
            whole = density(60)
            exact = whole.mean(g(whole.nodes.clamp_min(0)))[0]
            same = whole.radau(60)
            assert same.mean(g(same.nodes.clamp_min(0)))[0] == exact
            for steps in (2, 5, 12, 25):
                found = density(steps)
                beside = found.radau(60)
                high, low = (d.mean(g(d.nodes.clamp_min(0)))[0] for d in (found, beside))
                assert low - 1e-9 * exact <= exact <= high + 1e-9 * exact
                assert steps > 2 or high - low > 0.01 * exact


@pytest.mark.parametrize("budget", [1 << 30, 4000], ids=["kept", "chunked"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_gauss_newton_equals_its_definition(task, budget):
    model, x, y = problem("mlp", (3,), widths=[4], activation="tanh")
    loss = per_sample_loss(task)
    y = y if task == "classification" else torch.randn(11, 3, dtype=torch.float64)
    names = [n for n, _ in model.named_parameters()]
    jacobian = torch.func.jacrev(lambda w: functional_call(model, w, (x,)))(
        dict(model.named_parameters())
    )
    j = torch.cat([jacobian[n].reshape(11, 3, -1) for n in names], 2).detach()
    p = model(x).softmax(1).detach()
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    inner = (
        inner if task == "classification" else torch.eye(3, dtype=torch.float64).expand(11, 3, 3)
    )
    exact = torch.einsum("nci,ncd,ndj->ij", j, inner, j) / 11
    operator = GaussNewtonOperator(model, loss, x, y, work=Work(), memory_budget=budget)
    assert torch.allclose(operator.dense(), exact, rtol=1e-10, atol=1e-12)
    gram = gauss_newton_gram(model, loss, x, y, list(model.parameters()), work=Work())
    assert torch.allclose(torch.linalg.eigvalsh(gram)[-1], torch.linalg.eigvalsh(exact)[-1])


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("mlp", (3,), {"widths": [6, 5], "activation": "gelu"}),
        ("cnn", (2, 6, 6), {"channels": [2, 3], "hidden": 4}),
        ("resnet", (1, 6, 6), {"widths": [2, 3]}),
        ("vit", (1, 4, 4), {"width": 4, "heads": 2, "depth": 1, "mlp_ratio": 1}),
    ],
)
def test_the_exact_gauss_newton_trace_equals_that_of_the_dense_matrix(name, shape, parameters):
    model, x, y = problem(name, shape, **parameters)
    work = Work()
    dense = GaussNewtonOperator(model, CROSS_ENTROPY, x, y, work=Work())
    found = gauss_newton_trace(model, CROSS_ENTROPY, x, y, work=work, chunk=4)
    assert found.value == pytest.approx(float(dense.dense().trace()), rel=1e-10)
    # A backward pass a class but one; the checks take one over 4 samples and 2 of 2 samples each.
    assert work.gradient == 2 * 11 + 4 + 2 * 2
    name, one = next(iter(model.named_parameters()))
    part = gauss_newton_trace(model, CROSS_ENTROPY, x, y, work=Work(), only=[one])
    only = GaussNewtonOperator(model, CROSS_ENTROPY, x, y, work=Work(), parameters=[name]).dense()
    assert part.value == pytest.approx(float(only.trace()), rel=1e-10)


@pytest.mark.parametrize("budget", [1 << 30, 4000])
def test_the_residual_is_the_hessian_less_the_gauss_newton_matrix(budget):
    model, x, y = problem(widths=[6], activation="gelu")
    jacobian_part = GaussNewtonOperator(model, CROSS_ENTROPY, x, y, work=Work()).dense()
    operator = ResidualOperator(
        model, CROSS_ENTROPY, x, y, work=Work(), memory_budget=budget, verify=False
    )
    exact = dense_hessian(model, CROSS_ENTROPY, x, y) - jacobian_part
    assert torch.allclose(operator.dense(), exact, rtol=1e-10, atol=1e-12)
    groups = list(torch.arange(11).tensor_split(3))
    shares = operator.group_products(torch.eye(operator.dimension), groups)
    assert torch.allclose(sum(shares), exact, rtol=1e-10, atol=1e-12)


def test_the_input_hessian_is_block_diagonal():
    model, x, y = problem("mlp", (3,), widths=[4], activation="tanh")
    operator = InputHessianOperator(model, CROSS_ENTROPY, x, y, work=Work())
    dense = operator.dense().reshape(11, 3, 11, 3)
    for i in range(11):
        exact = hessian(lambda p, i=i: CROSS_ENTROPY(model(p[None]), y[i : i + 1])[0])(x[i])
        assert torch.allclose(dense[i, :, i], exact, rtol=1e-10, atol=1e-12)
        assert (dense[i, :, (i + 1) % 11] == 0).all()


class Unbatched(nn.Module):
    """Looks at its numbers, which functorch refuses within a batched pass."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        out = self.net(x)
        return out if out.sum().item() > -1e9 else 2 * out


class Otherwise(Unbatched):
    """Another network under functorch: what only a comparison tells."""

    def forward(self, x):
        return self.net(x) * (3 if torch._C._functorch.peek_interpreter_stack() else 1)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator, ResidualOperator])
@pytest.mark.parametrize("wrapped", [None, Unbatched, Otherwise])
@pytest.mark.parametrize("sizes", [(3, 3, 3, 2), (4, 4, 3), (11,)])
def test_groups_in_one_pass_are_those_one_by_one(kind, wrapped, sizes):
    model, x, y = problem(widths=[5], activation="tanh")
    model = model if wrapped is None else wrapped(model)
    given = {"work": Work(), "verify": False}
    operator = kind(model, CROSS_ENTROPY, x, y, **given)
    groups = list(torch.randperm(11, generator=torch_generator(2)).split(list(sizes)))
    v = torch.randn(operator.dimension, 2, dtype=torch.float64, generator=torch_generator(3))
    shares = list(operator.group_products(v, groups))
    for share, group in zip(shares, groups, strict=True):
        alone = kind(model, CROSS_ENTROPY, x[group], y[group], **given).matmat(v)
        assert torch.allclose(share, alone * (len(group) / 11), atol=1e-12)
    together = operator._groups_together(v, groups)
    assert (together is None) == (wrapped is not None)


def test_a_subset_of_the_parameters():
    model, x, y = problem("mlp", (3,), widths=[4], activation="tanh")
    whole = HessianOperator(model, CROSS_ENTROPY, x, y, work=Work())
    name, first = next(iter(model.named_parameters()))
    part = HessianOperator(model, CROSS_ENTROPY, x, y, work=Work(), parameters=[name])
    size = first.numel()
    assert torch.allclose(part.dense(), whole.dense()[:size, :size])
    with pytest.raises(MetricFailed, match="no trainable parameter fits 'hiden'"):
        HessianOperator(model, CROSS_ENTROPY, x, y, work=Work(), parameters=["hiden"])


def test_blocks_equal_single_products_and_reuse_a_rebuilt_graph():
    model, x, y = problem("mlp", (3,), widths=[6], activation="gelu")
    block = torch.randn(len(HessianOperator(model, CROSS_ENTROPY, x, y, work=Work()).dense()), 5)
    for kind in (HessianOperator, GaussNewtonOperator):
        work = Work()
        chunked = kind(model, CROSS_ENTROPY, x, y, work=work, memory_budget=1, verify=False)
        assert not chunked.kept
        before = work.gradient
        together = chunked.matmat(block)
        assert work.gradient - before == 11  # one pass over the data serves the block
        single = torch.stack([chunked.matvec(v) for v in block.unbind(1)], 1)
        assert torch.allclose(together, single, rtol=1e-10, atol=1e-12)


def test_out_of_memory_is_tried_again_with_smaller_chunks():
    model, x, y = problem("mlp", (3,), widths=[4])
    operator = HessianOperator(model, CROSS_ENTROPY, x, y, work=Work())
    graph, sizes = operator._graph, []

    def scarce(points, targets):
        sizes.append(len(points))
        if len(points) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return graph(points, targets)

    exact = operator.dense()
    operator._kept, operator._graph = None, scarce
    assert torch.allclose(operator.dense(), exact)
    assert sizes[0] == 11
    assert max(sizes[1:]) == 2
    operator.chunk, operator._graph = 11, lambda *_: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(MemoryError):
        operator.dense()


def test_what_is_not_twice_differentiable_says_so():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return Once.apply(self.linear(x))

    x, y = torch.randn(8, 3), torch.arange(8) % 3
    for kind in (HessianOperator, GaussNewtonOperator):
        with pytest.raises(MetricFailed, match="not twice differentiable"):
            kind(Net(), CROSS_ENTROPY, x, y, work=Work())


@pytest.mark.parametrize(
    "spectrum",
    [
        [*torch.linspace(-1, 3, 60)],
        [-5.0, -0.1, *[0.0] * 30, *[0.8**k for k in range(28)]],
        [*[-(0.7**k) for k in range(30)], *[0.7**k for k in range(30)]],
        [10 * 0.8**k for k in range(60)],
        [-1.0] * 30 + [1.0] * 30,
    ],
    ids=["even", "zeros", "mirrored", "positive", "two"],
)
def test_the_negative_part_of_the_very_start_lies_within_its_bounds(spectrum):
    spectrum = [float(value) for value in spectrum]
    operator = MatrixOperator(symmetric(spectrum, 4))

    def bounds(steps):
        generator = torch_generator(7)
        found = spectral_density(operator, probes=3, steps=steps, generator=generator)
        return found.below_zero(60)

    exact, *same = bounds(60)
    assert all(torch.equal(bound, exact) for bound in same)
    widths = []
    for steps in (2, 3, 5, 12, 25):
        here, low, high = bounds(steps)
        slack = 1e-9 * max(map(abs, spectrum))
        assert bool((low <= here).all() and (here <= high).all())
        assert bool((low - slack <= exact).all() and (exact <= high + slack).all())
        widths.append(float((high - low).mean()))
    assert widths[-1] < 0.2 * widths[0]
