"""Choose the device and launch the processes, through Lightning Fabric."""

import logging
import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric

from ..common.environment import processes
from ..common.errors import UserError
from ..common.options import ConcretePrecision, Device, Precision
from .connect import Facts, connect
from .sharded_model import sharding_strategy

__all__ = ["choose_device", "finish", "loader_workers", "resolve_precision", "start"]


def choose_device(device: Device, *, alone: bool = True) -> str:
    """Choose the type of the device: the requested one, or the fastest available one.

    Args:
        device: the requested device, or "auto".
        alone: whether to refuse several processes; only training can use them.

    Raises:
        UserError: the requested device is not available, or several processes were started for
            the work of one.
    """
    if alone and processes() > 1:
        raise UserError("several processes were started, but only training can use them; start one")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, found in available.items() if found), "cpu")
    if not available.get(device, True):
        raise UserError(f"--device: {device} is not available here; leave out --device")
    return device


def resolve_precision(requested: Precision, device: str) -> ConcretePrecision:
    """Choose bf16-mixed if the device multiplies bfloat16 faster than float32, else 32-true.

    Args:
        requested: the requested precision, which is returned unless it is "auto".
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
        local: whether the samples are in memory.
        device: "cpu", "cuda" or "mps".
        requested: the requested number, which is returned unless it is None.
    """
    if requested is not None:
        return requested
    # On a CPU the encoder keeps all cores busy: a loading process would make its threads wait.
    if local or device == "cpu":
        return 0
    return min(8, os.cpu_count() or 1)


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
