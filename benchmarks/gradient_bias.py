"""How far the expected gradient of SimCLR, DCL and SogCLR is from the exact one, by batch size.

    python benchmarks/gradient_bias.py

512 digits, four stored augmentations each, their centered pixels as fixed features. The gradient
with respect to them, averaged over passes, is compared with the exact one (float64, brute force)
of what the method estimates: the global objective v1 for the in-batch losses, v2 for SogCLR with
one normalizer a sample. Gradient accumulation does not change it: k micro-batches of b have the
bias of batch b. Writes `results/gradient_bias.json` and `docs/gradient_bias.png`; some ten minutes
on a CPU.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sogclr import DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss, Views
from sogclr.data.arrays import digits
from sogclr.data.randomness import uniforms
from sogclr.data.views import DRAWS, crop, crop_box, photometric
from sogclr.objective import two_view_objective

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gradient_bias.json"
PICTURE = HERE.parent / "docs" / "gradient_bias.png"
SAMPLES, VIEWS, TAU, PASSES, BURN_IN = 512, 4, 0.1, 120, 60
BATCHES = (8, 16, 32, 64, 128)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def stored_features() -> Tensor:
    """`(n, V, d)` float64: the centered pixels of stored augmentations."""
    source = digits()
    views = source.views.over(Views().resolved(16))
    ids = source.ids[:SAMPLES]
    result = []
    for view in range(VIEWS):
        draws = uniforms(0, 0, ids, view, DRAWS)
        images = [source.image(row) for row in range(SAMPLES)]
        crops = [
            crop(image, crop_box(d, *image.size, views.crop_min or 0.0), 16)
            for image, d in zip(images, draws, strict=True)
        ]
        x = photometric(torch.from_numpy(np.stack(crops)), draws, views)
        pixels = x.flatten(1)  # (n, d)
        result.append(pixels - pixels.mean(dim=0))
    return torch.stack(result, dim=1).double()


def mean_gradients(loss: Loss, features: Tensor, batch: int) -> Tensor:
    """`(2, n, V, d)`: the gradient over whole passes, averaged over the even and the odd ones."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(2, *features.shape, dtype=features.dtype)
    for epoch in range(BURN_IN + PASSES):
        for rows in torch.randperm(SAMPLES, generator=generator).split(batch):
            views = torch.rand(len(rows), VIEWS, generator=generator).argsort(dim=1)  # (b, V)
            pair = [features[rows, views[:, side]].requires_grad_() for side in (0, 1)]
            (loss(pair[0], pair[1], rows) * len(rows) / SAMPLES).backward()
            if epoch < BURN_IN:
                continue
            for side in (0, 1):
                grad = pair[side].grad
                assert grad is not None
                total[epoch % 2, rows, views[:, side]] += grad
    return total / (PASSES / 2)


def exact_gradient(features: Tensor, version: Literal["v1", "v2"]) -> Tensor:
    leaf = features.clone().requires_grad_()
    two_view_objective(leaf, TAU, version).backward()
    assert leaf.grad is not None
    return leaf.grad


def losses() -> dict[str, Callable[[], Loss]]:
    """Fresh losses by name; SogCLR with gamma = 1/visits, whose table converges."""
    table = {"temperature": TAU, "gamma_min": 1e-3, "dtype": torch.float64}
    return {
        "SimCLR": lambda: NTXentLoss(TAU),
        "DCL": lambda: DecoupledContrastiveLoss(TAU),
        "SogCLR": lambda: GlobalContrastiveLoss(SAMPLES, **table),  # type: ignore[arg-type]
    }


def draw(bias: dict[str, list[float]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, values), color in zip(bias.items(), ("#c0504d", "#e0a030", "#1f77b4"), strict=True):
        axes.plot(BATCHES, values, "o-", label=name, color=color, linewidth=2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(BATCHES, [str(batch) for batch in BATCHES])
    axes.set_xlabel("batch size")
    axes.set_ylabel("relative bias of the gradient")
    axes.set_ylim(bottom=0)
    axes.set_title("distance of the expected gradient from the exact one", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    features = stored_features()
    v1, v2 = exact_gradient(features, "v1"), exact_gradient(features, "v2")
    print(f"distance of the gradients of v1 and v2: {float((v1 - v2).norm() / v2.norm()):.3f}")
    bias: dict[str, list[float]] = {}
    print("batch   " + "".join(f"{batch:>8}" for batch in BATCHES))
    for name, make in losses().items():
        exact = v2 if name == "SogCLR" else v1
        halves = [mean_gradients(make(), features, batch) - exact for batch in BATCHES]
        # The product of two independent errors: noise does not pass for bias.
        squares = [float((a * b).sum() / exact.square().sum()) for a, b in halves]
        bias[name] = [round(max(0.0, square) ** 0.5, 3) for square in squares]
        print(f"{name:<8}" + "".join(f"{value:8.3f}" for value in bias[name]), flush=True)
    setup = {"samples": SAMPLES, "views": VIEWS, "temperature": TAU, "passes": PASSES}
    stored = {"batch": BATCHES, "relative bias": bias, "setup": setup, "torch": torch.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    draw(bias)


if __name__ == "__main__":
    main()
