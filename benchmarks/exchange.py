"""Count the bytes that processes with a shared batch exchange: 2, 8 and 64 on one machine.

    python benchmarks/exchange.py

Threads stand for processes. Each thread has its own copy of the loss and its share of the batch.
The collectives of torch.distributed are replaced by versions that pass tensors between threads and
count the bytes that each thread receives. The table compares the count with

    formula                2 (K-1) b d s bytes of features and (K-1) (40 b + 8) bytes of numbers
    gather with gradient   the bytes that OpenCLIP's gather receives, whose gradient is reduced
    error                  the relative distance of the joined gradient from that of one process

A second table estimates the cost of a step on hundreds of GPUs, from formulas alone. Writes
`results/exchange.json`; takes a minute.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from machine import machine
from torch import Tensor

from sogclr import GlobalClipLoss

RESULTS = Path(__file__).parent / "results" / "exchange.json"
WIDTH, EACH, SAMPLES = 512, 16, 10_000
SCALES = (  # pairs, GPUs, pairs of each in a batch
    (400_000_000, 8, 512),
    (400_000_000, 64, 256),
    (400_000_000, 256, 128),
    (5_000_000_000, 256, 128),
    (5_000_000_000, 1024, 64),
)
# Assumed for one GPU: bytes received over the network in a second, and operations in a second of
# matrix products in TF32 as kernels reach them in practice.
NETWORK, OPERATIONS = 50e9, 200e12


class Exchange:
    """Collectives between threads that count the bytes received."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.barrier = threading.Barrier(processes)
        self.slots: list[Any] = [None] * processes
        self.received = [0] * processes
        self.here = threading.local()

    def all_gather(self, parts: list[Tensor], own: Tensor, group: Any = None) -> None:
        """Replace `torch.distributed.all_gather`."""
        rank = self.here.rank
        self.slots[rank] = own
        self.barrier.wait()
        for other, (part, sent) in enumerate(zip(parts, self.slots, strict=True)):
            part.copy_(sent)
            if other != rank:
                self.received[rank] += sent.numel() * sent.element_size()
        self.barrier.wait()

    @contextlib.contextmanager
    def replacing_distributed(self) -> Iterator[None]:
        """Replace the functions of torch.distributed for the duration of the context."""
        with contextlib.ExitStack() as stack:
            for name, function in (
                ("is_initialized", lambda: True),
                ("get_world_size", lambda group=None: self.processes),
                ("get_rank", lambda group=None: self.here.rank),
                ("get_backend_config", lambda group=None: "cpu:gloo"),
                ("all_gather", self.all_gather),
            ):
                stack.enter_context(patch.object(dist, name, function))
            yield


def batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    a, b = torch.randn(2, size, WIDTH, generator=generator)
    return a, a + b, torch.randperm(SAMPLES, generator=generator)[:size]


def gradients(a: Tensor, b: Tensor, index: Tensor) -> Tensor:
    """Compute the gradients of a first step by both sides, `(2, n, d)`."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    GlobalClipLoss(SAMPLES)(a, b, index).backward()
    assert a.grad is not None
    assert b.grad is not None
    return torch.stack([a.grad, b.grad])


def count_exchange(processes: int) -> dict[str, Any]:
    """Run one step in threads and count what each receives."""
    whole = batch(processes * EACH)
    expected = gradients(*whole)
    exchange, parts = Exchange(processes), [torch.empty(0)] * processes

    def work(rank: int) -> None:
        exchange.here.rank = rank
        own = slice(rank * EACH, (rank + 1) * EACH)
        parts[rank] = gradients(*(tensor[own] for tensor in whole))

    with exchange.replacing_distributed():
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    joined = torch.cat(parts, dim=1) / processes
    return {
        "processes": processes,
        "received": max(exchange.received),
        "formula": feature_bytes(processes, EACH) + number_bytes(processes, EACH),
        "gather with gradient": 2 * feature_bytes(processes, EACH),
        "error": float((joined - expected).norm() / expected.norm()),
    }


def feature_bytes(processes: int, each: int) -> int:
    """Return the bytes of float32 features that a process receives, of both sides."""
    return 2 * (processes - 1) * each * WIDTH * 4


def number_bytes(processes: int, each: int) -> int:
    """Return the bytes of all other numbers that a process receives.

    Each sample has three ids and, on each side, a log-sum-exp and a count. Each process sends the
    number of its samples.
    """
    return (processes - 1) * (each * (3 * 8 + 2 * 2 * 4) + 8)


def at_scale(pairs: int, gpus: int, each: int) -> dict[str, Any]:
    """Estimate the cost of one step for one GPU.

    The loss multiplies two parts of b x Kb similarities three times each: for the sums, again for
    the gradient's weights, and for the gradient itself.
    """
    operations = 2 * 3 * 2 * each * gpus * each * WIDTH
    received = feature_bytes(gpus, each) + number_bytes(gpus, each)
    return {
        "pairs": pairs,
        "gpus": gpus,
        "batch": gpus * each,
        "table_megabytes": round(2 * 8 * pairs / gpus / 1e6, 1),
        "received_megabytes": round(received / 1e6, 1),
        "received_milliseconds": round(1e3 * received / NETWORK, 2),
        "openclip_megabytes": round(2 * feature_bytes(gpus, each) / 1e6, 1),
        "loss_gigaflop": round(operations / 1e9, 1),
        "loss_milliseconds": round(1e3 * operations / OPERATIONS, 2),
    }


def show(rows: list[dict[str, Any]]) -> None:
    print(" ".join(f"{name:>22}" for name in rows[0]))
    for row in rows:
        print(" ".join(f"{value:>22,.7g}" for value in row.values()))


def main() -> None:
    torch.set_num_threads(1)
    counted = [count_exchange(processes) for processes in (2, 8, 64)]
    estimated = [at_scale(*scale) for scale in SCALES]
    show(counted)
    show(estimated)
    stored = {"width": WIDTH, "each": EACH, "counted": counted, "at scale": estimated}
    assumed = {"network": NETWORK, "operations": OPERATIONS}
    RESULTS.write_text(json.dumps({**stored, "assumed": assumed, **machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
