"""The sentences of the summary."""

import pandas as pd

from sharpbench.analysis.rank_correlation import Association
from sharpbench.report.sections.predictive import predictive_sentences


def tau(value, low, high, n=40):
    p = 0.01 if low > 0 or high < 0 else 0.5
    return Association(
        value=value, low=low, high=high, n=n, pairs=9, strata=1, blocks=9, p=p, adjusted=p
    )


def row(metric, within, pooled, *, target="test_error", simpson=False):
    taus = {"within": within, "pooled": pooled, "simpson": simpson}
    titles = {"test_error": "test error", "ece": "ECE"}
    return {"metric": metric, "target": target, "target_title": titles[target], **taus}


def test_metrics_with_one_conclusion_share_a_sentence():
    table = pd.DataFrame(
        [
            row("a", tau(0.2, 0.1, 0.3), tau(0.3, 0.2, 0.4)),
            row("b", tau(-0.3, -0.4, -0.2), tau(0.1, -0.1, 0.3), simpson=True),
            row("c", tau(0.5, 0.4, 0.6, n=30), tau(0.5, 0.4, 0.6)),
            row("d", tau(0.0, -0.1, 0.1), tau(-0.4, -0.5, -0.3)),
            row("b", tau(-0.2, -0.3, -0.1), tau(0.2, 0.1, 0.3), target="ece", simpson=True),
        ]
    )
    assert predictive_sentences(table) == [
        "Among networks of the same data and model (n = 30 to 40) the sharper one has the higher test "
        "error, by (Kendall's τ, 95% interval): c +0.50 [+0.40, +0.60]; a +0.20 [+0.10, +0.30].",
        "Among networks of the same data and model (n = 40) the sharper one has the lower test error, by "
        "(Kendall's τ, 95% interval): b −0.30 [−0.40, −0.20].",
        "No clear rank correlation with the test error within data and model: d.",
        "Simpson's paradox, τ over all networks, but within data and model: b with the test error +0.10, "
        "but −0.30; b with the ECE +0.20, but −0.20.",
        "Seems to rank the test error over all networks, but does not within data and model (τ): "
        "d −0.40, but +0.00 [−0.10, +0.10].",
    ]
    assert predictive_sentences(table.iloc[:0]) == [
        "Too few networks, or seeds of the data, to rank."
    ]
