"""SAM sharpness in gradients' time."""

from __future__ import annotations

import torch

from sharpbench.metrics import metrics

from . import workloads


class SamSharpness:
    params = (["digits_mlp_26k", "mnist_cnn_26k"], ["gradient", "auto_pgd"])
    param_names = ("workload", "attack")
    timeout = 600
    unit = "gradients"

    def setup(self, name: str, attack: str) -> None:
        self.subject = workloads.subject(name)
        steps = 1 if attack == "gradient" else 20
        self.metric = metrics.create(
            "sam_sharpness",
            {"samples": 512, "m": "all", "attack": attack, "steps": steps, "dtype": "float32"},
        )

    def track_over_a_gradient(self, name: str, attack: str) -> float:
        x, y = self.subject.inputs[:512], self.subject.targets[:512]
        parameters = list(self.subject.model.parameters())

        def gradient() -> None:
            loss = self.subject.losses(self.subject.model(x), y).mean()
            torch.autograd.grad(loss, parameters)

        ours = workloads.best(lambda: self.metric.measure(self.subject, seed=0), 5)
        return ours / workloads.best(gradient, 5)
