"""Each rule of Taylor mode against values alone: a polynomial through them at Chebyshev's nodes."""

import math

import pytest
import torch
import torch.nn.functional as F

from sharpbench.seeds import torch_generator
from sharpbench.taylor.expansion import taylor
from sharpbench.taylor.table import rule
from tests.taylor.references import coefficients_by_interpolation

D = torch.float64
_P = torch.linspace(0.2, 1.4, 12, dtype=D).view(3, 4)
_CLASS = torch.tensor([0, 3, 1])
_SPD = torch.diag(torch.tensor([3.0, 4.0, 5.0, 6.0], dtype=D))


def _spd(p):
    return 0.3 * p.mT @ p + _SPD


def _complex(p):
    return torch.complex(p.sin(), p.cos() + 1)


FUNCTIONS = {
    "sinh, cosh": lambda p: p.sinh() + p.cosh() * p,
    "asin, acos": lambda p: (p.sin() / 2).asin() * (p.cos() / 3).acos(),
    "atan, arctan": lambda p: p.atan() + torch.arctan(p * p),
    "asinh, acosh, atanh": lambda p: p.asinh() + (p**2 + 1.5).acosh() + (p.sin() / 2).atanh(),
    "log2, log10, exp2": lambda p: (p**2 + 1).log2() + (p**2 + 1).log10() + p.exp2(),
    "index_add with alpha": lambda p: p.sin().index_add(
        1, torch.tensor([0, 2, 0]), p.exp()[:, :3], alpha=-1.7
    ),
    "erfc, ndtr": lambda p: p.erfc() + torch.special.ndtr(p),
    "logit": lambda p: p.sigmoid().logit() * torch.logit(p.sigmoid(), eps=0.3),
    "xlogy": lambda p: torch.xlogy(p, p**2 + 1) + torch.xlogy(_P.round(), p.exp()),
    "atan2": lambda p: torch.atan2(p.sin(), p.cos() + 2) + torch.atan2(torch.ones(4, dtype=D), p),
    "hypot": lambda p: torch.hypot(p + 3, p.sin()),
    "logaddexp": lambda p: (
        torch.logaddexp(p, p.sin()) + torch.logaddexp(_P, p) - torch.logaddexp2(p, _P)
    ),
    "sinc": lambda p: torch.sinc(p) + torch.sinc(p / 50) + torch.sinc(4 * p + 3),
    "remainder": lambda p: p % 0.9 + torch.fmod(p, 0.7) * p + 5 % (p**2 + 2),
    "frac, copysign": lambda p: p.frac() * p + torch.copysign(p, -_P),
    "floor division": lambda p: p * (p // 0.4) + p * torch.div(p, 0.3, rounding_mode="trunc"),
    "nan_to_num": lambda p: torch.where(_P > 1, p, math.nan).nan_to_num(2.0).exp(),
    "clamps": lambda p: p.clamp_min(-0.2).exp() + p.clamp_max(0.1) ** 2 + p.clip(-_P, _P) * p,
    "clamp of a constant": lambda p: _P.clamp(min=p, max=p + 0.2).exp(),
    "maximum": lambda p: torch.maximum(_P, p).exp() + torch.minimum(p, p.sin()) + torch.fmax(p, _P),
    "maximum of a number": lambda p: torch.maximum(torch.tensor(0.0), p) ** 2,
    "glu": lambda p: F.glu(p, 1) + F.glu(p.exp()),
    "hard": lambda p: F.hardsigmoid(3 * p) + F.hardswish(4 * p) + F.relu6(5 * p) + F.hardtanh(p),
    "celu, prelu": lambda p: (
        F.celu(p, 0.7) + F.prelu(p, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=D))
    ),
    "prelu of one": lambda p: torch.prelu(p, torch.tensor([0.3], dtype=D)) ** 2,
    "shrinks": lambda p: F.softshrink(p, 0.3) ** 2 + F.hardshrink(p, 0.3).exp() + F.tanhshrink(p),
    "threshold": lambda p: F.threshold(p, 0.1, 20.0) ** 2 + F.softsign(p) + F.softmin(p, 1),
    "rrelu": lambda p: F.rrelu(p) ** 2,
    "norms": lambda p: p.norm() + p.norm(dim=1, keepdim=True) * p + torch.linalg.norm(p, dim=0),
    "vector norms": lambda p: torch.stack(
        [torch.linalg.vector_norm(p, o, 1) for o in (1, 2, 3, 2.5, math.inf, -math.inf)]
    ),
    "norms of p": lambda p: p.norm(3, 1) + torch.norm(p, float("inf"), 1) + p.norm(1, 1),
    "normalize": lambda p: F.normalize(p, dim=1) + F.normalize(p, p=1, dim=0),
    "cosine": lambda p: F.cosine_similarity(p, p.exp(), dim=1) + F.cosine_similarity(p, _P),
    "distances": lambda p: torch.cdist(p, p.exp() + 2) + F.pairwise_distance(p, _P, p=1).sum(),
    "variances": lambda p: (
        p.var(1) + p.std(1, unbiased=False) + p.var() + torch.std(p, correction=0)
    ),
    "var_mean": lambda p: torch.var_mean(p, 1)[0] * torch.std_mean(p, dim=1, keepdim=True)[1],
    "sort": lambda p: p.sort(1)[0].cumsum(1) * torch.msort(p).exp(),
    "topk, kthvalue": lambda p: p.topk(2, 1)[0].exp() + p.kthvalue(2, 1, True).values,
    "median, mode": lambda p: p.median(1).values.exp() + p.median() + p.mode(1).values,
    "cummax": lambda p: p.cummax(1).values.exp() + p.cummin(0).values,
    "amax of axes": lambda p: (
        p.amax((0, 1)).exp() + p.max() * p.aminmax()[0]
        if False
        else p.amax((0, 1)).exp() + p.max() * p.min()
    ),
    "prod": lambda p: (
        p.prod(1) + p.prod() + p.cumprod(0).sum() + p.prod(0, keepdim=True).exp().sum()
    ),
    "logcumsumexp": lambda p: p.logcumsumexp(1) + p.logsumexp((0, 1)),
    "inverse": lambda p: torch.linalg.inv(_spd(p)) + torch.linalg.solve(_spd(p), _spd(p).sin()),
    "solve a vector": lambda p: torch.linalg.solve(_spd(p), p[0]) + torch.linalg.solve(_SPD, p[1]),
    "solve from the right": lambda p: torch.linalg.solve(_spd(p), p, left=False),
    "triangular": lambda p: torch.linalg.solve_triangular(_spd(p).tril(), p.mT, upper=False),
    "cholesky": lambda p: (
        torch.linalg.cholesky(_spd(p)) @ torch.linalg.cholesky(_spd(p), upper=True)
    ),
    "determinants": lambda p: torch.linalg.det(_spd(p)) / 100 + torch.slogdet(_spd(p))[1],
    "determinant of larger": lambda p: torch.det(torch.block_diag(_spd(p), _spd(p.sin()))) / 1e4,
    "determinants of three": lambda p: torch.det(p[:, :3]) + torch.logdet(_spd(p)),
    "matrix power": lambda p: (
        torch.linalg.matrix_power(_spd(p) / 5, 3) + (p.mT @ p).matrix_power(0)
    ),
    "matrix products": lambda p: (
        torch.addmm(p.sin(), p, _spd(p)) + torch.addmm(p, _P, _SPD, beta=2)
    ),
    "batched products": lambda p: torch.baddbmm(p[None], p[None].exp(), _spd(p)[None], alpha=0.1),
    "vector products": lambda p: (
        torch.addmv(p[:, 0], p, p[0]) + torch.mv(_P, p[0]) + p[1].dot(p[2])
    ),
    "outer, addr": lambda p: torch.outer(p[0], p[1].exp()) + torch.addr(_SPD, p[0], p[2]),
    "kron, cross, inner": lambda p: (
        torch.kron(p[0], p[1]).sum()
        + torch.linalg.cross(p[:, :3], p[:, 1:].sin())
        + torch.inner(p, p.exp())
    ),
    "tensordot": lambda p: torch.tensordot(p, p.sin(), dims=([0], [0])) + torch.tensordot(p, _P, 2),
    "einsum of three": lambda p: torch.einsum("ia,ib,ic->abc", p, p.sin(), p.exp()),
    "einsum of four": lambda p: torch.einsum("ia,ib,bc,ia->ac", p, p.sin(), _SPD, p.exp()),
    "bilinear": lambda p: F.bilinear(p, p.exp(), torch.stack([_SPD, 2 * _SPD.flip(0)])),
    "lerp, addcmul": lambda p: torch.lerp(p, p.exp(), 0.3) + torch.addcmul(_P, p, p.sin(), value=2),
    "lerp by a series": lambda p: torch.lerp(_P, p, p.sigmoid()) + torch.addcdiv(p, _P, p**2 + 1),
    "multi_dot": lambda p: torch.linalg.multi_dot([p, _SPD, p.mT.sin()]),
    "complex": lambda p: (_complex(p) * torch.exp(1j * p)).abs() + _complex(p).angle(),
    "complex division": lambda p: (1 / _complex(p)).real + (_complex(p) ** 2).imag,
    "complex views": lambda p: torch.view_as_real(
        torch.view_as_complex(p.unflatten(1, (2, 2))) * 1j
    ),
    "polar": lambda p: torch.polar(p.exp(), p).imag + torch.polar(_P, p).conj().imag,
    "complex products": lambda p: (
        (_complex(p) @ _complex(p).mH).real.exp() + _complex(p).abs().sum()
    ),
    "fft": lambda p: torch.fft.fft(p.exp()).abs() + torch.fft.ifft2(p.sin()).real.tanh(),
    "rfft": lambda p: torch.fft.irfft(torch.fft.rfft(p, n=5) * torch.fft.rfft(p.exp(), n=5), n=5),
    "fft of axes": lambda p: torch.fft.fftshift(torch.fft.fftn(p.exp(), dim=(0,)).imag, dim=1),
    "huber": lambda p: (
        F.huber_loss(2 * p, _P) + F.smooth_l1_loss(2 * p, _P, beta=0.5, reduction="none")
    ),
    "l1": lambda p: F.l1_loss(p.exp(), _P, reduction="none"),
    "bce": lambda p: F.binary_cross_entropy(p.sigmoid(), _P / 2, reduction="none"),
    "bce with logits": lambda p: F.binary_cross_entropy_with_logits(
        p, _P / 2, pos_weight=torch.tensor(2.0, dtype=D), reduction="none"
    ),
    "kl": lambda p: (
        F.kl_div(p.log_softmax(1), _P / 2, reduction="batchmean")
        + F.kl_div(p.log_softmax(1), p.sin().log_softmax(1), log_target=True, reduction="none")
    ),
    "nll": lambda p: F.nll_loss(p.log_softmax(1), _CLASS, reduction="none"),
    "nll, weights": lambda p: F.nll_loss(p.log_softmax(1), _CLASS, _P[0], ignore_index=3),
    "cross-entropy, ignored": lambda p: F.cross_entropy(p, _CLASS, ignore_index=3),
    "cross-entropy, weights": lambda p: F.cross_entropy(p, _CLASS, _P[0]),
    "cross-entropy, smoothed": lambda p: (
        F.cross_entropy(p, _CLASS, label_smoothing=0.1)
        + F.cross_entropy(p, _CLASS, _P[0], label_smoothing=0.2, ignore_index=1)
    ),
    "cross-entropy, soft": lambda p: (
        F.cross_entropy(p, _P, reduction="none") + F.cross_entropy(p, _P)
    ),
    "cross-entropy of images": lambda p: F.cross_entropy(
        p.view(1, 3, 4), torch.tensor([[0, 1, 2, 2]]), reduction="none"
    ),
    "poisson and gaussian": lambda p: (
        F.poisson_nll_loss(p, _P) + F.gaussian_nll_loss(p, _P, p.exp())
    ),
    "soft margin": lambda p: F.soft_margin_loss(p, _P.sign()),
    "softmax of a type": lambda p: p.softmax(1, dtype=D) + p.log_softmax(0, dtype=D),
    "joined": lambda p: torch.hstack([p, _P, p.exp()]) + torch.column_stack([p, p, _P]),
    "stacked": lambda p: torch.vstack((p[0], _P, p.sin())).sum(0) + torch.dstack([p, _P]).prod(2),
    "block_diag": lambda p: torch.block_diag(p, _P, p[:1].exp()) @ torch.ones(12, dtype=D),
    "meshgrid": lambda p: torch.stack(torch.meshgrid(p[0], p[1].exp(), indexing="ij")).prod(0),
    "cartesian_prod": lambda p: torch.cartesian_prod(p[0], p[1]).prod(1),
    "broadcast_tensors": lambda p: math.prod(torch.broadcast_tensors(p, p[:1].exp())),
    "atleast, ravel": lambda p: torch.atleast_2d(p[0]) * p.ravel()[:4] + p.mH.T,
    "diagonals": lambda p: (
        torch.diag_embed(p).exp() + torch.diag(p[0]) + p[:, :3].diagonal().exp().sum()
    ),
    "masked_select, take": lambda p: p.masked_select(_P > 0.5).exp() * p.take(torch.arange(9)),
    "separated indices": lambda p: p.view(3, 2, 2)[[0, 2], :, [1, 0]].exp(),
    "diff, flips": lambda p: torch.diff(p).exp() + torch.rot90(p, 2).fliplr().flipud()[:, 1:],
    "scatter_reduce": lambda p: torch.zeros(3, 4, dtype=D).scatter_reduce(
        0, torch.zeros(3, 4, dtype=torch.long), p.exp(), "mean"
    ),
    "slices written": lambda p: (
        torch.slice_scatter(_P, p[:, :2].exp(), 1, 1, 3) + torch.select_scatter(p, p[0].sin(), 0, 1)
    ),
    "types": lambda p: p.to(D).double() * p.type_as(_P) + p.long().to(p) + (p > 0).float() * p,
    "constants of a kind": lambda p: (
        p.new_zeros(4).add(p) * p.new_full((4,), 2.0)
        + torch.full_like(p, 3).mul(p)
        + p.new_tensor([1.0, 2, 3, 4]) * p
    ),
    "division by integers": lambda p: p / torch.tensor([3, 7, 9, 11]) + p / 3 + 2 / p.exp(),
    "powers of integers": lambda p: (
        torch.tensor([2, 3, 4, 5]) ** p + 2**p + p ** _P.round()
        if False
        else torch.tensor([2, 3, 4, 5]) ** p + 2**p
    ),
    "powers by a tensor": lambda p: (p**2 + 1) ** _P,
    "bucketize": lambda p: p * torch.bucketize(p, torch.tensor([-0.5, 0.5])) + p * torch.sign(p),
    "rms norm": lambda p: F.rms_norm(p, (4,), _P[0]) + F.layer_norm(p, (4,), bias=_P[1]),
    "local response": lambda p: F.local_response_norm(p.view(1, 3, 2, 2), 2),
    "lp_pool": lambda p: F.lp_pool1d(p.exp().unsqueeze(0), 2.0, 2),
    "interpolation": lambda p: F.interpolate(p.exp().view(1, 1, 3, 4), size=(5, 5), mode="bicubic"),
    "fold": lambda p: F.fold(F.unfold(p.exp().view(1, 1, 3, 4), 2), (3, 4), 2).tanh(),
}


@pytest.mark.filterwarnings("error:no Taylor rule")
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_each_rule_against_values_alone(function):
    generator = torch_generator(2)
    x, u = (torch.randn(3, 4, dtype=D, generator=generator) for _ in range(2))
    if function in (FUNCTIONS["floor division"], FUNCTIONS["clamps"], FUNCTIONS["hard"]):
        u = u / 20  # away from kinks
    expected, weights = coefficients_by_interpolation(function, x, u, 4, radius=0.02, nodes=9)
    with torch.no_grad():
        found = taylor(function, x, u, 4).reshape(5, -1) @ weights
    # Rounding divided by the radius to the order.
    size = expected.abs().max()
    for order, tolerance in enumerate((1e-13, 1e-11, 1e-9, 1e-6, 1e-3)):
        assert abs(found[order] - expected[order]) < tolerance * size, order


def test_functions_at_points_where_torchs_own_derivatives_are_wrong():
    """A factor of zero, a singular matrix, sinc at zero; closed forms."""
    t, one = torch.zeros(1, dtype=D), torch.ones(1, dtype=D)

    def series(function, degree=6):
        return taylor(lambda p: function(p[0]).reshape(1), t, one, degree)[:, 0]

    def close(found, expected):
        expected = torch.tensor(expected + [0.0] * (len(found) - len(expected)), dtype=D)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)

    factors = [0.0, 6.0, 5.0, 1.0]  # t(t + 2)(t + 3)
    close(series(lambda s: torch.stack([s, s + 2, s + 3]).cumprod(0)[2]), factors)
    close(series(lambda s: torch.stack([s, s + 2, s + 3]).prod()), factors)
    matrix = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=D)
    close(series(lambda s: torch.det(matrix + s * torch.eye(2, dtype=D))), [0.0, 5.0, 1.0])
    close(
        series(torch.sinc),
        [(-1) ** (n // 2) * math.pi**n / math.factorial(n + 1) * (n % 2 == 0) for n in range(7)],
    )
    far = series(lambda s: torch.sinc(s + 5.5), 3)
    z = 5.5 * math.pi
    expected = math.pi * (math.cos(z) / z - math.sin(z) / z**2)
    assert float(far[1]) == pytest.approx(expected, rel=1e-12)


def test_norms_at_zero_are_constant_as_in_torch():
    x = torch.zeros(2, 3, dtype=D)
    found = taylor(lambda p: F.normalize(p, dim=1).sum(1) + p.norm(dim=1), x, x + 1, 3)
    plain = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        (F.normalize(plain, dim=1).sum(1) + plain.norm(dim=1)).sum(), plain
    )
    assert torch.allclose(found[1], gradient.sum(1))
    assert not torch.isnan(found).any()


def test_each_name_has_one_rule():
    with pytest.raises(ValueError, match="two Taylor rules for tanh"):
        rule("tanh")(torch.tanh)


def test_a_sum_of_exponentials_over_a_single_number_keeps_its_orders():
    x = torch.tensor([0.3, -0.2], dtype=torch.float64)
    for order in (0, 1, 3):
        found = taylor(lambda p: p.sum().logsumexp(0), x, x, order)
        assert torch.equal(found[:2], x.sum().expand(2)[: order + 1])
        assert found.shape == (order + 1,)


def test_batched_products_follow_every_layout_of_their_factors():
    """Views with long strides, transposed, broadcast and empty ones, against the sum over pairs."""
    x, u = (torch.randn(2, 6, 4, generator=torch_generator(s), dtype=torch.float64) for s in (1, 2))

    def heads(p):
        return p.view(2, 6, 2, 2).transpose(1, 2)

    functions = {
        "heads": lambda p: heads(p) @ heads(p.sin()).transpose(-2, -1) @ heads(p.cos()),
        "slices": lambda p: p[:, ::2] @ p[:, 1::2].mT.exp(),
        "broadcast": lambda p: p[:1].expand(2, 6, 4) @ p.sin().mT,
        "one column": lambda p: p[..., :1] @ p[:, :1].tanh(),
        "none": lambda p: p[:0] @ p[:0].mT.sin(),
        "used again": lambda p: (p @ p.mT).softmax(-1) * (p @ p.mT),
    }
    for function in functions.values():
        with torch.no_grad():
            alone = taylor(function, x, u, 5)
        looked_on = taylor(function, x.clone().requires_grad_(), u, 5)
        assert torch.equal(alone, looked_on.detach())
