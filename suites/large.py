"""Networks of ten and twenty million parameters, side by side with PyHessian and curvlinops in one process.

    python -m suites.large --device cuda --output large.json      # the full form, within 150 s on an H200
    python -m suites.large --scale small          # quarters of their widths on few samples, for a processor

``resnet``: ResNet-18 (11.2M) on 512 Fashion-MNIST images as 3×32×32 (of drawn ones where the data are not
there, which ``data`` says); ``encoder``: one of MiniLM's size (22.7M) on 64 sentences of random ids, from its
configuration where `transformers` can be imported, else in plain torch; ``decoder``: like GPT (10M), on 64
texts of 128 random ids. Each is trained for some steps, and asked in float32 for its top eigenvalue, trace,
SAM sharpness and λ (of images, or of embeddings).

Rivals get the plain network and all data as one batch, as their manuals do. Eigenvalues: each at the
loosest power of ten as tolerance with which it is off by 1e-3 at most from a native one to 1e-5. Traces: each
with the probes that a standard error of ``TRACE`` takes, Hutchinson's number for the rivals, whose own rules
say nothing of the error. Seconds are the best of interleaved rounds (of the processor where there is no GPU),
also told in gradients of the same data; memory is the peak above what was held before. ``native`` may hold
one and a half times as much for a copy of the network and the gradient's graph as one gradient takes at its
peak, ``native, roomy`` as much as it wants. ``allowed_bytes``: 1.5 times one gradient's and the Lanczos
vectors.

What the time doesn't allow (``--seconds``) is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.allocator import keep_freed_memory
from sharpbench.cost import measure_cost
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.curvature.krylov import stored_in
from sharpbench.datasets import datasets
from sharpbench.datasets.files import FILE_SETS, data_root
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.subject import Subject

EIGENVALUE = 1e-3
"""The true error of top eigenvalues."""

TRACE = 0.02
"""The standard error of traces, a fiftieth of them."""

ROUNDS = 3
_TRIAL = 8
"""Probes whose spread tells how many Hutchinson's rule takes."""
_ROOMY = 1 << 60

SIZES: dict[str, dict[str, Any]] = {
    "full": {"resnet": 512, "encoder": (64, 32), "decoder": (64, 128), "steps": 30, "part": 1},
    "small": {"resnet": 16, "encoder": (16, 16), "decoder": (8, 32), "steps": 10, "part": 4},
}


# --- the networks -----------------------------------------------------------------------------------


class _Block(nn.Module):
    """Two 3×3 convolutions with batch norm around a shortcut (He et al., arXiv:1512.03385)."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.last = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.first(x)).relu()
        return (self.last(self.second(inner)) + self.shortcut(x)).relu()


def resnet18(classes: int = 10, part: int = 1) -> nn.Module:
    """The form for images of 32×32: 11.2M parameters, or a ``part`` of each width."""
    blocks: list[nn.Module] = []
    inside = first = 64 // part
    for out, stride in ((first, 1), (2 * first, 2), (4 * first, 2), (8 * first, 2)):
        blocks += [_Block(inside, out, stride), _Block(out, out, 1)]
        inside = out
    return nn.Sequential(
        nn.Conv2d(3, first, 3, 1, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * first, classes),
    )


class _Layer(nn.Module):
    """Attention and a feed-forward part, with the norms before them or behind."""

    def __init__(self, width: int, heads: int, inner: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        if self.causal:
            x = x + self._attended(self.norm(x))
            return x + self.down(nn.functional.gelu(self.up(self.last(x))))
        x = self.norm(x + self._attended(x))
        return self.last(x + self.down(nn.functional.gelu(self.up(x))))

    def _attended(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if self.causal:
            later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width))


class Transformer(nn.Module):
    """Token ids (N, T) to classes: (N, classes) of an encoder, (N, ids, T) of a decoder."""

    def __init__(
        self, ids: int, width: int, layers: int, heads: int, inner: int, length: int, classes: int
    ) -> None:
        super().__init__()
        self.causal = classes == 0
        self.embedding, self.place = nn.Embedding(ids, width), nn.Embedding(length, width)
        self.first = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            *(_Layer(width, heads, inner, causal=self.causal) for _ in range(layers))
        )
        self.head = nn.Linear(width, classes or ids)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.place.weight[: ids.shape[1]]
        x = self.layers(x if self.causal else self.first(x))
        if self.causal:
            x = self.first(x)
        outputs: Tensor = self.head(x).mT if self.causal else self.head(x.mean(1))
        return outputs


class _Logits(nn.Module):
    """A Hugging Face classifier as a function of ids."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.inner(input_ids=ids).logits
        return logits


def encoder(part: int = 1) -> tuple[nn.Module, str]:
    """MiniLM-L6-H384's sizes, 22.7M parameters, or a ``part`` of them; and where its ids become vectors."""
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except Exception:  # not there, or it can't be imported beside this torch
        return Transformer(30522 // part, 384 // part, 6, 12, 1536 // part, 512, 2), "embedding"
    config = BertConfig(
        vocab_size=30522 // part,
        hidden_size=384 // part,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536 // part,
        attn_implementation="eager",
    )
    return _Logits(BertForSequenceClassification(config)), "inner.bert.embeddings.word_embeddings"


def _images(count: int) -> tuple[Tensor, Tensor, str]:
    """Images 3×32×32 and classes (N,)."""
    root = data_root()
    if FILE_SETS["fashion_mnist"].missing(root) is None:
        size = {"train_size": max(count, 100), "test_size": 100}
        splits = datasets.create("fashion_mnist", size).load(Path(root), seed=0)
        images, classes = splits.train_inputs[:count], splits.train_targets[:count]
        if images.ndim == 3:
            images = images.unsqueeze(1)
        wide = nn.functional.pad(images.expand(-1, 3, -1, -1), (2, 2, 2, 2)).contiguous()
        return wide, classes, "Fashion-MNIST"
    means = torch.randn(10, 3, 8, 8)
    classes = torch.arange(count) % 10
    images = nn.functional.interpolate(means[classes], size=32, mode="bilinear")
    return images + 0.5 * torch.randn(count, 3, 32, 32), classes, "drawn"


@dataclass
class Workload:
    """A trained network with its data, for sharpbench and as its rivals take them."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    subject: Subject
    data: str
    criterion: nn.Module = field(default_factory=nn.CrossEntropyLoss)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def gradient(self) -> tuple[Tensor, ...]:
        loss = self.criterion(self.model(self.x), self.y)
        return torch.autograd.grad(loss, list(self.model.parameters()))


def workload(name: str, scale: str, device: str) -> Workload:
    """Built and trained from seed 0."""
    torch.manual_seed(0)
    size, part = SIZES[scale], SIZES[scale]["part"]
    where, data = "", "random ids"
    if name == "resnet":
        model = resnet18(part=part)
        x, y, data = _images(size["resnet"])
    elif name == "encoder":
        n, t = size["encoder"]
        model, where = encoder(part)
        x, y = torch.randint(1000, 7000, (n, t)), torch.arange(n) % 2
    else:
        n, t = size["decoder"]
        model, where = Transformer(256, 320 // part, 8, 10, 1280 // part, 128, 0), "embedding"
        ids = torch.randint(256, (n, t + 1))
        x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    model, x, y = model.to(device), x.to(device), y.to(device)
    _trained(model, x, y, size["steps"])
    if name == "resnet":
        subject = Subject(model, x, y)
    else:
        subject = Subject.from_batches(
            model,
            [(x, y)],
            differentiate=where,
            normaliser="tokens" if name == "decoder" else "samples",
        )
    return Workload(name, model, x, y, subject, data)


def _trained(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Steps of Adam on batches of 64, and batch norm's statistics of all data; in evaluation mode."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    for step in range(steps):
        rows = (torch.arange(64) + 64 * step) % len(x) if len(x) > 64 else torch.arange(len(x))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(x)
    optimizer.zero_grad(set_to_none=True)
    model.eval().requires_grad_(True)


# --- what is asked ----------------------------------------------------------------------------------


@dataclass
class Answer:
    """A figure with the products that it took, and whether its own rule was met."""

    value: float
    products: int
    converged: bool
    gradients: float
    told: str = ""


def _by_metric(w: Workload, metric: str, **parameters: Any) -> Callable[[], Answer]:
    made = metrics.create(metric, {"dtype": "float32", **parameters})

    def call() -> Answer:
        m: Measurement = made.measure(w.subject, seed=0)
        products = m.details.get("products", m.details.get("probes", 0))
        told = "; ".join(str(m.details[key]) for key in ("method", "why") if key in m.details)
        if m.standard_error is not None and m.value:
            told += f" ± {m.standard_error / abs(m.value):.1g}"
        gradients = m.work.gradient_equivalents(m.samples)
        return Answer(m.value, int(products), m.converged, gradients, told.strip())

    return call


def _native(w: Workload, memory: int, tolerance: float) -> Callable[[], Answer]:
    budget = {"memory_budget": memory, "tolerance": tolerance, "max_products": 300}
    return _by_metric(w, "hessian_top_eigenvalue", **budget)


def _pyhessian(w: Workload, call: Callable[[Any], tuple[float, int, bool]]) -> Answer:
    from pyhessian import hessian

    count = [0]

    def seen(module: nn.Module, args: object, output: Tensor) -> None:
        def note(gradient: Tensor) -> None:
            count[0] += 1

        output.register_hook(note)

    hook = w.model.register_forward_hook(seen)
    try:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*create_graph=True.*")
            made = hessian(w.model, w.criterion, data=(w.x, w.y), cuda=w.x.is_cuda)
            value, products, converged = call(made)
    finally:
        hook.remove()
        for p in w.model.parameters():
            p.grad = None
    return Answer(value, products or count[0] - 1, converged, float("nan"))


def _pyhessian_eigenvalue(w: Workload, tolerance: float) -> Callable[[], Answer]:
    def asked(made: Any) -> tuple[float, int, bool]:
        values, _ = made.eigenvalues(maxIter=300, tol=tolerance, top_n=1)
        return float(values[0]), 0, True

    return lambda: _pyhessian(w, asked)


def _pyhessian_trace(w: Workload, probes: int) -> Callable[[], Answer]:
    def asked(made: Any) -> tuple[float, int, bool]:
        return statistics.fmean(map(float, made.trace(maxIter=probes, tol=0.0))), probes, True

    return lambda: _pyhessian(w, asked)


def _curvlinops(w: Workload) -> Any:
    from curvlinops import HessianLinearOperator

    parameters = list(w.model.parameters())
    # Its check that products repeat asks for equal bits, which convolutions on a GPU do not give.
    return HessianLinearOperator(
        w.model, w.criterion, parameters, [(w.x, w.y)], check_deterministic=False
    )


def _curvlinops_eigenvalue(w: Workload, tolerance: float) -> Callable[[], Answer]:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, eigsh

    from sharpbench.metrics.backends.curvlinops import krylov_vectors

    def call() -> Answer:
        scipy, count = _curvlinops(w).to_scipy(), [0]

        def product(vector: Any) -> Any:
            count[0] += 1
            return scipy @ vector

        counted = LinearOperator(scipy.shape, matvec=product, dtype=scipy.dtype)
        start = np.random.default_rng(0).standard_normal(scipy.shape[0]).astype(scipy.dtype)
        size = krylov_vectors(tolerance, scipy.shape[0])
        values = eigsh(
            counted, 1, which="LA", tol=tolerance, v0=start, ncv=size, return_eigenvectors=False
        )
        return Answer(float(values[-1]), count[0], True, float("nan"))

    return call


def _curvlinops_trace(w: Workload, probes: int) -> Callable[[], Answer]:
    def call() -> Answer:
        from curvlinops import hutchinson_trace

        torch.manual_seed(0)
        return Answer(float(hutchinson_trace(_curvlinops(w), probes)), probes, True, float("nan"))

    return call


class Clock:
    """The time that is left, and what a call takes."""

    def __init__(self, seconds: float) -> None:
        self.end = self.now() + seconds

    @property
    def left(self) -> float:
        return self.end - self.now()

    @staticmethod
    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


class Bench:
    """One network's rows."""

    def __init__(self, w: Workload, clock: Clock) -> None:
        self.w, self.clock = w, clock
        self.device = w.x.device
        w.gradient()
        _, cost = measure_cost(w.gradient, repeats=0, device=self.device)
        self.gradient_bytes = cost.peak_bytes or 0
        self.gradient_seconds = min(self._timed(w.gradient)[1] for _ in range(ROUNDS))
        self.told: dict[str, Any] = {
            "parameters": w.parameters,
            "samples": len(w.x),
            "data": w.data,
            "gradient": {"seconds": self.gradient_seconds, "peak_bytes": self.gradient_bytes},
        }

    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        start = Clock.now()
        answer = call()
        return answer, Clock.now() - start

    def row(self, call: Callable[[], Answer], truth: float | None = None) -> dict[str, Any]:
        """One call: its answer, its time and its peak memory."""
        (answer, seconds), cost = measure_cost(
            lambda: self._timed(call), repeats=0, device=self.device
        )
        row = {
            "value": answer.value,
            "products": answer.products,
            "seconds": seconds,
            "peak_bytes": cost.peak_bytes,
            "converged": answer.converged,
            "counted_gradients": None if math.isnan(answer.gradients) else answer.gradients,
        }
        if answer.told:
            row["told"] = answer.told
        if truth is not None:
            row["true_error"] = abs(answer.value / truth - 1)
        return row

    def tried(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return call()
        except Exception as error:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:300]}

    def rounds(
        self, rows: dict[str, dict[str, Any]], calls: dict[str, Callable[[], Answer]]
    ) -> None:
        """Further rounds in turn, as far as the time allows; and every time in gradients."""
        for _ in range(ROUNDS - 1):
            if sum(rows[who]["seconds"] for who in calls) > 0.5 * self.clock.left:
                break
            for who, call in calls.items():
                rows[who]["seconds"] = min(rows[who]["seconds"], self._timed(call)[1])
                rows[who]["rounds"] = rows[who].get("rounds", 1) + 1
        for row in rows.values():
            if "seconds" in row:
                row["in_gradients"] = row["seconds"] / self.gradient_seconds

    def top_eigenvalue(self) -> dict[str, Any]:
        """Each way at the loosest tolerance that is off by `EIGENVALUE` at most."""
        w = self.w
        copy = 4 * w.parameters  # of the network, which is within what is allowed
        held = max(int(1.5 * self.gradient_bytes) - copy, 1 << 20)
        found = self.row(_native(w, _ROOMY, 1e-5))
        truth = found["value"]
        ways: dict[str, Callable[[float], Callable[[], Answer]]] = {
            "native": lambda tolerance: _native(w, held, tolerance),
            "native, roomy": lambda tolerance: _native(w, _ROOMY, tolerance),
            "pyhessian": lambda tolerance: _pyhessian_eigenvalue(w, tolerance),
            "curvlinops": lambda tolerance: _curvlinops_eigenvalue(w, tolerance),
        }
        rows: dict[str, dict[str, Any]] = {}
        calls = {}
        for who, way in ways.items():
            for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
                if self.clock.left < rows.get(who, found).get("seconds", 0.0):
                    rows.setdefault(who, {"failed": "left out: the time is up"})
                    break
                rows[who] = self.tried(lambda: self.row(way(tolerance), truth))  # noqa: B023
                rows[who]["tolerance"] = tolerance
                if "failed" in rows[who]:
                    break
                if rows[who]["true_error"] <= EIGENVALUE:
                    calls[who] = way(tolerance)
                    break
        self.rounds(rows, calls)
        number = torch.finfo(stored_in(torch.float32, w.parameters)).bits // 8
        for who in ("native", "native, roomy"):
            if "products" in rows[who]:
                vectors = (rows[who]["products"] + 1) * w.parameters * number
                rows[who]["allowed_bytes"] = int(1.5 * self.gradient_bytes) + vectors
        return {"truth": truth, "truth_products": found["products"], "rows": rows}

    def trace(self) -> dict[str, Any]:
        """Each way with the probes that a standard error of `TRACE` takes."""
        w = self.w
        work = Work()
        operator = HessianOperator(
            w.subject.working_model(torch.float32), w.subject.loss, *w.subject.data("train"),
            work=work, memory_budget=_ROOMY, verify=False,
        )  # fmt: skip
        generator, each = torch.Generator(self.device).manual_seed(1), []
        start = Clock.now()
        for _ in range(_TRIAL):
            signs = torch.randint(2, (w.parameters, 1), generator=generator, device=self.device)
            signs = 2 * signs.float() - 1
            each.append(float((signs * operator.matmat(signs)).sum(dtype=torch.float64)))
        seconds = (Clock.now() - start) / _TRIAL
        del operator
        spread, mean = statistics.stdev(each), statistics.fmean(each)
        probes = max(2, math.ceil((spread / (TRACE * mean)) ** 2))
        told = {"probes_needed": probes, "seconds_a_probe": seconds}
        rows: dict[str, dict[str, Any]] = {}
        affordable = max(4, int(0.25 * self.clock.left / seconds))
        most, used = min(2 * probes + 16, affordable), min(probes, affordable)
        asked = {"tolerance": TRACE, "max_probes": most, "memory_budget": _ROOMY}
        calls = {
            "native": _by_metric(w, "hessian_trace", **asked),
            "pyhessian": _pyhessian_trace(w, used),
            "curvlinops": _curvlinops_trace(w, used),
        }
        for who, call in calls.items():
            if self.clock.left <= 0:
                rows[who] = {"failed": "left out: the time is up"}
                continue
            rows[who] = row = self.tried(lambda: self.row(call))  # noqa: B023
            if who != "native" and used < probes and "seconds" in row:
                row["told"] = f"{probes} probes would take {row['seconds'] * probes / used:.3g} s"
        self.rounds(rows, {})
        return {**told, "rows": rows}

    def alone(self, metric: str, **parameters: Any) -> dict[str, Any]:
        """A metric that no rival has."""
        call = _by_metric(self.w, metric, **parameters)
        rows = {"native": self.tried(lambda: self.row(call))}
        self.rounds(rows, {} if "failed" in rows["native"] else {"native": call})
        return {"rows": rows}


def measured(
    w: Workload, clock: Clock, keep: Callable[[dict[str, Any]], None] = lambda found: None
) -> dict[str, Any]:
    """All that is asked of one network; ``keep`` is given what there is after each part of it."""
    bench = Bench(w, clock)
    found = bench.told
    asked: dict[str, Callable[[], dict[str, Any]]] = {
        "top_eigenvalue": bench.top_eigenvalue,
        "sam_sharpness": lambda: bench.alone("sam_sharpness"),
        "curvature_rate": lambda: bench.alone(
            "curvature_rate", split="train", samples="all", directions=1
        ),
        "trace": bench.trace,
    }
    for name, ask in asked.items():
        if clock.left <= 0:
            found[name] = {"failed": "left out: the time is up"}
            continue
        found[name] = bench.tried(ask)
        keep(found)
    return found


def _cells(found: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("top_eigenvalue", "trace", "sam_sharpness", "curvature_rate"):
        part = found[name]
        for who, row in part.get("rows", {"": part}).items():
            if "failed" in row:
                lines.append(f"| {name} | {who} | {row['failed']} | | | | |")
                continue
            memory = f"{(row['peak_bytes'] or 0) / 2**20:.0f} MiB"
            if "allowed_bytes" in row:
                memory += f" of {row['allowed_bytes'] / 2**20:.0f}"
            error = f"{row['true_error']:.1g}" if "true_error" in row else row.get("told", "")
            lines.append(
                f"| {name} | {who} | {row['value']:.5g} | {row['seconds']:.3g} s "
                f"({row['in_gradients']:.3g} gradients) | {row['products']} | {error} | {memory} |"
            )
    return lines


def main() -> None:
    """Measure, print a table, and write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["resnet", "encoder", "decoder"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--scale", choices=list(SIZES), default="full")
    parser.add_argument("--seconds", type=float, default=140.0, help="for all networks together")
    parser.add_argument("--output", type=Path, help="a JSON file")
    asked = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if asked.device == "cpu":
        torch.set_num_threads(1)
        keep_freed_memory()
    device = torch.cuda.get_device_name() if asked.device == "cuda" else platform.processor()
    told: dict[str, Any] = {
        "device": device or asked.device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "scale": asked.scale,
        "networks": {},
    }
    begun = Clock.now()
    for number, name in enumerate(asked.networks):
        left = asked.seconds - (Clock.now() - begun)
        clock = Clock(left / (len(asked.networks) - number))
        w = workload(name, asked.scale, asked.device)

        def keep(found: dict[str, Any]) -> None:
            told["networks"][name] = found  # noqa: B023
            told["seconds"] = Clock.now() - begun
            if asked.output is not None:  # what is measured stays, whatever follows
                asked.output.write_text(json.dumps(told, indent=1), encoding="utf-8")

        found = measured(w, clock, keep)
        keep(found)
        del w
        print(f"\n{name}: {found['parameters']:,} parameters, {found['samples']} samples ({found['data']}), "
              f"one gradient {found['gradient']['seconds']:.3g} s and "
              f"{found['gradient']['peak_bytes'] / 2**20:.0f} MiB\n")  # fmt: skip
        print(
            "| | | value | time | products | true error | peak memory |\n|---|---|---|---|---|---|---|"
        )
        print("\n".join(_cells(found)), flush=True)
    print(f"\n{told['seconds']:.0f} s on {told['device']}, torch {told['torch']}")


if __name__ == "__main__":
    main()
