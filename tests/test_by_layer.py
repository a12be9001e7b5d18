"""The curvature of each layer against the diagonal blocks of the dense Hessian."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.curvature.hessian_operator import BlockDiagonalOperator, HessianOperator
from sharpbench.errors import InputError, MetricFailed
from sharpbench.measurement import Work
from sharpbench.subject import Subject, per_sample_loss


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
    net = nn.ModuleDict({"body": body, "head": nn.Linear(5, 3)})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts, self.unused = net, nn.Linear(2, 2)

        def forward(self, x):
            return self.parts["head"](self.parts["body"](x))

    x = torch.randn(20, 4)
    return Subject(Net(), x, torch.arange(20) % 3)


@pytest.fixture(scope="module")
def dense(subject):
    model = subject.working_model(torch.float64)
    operator = HessianOperator(
        model,
        per_sample_loss("classification"),
        subject.inputs.double(),
        subject.targets,
        work=Work(),
    )
    return operator.dense()


BLOCKS = {"parts.body.0": slice(0, 30), "parts.body.2": slice(30, 65), "parts.head": slice(65, 83)}


def test_every_layer_has_its_own_block(subject, dense, tmp_path):
    frame = sb.by_layer(
        subject, probes=40, tolerance=1e-6, max_products=60, picture=tmp_path / "layers.svg"
    )
    assert list(frame.index) == [*BLOCKS, "unused"]
    for name, where in BLOCKS.items():
        block, row = dense[where, where], frame.loc[name]
        # Up to `probes` unknowns everything is exact.
        assert row.trace == pytest.approx(float(block.trace()), rel=1e-10)
        assert row.frobenius_norm == pytest.approx(float(block.norm()), rel=1e-10)
        top = float(torch.linalg.eigvalsh(block)[-1])
        assert row.top_eigenvalue == pytest.approx(top, rel=1e-6)
        assert row.converged
    assert frame.trace["unused"] == 0
    assert frame.parameters.sum() == len(dense)
    assert "<svg" in (tmp_path / "layers.svg").read_text()


def test_metrics_that_are_sums_add_up_over_the_layers(subject):
    squares = ("gradient_norm", "parameter_norm")
    sums = ("gauss_newton_trace", "gradient_noise")
    frame = sb.by_layer(subject, (*squares, *sums), probes=2)
    for name in (*squares, *sums):
        whole = sb.measure(subject, name).value
        each = frame[name] ** 2 if name in squares else frame[name]
        assert each.sum() == pytest.approx(whole**2 if name in squares else whole, rel=1e-9)
    one = sb.measure(subject, "gauss_newton_trace", parameters_of=["parts.body.2"])
    assert frame.gauss_newton_trace["parts.body.2"] == pytest.approx(one.value)
    assert "gauss_newton_trace_standard_error" not in frame  # of all samples nothing is drawn


def test_a_metric_of_layers_says_where_it_has_no_answer(subject):
    frame = sb.by_layer(subject, "critical_sharpness", probes=2)
    assert frame.critical_sharpness["parts.head"] > 0
    assert frame.critical_sharpness.isna()["unused"]
    assert "gradient" in frame.critical_sharpness_reason["unused"]
    with pytest.raises(InputError, match="no metric of a layer"):
        sb.by_layer(subject, "margin")
    with pytest.raises(InputError, match="Did you mean"):
        sb.by_layer(subject, "gradient_nrm")


def test_probes_tell_their_error(subject, dense):
    frame = sb.by_layer(subject, probes=12, seed=5)
    for name, where in BLOCKS.items():
        block, row = dense[where, where], frame.loc[name]
        assert row.trace_standard_error > 0
        assert abs(row.trace - float(block.trace())) < 5 * row.trace_standard_error
        off = abs(row.frobenius_norm - float(block.norm()))
        assert off < 5 * row.frobenius_norm_standard_error


def test_blocks_of_several_layers(subject, dense):
    by_depth = sb.by_layer(subject, blocks=2, probes=100)
    assert list(by_depth.index) == ["parts.body", "parts.head", "unused"]
    body = dense[:65, :65]
    assert by_depth.trace["parts.body"] == pytest.approx(float(body.trace()))
    assert by_depth.frobenius_norm["parts.body"] == pytest.approx(float(body.norm()))
    named = sb.by_layer(
        subject, blocks={"first": ["parts.body.0"], "biases": ["*[24].bias", "parts.head.bias"]}
    )
    assert list(named.parameters) == [30, 5 + 3]
    with pytest.raises(InputError, match=r"'parts\.body\.0\.weight' is in two blocks"):
        sb.by_layer(subject, blocks={"a": ["parts.body.0"], "b": ["*.weight"]})
    with pytest.raises(MetricFailed, match="Did you mean"):
        sb.by_layer(subject, blocks={"a": ["parts.bodi"]})
    with pytest.raises(InputError, match="from 1"):
        sb.by_layer(subject, blocks=0)
    for blocks, message in (
        ("body", "from 1 or a mapping"),
        ({}, "no block"),
        ({"a": []}, r"'a' must be a list of names.*got \[\]"),
        ({"a": "parts.*"}, "'a' must be a list of names"),
        ({"a": [torch.nn.Linear(2, 2)]}, "no part of the network"),
    ):
        with pytest.raises(InputError, match=message):
            sb.by_layer(subject, blocks=blocks)


def test_blocks_and_pictures_are_checked_before_anything_is_measured(subject, tmp_path):
    parts = subject.model.parts
    named = sb.by_layer(subject, blocks={"a": [parts.body[0]], "b": [parts.head.bias]})
    assert list(named.parameters) == [30, 3]
    assert list(sb.by_layer(subject, blocks={"all": [subject.model]}).parameters) == [
        sum(p.numel() for p in subject.model.parameters())
    ]
    for picture, message in (
        (tmp_path / "a.bmp2", r"\.svg"),
        (tmp_path / "no" / "a.svg", "folder"),
    ):
        with pytest.raises(InputError, match=message):
            sb.by_layer(subject, picture=picture)
    with pytest.raises(InputError, match=r"got a .*sb\.Subject\(network"):
        sb.by_layer(subject.model)
    with pytest.raises(InputError, match=r"sb\.Subject\.from_batches"):
        sb.measure(subject.model, "hessian_trace")


def test_the_block_diagonal_part_of_data_in_chunks(subject, dense):
    model = subject.working_model(torch.float64)
    hessian = HessianOperator(
        model,
        per_sample_loss("classification"),
        subject.inputs.double(),
        subject.targets,
        work=Work(),
    )
    hessian.chunk = 7
    blocks = BlockDiagonalOperator.of(hessian, [[0, 1], [2, 3], [4, 5], [6, 7]])
    expected = torch.zeros_like(dense)
    for where in BLOCKS.values():
        expected[where, where] = dense[where, where]
    assert torch.allclose(blocks.dense(), expected, atol=1e-12)


def test_parameters_are_named_by_modules_too(subject):
    net = subject.model
    whole = sb.measure(subject, "hessian_trace", parameters_of=["parts.body.0"])
    for given in (net.parts["body"][0], [net.parts["body"][0]], ["parts.body.0.*"]):
        assert sb.measure(subject, "hessian_trace", parameters_of=given).value == whole.value
    one = sb.measure(subject, "hessian_trace", parameters_of=[net.parts["head"].weight])
    assert one.details["parameters"] == 15
    every = sb.measure(subject, "hessian_trace", parameters_of=net)
    assert every.value == sb.measure(subject, "hessian_trace").value
    with pytest.raises(InputError, match="a Linear that is no part"):
        sb.measure(subject, "hessian_trace", parameters_of=nn.Linear(2, 2))
