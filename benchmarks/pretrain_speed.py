"""Images per second of whole pre-training at 32 px, beside lightly's and LibAUC's loops.

    pip install lightly libauc
    python benchmarks/pretrain_speed.py

From arrays in memory to updated weights: views, encoder, projector, loss, optimizer. Three tables:

    peers      ours, in float32 and at our default precision, beside lightly's SimCLR example
               (`SimCLRTransform`, `NTXentLoss`) and LibAUC's tutorial (torchvision's transforms,
               `GCLoss`); theirs with a loader in the process and with a worker a core, whichever
               is faster; encoder, projector and optimizer are the same. On a GPU all in bfloat16,
               theirs with workers alone
    loss       SogCLR's step beside DCL's, the in-batch loss on the same code
    batch      ours at batch 16 to 4,096

Sides take turns in one process, each round begun by another. A figure is the median over rounds;
beside a ratio stand its lowest and highest round. Twenty minutes of two cores, two of a GPU, where
the encoder is a ResNet-18. Writes `results/pretrain_speed.json` or `..._cuda.json`. Images are
photos scaled to 32 px, looked for in `../shared/data` or $SOGCLR_DATA (flickr8k-144.tar).
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
from sogclr.data.batches.loaders import BatchPlan
from sogclr.data.images.arrays import ArraySource
from sogclr.data.views.resident import resident
from sogclr.distributed.launch import choose_device, start
from sogclr.models.encoders import ContrastiveModel, build_encoder, build_projector, width_of
from sogclr.planning.images import Request, plan_run
from sogclr.runs.folder import Run
from sogclr.training.build_images import build_task
from sogclr.training.loop import Trainer

GPU = torch.cuda.is_available()
NAME = "pretrain_speed_cuda.json" if GPU else "pretrain_speed.json"
RESULTS = Path(__file__).parent / "results" / NAME
ROUNDS, TAU, RATE = 3 if GPU else 5, 0.2, 1e-3
VIEWS = Augmentation().resolved(32)
# Images a round, so that one takes seconds, and of the others', whose loaders need longer.
IMAGES = {"small": 1024, "resnet18": 24_576 if GPU else 128}
THEIRS = 4096
# Encoder and batch size beside others; the encoder of the other tables.
BESIDE = [("small", 64), ("small", 512), ("resnet18", 64)]
USUAL = "small"
if GPU:
    BESIDE, USUAL = [("resnet18", 64), ("resnet18", 512)], "resnet18"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Side = Callable[[], float]


class WithIds(Dataset):
    """Two views, and who they are of."""

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


def theirs(source: ArraySource, view: Any, loss: Loss, encoder: str, batch: int) -> Side:
    """Lightly's example and LibAUC's tutorial are this loop; the model takes a view at a time."""
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


def ours(
    source: ArraySource,
    encoder: str,
    batch: int,
    method: Method = "sogclr",
    precision: Precision = "auto",
) -> Side:
    """As `sogclr.pretrain` does it, one epoch a round, but for saving, which no other does."""

    def epoch() -> float:
        with contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as folder:
            trainer = _trainer(source, encoder, batch, method, precision, Path(folder))
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
    request = Request(
        method=method,
        encoder=encoder,
        batch_size=batch,
        epochs=1,
        image_size=32,
        temperature=TAU,
        gamma_min=0.2,
        gamma_decay_visits=None,
        accumulate=1,
        optimizer="adamw",
        learning_rate=RATE,
        weight_decay=None,
        pretrained=False,
        weights=None,
        precision=precision,
        views=VIEWS,
        seed=0,
    )
    device = choose_device("auto")
    plan = plan_run(request, source, device, workers=None)
    net, spec = build_encoder(encoder, 32)
    fabric = start(device, plan.precision)
    task = build_task(source, plan, net, spec, resident(source, fabric.device))
    batches = BatchPlan(source.ids, batch, accumulate=1, epochs=1, seed=0)
    trainer = Trainer(fabric, task, batches, plan.recipe, Run(folder), math.inf)
    trainer.monitor.start()
    return trainer


def _model(encoder: str) -> nn.Module:
    net, _ = build_encoder(encoder, 32)
    return ContrastiveModel(net, build_projector(width_of(net, 32)))


def in_turns(sides: Mapping[str, Side]) -> dict[str, list[float]]:
    """Images per second of each side in every round."""
    names = list(sides)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for side in sides.values():
        side()
    for turn in range(ROUNDS):
        start_with = turn % len(names)
        for name in names[start_with:] + names[:start_with]:
            rates[name].append(sides[name]())
    return rates


def compared(rates: dict[str, list[float]], mine: str) -> list[dict[str, Any]]:
    """A row a side; `ratio` is how many times as fast ours, `mine`, is."""
    rows = []
    for name, others in rates.items():
        ratios = [a / b for a, b in zip(rates[mine], others, strict=True)]
        found = [statistics.median(ratios), min(ratios), max(ratios)]
        row = {"side": name, "images_per_second": round(statistics.median(others), 1)}
        rows.append(row | {"ratio": [round(r, 3) for r in found]})
    return rows


def peers(images: np.ndarray) -> Iterator[dict[str, Any]]:
    for encoder, batch in BESIDE:
        part = first(images, max(IMAGES[encoder], 2 * batch))
        few = first(images, min(len(part), THEIRS))
        makers = {"lightly": (lightly_loss, lightly_view), "LibAUC": (libauc_loss, plain_view)}
        sides = {"ours, default": ours(part, encoder, batch)}
        if not GPU:
            sides["ours, float32"] = ours(part, encoder, batch, precision="32-true")
        for name, (loss, view) in makers.items():
            with contextlib.suppress(ImportError):
                sides[name] = theirs(few, view(32, VIEWS), loss(len(few)), encoder, batch)
        for row in compared(in_turns(sides), "ours, default" if GPU else "ours, float32"):
            yield {"encoder": encoder, "batch": batch, **row}


def plain_view(size: int, views: Augmentation) -> Any:
    """torchvision's; no blur at this size."""
    return torchvision_view(size, views, nn.Identity())


def losses(images: np.ndarray) -> Iterator[dict[str, Any]]:
    for batch in (64, 256, 1024):
        # A few percent are to be told apart.
        part = first(images, 4 * max(IMAGES[USUAL], batch))
        sides = {m: ours(part, USUAL, batch, method=m) for m in ("sogclr", "dcl", "simclr")}
        for row in compared(in_turns(sides), "sogclr"):
            yield {"encoder": USUAL, "batch": batch, **row}


def batches(images: np.ndarray) -> Iterator[dict[str, Any]]:
    sizes = (16, 64, 256, 1024, 4096)
    sides = {str(b): ours(first(images, max(2 * IMAGES[USUAL], b)), USUAL, b) for b in sizes}
    for row in compared(in_turns(sides), "64"):
        yield {"encoder": USUAL, "batch": int(row["side"]), **row, "side": "ours, default"}


def first(images: np.ndarray, count: int) -> ArraySource:
    """As many images, the same ones again where there are too few."""
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
    measured = {"peers": peers, "loss": losses, "batch": batches}
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
