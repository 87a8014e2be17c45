"""Whether two runs are the same to the bit, or alike."""

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


def assert_alike(one, other):
    """But for the order in which float32 sums are taken."""
    one, other = checkpoint(one), checkpoint(other)
    assert one["step"] == other["step"] == one["total_steps"]
    for part in ("model", "loss"):
        torch.testing.assert_close(one[part], other[part], rtol=1e-4, atol=2e-5)
    moments, others = one["optimizer"]["state"], other["optimizer"]["state"]
    torch.testing.assert_close(moments, others, rtol=1e-3, atol=1e-5)
