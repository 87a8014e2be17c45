"""How far the expected gradient of SimCLR, DCL and SogCLR is from the exact one, by batch size.

    python benchmarks/gradient_bias.py

512 digits, four stored augmentations each, features of an untrained encoder held fixed. The
gradient with respect to the features, averaged over passes, is compared with the exact one of
the global objective (v2; float64, brute force). Gradient accumulation does not change it: k
micro-batches of b have the bias of batch b. Writes `results/gradient_bias.json` and
`docs/gradient_bias.png`; minutes on a CPU.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sogclr import DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss, Views
from sogclr.data.arrays import digits
from sogclr.data.randomness import uniforms
from sogclr.data.views import DRAWS, crop, crop_box, photometric
from sogclr.objective import two_view_objective
from sogclr.small import SmallEncoder

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gradient_bias.json"
PICTURE = HERE.parent / "docs" / "gradient_bias.png"
SAMPLES, VIEWS, TAU, PASSES, BURN_IN = 512, 4, 0.1, 200, 100
BATCHES = (8, 16, 32, 64, 128, 256)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def stored_features() -> Tensor:
    """`(n, V, d)` float64: an untrained encoder's features of stored augmentations."""
    source = digits()
    views = source.views.over(Views().resolved(16))
    ids = source.ids[:SAMPLES]
    torch.manual_seed(0)
    encoder = SmallEncoder().eval()
    result = []
    for view in range(VIEWS):
        draws = uniforms(0, 0, ids, view, DRAWS)
        images = [source.image(row) for row in range(SAMPLES)]
        crops = [
            crop(image, crop_box(d, *image.size, views.crop_min or 0.0), 16)
            for image, d in zip(images, draws, strict=True)
        ]
        x = photometric(torch.from_numpy(np.stack(crops)), draws, views)
        with torch.no_grad():
            features = encoder(x)  # (n, d)
        result.append(features - features.mean(dim=0))
    return torch.stack(result, dim=1).double()


def mean_gradient(loss: Loss, features: Tensor, batch: int) -> Tensor:
    """The gradient over whole passes, batch by batch, averaged after the burn-in."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros_like(features)
    for epoch in range(BURN_IN + PASSES):
        leaf = features.clone().requires_grad_()
        for rows in torch.randperm(SAMPLES, generator=generator).split(batch):
            views = torch.rand(len(rows), VIEWS, generator=generator).argsort(dim=1)  # (b, V)
            value = loss(leaf[rows, views[:, 0]], leaf[rows, views[:, 1]], rows)
            (value * len(rows) / SAMPLES).backward()
        if epoch >= BURN_IN and leaf.grad is not None:
            total += leaf.grad
    return total / PASSES


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
    leaf = features.clone().requires_grad_()
    two_view_objective(leaf, TAU, "v2").backward()
    exact = leaf.grad
    assert exact is not None
    bias: dict[str, list[float]] = {}
    print("batch   " + "".join(f"{batch:>8}" for batch in BATCHES))
    for name, make in losses().items():
        errors = [mean_gradient(make(), features, batch) - exact for batch in BATCHES]
        bias[name] = [round(float(error.norm() / exact.norm()), 3) for error in errors]
        print(f"{name:<8}" + "".join(f"{value:8.3f}" for value in bias[name]), flush=True)
    setup = {"samples": SAMPLES, "views": VIEWS, "temperature": TAU, "passes": PASSES}
    stored = {"batch": BATCHES, "relative bias": bias, "setup": setup, "torch": torch.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    draw(bias)


if __name__ == "__main__":
    main()
