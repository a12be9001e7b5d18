"""Populations of made-up networks, for the scores of prediction."""

import itertools

import numpy as np

from sharpbench.analysis.prediction_scores.population import Population


def grid(levels, seeds=1, *, model_axes=0):
    """A full factorial of axes with so many ``levels`` each, every configuration with every seed; the first
    ``model_axes`` axes are the model's."""
    settings = np.array(list(itertools.product(*map(range, levels))))
    settings = np.repeat(settings, seeds, axis=0)
    seed = np.tile(np.arange(seeds), len(settings) // seeds)
    strata = np.zeros(len(settings), int)
    for axis in range(model_axes):
        strata = strata * levels[axis] + settings[:, axis]
    names = tuple(f"axis {i}" for i in range(len(levels)))
    return Population(names, settings, seed[:, None], strata, seed)


def effects(population, rng, *, seed_sd=0.0):
    """An additive function of the settings with normal effects, and a term of the data seed."""
    total = sum(rng.normal(size=c.max() + 1)[c] for c in population.settings.T)
    return total + seed_sd * rng.normal(size=population.seeds.max() + 1)[population.seeds[:, 0]]
