"""list, show, data, env."""

from __future__ import annotations

import json

from tests.cli.command import sharpbench


def test_list_show_and_status(tmp_path):
    listed = sharpbench("list")
    for name in ("curvature_rate", "vit", "fashion_mnist", "sam", "weight_noise", "quick"):
        assert name in listed.stdout
    shown = sharpbench("show", "metric", "curvature_rate")
    assert "arXiv:2511.01438" in shown.stdout
    assert "directions" in shown.stdout
    status = sharpbench("data", "status", "--data-dir", str(tmp_path))
    assert "mnist: sharpbench data prepare mnist" in status.stdout
    assert json.loads(sharpbench("env").stdout)["versions"]["torch"]


def test_data_prepare_from_a_wrong_folder_says_what_it_tried(tmp_path):
    done = sharpbench(
        "data", "prepare", "mnist", "--from", str(tmp_path), "--data-dir", str(tmp_path / "d")
    )
    assert done.returncode == 2
    assert "neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz" in done.stderr
