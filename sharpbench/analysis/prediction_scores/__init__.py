"""Scores of how well a figure predicts generalization over a population of networks on a grid.

Those of the field: granulated τ and conditional mutual information (Jiang et al., arXiv:1912.02178, and the
PGDL competition, arXiv:2012.07976), the robust sign error (Dziugaite et al., arXiv:2010.11924), regret and
hits of a choice; and what tells a figure from a mere proxy of the hyperparameters: a permutation null, a
prediction from the hyperparameters alone, and what the figure adds to it. Arrays in, numbers out.
"""
