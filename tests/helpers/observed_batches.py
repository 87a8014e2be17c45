"""Batches that a `NormalizerError` observes, in one process and in two."""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import normalize

from sogclr import GlobalContrastiveLoss
from sogclr.losses import normalizer_sharded
from sogclr.losses.normalizer_sharded import ShardedNormalizerTable
from sogclr.training.normalizer_error import STORED_BATCHES, NormalizerError
from sogclr.training.task import Outcome

TAU, BATCH = 0.4, 16


def features(n: int, sides: int = 2) -> Tensor:
    """`(sides, n, 6)`: neighbours differ in how dense it is around them."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(1, n, 6, generator=generator)
    z = centre + 0.4 * torch.randn(sides, n, 6, generator=generator)
    z[..., 0] += 1
    return normalize(z, dim=-1)


def outcome(z: Tensor, rows: Tensor) -> Outcome:
    pair = z[0, rows], z[1, rows]
    return Outcome(torch.zeros(()), pair, pair, (rows, rows))


def observe(errors: NormalizerError, z: Tensor, batches: int = STORED_BATCHES) -> None:
    """The first batches of the data, one of its samples after another."""
    for rows in torch.arange(batches * BATCH).split(BATCH):
        errors.observe(outcome(z, rows))


def read_shared(rank: int, folder: str, level: bool) -> None:
    """Read the errors of one and the same table, copied and divided among two processes."""
    dist.init_process_group("gloo", f"file://{folder}/meet", world_size=2, rank=rank)
    z, found = features(STORED_BATCHES * BATCH), []
    log_u = torch.linspace(-1, 1, z.shape[1])
    for copied in (10**7, 0):
        normalizer_sharded.MAX_COPIED_ROWS = copied
        loss = GlobalContrastiveLoss(
            z.shape[1], temperature=TAU, level=level, scale="temperature", process_group="auto"
        )
        state = loss.state_dict()
        state["normalizer.table"][:-1, 0], state["normalizer.table"][:-1, 1] = log_u, 1
        loss.load_state_dict(state)
        errors = NormalizerError()
        observe(errors, z)
        found.append(errors.read(loss))
        assert isinstance(loss.normalizer, ShardedNormalizerTable) == (copied == 0)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
