"""What gradient accumulation does to SimCLR, DCL and SogCLR: bias of the accumulated gradient.

    python benchmarks/accumulate.py

512 digits, four stored augmentations each, features of an untrained encoder held fixed. The
gradient with respect to the features, averaged over passes, is compared with the exact one of
the global objective (float64, brute force). One step is 64 samples: at once, or as 4 micro-batches
of 16. Writes `results/accumulate.json`; about two minutes on a CPU.
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

RESULTS = Path(__file__).parent / "results" / "accumulate.json"
SAMPLES, VIEWS, TAU, PASSES, BURN_IN = 512, 4, 0.1, 300, 100

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


def main() -> None:
    features = stored_features()
    leaf = features.clone().requires_grad_()
    two_view_objective(leaf, TAU, "v2").backward()
    exact = leaf.grad
    assert exact is not None
    table = {}
    for name, make in {
        "SimCLR": lambda: NTXentLoss(TAU),
        "DCL": lambda: DecoupledContrastiveLoss(TAU),
        "SogCLR": lambda: GlobalContrastiveLoss(
            SAMPLES, temperature=TAU, gamma_min=1e-3, dtype=torch.float64
        ),
    }.items():
        for label, batch in (("64 at once", 64), ("4 x 16 accumulated", 16)):
            bias = mean_gradient(make(), features, batch) - exact
            table[f"{name}, {label}"] = round(float(bias.norm() / exact.norm()), 3)
            print(f"{name:<8} {label:<20} {table[f'{name}, {label}']:.3f}", flush=True)
    setup = {"samples": SAMPLES, "views": VIEWS, "temperature": TAU, "passes": PASSES}
    RESULTS.parent.mkdir(exist_ok=True)
    text = {"relative bias": table, "setup": setup, "torch": torch.__version__}
    RESULTS.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
