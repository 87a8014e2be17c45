"""Whether two runs are the same to the bit."""

import torch

from sogclr.runs.folder import Run


def same(a, b):
    """Equality to the bit through nested dicts and lists."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def checkpoint(folder):
    """What a run has saved, but for its speed."""
    state = Run(folder).read_checkpoint()
    for row in state["monitor"]["rows"]:
        row.pop("samples_per_second")
    return state
