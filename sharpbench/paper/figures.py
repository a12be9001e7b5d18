"""The pictures of arXiv:2511.01438, each beside what is measured here."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

__all__ = ["figure_one"]

_PAPER = {
    # arXiv:2511.01438, Figure 1 and section 5.2: mean λ over 20 seeds by epoch.
    "Adam": ([1, 5, 10, 15, 50], [0.0, 0.7, 1.1, 1.36, 1.85], (1.418, 2.154)),
    "CRR, scale 0.003": ([1, 5, 10, 15, 50], [0.0, 0.7, 0.93, 1.07, 1.277], (1.103, 1.476)),
}


def figure_one(rows: pd.DataFrame) -> Figure:
    """The paper's Figure 1 (left, the values it states) next to ours (right), one scale.

    ``rows``: ``recipe`` (``Adam`` or the CRR of the paper), ``epoch``, ``value``, a row a network.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.9), sharey=True)
    palette = dict(zip(_PAPER, sns.color_palette("colorblind"), strict=False))
    for name, (epochs, values, (low, high)) in _PAPER.items():
        axes[0].plot(epochs, values, marker="o", color=palette[name], label=name)
        axes[0].errorbar(
            [50], values[-1:], yerr=[[values[-1] - low], [high - values[-1]]], color=palette[name],
            capsize=4,
        )  # fmt: skip
    for name, own in rows.groupby("recipe", sort=False):
        by_epoch = own.groupby("epoch")["value"]
        middle = by_epoch.mean()
        axes[1].plot(middle.index, middle, marker="o", color=palette[str(name)], label=name)
        axes[1].fill_between(
            middle.index, by_epoch.quantile(0.025), by_epoch.quantile(0.975), alpha=0.2,
            color=palette[str(name)], linewidth=0,
        )  # fmt: skip
    count = rows.groupby("recipe")["seed"].nunique().min()
    axes[0].set(title="as the paper states it (20 seeds)", xlabel="epoch", ylabel="λ (per order)")
    axes[1].set(title=f"measured here ({count} seeds)", xlabel="epoch")
    axes[1].legend()
    return figure
