"""What processes that share a batch send each other: counted at 2, 8 and 64, on one machine.

    python benchmarks/exchange.py

Threads stand for processes: each has its own copy of the loss and its share of the batch, and
torch.distributed's collectives are replaced by ones that hand tensors from thread to thread and
count the bytes that each receives. Beside the count: the formula, 2 (K-1) b d s for features and
(K-1) times 40 b + 8 for numbers; what a gather whose gradient is reduced (OpenCLIP's) receives; and
how far the joined gradient is from that of one process with the whole batch.

Then, from formulas alone, what a step costs at the scale of the internet. Writes
`results/exchange.json`; a minute.
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
# What one GPU of such a machine does: bytes a second it receives over the network, operations a
# second of matrix products in TF32 that a kernel reaches in practice.
NETWORK, OPERATIONS = 50e9, 200e12


class Exchange:
    """Collectives among threads."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.barrier = threading.Barrier(processes)
        self.slots: list[Any] = [None] * processes
        self.received = [0] * processes
        self.here = threading.local()

    def all_gather(self, parts: list[Tensor], own: Tensor, group: Any = None) -> None:
        rank = self.here.rank
        self.slots[rank] = own
        self.barrier.wait()
        for other, (part, sent) in enumerate(zip(parts, self.slots, strict=True)):
            part.copy_(sent)
            if other != rank:
                self.received[rank] += sent.numel() * sent.element_size()
        self.barrier.wait()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, found in (
                ("is_initialized", lambda: True),
                ("get_world_size", lambda group=None: self.processes),
                ("get_rank", lambda group=None: self.here.rank),
                ("get_backend_config", lambda group=None: "cpu:gloo"),
                ("all_gather", self.all_gather),
            ):
                stack.enter_context(patch.object(dist, name, found))
            yield


def batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    a, b = torch.randn(2, size, WIDTH, generator=generator)
    return a, a + b, torch.randperm(SAMPLES, generator=generator)[:size]


def gradients(a: Tensor, b: Tensor, index: Tensor) -> Tensor:
    """Of a first step, `(2, n, d)`."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    GlobalClipLoss(SAMPLES)(a, b, index).backward()
    assert a.grad is not None
    assert b.grad is not None
    return torch.stack([a.grad, b.grad])


def counted(processes: int) -> dict[str, Any]:
    whole = batch(processes * EACH)
    expected = gradients(*whole)
    exchange, found = Exchange(processes), [torch.empty(0)] * processes

    def work(rank: int) -> None:
        exchange.here.rank = rank
        own = slice(rank * EACH, (rank + 1) * EACH)
        found[rank] = gradients(*(part[own] for part in whole))

    with exchange.in_place():
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    joined = torch.cat(found, dim=1) / processes
    return {
        "processes": processes,
        "received": max(exchange.received),
        "formula": features(processes, EACH) + numbers(processes, EACH),
        "gather with gradient": 2 * features(processes, EACH),
        "error": float((joined - expected).norm() / expected.norm()),
    }


def features(processes: int, each: int) -> int:
    """Bytes that a process receives of the others' features, of both sides, in float32."""
    return 2 * (processes - 1) * each * WIDTH * 4


def numbers(processes: int, each: int) -> int:
    """Three ids; of each side a log-sum-exp and a count; how many samples there are."""
    return (processes - 1) * (each * (3 * 8 + 2 * 2 * 4) + 8)


def at_scale(pairs: int, gpus: int, each: int) -> dict[str, Any]:
    """Of one step and one GPU. The loss multiplies two parts of b x Kb similarities, three times
    each: for the sums, once more for the gradient, and the gradient itself."""
    operations = 2 * 3 * 2 * each * gpus * each * WIDTH
    received = features(gpus, each) + numbers(gpus, each)
    return {
        "pairs": pairs,
        "gpus": gpus,
        "batch": gpus * each,
        "table_megabytes": round(2 * 8 * pairs / gpus / 1e6, 1),
        "received_megabytes": round(received / 1e6, 1),
        "received_milliseconds": round(1e3 * received / NETWORK, 2),
        "openclip_megabytes": round(2 * features(gpus, each) / 1e6, 1),
        "loss_gigaflop": round(operations / 1e9, 1),
        "loss_milliseconds": round(1e3 * operations / OPERATIONS, 2),
    }


def show(rows: list[dict[str, Any]]) -> None:
    print(" ".join(f"{name:>22}" for name in rows[0]))
    for row in rows:
        print(" ".join(f"{value:>22,.7g}" for value in row.values()))


def main() -> None:
    torch.set_num_threads(1)
    found = [counted(processes) for processes in (2, 8, 64)]
    planned = [at_scale(*scale) for scale in SCALES]
    show(found)
    show(planned)
    stored = {"width": WIDTH, "each": EACH, "counted": found, "at scale": planned}
    assumed = {"network": NETWORK, "operations": OPERATIONS}
    RESULTS.write_text(json.dumps({**stored, "assumed": assumed, **machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
