"""Means, correlations and shares with their 95% intervals: the only place where one is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

__all__ = [
    "BEYOND",
    "CONFIDENCE",
    "LEVEL",
    "NORMAL",
    "ROUNDING",
    "Estimate",
    "beyond",
    "binomial_interval",
    "bound_for_single",
    "effective_number",
    "exactly",
    "jackknife",
    "line",
    "mean",
    "mean_and_error",
    "mean_over_seeds",
    "networks_to_bound",
    "over_seeds",
    "partial_spearman",
    "pearson",
    "slope",
    "spearman",
    "students",
]

LEVEL = 0.05
"""The share of false alarms that is let pass."""

CONFIDENCE = 1 - LEVEL
"""What every interval covers."""

NORMAL = 1.96
"""Standard errors on each side of a normal 95% interval, where they are known."""

BEYOND = 3.0
"""Standard errors by which a single difference must exceed what is allowed to count as one, where these are
known; see `beyond` for estimated ones."""


ROUNDING = {"float64": 1e-8, "float32": 1e-4}
"""What a figure that is called exact in that precision may be off, relatively."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval over ``n`` networks; an exact one has no width.

    ``noise``: how far from 0 it gets in 95 of 100 cases by chance in the points that all of the networks
    are judged on, which the interval does not see; within it there is no verdict.
    """

    value: float
    low: float
    high: float
    n: int
    noise: float = 0.0


def exactly(value: float, n: int = 1) -> Estimate:
    """A figure without sampling error."""
    return Estimate(value, value, value, n)


def students(free: float) -> float:
    """Student's t of a two-sided 95% interval with so many degrees of freedom."""
    return float(stats.t.ppf(1 - LEVEL / 2, free))


def beyond(error: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """How many estimated standard errors ``error`` (…,) are exceeded by chance as seldom as `BEYOND` known
    ones, by Student's t.

    ``scatter``: Σ size⁴/(degrees of freedom) over the components of the error, 0 where all are known; the
    degrees of freedom are error⁴/scatter (Welch 1947, Satterthwaite 1946).
    """
    error, scatter = np.asarray(error, dtype=float), np.asarray(scatter, dtype=float)
    estimated = scatter > 0
    free = np.divide(error**4, scatter, out=np.ones_like(error), where=estimated)
    return np.asarray(np.where(estimated, stats.t.isf(stats.norm.sf(BEYOND), free), BEYOND))


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and its standard error; of a single value that error is unknown (NaN)."""
    values = np.asarray(values, dtype=float)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def mean(values: np.ndarray, *, counted: bool = False) -> Estimate | None:
    """Mean of the finite values with Student's t interval; None for fewer than two of them.

    It supposes a spread that is about normal: of two to six lognormal values it holds 91 to 94% where their
    logarithms have a deviation of 0.5, 82 to 89% at 1 (take the mean of the logarithms). ``counted``: values
    are shares of a few points, which can be equal by chance; of a few equal ones it has no ends (`_EQUAL`).
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    centre, error = mean_and_error(values)
    half = students(len(values) - 1) * error
    if counted and _alike(values) and len(values) < _EQUAL:
        half = math.inf
    return Estimate(centre, centre - half, centre + half, len(values))


_EQUAL = 6
"""So many equal counted figures are certain of it: of two sides six fall on one in 3% of cases. Fewer don't
tell how far another one may be. Figures that are no counts are equal by their nature alone."""


def _alike(values: np.ndarray) -> bool:
    """Whether all are the same but for rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def mean_over_seeds(
    values: np.ndarray, seeds: np.ndarray, configurations: np.ndarray
) -> Estimate | None:
    """Mean of ``values`` (N,) of networks with its 95% interval over the ``seeds`` (N,) or (N, streams).

    What is drawn are the seeds: networks of one are alike, by how much a few of them can't tell, so that each
    seed's networks are left out together (`jackknife`). ``configurations`` (N,) may differ by any amount:
    each keeps the weight of its networks throughout. Student's t has one degree of freedom less than seeds,
    which count for less where they hold unequal numbers n of networks, (Σn)²/Σn² (Kish 1965). Of several
    streams the widest interval stands.

    None for a single seed of the data, of which nothing says what another one gives, unless all values are 0
    but for rounding.
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        return None
    _, group, sizes = np.unique(configurations, return_inverse=True, return_counts=True)

    def weighted(kept: np.ndarray) -> float:
        count = np.bincount(group, kept, len(sizes))
        total = np.bincount(group, kept * values, len(sizes))
        there = count > 0
        return float(np.average(total[there] / count[there], weights=sizes[there]))

    centre = weighted(np.ones(len(values)))
    if bool(np.abs(values).max() <= _NONE):
        return Estimate(centre, centre, centre, len(values))
    ends = []
    for place, column in enumerate((seeds[:, None] if seeds.ndim == 1 else seeds).T):
        names, held = np.unique(column, return_counts=True)
        if len(names) < 2:
            if place == 0:
                return None
            continue
        without = np.array([weighted((column != name).astype(float)) for name in names])
        free = len(values) ** 2 / float(np.square(held).sum()) - 1
        ends.append(jackknife(centre, without, free=free)[:2])
    low, high = max(ends, key=lambda end: end[1] - end[0])
    return Estimate(centre, low, high, len(values))


_NONE = 1e-9
"""What is no larger is 0 but for rounding."""


def bound_for_single(values: np.ndarray, blocks: np.ndarray) -> float:
    """With 95% confidence 95% of single values, of any blocks, lie within ± it.

    |mean| and Howe's factor of a two-sided normal tolerance interval (J. Am. Stat. Assoc. 64, 1969) for what
    values that are alike within a block are worth at least (`effective_number`). Values that are 0 but for
    rounding need no second one; of others a single block says nothing of the next: the bound is infinite.
    """
    values = np.asarray(values, dtype=float)
    centre = abs(float(values.mean()))
    if bool(np.abs(values).max() <= _NONE):
        return centre
    if len(np.unique(blocks)) < 2:
        return math.inf
    least, of_any = _at_least(values, blocks)
    return centre + _tolerance_factor(least) * of_any


def _at_least(values: np.ndarray, blocks: np.ndarray) -> tuple[float, float]:
    """How many values these are worth at least, and the standard deviation of values of any blocks, of which
    few show too little: of the variance between blocks (blocks − 1)/blocks."""
    least = effective_number(values, blocks, seldom=_SELDOM)
    n, groups = len(values), len(np.unique(blocks))
    deviation = float(values.std(ddof=1))
    if groups == n or least >= n:
        return least, deviation
    alike = (n / least - 1) / (n / groups - 1)
    return least, deviation / math.sqrt(1 - alike * (1 - (1 - 1 / groups) * n / (n - 1)))


_SELDOM = 0.2
"""How seldom values of one block are more alike than is reckoned with; so a bound is too small in no more
than 5% of populations, from two blocks on."""


def _tolerance_factor(size: float) -> float:
    free = size - 1
    spread = math.sqrt(free * (1 + 1 / size) / stats.chi2.ppf(LEVEL, free))
    return float(stats.norm.ppf(0.5 * (1 + CONFIDENCE)) * spread)


def networks_to_bound(values: np.ndarray, blocks: np.ndarray, limit: float) -> int | None:
    """How many values would bring `bound_for_single` within ``limit`` if mean, spread and
    likeness within a block stayed as they are; None where no number would."""
    centre = abs(float(values.mean()))
    least, deviation = _at_least(values, blocks)
    worth = least / len(values)
    if centre + stats.norm.ppf(0.5 * (1 + CONFIDENCE)) * deviation >= limit:
        return None
    size = 2.0
    while centre + _tolerance_factor(size) * deviation > limit:
        size *= 1.05
    return math.ceil(size / worth)


def effective_number(values: np.ndarray, blocks: np.ndarray, *, seldom: float) -> float:
    """How many independent values as many of these are worth at least, which are alike within a block.

    n/(1 + (m − 1)·ICC) with the intraclass correlation of a one-way analysis of variance (Kish 1965) that is
    exceeded as ``seldom``, by the F of the blocks (Searle 1971): few of them often look unlike each other by
    chance, and alike.
    """
    _, group, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    n, groups = len(values), len(sizes)
    if groups in {1, n}:
        return float(n) if groups == n else 1.0
    means = np.bincount(group, weights=values) / sizes
    between = float((sizes * np.square(means - values.mean())).sum()) / (groups - 1)
    within = float(np.square(values - means[group]).sum()) / (n - groups)
    typical = (n - float(np.square(sizes).sum()) / n) / (groups - 1)
    between /= float(stats.f.ppf(seldom, groups - 1, n - groups))
    total = between + (typical - 1) * within
    alike = max((between - within) / total, 0.0) if total > 0 else 0.0
    return n / (1 + (typical - 1) * alike)


def binomial_interval(k: int, n: int, level: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper & Pearson's (1934) interval of a probability from ``k`` of ``n``."""
    tail = 0.5 * (1 - level)
    low = 0.0 if k == 0 else float(stats.beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(1 - tail, k + 1, n - k))
    return low, high


def over_seeds(
    statistic: Callable[..., float],
    *columns: np.ndarray,
    seeds: np.ndarray,
    correlation: bool = False,
    counted: bool = False,
) -> Estimate | None:
    """``statistic(*columns)`` with its 95% interval by the jackknife over ``seeds``.

    Networks of one seed share data and initial weights: all of a seed are left out together, and Student's
    t has one degree of freedom less than there are seeds. A ``correlation``'s interval is taken on the
    scale artanh r. None for fewer than three seeds or where the statistic is not finite; ``counted``
    as of a `mean`: where it is the same without any of a few seeds the interval then has no ends.
    """
    table = np.column_stack([np.asarray(c, dtype=float) for c in columns])
    complete = np.isfinite(table).all(1)
    table, blocks = table[complete], np.asarray(seeds)[complete]
    names = np.unique(blocks)
    if len(names) < 3:
        return None
    value = float(statistic(*table.T))
    if not math.isfinite(value):
        return None
    without = np.array([statistic(*table[blocks != name].T) for name in names])
    step = 2 / len(table) ** 2 if correlation else 0.0
    low, high, _ = jackknife(value, without, step=step, correlation=correlation)
    if counted and low == high and len(names) < _EQUAL:
        low, high = -math.inf, math.inf
    return Estimate(value, low, high, len(table))


def jackknife(
    value: float,
    without: np.ndarray,
    *,
    step: float = 0.0,
    correlation: bool = False,
    reach: tuple[float, float] | None = None,
    free: float | None = None,
) -> tuple[float, float, float]:
    """The 95% interval of a figure and its two-sided p against 0, from its values ``without`` each block.

    Tukey (1958), with Student's t of ``free`` degrees of freedom, by default the number of blocks less one. A
    ``correlation``'s interval is that of its artanh.

    ``step``: by how much the figure changes if a single one of the pairs that it counts does, 2/pairs of a
    rank correlation. The standard error is no less than it, else blocks that happen to agree would
    pass for certainty, and 1 would be farther from 0 than any number.

    ``reach``: between which bounds the figure of a block lies. Near one of them it is skewed away from it:
    the interval holds that of the arcsine of the root of its share of the way between them (Fisher 1922) as
    well. Where every block says the same, and there is no step, another one may still lie at either end: a
    share of up to 1 − 2.5%^(1/blocks) of them would have gone unseen. A figure without either is then taken
    for exact.
    """
    if correlation:
        reach = (-1.0, 1.0)
    left = without[np.isfinite(without)]
    count = len(left)
    if count < 2:
        return *(reach or (-math.inf, math.inf)), 1.0
    centre, each, least = value, left, step
    if correlation:
        edge = 1 - step / 2
        kept = min(max(value, -edge), edge)
        centre = math.atanh(kept)
        least = abs(centre) - math.atanh(max(abs(kept) - step, -edge))
        each = np.arctanh(np.clip(left, -edge, edge))
    error = math.sqrt((count - 1) / count * float(np.square(each - each.mean()).sum()))
    error = max(error, least)
    if error < 1e-9 * max(abs(centre), 1e-300):
        if reach is None:
            return value, value, 0.0 if value else 1.0
        unseen = 1 - (LEVEL / 2) ** (1 / count)  # binomial trials without a failure
        low, high = (value + unseen * (end - value) for end in reach)
        return low, high, min(1.0, 2 * 0.5**count) if value else 1.0
    free = count - 1 if free is None else free
    width = students(free) * error
    p = 2 * float(stats.t.sf(abs(centre) / error, free))
    if not correlation and reach is not None:
        low, high = _between(value, left, step, free, reach)
        return min(low, centre - width), max(high, centre + width), p
    if not correlation:
        return centre - width, centre + width, p
    return min(math.tanh(centre - width), value), max(math.tanh(centre + width), value), p


def _between(
    value: float, left: np.ndarray, step: float, free: float, reach: tuple[float, float]
) -> tuple[float, float]:
    """The ends of the interval of a figure between those of ``reach``, on the scale of its angle."""
    start, size = reach[0], reach[1] - reach[0]

    def angle(figure: Any) -> Any:
        return np.arcsin(np.sqrt(np.clip((figure - start) / size, 0, 1)))

    each, count = angle(left), len(left)
    error = math.sqrt((count - 1) / count * float(np.square(each - each.mean()).sum()))
    turned = [abs(float(angle(value + way * step) - angle(value))) for way in (-1, 1)]
    width = students(free) * max(error, *turned)
    centre = float(angle(value))
    ends = max(centre - width, 0.0), min(centre + width, math.pi / 2)
    low, high = (start + size * math.sin(end) ** 2 for end in ends)
    return low, high


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r; NaN if either is constant."""
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else math.nan


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation."""
    return pearson(stats.rankdata(x), stats.rankdata(y))


def partial_spearman(x: np.ndarray, y: np.ndarray, *given: np.ndarray) -> float:
    """Spearman's rank correlation of x and y with the ranks of all ``given`` regressed out of both."""
    if not given:
        return spearman(x, y)
    *rest, last = given
    xy, xz, yz = (partial_spearman(a, b, *rest) for a, b in ((x, y), (x, last), (y, last)))
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(left) if left > 1e-12 else math.nan


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope of y on x; NaN where x is constant."""
    if not len(x) or x.min() == x.max():  # whose mean may be another number by rounding
        return math.nan
    x = x - x.mean()
    return float(x @ (y - y.mean())) / float(x @ x)


def line(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Least-squares slope of y on x with Student's t interval; three points or more, x not constant."""
    centred = x - x.mean()
    found = slope(x, y)
    left = y - y.mean() - found * centred
    error = math.sqrt(float(left @ left) / (len(x) - 2) / float(centred @ centred))
    half = students(len(x) - 2) * error
    return Estimate(found, found - half, found + half, len(x))
