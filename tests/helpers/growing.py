"""A loss that grows while it is trained, alone or as one of two processes that share a batch."""

import torch
import torch.distributed as dist

import sogclr.losses.normalizer_sharded
from sogclr import GlobalContrastiveLoss

FEW, MANY, BATCH, WIDTH = 12, 31, 6, 5


def batches(highest, seed):
    """Draw features of both sides and ids below `highest`."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(4):
        a, b = torch.randn(2, BATCH, WIDTH, generator=draw)
        yield a, b, torch.randperm(highest, generator=draw)[:BATCH]


def grow_shards(rank, folder, level):
    """Write values, state and the size of this process's shard to a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    sogclr.losses.normalizer_sharded.MAX_COPIED_ROWS = 0
    loss = GlobalContrastiveLoss(FEW, level=level)
    found = []
    for highest in (FEW, MANY):
        loss.grow(highest)
        for a, b, index in batches(highest, highest):
            own = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
            found.append(loss(a[own], b[own], index[own]).detach())
    torch.save((found, dict(loss.state_dict()), loss.normalizer.table.shape), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
