"""The bias of each method's gradient by the encoder's parameters.

    python benchmarks/gradient_error.py

The data are 1,024 digits with four stored augmentations each, tau is 0.1, and the encoder is an MLP
that was trained for 20 epochs of SimCLR and is frozen. A method's average gradient over batches is
compared with the exact gradients (float64, brute force) of both global objectives, F ("v1") and F2
("v2") of `sogclr.losses.objective`. Gradient accumulation does not change an average: k
micro-batches of b samples have the bias of batch b.

Each method runs eight times, each time with an empty table. The range of a figure is two standard
errors to either side; `expected_gradient.py` explains how noise is removed. A few methods are also
measured with other encoders, since the difficulty depends on the encoder.

Writes each line of `results/gradient_error.json` as soon as it is measured, and
`docs/gradient_error.png`; takes minutes on two cores. Lines in the file are kept: delete the file
to measure them again. LibAUC is measured if it is installed; otherwise its lines are kept.
"""

import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from expected_gradient import Batch, Loss, Problem, relative_bias
from machine import machine
from torch import Tensor, nn

from sogclr import Augmentation, DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss
from sogclr.common.colors import METHOD_COLORS
from sogclr.data.images.arrays import digits
from sogclr.data.randomness import uniforms
from sogclr.data.views.crops import crop
from sogclr.data.views.draws import DRAWS, crop_box
from sogclr.data.views.pipeline import photometric

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gradient_error.json"
PICTURE = HERE.parent / "docs" / "gradient_error.png"
SAMPLES, VIEWS, SIZE, TAU, RUNS = 1024, 4, 16, 0.1, 8
BATCHES = (8, 16, 32, 64, 128, 256, 512)
ARROW: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
LABEL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
# Epochs of training of the encoders. The first one has the whole table, the others a few methods.
ENCODERS = (20, 0, 5)
AT_OTHER_ENCODERS = (
    "SimCLR, B = 16",
    "DCL, B = 16",
    "SogCLR, gamma 0.9, B = 16",
    "SogCLR, gamma 1/visits, B = 16",
)
SETUP = {
    "data": f"{SAMPLES} digits, {VIEWS} stored augmentations each",
    "encoder": "MLP 768-256-64, frozen after epochs of SimCLR at batch 256 (Adam, 1e-3)",
    "temperature": TAU,
    "runs": RUNS,
}


class Method(NamedTuple):
    """A line of the table: a method, its batch size and its number of passes."""

    make: Callable[[], Loss]
    name: str
    batch: int
    burn_in: int
    passes: int

    @property
    def key(self) -> str:
        """The name of the line in the results file."""
        return f"{self.name}, B = {self.batch}"

    def settings(self) -> dict[str, Any]:
        """Return the settings that the results file contains."""
        return {"batch": self.batch, "burn_in": self.burn_in, "passes": self.passes}


def in_batch(kind: type[NTXentLoss] | type[DecoupledContrastiveLoss]) -> Loss:
    loss = kind(TAU, scale="temperature")
    return lambda batch: loss(batch.view1, batch.view2)


def with_table(gamma_min: float, num_stored_views: int | None = None) -> Loss:
    loss = GlobalContrastiveLoss(
        SAMPLES,
        temperature=TAU,
        gamma_min=gamma_min,
        num_stored_views=num_stored_views,
        dtype=torch.float64,
        scale="temperature",
    )
    return lambda batch: loss(
        batch.view1, batch.view2, batch.sample, views=batch.views if num_stored_views else None
    )


def libauc(call_adjust_gamma: bool = False, **settings: Any) -> Loss:
    """Build LibAUC's loss in float32; halved, since LibAUC adds the losses of both views."""
    from libauc.losses import GCLoss

    with redirect_stdout(io.StringIO()):
        module = GCLoss("unimodal", N=SAMPLES, tau=TAU, device="cpu", **settings)
    seen = -1

    def loss(batch: Batch) -> Tensor:
        nonlocal seen
        if call_adjust_gamma and batch.epoch != seen:
            seen = batch.epoch
            with redirect_stdout(io.StringIO()):
                module.adjust_gamma(seen)
        return module(batch.view1.float(), batch.view2.float(), batch.sample) / 2

    return loss


def methods() -> dict[str, Method]:
    """Return all lines by key. Burn-in is several times the length of the moving average."""
    every = 1e-6  # a gamma_min that 1/visits never reaches
    rows = [
        Method(partial(in_batch, kind), name, batch, 0, 32)
        for name, kind in (("SimCLR", NTXentLoss), ("DCL", DecoupledContrastiveLoss))
        for batch in BATCHES
    ]
    rows += [
        Method(partial(with_table, gamma), f"SogCLR, gamma {gamma}", 16, burn_in, 16)
        for gamma, burn_in in ((0.9, 10), (0.5, 20), (0.2, 30), (0.1, 40))
    ]
    rows += [
        Method(partial(with_table, every), "SogCLR, gamma 1/visits", 16, 120, 16),
        Method(partial(with_table, every), "SogCLR, gamma 1/visits", 64, 120, 16),
        # Each stored view is visited in every second pass only.
        Method(partial(with_table, every, VIEWS), "SogCLR, u per view, 1/visits", 16, 200, 16),
    ]
    # Three uses of LibAUC: its tutorial for images, with the default (constant) gamma; the cosine
    # schedule as documented, without calls of adjust_gamma; and the same schedule with a call of
    # adjust_gamma in every epoch, over half of the epochs, and a small final gamma.
    cosine: dict[str, Any] = {"gamma_schedule": "cosine", "gamma_decay_epochs": 68}
    rows += [
        Method(partial(libauc, gamma=0.9), "LibAUC, as in its tutorial", 16, 10, 16),
        Method(partial(libauc, gamma=0.9, **cosine), "LibAUC, cosine, nothing called", 16, 10, 16),
        Method(partial(libauc, True, gamma=0.01, **cosine), "LibAUC, with care", 16, 120, 16),
    ]
    return {row.key: row for row in rows}


@cache
def stored_images() -> Tensor:
    """Draw the stored augmentations and return their pixels, `(n, V, p)` float64."""
    source = digits()
    views = source.augmentation.over(Augmentation().resolved(SIZE))
    stored = []
    for view in range(VIEWS):
        draws = uniforms(0, 0, source.ids[:SAMPLES], view, DRAWS)
        crops = [
            crop(image, crop_box(d, *image.size, views.crop_min or 0.0), SIZE)
            for image, d in zip(map(source.image, range(SAMPLES)), draws, strict=True)
        ]
        stored.append(photometric(torch.from_numpy(np.stack(crops)), draws, views).flatten(1))
    return torch.stack(stored, dim=1).double()


@cache
def problem(epochs: int) -> Problem:
    """Train an encoder for some epochs. The result is the same in every process."""
    images = stored_images()
    torch.manual_seed(0)
    layers = nn.Linear(images.shape[-1], 256), nn.ReLU(), nn.Linear(256, 64)
    encoder = nn.Sequential(*layers).double()
    return Problem(train(encoder, images, epochs), images, TAU)


def train(encoder: nn.Module, images: Tensor, epochs: int) -> nn.Module:
    """Train the encoder by SimCLR: with random weights, all features are nearly parallel."""
    loss = NTXentLoss(TAU, scale="temperature")
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    for _ in range(epochs):
        for sample in torch.randperm(SAMPLES).split(256):
            first, second = torch.rand(len(sample), VIEWS).argsort(dim=1).T[:2]
            optimizer.zero_grad()
            loss(encoder(images[sample, first]), encoder(images[sample, second])).backward()
            optimizer.step()
    return encoder


def run_once(key: str, epochs: int, seed: int) -> np.ndarray:
    """Return the mean gradient of one run of a method, `(P,)`."""
    _, batch, burn_in, passes = (method := methods()[key])[1:]
    loss = method.make()
    return problem(epochs).mean_gradient(loss, batch, burn_in, passes, seed).numpy()


def measure(
    pool: ProcessPoolExecutor, method: Method, epochs: int, exact: dict[str, Tensor]
) -> dict[str, Any]:
    """Measure the bias of a method and return its line of the results file."""
    started = time.monotonic()
    runs = pool.map(run_once, repeat(method.key), repeat(epochs), range(RUNS))
    gradients = torch.from_numpy(np.stack(list(runs)))  # (R, P)
    row = method.settings()
    if method.name.startswith("LibAUC"):
        row["libauc"] = version("libauc")
    for name, gradient in exact.items():
        bias = relative_bias(gradients, gradient)
        row[name] = {field: round(value, 6) for field, value in bias._asdict().items()}
    return {**row, "seconds": round(time.monotonic() - started, 1)}


def recorded() -> dict[str, Any]:
    """Return the tables in the results file, by epochs of training."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return stored["encoders"] if stored.get("setup") == SETUP else {}


def write_results(tables: dict[str, Any]) -> None:
    """Write all tables to the results file."""
    stored = {"setup": SETUP, "machine": {**machine(), "cores": os.cpu_count()}, "encoders": tables}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def format_bias(bias: dict[str, float]) -> str:
    return f"{bias['value']:.3f} [{bias['low']:.3f}, {bias['high']:.3f}]"


def fill(pool: ProcessPoolExecutor, tables: dict[str, Any], epochs: int) -> None:
    """Measure and print the lines that are missing for this encoder."""
    exact = {"F": problem(epochs).exact("v1"), "F2": problem(epochs).exact("v2")}
    distance = (exact["F"] - exact["F2"]).norm()
    table = tables.setdefault(str(epochs), {"rows": {}})
    table["distance"] = {name: round(float(distance / exact[name].norm()), 6) for name in exact}
    print(f"\nencoder after {epochs} epochs, bias against {'F':<22} F2")
    print(f"{'distance of grad F and grad F2':<38} ", end="")
    print(f"{table['distance']['F']:<22.3f} {table['distance']['F2']:.3f}")
    for key, method in methods().items():
        if epochs != ENCODERS[0] and key not in AT_OTHER_ENCODERS:
            continue
        row = table["rows"].get(key, {})
        if not method.settings().items() <= row.items():
            if method.name.startswith("LibAUC") and find_spec("libauc") is None:
                print(f"{key:<38} not installed: pip install libauc, and run this again")
                continue
            row = table["rows"][key] = measure(pool, method, epochs, exact)
            write_results(tables)
        print(f"{key:<38} {format_bias(row['F']):<22} {format_bias(row['F2'])}", flush=True)


def error_bars(bias: dict[str, float]) -> tuple[float, list[list[float]]]:
    """Return the height of a point, and the lengths of its error bar below and above."""
    return bias["value"], [[bias["value"] - bias["low"]], [bias["high"] - bias["value"]]]


def draw(rows: dict[str, Any]) -> None:
    """Draw bias against batch size; on logarithmic axes, 1/B is a straight line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for name in ("SimCLR", "DCL (decoupled SimCLR)"):
        color = METHOD_COLORS[name.split()[0].lower()]
        biases = [rows[f"{name.split()[0]}, B = {batch}"]["F"] for batch in BATCHES]
        for batch, bias in zip(BATCHES, biases, strict=True):
            axes.errorbar(batch, *error_bars(bias), fmt="o", color=color, capsize=3)
        axes.plot(BATCHES, [bias["value"] for bias in biases], color=color, linewidth=2)
        axes.annotate(name, (8, biases[0]["value"]), (8, 6), color=color, **LABEL)
    half = [1.0 * 60 / batch for batch in (60, 240)]
    axes.plot((60, 240), half, "--", color="grey", linewidth=1)
    axes.annotate("twice the batch,\nhalf the error", (120, 0.5), (8, 4), color="grey", **LABEL)
    for gamma in ("0.9", "0.5", "0.2", "0.1", "1/visits"):
        draw_sogclr(axes, gamma, rows[f"SogCLR, gamma {gamma}, B = 16"]["F2"])
    color = METHOD_COLORS["sogclr"]
    axes.annotate("SogCLR, batch 16", (16, 0.28), (-20, 0), ha="center", color=color, **LABEL)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(BATCHES, [str(batch) for batch in BATCHES])
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
    axes.set_yticks(ticks, [f"{tick:.0%}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0.01, 2.6)
    axes.set_xlabel("batch size")
    axes.set_ylabel("systematic error of the gradient")
    axes.set_title("How far the average gradient is from that of the whole data set", fontsize=11)
    axes.grid(alpha=0.25)
    figure.savefig(PICTURE, dpi=150)


def draw_sogclr(axes: Any, gamma: str, bias: dict[str, float]) -> None:
    """Draw SogCLR at batch 16, with a line to the batch size at which the others are as good.

    A bias that may be zero is drawn at the upper end of its range.
    """
    color = METHOD_COLORS["sogclr"]
    if bias["low"] > 0:
        height = bias["value"]
        axes.errorbar(16, *error_bars(bias), fmt="s", color=color, capsize=3, zorder=3)
    else:
        height = bias["high"]
        axes.plot(16, height, "_", color=color, markersize=12)
        axes.annotate("", (16, 0.6 * height), (16, height), arrowprops={**ARROW, "color": color})
        axes.annotate("zero to within this", (16, height), (8, 4), color=color, **LABEL)
    axes.plot((16, 512), (height, height), ":", color=color, linewidth=1)
    label = {**LABEL, "ha": "right", "va": "center", "color": color}
    axes.annotate(rf"$\gamma$ = {gamma}", (16, height), (-8, 0), **label)


def main() -> None:
    torch.set_num_threads(1)  # one core for each run: its matrices are small
    processes = min(RUNS, os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")
    tables = recorded()
    with ProcessPoolExecutor(processes, spawn, torch.set_num_threads, (1,)) as pool:
        for epochs in ENCODERS:
            fill(pool, tables, epochs)
    draw(tables[str(ENCODERS[0])]["rows"])


if __name__ == "__main__":
    main()
