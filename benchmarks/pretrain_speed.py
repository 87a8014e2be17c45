"""Measure images per second of whole pre-training at 32 px: sogclr, lightly and LibAUC.

    pip install lightly libauc
    python benchmarks/pretrain_speed.py

The time is that from arrays in memory to updated weights: views, encoder, projector, loss and
optimizer. Three tables:

    peers      sogclr, in float32 and at its default precision, lightly's SimCLR example
               (`SimCLRTransform`, `NTXentLoss`) and LibAUC's tutorial (torchvision's transforms,
               `GCLoss`), all with the same encoder, projector and optimizer. The peers run with a
               loader in the main process and with one worker for each core; the faster one counts.
               On a GPU all run in bfloat16, the peers with workers only
    loss       a step of SogCLR, DCL and SimCLR in sogclr's code
    batch      sogclr at batch 16 to 4,096

The programs take turns in one process, and each round starts with another one. A figure is the
median over rounds, the range of a ratio its lowest and highest round. Takes twenty minutes of two
cores, or two minutes of a GPU, where the encoder is a ResNet-18. Writes
`results/pretrain_speed.json` or `..._cuda.json`. The images are photos scaled to 32 px; they must
be in `../shared/data` or $SOGCLR_DATA (flickr8k-144.tar).
"""

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from view_speed import TwoViews, lightly_view, photos, torchvision_view

from sogclr.common.options import Augmentation, Method, Precision
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.images.arrays import ArraySource
from sogclr.data.views.resident import keep_on_device
from sogclr.distributed.device import choose_device
from sogclr.distributed.launch import start
from sogclr.models.encoders import ContrastiveModel, build_encoder, build_projector, width_of
from sogclr.planning.images import plan_run
from sogclr.planning.settings_images import ImageSettings
from sogclr.runs.folder import Run
from sogclr.training.build_images import build_task
from sogclr.training.loop import Trainer

GPU = torch.cuda.is_available()
NAME = "pretrain_speed_cuda.json" if GPU else "pretrain_speed.json"
RESULTS = Path(__file__).parent / "results" / NAME
ROUNDS, TAU, RATE = 3 if GPU else 5, 0.2, 1e-3
VIEWS = Augmentation().resolved(32)
# Images in a round, so that it takes seconds; a larger number for the peers, whose workers start
# slowly.
IMAGES = {"small": 1024, "resnet18": 24_576 if GPU else 128}
PEER_IMAGES = 4096
# Encoders and batch sizes of the table `peers`; the encoder of the other tables.
PEER_CASES = [("small", 64), ("small", 512), ("resnet18", 64)]
ENCODER = "small"
if GPU:
    PEER_CASES, ENCODER = [("resnet18", 64), ("resnet18", 512)], "resnet18"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Side = Callable[[], float]


class WithIds(Dataset):
    """Two views of an image, and the sample's index."""

    def __init__(self, pairs: TwoViews) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        return *self.pairs[row], row


def lightly_loss(samples: int) -> Loss:
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(TAU)
    return lambda a, b, index: loss(a, b)


def libauc_loss(samples: int) -> Loss:
    from libauc.losses import GCLoss

    with contextlib.redirect_stdout(io.StringIO()):
        return GCLoss("unimodal", N=samples, tau=TAU, device=choose_device("auto"))


def peer_loop(source: ArraySource, view: Any, loss: Loss, encoder: str, batch: int) -> Side:
    """Make the training loop of lightly's example and LibAUC's tutorial: one view at a time."""
    model, device = _model(encoder), choose_device("auto")
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    loaders = [
        DataLoader(
            WithIds(TwoViews(source, view)),
            batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for workers in ((os.cpu_count() or 1,) if GPU else (0, os.cpu_count() or 1))
    ]
    precision = torch.autocast(device, torch.bfloat16, enabled=GPU)

    def epoch(loader: DataLoader) -> float:
        started, images = time.perf_counter(), 0
        for view1, view2, index in loader:
            with precision:
                z1, z2 = (model(v.to(device))[1] for v in (view1, view2))
            loss(z1.float(), z2.float(), index.to(device)).backward()
            optimizer.step()
            optimizer.zero_grad()
            images += len(index)
        return images / (time.perf_counter() - started)

    return lambda: max(epoch(loader) for loader in loaders)


def own_loop(
    source: ArraySource,
    encoder: str,
    batch: int,
    method: Method = "sogclr",
    precision: Precision = "auto",
) -> Side:
    """Make the loop of `sogclr.pretrain`, one epoch in a round, without saving, as the peers."""

    def epoch() -> float:
        with contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as folder:
            trainer = _trainer(source, encoder, batch, method, precision, Path(folder))
            # Checkpoints are not timed: replace the method of this one trainer.
            trainer.save = lambda: None  # type: ignore[method-assign]
            started = time.perf_counter()
            trainer.train()
            return len(source) / (time.perf_counter() - started)

    return epoch


def _trainer(
    source: ArraySource,
    encoder: str,
    batch: int,
    method: Method,
    precision: Precision,
    folder: Path,
) -> Trainer:
    request = ImageSettings(
        method=method,
        encoder=encoder,
        batch_size=batch,
        epochs=1,
        image_size=32,
        temperature=TAU,
        optimizer="adamw",
        learning_rate=RATE,
        precision=precision,
        views=VIEWS,
    )
    device = choose_device("auto")
    plan = plan_run(request, source, device, workers=None)
    net, spec = build_encoder(encoder, 32)
    fabric = start(device, plan.precision)
    task = build_task(source, plan, net, spec, fabric.device, keep_on_device(source, fabric.device))
    batches = ShuffledSchedule(source.ids, batch, accumulate=1, epochs=1, seed=0)
    trainer = Trainer(fabric, task, batches, plan.recipe, Run(folder), math.inf)
    trainer.monitor.start()
    return trainer


def _model(encoder: str) -> nn.Module:
    net, _ = build_encoder(encoder, 32)
    return ContrastiveModel(net, build_projector(width_of(net, 32)))


def time_in_turns(sides: Mapping[str, Side]) -> dict[str, list[float]]:
    """Let all programs take turns; return the images per second of each in every round."""
    names = list(sides)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for side in sides.values():
        side()
    for turn in range(ROUNDS):
        start_with = turn % len(names)
        for name in names[start_with:] + names[:start_with]:
            rates[name].append(sides[name]())
    return rates


def compare(rates: dict[str, list[float]], reference: str) -> list[dict[str, Any]]:
    """Return one line for each program; `ratio` is the speed of `reference` over its speed."""
    rows = []
    for name, others in rates.items():
        ratios = [a / b for a, b in zip(rates[reference], others, strict=True)]
        summary = [statistics.median(ratios), min(ratios), max(ratios)]
        row = {"side": name, "images_per_second": round(statistics.median(others), 1)}
        rows.append(row | {"ratio": [round(r, 3) for r in summary]})
    return rows


def measure_peers(images: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the lines of the table `peers`."""
    for encoder, batch in PEER_CASES:
        part = first(images, max(IMAGES[encoder], 2 * batch))
        few = first(images, min(len(part), PEER_IMAGES))
        makers = {"lightly": (lightly_loss, lightly_view), "LibAUC": (libauc_loss, plain_view)}
        sides = {"ours, default": own_loop(part, encoder, batch)}
        if not GPU:
            sides["ours, float32"] = own_loop(part, encoder, batch, precision="32-true")
        for name, (loss, view) in makers.items():
            with contextlib.suppress(ImportError):
                sides[name] = peer_loop(few, view(32, VIEWS), loss(len(few)), encoder, batch)
        for row in compare(time_in_turns(sides), "ours, default" if GPU else "ours, float32"):
            yield {"encoder": encoder, "batch": batch, **row}


def plain_view(size: int, views: Augmentation) -> Any:
    """Make torchvision's view without blur, as is usual at this size."""
    return torchvision_view(size, views, nn.Identity())


def measure_losses(images: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the lines of the table `loss`."""
    for batch in (64, 256, 1024):
        # More images, since the differences are a few percent.
        part = first(images, 4 * max(IMAGES[ENCODER], batch))
        sides = {m: own_loop(part, ENCODER, batch, method=m) for m in ("sogclr", "dcl", "simclr")}
        for row in compare(time_in_turns(sides), "sogclr"):
            yield {"encoder": ENCODER, "batch": batch, **row}


def measure_batches(images: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the lines of the table `batch`."""
    sizes = (16, 64, 256, 1024, 4096)
    sides = {
        str(b): own_loop(first(images, max(2 * IMAGES[ENCODER], b)), ENCODER, b) for b in sizes
    }
    for row in compare(time_in_turns(sides), "64"):
        yield {"encoder": ENCODER, "batch": int(row["side"]), **row, "side": "ours, default"}


def first(images: np.ndarray, count: int) -> ArraySource:
    """Return the first images, repeated if there are too few."""
    return ArraySource(images[np.arange(count) % len(images)])


def show(tables: dict[str, list[dict[str, Any]]]) -> None:
    for title, rows in tables.items():
        print(
            f"{title:<8}{'encoder':>10}{'batch':>7}  {'side':<16}{'images/s':>9}  ours is x times"
        )
        for row in rows:
            middle, low, high = row["ratio"]
            print(
                f"{'':<8}{row['encoder']:>10}{row['batch']:>7}  {row['side']:<16}"
                f"{row['images_per_second']:>9.1f}  {middle:.2f} [{low:.2f}, {high:.2f}]"
            )


def main() -> None:
    images = np.stack([np.asarray(photo.resize((32, 32))) for photo in photos(1024)])
    measured = {
        "peers": measure_peers,
        "loss": measure_losses,
        "batch": measure_batches,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=measured, default=list(measured))
    chosen = parser.parse_args().tables
    tables = {name: list(measured[name](images)) for name in chosen}
    versions = {}
    for name in ("lightly", "libauc", "torchvision"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"tables": {}}
    stored |= {"rounds": ROUNDS, "machine": machine(), "versions": versions}
    stored["tables"] |= tables
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    show(tables)


if __name__ == "__main__":
    main()
