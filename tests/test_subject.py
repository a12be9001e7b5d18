import pytest
import torch
from torch import nn

from sharpbench.errors import InputError
from sharpbench.subject import Subject, frozen_statistics, per_sample_loss


def test_the_loss_is_inferred_from_the_targets():
    x = torch.randn(4, 3)
    classes = Subject(nn.Linear(3, 2), x, torch.tensor([0, 1, 1, 0], dtype=torch.int32))
    assert classes.task == "classification"
    assert classes.targets.dtype == torch.int64
    reals = Subject(nn.Linear(3, 1), x, torch.randn(4))
    assert reals.task == "regression"
    loss = reals.losses(torch.zeros(4, 1), torch.full((4, 1), 2.0))
    assert loss.tolist() == [2.0] * 4  # ½ · 2²


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.randn(0, 3), torch.zeros(0, dtype=torch.long), "at least one"),
        (torch.randn(3, 3), torch.zeros(2, dtype=torch.long), "3 inputs, 2 targets"),
        (torch.zeros(3, 3, dtype=torch.long), torch.zeros(3, dtype=torch.long), "floating point"),
        (torch.randn(3, 3), torch.zeros(3, 2, dtype=torch.long), "class targets"),
    ],
)
def test_unusable_data_is_refused(inputs, targets, message):
    with pytest.raises(InputError, match=message):
        Subject(nn.Linear(3, 2), inputs, targets)


def test_the_working_copy_is_private():
    model = nn.Linear(3, 2).train()
    subject = Subject(model, torch.randn(2, 3), torch.tensor([0, 1]))
    copy = subject.working_model(torch.float64)
    copy.weight.data.zero_()
    assert model.training
    assert not copy.training
    assert model.weight.abs().sum() > 0
    assert subject.dtype == torch.float32


def test_frozen_statistics_keep_the_running_ones():
    norm = nn.BatchNorm1d(3).train()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    with frozen_statistics(norm):
        norm(torch.randn(8, 3) + 5)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    norm(torch.randn(8, 3) + 5)
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_squared_error_has_the_hessian_of_least_squares():
    outputs, targets = torch.randn(5, 2), torch.randn(5, 2)
    expected = 0.5 * ((outputs - targets) ** 2).sum(1)
    assert torch.allclose(per_sample_loss("regression")(outputs, targets), expected)
