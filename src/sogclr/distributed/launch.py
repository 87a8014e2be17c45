"""Choose the device and launch the processes, through Lightning Fabric."""

import logging
import os
import warnings

import torch
from lightning_fabric import Fabric

from ..common.environment import processes, restarts
from ..common.errors import UserError
from ..common.options import ConcretePrecision, Device
from .sharded_model import sharding_strategy

__all__ = ["choose_device", "finish", "start"]


def choose_device(device: Device, *, alone: bool = True) -> str:
    """Choose the type of the device: the requested one, or the fastest available one.

    Args:
        device: the requested device, or "auto".
        alone: whether the work is that of one process.

    Raises:
        UserError: the requested device is not available, or several processes were started for
            the work of one.
    """
    if alone and processes() > 1:
        raise UserError("several processes were started, but only training can use them")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, found in available.items() if found), "cpu")
    if not available.get(device, True):
        raise UserError(f"device: {device} is not available here; leave out --device")
    return device


def start(device: str, precision: ConcretePrecision, *, shard_model: bool = False) -> Fabric:
    """Launch Fabric on one device, or on one device for each process that torchrun started.

    Args:
        device: "cpu", "cuda" or "mps".
        precision: the precision of the forward pass.
        shard_model: whether each process holds a part of the weights instead of a copy.
    """
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    copied = "ddp" if processes() > 1 else "auto"
    with warnings.catch_warnings():
        # Fabric recommends settings that the plan has chosen already.
        warnings.simplefilter("ignore")
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        fabric = Fabric(
            accelerator=device,
            strategy=sharding_strategy() if shard_model else copied,
            devices=processes_here,
            num_nodes=processes() // processes_here,
            precision=precision,
        )
        if restarts():
            _connect_after_restart("nccl" if device == "cuda" else "gloo")
        fabric.launch()
        fabric.barrier()
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    return fabric


def _connect_after_restart(backend: str) -> None:
    """Connect the processes as Fabric would, with a key prefix for this start in torchrun's store.

    torchrun keeps its store when it restarts processes, with the addresses of the killed ones. A
    process that read such an address would wait for ever.
    """
    store, own_rank, count = next(torch.distributed.rendezvous("env://"))
    store = torch.distributed.PrefixStore(f"start {restarts()}", store)
    torch.distributed.init_process_group(backend, store=store, rank=own_rank, world_size=count)


def finish(fabric: Fabric) -> None:
    """Disconnect the processes, after all of them are done.

    A process that exits without this can abort the others.
    """
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()
