"""Connect processes, and refuse processes that were started in another way than the first one."""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from .. import __version__
from ..common.environment import restarts
from ..common.errors import UserError, flag, one_line
from .exchange import add_gloo_group

__all__ = ["Facts", "connect", "digest_of", "option_facts", "require_alike"]

# What must be equal in all processes, by the name that messages use, in the order of messages.
Facts = Mapping[str, str]


def option_facts(options: Mapping[str, Any], what: str = "") -> dict[str, str]:
    """Describe options for messages: JSON by the flag of each option, behind the words `what`."""
    return {what + flag(name): json.dumps(value, default=str) for name, value in options.items()}


def digest_of(*arrays: np.ndarray) -> str:
    """Describe samples `(n,)` by their number and a digest of their ids and marks."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"{len(arrays[0]):,} with digest {digest.hexdigest()[:12]}"


def connect(backend: str, seconds: float, facts: Facts) -> None:
    """Connect this process with the others that torchrun started.

    Args:
        backend: "nccl" or "gloo".
        seconds: how long a process waits for another one, here and in training.
        facts: what must be equal in all processes, beside the versions.

    Raises:
        UserError: the processes could not be connected, or they differ; the message says in what.
    """
    facts = {"sogclr": __version__, "torch": str(torch.__version__), **facts}
    timeout = timedelta(seconds=seconds)
    try:
        if dist.is_initialized():  # by a script that calls `pretrain`
            store = dist.distributed_c10d._get_default_store()
            require_alike(store, facts, dist.get_rank(), dist.get_world_size())
            return
        store, rank, count = next(dist.rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        # torchrun keeps its store when it restarts processes, with the addresses of killed ones. A
        # process that read such an address would wait for ever.
        store = dist.PrefixStore(f"start {restarts()}", store)
        require_alike(store, facts, rank, count)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
        add_gloo_group(timeout)
    except (dist.DistError, ValueError) as error:
        raise UserError(_explain(error, seconds)) from error


def require_alike(store: Any, facts: Facts, rank: int, count: int) -> None:
    """Compare the facts of all processes with those of the first one.

    The comparison goes through the store: processes that differ in their device could not connect
    for a collective operation.

    Args:
        store: the store that all processes share.
        facts: the facts of this process.
        rank: rank of this process.
        count: number of processes.

    Raises:
        UserError: a process differs. All processes raise the same error.
    """
    if rank == 0:
        store.set("facts", json.dumps(facts))
    difference = _compare(json.loads(store.get("facts")), facts, rank)
    store.set(f"difference {rank}", difference)
    if rank == 0:
        found = [store.get(f"difference {each}").decode() for each in range(count)]
        store.set("verdict", next(filter(None, found), ""))
    verdict = store.get("verdict").decode()
    store.set(f"read {rank}", "")
    if rank == 0:  # The store ends with this process, so wait until all have read the verdict.
        store.wait([f"read {each}" for each in range(count)])
    if verdict:
        raise UserError(verdict)


def _compare(first: Facts, own: Facts, rank: int) -> str:
    """Describe the first difference from process 0 in one line; "" if there is none."""
    for name in dict.fromkeys([*first, *own]):
        there, here = first.get(name, "unknown"), own.get(name, "unknown")
        if there != here:
            return (
                f"processes differ: {name} is {there} in process 0 and {here} in process {rank}; "
                "start all processes with the same command, data and version"
            )
    return ""


def _explain(error: Exception, seconds: float) -> str:
    reason = one_line(error)
    if "EADDRINUSE" in reason or "already in use" in reason:
        return (
            "the port of the processes is in use by another program; set MASTER_PORT to a free "
            f"one, or start with torchrun --standalone ({reason})"
        )
    if isinstance(error, ValueError):
        return f"the processes could not be connected; start them with torchrun ({reason})"
    return (
        f"another process did not answer within {seconds:g} seconds, or it ended; its own message "
        f"says why; --process-timeout sets the time ({reason})"
    )
