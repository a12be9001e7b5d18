"""The learning coefficient beside devinterp's, where that is installed: one sampler, one temperature."""

import math

import pytest
import torch

import sharpbench as sb
from tests.metrics.test_local_learning_coefficient import CURVATURES, NAME, bowl, localised

devinterp = pytest.importorskip("devinterp")
from devinterp.optim import SGLD  # noqa: E402
from devinterp.slt.sampler import estimate_learning_coeff_with_summary  # noqa: E402


def test_both_find_what_sgld_gives_on_a_quadratic():
    """Steps of variance ε from w*, all taken: ½ Σ nβh/(a (1 − εa/4)), a = nβh + γ.

    Its default temperature is of the batch's size; it is given that of the data.
    """
    samples, pull = 200, 20.0
    subject, tempered = bowl(samples), samples / math.log(samples)
    step = 0.5 / (tempered * float(CURVATURES.max()) + pull)
    data = torch.utils.data.TensorDataset(subject.inputs, subject.targets)
    found = estimate_learning_coeff_with_summary(
        subject.model,
        torch.utils.data.DataLoader(data, batch_size=samples),
        evaluate=lambda model, batch: 0.5 * (model(batch[0]) - batch[1]).square().mean(),
        sampling_method=SGLD,
        optimizer_kwargs={"lr": step, "localization": pull, "nbeta": tempered},
        num_chains=4,
        num_draws=400,
        num_burnin_steps=100,
        init_loss=0.0,
        seed=0,
        verbose=False,
    )
    known = localised(pull, samples, step)
    ours = sb.measure(
        subject, NAME, localization=pull, sampler="sgld", step=step, draws=400, burn_in=100
    )
    error = found["llc/std"] / 2
    assert abs(found["llc/mean"] - known) < 5 * error
    assert abs(ours.value - known) < 6 * ours.standard_error
    assert max(error, ours.standard_error) < 0.1 * known
