"""Device, precision and processes, through Lightning Fabric: the only module that knows them."""

import logging
import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric

from ..common.environment import processes, restarts
from ..common.errors import UserError
from ..common.options import ConcretePrecision, Device, Precision
from .sharded_model import strategy

__all__ = ["choose_device", "finish", "loader_workers", "resolve_precision", "start"]


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


def resolve_precision(requested: Precision, device: str) -> ConcretePrecision:
    """Choose bf16-mixed if the device multiplies bfloat16 faster than float32, else 32-true.

    Args:
        requested: What was asked for; anything but "auto" is returned.
        device: "cpu", "cuda" or "mps".
    """
    if requested != "auto":
        return requested
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    # CPUs without these instructions emulate bfloat16. Intel CPUs without AMX have avx512_bf16, but
    # a ResNet-18 takes 1.4 times as long on them, where AMD CPUs take half as long.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    vectors = has.get("avx512_bf16") and "Intel" not in str(has.get("cpu_name"))
    faster = device == "cpu" and (has.get("amx_bf16") or vectors)
    return "bf16-mixed" if faster else "32-true"


def loader_workers(local: bool, device: str, requested: int | None) -> int:
    """Choose the number of processes that load samples.

    Args:
        local: Whether the samples are in memory.
        device: "cpu", "cuda" or "mps".
        requested: The number that was asked for, or None.
    """
    if requested is not None:
        return requested
    # On a CPU the encoder keeps all cores busy: a loading process would make its threads wait.
    if local or device == "cpu":
        return 0
    return min(8, os.cpu_count() or 1)


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
