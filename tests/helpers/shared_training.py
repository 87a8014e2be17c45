"""Encoders that several processes train together, copied or sharded."""

from itertools import product

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sogclr.planning.recipe import Recipe
from sogclr.training.optimizer import build_optimizer

from .process_cases import COUNTS, WIDTH, batch, cases


def copied(model):
    return nn.parallel.DistributedDataParallel(model)


def sharded(model):
    fully_shard(model[0])
    return fully_shard(model)


def trained(name, optimizer, dtype, rank, processes, wrap=None):
    """Weights of an encoder and of its loss after 6 steps; `wrap` is what processes do with it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 15), nn.Tanh(), nn.Linear(15, 4)).to(dtype)
    make, call = cases(dtype)[name]
    loss, wrapped = make(), wrap(model) if wrap else model
    optimizer = build_optimizer(model, loss, Recipe(optimizer, 0.01, 0.05))
    for step in range(6):
        counts = COUNTS[processes][step % 2]
        start = sum(counts[:rank])
        own = slice(start, start + counts[rank])
        a, b, index, group = (each[own] for each in batch(step, dtype))
        optimizer.zero_grad()
        z = wrapped(torch.cat([a, b]))
        call(loss, *z.chunk(2), index, group).backward()
        optimizer.step()
    weights = [p.detach() for p in (*model.parameters(), *loss.parameters())]
    return [w.full_tensor() if isinstance(w, DTensor) else w for w in weights]


WRAPS = {"copied": copied, "sharded": sharded}
TRAINED = [  # Adam hardly minds the scale of gradients, SGD does
    ("sogclr, learned", "adamw"),
    ("sogclr, learned", "sgd"),
    ("pairs, learned", "adamw"),
    ("pairs, learned", "lars"),
    ("pairs, learned", "sgd"),
]


def work(rank, processes, folder):
    """What a process does: all of it, into a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    found = {
        (case, dtype, wrap): trained(*case, dtype, rank, processes, WRAPS[wrap])
        for case, dtype, wrap in product(TRAINED, (torch.float32, torch.float64), WRAPS)
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
