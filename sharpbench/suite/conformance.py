"""Does a metric keep its contract? The checks behind ``sharpbench check``, for authors of metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook

from sharpbench.datasets import datasets
from sharpbench.errors import (
    InputError,
    Meddled,
    MetricFailed,
    MetricUnsupported,
    TransformationRefused,
    first_line,
    guarded,
    message_of,
)
from sharpbench.invariance import Transformation, transformations
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric, metrics
from sharpbench.models import models
from sharpbench.plugins import plugin_name
from sharpbench.seeds import derive_seed
from sharpbench.subject import Subject
from sharpbench.suite.asking import check_answer, explain
from sharpbench.training import recipes

__all__ = ["Finding", "check_metric"]

_TOLERANCE = 0.02


@dataclass(frozen=True)
class Finding:
    """One check: what was asked, whether it passed, and what was seen."""

    title: str
    passed: bool
    detail: str
    mend: str = ""
    """What the metric's author can do about it."""


def check_metric(name: str, parameters: Mapping[str, Any] | None = None) -> list[Finding]:
    """Every check of the metric called ``name``, or of the class at ``file.py:Class`` or
    ``package.module:Class``.

    ``parameters``: other ones than its defaults. Raises InputError if there is no such metric.
    """
    metric = metrics.create(plugin_name("metric", name), parameters)
    findings = _told("says what it is", _documentation, metric)
    answers = 0
    for title, subject in _subjects().items():
        try:
            with guarded():
                first = metric.checked_measure(subject, seed=0)
                figure = f"{first.value:.6g}"
        except MetricUnsupported as reason:
            findings.append(Finding(f"supports {title}", True, f"declines: {reason}"))
            continue
        except Exception as error:
            findings.append(Finding(f"answers on {title}", False, explain(error), _mend(error)))
            continue
        answers += 1
        findings.append(Finding(f"answers on {title}", True, f"{figure}, model unchanged"))
        findings += _told(
            f"keeps its contract on {title}", _contract, metric, subject, first, title
        )
        findings += _invariance(metric, subject, first, title)
    told = f"answered on {answers} of {len(_subjects())}"
    findings.append(Finding("measures something", answers > 0, told, _MEND["answers"]))
    return findings


_MEND = {
    "says": 'write them into the class: title = "my metric", unit = "" (a pure number), '
    'space = "parameter", "input" or "function"',
    "answers": "it has to answer on one of the networks at least; where it can't it says why: "
    "raise MetricFailed(reason)",
    "raises": "where there is no answer raise MetricFailed(reason); anything else is a fault of the metric",
    "meddles": "work on a copy of the network, model = subject.working_model(torch.float64), and draw "
    "from sharpbench.seeds.torch_generator(seed)",
    "deterministic": "draw every random number from sharpbench.seeds.torch_generator(seed), none from "
    "torch's or numpy's own state",
    "storable": "put finite numbers, texts, lists and dicts into details: float(tensor), tensor.tolist(); of "
    "very many what sums them up; notes answers with a list of texts",
    "work": "say what it took: Measurement(value, samples=n, work=Work(gradient=n)) for a gradient of n "
    "samples, Work(forward=n) for outputs alone (sharpbench.measurement.Work)",
    "promise": "take what it moves under out of invariant_under (its words are those of sharpbench.change), "
    "or tell its random error by errors=(ErrorComponent(source, size, degrees_of_freedom),)",
    "prediction": "expected_after has to tell the figure after a change, or None where theory tells none",
}
"""By check, what to do where it fails."""


def _mend(error: Exception) -> str:
    return _MEND["meddles" if isinstance(error, Meddled) else "raises"]


def _told(title: str, check: Callable[..., list[Finding]], *of: object) -> list[Finding]:
    """The findings of a check, or that what was checked raised."""
    try:
        with guarded():
            return check(*of)
    except Exception as error:
        return [Finding(title, False, explain(error), _mend(error))]


@lru_cache(maxsize=1)
def _subjects() -> dict[str, Subject]:
    """A tanh and a ReLU network and a convolutional one, trained for a moment on real digits."""
    root = Path()  # neither data set needs files
    built = {}
    for title, dataset, model, parameters in (
        (
            "a tanh network on two moons",
            "two_moons",
            "mlp",
            {"widths": (16,), "activation": "tanh"},
        ),
        ("a ReLU network on digits", "digits", "mlp", {"widths": (16,), "activation": "relu"}),
        ("a convolutional network on digits", "digits", "cnn", {"channels": (4, 4), "hidden": 8}),
    ):
        seed = derive_seed(0, "conformance")
        splits = datasets.create(dataset).load(root, seed=seed)
        initial, network = (
            models.create(model, parameters).build(splits.input_shape, splits.outputs, seed=1)
            for _ in range(2)
        )
        recipes.create("adam", {"epochs": 5}).train(network, splits, seed=seed)
        built[title] = Subject(
            network, splits.train_inputs, splits.train_targets, splits=splits, initial=initial
        )
    return built


def _documentation(metric: Metric) -> list[Finding]:
    missing = [key for key in ("title", "space") if not getattr(metric, key, None)]
    if not isinstance(getattr(metric, "unit", None), str):
        missing.append('unit ("" for a pure number)')
    found = Finding(
        "says what it is",
        not missing,
        f"missing class attributes: {', '.join(missing)}" if missing else metric.title,
        _MEND["says"],
    )
    return [found]


def _contract(metric: Metric, subject: Subject, first: Measurement, title: str) -> list[Finding]:
    torch.manual_seed(12345)  # another global state must make no difference
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = register_module_forward_hook(count)
    try:
        with guarded():
            again = metric.checked_measure(subject, seed=0)
    except Exception as error:
        told = f"the second time it raised {explain(error)}"
        return [Finding(f"deterministic on {title}", False, told, _mend(error))]
    finally:
        hook.remove()
    same = first.value == again.value and first.standard_error == again.standard_error
    fault = None
    try:
        with guarded():
            check_answer(metric, first)
    except Exception as error:
        fault = message_of(error)
    passes = first.work.gradient_samples()
    return [
        Finding(
            f"deterministic on {title}",
            same,
            f"{first.value!r} and {again.value!r}",
            _MEND["deterministic"],
        ),
        Finding(
            f"storable on {title}", fault is None, fault or "a record holds it", _MEND["storable"]
        ),
        Finding(
            f"counts its work on {title}",
            first.samples > 0 and (passes > 0 or calls == 0),
            f"{passes:g} gradient samples over {first.samples} samples"
            + ("" if calls else ", no pass over the network"),
            _MEND["work"],
        ),
    ]


def _invariance(metric: Metric, subject: Subject, first: Measurement, title: str) -> list[Finding]:
    findings = []
    for name in transformations.available():
        try:
            with guarded():
                found = _under(name, metric, subject, first, title)
        except Exception as error:
            found = Finding(f"{name} of {title}", False, explain(error), _mend(error))
        if found is not None:
            findings.append(found)
    return findings


def _under(
    name: str, metric: Metric, subject: Subject, first: Measurement, title: str
) -> Finding | None:
    """How the metric fares under a transformation; None where it doesn't apply to the network."""
    try:
        transformation = transformations.create(name)
    except InputError as error:
        return Finding(f"{name}: not made", True, str(error))
    promised = metric.promises(transformation)
    try:
        moved = _moved(transformation, subject)
    except TransformationRefused:
        return None
    except Exception as error:  # the transformation's fault, not the metric's
        return Finding(f"{name} of {title}: not applied", True, first_line(error))
    try:
        changed = metric.checked_measure(moved, seed=0)
    except MetricFailed as error:
        # Without a promise it may decline a changed network, e.g. one in other coordinates.
        return Finding(f"{name} of {title}", not promised, str(error), _MEND["promise"])
    noise = 3 * math.hypot(first.standard_error or 0, changed.standard_error or 0)
    noise += (first.error_bound or 0) + (changed.error_bound or 0)
    expected = metric.expected_after(transformation, first.value)
    target = first.value if expected is None else expected
    allowed = max(noise, _TOLERANCE * abs(first.value))
    untold = any(e.size is None for e in (*first.errors, *changed.errors))
    stays = abs(changed.value - target) <= allowed
    figures = f"{first.value:.6g} before, {changed.value:.6g} after, {allowed:.2g} allowed"
    if untold and not stays:  # one network alone can't tell a change from noise of unknown size
        return Finding(f"{name} on {title}: its own noise is not told", True, figures)
    if expected is not None:
        predicted = f"{figures}, {expected:.6g} predicted"
        return Finding(
            f"moves as predicted under {name} on {title}", stays, predicted, _MEND["prediction"]
        )
    if promised:
        told = (
            figures
            if stays
            else f"{figures}; invariant_under promises {_by(metric, transformation)}"
        )
        return Finding(f"stays under {name} on {title}", stays, told, _MEND["promise"])
    seen = "stays" if stays else "moves"
    return Finding(f"{seen} under {name} on {title} (no promise)", True, figures)


def _moved(transformation: Transformation, subject: Subject) -> Subject:
    """The subject after the change; made once for all metrics, each of which leaves it as it is."""
    key = (id(subject), type(transformation), transformation.label)
    if key not in _MOVED:
        before = copy.deepcopy(subject.model).double()
        with guarded():
            after = transformation.transform(before, seed=1, splits=subject.splits)
        _MOVED[key] = subject, subject.with_model(after.model).mapped(after.points)
    return _MOVED[key][1]


_MOVED: dict[tuple[int, type[Transformation], str], tuple[Subject, Subject]] = {}
"""By subject, which is kept, so that no other one takes its id, and change."""


def _by(metric: Metric, change: Transformation) -> str:
    """The words of ``invariant_under`` that make a promise for ``change``."""
    named = sorted({w for part in change.parts for w in metric.invariant_under & part.properties})
    return " and ".join(map(repr, named)) or "it"
