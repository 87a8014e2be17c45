"""`sogclr.evaluate`: raw pixels, the untrained and the trained encoder, side by side."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.table import Table
from torch import nn

from ..common.console import result, say
from ..common.errors import UserError
from ..common.options import Device, Protocol
from ..data.image_source import Data, ImageSource, open_source
from ..distributed.launch import choose_device
from ..models.encoders import EncoderSpec
from ..planning.images import loader_workers
from ..runs.load import load_encoder
from .embed_images import Embedding, embed_rows
from .knn import knn_accuracy
from .linear import linear_accuracy

__all__ = ["Report", "evaluate"]


@dataclass(frozen=True)
class Report:
    """Accuracies in [0, 1]: `accuracy["trained"]["knn"]`; features are "raw pixels", "untrained"
    and "trained"."""

    accuracy: dict[str, dict[str, float]]


def evaluate(
    run: str | Path,
    data: Data,
    test: "Data | None",
    protocol: str | tuple[str, ...],
    module: nn.Module | None,
    device: Device,
    workers: int | None,
) -> Report:
    """See `sogclr.evaluate`."""
    protocols = _protocols(protocol)
    # Before the data is read: is it a run at all?
    trained, spec = load_encoder(run, copy.deepcopy(module))
    untrained, _ = load_encoder(run, module, initial=True)
    train = _labelled(open_source(data))
    held = None if test is None else _labelled(open_source(test))
    if held is not None:
        _same_classes(train, held)
    kind = choose_device(device)

    accuracy: dict[str, dict[str, float]] = {}
    encoders = {"raw pixels": None, "untrained": untrained, "trained": trained}
    for name, encoder in encoders.items():
        features = [
            _features(encoder, source, spec, kind, workers)
            for source in (train, held)
            if source is not None
        ]
        accuracy[name] = {p: _accuracy(p, *features) for p in protocols}
    result("accuracy " + ("on --test" if held else "(leave-one-out kNN, 5-fold linear)"))
    result(_table(accuracy, protocols))
    return Report(accuracy)


def _features(
    encoder: nn.Module | None,
    source: ImageSource,
    spec: EncoderSpec,
    device: str,
    workers: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    processes = loader_workers(source.local, device, workers)
    if encoder is not None:
        encoder = encoder.to(device)
    embedding: Embedding = embed_rows(encoder, source, spec, device=device, workers=processes)
    assert source.labels is not None
    return embedding.vectors, source.labels[embedding.rows]


def _accuracy(
    protocol: Protocol,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    if protocol == "linear":
        return linear_accuracy(*train, *(test or (None, None)))
    tensors = [torch.from_numpy(part) for part in (*train, *(test or ()))]
    return knn_accuracy(*tensors)


def _protocols(asked: str | tuple[str, ...]) -> tuple[Protocol, ...]:
    names = asked.split(",") if isinstance(asked, str) else asked
    known = {p: p for p in get_args(Protocol)}
    for name in names:
        if name not in known:
            raise UserError(f"protocol: {name!r} is unknown; knn and linear are there")
    return tuple(known[name] for name in names)


def _labelled(source: ImageSource) -> ImageSource:
    if source.labels is None:
        raise UserError(
            f"data: {source.describe()}: no labels; "
            "put each class in a sub-folder, or give every sample of shards a part cls"
        )
    if source.left_out:
        say(source.describe())
    return source


def _same_classes(train: ImageSource, test: ImageSource) -> None:
    if train.classes != test.classes:
        unknown = sorted(set(test.classes or []) ^ set(train.classes or []))
        raise UserError(
            f"test: its classes differ from the data's ({', '.join(unknown[:5])} on one side only)"
        )


def _table(accuracy: dict[str, dict[str, float]], protocols: tuple[Protocol, ...]) -> Table:
    table = Table()
    table.add_column("features")
    for protocol in protocols:
        table.add_column(protocol, justify="right")
    for name, row in accuracy.items():
        table.add_row(name, *(f"{row[p]:.2%}" for p in protocols))
    return table
