"""check, of metrics that misbehave: findings that say so."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric, metrics
from sharpbench.suite import conformance


class Untold(Exception):
    def __str__(self):
        raise RuntimeError


def raising(error):
    def method(*_, **__):
        raise error

    return method


def one(**fields):
    return lambda self, subject, *, seed: Measurement(**{"value": 1.0, "samples": 1, **fields})


HOSTILE = {
    "raises": ({"measure": raising(ValueError("x"))}, "ValueError: x"),
    "leaves": ({"measure": raising(SystemExit(0))}, "it called sys.exit(0)"),
    "interrupts": ({"measure": raising(KeyboardInterrupt())}, "it raised KeyboardInterrupt"),
    "ends": ({"measure": raising(GeneratorExit())}, "it raised GeneratorExit"),
    "untold": ({"measure": raising(Untold())}, "Untold"),
    "nothing": ({"measure": lambda self, subject, *, seed: None}, "NoneType"),
    "number": ({"measure": lambda self, subject, *, seed: 1.0}, "float"),
    "not_finite": ({"measure": one(value=float("nan"))}, "must be finite"),
    "text": ({"measure": one(value="1.0")}, "TypeError"),
    "no_samples": ({"measure": one(samples=None)}, "TypeError"),
    "infinite": ({"measure": one(details={"a": float("inf")})}, "can't be stored as JSON"),
    "endless": (
        {"measure": one(details={"a": [0.5] * 400_000})},
        "MiB, a figure's record at most 1",
    ),
    "noted": ({"notes": lambda self, details: "text"}, "must answer with text"),
    "unsupported": ({"unsupported": raising(ValueError("u"))}, "ValueError: u"),
    "stays_under": ({"stays_under": raising(ValueError("s"))}, "ValueError: s"),
    "expected_after": ({"expected_after": raising(ValueError("e"))}, "ValueError: e"),
    "titled": ({"title": property(raising(ValueError("t")))}, "ValueError: t"),
}


@pytest.fixture
def _small(tiny, monkeypatch):
    monkeypatch.setattr(conformance, "_subjects", lambda: {"a network": tiny})
    monkeypatch.setattr(
        type(conformance.transformations), "available", lambda self: ["neuron_permutation"]
    )


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_metric_that_misbehaves_is_found_out(name):
    attributes, reason = HOSTILE[name]
    usual = {"name": f"hostile_{name}", "title": name, "unit": "", "space": "parameter"}
    made = {
        "__doc__": "Misbehaves.",
        "measure": one(),
        **usual,
        **attributes,
        "__module__": __name__,
    }
    metrics.register(dataclass(frozen=True)(type(name, (Metric,), made)))
    try:
        findings = conformance.check_metric(f"hostile_{name}")
    finally:
        metrics.forget(f"hostile_{name}")
    failed = [finding.detail for finding in findings if not finding.passed]
    assert any(reason in detail for detail in failed), failed
