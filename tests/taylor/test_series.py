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
    assert series._block(torch.empty(2, 1 << 17)) is not None
    assert series._block(torch.empty(2, 64)) is None
    assert series._block(torch.empty(1 << 16, 2).T) is None
