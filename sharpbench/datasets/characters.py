"""The next character of an English text that every Python ships."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.datasets import datasets
from sharpbench.datasets.base import Dataset
from sharpbench.errors import DataUnavailable
from sharpbench.registry import added_later
from sharpbench.seeds import derive_seed, numpy_generator
from sharpbench.subject import Splits

__all__ = ["Characters"]

_ALPHABET = " abcdefghijklmnopqrstuvwxyz"


@datasets.register
@dataclass(frozen=True, kw_only=True)
class Characters(Dataset):
    """The next character after ``context`` of them, in the language reference that Python itself ships.

    Some four hundred thousand characters of ``pydoc_data``, in small letters, all else as single spaces: 27
    classes. Inputs (context, 27) are one-hot, so that the first linear layer is an embedding and metrics of
    the input differentiate in what it embeds. ``train_size`` and ``test_size`` places are drawn from the
    first four fifths of the text and from the last fifth. ``targets``: the character after the ``last`` one,
    (N,), or after ``every`` one, (N, context), for models that answer for each token. Another Python has
    another edition, which the keys tell.
    """

    name = "characters"
    reference = "The Python Language Reference, python.org (PSF licence)"

    context: int = 8
    train_size: int = 2000
    test_size: int = 1000
    targets: Literal["last", "every"] = added_later("last")

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("context", "train_size", "test_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")

    def missing(self, root: Path) -> str | None:
        return None if _text() else "this Python lacks its module pydoc_data.topics"

    def fingerprint(self, root: Path) -> str:
        return hashlib.sha256(_text().encode()).hexdigest()

    def clean(self, root: Path, *, seed: int) -> Splits:
        if reason := self.missing(root):
            raise DataUnavailable(reason)
        text = torch.tensor([_ALPHABET.index(c) for c in _text()])
        border = len(text) * 4 // 5
        train = self._drawn(text[:border], self.train_size, derive_seed(seed, "train"))
        test = self._drawn(text[border:], self.test_size, derive_seed(seed, "test"))
        return Splits(*train, *test, outputs=len(_ALPHABET))

    def _drawn(self, part: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
        places = len(part) - self.context
        if size > places:
            raise DataUnavailable(f"{size} places were asked of the {places} there are")
        drawn = torch.from_numpy(numpy_generator(seed).choice(places, size, replace=False))
        windows = part[drawn[:, None] + torch.arange(self.context + 1)]
        inputs = F.one_hot(windows[:, :-1], len(_ALPHABET)).float()
        return inputs, windows[:, 1:] if self.targets == "every" else windows[:, -1]


@cache
def _text() -> str:
    """ "" where this Python does without it."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return ""
    joined = " ".join(topics[name] for name in sorted(topics))
    return re.sub("[^a-z]+", " ", joined.lower())
