"""The speed tables of the documentation, as Markdown on the standard output; run it alone on the machine.

    python -m suites.asv.tables --table derivatives
    python -m suites.asv.tables --table products
    python -m suites.asv.tables --table eigenvalue digits_mlp_26k mnist_cnn_26k
    python -m suites.asv.tables --table trace digits_mlp_26k mnist_cnn_26k
    python -m suites.asv.tables --table eigenvalue --device cuda

Without ``--table`` all of them, and without names all workloads. Derivatives of the loss are told in forward
passes, and over the matrix products that they make. For eigenvalue and trace every implementation is asked
for the same tolerance, without looking at the truth, which stands beside what it gives: seconds (of the
processor, the best of interleaved rounds on one thread, float32), Hessian-vector products, and the relative
difference from a reference in float64. ``true_error`` is the table of eigenvalues at one true error in place
of one tolerance.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable

from sharpbench.measurement import Measurement
from sharpbench.metrics import metrics

from . import curvature_rate, workloads

TABLES = ("derivatives", "products", "eigenvalue", "true_error", "trace")
ROUNDS = 5
EIGENVALUE = 1e-3
TRACE = 1e-2
_TRIAL = 32
"""Probes whose time and spread tell how long a method takes."""


ORDERS = (4, 6, 7)
_MLP = (784, 256, 256, 10)


def derivatives(order: int, device: str) -> dict[str, str]:
    """A row of the first table: orders 1 … ``order`` of the loss of the tanh MLP at 1000 points."""
    bench = curvature_rate.DerivativesOfTheLoss()
    bench.setup(order, device)
    steps = {
        name: functools.partial(curvature_rate.WAYS[name], bench.loss, bench.x, bench.v, order)
        for name in ("forward_pass", "taylor_mode", "nested_reverse")
    }
    found = curvature_rate.best(steps)
    once, ours, theirs = found.values()
    layers = [a * b for a, b in itertools.pairwise(_MLP)]
    least = (2 * layers[0] + (order + 1) * sum(layers[1:])) / sum(layers)
    return {
        "Taylor mode, in forward passes": f"{ours / once:.2f}",
        "its multiplications alone": f"{least:.2f}",
        "nested reverse mode": f"{theirs / once:.3g}",
        "times faster": f"{theirs / ours:.2g}",
        "of its peak memory": f"{bench.track_memory_of_nested_reverse(order):.2g}",
    }


def products(network: str, device: str) -> dict[str, str]:
    """A row of the second table: Taylor mode over the matrix products that it makes, an order a column."""
    bench, row = curvature_rate.OverItsProducts(), {}
    for order in ORDERS:
        bench.setup(network, order, device)
        row[f"1-{order}"] = f"{bench.track_over_products(network, order):.3g}"
    return row


def training_steps(device: str) -> dict[str, str]:
    """What stands below the first table: the paper's ReLU network, and CRR steps in SAM steps."""
    linear, crr = curvature_rate.PiecewiseLinear(), curvature_rate.CrrStep()
    linear.setup(4, device)
    told = {"forward passes of the ReLU network, orders 1-4": linear.track_forward_passes(4)}
    for activation in ("relu", "tanh", "gelu"):
        told[f"CRR step with {activation}, in SAM steps"] = crr.track_over_sam(
            activation, "live", device
        )
    return {what: f"{ratio:.2g}" for what, ratio in told.items()}


def top_eigenvalues(name: str, limit: float, device: str) -> dict[str, str]:
    """A row of the second table: a cell for each implementation."""
    truth = workloads.truth(name, device)
    calls = {
        who: workloads.top_eigenvalue(name, who, EIGENVALUE, device=device)
        for who in ("native", "pyhessian", "curvlinops")
    }
    return _cells(calls, truth, limit, "products")


def top_eigenvalues_at_true_error(name: str, limit: float, device: str) -> dict[str, str]:
    """The same, each at the loosest power of ten as tolerance with which it is off by 1e-3 at most."""
    truth, calls, asked = workloads.truth(name, device), {}, {}
    for who in ("native", "pyhessian", "curvlinops"):
        for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
            call = workloads.top_eigenvalue(name, who, tolerance, device=device)
            if abs(call().value / truth - 1) <= EIGENVALUE:
                calls[who], asked[who] = call, tolerance
                break
    cells = _cells(calls, truth, limit, "products")
    return {who: f"{cell}, tolerance {asked[who]:g}" for who, cell in cells.items()}


def traces(name: str, limit: float, device: str) -> dict[str, str]:
    """A row of the third table. curvlinops has no tolerance: it takes 100 probes, its manual's number."""
    truth = _trace(name, device, dtype="float64", tolerance=TRACE / 10)().value
    first = _trace(name, device, method="hutchinson", tolerance=0.0, max_probes=_TRIAL)
    start = workloads.clock()
    spread = first().standard_error
    seconds = workloads.clock() - start
    assert spread is not None
    needed = _TRIAL * (spread / (TRACE * abs(truth))) ** 2
    calls = {
        "native": _trace(name, device),
        "xtrace": _trace(name, device, method="xtrace"),
        "hutchinson": _trace(name, device, method="hutchinson"),
        "pyhessian": _trace(name, device, implementation="pyhessian"),
        "curvlinops": _trace(name, device, implementation="curvlinops", max_probes=100),
    }
    left_out = {}
    if seconds * needed / _TRIAL > limit:
        del calls["hutchinson"]
        left_out = {"hutchinson": f"about {seconds * needed / _TRIAL:.0f} s, {needed:.0f} probes"}
    return {**_cells(calls, truth, limit, "probes"), **left_out}


def _trace(name: str, device: str, **parameters: object) -> Callable[[], Measurement]:
    given = {"samples": workloads.samples(name), "dtype": "float32", "tolerance": TRACE}
    metric = metrics.create("hessian_trace", {"max_probes": 4000, **given, **parameters})
    return functools.partial(metric.measure, workloads.subject(name, device), seed=0)


def _cells(
    calls: dict[str, Callable[[], Measurement]], truth: float, limit: float, count: str
) -> dict[str, str]:
    """One round of all, and further ones of those that take less than a sixth of the ``limit`` together."""
    found = workloads.side_by_side(calls, truth, rounds=1)
    short = {who: call for who, call in calls.items() if found[who].seconds < limit / (6 * ROUNDS)}
    again = workloads.side_by_side(short, truth, rounds=ROUNDS - 1)
    cells = {}
    for who, timed in found.items():
        seconds = min(t.seconds for t in (timed, again.get(who, timed)))
        ratio = seconds / min(
            t.seconds for t in (found["native"], again.get("native", found["native"]))
        )
        m = timed.measurement
        told = "" if m.converged else ", not converged"
        made = m.details.get(count, m.details.get("products"))
        cells[who] = (
            f"{seconds:.3g} s ({ratio:.2g}×), {made} {count}, "
            f"{m.work.gradient_equivalents(m.samples):.0f} gradients, off by {timed.error:.1g}{told}"
        )
    return cells


def _print(title: str, rows: dict[str, dict[str, str]]) -> None:
    columns = list(dict.fromkeys(who for row in rows.values() for who in row))
    print(f"\n{title}\n\n| | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(row.get(who, '') for who in columns)} |", flush=True)


def main() -> None:
    """Print the tables, those of Hessians for the workloads named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(workloads.WORKLOADS))
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="for one run; beyond: left out"
    )
    parser.add_argument("--table", choices=["all", *TABLES], default="all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    asked = parser.parse_args()
    wanted = TABLES if asked.table == "all" else (asked.table,)
    if "derivatives" in wanted:
        _print("Derivatives of the loss", {f"1-{n}": derivatives(n, asked.device) for n in ORDERS})
        _print("In ratios", {"": training_steps(asked.device)})
    if "products" in wanted:
        networks = curvature_rate.OverItsProducts.params[0]
        rows = {name: products(name, asked.device) for name in networks}
        _print("Derivatives over their matrix products alone", rows)
    for name in asked.workloads:
        if "eigenvalue" in wanted:
            _print(
                f"Top eigenvalue, tolerance {EIGENVALUE:g}",
                {name: top_eigenvalues(name, asked.seconds, asked.device)},
            )
        if "true_error" in wanted:
            _print(
                f"Top eigenvalue, off by {EIGENVALUE:g} at most",
                {name: top_eigenvalues_at_true_error(name, asked.seconds, asked.device)},
            )
        if "trace" in wanted:
            _print(f"Trace, tolerance {TRACE:g}", {name: traces(name, asked.seconds, asked.device)})


if __name__ == "__main__":
    main()
