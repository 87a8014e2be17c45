"""The losses that `loss_speed.py` compares, their inputs, and their reference in float64."""

import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import sogclr

__all__ = ["DEVICE", "FAMILIES", "Loss", "batch", "error", "installed", "step"]

SAMPLES, TAU = 100_000, 0.1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def libauc(mode: str) -> Loss:
    """Build LibAUC's loss; `mode` is "unimodal" or "bimodal"."""
    from libauc.losses import GCLoss

    with contextlib.redirect_stdout(io.StringIO()):
        loss = GCLoss(mode, N=SAMPLES, tau=TAU, device=DEVICE)
    # In bimodal mode the loss returns temperatures as well.
    return (lambda a, b, index: loss(a, b, index)[0]) if mode == "bimodal" else loss


def open_clip() -> Loss:
    from open_clip import ClipLoss

    loss, scale = ClipLoss(), torch.tensor(1 / TAU, device=DEVICE)
    return lambda a, b, index: loss(normalize(a, dim=-1), normalize(b, dim=-1), scale)


def inf_cl() -> Loss:
    from inf_cl import cal_inf_loss

    scale = torch.tensor(1 / TAU, device=DEVICE)

    def loss(a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        value: Tensor = cal_inf_loss(normalize(a, dim=-1), normalize(b, dim=-1), scale=scale)
        return value

    return loss


def lightly() -> Loss:
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(TAU)
    return lambda a, b, index: loss(a, b)


def metric_learning() -> Loss:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(TAU)
    return lambda a, b, index: loss(torch.cat([a, b]), index.repeat(2).to(DEVICE))


def plain_clip() -> Loss:
    """Build CLIP's loss in plain PyTorch, as its paper writes it."""

    def loss(a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        logits = normalize(a, dim=-1) @ normalize(b, dim=-1).T / TAU
        partner = torch.arange(len(a), device=a.device)
        return (cross_entropy(logits, partner) + cross_entropy(logits.T, partner)) / 2

    return loss


def plain_simclr() -> Loss:
    """Build SimCLR's loss in plain PyTorch."""

    def loss(a: Tensor, b: Tensor, index: Tensor) -> Tensor:
        z = torch.cat([normalize(a, dim=-1), normalize(b, dim=-1)])
        own = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / TAU).masked_fill(own, -math.inf)
        return cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(a)))

    return loss


# sogclr comes first: the times of the others are divided by its time.
FAMILIES: dict[str, dict[str, Callable[[], Loss]]] = {
    "pairs": {
        "sogclr": lambda: sogclr.GlobalClipLoss(SAMPLES, temperature=TAU),
        "sogclr, level": lambda: sogclr.GlobalClipLoss(SAMPLES, temperature=TAU, level=True),
        "sogclr, CLIP's": lambda: sogclr.ClipLoss(TAU),
        "LibAUC": lambda: libauc("bimodal"),
        "open_clip": open_clip,
        "plain PyTorch, CLIP's": plain_clip,
        "Inf-CL": inf_cl,
    },
    "two views": {
        "sogclr": lambda: sogclr.GlobalContrastiveLoss(SAMPLES, temperature=TAU),
        "sogclr, level": lambda: sogclr.GlobalContrastiveLoss(SAMPLES, temperature=TAU, level=True),
        "sogclr, SimCLR's": lambda: sogclr.NTXentLoss(TAU),
        "LibAUC": lambda: libauc("unimodal"),
        "lightly": lightly,
        "plain PyTorch, SimCLR's": plain_simclr,
        "pytorch-metric-learning": metric_learning,
    },
}
IN_BATCH = {
    *("sogclr, CLIP's", "open_clip", "Inf-CL", "plain PyTorch, CLIP's"),
    *("sogclr, SimCLR's", "lightly", "pytorch-metric-learning", "plain PyTorch, SimCLR's"),
}


def installed(family: str) -> Iterator[tuple[str, Loss]]:
    """Yield the losses of a family whose libraries are installed."""
    for name, make in FAMILIES[family].items():
        try:
            yield name, _on_device(make())
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def _on_device(loss: Loss) -> Loss:
    return loss.to(DEVICE) if isinstance(loss, torch.nn.Module) else loss


def batch(size: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Draw a batch.

    Returns:
        Two tensors `(size, width)` of features, in which positive pairs are similar, and the
        sample ids `(size,)` on the CPU, where a loader makes them.
    """
    generator = torch.Generator().manual_seed(size)
    a, b = torch.randn(2, size, width, generator=generator)
    index = torch.randperm(SAMPLES, generator=generator)[:size]
    b += a
    return a.to(DEVICE, dtype).requires_grad_(), b.to(DEVICE, dtype).requires_grad_(), index


def step(loss: Loss, a: Tensor, b: Tensor, index: Tensor) -> None:
    """Run forward and backward of one step."""
    a.grad = b.grad = None
    loss(a, b, index).backward()


def error(
    family: str,
    name: str,
    loss: Loss,
    size: int,
    width: int,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return the relative error of a first step's gradient, against the reference in float64.

    In a first step the table is empty, so u is the estimate of the batch itself. The gradient is
    scaled by the best factor first, since LibAUC's has another scale.
    """
    a, b, index = batch(size, width, dtype)
    gradient = torch.cat(torch.autograd.grad(loss(a, b, index), (a, b))).double().flatten()
    # The reference gets the features after rounding to `dtype`.
    a, b = (side.detach().double().requires_grad_() for side in (a, b))
    value = reference(family, a, b, name in IN_BATCH, name in ("sogclr", "sogclr, level"))
    exact = torch.cat(torch.autograd.grad(value, (a, b))).flatten()
    scaled = gradient * (gradient @ exact / gradient.square().sum())
    return float((scaled - exact).norm() / exact.norm())


def reference(
    family: str, a: Tensor, b: Tensor, positive_in_normalizer: bool, one_u_per_sample: bool
) -> Tensor:
    """Compute the in-batch loss from a dense matrix, in the dtype of the features."""
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    size = len(a)
    if family == "pairs":
        logits = [a @ b.T / TAU, b @ a.T / TAU]
        positive = torch.arange(size, device=a.device)[:, None]
    else:
        z = torch.cat([a, b])
        own = torch.eye(2 * size, dtype=torch.bool, device=a.device)
        logits = [(z @ z.T / TAU).masked_fill(own, -math.inf)]
        positive = torch.arange(2 * size, device=a.device).roll(size)[:, None]
    total = a.new_zeros(())
    for side in logits:
        kept = side if positive_in_normalizer else side.scatter(1, positive, -math.inf)
        log_g = kept.logsumexp(dim=1)
        if one_u_per_sample and family == "two views":
            views = log_g.detach().view(2, size)
            log_u = views.logsumexp(dim=0).repeat(2) - math.log(2)
            log_g = (log_g.detach() - log_u).exp() * log_g
        total = total + (log_g - side.gather(1, positive).squeeze(1)).mean()
    return total
