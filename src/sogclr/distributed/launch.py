"""Device, precision and processes, through Lightning Fabric: the only module that knows them."""

import logging
import os
import warnings

import torch
from lightning_fabric import Fabric

from ..common.environment import processes, restarts
from ..common.errors import UserError
from ..common.options import ConcretePrecision, Device
from .sharded_model import strategy

__all__ = ["choose_device", "finish", "start"]


def choose_device(device: Device, *, alone: bool = True) -> str:
    """The device's type: the one asked for, or the fastest there is.

    Args:
        device: what was asked for.
        alone: whether this is the work of one process.

    Raises:
        UserError: the device asked for is not there, or several processes were started for what
            one does.
    """
    if alone and processes() > 1:
        raise UserError("several processes were started, but only training is shared by them")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, available in there.items() if available), "cpu")
    if not there.get(device, True):
        raise UserError(f"device: {device} is not available here; leave out --device")
    return device


def start(device: str, precision: ConcretePrecision, *, shard_model: bool = False) -> Fabric:
    """Fabric, launched: on one device, or on one for each process that torchrun started.

    Args:
        device: "cpu", "cuda" or "mps".
        precision: of the forward pass.
        shard_model: whether each of several processes has a part of the weights, and no copy.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    copies = "ddp" if processes() > 1 else "auto"
    with warnings.catch_warnings():
        # It recommends settings that the plan has weighed already, and repeats them.
        warnings.simplefilter("ignore")
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        fabric = Fabric(
            accelerator=device,
            strategy=strategy() if shard_model else copies,
            devices=here,
            num_nodes=processes() // here,
            precision=precision,
        )
        if restarts():
            _join_anew("nccl" if device == "cuda" else "gloo")
        fabric.launch()
        fabric.barrier()
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    return fabric


def _join_anew(backend: str) -> None:
    """Connect the processes as Fabric would, under names that this start has for itself.

    torchrun keeps its store when it starts processes again, and in it the addresses of those that
    were killed: whoever read one before it was overwritten would wait for ever.
    """
    store, own, count = next(torch.distributed.rendezvous("env://"))
    store = torch.distributed.PrefixStore(f"start {restarts()}", store)
    torch.distributed.init_process_group(backend, store=store, rank=own, world_size=count)


def finish(fabric: Fabric) -> None:
    """The end of the work that processes share. Left to the end of one, it can abort another."""
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()
