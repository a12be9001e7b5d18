"""Top eigenvalue and trace: products to a tolerance, true error, and time against each rival.

Less is better throughout. Ratios are measured side by side in one process.
"""

from __future__ import annotations

from sharpbench.metrics import metrics

from . import workloads

NAMES = list(workloads.WORKLOADS)


class TopEigenvalue:
    """At the same stated tolerance of 1e-3, whatever the true error is then: `tables` shows it beside."""

    params = (NAMES, ["pyhessian", "curvlinops"])
    param_names = ("workload", "rival")
    timeout = 1200
    unit = "ratio"

    def setup(self, name: str, rival: str) -> None:
        workloads.subject(name)

    def track_time_over_rival(self, name: str, rival: str) -> float:
        ours, theirs = self._both(name, rival, rounds=3)
        return ours.seconds / theirs.seconds

    def track_products_over_rival(self, name: str, rival: str) -> float:
        ours, theirs = self._both(name, rival, rounds=1)
        return ours.measurement.details["products"] / theirs.measurement.details["products"]

    def _both(self, name: str, rival: str, rounds: int) -> tuple[workloads.Timed, workloads.Timed]:
        calls = {who: workloads.top_eigenvalue(name, who, 1e-3) for who in ("native", rival)}
        found = workloads.side_by_side(calls, workloads.truth(name), rounds=rounds)
        return found["native"], found[rival]


class NativeTopEigenvalue:
    """The default tolerance, on its own."""

    params = (NAMES, ["cpu", "cuda"])
    param_names = ("workload", "device")
    timeout = 600

    def setup(self, name: str, device: str) -> None:
        self.subject = workloads.subject(name, device)
        self.exact = workloads.truth(name)
        self.metric = metrics.create(
            "hessian_top_eigenvalue", {"samples": workloads.samples(name), "dtype": "float32"}
        )

    def time_measure(self, name: str, device: str) -> None:
        self.metric.measure(self.subject, seed=0)

    def peakmem_measure(self, name: str, device: str) -> None:
        self.metric.measure(self.subject, seed=0)

    def track_products(self, name: str, device: str) -> float:
        return float(self.metric.measure(self.subject, seed=0).details["products"])

    track_products.unit = "Hessian-vector products"

    def track_true_error(self, name: str, device: str) -> float:
        return abs(self.metric.measure(self.subject, seed=0).value / self.exact - 1)

    track_true_error.unit = "relative error"


class Trace:
    """To a standard error of 1%, by each method, against PyHessian's Hutchinson probes."""

    params = (NAMES, ["hutchinson", "hutch++", "xtrace", "gauss_newton"])
    param_names = ("workload", "method")
    timeout = 1200

    def setup(self, name: str, method: str) -> None:
        workloads.subject(name)

    def track_work_over_pyhessian(self, name: str, method: str) -> float:
        ours = workloads.trace_within(name, method, "native", 0.01)
        theirs = workloads.trace_within(name, "", "pyhessian", 0.01)
        if not (ours and theirs):
            return float("nan")
        work = [t.measurement.work.gradient_samples() for t in (ours, theirs)]
        return work[0] / work[1]

    track_work_over_pyhessian.unit = "ratio"
