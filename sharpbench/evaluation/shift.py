"""Errors of a classifier away from its test data: on corrupted inputs, and on adversarial ones.

Corruptions follow the manner of Hendrycks & Dietterich (arXiv:1903.12261): several kinds at five strengths
each, the same for all networks that are judged on the same points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from sharpbench.copies import copied
from sharpbench.evaluation.classification import Figure, Meaning, mean_figure, share_figure
from sharpbench.metrics.attack import Attack
from sharpbench.seeds import derive_seed, numpy_generator, torch_generator
from sharpbench.subject import Splits, batched_outputs

__all__ = [
    "CORRUPTIONS",
    "SHIFT_VERSION",
    "STRENGTHS",
    "Attack",
    "adversarial_error",
    "corrupted",
    "corrupted_errors",
    "meaning_of_corrupted",
    "unsuitable",
]

SHIFT_VERSION = 1
STRENGTHS = (1, 2, 3, 4, 5)


def _noise(inputs: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Normal noise of 0.1 to 0.6 standard deviations of all inputs."""
    size = (0.1, 0.2, 0.3, 0.45, 0.6)[strength - 1] * inputs.std()
    return np.asarray(inputs + size * rng.standard_normal(inputs.shape))


def _blur(inputs: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Convolution with a Gaussian of 2% to 10% of the image's side."""
    width = 0.02 * strength * inputs.shape[-1]
    return np.asarray(ndimage.gaussian_filter(inputs, (0, 0, width, width), mode="nearest"))


def _rotation(inputs: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """By 6° to 30° to either side; points in the plane about the origin."""
    angle = 6.0 * strength
    side = rng.integers(0, 2, len(inputs)).astype(bool)
    if inputs.ndim == 2:
        turn = np.radians(np.where(side, angle, -angle))
        x, y = inputs.T
        return np.column_stack(
            [np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y]
        )
    turned = inputs.copy()
    for chosen, degrees in ((side, angle), (~side, -angle)):
        if chosen.any():
            turned[chosen] = ndimage.rotate(
                inputs[chosen], degrees, axes=(3, 2), reshape=False, order=1, mode="nearest"
            )
    return turned


def _translation(inputs: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """By 4% to 20% of the image's side in one of eight directions."""
    length = 0.04 * strength * inputs.shape[-1]
    towards = rng.integers(0, 8, len(inputs))
    moved = inputs.copy()
    for direction in range(8):
        chosen = towards == direction
        if chosen.any():
            angle = np.pi / 4 * direction
            by = (0, 0, length * np.sin(angle), length * np.cos(angle))
            moved[chosen] = ndimage.shift(inputs[chosen], by, order=1, mode="nearest")
    return moved


def _contrast(inputs: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Differences from the image's mean times 0.8 to 0.2."""
    mean = inputs.mean((1, 2, 3), keepdims=True)
    return np.asarray(mean + (0.8, 0.65, 0.5, 0.35, 0.2)[strength - 1] * (inputs - mean))


def _occlusion(inputs: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """A square of 15% to 40% of the image's side, somewhere, at the least value of all inputs."""
    height, width = inputs.shape[-2:]
    side = max(1, round((0.15, 0.2, 0.25, 0.3, 0.4)[strength - 1] * min(height, width)))
    top = rng.integers(0, height - side + 1, len(inputs))[:, None, None]
    left = rng.integers(0, width - side + 1, len(inputs))[:, None, None]
    rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None]
    hidden = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return np.where(hidden[:, None], inputs.min(), inputs)


_Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

CORRUPTIONS: dict[str, _Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "rotation": _rotation,
    "translation": _translation,
    "contrast": _contrast,
    "occlusion": _occlusion,
}
"""Each takes inputs (N, …), a strength from 1 to 5 and a generator, and gives other inputs (N, …)."""


def unsuitable(name: str, input_shape: tuple[int, ...]) -> str | None:
    """Why inputs of this shape can't be corrupted so, or None."""
    if name == "noise" or len(input_shape) == 3 or (name == "rotation" and input_shape == (2,)):
        return None
    return f"{name} is one of images (channels, height, width), and the inputs are {input_shape}"


def meaning_of_corrupted(names: Sequence[str]) -> dict[str, Meaning]:
    """What the figures of `corrupted_errors` are called."""
    each = {f"corrupted_error_{name}": Meaning(f"error under {name}") for name in names}
    return {"corrupted_error": Meaning("error under corruption"), **each}


def corrupted(name: str, splits: Splits, *, seed: int) -> Iterator[Tensor]:
    """The test inputs under one corruption, at each of `STRENGTHS`; a function of the data and ``seed``."""
    inputs = splits.test_inputs.detach().cpu().double().numpy()
    for strength in STRENGTHS:
        rng = numpy_generator(derive_seed(seed, "corruption", name, strength))
        changed = CORRUPTIONS[name](inputs, strength, rng)
        yield torch.from_numpy(changed).to(splits.test_inputs)


def corrupted_errors(
    model: nn.Module, splits: Splits, names: Sequence[str], *, seed: int
) -> dict[str, Figure]:
    """``corrupted_error_<name>``: the share of wrong answers on the test data under each corruption, the mean
    over five strengths; ``corrupted_error``: the mean over those that suit the inputs. Standard errors are
    over the test points, each of which is met under all corruptions. Those that don't suit are left out.
    """
    each = {}
    for name in names:
        if unsuitable(name, splits.input_shape):
            continue
        wrong = [
            (batched_outputs(model, inputs).argmax(1) != splits.test_targets).double().cpu().numpy()
            for inputs in corrupted(name, splits, seed=seed)
        ]
        each[name] = np.mean(wrong, axis=0)
    figures = {f"corrupted_error_{name}": mean_figure(wrong) for name, wrong in each.items()}
    if not each:
        return {}
    return {"corrupted_error": mean_figure(np.mean(list(each.values()), axis=0)), **figures}


def adversarial_error(model: nn.Module, splits: Splits, attack: Attack, *, seed: int) -> Figure:
    """The share of test points that are answered wrongly as they are or at any step of ``attack``.

    It starts from a random point of each ball. A lower bound of the error under the strongest attack: where
    gradients vanish a point stays where it is.
    """
    model = copied(model).requires_grad_(False)
    generator = torch_generator(derive_seed(seed, "attack", attack.norm, attack.steps))
    found = []
    parts = zip(splits.test_inputs.split(1024), splits.test_targets.split(1024), strict=True)
    for inputs, targets in parts:
        with torch.no_grad():
            wrong = model(inputs).argmax(1) != targets
        start = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs)
        moved = attack.projected(start) * torch.rand((), generator=generator).to(inputs)
        for _ in range(attack.steps):
            point = (inputs + moved).detach().requires_grad_()
            outputs = model(point)
            wrong |= outputs.detach().argmax(1) != targets
            loss = F.cross_entropy(outputs, targets, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
            moved = attack.step(moved, gradient)
        with torch.no_grad():
            wrong |= model(inputs + moved).argmax(1) != targets
        found.append(wrong)
    return share_figure(torch.cat(found).double().cpu().numpy())
