"""Embed random views of samples as in training: random views, batch statistics, dropout.

The table of a run was filled from such embeddings.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..common.console import say, track
from ..common.errors import UserError
from ..data.batches.schedule import FIRST_UNUSED_EPOCH, SubsetSchedule
from ..training.task import to_device

__all__ = ["embed_views"]


def embed_views(
    task: Any, indices: np.ndarray, sides: int, views: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Embed random views of samples by the model of a task.

    Args:
        task: a task of images or of pairs.
        indices: `(n,)` positions of the samples in the data.
        sides: S, 1 for images, 2 for pairs.
        views: V, views of each sample on each side; even for images.
        device: the device that computes.

    Returns:
        `(S, n, V, d)` unit vectors on the CPU; NaN for samples that cannot be read. And `(n, R)`
        the number of the batch in which a sample was embedded at each of R visits, each of which
        gave V / R successive views.

    Raises:
        UserError: no sample can be read.
    """
    model = task.model.to(device, memory_format=torch.channels_last).train()
    task.loss.to(device)
    # An image gives two views at each visit, a pair one view of each side.
    plan = task.plan
    visits = SubsetSchedule(indices, plan.batch_size, views * sides // 2, plan.request.seed)
    place = np.empty(len(task.names), dtype=np.int64)
    place[indices] = np.arange(len(indices))
    features, reported = torch.empty(0), set[str]()
    batches = torch.full((len(indices), visits.epochs), -1)
    with torch.no_grad():
        for batch in track(task.loader(visits, pin_memory=False), "embedding", total=len(visits)):
            for name, reason in batch.unreadable:
                if name not in reported:
                    say(f"left out {name}: {reason}")
                reported.add(name)
            if not len(batch.micro_batch.rows):
                continue
            outcome = task.forward(model, to_device(task.prepare(batch), device), device)
            pair = [normalize(z.float(), dim=-1).cpu() for z in outcome.projections]
            if not len(features):
                shape = (sides, len(indices), views, pair[0].shape[1])
                features = torch.full(shape, torch.nan)
            samples = torch.from_numpy(place[batch.micro_batch.rows])
            visit = batch.micro_batch.epoch - FIRST_UNUSED_EPOCH
            batches[samples, visit] = batch.micro_batch.step
            for i, z in enumerate(pair):
                side, view = (i, visit) if sides == 2 else (0, 2 * visit + i)
                features[side, samples, view] = z
    if not len(features):
        raise UserError("data: none of the images can be read")
    return features, batches
