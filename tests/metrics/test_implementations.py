"""native against PyHessian, and the traps that PyHessian is known for."""

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.metrics import metrics
from sharpbench.subject import Subject


@pytest.fixture(params=["trained_mlp", "trained_cnn"])
def subject(request):
    return request.getfixturevalue(request.param)


def test_top_eigenvalues_agree_within_their_tolerances(subject):
    ours = sb.measure(subject, "hessian_top_eigenvalue", samples=400, tolerance=1e-4, seed=3)
    theirs = sb.measure(
        subject, "hessian_top_eigenvalue", implementation="pyhessian", samples=400,
        tolerance=1e-6, max_products=500, seed=3,
    )  # fmt: skip
    assert ours.converged
    # A successive-difference stop of 1e-6 leaves a true error of up to about 30 times as much.
    assert theirs.value == pytest.approx(ours.value, rel=1e-3)
    assert theirs.value <= ours.value + ours.error_bound


def test_traces_agree_within_three_standard_errors(subject):
    ours, theirs = (
        sb.measure(
            subject,
            "hessian_trace",
            implementation=i,
            method="hutchinson",
            samples=400,
            tolerance=0.0,
            max_probes=60,
            seed=3,
        )
        for i in ("native", "pyhessian")
    )
    # On the same points: what these add to the error is the same in both.
    probes = [e.size for m in (ours, theirs) for e in m.errors if e.source == "probes"]
    error = sum(size**2 for size in probes) ** 0.5
    assert abs(ours.value - theirs.value) < 3 * error
    assert ours.details["probes"] == 60
    assert theirs.work.hessian_vector == 60 * 400


def test_pyhessian_in_batches_equals_pyhessian_at_once(trained_mlp, monkeypatch):
    from sharpbench.metrics.backends import base

    def measured():
        return sb.measure(
            trained_mlp, "hessian_top_eigenvalue", implementation="pyhessian", samples=300,
            tolerance=1e-8, max_products=300, seed=0,
        )  # fmt: skip

    at_once = measured()
    monkeypatch.setattr(base, "BATCH", 130)  # unequal batches: 130, 130, 40
    batched = measured()
    assert batched.value == pytest.approx(at_once.value, rel=1e-6)
    # In batches PyHessian takes the gradient anew for each product.
    assert batched.work.gradient == pytest.approx(batched.work.hessian_vector)


def test_curvlinops_agrees(subject):
    def measured(name, **parameters):
        return sb.measure(subject, name, samples=300, seed=3, **parameters)

    rival = {"implementation": "curvlinops"}
    top = measured("hessian_top_eigenvalue", tolerance=1e-8)
    theirs = measured("hessian_top_eigenvalue", tolerance=1e-8, **rival)
    assert theirs.value == pytest.approx(top.value, rel=1e-6)
    ggn = measured("gauss_newton_top_eigenvalue", tolerance=1e-8)
    theirs = measured("gauss_newton_top_eigenvalue", tolerance=1e-8, **rival)
    assert theirs.value == pytest.approx(ggn.value, rel=1e-6)
    exact = measured("gauss_newton_trace")
    assert [e.source for e in exact.errors] == ["points"]  # and no probes
    assert exact.details["method"] == "exact"
    theirs = measured("gauss_newton_trace", max_probes=200, **rival)
    assert theirs.value == pytest.approx(exact.value, rel=0.1)
    ours = measured("hessian_frobenius_norm", tolerance=0.02, max_probes=400)
    theirs = measured("hessian_frobenius_norm", max_probes=200, **rival)
    assert theirs.value == pytest.approx(ours.value, rel=0.1)


def test_eigsh_gets_the_lanczos_size_that_its_tolerance_needs(trained_mlp):
    from sharpbench.metrics.backends.curvlinops import krylov_vectors

    sizes = {1e-1: 6, 1e-3: 6, 1e-5: 10, 1e-8: 16, 1e-12: 20, 0.0: 20}
    assert {tolerance: krylov_vectors(tolerance, 1000) for tolerance in sizes} == sizes
    assert krylov_vectors(1e-5, 4) == 4
    found = sb.measure(
        trained_mlp, "hessian_top_eigenvalue", implementation="curvlinops", samples=100, seed=0
    )

    assert found.converged
    assert found.details["krylov_vectors"] == 6
    assert found.details["products"] < 21  # which is what the default takes at least


def test_several_eigenvalues_are_told_with_their_bounds(trained_mlp):
    several, dense = (
        sb.measure(trained_mlp, name, samples=60, **parameters, seed=0)
        for name, parameters in (
            ("hessian_top_eigenvalue", {"count": 4, "tolerance": 1e-3}),
            ("hessian_top_eigenvalue", {"count": 4, "tolerance": 1e-10}),
        )
    )
    assert 0 < several.details["failure_probability"] < 0.01
    for value, bound, truth in zip(
        several.details["eigenvalues"],
        several.details["bounds"],
        dense.details["eigenvalues"],
        strict=True,
    ):
        assert bound <= 1e-3 * value
        assert value - 1e-9 <= truth <= value + bound


def test_the_methods_of_the_trace_agree(subject):
    found = [
        sb.measure(
            subject, "hessian_trace", method=m, samples=300, tolerance=0.02, max_probes=600, seed=3
        )
        for m in ("hutchinson", "hutch++", "xtrace", "gauss_newton")
    ]
    split = found[-1]
    for other in found[:-1]:
        error = ((other.standard_error or 0) ** 2 + (split.standard_error or 0) ** 2) ** 0.5
        assert abs(other.value - split.value) < 4 * error
    assert split.details["probes"] < found[0].details["probes"] / 2


def test_a_relu_network_has_its_trace_exactly(digits):
    from sharpbench.curvature.hessian_operator import HessianOperator
    from sharpbench.measurement import Work
    from tests.conftest import trained

    subject = trained(digits, "mlp", {"widths": [6], "activation": "relu"})
    found = sb.measure(subject, "hessian_trace", method="gauss_newton", samples=200, seed=0)
    assert [e.source for e in found.errors] == ["points"]
    assert found.details["probes"] == 0
    metric = metrics.create("hessian_trace", {"samples": 200})
    data = metric._data(subject, 0)
    model = subject.working_model(torch.float64)
    dense = HessianOperator(model, subject.loss, *data, work=Work()).dense()
    assert found.value == pytest.approx(float(dense.trace()), rel=1e-10)


def test_pyhessian_alone_doubles_on_a_second_construction(trained_mlp):
    """The trap that the private copy avoids: known wrong, kept as a test of the claim."""
    from pyhessian import hessian

    x, y = trained_mlp.data("train")
    model = trained_mlp.working_model(torch.float32)

    def trace(constructions):
        model.zero_grad()
        for _ in range(constructions):
            made = hessian(model, nn.CrossEntropyLoss(), data=(x[:50], y[:50]), cuda=False)
        torch.manual_seed(0)
        return sum(made.trace(maxIter=5, tol=0.0)) / 5

    assert trace(2) == pytest.approx(2 * trace(1), rel=1e-3)


def test_what_a_rival_cannot_do_is_said(trained_mlp):
    from sharpbench.errors import MetricUnsupported

    with pytest.raises(MetricFailed, match=r"torch.linalg.eig|deprecated"):
        sb.measure(
            trained_mlp, "hessian_spectral_density", implementation="pyhessian", samples=50,
            probes=1, steps=5,
        )  # fmt: skip
    with pytest.raises(MetricUnsupported, match="no Frobenius norm"):
        sb.measure(trained_mlp, "hessian_frobenius_norm", implementation="pyhessian")
    own = sb.Subject(
        nn.Linear(3, 3), torch.randn(8, 3), torch.randn(8, 3), loss=lambda o, t: o[:, 0]
    )
    with pytest.raises(MetricUnsupported, match="loss modules alone"):
        sb.measure(own, "hessian_trace", implementation="curvlinops")


def test_a_backend_refuses_the_figures_that_its_library_lacks(tiny):
    from sharpbench.errors import MetricUnsupported
    from sharpbench.metrics.backends import BACKENDS, Backend

    points = tiny.data("train")

    def made(backend, matrix="hessian"):
        return backend(
            tiny, torch.float64, *points, matrix=matrix, population=len(points[0]), seed=0
        )

    class Bare(Backend):
        title = "bare"

    for ask in (Bare.top_eigenvalue, Bare.trace, Bare.frobenius_norm, Bare.spectral_density):
        with pytest.raises(MetricUnsupported, match="bare computes no "):
            ask(made(Bare), 2, 2)
    with pytest.raises(MetricUnsupported, match="PyHessian computes no Gauss-Newton matrix"):
        made(BACKENDS["pyhessian"], "gauss_newton")


def test_budgets_stand_where_labels_and_stored_parameters_have_them():
    def own(name):
        return list(metrics.parameter_types(name))[5:]

    assert own("hessian_top_eigenvalue") == [
        "implementation", "which", "count", "tolerance", "max_products",
    ]  # fmt: skip
    probes = ["distribution", "tolerance", "max_probes"]
    assert own("hessian_trace") == ["implementation", "method", *probes]
    assert own("hessian_frobenius_norm") == ["implementation", *probes]
    assert own("gauss_newton_trace") == ["implementation", *probes]
    assert own("gauss_newton_top_eigenvalue") == ["implementation", "tolerance", "max_products"]


def test_peak_memory_stays_within_the_budget(trained_mlp):
    from sharpbench.curvature.hessian_operator import HessianOperator
    from sharpbench.measurement import Work

    model = trained_mlp.working_model(torch.float64)
    chunks = []
    for copies in (1, 8):
        x, y = trained_mlp.data("train")
        x, y = x.repeat(copies, 1, 1, 1).double(), y.repeat(copies)
        operator = HessianOperator(
            model, trained_mlp.loss, x, y, work=Work(), memory_budget=1 << 20
        )
        chunks.append(operator.chunk)
        assert not operator.kept
    assert chunks[0] == chunks[1]


@pytest.mark.parametrize("implementation", ["native", "pyhessian"])
def test_measuring_twice_gives_the_same_figure(trained_mlp, implementation):
    """PyHessian alone doubles every figure on a second construction; a private copy can't."""
    first, second = (
        sb.measure(
            trained_mlp,
            "hessian_top_eigenvalue",
            implementation=implementation,
            samples=200,
            seed=1,
        ).value
        for _ in range(2)
    )
    assert first == second


def test_a_failing_rival_is_a_failed_measurement():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    subject = sb.Subject(Partial(), torch.randn(8, 3), torch.arange(8) % 3)
    with pytest.raises(MetricFailed, match="PyHessian failed"):
        sb.measure(subject, "hessian_trace", implementation="pyhessian")
    assert sb.measure(subject, "hessian_trace").value > 0


def test_an_unmet_tolerance_is_admitted(trained_mlp):
    eigenvalue = sb.measure(trained_mlp, "hessian_top_eigenvalue", samples=200, max_products=2)
    trace = sb.measure(
        trained_mlp, "hessian_trace", method="xtrace", samples=200, max_probes=8, tolerance=1e-4
    )
    assert not eigenvalue.converged
    assert eigenvalue.error_bound > 1e-3 * eigenvalue.value
    assert not trace.converged


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hessian_top_eigenvalue", {"tolerance": 1e-8}),
        ("hessian_top_eigenvalue", {"implementation": "pyhessian", "tolerance": 1e-8}),
        ("hessian_top_eigenvalue", {"implementation": "curvlinops", "tolerance": 1e-8}),
        ("hessian_trace", {"method": "hutchinson"}),
        ("hessian_trace", {"method": "hutch++"}),
        ("hessian_trace", {"method": "xtrace"}),
        ("hessian_trace", {"method": "gauss_newton"}),
        ("hessian_frobenius_norm", {}),
        ("hessian_spectral_density", {}),
        ("gauss_newton_top_eigenvalue", {"tolerance": 1e-8}),
        ("gauss_newton_trace", {}),
        ("fisher_rao_norm", {}),
        ("sam_sharpness", {"attack": "auto_pgd", "steps": 10}),
        ("sam_sharpness", {"case": "average"}),
        ("input_curvature", {}),
    ],
)
def test_a_gpu_gives_the_figures_of_the_cpu(subject, name, parameters):
    """Random numbers are drawn on the CPU, so that both devices see the same ones."""
    there = sb.Subject(
        subject.working_model(torch.float64).cuda(),
        subject.inputs.cuda(),
        subject.targets.cuda(),
        splits=subject.splits.to("cuda"),
    )
    parameters = {**parameters, "samples": 200}
    here, on_gpu = (sb.measure(s, name, seed=3, **parameters) for s in (subject, there))
    assert on_gpu.value == pytest.approx(here.value, rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "implementation", "sources"),
    [
        ("hessian_top_eigenvalue", "pyhessian", ["other"]),
        ("hessian_top_eigenvalue", "curvlinops", []),
        ("hessian_trace", "pyhessian", ["probes"]),
        ("hessian_trace", "curvlinops", ["probes"]),
        ("hessian_frobenius_norm", "curvlinops", ["probes"]),
        ("gauss_newton_top_eigenvalue", "curvlinops", []),
        ("gauss_newton_trace", "curvlinops", ["probes"]),
    ],
)
def test_no_rival_is_called_exact_and_a_part_of_the_data_has_its_error(
    tiny, metric, implementation, sources
):
    def measured(samples):
        return sb.measure(tiny, metric, implementation=implementation, samples=samples, seed=0)

    whole, part = measured("all"), measured(50)
    assert [e.source for e in whole.errors] == sources
    assert [e.source for e in part.errors] == [*sources, "points"]
    assert not whole.exact
    assert part.standard_error is None
    # ARPACK bounds its residual, relative to the value.
    assert whole.error_bound == (None if sources else pytest.approx(1e-3 * whole.value))


def test_the_negative_share_of_a_part_of_the_data_has_an_unknown_error(tiny):
    found = sb.measure(tiny, "hessian_spectral_density", samples=50, seed=0)
    assert [e.source for e in found.errors] == ["probes", "points"]
    assert found.standard_error is None
    whole = sb.measure(tiny, "hessian_spectral_density", seed=0)
    assert [e.source for e in whole.errors] == ["probes"]
    assert whole.standard_error > 0


class AsOnGpu(nn.Module):
    """The last digits of its gradients differ each time, as where kernels add up in another order."""

    def __init__(self, share):
        super().__init__()
        self.first, self.last, self.share = nn.Linear(6, 8), nn.Linear(8, 3), share
        self.generator = [torch.Generator().manual_seed(0)]

    def forward(self, x):
        h = torch.tanh(self.first(x))
        noise = torch.randn(h.shape, generator=self.generator[0]).to(h)
        return self.last(h + self.share * noise * (h - h.detach()))


@pytest.mark.parametrize("metric", ["hessian_top_eigenvalue", "gauss_newton_top_eigenvalue"])
def test_curvlinops_is_asked_where_kernels_add_up_in_another_order(metric):
    """Its own check wants five digits of every number, of which small ones among large ones have fewer."""
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    asked = {"implementation": "curvlinops", "dtype": "float32"}
    torch.manual_seed(1)
    model = AsOnGpu(6e-5)
    found = sb.measure(Subject(model, x, y), metric, **asked)
    model.share = 0.0
    steady = sb.measure(Subject(model, x, y), metric, **asked)
    assert found.value == pytest.approx(steady.value, rel=2e-3)
    assert found.value != steady.value
    model.share = 0.05  # what a random layer does
    with pytest.raises(MetricUnsupported, match="deterministic"):
        sb.measure(Subject(model, x, y), metric, **asked)
