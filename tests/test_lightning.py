"""Lightning modules, as they are and after their trainer had them, beside the networks inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sharpbench as sb
from sharpbench.subject import Subject
from tests.cli.command import in_process

try:
    # torchvision's compiled operators lack beside a CPU torch; torchmetrics imports it where it is there.
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:  # they are there
    _declared = None
try:
    import lightning
except Exception as error:
    pytest.skip(
        f"lightning can't be imported ({error}): pip install 'sharpbench[test-lightning]'",
        allow_module_level=True,
    )

MODULE = """
import lightning
import torch
from torch import nn

class Net(lightning.LightningModule):
    def __init__(self, width=5):
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, x):
        return self.body(x)

    def training_step(self, batch, number):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def bare():
    return Net().body

def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(12, 4, generator=generator), torch.arange(12) % 3)]
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_of_lightning.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import nets_of_lightning

    yield nets_of_lightning
    sys.modules.pop("nets_of_lightning", None)


def trained(nets):
    model = nets.Net()
    ((x, y),) = nets.batches()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=6))
    trainer.save_checkpoint("net.ckpt")
    return model


def test_a_lightning_module_is_the_network_inside_it(nets, capsys, monkeypatch):
    model, batches = trained(nets), nets.batches()
    exact = {"method": "unit_vectors", "max_probes": 100}
    expected = sb.measure(Subject(model.body, *batches[0]), "hessian_trace", **exact).value
    trainer = model.trainer
    by_output = Subject.from_batches(model, batches)
    by_step = Subject.from_batches(model, batches, loss=lambda model, b: model.training_step(b, 0))
    for subject in (by_output, by_step):
        found = sb.measure(subject, "hessian_trace", **exact)
        assert found.value == pytest.approx(expected, rel=1e-10)
    assert model.trainer is trainer
    assert not hasattr(by_output.working_model(torch.float64).body, "_trainer")
    assert by_output.working_model(torch.float64)._trainer is None  # nor is it copied
    assert sb.measure(by_output, "margin").exact
    assert isinstance(by_output.model.body[1], nn.Tanh)
    for builder in ("Net", "bare"):  # the checkpoint's names begin with body., or not
        told = in_process(
            capsys, monkeypatch, "measure", "--model", f"nets_of_lightning:{builder}",
            "--weights", "net.ckpt", "--data", "nets_of_lightning:batches", "--json",
            "--metric", "hessian_trace", "--param", "method=unit_vectors", "max_probes=100",
        )  # fmt: skip
        assert told.code == 0, told.err
        assert json.loads(told.out)["value"] == pytest.approx(expected, rel=1e-10)
    assert Path("net.ckpt").stat().st_size > 0
