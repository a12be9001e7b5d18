import pytest
import torch

from sharpbench.taylor import series


@pytest.mark.parametrize("name", sorted(series.ELEMENTWISE))
@pytest.mark.parametrize("orders", [(0, 1), (0, 1, 2, 3, 4)], ids=str)
def test_in_pieces_that_fit_the_cache_nothing_changes(monkeypatch, name, orders):
    generator = torch.Generator().manual_seed(0)
    parameters = {"pow": {"exponent": 1.5}}.get(name, {})
    x = torch.rand(len(orders), 7, 30, generator=generator, dtype=torch.float64) + 0.5
    x.requires_grad_()
    weights = torch.rand(5, 7, 30, generator=generator, dtype=torch.float64)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        y = series.elementwise(name, x, orders, 4, **parameters)
        (gradient,) = torch.autograd.grad((y * weights).sum(), x)
        return y.detach(), gradient

    whole = both()
    monkeypatch.setattr(series, "_block", lambda tensor: 64)  # 210 elements: a remainder of 18
    for a, b in zip(both(), whole, strict=True):
        assert torch.equal(a, b)


def test_large_series_are_dealt_with_in_pieces():
    assert series._block(torch.empty(2, 1 << 19)) is not None
    assert series._block(torch.empty(2, 64)) is None
    assert series._block(torch.empty(1 << 16, 2).T) is None


@pytest.mark.parametrize("function", [series.softmax, series.logsumexp])
@pytest.mark.parametrize("dim", [-1, -2])
def test_softmax_in_pieces_that_fit_the_cache_is_that_of_the_whole(monkeypatch, function, dim):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 14, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        y = function(x, (0, 1, 3), 4, dim)
        (gradient,) = torch.autograd.grad(y.sin().sum(), x)
        return y.detach(), gradient

    whole = both()
    monkeypatch.setattr(series, "_block", lambda tensor: 64)  # two rows of 30, or ten of 6
    for a, b in zip(both(), whole, strict=True):
        assert torch.equal(a, b)
    logs = torch.logsumexp(x[0].detach(), dim, keepdim=True)
    first = logs if function is series.logsumexp else (x[0].detach() - logs).exp()
    assert torch.allclose(whole[0][0], first, rtol=1e-13)


def test_without_autograd_nothing_is_kept_and_nothing_changes():
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 6).requires_grad_()
    kept = series.elementwise("gelu", x, (0, 1), 5)
    with torch.no_grad():
        alone = series.elementwise("gelu", x, (0, 1), 5)
    assert kept.requires_grad
    assert not alone.requires_grad
    assert torch.equal(kept, alone)
