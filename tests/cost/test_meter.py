import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sharpbench.cost import Cost, measure_cost, meter
from sharpbench.measurement import Work

CPU = torch.device("cpu")


def test_the_first_call_answers_and_the_others_are_timed():
    calls = []

    def call():
        calls.append(len(calls))
        return len(calls)

    result, cost = measure_cost(call, repeats=4, device=CPU)
    assert result == 1
    assert len(calls) == 5
    assert len(cost.seconds) == 4
    assert cost.median_seconds == sorted(cost.seconds)[1] / 2 + sorted(cost.seconds)[2] / 2
    assert cost.spread_seconds >= 0
    assert cost.threads == 1


def test_without_repeats_the_first_call_is_all_there_is():
    result, cost = measure_cost(lambda: 7, repeats=0, device=CPU, first=lambda: 8)
    assert result == 8
    assert cost.seconds == (cost.first_seconds,)
    assert cost.spread_seconds is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_sees_a_tensor_that_is_gone_again():
    def allocate():
        return float(torch.ones(32 << 20).sum())  # 128 MiB of float32

    for _ in range(2):  # a second time, when the allocator could have kept the first one's pages
        _, cost = measure_cost(allocate, repeats=0, device=CPU)
        assert 120 << 20 <= cost.peak_bytes <= 170 << 20
    _, nothing = measure_cost(lambda: None, repeats=0, device=CPU)
    assert nothing.peak_bytes < 4 << 20


def test_gradient_equivalents_follow_the_convention():
    work = Work(forward=30, gradient=10)
    for order in (1, 2, 3, 4):
        work.add_derivative(order, 10)
    # forward 30/3, gradients 20, Hessian-vector 2·10, order 3: 4·10, order 4: 8·10
    assert work.gradient_equivalents(10) == 1 + 2 + 2 + 4 + 8


def test_a_cost_keeps_its_raw_times():
    cost = Cost((3.0, 1.0, 2.0), 5.0, None, "cpu", 1)
    assert cost.median_seconds == 2.0
    assert cost.spread_seconds == 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_peak_memory_is_the_allocators():
    device = torch.device("cuda")
    _, cost = measure_cost(
        lambda: float(torch.ones(32 << 20, device=device).sum()), repeats=1, device=device
    )
    assert 128 << 20 <= cost.peak_bytes <= 132 << 20
    assert 0 < cost.device_seconds[0] <= cost.seconds[0]


def test_repeats_go_on_until_the_spread_is_met(monkeypatch):
    """On a clock that the calls alone turn on."""
    clock = [0.0]
    read = SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: 0.0)
    monkeypatch.setattr(meter, "time", read)
    durations = iter([0.0, *[1.0, 20.0] * 2, *[5.0] * 60])

    def uneven():
        clock[0] += next(durations)

    _, cost = measure_cost(uneven, repeats=3, spread=0.3, device=CPU)
    assert cost.seconds == (*[1.0, 20.0] * 2, *[5.0] * 5)
    assert cost.spread_seconds <= 0.3 * cost.median_seconds


def test_times_that_scatter_or_were_shared_are_unstable():
    assert Cost((1.0, 1.0, 2.0, 3.0), 1.0, None, "cpu", 1).unstable
    assert Cost((1.0, 1.0, 1.0), 1.0, None, "cpu", 1, foreign_cores=0.9).unstable
    assert not Cost((1.0, 1.0, 1.01), 1.0, None, "cpu", 1, foreign_cores=0.1).unstable


def test_floating_point_operations_are_counted():
    a = torch.ones(64, 32)
    _, cost = measure_cost(lambda: a @ a.T, repeats=1, device=CPU, count_flops=True)
    assert cost.flops == 2 * 64 * 64 * 32


def _allocation(megabytes):
    return lambda: torch.ones(megabytes << 18).sum()


def _failing():
    raise RuntimeError("no")


@pytest.mark.slow
def test_memory_of_a_fresh_process():
    from sharpbench.cost import peak_in_fresh_process

    peak = peak_in_fresh_process(_allocation, 96)
    assert 90 << 20 < peak < 130 << 20
    assert peak_in_fresh_process(_failing) is None


def test_flops_of_a_gradient_in_the_inputs_are_counted():
    """torch's own tracker of modules fails there."""
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU())
    x = torch.randn(5, 8, requires_grad=True)

    def call():
        return torch.autograd.grad(model(x).sum(), x)

    _, cost = measure_cost(call, repeats=0, device=torch.device("cpu"), count_flops=True)
    assert cost.flops == 2 * (2 * 5 * 8 * 4)
