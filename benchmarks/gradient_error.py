"""How far each method's expected gradient is from the exact one, by the encoder's parameters.

    python benchmarks/gradient_error.py

1,024 digits, four stored augmentations each, an MLP after 20 epochs of SimCLR and frozen since,
tau 0.1. What a method's gradient is on average over batches is held against the exact gradients
(float64, brute force) of both global objectives, F ("v1") and F2 ("v2") of
`sogclr.losses.objective`.
Gradient accumulation does not change an average: k micro-batches of b have the bias of batch b.

Each method is run eight times, with tables of its own. The range beside a figure is two standard
errors to either side; `expected_gradient.py` says how noise is kept from passing for bias. A few
rows are measured with other encoders too, since it is they that make a gradient hard to estimate.

Writes `results/gradient_error.json`, a row as soon as it is measured, and
`docs/gradient_error.png`; minutes on two cores. Rows on file are kept: delete the file to measure
them again. LibAUC's are measured where it can be imported, and stay on file where it cannot.
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
from sogclr.data.views.pipeline import DRAWS, crop, crop_box, photometric

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gradient_error.json"
PICTURE = HERE.parent / "docs" / "gradient_error.png"
SAMPLES, VIEWS, SIZE, TAU, RUNS = 1024, 4, 16, 0.1, 8
BATCHES = (8, 16, 32, 64, 128, 256, 512)
ARROW: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
LABEL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
# Epochs that the encoder was trained. The first has the whole table; these rows have the others.
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
    """A row of the table: what is run, and for how long."""

    make: Callable[[], Loss]
    name: str
    batch: int
    burn_in: int
    passes: int

    @property
    def key(self) -> str:
        return f"{self.name}, B = {self.batch}"

    def settings(self) -> dict[str, Any]:
        return {"batch": self.batch, "burn_in": self.burn_in, "passes": self.passes}


def in_batch(kind: type[NTXentLoss] | type[DecoupledContrastiveLoss]) -> Loss:
    loss = kind(TAU)
    return lambda batch: loss(batch.view1, batch.view2)


def remembering(gamma_min: float, num_stored_views: int | None = None) -> Loss:
    loss = GlobalContrastiveLoss(
        SAMPLES,
        temperature=TAU,
        gamma_min=gamma_min,
        num_stored_views=num_stored_views,
        dtype=torch.float64,
    )
    return lambda batch: loss(
        batch.view1, batch.view2, batch.sample, batch.views if num_stored_views else None
    )


def libauc(call_adjust_gamma: bool = False, **settings: Any) -> Loss:
    """LibAUC's loss by its public interface. It is on the scale of both views' sum, and float32."""
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
    """All rows, by key. Burn-in is several times what the moving average remembers."""
    every = 1e-6  # a gamma_min that 1/visits never reaches
    rows = [
        Method(partial(in_batch, kind), name, batch, 0, 32)
        for name, kind in (("SimCLR", NTXentLoss), ("DCL", DecoupledContrastiveLoss))
        for batch in BATCHES
    ]
    rows += [
        Method(partial(remembering, gamma), f"SogCLR, gamma {gamma}", 16, burn_in, 16)
        for gamma, burn_in in ((0.9, 10), (0.5, 20), (0.2, 30), (0.1, 40))
    ]
    rows += [
        Method(partial(remembering, every), "SogCLR, gamma 1/visits", 16, 120, 16),
        Method(partial(remembering, every), "SogCLR, gamma 1/visits", 64, 120, 16),
        # A view is met every second pass only.
        Method(partial(remembering, every, VIEWS), "SogCLR, u per view, 1/visits", 16, 200, 16),
    ]
    # The tutorial's call for images, which leaves the schedule at its default, constant; the
    # cosine schedule as the class documents it, where adjust_gamma is not mentioned; and with
    # that called at every epoch, over half of them, and the gamma that averages over all of them.
    cosine: dict[str, Any] = {"gamma_schedule": "cosine", "gamma_decay_epochs": 68}
    rows += [
        Method(partial(libauc, gamma=0.9), "LibAUC, as in its tutorial", 16, 10, 16),
        Method(partial(libauc, gamma=0.9, **cosine), "LibAUC, cosine, nothing called", 16, 10, 16),
        Method(partial(libauc, True, gamma=0.01, **cosine), "LibAUC, with care", 16, 120, 16),
    ]
    return {row.key: row for row in rows}


@cache
def stored_images() -> Tensor:
    """`(n, V, p)` float64: the pixels of all stored augmentations."""
    source = digits()
    views = source.views.over(Augmentation().resolved(SIZE))
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
    """With an encoder trained for so long. The same in every process."""
    images = stored_images()
    torch.manual_seed(0)
    layers = nn.Linear(images.shape[-1], 256), nn.ReLU(), nn.Linear(256, 64)
    encoder = nn.Sequential(*layers).double()
    return Problem(trained(encoder, images, epochs), images, TAU)


def trained(encoder: nn.Module, images: Tensor, epochs: int) -> nn.Module:
    """A little: with random weights all features point the same way, and so does the gradient."""
    loss, optimizer = NTXentLoss(TAU), torch.optim.Adam(encoder.parameters(), lr=1e-3)
    for _ in range(epochs):
        for sample in torch.randperm(SAMPLES).split(256):
            first, second = torch.rand(len(sample), VIEWS).argsort(dim=1).T[:2]
            optimizer.zero_grad()
            loss(encoder(images[sample, first]), encoder(images[sample, second])).backward()
            optimizer.step()
    return encoder


def one_run(key: str, epochs: int, seed: int) -> np.ndarray:
    """The mean gradient of one run of a row, `(P,)`."""
    _, batch, burn_in, passes = (method := methods()[key])[1:]
    loss = method.make()
    return problem(epochs).mean_gradient(loss, batch, burn_in, passes, seed).numpy()


def measured(
    pool: ProcessPoolExecutor, method: Method, epochs: int, exact: dict[str, Tensor]
) -> dict[str, Any]:
    """A row for the file."""
    started = time.monotonic()
    runs = pool.map(one_run, repeat(method.key), repeat(epochs), range(RUNS))
    gradients = torch.from_numpy(np.stack(list(runs)))  # (R, P)
    row = method.settings()
    if method.name.startswith("LibAUC"):
        row["libauc"] = version("libauc")
    for name, gradient in exact.items():
        bias = relative_bias(gradients, gradient)
        row[name] = {field: round(value, 6) for field, value in bias._asdict().items()}
    return {**row, "seconds": round(time.monotonic() - started, 1)}


def recorded() -> dict[str, Any]:
    """The tables filed so far, by epochs of training."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return stored["encoders"] if stored.get("setup") == SETUP else {}


def file(tables: dict[str, Any]) -> None:
    stored = {"setup": SETUP, "machine": {**machine(), "cores": os.cpu_count()}, "encoders": tables}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def in_words(bias: dict[str, float]) -> str:
    return f"{bias['value']:.3f} [{bias['low']:.3f}, {bias['high']:.3f}]"


def fill(pool: ProcessPoolExecutor, tables: dict[str, Any], epochs: int) -> None:
    """Measure what is missing for this encoder, file and print it."""
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
            row = table["rows"][key] = measured(pool, method, epochs, exact)
            file(tables)
        print(f"{key:<38} {in_words(row['F']):<22} {in_words(row['F2'])}", flush=True)


def heights(bias: dict[str, float]) -> tuple[float, list[list[float]]]:
    """Where a figure is drawn, and how far its range goes below and above."""
    return bias["value"], [[bias["value"] - bias["low"]], [bias["high"] - bias["value"]]]


def draw(rows: dict[str, Any]) -> None:
    """Both axes logarithmic: what falls as 1/B is straight. A bias of zero has its upper end."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for name in ("SimCLR", "DCL (decoupled SimCLR)"):
        color = METHOD_COLORS[name.split()[0].lower()]
        biases = [rows[f"{name.split()[0]}, B = {batch}"]["F"] for batch in BATCHES]
        for batch, bias in zip(BATCHES, biases, strict=True):
            axes.errorbar(batch, *heights(bias), fmt="o", color=color, capsize=3)
        axes.plot(BATCHES, [bias["value"] for bias in biases], color=color, linewidth=2)
        axes.annotate(name, (8, biases[0]["value"]), (8, 6), color=color, **LABEL)
    half = [1.0 * 60 / batch for batch in (60, 240)]
    axes.plot((60, 240), half, "--", color="grey", linewidth=1)
    axes.annotate("twice the batch,\nhalf the error", (120, 0.5), (8, 4), color="grey", **LABEL)
    for gamma in ("0.9", "0.5", "0.2", "0.1", "1/visits"):
        draw_remembering(axes, gamma, rows[f"SogCLR, gamma {gamma}, B = 16"]["F2"])
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


def draw_remembering(axes: Any, gamma: str, bias: dict[str, float]) -> None:
    """SogCLR at batch 16, and a line to the batch at which others are as good."""
    color = METHOD_COLORS["sogclr"]
    if bias["low"] > 0:
        height = bias["value"]
        axes.errorbar(16, *heights(bias), fmt="s", color=color, capsize=3, zorder=3)
    else:
        height = bias["high"]
        axes.plot(16, height, "_", color=color, markersize=12)
        axes.annotate("", (16, 0.6 * height), (16, height), arrowprops={**ARROW, "color": color})
        axes.annotate("zero to within this", (16, height), (8, 4), color=color, **LABEL)
    axes.plot((16, 512), (height, height), ":", color=color, linewidth=1)
    label = {**LABEL, "ha": "right", "va": "center", "color": color}
    axes.annotate(rf"$\gamma$ = {gamma}", (16, height), (-8, 0), **label)


def main() -> None:
    torch.set_num_threads(1)  # a run has small matrices and one core
    processes = min(RUNS, os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")
    tables = recorded()
    with ProcessPoolExecutor(processes, spawn, torch.set_num_threads, (1,)) as pool:
        for epochs in ENCODERS:
            fill(pool, tables, epochs)
    draw(tables[str(ENCODERS[0])]["rows"])


if __name__ == "__main__":
    main()
