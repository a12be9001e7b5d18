"""A user's own network as a subject, and what metrics say of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sharpbench.datasets import datasets
from sharpbench.errors import InputError, MetricFailed, first_line, guarded
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.results.weights import load_network
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits, Subject

__all__ = ["answers", "own_subject"]


def own_subject(
    model: str, weights: Path | None, dataset: str, *, seed: int, device: str, data: Path
) -> Subject:
    """The network of ``package.module:build`` with its ``weights``, on a dataset found under ``data``.

    Raises InputError that says what is wrong with one of them, DataUnavailable for missing files.
    """
    source = datasets.create(dataset)
    with _told_apart(f"dataset {dataset!r}"):
        if reason := source.missing(data):
            raise InputError(f"{reason}. Run: sharpbench data prepare {dataset}")
        splits = source.load(data, seed=derive_seed(seed, "data"))
        if not isinstance(splits, Splits):
            raise TypeError(f"it loaded a {type(splits).__name__}, not Splits")
        splits = splits.to(device)
    with _told_apart(f"--model {model!r}"):
        network = load_network(model, weights)
    try:
        network = network.to(device)
    except Exception as error:
        raise InputError(f"the network can't be moved to {device}: {first_line(error)}") from error
    with _told_apart("the network or its data"):
        return Subject(network, splits.train_inputs, splits.train_targets, splits=splits)


@contextmanager
def _told_apart(what: str) -> Iterator[None]:
    """Inside runs what others wrote: its fault is an InputError, and what it prints isn't our output."""
    try:
        with guarded(), contextlib.redirect_stdout(sys.stderr):
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {first_line(error)}") from error


def answers(
    subject: Subject, metrics: Iterable[Metric], *, seed: int
) -> Iterator[tuple[Metric, Measurement | str]]:
    """Each metric with its measurement, or with the reason why there is none.

    Raises InputError where the subject is no network that could be measured.
    """
    for metric in metrics:
        try:
            with guarded(), contextlib.redirect_stdout(sys.stderr):
                answer = metric.checked_measure(subject, seed=seed)
            yield metric, answer
        except InputError:
            raise
        except Exception as error:
            yield metric, str(error) if isinstance(error, MetricFailed) else first_line(error)
