"""Launch the processes of a run, through Lightning Fabric."""

import logging
import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric

from ..common.environment import processes
from ..common.options import ConcretePrecision
from .connect import Facts, connect
from .sharded_model import sharding_strategy

__all__ = ["finish", "start"]


def start(
    device: str,
    precision: ConcretePrecision,
    *,
    shard_model: bool = False,
    process_timeout: float = 1800.0,
    facts: Facts | None = None,
) -> Fabric:
    """Launch Fabric on one device, or on one device for each process that torchrun started.

    Args:
        device: "cpu", "cuda" or "mps".
        precision: the precision of the forward pass.
        shard_model: whether each process holds a part of the weights instead of a copy.
        process_timeout: how many seconds a process waits for another one.
        facts: what must be equal in all processes, see `sogclr.distributed.connect`.

    Raises:
        UserError: processes differ, or could not be connected.
    """
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    strategy: Any = "ddp" if processes() > 1 else "auto"
    if shard_model:
        strategy = sharding_strategy()
    with warnings.catch_warnings():
        # Fabric recommends settings that the plan has chosen already.
        warnings.simplefilter("ignore")
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        fabric = Fabric(
            accelerator=device,
            strategy=strategy,
            devices=processes_here,
            num_nodes=processes() // processes_here,
            precision=precision,
        )
        if processes() > 1:
            options = {"--device": device, "--shard-model": str(shard_model)}
            backend = "nccl" if device == "cuda" else "gloo"
            connect(backend, process_timeout, {**(facts or {}), **options})
        fabric.launch()
        fabric.barrier()
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    return fabric


def finish(fabric: Fabric) -> None:
    """Disconnect the processes, after all of them are done.

    A process that exits without this can abort the others.
    """
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()
