"""One small loss of every kind, and how it is called."""

import torch

from sogclr import (
    ClipLoss,
    DecoupledClipLoss,
    DecoupledContrastiveLoss,
    GlobalClipLoss,
    GlobalContrastiveLoss,
    MoCoLoss,
    NTXentLoss,
    SigLipLoss,
)

COUNT, WIDTH = 5, 8
LOSSES = {
    "sogclr": lambda: GlobalContrastiveLoss(9),
    "pairs": lambda: GlobalClipLoss((9, 12)),
    "memory": lambda: GlobalContrastiveLoss(9, memory_size=4),
    "simclr": NTXentLoss,
    "dcl": DecoupledContrastiveLoss,
    "clip": ClipLoss,
    "dcl of pairs": DecoupledClipLoss,
    "siglip": SigLipLoss,
    "moco": lambda: MoCoLoss(6, WIDTH),
}


def call(loss, a, b, index, **ids):
    more = (b.detach(), a.detach()) if isinstance(loss, MoCoLoss) else ()
    return loss(a, b, *more, index, **ids)


def features(count=COUNT, dtype=torch.float32):
    draw = torch.Generator().manual_seed(count)
    return [torch.randn(count, WIDTH, generator=draw).to(dtype) for _ in range(2)]
