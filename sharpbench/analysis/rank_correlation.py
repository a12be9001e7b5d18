"""Kendall's τ-b within strata, with errors over seeds, and p-values adjusted for asking several times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpbench.analysis.statistics import LEVEL, Estimate, jackknife
from sharpbench.seeds import numpy_generator

__all__ = [
    "FEWEST",
    "FEWEST_BLOCKS",
    "Association",
    "benjamini_hochberg",
    "exchanged",
    "holm",
    "kendall",
    "tau_b",
]

FEWEST = 10
"""Subjects below which a rank correlation with what is judged is not told: there any one is met by chance."""

FEWEST_BLOCKS = 4
"""Seeds below which the interval of a τ that is near 1 is not told: Student's t of three of them is 4.3, and
makes [−0.8, 1] of a thousand pairs of which ten disagree."""

_PERMUTED = 60
"""Up to so many subjects the null distribution is that of permutations: it has few values there."""

_PERMUTATIONS = 999


@dataclass(frozen=True, kw_only=True)
class Association(Estimate):
    """Kendall's τ-b with its 95% interval over ``n`` subjects of ``blocks`` seeds in ``strata`` strata.

    ``pairs`` neither ties in x nor in y. ``p``: the probability of so large a |τ| without an association;
    ``adjusted``: the same for the largest of all the metrics that were asked (Holm).
    """

    pairs: int
    strata: int
    blocks: int
    p: float
    adjusted: float

    @property
    def clear(self) -> bool:
        """Whether the adjusted p is at most 5%."""
        return self.adjusted <= LEVEL


def kendall(
    x: np.ndarray,
    y: np.ndarray,
    strata: np.ndarray,
    blocks: np.ndarray | None = None,
    *,
    exchanges: np.ndarray | None = None,
    seed: int = 0,
) -> Association | None:
    """Kendall's τ-b over the pairs of subjects within one stratum, pooled over the strata.

    τ-b = (concordant − discordant)/√(pairs untied in x · pairs untied in y), each summed over the strata.
    The interval is τ's jackknife over the ``blocks`` (the seeds; each subject its own if None) on the scale
    artanh τ, with Student's t for their number less one. None if no pair is untied,
    or with a single block.

    ``p`` is at least the jackknife's, which sees only what differs between seeds, and that of permutations:
    of x by the ``exchanges`` (`exchanged`), which know that networks of one recipe are alike in every seed;
    without them, up to 60 subjects, within the strata, so that a few pairs are never clear.

    ``blocks`` (N, ways): subjects that share a seed of any stream are alike, so the jackknife is taken over
    each column that tells some apart and the widest interval stands, with the largest p. The first column,
    the data's seeds, must.
    """
    if blocks is None:
        blocks = np.arange(len(x))
    within = _numbered(strata)
    pairs = _pairs(x, y, within)
    total = pairs.sum(0)
    tau = float(_tau_b(total))
    ways = _partitions(blocks)
    if not math.isfinite(tau) or ways[0].max() == 0:
        return None
    untied_in_both = float(total[3]) / 2
    ends = []
    for way in ways:
        if way.max() > 0:
            without = _tau_b(total - _touching(pairs, x, y, within, way))
            step = 2 / max(untied_in_both, 2.0)
            ends.append(jackknife(tau, without, step=step, correlation=True))
    low, high, _ = max(ends, key=lambda end: end[1] - end[0])
    p = max(end[2] for end in ends)
    sizes = np.bincount(within)
    members = np.flatnonzero(sizes[within] > 1)
    if exchanges is not None:
        p = max(p, _by_exchanges(x, y, within, exchanges))
    elif len(members) <= _PERMUTED:
        p = max(p, _permuted(list(_signs(x, y, strata)), numpy_generator(seed)))
    used = len(np.unique(ways[0][members]))
    return Association(
        value=tau,
        low=low,
        high=high,
        n=len(members),
        pairs=int(untied_in_both),
        strata=int((sizes > 1).sum()),
        blocks=used,
        p=p,
        adjusted=p,
    )


def exchanged(strata: np.ndarray, recipes: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """From which subject each has its figure when whole recipes and whole seeds change places, (draws, N).

    Where a figure knows nothing of the target its table of recipes by seeds could as well have its rows and
    its columns in any other order (exchangeable ones: Aldous 1981), whatever networks of one recipe, or of
    one seed, have in common. An order of the recipes holds for all strata that have the same ones, an order
    of the seeds of a stream (columns of ``seeds``, (N, streams)) for all. −1 where nobody is in that place.

    All orders but the one that there is, or 999 of them by lot. Three recipes of three seeds have 36, so that
    no p is below 3%.
    """
    within, recipe = _numbered(strata), _numbered(recipes)
    columns = seeds[:, None] if seeds.ndim == 1 else seeds
    ways = [np.unique(column, return_inverse=True)[1].ravel() for column in columns.T]
    # Of several subjects in one place the first changes with the first, the second with the second.
    place = pd.DataFrame(np.column_stack([within, recipe, *ways]))
    twin = place.groupby(list(place.columns), sort=False).cumcount().to_numpy()
    strata_of: dict[tuple[int, ...], list[int]] = {}
    for one in np.unique(within):
        strata_of.setdefault(tuple(np.unique(recipe[within == one])), []).append(one)
    seeds_of = [tuple(np.unique(way)) for way in ways]
    orders = _orders([*strata_of, *seeds_of])
    draws = len(orders[0])
    of_recipe = np.zeros((draws, within.max(initial=0) + 1, recipe.max(initial=0) + 1), np.intp)
    for (own, alike), order in zip(strata_of.items(), orders, strict=False):
        of_recipe[:, np.array(alike)[:, None], np.array(own)] = order[:, None]
    of_seed = [order[:, way] for order, way in zip(orders[len(strata_of) :], ways, strict=True)]
    there = [within, recipe, *ways, twin]
    asked = [np.broadcast_to(within, (draws, len(within))), of_recipe[:, within, recipe], *of_seed,
             np.broadcast_to(twin, (draws, len(twin)))]  # fmt: skip
    sizes = [column.max(initial=0) + 1 for column in there]
    own_place = np.ravel_multi_index(there, sizes)
    wanted = np.ravel_multi_index(asked, sizes)
    sort = np.argsort(own_place)
    found = sort[np.searchsorted(own_place[sort], wanted).clip(max=len(sort) - 1)]
    return np.asarray(np.where(own_place[found] == wanted, found, -1))


def _orders(parts: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Of each of the ``parts`` its orders, (draws, members), those of one draw together: all but the first of
    all, or 999 by lot."""
    if math.prod(math.factorial(len(part)) for part in parts) <= _PERMUTATIONS:
        every = list(itertools.product(*(itertools.permutations(part) for part in parts)))[1:]
        return [
            np.array([one[k] for one in every], np.intp).reshape(-1, len(part))
            for k, part in enumerate(parts)
        ]
    rng = numpy_generator(0)
    return [rng.permuted(np.tile(part, (_PERMUTATIONS, 1)), axis=1) for part in parts]


def tau_b(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> float:
    """Kendall's τ-b within strata, as in `kendall`, alone; NaN without an untied pair."""
    return float(_tau_b(_pairs(x, y, _numbered(strata)).sum(0)))


def _numbered(strata: np.ndarray) -> np.ndarray:
    return np.asarray(pd.factorize(strata, use_na_sentinel=False)[0], np.int64)


def _partitions(blocks: np.ndarray) -> list[np.ndarray]:
    """Each column of ``blocks`` as numbers from 0 in the order of the values, equal ones once."""
    columns = blocks[:, None] if blocks.ndim == 1 else blocks
    found = [pd.factorize(column, sort=True)[0] for column in columns.T]
    return [
        way for i, way in enumerate(found) if not any(np.array_equal(way, w) for w in found[:i])
    ]


_Signs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _touching(
    pairs: np.ndarray, x: np.ndarray, y: np.ndarray, within: np.ndarray, way: np.ndarray
) -> np.ndarray:
    """What each block has a share in (blocks, 4) of the sum of ``pairs``, which holds every pair twice: those
    of its subjects with any other one, less those among themselves, which come up from both sides."""
    among = _pairs(x, y, within * (way.max() + 1) + way)
    found = [np.bincount(way, weights=column) for column in (2 * pairs - among).T]
    return np.stack(found, axis=-1)


def _pairs(x: np.ndarray, y: np.ndarray, within: np.ndarray) -> np.ndarray:
    """What each subject adds to `_tau_b` (N, 4), over the others of its stratum: concordant less discordant
    ones, those untied in x, in y, and in both. Whole numbers; the sums hold every pair twice.

    In O(N log N) steps: of the nine ways in which another one may stand to a subject one is counted
    (`_smaller_before`), and the others follow from how many are smaller, equal and larger in x and y.
    """
    if not len(x):
        return np.zeros((0, 4), np.int64)
    a, b = _ranks(within, x), _ranks(within, y)
    size = np.bincount(within)[within]
    first = np.searchsorted(np.sort(within), within)  # subjects of earlier strata
    below_x, tied_x = _below_and_tied(a)
    below_y, tied_y = _below_and_tied(b)
    below_x, below_y = below_x - first, below_y - first
    order = np.lexsort((-b, a))  # of equal x the larger y first: it is not smaller and before
    both_below = np.empty(len(a), np.int64)
    both_below[order] = _smaller_before(b[order])
    both_below -= first
    # Those tied in one and smaller in the other.
    place = np.lexsort((b, a))
    tied_x_below_y = _rank_among_equals(a[place], b[place])[np.argsort(place)]
    place = np.lexsort((a, b))
    tied_y_below_x = _rank_among_equals(b[place], a[place])[np.argsort(place)]
    tied_both = _below_and_tied(_ranks(a, b))[1]
    x_below_y_above = below_x - both_below - tied_y_below_x
    x_above_y_below = below_y - both_below - tied_x_below_y
    tied_y_above_x = tied_y - tied_both - tied_y_below_x
    above_x = size - below_x - tied_x
    both_above = above_x - x_above_y_below - tied_y_above_x
    concordant, discordant = both_below + both_above, x_below_y_above + x_above_y_below
    return np.column_stack(
        [concordant - discordant, size - tied_x, size - tied_y, concordant + discordant]
    )


def _ranks(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Dense ranks from 0 by ``first``, and where that is equal by ``then``."""
    order = np.lexsort((then, first))
    new = (np.diff(first[order]) != 0) | (np.diff(then[order]) != 0)
    found = np.empty(len(order), np.int64)
    found[order] = np.concatenate([[0], np.cumsum(new)])
    return found


def _below_and_tied(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many are smaller than each, and how many equal to it, with it."""
    count = np.bincount(ranks)
    return (np.cumsum(count) - count)[ranks], count[ranks]


def _rank_among_equals(sorted_first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Of rows sorted by both, how many are equal in the first and smaller in the other."""
    place = np.arange(len(then))
    new = np.concatenate([[True], np.diff(sorted_first) != 0])
    other = new | np.concatenate([[True], np.diff(then) != 0])
    return np.maximum.accumulate(np.where(other, place, 0)) - np.maximum.accumulate(
        np.where(new, place, 0)
    )


def _smaller_before(values: np.ndarray) -> np.ndarray:
    """How many of those before each of some whole numbers from 0 (N,) are smaller.

    Bit by bit from the highest one, those of equal higher bits together and in order (a wavelet tree,
    Grossi, Gupta & Vitter 2003): of two of them the smaller one has a 0 where the other has a 1.
    """
    found = np.zeros(len(values), np.int64)
    place = np.arange(len(values))
    for bit in range(int(values.max(initial=0)).bit_length() - 1, -1, -1):
        now = values[place]
        start = np.concatenate([[True], np.diff(now >> (bit + 1)) != 0])
        group = np.cumsum(start) - 1
        one = (now >> bit & 1).astype(bool)
        zeros = np.cumsum(~one)
        before = np.concatenate([[0], zeros])[np.flatnonzero(start)]
        zeros_here = zeros - before[group]
        found[place[one]] += zeros_here[one]
        first = np.flatnonzero(start)[group]
        total = np.bincount(group, weights=~one).astype(np.int64)[group]
        index = np.arange(len(values))
        target = np.where(one, index - zeros_here + total, first + zeros_here - 1)
        moved = np.empty_like(place)
        moved[target] = place
        place = moved
    return found


def _signs(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> Iterator[_Signs]:
    """The rows of each stratum of two subjects or more, with sign(xᵢ − xⱼ) and sign(yᵢ − yⱼ)."""
    for one in pd.unique(strata):
        rows = np.flatnonzero(strata == one)
        if len(rows) > 1:
            a, b = x[rows].astype(float), y[rows].astype(float)
            yield (
                rows,
                np.sign(a[:, None] - a).astype(np.float32),
                np.sign(b[:, None] - b).astype(np.float32),
            )


def _tau_b(sums: np.ndarray) -> np.ndarray:
    """τ-b from concordance and the pairs untied in x and in y (…, ≥ 3); NaN without an untied pair."""
    with np.errstate(divide="ignore", invalid="ignore"):
        tau: np.ndarray = sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2])
    return tau


def _permuted(parts: list[_Signs], rng: np.random.Generator) -> float:
    """The share of permutations of x within the strata whose |Σ concordance| is at least the one found."""
    found, drawn = 0.0, np.zeros(_PERMUTATIONS)
    for rows, in_x, in_y in parts:
        found += float((in_x * in_y).sum(dtype=float))
        order = rng.permuted(np.tile(np.arange(len(rows)), (_PERMUTATIONS, 1)), axis=1)
        shuffled = in_x[order[:, :, None], order[:, None, :]]
        drawn += (shuffled * in_y).sum((1, 2), dtype=float)
    return float((1 + (np.abs(drawn) >= abs(found) - 1e-6).sum()) / (1 + _PERMUTATIONS))


def _by_exchanges(x: np.ndarray, y: np.ndarray, within: np.ndarray, exchanges: np.ndarray) -> float:
    """The share of exchanges after which the rank correlation within the strata is at least as far from
    their mean as the one found; by Spearman's, whose ranks move with the figures.

    Ranks are those among the subjects of a stratum as parts of their number, so that a stratum counts by its
    pairs."""
    in_x, in_y = _centred_ranks(x, within), _centred_ranks(y, within)
    if not len(exchanges):
        return 1.0
    there = exchanges >= 0
    moved = np.where(there, in_x[exchanges], 0.0)
    size = np.square(moved).sum(1) * (there * np.square(in_y)).sum(1)
    drawn = (moved * in_y).sum(1) / np.sqrt(np.where(size > 0, size, 1.0))
    size_found = float(np.square(in_x).sum() * np.square(in_y).sum())
    found = float(in_x @ in_y) / math.sqrt(size_found) if size_found > 0 else 0.0
    centre = float((drawn.sum() + found) / (len(drawn) + 1))
    beyond = np.abs(drawn - centre) >= abs(found - centre) - 1e-9
    return float((1 + beyond.sum()) / (1 + len(drawn)))


def _centred_ranks(values: np.ndarray, within: np.ndarray) -> np.ndarray:
    ranks = pd.Series(values).groupby(within).rank(pct=True)
    return (ranks - ranks.groupby(within).transform("mean")).to_numpy(float)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for being several (Holm 1979): the family errs at 5% if those ≤ 0.05 are taken."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q-values (Benjamini & Hochberg 1995): of those ≤ 0.05 at most 5% are false on average."""
    order = np.argsort(p)[::-1]
    factors = len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(p[order] * factors), 1.0)
    return adjusted
