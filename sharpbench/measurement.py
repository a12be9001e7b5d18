"""What a metric answers: a value with its uncertainty, and the work that it took."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from scipy import special

from sharpbench.errors import NotFinite
from sharpbench.notebook import facts_table

__all__ = ["ErrorComponent", "Measurement", "Source", "Work", "plain"]


@dataclass
class Work:
    """Passes over the model, counted in samples by the operators that make them.

    The unit that makes figures comparable across machines is the *gradient-equivalent*: the cost of
    one gradient over ``samples`` samples, its forward pass included. The convention is the usual
    operation count of reverse mode (Griewank & Walther 2008, ch. 4): a forward pass is 1/3 of a
    gradient and a backward pass 2/3, a Hessian-vector product 2 gradients, and each further nested
    derivative doubles (order k: 2^(k-1)).
    """

    forward: float = 0.0
    """Forward passes alone: those of a gradient are counted there."""
    gradient: float = 0.0
    hessian_vector: float = 0.0
    higher: float = 0.0
    """Derivatives of order > 2, already weighted: samples × 2^(k-1)."""

    def gradient_samples(self) -> float:
        """All passes, in samples of one gradient."""
        return self.forward / 3 + self.gradient + 2 * self.hessian_vector + self.higher

    def gradient_equivalents(self, samples: int) -> float:
        """The cost in gradients over ``samples`` samples."""
        return self.gradient_samples() / samples

    def add(self, other: Work) -> None:
        """Count the passes of ``other``, too."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

    def since(self, before: Work) -> Work:
        """What was counted after ``before``."""
        names = [part.name for part in fields(self)]
        return Work(**{n: getattr(self, n) - getattr(before, n) for n in names})

    def add_backward(self, samples: int) -> None:
        """Count a further backward pass through a graph that is there already: 2/3 of a gradient."""
        self.gradient += 2 * samples / 3

    def add_derivative(self, order: int, samples: int) -> None:
        """Count one nested reverse pass of ``order`` ≥ 1 over ``samples`` samples."""
        if order == 1:
            self.gradient += samples
        elif order == 2:
            self.hessian_vector += samples
        else:
            self.higher += samples * 2 ** (order - 1)


Source = Literal[
    "points", "probes", "directions", "points and directions", "draws", "rounding", "other"
]


@dataclass(frozen=True)
class ErrorComponent:
    """One source of a figure's random error.

    ``source``: ``points`` (the samples measured are a part of those meant), ``probes`` (random vectors of
    an estimator), ``directions`` (in input space; ``points and directions`` where one direction a point
    does not tell them apart), ``draws`` (random perturbations or partitions),
    ``rounding`` (of the working precision), ``other`` (a plug-in's that names none).
    ``size``: its standard error in the figure's unit; None where the source is there but its size is not
    told: by one draw alone, or by another library.
    ``degrees_of_freedom`` of the estimate of ``size``; None for a size that is known.
    """

    source: Source
    size: float | None
    degrees_of_freedom: float | None = None

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(
                f"unknown source {self.source!r}: one of {', '.join(get_args(Source))}"
            )
        for name in ("size", "degrees_of_freedom"):
            _set_number(self, name)
        if self.size is not None and not (math.isfinite(self.size) and self.size >= 0):
            raise NotFinite(
                f"a standard error must be finite and not negative, got {self.size} ({self.source})"
            )


@dataclass(frozen=True)
class Measurement:
    """One figure of one metric on one subject.

    ``errors``: where its random error comes from; ``standard_error`` is their sum in quadrature, None
    where there is none or where the size of one is not known. (A plug-in may give ``standard_error``
    alone: that is one component called ``other``.)
    ``error_bound``: how far an iteration that stops before its limit may be from it, in the figure's
    unit; not random, and no part of ``standard_error``.
    ``converged`` is False when the estimator ran out of budget before it met its tolerance: the value is
    then its best one. ``details`` is small and JSON-able; its entry ``checks`` names what was verified on
    the network at hand, with the relative deviation found.

    Numbers may come as numpy's or torch's own, of one element; they are kept as Python's. Raises NotFinite,
    a MetricFailed, for a non-finite value, TypeError and ValueError for one that is no number and for
    an error, a bound or a count that is negative.
    """

    value: float
    standard_error: float | None = None
    converged: bool = True
    samples: int = 0
    work: Work = field(default_factory=Work)
    details: dict[str, Any] = field(default_factory=dict)
    errors: tuple[ErrorComponent, ...] = ()
    error_bound: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "standard_error", "error_bound", "samples"):
            _set_number(self, name)
        object.__setattr__(self, "details", plain(self.details))
        object.__setattr__(self, "converged", plain(self.converged))
        if not math.isfinite(self.value):
            raise NotFinite(f"a measurement must be finite, got {self.value}")
        if self.error_bound is not None and not self.error_bound >= 0:
            raise ValueError(f"an error bound must not be negative, got {self.error_bound}")
        if self.samples < 0:
            raise ValueError(f"samples must count them, got {self.samples}")
        for name, kind in (
            ("samples", int),
            ("converged", bool),
            ("details", dict),
            ("work", Work),
        ):
            if not isinstance(given := getattr(self, name), kind):
                raise TypeError(f"{name} must be {kind.__name__}, got {type(given).__name__}")
        if self.standard_error is not None and not self.errors:
            object.__setattr__(self, "errors", (ErrorComponent("other", self.standard_error),))
        sizes = [e.size for e in self.errors]
        known = [s for s in sizes if s is not None]
        total = math.hypot(*known) if sizes and len(known) == len(sizes) else None
        if self.standard_error not in (None, total):
            raise ValueError(
                "standard_error follows from errors: leave it out where they are given"
            )
        object.__setattr__(self, "standard_error", total)

    @property
    def exact(self) -> bool:
        """No random component, no unfinished iteration: exact up to rounding in the metric's precision."""
        return not self.errors and not self.error_bound and self.converged

    @property
    def degrees_of_freedom(self) -> float | None:
        """Those of ``standard_error`` (Welch 1947, Satterthwaite 1946); None where every size is known."""
        if not self.standard_error:
            return None
        weights = [
            (e.size or 0.0) ** 4 / e.degrees_of_freedom for e in self.errors if e.degrees_of_freedom
        ]
        return self.standard_error**4 / sum(weights) if any(weights) else None

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """The two-sided interval for ``level``, by Student's t; None where the error's size isn't known."""
        if self.standard_error is None:
            return None if self.errors else (self.value, self.value)
        free = self.degrees_of_freedom
        half = 0.5 * (1 + level)
        quantile = special.ndtri(half) if free is None else special.stdtrit(free, half)
        width = float(quantile) * self.standard_error
        return self.value - width, self.value + width

    def _repr_html_(self) -> str:
        errors = [f"{_size(e.size)} ({e.source})" for e in self.errors]
        interval = self.interval()
        low, high = interval or (self.value, self.value)
        facts = {
            "value": f"{self.value:.6g}{' (exact)' if self.exact else ''}",
            "standard error": " and ".join(errors),
            "95% interval": "" if self.exact or interval is None else f"{low:.6g} to {high:.6g}",
            "error bound": "" if self.error_bound is None else f"{self.error_bound:.2g}",
            "converged": "yes" if self.converged else "no",
            "samples": self.samples or "",
            "work": f"{self.work.gradient_equivalents(self.samples):.4g} gradients"
            if self.samples and self.work.gradient_samples()
            else "not counted",
            "details": ", ".join(self.details),
        }
        return facts_table("Measurement", facts)


def _size(size: float | None) -> str:
    return "unknown" if size is None else f"{size:.2g}"


def plain(value: Any) -> Any:
    """``value`` with the scalars of numpy and torch in it as Python's, tuples as lists; else as it is."""
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _set_number(of: object, name: str) -> None:
    """Keep a field as Python's own number. Raises TypeError for what is none; None stands for none."""
    given = getattr(of, name)
    if (given is None and name != "value") or type(given) in {int, float}:
        return
    value = plain(given)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(given).__name__}")
    object.__setattr__(of, name, value)
