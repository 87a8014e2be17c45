"""Losses as attributes of a module that DistributedDataParallel wraps, and beside it."""

from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn

import sogclr.losses.normalizer_sharded
from sogclr import (
    GlobalClipLoss,
    GlobalContrastiveLoss,
    IndividualTemperature,
    MoCoLoss,
)

SAMPLES, BATCH, WIDTH = 24, 8, 6
MAKERS = {
    "sogclr": lambda: GlobalContrastiveLoss(SAMPLES),
    "level": lambda: GlobalContrastiveLoss(SAMPLES, level=True),
    "sogclr, sharded": lambda: GlobalContrastiveLoss(SAMPLES),
    "pairs of unequal sizes, sharded": lambda: GlobalClipLoss((SAMPLES, SAMPLES + 3)),
    "stored views, sharded": lambda: GlobalContrastiveLoss(SAMPLES, num_stored_views=2),
    "memory": lambda: GlobalContrastiveLoss(SAMPLES, memory_size=5),
    "individual": lambda: GlobalClipLoss(SAMPLES, temperature=IndividualTemperature(rho=1.0)),
    "moco": lambda: MoCoLoss(12, WIDTH),
}


class Framed(nn.Module):
    """An encoder, with the loss inside or beside it."""

    def __init__(self, loss, inside):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(WIDTH, WIDTH)
        self.loss = loss if inside else None

    def forward(self, a, b, index):
        features = self.encoder(a), self.encoder(b)
        return compute(self.loss, *features, index) if self.loss is not None else features


def compute(loss, a, b, index):
    if isinstance(loss, MoCoLoss):
        return loss(a, b, b.detach() + 1, a.detach() - 1, index)
    stored = getattr(loss, "num_stored_views", None)
    more = {} if stored is None else {"views": (index % 2, (index + 1) % 2)}
    return loss(a, b, index, **more)


def states(name, inside, rank, processes):
    """The state of the loss after some steps, and the bytes that DDP broadcasts in each."""
    copied = 0 if "sharded" in name else SAMPLES * 2 + 1
    with patch.object(sogclr.losses.normalizer_sharded, "MAX_COPIED_ROWS", copied):
        loss = MAKERS[name]()
    parallel = nn.parallel.DistributedDataParallel(Framed(loss, inside), broadcast_buffers=True)
    draw = torch.Generator().manual_seed(1)
    own = slice(BATCH * rank // processes, BATCH * (rank + 1) // processes)
    for step in range(6):
        a, b = (torch.randn(BATCH, WIDTH, generator=draw) for _ in range(2))
        index = (torch.arange(BATCH) + BATCH * step) % SAMPLES
        out = parallel(a[own], b[own], index[own])
        value = out if inside else compute(loss, *out, index[own])
        value.backward()
    sent = sum(each.numel() for each in parallel.module.buffers())
    return loss.state_dict(), sent


def work(rank, processes, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    found = {
        (name, inside): states(name, inside, rank, processes)
        for name in MAKERS
        for inside in (False, True)
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
