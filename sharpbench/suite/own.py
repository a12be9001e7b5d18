"""A user's own network as a subject, and what metrics say of it, also after transformations."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpbench.datasets import Dataset, datasets
from sharpbench.errors import (
    InputError,
    MetricFailed,
    TransformationRefused,
    first_line,
    guarded,
    message_of,
    nearest_names,
    no_file_near,
)
from sharpbench.invariance import Transformation
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import Metric
from sharpbench.registry import import_object
from sharpbench.results.record import Record
from sharpbench.results.weights import load_network
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits, Subject
from sharpbench.suite.asking import check_answer, explain
from sharpbench.suite.changing import changed
from sharpbench.suite.given import Given, Words
from sharpbench.surroundings import seeded

__all__ = [
    "answer_of",
    "answers",
    "change_seed",
    "own_subject",
    "reason_of",
    "transformed",
]


def own_subject(
    given: Given,
    words: Words,
    *,
    seed: int,
    device: str,
    data: Path,
    dataset: Dataset | None = None,
) -> Subject:
    """The network on the data that are named; datasets are found under ``data``.

    What draws from a global random state has the same numbers for the same ``seed``, the data whatever the
    network is. ``words``: those of who named them; ``dataset``: the one that is named, if it has been made.

    Raises InputError that says what is wrong with one of them, DataUnavailable for missing files.
    """
    if fault := given.fault(words):
        raise InputError(fault)

    def drawn(what: str) -> AbstractContextManager[None]:
        return seeded(derive_seed(seed, "global", what), torch.device(device))

    splits = None
    if given.dataset is not None:
        named = dict(given.dataset)
        made = dataset or datasets.create(named.pop("name"), named)
        with drawn("data"):
            splits = _splits(made, words, seed, device, data)
    called = words.named("model", given.model)
    with _told_apart(called, words), drawn("network"):
        network = load_network(given.model, given.weights, called=called)
    try:
        network = network.to(device)
    except Exception as error:
        raise InputError(f"the network can't be moved to {device}: {first_line(error)}") from error
    loss = None if given.loss is None else _loss(given.loss, words)
    forward = None if given.forward is None else _named("forward", given.forward, words)
    with _told_apart("the network or its data", words), drawn("data"):
        reads_batches = given.told("forward", "normaliser", "differentiate")
        if splits is not None and not reads_batches:
            train = splits.train_inputs, splits.train_targets
            return Subject(network, *train, loss=loss, splits=splits)
        test = None
        if splits is not None:
            batches: Any = [(splits.train_inputs, splits.train_targets)]
            test = {"test": [(splits.test_inputs, splits.test_targets)]}
        elif given.data is not None:
            batches = _named("data", given.data, words)
        else:
            batches = [_from_files(given, words)]
        if given.test is not None:
            test = {"test": _named("test", given.test, words)}
        return Subject.from_batches(
            network,
            batches,
            forward=forward,
            loss=loss,
            normaliser=given.normaliser,
            differentiate=given.differentiate,
            splits=test,
        )


def _splits(source: Dataset, words: Words, seed: int, device: str, data: Path) -> Splits:
    with _told_apart(f"dataset {source.name!r}", words):
        if reason := source.missing(data):
            raise InputError(f"{reason}. Run: sharpbench data prepare {source.name}")
        splits = source.load(data, seed=derive_seed(seed, "data"))
        if not isinstance(splits, Splits):
            raise TypeError(f"it loaded a {type(splits).__name__}, not Splits")
        return splits.to(device)


def _named(key: str, pointer: str, words: Words) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_object(pointer)
    except ImportError as error:
        raise InputError(f"{words.named(key, pointer)}: {error}") from error


def _loss(pointer: str, words: Words) -> Any:
    """What ``package.module:name`` or a ``name`` of torch.nn stands for; of a class an instance."""
    own = ":" in pointer
    losses = [name for name in dir(torch.nn) if name.endswith("Loss")]
    if not own and pointer not in losses:
        raise InputError(
            f"{words.named('loss', pointer)} is no loss of torch.nn; one of your own is "
            f"package.module:function. {nearest_names(pointer, losses)}"
        )
    found = _named("loss", pointer, words) if own else getattr(torch.nn, pointer)
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        try:
            return found()
        except Exception as error:
            raise InputError(
                f"{words.named('loss', pointer)} can't be made without arguments: {first_line(error)}; name "
                "an instance"
            ) from error
    return found


def _from_files(given: Given, words: Words) -> Any:
    """One batch from files of arrays: (inputs, targets), each an array or a dict of them."""
    assert given.inputs is not None
    inputs = _arrays("inputs", Path(given.inputs), words)
    if given.targets is None:
        if len(inputs) == 1:
            raise InputError(
                f"{given.inputs} holds {next(iter(inputs))!r} alone: name the targets by "
                f"{words.to_write('targets', 'FILE')}, or keep them beside it under labels"
            )
        return inputs
    targets = _arrays("targets", Path(given.targets), words)
    if len(targets) != 1:
        raise InputError(
            f"{given.targets} holds {', '.join(sorted(targets))}: targets must be one array"
        )
    one = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    (its,) = targets.values()
    for name, held in inputs.items():
        if held.ndim and its.ndim and len(held) != len(its):
            raise InputError(
                f"{given.inputs} holds {len(held)} samples ({name!r} {tuple(held.shape)}), and "
                f"{given.targets} {len(its)} targets {tuple(its.shape)}: there must be one of each sample"
            )
    return one, its


def _arrays(key: str, path: Path, words: Words) -> dict[str, Tensor]:
    """The arrays of a .safetensors, .npz or .npy file. Nothing in it is run."""
    called = words.named(key, path)
    if fault := no_file_near(path):
        raise InputError(f"{words.named(key)}: {fault}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: dict[str, Tensor] = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                found = {name: _tensor(held[name], f"{called}: {name!r}") for name in held.files}
        elif path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            found = {path.stem: _tensor(array, called)}
        else:
            raise InputError(f"{called} must end in .safetensors, .npz or .npy")
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{called} can't be read: {first_line(error)}") from error
    if not found:
        raise InputError(f"{called} holds no array")
    return found


def _tensor(array: np.ndarray[Any, Any], what: str) -> Tensor:
    """An array as a tensor, in this machine's order of bytes."""
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise InputError(
            f"{what} holds {array.dtype} {array.shape}, and numbers are measured: real ones, or "
            "integers such as class ids"
        ) from None


@contextmanager
def _told_apart(what: str, words: Words) -> Iterator[None]:
    """Inside runs what others wrote: its fault is an InputError, and what it prints isn't our output."""
    try:
        with guarded(), contextlib.redirect_stdout(sys.stderr):
            yield
    except InputError as error:
        raise InputError(words.of_python(str(error))) from error
    except Exception as error:
        raise InputError(f"{what}: {first_line(error)}") from error


def change_seed(seed: int, transformation: str) -> int:
    """That of a transformation of one network."""
    return derive_seed(seed, "transformation", transformation)


def transformed(
    subject: Subject,
    transformation: Transformation,
    *,
    seed: int,
    told: Callable[[str], object] = lambda sentence: None,
) -> Subject:
    """The subject after a change of its network whose promise is verified in float64.

    ``told`` hears which layers were left as they are, and why.

    Raises TransformationRefused where it does not apply or breaks its promise, and with what it raised.
    """
    try:
        with guarded(), contextlib.redirect_stdout(sys.stderr):
            own = change_seed(seed, transformation.name)
            found = changed(subject, transformation, seed=own)
    except TransformationRefused:
        raise
    except Exception as error:
        raise TransformationRefused(explain(error)) from error
    if found.left:
        told(f"{transformation.label}: {found.left}")
    return found.subject


def answer_of(record: Record) -> Measurement | str:
    """A recorded figure as the metric answered it, or the reason why there is none."""
    if record.status != "ok" or record.value is None:
        return record.reason or record.status
    return Measurement(
        record.value,
        errors=tuple(ErrorComponent(**component) for component in record.errors),
        error_bound=record.error_bound,
        converged=bool(record.converged),
        samples=record.samples or 0,
        work=Work(**record.work),
        details=record.details,
    )


def answers(
    subject: Subject, metrics: Iterable[Metric], *, seed: int
) -> Iterator[tuple[Metric, Measurement | Exception]]:
    """Each metric with its measurement, which a results folder could hold, or with what stood in the way."""
    for metric in metrics:
        answer: Measurement | Exception
        try:
            with guarded(), contextlib.redirect_stdout(sys.stderr):
                answer = metric.checked_measure(subject, seed=seed)
                check_answer(metric, answer)
        except Exception as error:
            answer = error
        yield metric, answer


def reason_of(error: Exception) -> str:
    """Why a metric has no answer, in the words of its record."""
    return (
        message_of(error)
        if isinstance(error, (MetricFailed, TransformationRefused))
        else explain(error)
    )
